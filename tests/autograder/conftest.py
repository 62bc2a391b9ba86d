"""A released course to grade in, made once per session, and submissions to hand in there."""

import copy
import shutil

import nbformat
import pytest

from autograder.child import Limits
from autograder.course import Course
from autograder.release import release

TOPIC = "second_order"
# Generous enough for a busy machine, and what an endless loop in a test costs.
LIMITS = Limits(cell=6.0, total=120.0)


@pytest.fixture(scope="session")
def released_course(tmp_path_factory):
    """A course root with the topic released. Read only: tests that write use `course`."""
    course = Course(tmp_path_factory.mktemp("released"))
    release(course, TOPIC)
    return course


@pytest.fixture
def course(released_course, tmp_path):
    """A copy of the released course for one test."""
    return copy_course(released_course, tmp_path / "course")


def copy_course(released_course, root):
    shutil.copytree(released_course.root, root)
    return Course(root)


def notebook_of(course, changes=None):
    """The released notebook with the text of some cells changed: grade id → source."""
    notebook = copy.deepcopy(nbformat.read(course.released(TOPIC), as_version=4))
    changes = dict(changes or {})
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name in changes:
            cell.source = changes.pop(name)
    assert not changes, f"no such cells: {sorted(changes)}"
    return notebook


def submit(course, student, notebook):
    """Hand in a notebook (a NotebookNode, or the file's bytes)."""
    folder = course.submission(TOPIC, student)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{TOPIC}.ipynb"
    if isinstance(notebook, bytes):
        path.write_bytes(notebook)
    else:
        nbformat.write(notebook, path)
    return path
