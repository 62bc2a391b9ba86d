"""Grading one submission: run it in a child process, send it hidden inputs, judge what comes back.

Expected values, seeds and records stay in this process; what the child sends is evidence, not a grade.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autograder.child import CellRun, Child, ChildEnded, InfrastructureFailure, Limits, error_output

MAX_STARTS = 4  # a submission that kills its process is started again without the cell that did it
STOPPING = {"missing": "not defined", "interrupted": "time limit"}


@dataclass
class Execution:
    """What running one submission gave.

    Attributes:
        cells: position in the notebook → CellRun.
        observations: exercise name → one dict of observations per hidden case that was run.
        problems: exercise name → why not all of its cases were run.
    """

    cells: dict = field(default_factory=dict)
    observations: dict = field(default_factory=dict)
    problems: dict = field(default_factory=dict)


def execute(
    cells: dict[int, str], cases: dict[str, Sequence], kit: Path, topic: str, limits: Limits
) -> Execution:
    """Run a notebook's code cells, then each exercise's hidden cases on what they defined.

    Args:
        cells: position in the notebook → source, in order.
        cases: exercise name → its hidden cases (only their `inputs` are sent).
        kit: The unpacked kit.
        topic: The topic.
        limits: Wall-clock limits.

    Raises:
        InfrastructureFailure: A child could not be started, twice in a row.
    """
    execution = Execution()
    deadline = time.monotonic() + limits.total
    fatal: dict[int, CellRun] = {}
    for _ in range(MAX_STARTS):
        if time.monotonic() >= deadline:
            break
        with start_child(kit, topic, limits, deadline) as child:
            if run_cells(child, cells, fatal, execution) and observe_cases(child, cases, execution):
                return execution
    why = "total time limit" if time.monotonic() >= deadline else "it kept killing its process"
    for index in cells:
        execution.cells.setdefault(index, CellRun([error_output("NotRun", why)], why))
    for exercise in cases:
        if len(execution.observations.get(exercise, ())) < len(cases[exercise]):
            execution.problems.setdefault(exercise, why)
    return execution


def start_child(kit: Path, topic: str, limits: Limits, deadline: float) -> Child:
    """Start a child; a failure is tried once more before it counts."""
    try:
        return Child(kit, topic, limits, deadline)
    except InfrastructureFailure:
        return Child(kit, topic, limits, deadline)


def run_cells(child: Child, cells: dict[int, str], fatal: dict[int, CellRun], execution: Execution) -> bool:
    """Run the cells but for the fatal ones; False if the process did not survive, which adds the culprit."""
    for index, source in cells.items():
        if index in fatal:
            continue
        try:
            execution.cells[index] = child.run_cell(source)
        except ChildEnded as ended:
            fatal[index] = CellRun([error_output("ProcessEnded", str(ended))], str(ended))
            execution.cells[index] = fatal[index]
            return False
    return True


def observe_cases(child: Child, cases: dict[str, Sequence], execution: Execution) -> bool:
    """Observe every exercise not observed yet; False if the process did not survive one, which then counts."""
    for exercise, hidden in cases.items():
        if exercise in execution.observations:
            continue
        observed = execution.observations[exercise] = []
        for case in hidden:
            try:
                status, observations = child.observe(exercise, case.inputs)
            except ChildEnded as ended:
                execution.problems[exercise] = str(ended)
                return False
            if status in STOPPING:
                execution.problems[exercise] = STOPPING[status]
                break
            observed.append(observations)
    return True
