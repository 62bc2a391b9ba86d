"""Release: what learners get, the same bytes every time, and nothing done twice."""

import json
import shutil

import nbformat
import pytest

from autograder.course import ConverterFailed, Course
from autograder.release import SOLUTIONS, ReleaseError, release, write_source
from autograder.sample import make_submission, write_sample

from .conftest import TOPIC, copy_course

EXERCISES = {"newton_step", "saddle_free_step", "bfgs_update", "lbfgs_direction", "newton_minimize"}


@pytest.fixture
def solutions(tmp_path):
    """A copy of the solutions that a test may edit."""
    return shutil.copytree(SOLUTIONS, tmp_path / "solutions")


def edit(solutions, old, new):
    path = solutions / f"{TOPIC}.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def names(notebook):
    return {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if "nbgrader" in cell.metadata}


def test_learners_get_tasks_and_no_solutions(released_course):
    notebook = nbformat.read(released_course.released(TOPIC), as_version=4)
    cells = names(notebook)
    for exercise in EXERCISES:
        assert "raise NotImplementedError()" in cells[exercise].source
        assert cells[f"check_{exercise}"].source == f'grader.check("{exercise}", {exercise})'
    text = released_course.released(TOPIC).read_text()
    assert "BEGIN SOLUTION" not in text
    assert "linalg.solve" not in text
    assert "Rubric" not in text
    assert "YOUR ANSWER HERE" in cells["written_large_network"].source


def test_source_has_the_solutions(released_course):
    text = released_course.source(TOPIC).read_text()
    assert "linalg.solve" in text and "Rubric" in text


def test_kit_stands_beside_the_notebooks(released_course):
    for notebook in (released_course.released(TOPIC), released_course.source(TOPIC)):
        beside = {path.relative_to(notebook.parent).as_posix() for path in notebook.parent.rglob("*")}
        assert {"grader.py", "grader_kit/client/check.py", f"grader_kit/drivers/{TOPIC}.py"} <= beside
    assert released_course.kit(TOPIC).with_suffix(".zip").is_file()


def test_same_bytes_every_time(released_course, tmp_path):
    again = Course(tmp_path / "again")
    assert release(again, TOPIC)
    for path in (Course.source, Course.released):
        assert path(again, TOPIC).read_bytes() == path(released_course, TOPIC).read_bytes()
    zips = [each.kit(TOPIC).with_suffix(".zip").read_bytes() for each in (again, released_course)]
    assert zips[0] == zips[1]


def test_cells_keep_their_ids(released_course):
    source, learners = (
        nbformat.read(path, as_version=4)
        for path in (released_course.source(TOPIC), released_course.released(TOPIC))
    )
    assert [cell.id for cell in source.cells] == [cell.id for cell in learners.cells]
    assert len({cell.id for cell in source.cells}) == len(source.cells)
    assert names(learners)["check_newton_step"].id == "check-newton-step"


def test_nothing_changed_nothing_done(course):
    before = {path: path.stat().st_mtime_ns for path in course.root.rglob("*") if path.is_file()}
    assert not release(course, TOPIC)
    assert {path: path.stat().st_mtime_ns for path in course.root.rglob("*") if path.is_file()} == before


def test_what_is_missing_is_made_again(course):
    course.released(TOPIC).unlink()
    assert release(course, TOPIC)
    assert course.released(TOPIC).exists()


def test_a_changed_solution_file_is_released_again(course, solutions):
    edit(solutions, "# Second-order methods", "# Methods of second order")
    assert release(course, TOPIC, solutions)
    assert "Methods of second order" in course.released(TOPIC).read_text()
    assert not release(course, TOPIC, solutions)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"check_newton_step", "locked": true, "points": 4',
            '"check_newton_step", "points": 5',
            "has 5 points",
        ),
        ('"grade_id": "check_bfgs_update"', '"grade_id": "check_bfgs"', "check_bfgs_update has None points"),
    ],
)
def test_points_must_agree(solutions, tmp_path, old, new, message):
    edit(solutions, old, new)
    with pytest.raises(ReleaseError, match=message):
        write_source(solutions / f"{TOPIC}.py", tmp_path / "source.ipynb", TOPIC)


