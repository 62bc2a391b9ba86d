"""Wrong implementations of the reference, each of which the tests must notice.

A mutant is a misconception written into the reference: one passage of one module, and what stands there
instead. The lists are in ``tests/<topic>/mutants.py``. ``python -m tests.mutants [topic ...]`` runs each
mutant's tests against a copy of the package with the passage replaced, and fails if any mutant survives.
"""

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
TOPICS = tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/mutants.py")))
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


def mutants_of(topic: str) -> list[Mutant]:
    """Return the mutants of a topic."""
    return importlib.import_module(f"tests.{topic}.mutants").MUTANTS


def fate(mutant: Mutant) -> tuple[str, str]:
    """Run the mutant's tests against it: whether they noticed, and the end of what they printed."""
    with tempfile.TemporaryDirectory(prefix="mutant_") as folder:
        shutil.copytree(SOURCE / "steepest", Path(folder) / "steepest", ignore=shutil.ignore_patterns("node_modules"))
        (Path(folder) / mutant.module).write_text(mutant.mutated())
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line", *mutant.tests]
        # The copy comes first on the path, before the installed package.
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return KILLED, "ran past the limit"
    # pytest: 0 all passed, 1 some failed; anything else means that nothing was tested.
    return {0: SURVIVED, 1: KILLED}.get(process.returncode, BROKEN), output[-2000:]


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
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, (result, output) in zip(chosen, pool.map(fate, chosen), strict=True):
            print(f"{result:9} {mutant.module.removeprefix('steepest/')}: {mutant.misconception}", flush=True)
            if result != KILLED:
                alive += 1
                print(output, flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} mutants killed")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
