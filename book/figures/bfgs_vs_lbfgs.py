"""Live figures of the page *What is the difference between BFGS and L-BFGS?*: paths, a race, and M growing into H⁻¹.

Everything runs in float64 on one start per problem, so that a figure is the same on every machine up to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer

from steepest.explore import (
    axis,
    bars,
    choice,
    contour,
    explore,
    figure,
    heatmap,
    line,
    panel,
    rule,
    stops,
    text,
)
from steepest.second_order import LBFGS, bfgs_inverse_update, newton_step, strong_wolfe
from steepest.second_order.lbfgs_report import MAX_ITER

MEMORIES = range(1, 21)
RIDGE = 1e-3
TOLERANCE = 1e-8
FLOOR = 1e-12
MOST_EVALUATIONS = 1000
STARTS = {"(−1.2, 1)": (-1.2, 1.0), "(0, 0)": (0.0, 0.0), "(1.8, −0.6)": (1.8, -0.6), "(−0.5, −1)": (-0.5, -1.0)}
COSTS = ("iterations", "evaluations", "bytes of state")
VALLEY_STEPS = 40
QUADRATIC_SIZE, QUADRATIC_STEPS = 8, 44
EXACT = "exact"
METHODS = ("BFGS", "L-BFGS", "gradient descent")


@dataclass(frozen=True)
class Problem:
    """A loss with its gradient, where to start, and the lowest loss there is."""

    evaluate: Callable[[torch.Tensor], tuple[float, torch.Tensor]]
    start: torch.Tensor
    minimum: float


@dataclass(frozen=True)
class Trace:
    """A run: points (K + 1, D), losses and evaluations so far after k = 0 … K iterations, bytes carried along."""

    points: np.ndarray
    losses: np.ndarray
    evaluations: np.ndarray
    state_bytes: int


def rosenbrock(start: tuple[float, ...]) -> Problem:
    """The chained Rosenbrock function of D variables, 0 at (1, …, 1)."""

    def evaluate(point: torch.Tensor) -> tuple[float, torch.Tensor]:
        bend, distance = point[1:] - point[:-1] ** 2, 1 - point[:-1]
        gradient = torch.zeros_like(point)
        gradient[1:] = 200 * bend
        gradient[:-1] -= 400 * bend * point[:-1] + 2 * distance
        return (100 * bend @ bend + distance @ distance).item(), gradient

    return Problem(evaluate, torch.tensor(start, dtype=torch.float64), 0.0)


def signed_rows(standardised: bool) -> torch.Tensor:
    """The breast cancer data: 569 tumours, 30 columns and a one for the intercept, times +1 (benign) or −1."""
    columns, labels = load_breast_cancer(return_X_y=True)
    columns = torch.tensor(columns)
    if standardised:
        columns = (columns - columns.mean(0)) / columns.std(0, correction=0)
    ones = torch.ones(len(columns), 1, dtype=columns.dtype)
    return torch.tensor(2.0 * labels - 1)[:, None] * torch.cat([columns, ones], dim=1)


def logistic_regression(standardised: bool) -> Problem:
    """Logistic regression on the breast cancer data, with a ridge on all weights but the intercept."""
    signed = signed_rows(standardised)
    ridge = torch.full((signed.shape[1],), RIDGE, dtype=torch.float64)
    ridge[-1] = 0

    def evaluate(point: torch.Tensor) -> tuple[float, torch.Tensor]:
        margins = signed @ point
        loss = torch.nn.functional.softplus(-margins).mean() + 0.5 * (ridge * point) @ point
        return loss.item(), ridge * point - torch.sigmoid(-margins) @ signed / len(signed)

    point = torch.zeros(signed.shape[1], dtype=torch.float64)
    start = point.clone()
    for _ in range(60):
        loss, gradient = evaluate(point)
        weights = torch.sigmoid(signed @ point) * torch.sigmoid(-signed @ point) / len(signed)
        step = newton_step(gradient, signed.T @ (weights[:, None] * signed) + torch.diag(ridge))
        slope = (gradient @ step).item()
        if -slope < 1e-16:
            break
        found = strong_wolfe(_along(evaluate, point, step), 1.0, loss, slope)
        if found.step_size == 0:
            break
        point = point + found.step_size * step
    return Problem(evaluate, start, evaluate(point)[0])


PROBLEMS = {
    "Rosenbrock, D = 2": lambda: rosenbrock((-1.2, 1.0)),
    "Rosenbrock, D = 50": lambda: rosenbrock((0.0,) * 50),
    "logistic regression, standardised columns": lambda: logistic_regression(True),
    "logistic regression, raw columns": lambda: logistic_regression(False),
}


@cache
def problem_named(name: str) -> Problem:
    """The problem of that name, or Rosenbrock in the plane from a start in STARTS."""
    return rosenbrock(STARTS[name]) if name in STARTS else PROBLEMS[name]()


@cache
def run(name: str, method: str, memory: int = 0, initial_scale: float = 1.0) -> Trace:
    """One run of one of METHODS on a problem, until its gap is at FLOOR or the evaluations are used up.

    `initial_scale` multiplies the first matrix of BFGS, which is γI with γ from the first pair.
    """
    problem = problem_named(name)
    if method == "L-BFGS":
        return _lbfgs(problem, memory)
    return _line_search_descent(problem, initial_scale if method == "BFGS" else None)


def gap(name: str, trace: Trace) -> np.ndarray:
    """(loss − minimum) / (loss at the start − minimum); 0 where rounding makes it negative."""
    minimum = problem_named(name).minimum
    return np.maximum((trace.losses - minimum) / (trace.losses[0] - minimum), 0.0)


def arrival(name: str, trace: Trace) -> int | None:
    """The first iteration at which the gap is TOLERANCE or less, None if there is none."""
    arrived = np.flatnonzero(gap(name, trace) <= TOLERANCE)
    return int(arrived[0]) if arrived.size else None


def _along(evaluate: Callable, point: torch.Tensor, direction: torch.Tensor) -> Callable:
    def value_and_slope(step_size: float) -> tuple[float, float, torch.Tensor]:
        value, gradient = evaluate(point + step_size * direction)
        return value, (gradient @ direction).item(), gradient

    return value_and_slope


def _line_search_descent(problem: Problem, initial_scale: float | None) -> Trace:
    """Dense BFGS, or without `initial_scale` gradient descent, which is the same with M = I throughout."""
    point, inverse_hessian, carried = problem.start, None, 0.0
    value, gradient = problem.evaluate(point)
    points, losses, evaluations = [point], [value], [1]
    while not _finished(problem, losses, evaluations[-1]):
        direction = -gradient if inverse_hessian is None else -(inverse_hessian @ gradient)
        slope = (gradient @ direction).item()
        # Without a matrix the first trial assumes the change to first order of the last step (N&W, eq. 3.60).
        unit = inverse_hessian is not None
        first = 1.0 if unit else carried / slope if carried else min(1.0, 1 / gradient.abs().sum().item())
        found = strong_wolfe(_along(problem.evaluate, point, direction), first, value, slope)
        evaluations.append(evaluations[-1] + found.evaluations)
        if found.step_size == 0:
            break
        step, change = found.step_size * direction, found.payload - gradient
        if initial_scale is not None and step @ change > 0:
            if inverse_hessian is None:
                scale = initial_scale * (step @ change) / (change @ change)
                inverse_hessian = scale * torch.eye(len(step), dtype=step.dtype)
            inverse_hessian = bfgs_inverse_update(inverse_hessian, step, change)
        carried = found.step_size * slope
        point, value, gradient = point + step, found.value, found.payload
        points.append(point)
        losses.append(value)
    # Gradient descent carries one number from step to step: the last one's predicted change.
    return _trace(points, losses, evaluations, 8 if inverse_hessian is None else inverse_hessian.nbytes)


def _lbfgs(problem: Problem, memory: int) -> Trace:
    """The course's optimizer, one iteration a call, so that each iterate can be seen."""
    point = problem.start.clone().requires_grad_()
    optimizer = LBFGS([point], max_iter=1, max_eval=100, tolerance_grad=0, tolerance_change=0, history_size=memory)

    evaluate = _remembering_last(problem.evaluate)

    def closure() -> torch.Tensor:
        value, point.grad = evaluate(point.detach())
        return torch.tensor(value, dtype=point.dtype)

    points, losses, evaluations = [problem.start], [evaluate(problem.start)[0]], [1]
    while not _finished(problem, losses, evaluations[-1]):
        optimizer.step(closure)
        points.append(point.detach().clone())
        losses.append(evaluate(points[-1])[0])
        # Every call evaluates its first point anew; a single call would have had it already.
        evaluations.append(optimizer.report.function_evaluations - len(points) + 2)
        if optimizer.report.reason != MAX_ITER:
            break
    return _trace(points, losses, evaluations, optimizer.report.history_bytes)


