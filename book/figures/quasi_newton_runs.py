"""Runs of BFGS, L-BFGS and gradient descent on four problems.

Everything is in float64 from one start per problem, so that a run is the same on every machine up to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer

from steepest.second_order import LBFGS, bfgs_inverse_update, newton_step, strong_wolfe
from steepest.second_order.lbfgs_report import MAX_ITER

RIDGE = 1e-3
TOLERANCE = 1e-8
FLOOR = 1e-12
MOST_EVALUATIONS = 1000
STARTS = {"(−1.2, 1)": (-1.2, 1.0), "(0, 0)": (0.0, 0.0), "(1.8, −0.6)": (1.8, -0.6), "(−0.5, −1)": (-0.5, -1.0)}
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
        found = strong_wolfe(along(evaluate, point, step), 1.0, loss, slope)
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


def along(evaluate: Callable, point: torch.Tensor, direction: torch.Tensor) -> Callable:
    """A loss on the ray from `point` (D,) along `direction` (D,), in the form that `strong_wolfe` searches.

    `evaluate` gives the loss and its gradient (D,) at a point. The result maps a step size, in multiples of
    `direction`, to the loss, its derivative in the step size, and the gradient (D,).
    """

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
        found = strong_wolfe(along(problem.evaluate, point, direction), first, value, slope)
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
