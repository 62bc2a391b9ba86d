"""The sample class, graded once: every grade, status and hint, and what nbgrader makes of them."""

import csv
import json
import os
import subprocess
import sys

import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory

from autograder.assignment import Assignment
from autograder.batch import grade_class
from autograder.course import convert, export
from autograder.records import FAILED, GRADED, NOT_GRADABLE, REPAIRED, load_records
from autograder.sample import SAMPLE_CLASS, write_sample

from .conftest import LIMITS, TOPIC, copy_course, notebook_of, submit

MAX = {"newton_step": 4, "saddle_free_step": 4, "bfgs_update": 4, "lbfgs_direction": 6, "newton_minimize": 6}
BLANK = dict.fromkeys(MAX, "still raises NotImplementedError")
LEAKY = {
    "newton_step": "def newton_step(*arguments):\n"
    "    print([f'{v:.9f}' for a in arguments[:3] for v in a.flatten().tolist()])\n    return arguments[0]",
    "bfgs_update": "import sys, warnings\ndef bfgs_update(*arguments):\n"
    "    text = str([f'{v:.9f}' for a in arguments for v in a.flatten().tolist()])\n"
    "    warnings.warn(text)\n    print(text, file=sys.stderr)\n    raise ValueError(text)",
}

# student: (status, words of the reason, exercise → words of the hint where it isn't right,
#           exercise → misconceptions named)
EXPECTED = {
    "perfect": (GRADED, "", {}, {}),
    "other-style": (GRADED, "", {}, {}),
    "blank": (GRADED, "", BLANK, {}),
    "wrong-sign": (GRADED, "", {"newton_step": "wrong way"}, {"newton_step": ["uphill step"]}),
    "damping-ignored": (
        GRADED,
        "",
        {"newton_step": "does not depend on the damping", "bfgs_update": ""},
        {"newton_step": ["damping ignored"], "bfgs_update": ["negative curvature accepted"]},
    ),
    "clamped-eigenvalues": (
        GRADED, "", {"saddle_free_step": ""}, {"saddle_free_step": ["negative eigenvalues set to zero"]},
    ),
    "oldest-gamma": (GRADED, "", {"lbfgs_direction": ""}, {"lbfgs_direction": ["scale from the oldest pair"]}),
    "frozen-hessian": (GRADED, "", {"newton_minimize": ""}, {"newton_minimize": ["Hessian of the start"]}),
    "mutates-inputs": (GRADED, "", {"newton_step": "changes its inputs in place"}, {}),
    "nan": (GRADED, "", {"saddle_free_step": "NaN"}, {}),
    "syntax-error": (GRADED, "", {"bfgs_update": "does not define this name"}, {}),
    "endless-loop": (GRADED, "", {"newton_minimize": "time limit"}, {}),
    "unstoppable-loop": (GRADED, "", {"lbfgs_direction": "time limit"}, {}),
    "kills-process": (GRADED, "", {"newton_step": "exit, crash"}, {}),
    "fake-grade": (GRADED, "", dict.fromkeys(MAX, ""), {}),
    "deleted-test-cell": (REPAIRED, "deleted cell check_lbfgs_direction put back", {}, {}),
    "duplicated-test-cell": (REPAIRED, "duplicate of check_bfgs_update", {}, {}),
    "edited-points": (REPAIRED, "points of check_newton_step restored", BLANK, {}),
    "wrong-kernel": (REPAIRED, "kernel reset", {}, {}),
    "broken-json": (NOT_GRADABLE, "not valid JSON", {}, {}),
    "missing-notebook": (NOT_GRADABLE, "there is no second_order.ipynb", {}, {}),
    "leaky": (GRADED, "", {**BLANK, "newton_step": "", "bfgs_update": "raises an exception"}, {}),
}  # fmt: skip
PROBLEMS = {
    "syntax-error": ("bfgs_update", "not defined"),
    "endless-loop": ("newton_minimize", "time limit"),
    "unstoppable-loop": ("lbfgs_direction", "time limit"),
    "kills-process": ("newton_step", "the process ended"),
}
WITH_GRADE = [student for student, (status, *_) in EXPECTED.items() if status in (GRADED, REPAIRED)]


@pytest.fixture(scope="module")
def assignment(released_course, tmp_path_factory):
    """The graded class, with feedback."""
    course = copy_course(released_course, tmp_path_factory.mktemp("sample") / "course")
    write_sample(course, TOPIC)
    submit(course, "leaky", notebook_of(course, LEAKY))
    assignment = Assignment(course, TOPIC, LIMITS)
    grade_class(assignment)
    convert(course, "GenerateFeedback", TOPIC)
    return assignment


@pytest.fixture(scope="module")
def course(assignment):
    return assignment.course


@pytest.fixture(scope="module")
def records(course):
    return load_records(course, TOPIC)


@pytest.fixture(scope="module")
def book(course):
    with Gradebook(f"sqlite:///{course.root / 'gradebook.db'}", "steepest") as gradebook:
        yield gradebook


