"""From solution file to released assignment: source notebook, learner's notebook, kit.

Each step is a function of the one before it. What was made is stamped with a hash of everything that it was made
from, so that a release with nothing changed does nothing.
"""

import hashlib
import importlib.util
import shutil
from pathlib import Path

from autograder.course import CONFIGURATION, PACKAGE, Course, convert

SOLUTIONS = PACKAGE.parent / "solutions"
OWN_CONFIGURATION = """\
# nbgrader's configuration for this course root: that of the autograder, which may be added to below.
load_subconfig({name!r}, path={folder!r})
"""


class ReleaseError(Exception):
    """The solution file and the exercises do not fit together."""


def release(course: Course, topic: str, solutions: Path = SOLUTIONS, force: bool = False) -> bool:
    """Make source/, release/ and kits/ of a topic; False if nothing it depends on has changed.

    Args:
        course: The course root; created where it doesn't exist.
        topic: The topic.
        solutions: The folder of solution files.
        force: Make it even so.

    Raises:
        FileNotFoundError: There is no solution file for the topic.
        ReleaseError: A check's points differ from its exercise's, or a check is missing.
        autograder.course.ConverterFailed: nbgrader refused, e.g. because cells were added after hand-ins.
    """
    solution = solutions / f"{topic}.py"
    if not solution.exists():
        raise FileNotFoundError(f"there is no {solution}")
    stamp = course.stamp(topic)
    fingerprint = f"{hash_exercises(topic)}\n{hashlib.sha256(solution.read_bytes()).hexdigest()}\n"
    made = [
        stamp,
        course.source(topic),
        course.released(topic),
        course.kit(topic),
        course.root / "gradebook.db",
    ]
    if not force and all(path.exists() for path in made) and stamp.read_text() == fingerprint:
        return False
    stamp.unlink(missing_ok=True)
    configure(course)
    write_source(solution, course.source(topic), topic)
    convert(course, "GenerateAssignment", topic)
    write_kit(course, topic)
    stamp.write_text(fingerprint)
    return True


def hash_exercises(topic: str) -> str:
    """Hash of all files that a topic's kit and hidden cases are made from, the reference included."""
    # Found without importing it: a release with nothing to do must not wait for torch.
    steepest = Path(importlib.util.find_spec("steepest").origin).parent
    files = [PACKAGE / name for name in ("release.py", "kit.py", "exercise.py")]
    for folder in (PACKAGE / "client", PACKAGE / "drivers", PACKAGE / "exercises", steepest / topic):
        files += sorted(folder.rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def configure(course: Course) -> None:
    """Give a course root elsewhere its own nbgrader_config.py, so that stock `nbgrader` started there works."""
    course.root.mkdir(parents=True, exist_ok=True)
    (course.root / "kits").mkdir(exist_ok=True)
    own = course.root / CONFIGURATION
    if not own.exists():
        own.write_text(OWN_CONFIGURATION.format(name=CONFIGURATION, folder=str(PACKAGE)))


def write_source(solution: Path, destination: Path, topic: str) -> None:
    """Convert a percent notebook to the nbgrader source notebook, the same bytes every time.

    Raises:
        ReleaseError: A check cell and its exercise disagree.
    """
    import jupytext
    import nbformat

    notebook = jupytext.read(solution, fmt="py:percent")
    check_points(notebook, topic)
    used = set()
    for cell in notebook.cells:
        cell.id = stable_id(cell, used)
        for hint in [key for key in cell.metadata if key.startswith("lines_to_")]:
            del cell.metadata[hint]
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    destination.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, destination)


def stable_id(cell, used: set) -> str:
    """A cell id that stays the same while the cell does: its nbgrader name, else a hash of its text."""
    name = cell.metadata.get("nbgrader", {}).get("grade_id")
    name = name.replace("_", "-")[:60] if name else hashlib.sha256(cell.source.encode()).hexdigest()[:12]
    unique, number = name, 1
    while unique in used:
        number += 1
        unique = f"{name}-{number}"
    used.add(unique)
    return unique


def check_points(notebook, topic: str) -> None:
    """Compare the check cells with the exercises; raises ReleaseError where they disagree."""
    from autograder.exercises import load

    managed = [cell.metadata.get("nbgrader", {}) for cell in notebook.cells]
    points = {each.get("grade_id"): each.get("points") for each in managed}
    for exercise in load(topic):
        if points.get(f"check_{exercise.name}") != exercise.points:
            raise ReleaseError(
                f"check_{exercise.name} has {points.get(f'check_{exercise.name}')} points in the solution file, "
                f"its exercise has {exercise.points}"
            )


def write_kit(course: Course, topic: str) -> None:
    """Build the kit and put what it holds beside the notebooks."""
    from autograder.kit import build_kit

    shutil.rmtree(course.kit(topic), ignore_errors=True)
    build_kit(topic, course.released(topic), course.root / "kits")
    # In source/ too: from there nbgrader takes the trusted copies that stand beside an autograded notebook.
    for notebook in (course.released(topic), course.source(topic)):
        shutil.rmtree(notebook.parent / "grader_kit", ignore_errors=True)
        shutil.copytree(course.kit(topic) / "grader_kit", notebook.parent / "grader_kit")
        shutil.copy(course.kit(topic) / "grader.py", notebook.parent)
