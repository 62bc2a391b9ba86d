"""The child process, driven as grading drives it: outputs, interruption, death, and what it refuses."""

import os
import signal
import socket
import time
from pathlib import Path

import nbformat
import pytest
import torch

from autograder import child as child_module
from autograder.child import Child, ChildEnded, InfrastructureFailure, Limits
from autograder.runner import LENGTH, receive_frame, send_frame

TOPIC = "second_order"
LIMITS = Limits(cell=6.0, total=120.0)
SHORT = Limits(cell=1.0, total=120.0, grace=1.0)


def start(course, limits=LIMITS):
    return Child(course.kit(TOPIC), TOPIC, limits, time.monotonic() + limits.total)


@pytest.fixture(scope="module")
def child(released_course):
    """One child for the tests that leave it in good order."""
    with start(released_course) as child:
        yield child


def text(run):
    return "".join(output.get("text", "") for output in run.outputs)


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.mark.parametrize("payload", [b"", b"x", b"ab" * 50_000])
def test_frames_arrive_whole_and_in_order(pair, payload):
    left, right = pair
    send_frame(left, payload)
    send_frame(left, b"next")
    assert receive_frame(right) == payload
    assert receive_frame(right) == b"next"


def test_frame_over_the_limit_is_refused_unread(pair):
    left, right = pair
    left.sendall(LENGTH.pack(2**62))
    with pytest.raises(ValueError, match="over the limit"):
        receive_frame(right)


def test_cut_off_frame(pair):
    left, right = pair
    left.sendall(LENGTH.pack(10) + b"short")
    left.close()
    with pytest.raises(EOFError):
        receive_frame(right)


def test_outputs_are_nbformat_in_order(child):
    run = child.run_cell(
        "import sys\n"
        "from IPython.display import HTML, display\n"
        "print('a')\nprint('b')\nprint('c', file=sys.stderr)\ndisplay(HTML('<b>d</b>'))\nprint('e')\n40 + 2"
    )
    assert [(o["output_type"], o.get("name")) for o in run.outputs] == [
        ("stream", "stdout"),
        ("stream", "stderr"),
        ("display_data", None),
        ("stream", "stdout"),
        ("execute_result", None),
    ]
    assert run.outputs[0]["text"] == "a\nb\n"
    assert run.outputs[2]["data"]["text/html"] == "<b>d</b>"
    assert run.outputs[4]["data"]["text/plain"] == "42"
    for output in run.outputs:
        nbformat.validate(output, ref="output", version=4)
    assert run.stopped == ""


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("input()", "EOFError"),
        ("class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd", "Odd"),
        ("import steepest", "ModuleNotFoundError"),
        ("import autograder.exercises", "ModuleNotFoundError"),
        ("from solutions import second_order", "ModuleNotFoundError"),
        ("import torch\ntorch.empty(2**31)", "RuntimeError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_errors_become_outputs_and_the_next_cell_runs(child, source, name):
    run = child.run_cell(source)
    errors = [output["ename"] for output in run.outputs if output["output_type"] == "error"]
    assert errors[0] == name
    assert text(child.run_cell("print('still here')")) == "still here\n"


def test_exit_and_await_work_as_in_a_notebook(child):
    assert "no effect" in text(child.run_cell("exit()"))
    run = child.run_cell("import asyncio\nawait asyncio.sleep(0)\nprint('awaited')")
    assert text(run) == "awaited\n"


def test_long_output_is_cut_and_says_so(child):
    run = child.run_cell("for _ in range(3000):\n    print('x' * 1000)\n1 / 0")
    assert len(text(run)) < 300_000
    assert "cut off" in text(run)
    assert run.outputs[-1]["ename"] == "ZeroDivisionError"


def test_what_c_code_and_subprocesses_print_goes_nowhere(child):
    run = child.run_cell(
        "import os\nos.write(1, b'out')\nos.write(2, b'err')\nos.system('echo out'); print('seen')"
    )
    assert text(run) == "seen\n"


def test_environment_is_small_and_the_folder_its_own(released_course, monkeypatch):
    monkeypatch.setenv("TOKEN_OF_THE_INSTRUCTOR", "secret")
    with start(released_course) as child:
        run = child.run_cell(
            "import os\nprint('TOKEN_OF_THE_INSTRUCTOR' in os.environ, 'PYTHONPATH' in os.environ)"
        )
        assert text(run) == "False False\n"
        run = child.run_cell(
            "print(os.getcwd() == os.environ['HOME'], [n for n in os.listdir() if n[0] != '.'])"
        )
        assert text(run) == "True []\n"


def test_processor_time_is_limited_should_nobody_be_left_to_stop_it(child):
    run = child.run_cell("import resource\nprint(resource.getrlimit(resource.RLIMIT_CPU)[0])")
    assert int(text(run)) == LIMITS.start + LIMITS.total


def test_grader_is_the_trusted_copy(child):
    run = child.run_cell("import grader\nprint(grader.__file__)")
    assert "/kit/grader.py" in text(run)


def test_endless_cell_is_interrupted_and_later_cells_see_the_names(released_course):
    with start(released_course, SHORT) as child:
        child.run_cell("kept = 7")
        run = child.run_cell("print('before')\nwhile True: pass")
        assert run.stopped == "time limit"
        assert run.outputs[-1]["ename"] == "TimeLimit"
        assert "before" in text(run)
        assert not any("KeyboardInterrupt" in str(output) for output in run.outputs)
        assert text(child.run_cell("print(kept)")) == "7\n"


def test_late_interrupt_does_not_stop_the_runner(released_course):
    with start(released_course) as child:
        for _ in range(20):
            child.process.send_signal(signal.SIGINT)
            assert text(child.run_cell("print(1)")) in ("1\n", "")
        assert text(child.run_cell("print(2)")) == "2\n"


def test_cell_that_cannot_be_interrupted_ends_the_child(released_course):
    with start(released_course, SHORT) as child, pytest.raises(ChildEnded, match="time limit"):
        child.run_cell("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass")


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos._exit(0)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes\nctypes.string_at(0)",
    ],
)
def test_death_of_the_process_is_reported(released_course, source):
    with start(released_course) as child, pytest.raises(ChildEnded, match="ended"):
        child.run_cell(source)


