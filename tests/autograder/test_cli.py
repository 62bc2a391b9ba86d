"""The command line: what it prints, its exit codes, and that it starts quickly."""

import json
import subprocess
import sys

import pytest

from autograder import cli
from autograder.assignment import Assignment
from autograder.batch import Prepared
from autograder.child import InfrastructureFailure
from autograder.records import Record, save, table

from .conftest import TOPIC, notebook_of, submit
from .test_grading import made_up_outcome


@pytest.fixture
def run(course, capsys):
    """Run a subcommand on the course: (exit code, stdout, stderr)."""

    def run(*arguments):
        code = cli.main([*arguments, "--course", str(course.root)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def made_up(monkeypatch):
    def grade(self, notebook):
        if any("BREAK" in cell.source for cell in notebook.cells):
            raise InfrastructureFailure("the machine is on fire")
        return made_up_outcome(self, notebook)

    monkeypatch.setattr(Assignment, "grade", grade)


def test_from_release_to_export(course, run, made_up, tmp_path):
    assert run("release", TOPIC)[:2] == (0, f"second_order: unchanged; kit: {course.kit(TOPIC)}.zip\n")
    code, out, _ = run("sample", TOPIC)
    assert code == 0 and "new or changed" in out
    code, out, err = run("grade", TOPIC, "--student", "perfect", "--student", "broken-json")
    assert code == 0
    exercises = ["newton_step", "saddle_free_step", "bfgs_update", "lbfgs_direction", "newton_minimize"]
    assert out.splitlines()[0].split() == ["student", "status", "score", *exercises]
    assert any(line.split()[:3] == ["perfect", "graded", "24/24"] for line in out.splitlines())
    assert "the notebook is not valid JSON" in out
    assert "[1/2]" in err and "[2/2]" in err and "2 submissions in" in err
    assert run("table", TOPIC)[:2] == (0, out)
    assert run("feedback", TOPIC)[0] == 0
    assert (course.root / "feedback" / "perfect" / TOPIC / f"{TOPIC}.html").exists()
    assert run("export", TOPIC, "--to", str(tmp_path / "out.csv"))[0] == 0
    assert "perfect" in (tmp_path / "out.csv").read_text()


def test_json_summary(course, run, made_up):
    submit(course, "ada", notebook_of(course))
    code, out, _ = run("grade", TOPIC, "--json")
    assert code == 0
    assert json.loads(out)["ada"]["score"] == 24
    assert json.loads(run("table", TOPIC, "--json")[1]) == json.loads(out)


def test_infrastructure_failure_shows_in_the_exit_code(course, run, made_up):
    submit(course, "ada", notebook_of(course, {"newton_step": "BREAK"}))
    code, out, _ = run("grade", TOPIC)
    assert code == 1
    assert "infrastructure failure" in out and "the machine is on fire" in out


def test_options_reach_grading(course, run, monkeypatch):
    seen = {}

    def grade(self, notebook):
        seen.update(limits=self.limits, round=self.round)
        return made_up_outcome(self, notebook)

    monkeypatch.setattr(Assignment, "grade", grade)
    submit(course, "ada", notebook_of(course))
    run("grade", TOPIC, "--cell-limit", "3", "--total-limit", "30", "--round", "2", "--jobs", "1")
    assert (seen["limits"].cell, seen["limits"].total, seen["round"]) == (3.0, 30.0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grade", "unheard_of"], "unheard_of is not released"),
        (["release", "unheard_of"], "unheard_of.py"),
        (["sample", "unheard_of"], "no sample class"),
        (["export", "unheard_of"], "unheard_of is not released"),
        (["table", "unheard_of"], "nothing of unheard_of has been graded"),
        (["grade", TOPIC, "--student", "zed"], "no submission of second_order from: zed"),
    ],
)
def test_wrong_requests_say_what_is_wrong(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--round", "-1"], ["--cell-limit", "x"]])
def test_wrong_numbers_are_refused(run, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("grade", TOPIC, *arguments)
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("command", ["release", "sample", "grade", "feedback", "export", "table"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert "--course DIR" in capsys.readouterr().out


def test_table_loads_nothing_heavy(course):
    save(course, Record("ada", TOPIC, "not gradable", "there is no notebook"))
    program = (
        "import sys; from autograder.cli import main\n"
        f"main(['table', {TOPIC!r}, '--course', {str(course.root)!r}])\n"
        "sys.exit(bool({'torch', 'nbgrader', 'nbformat', 'IPython'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "there is no notebook" in done.stdout


def test_table_names_misconceptions_and_problems():
    exercise = {
        "score": 1.5,
        "max": 4,
        "passed": [True, False],
        "hint": "",
        "problem": "",
        "misconceptions": ["uphill step"],
    }
    stopped = {**exercise, "misconceptions": [], "problem": "time limit", "score": 0.0}
    text = table(
        [Record("ada", TOPIC, "graded", "", 1.5, 8, {"newton_step": exercise, "bfgs_update": stopped})]
    )
    assert text.splitlines() == [
        "student  status  score  newton_step  bfgs_update",
        "ada      graded  1.5/8        1.5/4          0/4",
        "  newton_step: uphill step",
        "  bfgs_update: time limit",
    ]  # fmt: skip


def test_prepared_is_not_a_record():
    # grade_class tells the two apart by type.
    assert not issubclass(Prepared, Record)