def test_every_student_of_the_class_is_expected_here(records):
    assert set(records) == set(EXPECTED)
    assert {path.stem for path in (SAMPLE_CLASS / TOPIC).glob("*.py")} == set(EXPECTED) - {"leaky"}


@pytest.mark.parametrize("student", EXPECTED)
def test_record(records, student):
    status, reason, hints, misconceptions = EXPECTED[student]
    record = records[student]
    assert record.status == status
    assert reason in record.reason
    if status == NOT_GRADABLE:
        assert record.score is None and record.exercises == {}
        return
    assert {name: each["max"] for name, each in record.exercises.items()} == MAX
    for name, each in record.exercises.items():
        assert each["score"] == round(MAX[name] * sum(each["passed"]) / len(each["passed"]), 2)
        assert (each["score"] < MAX[name]) == (name in hints), name
        assert hints.get(name, "") in each["hint"]
        assert bool(each["hint"]) == (name in hints) or student in ("fake-grade", "leaky")
        assert each["misconceptions"] == misconceptions.get(name, []), name
        problem = PROBLEMS.get(student, ("", ""))
        assert each["problem"] == (problem[1] if name == problem[0] else "")
    assert record.score == round(sum(each["score"] for each in record.exercises.values()), 2)
    assert record.max_score == 24


@pytest.mark.parametrize("student", ["blank", "fake-grade", "edited-points"])
def test_nothing_solved_is_nothing_scored(records, student):
    assert records[student].score == 0


@pytest.mark.parametrize("student", WITH_GRADE)
def test_gradebook_has_the_records_scores_and_hints(records, book, student):
    for name, each in records[student].exercises.items():
        grade = book.find_grade(f"check_{name}", TOPIC, TOPIC, student)
        assert grade.auto_score == each["score"]
        assert grade.max_score == MAX[name]
        assert not grade.needs_manual_grade
        comment = book.find_comment(name, TOPIC, TOPIC, student).comment
        assert f"Hidden checks: {sum(each['passed'])} of {len(each['passed'])} passed" in comment
        assert each["hint"] in comment
    assert book.find_submission(TOPIC, student).score == pytest.approx(records[student].score)


def test_written_answer_waits_for_a_person(book):
    assert book.find_grade("written_large_network", TOPIC, TOPIC, "perfect").needs_manual_grade
    assert book.find_submission(TOPIC, "perfect").needs_manual_grade


@pytest.mark.parametrize("student", WITH_GRADE)
def test_feedback_shows_what_the_hidden_checks_said(course, records, student):
    html = (course.root / "feedback" / student / TOPIC / f"{TOPIC}.html").read_text()
    text = html.replace("&#39;", "'").replace("&quot;", '"')
    for each in records[student].exercises.values():
        assert f"Hidden checks: {sum(each['passed'])} of {len(each['passed'])} passed" in text
        assert each["hint"] in text
    assert "Traceback (most recent call last)" not in html or student in (
        "syntax-error",
        "endless-loop",
        "kills-process",
        "unstoppable-loop",
        "fake-grade",
    )


def test_refused_submissions_have_no_feedback_and_no_grade(course, book):
    for student in ("broken-json", "missing-notebook"):
        assert not (course.root / "feedback" / student).exists()
        assert not course.autograded(TOPIC, student).exists()
        assert book.find_student(student).id == student
    assert {each.student_id for each in book.assignment_submissions(TOPIC)} == set(WITH_GRADE)


def numbers(cases):
    """The numbers in cases with nine decimals, as LEAKY prints them, but for those that anything may print."""
    found = set()
    for case in cases:
        for observations in (case.inputs, case.expected, *case.mistaken.values()):
            for value in observations.values():
                if hasattr(value, "flatten"):
                    found |= {f"{number:.9f}" for number in value.flatten().tolist()}
    return {number for number in found if "." in number and not number.endswith("000000")}


def test_hidden_inputs_and_expected_values_are_shown_nowhere(assignment):
    course = assignment.course
    hidden = set().union(*(numbers(cases) for cases in assignment.cases.values()))
    public = numbers(assignment.exercises["newton_step"].cases(0, "public")) - hidden
    places = [course.root / "autograded", course.root / "feedback", course.root / "records"]
    files = [
        path for place in places for path in place.rglob("*") if path.suffix in (".ipynb", ".html", ".json")
    ]
    text = "\n".join(path.read_text(errors="replace") for path in files if "grader_kit" not in path.parts)
    assert len(hidden) > 100
    # The submission did print what it was given: on the public cases that shows, and is meant to.
    assert sum(number in text for number in public) > 10
    assert [number for number in hidden if number in text] == []
    comments = b"".join(path.read_bytes() for path in [course.root / "gradebook.db"])
    assert [number for number in hidden if number.encode() in comments] == []


