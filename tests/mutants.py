"""Wrong implementations of the reference, each of which the tests must notice.

A mutant is a misconception written into the reference: one passage of one module, and what stands there
instead. The lists are in ``tests/<topic>/mutants.py``. ``python -m tests.mutants [topic ...]`` runs each
mutant's tests against a copy of the package with the passage replaced, and fails if any mutant survives.
"""

import argparse
import importlib
import multiprocessing.connection
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
TOPICS = tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/mutants.py")))
IMPORTED_ONCE = ("torch", "numpy", "scipy.optimize", "hypothesis.strategies", "tests.browser")
# A mutant that never ends is noticed too.
LIMIT_SECONDS = 300
KILLED, SURVIVED, BROKEN = "killed", "survived", "broken"


@dataclass(frozen=True)
class Mutant:
    """One misconception as a change of one module.

    `module` is its path below src, `before` a passage that stands there exactly once, `after` its replacement,
    `tests` the test files that should fail.
    """

    misconception: str
    module: str
    before: str
    after: str
    tests: tuple[str, ...]

    def mutated(self) -> str:
        """Return the module's text with the passage replaced; ValueError unless it stands there once."""
        text = (SOURCE / self.module).read_text()
        if text.count(self.before) != 1:
            raise ValueError(f"{self.misconception}: {self.before!r} stands {text.count(self.before)} times")
        return text.replace(self.before, self.after)


def mutants_in(module: str, tests: tuple[str, ...], *changes: tuple[str, str, str]) -> list[Mutant]:
    """Return mutants of one module that the same tests should notice, from (misconception, before, after)."""
    return [Mutant(misconception, module, before, after, tests) for misconception, before, after in changes]


def mutants_of(topic: str) -> list[Mutant]:
    """Return the mutants of a topic."""
    return importlib.import_module(f"tests.{topic}.mutants").MUTANTS


def copied(mutant: Mutant, folder: Path) -> None:
    """Write a copy of the package with the mutant into a folder."""
    shutil.copytree(SOURCE / "steepest", folder / "steepest", ignore=shutil.ignore_patterns("node_modules"))
    (folder / mutant.module).write_text(mutant.mutated())


def run_tests(mutant: Mutant, folder: Path) -> None:
    """In a process of its own: run the mutant's tests against the copy, and end with pytest's status."""
    os.setsid()
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.dont_write_bytecode = True
    os.environ["PYTHONPATH"] = str(folder)  # for what the tests start in turn
    # The copy comes first on the path, before the installed package.
    sys.path.insert(0, str(folder))
    os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=line", *mutant.tests]))


def fates(mutants: list[Mutant], jobs: int) -> Iterator[tuple[Mutant, str, str]]:
    """Run every mutant's tests against it: whether they noticed, and the end of what they printed.

    The processes are forked, so that torch and pytest are imported once for all of them.
    """
    if any(name == "steepest" or name.startswith("steepest.") for name in sys.modules):
        raise RuntimeError("steepest is imported already, so that its mutants would not be")
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    fork = multiprocessing.get_context("fork")
    waiting, running = list(mutants), {}
    with tempfile.TemporaryDirectory(prefix="mutants_") as root:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop(0)
                folder = Path(tempfile.mkdtemp(dir=root))
                copied(mutant, folder)
                process = fork.Process(target=run_tests, args=(mutant, folder))
                process.start()
                running[process] = (mutant, folder, time.monotonic() + LIMIT_SECONDS)
            multiprocessing.connection.wait([process.sentinel for process in running], timeout=1)
            for process, (mutant, folder, end) in list(running.items()):
                late = time.monotonic() > end
                if process.is_alive() and not late:
                    continue
                if late:
                    os.killpg(process.pid, signal.SIGKILL)
                process.join()
                del running[process]
                # pytest: 0 all passed, 1 some failed; anything else means that nothing was tested.
                result = KILLED if late else {0: SURVIVED, 1: KILLED}.get(process.exitcode, BROKEN)
                yield mutant, result, (folder / "output.txt").read_text(errors="replace")[-2000:]
                shutil.rmtree(folder)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 1 if a mutant survived or could not be tested."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("topics", nargs="*", metavar="topic", help=f"of {', '.join(TOPICS)}; all if none is named")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tested at a time")
    parser.add_argument("--match", default="", help="only misconceptions that contain this text")
    options = parser.parse_args(arguments)
    unknown = set(options.topics) - set(TOPICS)
    if unknown:
        parser.error(f"no mutants for {', '.join(sorted(unknown))}; there are {', '.join(TOPICS)}")
    chosen = [
        mutant
        for topic in options.topics or TOPICS
        for mutant in mutants_of(topic)
        if options.match in mutant.misconception
    ]
    alive = 0
    for mutant, result, output in fates(chosen, options.jobs):
        print(f"{result:9} {mutant.module.removeprefix('steepest/')}: {mutant.misconception}", flush=True)
        if result != KILLED:
            alive += 1
            print(output, flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} mutants killed")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
