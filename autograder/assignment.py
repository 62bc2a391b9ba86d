"""One assignment made ready for grading: released notebook, exercises, this round's hidden cases, trusted kit."""

import functools
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat

from autograder.child import CellRun, Limits
from autograder.course import Course, assignment_secret, hidden_seed
from autograder.exercises import load
from autograder.grading import execute
from autograder.release import hash_exercises
from autograder.verdicts import Verdict, reach_verdict


class NotReleased(Exception):
    """The assignment has not been released on this course root, or has changed since."""


@dataclass(frozen=True)
class Outcome:
    """What grading one notebook gave.

    Attributes:
        sources: the sources of its cells, to tell which notebook this belongs to.
        cells: position → CellRun, for code cells.
        verdicts: exercise name → Verdict.
        seconds: what took how long: "run" and "judge".
    """

    sources: tuple[str, ...]
    cells: dict[int, CellRun]
    verdicts: dict[str, Verdict]
    seconds: dict[str, float]


class Assignment:
    """An assignment of a course in one grading round.

    Args:
        course: The course root.
        topic: The assignment's name.
        limits: Wall-clock limits for each submission.
        grading_round: Number of the round; another round draws other hidden cases.

    Raises:
        NotReleased: There is no release, or the exercises have changed since.
        autograder.exercise.ExerciseError: An exercise cannot draw its hidden cases.
    """

    def __init__(self, course: Course, topic: str, limits: Limits | None = None, grading_round: int = 1):
        if not course.released(topic).exists() or not course.kit(topic).exists():
            raise NotReleased(f"{topic} is not released in {course.root}; run: autograder release {topic}")
        if not course.stamp(topic).exists() or course.stamp(topic).read_text().split()[0] != hash_exercises(
            topic
        ):
            raise NotReleased(f"the exercises of {topic} have changed; run again: autograder release {topic}")
        self.course, self.topic, self.limits, self.round = course, topic, limits or Limits(), grading_round
        self.release = nbformat.read(course.released(topic), as_version=4)
        self.exercises = {exercise.name: exercise for exercise in load(topic)}
        secret = assignment_secret(course, topic)
        seeds = {
            name: hidden_seed(secret, topic, grading_round, name, exercise.version)
            for name, exercise in self.exercises.items()
        }
        self.cases = {
            name: exercise.cases(seeds[name], "hidden") for name, exercise in self.exercises.items()
        }
        self.kit = course.kit(topic)
        parts = [course.kit(topic).with_suffix(".zip").read_bytes(), course.released(topic).read_bytes()]
        self.identity = hashlib.sha256(b"".join([*parts, repr(sorted(seeds.items())).encode()])).hexdigest()

    def key(self, content: bytes) -> str:
        """Hash of everything that a grade depends on: submission, release, kit, exercise versions, seeds."""
        return hashlib.sha256(self.identity.encode() + content).hexdigest()

    def grade(self, notebook: nbformat.NotebookNode) -> Outcome:
        """Run a notebook, judge it, and say what came of it.

        Raises:
            InfrastructureFailure: The child could not be started, or the judge failed.
        """
        cells = {index: cell.source for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"}
        started = time.monotonic()
        execution = execute(cells, self.cases, self.kit, self.topic, self.limits)
        ran = time.monotonic()
        verdicts = {
            name: reach_verdict(
                exercise,
                self.cases[name],
                execution.observations.get(name, []),
                execution.problems.get(name, ""),
            )
            for name, exercise in self.exercises.items()
        }
        seconds = {"run": round(ran - started, 3), "judge": round(time.monotonic() - ran, 3)}
        return Outcome(tuple(cell.source for cell in notebook.cells), execution.cells, verdicts, seconds)


@functools.cache
def current_assignment(root: Path, topic: str) -> Assignment:
    """The assignment with default settings, made once per process: what stock `nbgrader autograde` grades with."""
    return Assignment(Course(root), topic)
