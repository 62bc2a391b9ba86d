"""The bundled sample class: made-up submissions, each with another mistake or another kind of damage.

A student is a percent file `sample_class/<topic>/<student>.py`. Its first cell, in Markdown, says what is special;
its metadata may hold

- `start="solved"`: start from the solved notebook instead of the released one;
- `damage={...}`: what is done to the finished file: {"delete": [grade ids]}, {"duplicate": [grade ids]},
  {"points": {grade id: points}}, {"kernel": name}, {"truncate": characters}, or {"missing": true}.

Each further cell names with `replace="<grade id>"` the cell whose text it replaces, or with
`after="<grade id>"` the cell that it follows.
"""

import copy
import json
import re
from pathlib import Path

from autograder.course import PACKAGE, Course

SAMPLE_CLASS = PACKAGE / "sample_class"
SOLUTION_MARKS = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION[ \t]*\n?", re.MULTILINE)


def write_sample(course: Course, topic: str) -> dict[str, bool]:
    """Write the sample class into submitted/; student → whether the file changed.

    Raises:
        LookupError: There is no sample class for the topic, or a student names an unknown cell.
        FileNotFoundError: The assignment is not released.
    """
    files = sorted((SAMPLE_CLASS / topic).glob("*.py"))
    if not files:
        raise LookupError(f"there is no sample class for {topic}")
    for path in (course.source(topic), course.released(topic)):
        if not path.exists():
            raise FileNotFoundError(
                f"{topic} is not released in {course.root}; run: autograder release {topic}"
            )
    return {file.stem: write_student(course, topic, file) for file in files}


def write_student(course: Course, topic: str, file: Path) -> bool:
    """Write one student's submission; False where it is there already."""
    content = make_submission(course, topic, file)
    folder = course.submission(topic, file.stem)
    target = folder / f"{topic}.ipynb"
    if content is None:
        folder.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        return False
    if target.exists() and target.read_text(encoding="utf-8") == content:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(content, encoding="utf-8")
    return True


def make_submission(course: Course, topic: str, file: Path) -> str | None:
    """The text of one student's notebook file; None where the student hands in no notebook."""
    import jupytext
    import nbformat

    about, *changes = jupytext.read(file, fmt="py:percent").cells
    notebook = nbformat.read(course.released(topic), as_version=4)
    if about.metadata.get("start") == "solved":
        use_solutions(notebook, nbformat.read(course.source(topic), as_version=4))
    for number, change in enumerate(changes):
        anchor = change.metadata.get("replace") or change.metadata.get("after")
        position = position_of(notebook, anchor, file)
        if "replace" in change.metadata:
            notebook.cells[position].source = change.source
        else:
            added = nbformat.v4.new_code_cell(change.source, id=f"added-{number}")
            notebook.cells.insert(position + 1, added)
    return damaged(notebook, about.metadata.get("damage", {}), file)


def use_solutions(notebook, source) -> None:
    """Take the text of solution cells from the source notebook, without the marks around solutions."""
    solved = {cell.metadata.nbgrader.grade_id: cell for cell in source.cells if "nbgrader" in cell.metadata}
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = SOLUTION_MARKS.sub("", solved[cell.metadata.nbgrader.grade_id].source).rstrip()


def position_of(notebook, grade_id: str, file: Path) -> int:
    """The position of the cell with this nbgrader name."""
    for position, cell in enumerate(notebook.cells):
        if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id:
            return position
    raise LookupError(f"{file.name}: the assignment has no cell {grade_id!r}")


def damaged(notebook, damage: dict, file: Path) -> str | None:
    """The notebook as text after the declared damage."""
    if damage.get("missing"):
        return None
    for grade_id in damage.get("duplicate", ()):
        position = position_of(notebook, grade_id, file)
        twin = copy.deepcopy(notebook.cells[position])
        twin.id = f"{twin.id}-again"
        notebook.cells.insert(position + 1, twin)
    for grade_id in damage.get("delete", ()):
        del notebook.cells[position_of(notebook, grade_id, file)]
    for grade_id, points in damage.get("points", {}).items():
        notebook.cells[position_of(notebook, grade_id, file)].metadata.nbgrader["points"] = points
    if "kernel" in damage:
        notebook.metadata.kernelspec = {"display_name": "?", "language": "", "name": damage["kernel"]}
    text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return text[: damage["truncate"]] if "truncate" in damage else text