def _remembering_last(evaluate: Callable) -> Callable:
    """`evaluate`, which does not compute again what it was asked for last: a call begins where the one before ended."""
    last: list = [None, None]

    def remembering(point: torch.Tensor) -> tuple[float, torch.Tensor]:
        if last[0] is None or not torch.equal(last[0], point):
            last[:] = point.clone(), evaluate(point)
        return last[1]

    return remembering


def _finished(problem: Problem, losses: list[float], evaluations: int) -> bool:
    return losses[-1] - problem.minimum <= FLOOR * (losses[0] - problem.minimum) or evaluations >= MOST_EVALUATIONS


def _trace(points: list, losses: list, evaluations: list, state_bytes: int) -> Trace:
    return Trace(torch.stack(points).numpy(), np.array(losses), np.array(evaluations[: len(losses)]), state_bytes)


def _thinned(trace: Trace, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and values at `count` of the iterates 1 … K, evenly spaced on a log axis; the last is repeated."""
    last = len(values) - 1
    wanted = np.unique(np.round(np.geomspace(1, last, count)).astype(int)) if last > count else np.arange(1, last + 1)
    wanted = np.concatenate([wanted, np.full(count - len(wanted), last)])
    return wanted, values[wanted]


def scientific(value: float) -> str:
    """A positive number to one digit, or two where it needs no power of ten.

    >>> scientific(3.2e-5), scientific(1e-8), scientific(0.25)
    ('3·10⁻⁵', '10⁻⁸', '0.25')
    """
    if 0.01 <= value < 100:
        return f"{value:.2g}"
    digit, exponent = f"{value:.0e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if digit == "1" else f"{digit}·{power}"


TASK = f"to shrink the gap to the minimum to {scientific(TOLERANCE)} of its start"


def _outcome(name: str, method: str, trace: Trace) -> str:
    arrived = arrival(name, trace)
    if arrived is None:
        left = scientific(gap(name, trace)[-1])
        return f"{method} is still at {left} when {MOST_EVALUATIONS:,} evaluations are used up"
    return f"{method} takes {arrived:,} iterations and {trace.evaluations[arrived]:,} evaluations"


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


@cache
def learning(condition: float, search: str) -> tuple[np.ndarray, np.ndarray]:
    """BFGS on a quadratic with D = QUADRATIC_SIZE and eigenvalues from 1 to `condition`, in its eigenbasis.

    Returns the errors E = H^½ M H^½ − I after k = 0 … QUADRATIC_STEPS updates, (K + 1, D, D), and the norm of the
    gradient as a share of the first, (K + 1,). M starts as I / `condition`.
    """
    curvatures = torch.logspace(0, np.log10(condition), QUADRATIC_SIZE, dtype=torch.float64)
    roots, identity = curvatures.sqrt(), torch.eye(QUADRATIC_SIZE, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(QUADRATIC_SIZE, generator=generator, dtype=torch.float64)

    def evaluate(point: torch.Tensor) -> tuple[float, torch.Tensor]:
        gradient = curvatures * point
        return 0.5 * (gradient @ point).item(), gradient

    inverse_hessian = identity / condition
    value, gradient = evaluate(point)
    errors, norms = [], []
    for _ in range(QUADRATIC_STEPS + 1):
        errors.append(roots[:, None] * inverse_hessian * roots - identity)
        norms.append(gradient.norm().item())
        if norms[-1] <= 1e-10 * norms[0]:
            continue
        direction = -(inverse_hessian @ gradient)
        slope = (gradient @ direction).item()
        step_size = -slope / (direction @ (curvatures * direction)).item()
        if search != EXACT:
            step_size = strong_wolfe(_along(evaluate, point, direction), 1.0, value, slope).step_size
        step = step_size * direction
        before, (value, gradient) = gradient, evaluate(point + step)
        inverse_hessian = bfgs_inverse_update(inverse_hessian, step, gradient - before)
        point = point + step
    return torch.stack(errors).numpy(), np.array(norms) / norms[0]


def approach(condition: float, search: str, step: int):
    """What BFGS's matrix still gets wrong on a quadratic, step by step."""
    errors, norms = learning(condition, search)
    sizes = np.linalg.norm(errors, axis=(1, 2))
    steps = np.arange(QUADRATIC_STEPS + 1)
    curves = [(sizes, "error of M", 0), (norms, "gradient", 2)]
    depends = ["condition", "search"]
    return figure(
        panel(
            heatmap(
                errors[step],
                x=(0.5, QUADRATIC_SIZE + 0.5),
                y=(0.5, QUADRATIC_SIZE + 0.5),
                domain=(-1, 1),
                label="error of M",
            ),
            title="Error of M by pairs of eigenvectors",
            x=axis("eigenvector j, flat to steep", domain=(0.5, QUADRATIC_SIZE + 0.5)),
            y=axis("eigenvector i, flat to steep", domain=(0.5, QUADRATIC_SIZE + 0.5)),
            equal=True,
        ),
        panel(
            *(line(steps, curve, label=label, series=series, depends=depends) for curve, label, series in curves),
            *(
                line(steps, curve, series=series, style="dots", depends=depends, reveal="step")
                for curve, _, series in curves
            ),
            rule(x=QUADRATIC_SIZE, label="D steps", depends=[]),
            title="Norms",
            x=axis("step", domain=(0, QUADRATIC_STEPS)),
            y=axis("norm", domain=(FLOOR, 100), scale="log"),
        ),
        alt=f"At condition number {condition:,} with {search} line search, the error of M falls from {sizes[0]:.1f} to "
        f"{scientific(sizes[QUADRATIC_SIZE])} in {QUADRATIC_SIZE} steps and to {scientific(sizes[-1])} in "
        f"{QUADRATIC_STEPS}; the gradient falls to {scientific(norms[QUADRATIC_SIZE])} and then to "
        f"{scientific(norms[-1])} of its start.",
    )


def approach_figure():
    """The matrix of BFGS on its way to the inverse Hessian."""
    return explore(
        approach,
        condition=stops([3, 10, 30, 100], default=100, label="condition number κ"),
        search=choice([EXACT, "strong Wolfe"], label="line search"),
        step=stops(range(QUADRATIC_STEPS + 1), default=5, label="step", play=True),
    )