def test_autograded_notebooks_show_outputs_of_cells(course):
    notebook = nbformat.read(course.autograded(TOPIC, "endless-loop"), as_version=4)
    cells = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in notebook.cells}
    assert cells["check_newton_minimize"].outputs[0].text.startswith("Hidden checks: 0 of")
    assert [
        output.ename for output in cells["check_newton_minimize"].outputs if output.output_type == "error"
    ] == ["TimeLimit"]
    assert "All" in cells["check_newton_step"].outputs[1].text
    syntax = nbformat.read(course.autograded(TOPIC, "syntax-error"), as_version=4)
    errors = [
        output.ename
        for cell in syntax.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert errors == ["SyntaxError", "NameError"]


def test_submitted_files_stay_as_they_were_handed_in(course, tmp_path):
    before = {path: path.read_bytes() for path in (course.root / "submitted").rglob("*.ipynb")}
    assert not any(write_sample(course, TOPIC).values())
    assert {path: path.read_bytes() for path in (course.root / "submitted").rglob("*.ipynb")} == before


def test_nothing_of_an_unchanged_class_is_graded_again(assignment, monkeypatch):
    monkeypatch.setattr(Assignment, "grade", lambda *arguments: pytest.fail("graded again"))
    seen = []
    grade_class(assignment, report=lambda record, unchanged: seen.append(unchanged))
    assert seen == [True] * len(EXPECTED)


def read_csv(path):
    with path.open(newline="") as file:
        return {row["student_id"]: row for row in csv.DictReader(file)}


def test_export_has_scores_and_no_zero_for_want_of_a_grade(course, records, tmp_path):
    export(course, TOPIC, tmp_path / "grades.csv")
    rows = read_csv(tmp_path / "grades.csv")
    assert set(rows) == set(EXPECTED)
    for student, row in rows.items():
        assert row["status"] == EXPECTED[student][0]
        assert row["max_score"] == "28.0"
        if student in WITH_GRADE:
            assert float(row["score"]) == pytest.approx(records[student].score)
        else:
            assert row["score"] == row["raw_score"] == ""
            assert EXPECTED[student][1] in row["reason"]


def test_export_blanks_the_scores_of_failed_gradings(course, assignment, tmp_path, monkeypatch):
    other = copy_course(course, tmp_path / "other")
    path = other.records(TOPIC) / "perfect.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "status": FAILED, "score": None, "exercises": {}})
    )
    export(other, TOPIC, tmp_path / "grades.csv")
    assert read_csv(tmp_path / "grades.csv")["perfect"]["score"] == ""


def test_formgrader_sees_the_scores(course, records):
    config = course.nbgrader_config()
    api = NbGraderAPI(CourseDirectory(config=config), config=config)
    submissions = {each["student"]: each for each in api.get_submissions(TOPIC)}
    for student in WITH_GRADE:
        assert submissions[student]["score"] == pytest.approx(records[student].score)
        assert submissions[student]["autograded"]
    assert submissions["perfect"]["needs_manual_grade"]
    assert not submissions["broken-json"]["autograded"]
    notebooks = api.get_notebook_submissions(TOPIC, TOPIC)
    assert {each["student"] for each in notebooks} == set(WITH_GRADE)


def nbgrader(course, *arguments, cwd=None):
    environment = {**os.environ, "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=cwd or course.root, env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


def test_nbgrader_started_in_the_course_root_grades_alike(course, records, tmp_path):
    other = copy_course(course, tmp_path / "other")
    for path in ("autograded", "feedback"):
        assert (other.root / path / "wrong-sign").exists()
    with Gradebook(f"sqlite:///{other.root / 'gradebook.db'}", "steepest") as gradebook:
        gradebook.remove_submission(TOPIC, "edited-points")
    nbgrader(other, "autograde", TOPIC, "--student", "edited-points", "--force")
    nbgrader(other, "generate_feedback", TOPIC, "--student", "edited-points", "--force")
    nbgrader(other, "export", "--to", "grades.csv")
    row = read_csv(other.root / "grades.csv")["edited-points"]
    assert (float(row["score"]), row["max_score"]) == (0.0, "28.0")
    html = (other.root / "feedback" / "edited-points" / TOPIC / f"{TOPIC}.html").read_text()
    assert "Hidden checks: 0 of" in html


STOCK = "from traitlets.config import get_config\n"


def test_stock_nbgrader_sees_a_failing_check(released_course, course, tmp_path):
    """With nbgrader's own configuration and a real kernel: validate, and autograde."""
    stock = copy_course(released_course, tmp_path / "stock")
    (stock.root / "nbgrader_config.py").write_text("c.CourseDirectory.course_id = 'steepest'\n")
    notebook = nbformat.read(course.submission(TOPIC, "wrong-sign") / f"{TOPIC}.ipynb", as_version=4)
    submit(stock, "wrong-sign", notebook)
    nbformat.write(notebook, stock.released(TOPIC).parent / "mine.ipynb")
    said = nbgrader(stock, "validate", "mine.ipynb", cwd=stock.released(TOPIC).parent).stdout
    assert "VALIDATION FAILED ON 1 CELL" in said
    assert "CheckFailed" in said
    assert "Traceback" not in said
    convert(stock, "Autograde", TOPIC)
    with Gradebook(f"sqlite:///{stock.root / 'gradebook.db'}", "steepest") as gradebook:
        scores = {
            name: gradebook.find_grade(f"check_{name}", TOPIC, TOPIC, "wrong-sign").auto_score for name in MAX
        }
    assert scores == {**MAX, "newton_step": 0}
