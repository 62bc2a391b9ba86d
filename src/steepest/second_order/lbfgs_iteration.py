"""The iteration of L-BFGS, from the first evaluation to the reason to stop.

Source: Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), algorithm 7.5 and section 7.2.

| paper           | here                       | shape  |
|-----------------|----------------------------|--------|
| x_k             | `objective.point`          | (D,)   |
| f_k, ∇f_k       | `current.value`, `.gradient` | number, (D,) |
| p_k = -H_k ∇f_k | `direction`                | (D,)   |
| p_k^T ∇f_k      | `slope`                    | number |
| α_k             | `step_size`                | number |
| s_k, y_k        | rows of a `PairHistory`    | (m, D) |
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from steepest.second_order.flat_objective import Evaluation, FlatObjective, to_host
from steepest.second_order.lbfgs_report import (
    GRADIENT,
    LOSS,
    MAX_EVAL,
    MAX_ITER,
    NONFINITE,
    ROUNDING,
    SEARCH_FAILED,
    SLOPE,
    STEP,
)
from steepest.second_order.line_search import LineSearchResult, strong_wolfe
from steepest.second_order.pair_history import PairHistory
from steepest.second_order.single_group import SEARCH_EVALUATIONS


def minimise(objective: FlatObjective, history: PairHistory, options: dict[str, Any], counters: dict[str, Any]) -> str:
    """Iterate from the parameters as they are; they are left at the best point seen.

    Args:
        objective: the loss, whose parameters move.
        history: pairs of earlier calls, which new ones join.
        options: `lr`, `max_iter`, `max_eval`, `tolerance_grad`, `tolerance_change`, `line_search_fn` of `LBFGS`.
        counters: counts of `LBFGSReport`, of which `iterations`, `skipped_pairs`, `line_search_failures` and
            `history_resets` go up.

    Returns:
        Why it ended, a constant of `lbfgs_report`.
    """
    lr, max_eval, tolerance_change = float(options["lr"]), options["max_eval"], options["tolerance_change"]
    current = objective.evaluate()
    if not math.isfinite(current.value):
        return NONFINITE
    if current.gradient_max <= options["tolerance_grad"]:
        return GRADIENT
    if objective.evaluations >= max_eval:
        return MAX_EVAL

    searching = options["line_search_fn"] is not None
    finfo = torch.finfo(objective.point.dtype)
    # A line search never accepts a higher loss; without one the iterates may rise.
    best_value, best_point = current.value, objective.point if searching else objective.point.clone()
    for _ in range(options["max_iter"]):
        counters["iterations"] += 1
        direction = history.direction(current.gradient) if history.count else _scaled_descent(current.gradient)
        # The largest entry of the step is for tolerance_change only.
        extremes = torch.aminmax(direction) if tolerance_change > 0 else ()
        slope, *extremes = to_host(torch.dot(current.gradient, direction), *extremes)
        if history.count and not -math.inf < slope < 0:
            history.clear()
            counters["history_resets"] += 1
            continue
        # The gradient isn't zero, so a slope of zero has left the range of the dtype: nothing has converged.
        if not slope < 0:
            return ROUNDING
        if not slope < -tolerance_change:
            return SLOPE

        evaluate = objective.along(direction)
        if searching:
            limit = max(1, min(SEARCH_EVALUATIONS, max_eval - objective.evaluations))
            result = strong_wolfe(evaluate, lr, current.value, slope, max_evaluations=limit)
            counters["line_search_failures"] += not result.success
        else:
            result = _fixed_step(evaluate, lr)
        new = result.payload
        if new is None:
            objective.reset(best_point)
            if not searching:
                return NONFINITE
            if abs(slope) * lr <= finfo.eps * abs(current.value):
                return ROUNDING
            if history.count == 0:
                return MAX_EVAL if objective.evaluations >= max_eval else SEARCH_FAILED
            history.clear()
            counters["history_resets"] += 1
            if objective.evaluations >= max_eval:
                return MAX_EVAL
            continue

        objective.accept(direction, result.step_size)
        if not searching and new.value < best_value:
            best_value = new.value
            best_point.copy_(objective.point)

        # s^T y = α (φ'(α) - φ'(0)): known on the host already. Below rounding its sign means nothing.
        curvature = result.slope - slope
        if curvature > finfo.eps * abs(slope) and result.step_size * curvature > finfo.tiny:
            history.push(result.step_size, direction, new.gradient, current.gradient)
        else:
            counters["skipped_pairs"] += 1
        change = abs(new.value - current.value)
        current = new
        if current.gradient_max <= options["tolerance_grad"]:
            return GRADIENT
        if extremes and result.step_size * max(-extremes[0], extremes[1]) <= tolerance_change:
            return STEP
        if change < tolerance_change:
            return LOSS
        if objective.evaluations >= max_eval:
            return MAX_EVAL
    return MAX_ITER


def _scaled_descent(gradient: torch.Tensor) -> torch.Tensor:
    """Return -g min(1, 1 / |g|_1): without pairs the scale is unknown, so no step is longer than 1."""
    return -gradient * (1 / gradient.abs().sum()).clamp(max=1)


def _fixed_step(evaluate: Callable[[float], tuple[float, float, Evaluation]], lr: float) -> LineSearchResult:
    """Take the step `lr` unless the loss or gradient there isn't finite."""
    value, slope, payload = evaluate(lr)
    finite = math.isfinite(value)
    return LineSearchResult(lr, value, slope, 1, finite, payload if finite else None)
