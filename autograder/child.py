"""The parent's side of the child process: start it, ask it, stop it.

`launch` is the only place that starts a process: a sandbox goes there. Everything else here reaches the child
through the socket that it inherits, and believes nothing of what comes back.
"""

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from autograder.client import arrays
from autograder.runner import LENGTH, MAX_FRAME, send_frame

# The child's own files; copied, so that a sandbox needs to show it no other folder of ours.
CHILD_FILES = ("runner.py", "notebook_shell.py")


class InfrastructureFailure(Exception):
    """Grading itself failed; the submission is not to blame and gets no score from it."""


class ChildEnded(Exception):
    """The child is gone; the message says how, in words for the learner."""


@dataclass(frozen=True)
class Limits:
    """Wall-clock limits in seconds: of one cell or hidden case, of all, from SIGINT to SIGKILL, of starting."""

    cell: float = 10.0
    total: float = 180.0
    grace: float = 2.0
    start: float = 120.0


@dataclass(frozen=True)
class CellRun:
    """What running one cell gave: nbformat outputs, and why it was stopped ('' where it wasn't)."""

    outputs: list
    stopped: str = ""


def launch(kit: Path, topic: str, workspace: Path, seconds: float) -> tuple[subprocess.Popen, socket.socket]:
    """Start the child in its own session and process group and return it with our end of its socket.

    Args:
        kit: The unpacked kit that the child imports, with `CHILD_FILES` in it; copies made for this child alone.
        topic: The topic, which names the kit's driver module.
        workspace: An empty folder: the child's working directory, home and place for temporary files.
        seconds: Processor time after which the child ends by itself, should nobody be left to stop it.

    Raises:
        OSError: The process could not be started.
    """
    ours, theirs = socket.socketpair()
    environment = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(workspace),
        "TMPDIR": str(workspace),
        "IPYTHONDIR": str(workspace / ".ipython"),
        "MPLBACKEND": "Agg",
        # One thread: torch's idle threads would fight over the cores that other submissions use.
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }
    command = [
        sys.executable,
        "-I",
        "-B",
        str(kit / CHILD_FILES[0]),
        str(theirs.fileno()),
        str(kit),
        topic,
        str(math.ceil(seconds)),
    ]
    with theirs, open(workspace.parent / "start.log", "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=workspace,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    return process, ours


class Child:
    """One run of the child process, from start to kill.

    Args:
        kit: The trusted unpacked kit; copied, because a submission could write to its own copy.
        topic: The topic.
        limits: Wall-clock limits.
        deadline: `time.monotonic()` at which the submission's total time is over.

    Raises:
        InfrastructureFailure: The child did not come up.
    """

    def __init__(self, kit: Path, topic: str, limits: Limits, deadline: float):
        self.limits, self.deadline = limits, deadline
        self.requests = 0
        self.received = bytearray()
        self.folder = tempfile.TemporaryDirectory(prefix="autograder-", ignore_cleanup_errors=True)
        root = Path(self.folder.name)
        shutil.copytree(kit, root / "kit", ignore=shutil.ignore_patterns("__pycache__"))
        for name in CHILD_FILES:
            shutil.copy(Path(__file__).with_name(name), root / "kit")
        (root / "work").mkdir()
        try:
            self.process, self.connection = launch(
                root / "kit", topic, root / "work", limits.start + limits.total
            )
        except OSError as error:
            self.folder.cleanup()
            raise InfrastructureFailure(f"the child process could not be started: {error}") from error
        try:
            ready = self.receive(time.monotonic() + limits.start)
        except (ChildEnded, TimeoutError) as error:
            log = (root / "start.log").read_text(errors="replace").strip().splitlines()
            self.close()
            raise InfrastructureFailure(
                f"the child process did not come up: {' '.join(log[-1:]) or error}"
            ) from error
        if ready.get("status") != "ready":
            self.close()
            raise InfrastructureFailure(f"the child process came up wrong: {ready.get('status')}")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Kill the child's whole process group and remove its folder."""
        with contextlib.suppress(ProcessLookupError):  # it is gone already, and nothing of its group is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()
        self.folder.cleanup()

    def run_cell(self, source: str) -> CellRun:
        """Run one cell. Raises ChildEnded if the process did not survive it."""
        reply, interrupted = self.ask({"do": "cell", "source": source})
        outputs = readable_outputs(reply.get("outputs"))
        if interrupted:
            # Its traceback runs through the grader's own files and helps nobody.
            outputs = [output for output in outputs if output.get("ename") != "KeyboardInterrupt"]
            outputs.append(error_output("TimeLimit", f"stopped after {self.limits.cell:g} s"))
        return CellRun(outputs, "time limit" if interrupted else "")

    def observe(self, exercise: str, inputs: dict) -> tuple[str, dict]:
        """Run the exercise's driver on one hidden input: (status, observations). Raises ChildEnded."""
        reply, interrupted = self.ask({"do": "case", "exercise": exercise}, inputs)
        observations = {"raised": str(reply.get("message"))}
        if reply.get("status") == "observed":
            observations = self.receive_in_time()
        return "interrupted" if interrupted else str(reply.get("status")), observations

    def ask(self, header: dict, *bodies: dict) -> tuple[dict, bool]:
        """Send a request and wait for its reply: (reply, whether it had to be interrupted)."""
        if time.monotonic() >= self.deadline:
            raise ChildEnded("total time limit")
        self.requests += 1
        limit = min(time.monotonic() + self.limits.cell, self.deadline)
        try:
            self.connection.settimeout(self.limits.cell + self.limits.grace)
            for body in ({"request": self.requests, **header}, *bodies):
                send_frame(self.connection, arrays.encode(body))
        except OSError:
            raise ChildEnded("the process ended") from None
        interrupted = False
        try:
            reply = self.receive(limit)
        except TimeoutError:
            interrupted = True
            self.process.send_signal(signal.SIGINT)
            reply = self.receive_in_time()
        if reply.get("request") != self.requests:
            raise ChildEnded("the process answered out of turn")
        return reply, interrupted

    def receive_in_time(self) -> dict:
        """Receive a frame that is due now; whoever doesn't send it within the grace time is stuck."""
        try:
            return self.receive(time.monotonic() + self.limits.grace)
        except TimeoutError:
            raise ChildEnded("time limit") from None

    def receive(self, deadline: float) -> dict:
        """Receive and decode one frame. Raises TimeoutError (what came so far is kept) or ChildEnded."""
        while True:
            size = LENGTH.unpack(self.received[: LENGTH.size])[0] if len(self.received) >= LENGTH.size else 0
            if size > MAX_FRAME:
                raise ChildEnded("the process sent too much")
            end = LENGTH.size + size
            if len(self.received) >= end:
                frame = bytes(self.received[LENGTH.size : end])
                del self.received[:end]
                break
            self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                part = self.connection.recv(2**20)
            except ConnectionError:
                part = b""
            if not part:
                raise ChildEnded("the process ended")
            self.received += part
        try:
            return arrays.decode(frame, MAX_FRAME)
        except arrays.DecodeError:
            raise ChildEnded("the process sent what is not a message") from None


def error_output(name: str, message: str) -> dict:
    """An nbformat error output."""
    return {"output_type": "error", "ename": name, "evalue": message, "traceback": [f"{name}: {message}"]}


def readable_outputs(text) -> list[dict]:
    """The child's outputs, each checked against nbformat's schema: what it sends could be forged."""
    import nbformat

    try:
        outputs = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return [error_output("Unreadable", "this cell's outputs could not be read")]
    readable = []
    for output in outputs if isinstance(outputs, list) else []:
        try:
            nbformat.validate(output, ref="output", version=4)
        except (nbformat.ValidationError, AttributeError, TypeError):
            output = error_output("Unreadable", "an output of this cell could not be read")
        readable.append(output)
    return readable
