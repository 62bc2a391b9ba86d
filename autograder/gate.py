"""The gate: looks at a submitted file before anything of it runs, and repairs what the release can restore.

Stock nbgrader follows symlinks, loses the points of a deleted test cell without a word and stops the whole class
at a duplicated one. The gate refuses or repairs such files instead, one at a time, and says which and why.
"""

import copy
import errno
import json
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbgrader.utils import parse_utc

MAX_BYTES = 10 * 2**20
MAX_TIMESTAMP = 100  # bytes
CELL_TYPES = ("code", "markdown", "raw")
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class NotGradable(Exception):
    """A submission that cannot be graded; the message says why, in words for learner and instructor."""


@dataclass(frozen=True)
class Admitted:
    """A notebook fit for grading, and what had to be repaired to make it so."""

    notebook: nbformat.NotebookNode
    repairs: tuple[str, ...]


def read_submission(folder: Path, filename: str) -> bytes:
    """Read `folder/filename` without following a symlink in either.

    Raises:
        NotGradable: The notebook is missing, too large, or not a plain file in a plain folder.
    """
    if stat.S_ISLNK(folder.lstat().st_mode):
        raise NotGradable("the submission's folder is a symlink")
    try:
        # O_NONBLOCK: a named pipe in place of the notebook must not hold the class.
        descriptor = os.open(folder / filename, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        others = sorted(path.name for path in folder.glob("*.ipynb"))
        found = f" (found {', '.join(others[:3])})" if others else ""
        raise NotGradable(f"there is no {filename}{found}") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotGradable(f"{filename} is a symlink") from None
        raise NotGradable(f"{filename} could not be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotGradable(f"{filename} is not a plain file")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise NotGradable(
            f"{filename} is larger than {MAX_BYTES // 2**20} MiB; clear its outputs and hand in again"
        )
    return content


def read_timestamp(folder: Path) -> str:
    """The hand-in time that nbgrader's exchange leaves in `folder/timestamp.txt`; '' where there is none.

    Raises:
        NotGradable: The file holds something else. Without its time nobody can say whether a submission is late.
    """
    path = folder / "timestamp.txt"
    if path.is_symlink() or not path.is_file():
        return ""
    with open(path, "rb") as file:
        content = file.read(MAX_TIMESTAMP)
    try:
        text = content.decode().strip()
        if text:
            parse_utc(text)
    except (ValueError, OverflowError):
        raise NotGradable("timestamp.txt does not hold a time such as 2026-11-24 10:00:00 UTC") from None
    return text


def parse_notebook(content: bytes) -> nbformat.NotebookNode:
    """Parse a notebook and keep what grading needs: cells' types, sources, ids and nbgrader metadata.

    Raises:
        NotGradable: It is not JSON, or not a notebook of format 4.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise NotGradable("the notebook is not valid JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise NotGradable("the file is JSON but not a Jupyter notebook")
    if document.get("nbformat") != 4:
        raise NotGradable(f"notebook format {document.get('nbformat')!r}; format 4 is needed")
    notebook = nbformat.v4.new_notebook()
    metadata = document.get("metadata")
    notebook.metadata = nbformat.from_dict(metadata if isinstance(metadata, dict) else {})
    used = set()
    for position, cell in enumerate(document["cells"], start=1):
        clean = clean_cell(cell, position)
        if clean.id in used:
            clean.id = nbformat.v4.new_code_cell().id
        used.add(clean.id)
        notebook.cells.append(clean)
    return notebook


def clean_cell(cell, position: int) -> nbformat.NotebookNode:
    """A cell with nothing but its type, source, id and nbgrader metadata; outputs are made again by grading."""
    source = cell.get("source") if isinstance(cell, dict) else None
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str) or cell.get("cell_type") not in CELL_TYPES:
        raise NotGradable(f"cell {position} is not a notebook cell")
    # A lone surrogate is legal JSON but cannot be written as UTF-8.
    source = source.encode("utf-8", "replace").decode("utf-8")
    clean = getattr(nbformat.v4, f"new_{cell['cell_type']}_cell")(source)
    if isinstance(cell.get("id"), str) and CELL_ID.fullmatch(cell["id"]):
        clean.id = cell["id"]
    metadata = cell.get("metadata")
    managed = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    if isinstance(managed, dict) and isinstance(managed.get("grade_id"), str):
        clean.metadata["nbgrader"] = nbformat.from_dict(managed)
    return clean


def grade_id(cell) -> str | None:
    """The cell's nbgrader name, if nbgrader manages it."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def repair(notebook: nbformat.NotebookNode, release: nbformat.NotebookNode) -> Admitted:
    """Restore from the released notebook whatever nbgrader relies on; leave the learner's work as it is.

    Raises:
        NotGradable: None of the assignment's cells is in the notebook.
    """
    masters = {grade_id(cell): cell for cell in release.cells if grade_id(cell) is not None}
    notebook = copy.deepcopy(notebook)
    if not masters.keys() & {grade_id(cell) for cell in notebook.cells}:
        raise NotGradable("the notebook has none of this assignment's cells; is it another assignment's?")
    repairs = drop_extra_names(notebook, masters)
    for cell in notebook.cells:
        if grade_id(cell) is not None:
            repairs += restore_cell(cell, masters[grade_id(cell)])
    repairs += insert_missing(notebook, masters)
    repairs += reset_kernel(notebook, release)
    return Admitted(notebook, tuple(repairs))


def drop_extra_names(notebook, masters) -> list[str]:
    """Turn unknown nbgrader cells, and all but the last of a duplicated one, into ordinary cells."""
    repairs, seen = [], Counter()
    for cell in reversed(notebook.cells):
        name = grade_id(cell)
        if name is None:
            continue
        seen[name] += 1
        if name not in masters:
            repairs.append(f"unknown graded cell {name[:60]!r} made an ordinary cell")
        elif seen[name] == 2:
            repairs.append(f"duplicate of {name} made an ordinary cell")
        if name not in masters or seen[name] > 1:
            del cell.metadata["nbgrader"]
    return repairs


def restore_cell(cell, master) -> list[str]:
    """Give a managed cell its released metadata, type and, where it is locked, source."""
    name, ours, theirs = grade_id(master), master.metadata.nbgrader, cell.metadata.nbgrader
    repairs = []
    if theirs.get("points") != ours.get("points"):
        repairs.append(f"points of {name} restored")
    elif any(theirs.get(key) != ours.get(key) for key in ("grade", "solution", "locked", "task")):
        repairs.append(f"settings of {name} restored")
    if cell.cell_type != master.cell_type:
        repairs.append(f"type of {name} restored")
        cell.cell_type = master.cell_type
        for key, empty in (("outputs", []), ("execution_count", None)):
            cell.pop(key, None)
            if master.cell_type == "code":
                cell[key] = empty
    if ours.locked and cell.source != master.source:
        repairs.append(f"text of {name} restored")
        cell.source = master.source
    cell.metadata = copy.deepcopy(master.metadata)
    return repairs


def insert_missing(notebook, masters) -> list[str]:
    """Put each deleted cell back behind the managed cell that precedes it in the release."""
    repairs, previous = [], None
    for name, master in masters.items():
        positions = {grade_id(cell): index for index, cell in enumerate(notebook.cells)}
        if name not in positions:
            restored = copy.deepcopy(master)
            restored.id = nbformat.v4.new_code_cell().id
            if not master.metadata.nbgrader.locked and master.cell_type == "code":
                # The released stub would overwrite a solution that the learner wrote in another cell.
                restored.source = "# This cell was missing from the submission."
            notebook.cells.insert(positions[previous] + 1 if previous is not None else 0, restored)
            repairs.append(f"deleted cell {name} put back")
        previous = name
    return repairs


def reset_kernel(notebook, release) -> list[str]:
    """Use the release's notebook metadata; report it where the submission named another kernel."""
    theirs, ours = notebook.metadata.get("kernelspec"), release.metadata.kernelspec
    notebook.metadata = copy.deepcopy(release.metadata)
    if isinstance(theirs, dict) and theirs.get("name") == ours.name:
        return []
    return ["kernel reset to Python 3"]


def admit(content: bytes, release: nbformat.NotebookNode) -> Admitted:
    """Parse and repair a submission's bytes, as `parse_notebook` and `repair` say.

    Raises:
        NotGradable: It cannot be graded even after repair.
    """
    return repair(parse_notebook(content), release)