MAKE_REPLY = "from grader_kit.client import arrays\nb = arrays.encode({reply})\n"
FORGE = """
import os, socket, struct
for name in os.listdir('/proc/self/fd'):
    try:
        connection = socket.socket(fileno=os.dup(int(name)))
        connection.sendall({bytes})
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        ("struct.pack('>Q', 2**40)", "too much"),
        ("struct.pack('>Q', 5) + b'hello'", "not a message"),
        ("struct.pack('>Q', len(b)) + b", "out of turn"),
    ],
)
def test_forged_frames_end_the_child(released_course, forged, reason):
    made = MAKE_REPLY.format(reply="{'request': 99, 'status': 'done', 'outputs': '[]'}")
    with start(released_course) as child, pytest.raises(ChildEnded, match=reason):
        child.run_cell(made + FORGE.format(bytes=forged))
        child.run_cell("1")


def test_forged_outputs_are_checked(released_course):
    forged = '[{"output_type": "stream"}, 3, {"output_type": "execute_result", "data": 1}]'
    made = MAKE_REPLY.format(reply=f"{{'request': 1, 'status': 'done', 'outputs': '{forged}'}}")
    with start(released_course) as child:
        run = child.run_cell(made + FORGE.format(bytes="struct.pack('>Q', len(b)) + b"))
    assert [output["ename"] for output in run.outputs] == ["Unreadable"] * 3
    for output in run.outputs:
        nbformat.validate(output, ref="output", version=4)


def test_closing_kills_what_the_submission_started(released_course):
    with start(released_course) as child:
        run = child.run_cell("import subprocess\nprint(subprocess.Popen(['sleep', '1000']).pid)")
        pid = int(text(run))
        os.kill(pid, 0)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("a process of the submission is still running")


INPUTS = {
    "point": torch.zeros(1, 2, dtype=torch.float64),
    "gradient": torch.tensor([[2.0, 4.0]], dtype=torch.float64),
    "hessian": 2 * torch.eye(2, dtype=torch.float64)[None],
    "damping": 0.0,
    "layout": "contiguous",
}


def test_observes_the_solution_of_that_name(child):
    child.run_cell(
        "def newton_step(point, gradient, hessian, damping):\n    print(gradient)\n    return -gradient / 2"
    )
    status, observations = child.observe("newton_step", INPUTS)
    assert status == "observed"
    assert torch.equal(observations["value"], torch.tensor([[-1.0, -2.0]], dtype=torch.float64))
    # What the solution prints on hidden inputs must not turn up in the next cell's outputs.
    assert text(child.run_cell("print('clean')")) == "clean\n"


def test_missing_solution(child):
    child.run_cell("globals().pop('newton_step', None)")
    assert child.observe("newton_step", INPUTS)[0] == "missing"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("raise SystemExit", "failed"),
        ("raise ValueError(str(gradient))", "observed"),
        ("raise NotImplementedError", "observed"),
    ],
)
def test_solutions_that_raise(child, body, status):
    child.run_cell(f"def newton_step(point, gradient, hessian, damping):\n    {body}")
    seen, observations = child.observe("newton_step", INPUTS)
    assert seen == status
    assert observations["raised"]


def test_endless_solution_is_interrupted(released_course):
    with start(released_course, SHORT) as child:
        child.run_cell("def newton_step(*arguments):\n    while True: pass")
        assert child.observe("newton_step", INPUTS)[0] == "interrupted"
        assert text(child.run_cell("print('on')")) == "on\n"


def test_total_limit(released_course):
    over = time.monotonic() - 1
    with (
        Child(released_course.kit(TOPIC), TOPIC, LIMITS, over) as child,
        pytest.raises(ChildEnded, match="total"),
    ):
        child.run_cell("1")


def test_process_that_cannot_start_is_our_failure(released_course, monkeypatch):
    def fail(*arguments):
        raise OSError("no more processes")

    monkeypatch.setattr(child_module, "launch", fail)
    with pytest.raises(InfrastructureFailure, match="no more processes"):
        start(released_course)


def test_child_that_does_not_come_up_is_our_failure_and_says_why(tmp_path):
    (tmp_path / "kit").mkdir()
    with pytest.raises(InfrastructureFailure, match=r"did not come up.*grader_kit"):
        Child(tmp_path / "kit", TOPIC, LIMITS, time.monotonic() + 60)
