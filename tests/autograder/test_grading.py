"""Grading: what can and cannot change a score, what is done again, and what happens when grading itself fails."""

import dataclasses
import json
import stat
from typing import ClassVar

import pytest
from nbgrader.api import Gradebook, MissingEntry

from autograder import assignment as assignment_module
from autograder import batch, grading
from autograder.assignment import Assignment, NotReleased, Outcome
from autograder.batch import grade_class
from autograder.child import CellRun, ChildEnded, InfrastructureFailure
from autograder.course import ConverterFailed, assignment_secret, convert, hidden_seed
from autograder.records import FAILED, GRADED, NOT_GRADABLE, load_records
from autograder.release import release
from autograder.verdicts import Verdict, reach_verdict

from .conftest import LIMITS, TOPIC, copy_course, notebook_of, submit

RIGHT_STEP = """
def newton_step(point, gradient, hessian, damping):
    eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype)
    return point - torch.linalg.solve(hessian + damping * eye, gradient[..., None])[..., 0]
"""


@pytest.fixture(scope="module")
def assignment(released_course, tmp_path_factory):
    """The assignment, with real children. Its course is shared: nothing is handed in there."""
    return Assignment(
        copy_course(released_course, tmp_path_factory.mktemp("graded") / "course"), TOPIC, LIMITS
    )


# What a submission can do to its own process does not reach the score.

CHEATS = {
    "patches comparisons": "torch.allclose = torch.equal = torch.Tensor.__eq__ = lambda *a, **k: True\n"
    "def newton_step(point, *rest):\n    return point",
    "replaces the grader": "import sys\ngrader.check = lambda *a: 100.0\nsys.modules['grader'] = grader\n"
    "def newton_step(point, *rest):\n    return point",
    "replaces the observer": "import grader_kit.client.observe as o, __main__\n"
    "o.observe.__code__ = (lambda driver, solution, inputs: {'raised': None, 'value': inputs['point']}).__code__\n"
    "def newton_step(point, *rest):\n    return point",
    "remembers the public cases": "import pathlib\nfrom grader_kit.client.cases import decode_cases\n"
    "folder = pathlib.Path(grader.__file__).parent / 'grader_kit' / 'cases' / 'second_order'\n"
    "known = decode_cases((folder / 'newton_step.cases').read_bytes())\n"
    "def newton_step(point, gradient, hessian, damping):\n"
    "    for case in known:\n"
    "        if case.inputs['point'].shape == point.shape and bool((case.inputs['point'] == point).all()):\n"
    "            return case.expected['value'].clone()\n"
    "    return point",
}


@pytest.mark.parametrize("source", CHEATS.values(), ids=CHEATS.keys())
def test_cheating_scores_nothing(assignment, source):
    outcome = assignment.grade(notebook_of(assignment.course, {"newton_step": source}))
    assert outcome.verdicts["newton_step"].score == 0
    assert not any(outcome.verdicts["newton_step"].passed)


def test_right_solution_scores_whatever_it_prints(assignment):
    noisy = (
        RIGHT_STEP
        + "import sys\nprint('0 of 4 points', file=sys.stderr)\nprint('Hidden checks: 0 of 5 passed')"
    )
    outcome = assignment.grade(notebook_of(assignment.course, {"newton_step": noisy}))
    assert outcome.verdicts["newton_step"].score == 4
    assert outcome.verdicts["newton_step"].hint == ""


def test_submissions_of_a_round_get_the_same_hidden_cases_and_other_rounds_others(assignment):
    course = assignment.course

    def inputs(case_set):
        return [case.inputs["gradient"].tolist() for case in case_set["lbfgs_direction"]]

    assert inputs(Assignment(course, TOPIC).cases) == inputs(assignment.cases)
    assert inputs(Assignment(course, TOPIC, grading_round=2).cases) != inputs(assignment.cases)


def test_other_secret_draws_other_cases(assignment, released_course, tmp_path):
    other = Assignment(copy_course(released_course, tmp_path / "other"), TOPIC)
    first, second = (each.cases["newton_step"][0].inputs["point"].tolist() for each in (other, assignment))
    assert first != second


def test_secret_is_created_once_and_private(course):
    secret = assignment_secret(course, TOPIC)
    assert len(secret) == 32
    assert assignment_secret(course, TOPIC) == secret
    path = course.root / f".secret_{TOPIC}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert assignment_secret(course, "another") != secret