def test_failed_release_leaves_no_stamp(course, solutions):
    edit(solutions, '"points": 6', '"points": 7')
    with pytest.raises(ReleaseError):
        release(course, TOPIC, solutions)
    assert not course.stamp(TOPIC).exists()
    assert release(course, TOPIC)


def test_errors_of_nbgrader_are_passed_on(course, solutions):
    edit(solutions, "### END SOLUTION", "")
    with pytest.raises(ConverterFailed, match=r"(?i)solution"):
        release(course, TOPIC, solutions)


def test_no_solution_file(course, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"second_order\.py"):
        release(course, TOPIC, tmp_path)


def test_a_course_elsewhere_gets_a_configuration_which_is_then_left_alone(course):
    own = course.root / "nbgrader_config.py"
    assert "load_subconfig" in own.read_text()
    assert (
        "autograder.preprocessors.ExecuteOutside"
        in course.nbgrader_config().Autograde.autograde_preprocessors
    )
    own.write_text(own.read_text() + "c.CourseDirectory.course_id = 'mine'\n")
    release(course, TOPIC, force=True)
    assert course.nbgrader_config().CourseDirectory.course_id == "mine"
    assert course.nbgrader_config().CourseDirectory.root == str(course.root)


def student(tmp_path, text):
    path = tmp_path / "student.py"
    path.write_text(text)
    return path


def test_sample_student_changes_the_cells_it_names(course, tmp_path):
    text = (
        '# %% [markdown]\n# About.\n\n# %% replace="newton_step"\nx = 1\n\n# %% after="newton_step"\ny = 2\n'
    )
    notebook = nbformat.reads(make_submission(course, TOPIC, student(tmp_path, text)), as_version=4)
    learners = nbformat.read(course.released(TOPIC), as_version=4)
    sources, released = [cell.source for cell in notebook.cells], [cell.source for cell in learners.cells]
    position = released.index(names(learners)["newton_step"].source)
    assert sources == [*released[:position], "x = 1", "y = 2", *released[position + 1 :]]


def test_sample_student_may_start_solved(course, tmp_path):
    text = make_submission(course, TOPIC, student(tmp_path, '# %% [markdown] start="solved"\n# About.\n'))
    assert "SOLUTION" not in text
    cells = names(nbformat.reads(text, as_version=4))
    assert "linalg.solve" in cells["newton_step"].source
    assert all("NotImplementedError" not in cells[exercise].source for exercise in EXERCISES)


def test_sample_student_names_an_unknown_cell(course, tmp_path):
    with pytest.raises(LookupError, match="no cell 'nowhere'"):
        make_submission(
            course, TOPIC, student(tmp_path, '# %% [markdown]\n# About.\n\n# %% replace="nowhere"\nx = 1\n')
        )


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        ({"delete": ["check_newton_step"]}, lambda text: "check_newton_step" not in text),
        (
            {"duplicate": ["check_newton_step"]},
            lambda text: text.count('"grade_id": "check_newton_step"') == 2,
        ),
        ({"points": {"check_newton_step": 400}}, lambda text: '"points": 400' in text),
        ({"kernel": "ir"}, lambda text: json.loads(text)["metadata"]["kernelspec"]["name"] == "ir"),
        ({"truncate": 100}, lambda text: len(text) == 100),
        ({"missing": True}, lambda text: text is None),
    ],
)
def test_declared_damage(course, tmp_path, damage, check):
    about = f"# %% [markdown] damage={json.dumps(damage)}\n# About.\n"
    assert check(make_submission(course, TOPIC, student(tmp_path, about)))


def test_sample_needs_a_release_and_a_class(course, tmp_path):
    with pytest.raises(FileNotFoundError, match="autograder release second_order"):
        write_sample(Course(tmp_path / "empty"), TOPIC)
    with pytest.raises(LookupError, match="no sample class for nothing"):
        write_sample(course, "nothing")


def test_release_of_a_copied_course_is_complete(released_course, tmp_path):
    assert not release(copy_course(released_course, tmp_path / "copy"), TOPIC)
