"""BFGS, L-BFGS and gradient descent side by side: over Rosenbrock's valley, and in a race on four problems."""

from functools import cache

import numpy as np

from book.figures.quasi_newton_runs import (
    FLOOR,
    METHODS,
    MOST_EVALUATIONS,
    PROBLEMS,
    STARTS,
    TOLERANCE,
    Trace,
    arrival,
    gap,
    run,
)
from book.figures.wording import scientific
from steepest.explore import axis, bars, choice, contour, explore, figure, line, panel, rule, stops, text

MEMORIES = range(1, 21)
COSTS = ("iterations", "evaluations", "bytes of state")
VALLEY_STEPS = 40
TASK = f"to shrink the gap to the minimum to {scientific(TOLERANCE)} of its start"


def _outcome(name: str, method: str, trace: Trace) -> str:
    arrived = arrival(name, trace)
    if arrived is None:
        left = scientific(gap(name, trace)[-1])
        return f"{method} is still at {left} when {MOST_EVALUATIONS:,} evaluations are used up"
    return f"{method} takes {arrived:,} iterations and {trace.evaluations[arrived]:,} evaluations"


def _thinned(trace: Trace, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and values at `count` of the iterates 1 … K, evenly spaced on a log axis; the last is repeated."""
    last = len(values) - 1
    wanted = np.unique(np.round(np.geomspace(1, last, count)).astype(int)) if last > count else np.arange(1, last + 1)
    wanted = np.concatenate([wanted, np.full(count - len(wanted), last)])
    return wanted, values[wanted]


def race(problem: str, memory: int, count: str):
    """The gap against the work done, and what each method has spent and stored when the gap is at TOLERANCE."""
    gaps, costs, outcomes = [], [], []
    for series, method in enumerate(METHODS):
        uses_memory = method == "L-BFGS"
        trace = run(problem, method, memory if uses_memory else 0)
        iterations, height = _thinned(trace, gap(problem, trace), 64 if uses_memory else 96)
        work = iterations if count == "iterations" else trace.evaluations[iterations]
        depends = ["problem", "memory"] if uses_memory else ["problem"]
        gaps.append(line(work, height, label=method, series=series, depends=[*depends, "count"]))
        arrived = arrival(problem, trace)
        at = len(trace.losses) - 1 if arrived is None else arrived
        costs.append(
            bars(COSTS, [at, trace.evaluations[at], trace.state_bytes], label=method, series=series, depends=depends)
        )
        outcomes.append(_outcome(problem, f"L-BFGS with m = {memory}" if uses_memory else method, trace))
    stored = [f"{run(problem, method, memory if method == 'L-BFGS' else 0).state_bytes:,}" for method in METHODS]
    return figure(
        panel(
            *gaps,
            rule(y=TOLERANCE, label="tolerance", depends=[]),
            title="How far from the minimum",
            x=axis("work done, in the unit chosen", domain=(1, MOST_EVALUATIONS), scale="log"),
            y=axis("share of the starting gap", domain=(FLOOR, 2), scale="log"),
        ),
        panel(
            *costs,
            title="Spent until the tolerance, and stored",
            x=axis("cost", categories=COSTS),
            y=axis("number of each", domain=(1, 1e5), scale="log"),
        ),
        alt=f"On {problem}, {TASK}, {'; '.join(outcomes)}. "
        f"They carry {stored[0]}, {stored[1]} and {stored[2]} bytes from step to step.",
    )


def race_figure():
    """BFGS, L-BFGS of every memory from 1 to 20 and gradient descent on four problems."""
    return explore(
        race,
        problem=choice(PROBLEMS, default="logistic regression, standardised columns", label="problem"),
        memory=stops(MEMORIES, default=10, label="memory m, in pairs"),
        count=choice(["iterations", "evaluations"], label="work counted in"),
    )


@cache
def _valley_surface() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = np.linspace(-2, 2.2, 127), np.linspace(-1.5, 3.5, 127)
    z = 100 * (y[:, None] - x**2) ** 2 + (1 - x) ** 2
    return x, y, np.log10(np.maximum(z, 0.1))


def valley(start: str, memory: int, step: int):
    """The first iterates on Rosenbrock's function in the plane, over its level lines, and the gap beside them."""
    # The step only reveals points, so that all steps share one figure.
    return _whole_valley(start, memory)


@cache
def _whole_valley(start: str, memory: int):
    paths, gaps, outcomes = [], [], []
    for series, method in enumerate(METHODS):
        uses_memory = method == "L-BFGS"
        trace = run(start, method, memory if uses_memory else 0)
        shown = np.minimum(np.arange(VALLEY_STEPS + 1), len(trace.losses) - 1)
        depends = ["start", "memory"] if uses_memory else ["start"]
        options = {"label": method, "series": series, "style": "both", "depends": depends, "reveal": "step"}
        paths.append(line(*trace.points[shown].T, **options))
        gaps.append(line(np.arange(VALLEY_STEPS + 1), gap(start, trace)[shown], **options))
        outcomes.append(_outcome(start, f"L-BFGS with m = {memory}" if uses_memory else method, trace))
    return figure(
        panel(
            contour(*_valley_surface(), levels=[0.5, 1.5, 2.5, 3.5], depends=[]),
            *paths,
            text(1.15, 0.75, "minimum", depends=[]),
            title="Paths over level lines",
            x=axis("θ₁", domain=(-2, 2.2)),
            y=axis("θ₂", domain=(-1.5, 3.5)),
        ),
        panel(
            *gaps,
            title="How far from the minimum",
            x=axis("iteration", domain=(0, VALLEY_STEPS)),
            y=axis("share of the starting gap", domain=(FLOOR, 2), scale="log"),
        ),
        alt=f"From {start}, {TASK}, {'; '.join(outcomes)}. "
        "The quasi-Newton paths follow the curved valley in long steps; gradient descent creeps along its floor.",
    )


def valley_figure():
    """Three methods in Rosenbrock's valley, step by step."""
    return explore(
        valley,
        start=choice(STARTS, label="start"),
        memory=stops(MEMORIES, default=5, label="memory m, in pairs"),
        step=stops(range(VALLEY_STEPS + 1), default=VALLEY_STEPS, label="iteration", play=True),
    )