def test_seed_depends_on_everything():
    base = (b"secret", "topic", 1, "exercise", "version")
    others = [
        (b"other", *base[1:]),
        (b"secret", "t", *base[2:]),
        (*base[:2], 2, *base[3:]),
        (*base[:3], "e", "version"),
        (*base[:4], "v"),
    ]
    assert len({hidden_seed(*each) for each in [base, *others]}) == 6
    assert hidden_seed(*base) == hidden_seed(*base)


def test_unreleased_and_outdated_assignments_are_refused(course, tmp_path):
    with pytest.raises(NotReleased, match="autograder release second_order"):
        Assignment(type(course)(tmp_path / "nowhere"), TOPIC)
    course.stamp(TOPIC).write_text("other exercises\n")
    with pytest.raises(NotReleased, match="have changed"):
        Assignment(course, TOPIC)


# Restarts, with a child that follows a script.


@dataclasses.dataclass
class Scripted:
    """Stands in for Child: cells and exercises named in `deadly` end it."""

    kit: object
    topic: str
    limits: object
    deadline: float
    deadly: ClassVar = frozenset()
    ran: ClassVar = []

    def __enter__(self):
        self.alive = True
        return self

    def __exit__(self, *exception):
        self.alive = False

    def run_cell(self, source):
        assert self.alive
        Scripted.ran.append(source)
        if source in self.deadly:
            self.alive = False
            raise ChildEnded("the process ended")
        return CellRun([])

    def observe(self, exercise, inputs):
        assert self.alive
        Scripted.ran.append(exercise)
        if exercise in self.deadly:
            self.alive = False
            raise ChildEnded("time limit")
        return ("missing", {}) if exercise == "absent" else ("observed", {"value": 1.0})


@dataclasses.dataclass
class Question:
    inputs: dict


def run_scripted(monkeypatch, cells, exercises, deadly):
    monkeypatch.setattr(Scripted, "deadly", frozenset(deadly))
    monkeypatch.setattr(Scripted, "ran", [])
    monkeypatch.setattr(grading, "Child", Scripted)
    cases = {name: [Question({})] * 2 for name in exercises}
    return grading.execute(dict(enumerate(cells)), cases, None, TOPIC, LIMITS)


def test_a_deadly_cell_is_left_out_and_the_rest_goes_on(monkeypatch):
    result = run_scripted(monkeypatch, ["a", "b", "c"], ["x", "absent"], {"b"})
    assert Scripted.ran == ["a", "b", "a", "c", "x", "x", "absent"]
    assert [result.cells[i].stopped for i in range(3)] == ["", "the process ended", ""]
    assert result.problems == {"absent": "not defined"}
    assert len(result.observations["x"]) == 2


def test_a_deadly_exercise_costs_itself_only(monkeypatch):
    result = run_scripted(monkeypatch, ["a"], ["x", "y", "z"], {"y"})
    assert Scripted.ran == ["a", "x", "x", "y", "a", "z", "z"]
    assert result.problems == {"y": "time limit"}
    assert {name: len(seen) for name, seen in result.observations.items()} == {"x": 2, "y": 0, "z": 2}


def test_restarts_have_an_end(monkeypatch):
    result = run_scripted(monkeypatch, list("abcdefgh"), ["x"], set("abcdefg"))
    assert result.problems == {"x": "it kept killing its process"}
    assert result.cells[7].stopped == "it kept killing its process"
    assert Scripted.ran == list("abcd")


def test_start_is_tried_twice(monkeypatch):
    tries = []

    def failing(*arguments):
        tries.append(arguments)
        raise InfrastructureFailure("no room")

    monkeypatch.setattr(grading, "Child", failing)
    with pytest.raises(InfrastructureFailure):
        grading.execute({0: "a"}, {}, None, TOPIC, LIMITS)
    assert len(tries) == 2


# Verdicts.


def test_cases_that_were_not_run_count_as_failed(assignment):
    exercise, cases = assignment.exercises["newton_step"], assignment.cases["newton_step"]
    verdict = reach_verdict(exercise, cases, [cases[0].expected], "time limit")
    count = len(cases)
    assert verdict.passed == (True, *[False] * (count - 1))
    assert verdict.score == round(4 / count, 2)
    assert verdict.misconceptions == ()
    assert verdict.text.startswith(
        f"Hidden checks: 1 of {count} passed, {verdict.score:g} of 4 points. Stopped: time limit."
    )


