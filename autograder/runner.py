"""The child's side of grading: runs a notebook's cells and hidden inputs, and judges nothing.

`autograder.grading` starts this file as a script in a process of its own, with an inherited socket, a folder
that holds a trusted copy of the learner's kit, and the topic. It imports the kit (`grader_kit`), IPython and
torch; never `autograder`, `solutions` or `steepest`. Each request and each reply is one frame: a length and
the bytes of `grader_kit.client.arrays`. Requests, in the order of the parent's choosing:

    {"request": n, "do": "cell", "source": str}   → {"request": n, "status": "done", "outputs": JSON}
    {"request": n, "do": "case", "exercise": str} and a frame of inputs
        → {"request": n, "status": "observed" | "missing" | "interrupted" | "failed", "message": str}
          and, where observed, a frame of observations

A cell or a case that the parent interrupts (SIGINT) ends in a KeyboardInterrupt; the next request is served.
"""

import importlib
import json
import os
import random
import resource
import signal
import socket
import struct
import sys

LENGTH = struct.Struct(">Q")
MAX_FRAME = 64 * 2**20  # bytes
MAX_MEMORY = 4 * 2**30  # bytes of private memory
MAX_FILE = 64 * 2**20  # bytes of any one file that a submission writes
FORBIDDEN = frozenset({"autograder", "solutions", "steepest"})


def send_frame(connection, payload):
    """Send `payload` (bytes) over the socket `connection`, preceded by its length."""
    connection.sendall(LENGTH.pack(len(payload)) + payload)


def receive_frame(connection, max_bytes=MAX_FRAME):
    """Receive one frame's bytes.

    Raises:
        EOFError: The other side closed the connection.
        ValueError: The announced length is over `max_bytes`.

    >>> left, right = socket.socketpair()
    >>> send_frame(left, b"abc")
    >>> receive_frame(right)
    b'abc'
    """
    (length,) = LENGTH.unpack(receive_exactly(connection, LENGTH.size))
    if length > max_bytes:
        raise ValueError(f"a frame of {length} bytes is over the limit of {max_bytes}")
    return receive_exactly(connection, length)


def receive_exactly(connection, size):
    """Receive `size` bytes; EOFError if the connection ends before that."""
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 2**20))
        if not part:
            raise EOFError("the connection was closed")
        parts += part
    return bytes(parts)


class Interruptible:
    """Lets SIGINT stop the learner's code, and only that: one that comes late must not stop the runner."""

    def __init__(self):
        self.active = False
        self.install()

    def install(self):
        signal.signal(signal.SIGINT, self.handle)

    def handle(self, signum, frame):
        if self.active:
            self.active = False
            raise KeyboardInterrupt

    def __enter__(self):
        # Installed anew each time: a submission can replace it.
        self.install()
        self.active = True

    def __exit__(self, *exception):
        self.active = False


class NoCourseModules:
    """Answers `import steepest` as a learner's machine does. A courtesy, not a wall: the sandbox is the wall."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


class Runner:
    """Serves the parent's requests until it closes the connection."""

    def __init__(self, connection, topic):
        self.connection = connection
        self.arrays = importlib.import_module("grader_kit.client.arrays")
        self.run_driver = importlib.import_module("grader_kit.client.observe").observe
        self.drivers = importlib.import_module(f"grader_kit.drivers.{topic}")
        self.interruptible = Interruptible()
        self.outputs, self.shell = importlib.import_module("notebook_shell").start()

    def serve(self):
        self.send({"request": 0, "status": "ready"})
        while True:
            try:
                header = self.arrays.decode(receive_frame(self.connection), MAX_FRAME)
            except EOFError:
                return
            if header["do"] == "cell":
                self.run_cell(header)
            else:
                self.run_case(header)

    def send(self, values):
        send_frame(self.connection, self.arrays.encode(values))

    def run_cell(self, header):
        self.outputs.clear()  # of what a solution printed on hidden inputs, too
        try:
            with self.interruptible:
                self.shell.run_cell(header["source"], store_history=True)
        except KeyboardInterrupt:
            self.outputs.error("KeyboardInterrupt", "", [])
        outputs = json.dumps(self.outputs.collected, default=str)
        self.send({"request": header["request"], "status": "done", "outputs": outputs})

    def run_case(self, header):
        inputs = self.arrays.decode(receive_frame(self.connection), MAX_FRAME)
        status, message, observations = self.observe(header["exercise"], inputs)
        self.send({"request": header["request"], "status": status, "message": message})
        if status == "observed":
            send_frame(self.connection, observations)

    def observe(self, exercise, inputs):
        """Run the exercise's driver on the notebook's solution: (status, message, encoded observations)."""
        if exercise not in self.shell.user_ns:
            return "missing", f"{exercise} is not defined in the notebook", b""
        solution = self.shell.user_ns[exercise]
        try:
            with self.interruptible:
                observations = self.run_driver(getattr(self.drivers, exercise), solution, inputs)
                encoded = self.arrays.encode(observations)
        except KeyboardInterrupt:
            return "interrupted", "stopped", b""
        except (Exception, SystemExit) as error:
            return "failed", type(error).__name__, b""
        return "observed", "", encoded


def main():
    descriptor, kit, topic, seconds = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    sys.path.insert(0, kit)
    sys.meta_path.insert(0, NoCourseModules)
    runner = Runner(connection, topic)
    numpy = importlib.import_module("numpy")
    torch = importlib.import_module("torch")
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    # Up to here a failure is ours and shows on stderr; from here on what C code or a subprocess prints is dropped.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for standard in (1, 2):
        os.dup2(nowhere, standard)
    runner.serve()


if __name__ == "__main__":
    main()
    # Threads and exit handlers that a submission left behind must not hold the process.
    os._exit(0)
