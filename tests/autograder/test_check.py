"""The check that learners run: what it prints, and how it fails."""

import sys
import warnings

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from autograder.client.check import CheckFailed, Grader
from autograder.drivers import second_order as drivers
from autograder.exercises import load
from autograder.kit import kit_files

EXERCISES = {exercise.name: exercise for exercise in load("second_order")}


@pytest.fixture(scope="module")
def grader(tmp_path_factory):
    root = tmp_path_factory.mktemp("kit")
    for path, content in kit_files("second_order").items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return Grader(root / "grader_kit/cases/second_order", drivers)


def failing_report(grader, capsys, name, solution):
    with pytest.raises(CheckFailed) as caught:
        grader.check(name, solution)
    return capsys.readouterr().out, str(caught.value)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_hidden_checks_are_announced(grader, capsys, name):
    grader.check(name, EXERCISES[name].reference)
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: public checks\n  passed  ")
    assert "FAILED" not in out and "hint" not in out
    assert "public checks passed. Hidden checks, on other inputs, follow" in out


@pytest.mark.parametrize("name", EXERCISES)
def test_every_misconception_gets_its_hint(grader, capsys, name):
    for misconception in EXERCISES[name].misconceptions:
        out, message = failing_report(grader, capsys, name, misconception.implementation)
        assert f"  hint    {misconception.hint}\n" in out
        assert "FAILED" in out and "expected  " not in out
        assert "public checks failed" in message and "\n" not in message


def test_each_case_has_its_line(grader, capsys):
    cases = EXERCISES["newton_step"].cases(0, "public")
    out, _ = failing_report(grader, capsys, "newton_step", EXERCISES["newton_step"].misconceptions[2].implementation)
    for case in cases:
        assert f"  passed  {case.name}\n" in out or f"  FAILED  {case.name}: the result is off by" in out
    assert "1 of 3 public checks passed" in out


def test_an_unknown_mistake_shows_the_smallest_failing_case(grader, capsys):
    out, _ = failing_report(grader, capsys, "newton_step", lambda x, g, h, damping: x - 3 * g)
    assert "hint" not in out
    assert "The smallest failing case is 'B = 1, D = 2, damping 0, float64':\n    expected  [[" in out
    assert "\n    got       [[" in out


@pytest.mark.parametrize(
    ("solution", "words"),
    [
        (lambda x, g, h, d: None, "is of type None, it must be torch.Tensor; is a return statement missing?"),
        (lambda x, g, h, d: x.numpy(), "is of type numpy.ndarray"),
        (lambda x, g, h, d: x[0], "has shape (3,), it must have shape (2, 3)"),
        (lambda x, g, h, d: x.half(), "is float16, it must be float64: keep the dtype of the inputs"),
        (lambda x, g, h, d: x / 0, "holds NaN or infinite entries"),
        (lambda x, g, h, d: x.sub_(g), "changed its input point in place"),
        (lambda x, g, h: x, "raised TypeError: "),
    ],
)
def test_each_fault_has_its_message(grader, capsys, solution, words):
    out, _ = failing_report(grader, capsys, "newton_step", solution)
    assert words in out


def test_not_implemented_and_not_callable(grader, capsys):
    def unwritten(*arguments):
        raise NotImplementedError()

    out, _ = failing_report(grader, capsys, "newton_step", unwritten)
    assert out.count(": not implemented yet\n") == 3
    out, _ = failing_report(grader, capsys, "newton_step", torch.zeros(2))
    assert "pass the function or class itself, got Tensor" in out


def test_an_unknown_exercise_names_the_known_ones(grader):
    with pytest.raises(LookupError, match="newton_step, saddle_free_step"):
        grader.check("newtonstep", abs)


def test_warnings_are_printed_and_keep_stderr_empty(grader, capsys):
    def warns(*arguments):
        warnings.warn("the Hessian looks odd", stacklevel=1)
        return EXERCISES["newton_step"].reference(*arguments)

    grader.check("newton_step", warns)
    captured = capsys.readouterr()
    assert captured.out.count("warning  the Hessian looks odd") == 1
    assert captured.err == ""


@pytest.fixture
def shell():
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def test_ipython_shows_one_line_without_a_traceback(grader, capsys, shell):
    shell.user_ns["grader"] = grader
    result = shell.run_cell("grader.check('newton_step', lambda *arguments: None)")
    captured = capsys.readouterr()
    assert isinstance(result.error_in_exec, CheckFailed)
    shown = captured.out + captured.err
    assert "CheckFailed: newton_step: 3 of 3 public checks failed" in shown
    assert "Traceback" not in shown and "check.py" not in shown


def test_outside_ipython_it_is_an_ordinary_exception(grader):
    assert issubclass(CheckFailed, Exception) and not issubclass(CheckFailed, AssertionError)
    with pytest.raises(CheckFailed):
        grader.check("newton_step", lambda *arguments: None)
    assert sys.exc_info() == (None, None, None)