@pytest.mark.parametrize(
    ("observations", "words"),
    [
        ({"raised": "NotImplementedError"}, "still raises NotImplementedError"),
        ({"raised": "ValueError", "message": "0.123456789"}, "raises an exception"),
        ({"raised": None, "type": "None"}, "not of the type"),
    ],
)
def test_general_hints_hold_nothing_that_the_submission_wrote(assignment, observations, words):
    exercise, cases = assignment.exercises["newton_step"], assignment.cases["newton_step"]
    verdict = reach_verdict(exercise, cases, [observations] * len(cases), "")
    assert words in verdict.hint
    assert "0.123" not in verdict.text
    assert verdict.score == 0


def test_failing_judge_is_our_failure(assignment):
    class Broken:
        name = "newton_step"

        def diagnose(self, cases, observations):
            raise KeyError("value")

    with pytest.raises(InfrastructureFailure, match="judging newton_step failed"):
        reach_verdict(Broken(), [], [], "")


# A class, with outcomes made up so that no process is needed.


def made_up_outcome(assignment, notebook, share=1.0):
    cases = assignment.cases
    verdicts = {
        name: Verdict(
            exercise.points,
            tuple(i < share * len(cases[name]) for i in range(len(cases[name]))),
            hint="Mind it.",
        )
        for name, exercise in assignment.exercises.items()
    }
    cells = {i: CellRun([]) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"}
    return Outcome(tuple(cell.source for cell in notebook.cells), cells, verdicts, {"run": 0.0, "judge": 0.0})


@pytest.fixture
def graded(monkeypatch):
    """The sources of newton_step that were graded, in order; grading itself is made up."""
    seen = []

    def grade(self, notebook):
        source = next(
            cell.source
            for cell in notebook.cells
            if cell.metadata.get("nbgrader", {}).get("grade_id") == "newton_step"
        )
        seen.append(source)
        if "BREAK" in source:
            raise InfrastructureFailure("the machine is on fire")
        return made_up_outcome(self, notebook)

    monkeypatch.setattr(Assignment, "grade", grade)
    return seen


def gradebook(course):
    return Gradebook(f"sqlite:///{course.root / 'gradebook.db'}", "steepest")


def test_only_what_changed_is_graded_again(course, graded):
    submit(course, "ada", notebook_of(course))
    submit(course, "bob", notebook_of(course, {"newton_step": "B = 1"}))
    first = grade_class(Assignment(course, TOPIC))
    assert len(graded) == 2 and "B = 1" in graded
    files = {path.name: path.read_bytes() for path in course.records(TOPIC).iterdir()}
    assert grade_class(Assignment(course, TOPIC)) == first
    assert {path.name: path.read_bytes() for path in course.records(TOPIC).iterdir()} == files
    assert len(graded) == 2
    submit(course, "bob", notebook_of(course, {"newton_step": "B = 2"}))
    grade_class(Assignment(course, TOPIC))
    assert graded[2:] == ["B = 2"]
    grade_class(Assignment(course, TOPIC), students=["ada"], force=True)
    assert len(graded) == 4
    grade_class(Assignment(course, TOPIC, grading_round=2))
    assert len(graded) == 6


def test_a_corrected_hand_in_time_is_entered(course, graded):
    stamp = submit(course, "ada", notebook_of(course)).with_name("timestamp.txt")
    times = []
    for text in ("2026-11-20 10:00:00 UTC", "2026-11-24 10:00:00 UTC"):
        stamp.write_text(text)
        grade_class(Assignment(course, TOPIC))
        with gradebook(course) as book:
            times.append(book.find_submission(TOPIC, "ada").timestamp)
    assert [time.day for time in times] == [20, 24]


@pytest.mark.parametrize("content", [b"yesterday at noon", b"\xff\xfe\x00", b"2026-11-24 " * 100])
def test_unreadable_hand_in_time_is_refused_until_it_is_mended(course, graded, content):
    stamp = submit(course, "ada", notebook_of(course)).with_name("timestamp.txt")
    stamp.write_bytes(content)
    record = grade_class(Assignment(course, TOPIC))["ada"]
    assert (record.status, record.score) == (NOT_GRADABLE, None)
    assert "timestamp.txt" in record.reason
    stamp.unlink()
    assert grade_class(Assignment(course, TOPIC))["ada"].status == GRADED


def test_a_new_gradebook_is_filled_again(course, graded):
    submit(course, "ada", notebook_of(course))
    grade_class(Assignment(course, TOPIC))
    (course.root / "gradebook.db").unlink()
    release(course, TOPIC)
    grade_class(Assignment(course, TOPIC))
    with gradebook(course) as book:
        assert book.find_submission(TOPIC, "ada").score == 24


def test_changed_exercise_is_graded_again(course, graded, monkeypatch):
    submit(course, "ada", notebook_of(course))
    grade_class(Assignment(course, TOPIC))
    changed = tuple(
        dataclasses.replace(each, minutes=each.minutes + 1) for each in assignment_module.load(TOPIC)
    )
    monkeypatch.setattr(assignment_module, "load", lambda topic: changed)
    grade_class(Assignment(course, TOPIC))
    assert len(graded) == 2


def test_run_killed_half_way_is_made_up_for(course, graded, monkeypatch):
    submit(course, "ada", notebook_of(course))
    grade_class(Assignment(course, TOPIC))

    def killed(course, converter, topic, student, settings):
        course.autograded(topic, student).write_text("half")
        raise KeyboardInterrupt

    course.autograded(TOPIC, "ada").chmod(0o644)
    with monkeypatch.context() as patched:
        patched.setattr(batch, "convert", killed)
        with pytest.raises(KeyboardInterrupt):
            grade_class(Assignment(course, TOPIC), force=True)
    assert load_records(course, TOPIC) == {}
    records = grade_class(Assignment(course, TOPIC))
    assert records["ada"].status == GRADED
    json.loads(course.autograded(TOPIC, "ada").read_text())


@pytest.mark.parametrize("error", [ConverterFailed("disk full"), RuntimeError("surprise")])
def test_failures_of_ours_stop_nobody_and_score_nothing(course, graded, monkeypatch, error):
    submit(course, "ada", notebook_of(course, {"newton_step": "BREAK = 1"}))
    submit(course, "bob", notebook_of(course))
    submit(course, "cyd", notebook_of(course))

    def failing(course, converter, topic, student, settings):
        if student == "bob":
            raise error
        convert(course, converter, topic, student, settings)

    with monkeypatch.context() as patched:
        patched.setattr(batch, "convert", failing)
        records = grade_class(Assignment(course, TOPIC))
    assert {name: record.status for name, record in records.items()} == {
        "ada": FAILED,
        "bob": FAILED,
        "cyd": GRADED,
    }
    assert records["ada"].reason == "the machine is on fire"
    assert str(error) in records["bob"].reason
    assert records["ada"].score is None and records["bob"].score is None
    with gradebook(course) as book, pytest.raises(MissingEntry):
        book.find_submission(TOPIC, "ada")
    # The next run does exactly what is missing.
    before = len(graded)
    records = grade_class(Assignment(course, TOPIC))
    assert len(graded) == before + 2
    assert records["bob"].status == GRADED


def test_refused_file_keeps_the_earlier_grade_and_says_so(course, graded):
    submit(course, "ada", notebook_of(course))
    grade_class(Assignment(course, TOPIC))
    submit(course, "ada", b"{")
    record = grade_class(Assignment(course, TOPIC))["ada"]
    assert (record.status, record.score) == (NOT_GRADABLE, None)
    assert "the grade of an earlier file" in record.reason
    with gradebook(course) as book:
        assert book.find_submission(TOPIC, "ada").score == 24


def test_grades_given_by_hand_survive(course, graded):
    submit(course, "ada", notebook_of(course, {"written_large_network": "It takes 40 petabytes."}))
    grade_class(Assignment(course, TOPIC))
    with gradebook(course) as book:
        written = book.find_grade("written_large_network", TOPIC, TOPIC, "ada")
        assert written.needs_manual_grade and written.auto_score is None
        written.manual_score = 3.0
        book.db.commit()
    grade_class(Assignment(course, TOPIC), force=True)
    with gradebook(course) as book:
        assert book.find_submission(TOPIC, "ada").score == 27


def test_unknown_student(course, graded):
    with pytest.raises(LookupError, match="no submission of second_order from: zed"):
        grade_class(Assignment(course, TOPIC), students=["zed"])
