"""Nonlinear conjugate gradients as a torch optimizer, with restarts and a strong Wolfe line search.

Source: Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), algorithm 5.4, sections 5.2 and 3.5.

| book            | here                                | shape        |
|-----------------|-------------------------------------|--------------|
| x_k             | `objective.point`                   | (D,)         |
| f_k, ∇f_k       | `current.value`, `current.gradient` | number, (D,) |
| ∇f_{k-1}        | `state["gradient"]`                 | (D,)         |
| p_k, p_{k-1}    | `direction`, `state["direction"]`   | (D,)         |
| p_k^T ∇f_k      | `slope`                             | number       |
| α_k             | `result.step_size`                  | number       |
| ν (5.52)        | `restart_threshold`                 | number       |
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from steepest.second_order.flat_objective import Evaluation, FlatObjective, to_host
from steepest.second_order.lbfgs_report import (
    GRADIENT,
    LOSS,
    MAX_EVAL,
    MAX_ITER,
    NONFINITE,
    NOT_STARTED,
    REASONS,
    ROUNDING,
    SEARCH_FAILED,
    SLOPE,
    STEP,
)
from steepest.second_order.line_search import strong_wolfe
from steepest.second_order.nonlinear_cg_beta import BETAS
from steepest.second_order.nonlinear_cg_report import NonlinearCGReport
from steepest.second_order.single_group import SEARCH_EVALUATIONS, SingleGroupOptimizer, checked_max_eval
from steepest.validation import require_count, require_positive

# c2 < 1/2 makes each Fletcher-Reeves direction descend (N&W, lemma 5.6); 0.1 as β assumes a minimum along p.
C1, C2 = 1e-4, 0.1
COUNTERS = ("iterations", "function_evaluations", "restarts", "line_search_failures", "nonfinite_losses")


class NonlinearCG(SingleGroupOptimizer):
    """Nonlinear conjugate gradients for deterministic losses (Nocedal & Wright, algorithm 5.4).

    The direction is p = -∇f + β p_previous, at first -∇f; the state is two vectors, where L-BFGS keeps 2 m. The
    step along p satisfies the strong Wolfe conditions with c2 = 0.1, and is searched for from
    2 (f_k - f_{k-1}) / p_kᵀ∇f_k, at which a quadratic falls by as much as in the last step (eq. 3.60).

    It restarts from -∇f where p doesn't descend; after `restart_interval` steps; where successive gradients are
    far from orthogonal, |∇f_kᵀ∇f_{k-1}| >= ν ∇f_kᵀ∇f_k (eq. 5.52); where a search along p fails; and where a call
    of `step` starts with another loss than the last one ended with: data or parameters have changed then.

    Interface and account are those of `LBFGS`: one parameter group, a closure, a `report`; within a call the loss never
    rises, no point is accepted where loss or gradient isn't finite, and a closure that raises leaves the last accepted.

    Args:
        params: parameters (float32 or float64, dense), or one parameter group.
        lr: the first search starts from lr min(1, 1 / |∇f|_1).
        max_iter: most iterations in a call of `step`.
        max_eval: most evaluations of the closure in a call; by default max_iter * 5 // 4, but at least 25.
        tolerance_grad: stops where no entry of the gradient is larger.
        tolerance_change: stops where step, change of the loss or slope is smaller; 0 turns it off.
        beta: "polak_ribiere_plus" or "fletcher_reeves".
        restart_interval: most steps without a restart; by default D, the number of elements.
        restart_threshold: ν; inf turns the test off. By default 0.1, the book's, for Fletcher-Reeves, and inf for
            Polak-Ribière+, which restarts by itself where a step is short.

    Raises:
        TypeError: a parameter is complex, sparse or of another dtype, dtypes differ, or a number isn't one.
        ValueError: no parameter, more than one group, several devices, or an option is out of range.

    Example:
        >>> point = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = NonlinearCG([point], max_iter=100, tolerance_change=0)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (1 - point[0]) ** 2 + 100 * (point[1] - point[0] ** 2) ** 2
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item()
        24.199999999999996
        >>> torch.allclose(point, torch.ones(2, dtype=torch.float64)), optimizer.report.converged
        (True, True)
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        beta: str = "polak_ribiere_plus",
        restart_interval: int | None = None,
        restart_threshold: float | None = None,
    ) -> None:
        require_positive("lr", lr)
        max_eval = checked_max_eval(max_iter, max_eval, tolerance_grad, tolerance_change)
        if beta not in BETAS:
            raise ValueError(f"beta must be one of {', '.join(BETAS)}, got {beta!r}")
        if restart_interval is not None:
            require_count("restart_interval", restart_interval)
        if restart_threshold is None:
            restart_threshold = 0.1 if beta == "fletcher_reeves" else math.inf
        if restart_threshold != math.inf:
            require_positive("restart_threshold", restart_threshold)
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "beta": beta,
            "restart_interval": restart_interval,
            "restart_threshold": restart_threshold,
        }
        super().__init__(params, defaults)

    @property
    def report(self) -> NonlinearCGReport:
        """What happened so far."""
        state = self.state.get(self.param_groups[0]["params"][0])
        if not state:
            return NonlinearCGReport()
        return NonlinearCGReport(**{name: state[name] for name in COUNTERS}, reason=REASONS[state["reason"]])

    def state_dict(self) -> dict[str, Any]:
        """Return the state as it is now; torch's own would go on changing with the steps."""
        packed = super().state_dict()
        return {**packed, "state": {key: dict(entries) for key, entries in packed["state"].items()}}

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor:
        """Run up to `max_iter` iterations and return the loss at the start.

        Args:
            closure: clears the gradients, computes the loss, calls backward, returns the loss.

        Raises:
            TypeError: `closure` is missing, or returns no tensor.
            ValueError: `closure` returns more than one element or leaves no gradient, or a schedule has set `lr` to 0.
        """
        if not callable(closure):
            raise TypeError("NonlinearCG.step needs a closure that clears gradients, calls backward, returns the loss")
        require_positive("lr", self.param_groups[0]["lr"])
        parameters = self.param_groups[0]["params"]
        state = self.state[parameters[0]]
        objective = FlatObjective(parameters, closure)
        if not state:
            zero = torch.zeros_like(objective.point)
            state.update(dict.fromkeys(COUNTERS, 0), reason=REASONS.index(NOT_STARTED), direction=zero, gradient=zero)
            # The last step: the loss after it, its decrease; and the steps since the last restart.
            state.update(value=math.nan, decrease=0.0, steps=0)
        try:
            state["reason"] = REASONS.index(self._minimise(objective, state))
        finally:
            state["function_evaluations"] += objective.evaluations
            state["nonfinite_losses"] += objective.nonfinite
        return objective.first_loss

    def _minimise(self, objective: FlatObjective, state: dict[str, Any]) -> str:
        """Iterate from the parameters as they are; return why it ended."""
        group, finfo = self.param_groups[0], torch.finfo(objective.point.dtype)
        max_eval, tolerance_change = group["max_eval"], group["tolerance_change"]
        current = objective.evaluate()
        if not math.isfinite(current.value):
            return NONFINITE
        if current.gradient_max <= group["tolerance_grad"]:
            return GRADIENT
        # Sums that run in another order change the last digits of the loss, other data more than that.
        if state["steps"] and abs(current.value - state["value"]) > math.sqrt(finfo.eps) * abs(state["value"]):
            _restart(state)
            state["decrease"] = 0.0

        for _ in range(group["max_iter"]):
            if objective.evaluations >= max_eval:
                return MAX_EVAL
            state["iterations"] += 1
            direction, slope, largest = self._direction(current, state)
            # The gradient isn't zero, so a slope of zero has left the range of the dtype: nothing has converged.
            if not -math.inf < slope < 0:
                return ROUNDING
            if not slope < -tolerance_change:
                return SLOPE
            limit = min(SEARCH_EVALUATIONS, max_eval - objective.evaluations)
            first = self._first_step(current, state, slope)
            result = strong_wolfe(objective.along(direction), first, current.value, slope, C1, C2, limit)
            state["line_search_failures"] += not result.success
            new = result.payload
            if new is None:
                objective.reset(objective.point)
                if abs(slope) * first <= finfo.eps * abs(current.value):
                    return ROUNDING
                if state["steps"] == 0:
                    return MAX_EVAL if objective.evaluations >= max_eval else SEARCH_FAILED
                _restart(state)
                state["decrease"] = 0.0  # it may have been what led the search astray
                continue

            objective.accept(direction, result.step_size)
            decrease = current.value - new.value
            state.update(direction=direction, gradient=current.gradient, value=new.value, decrease=decrease)
            state["steps"] += 1
            current = new
            if current.gradient_max <= group["tolerance_grad"]:
                return GRADIENT
            if result.step_size * largest <= tolerance_change:
                return STEP
            if decrease < tolerance_change:
                return LOSS
        return MAX_ITER

    def _direction(self, current: Evaluation, state: dict[str, Any]) -> tuple[torch.Tensor, float, float]:
        """Return p_k (D,), its slope and its largest entry, by one transfer to the host unless it restarts."""
        group, gradient = self.param_groups[0], current.gradient
        if 0 < state["steps"] < (group["restart_interval"] or gradient.numel()):
            beta = BETAS[group["beta"]](gradient, state["gradient"])
            direction = torch.addcmul(-gradient, state["direction"], beta)  # (5.41b)
            slope, overlap, square, lowest, highest = to_host(
                torch.dot(gradient, direction),
                torch.dot(gradient, state["gradient"]),
                torch.dot(gradient, gradient),
                *torch.aminmax(direction),
            )
            if -math.inf < slope < 0 and abs(overlap) < group["restart_threshold"] * square:
                return direction, slope, max(-lowest, highest)
        if state["steps"]:
            _restart(state)
        (square,) = to_host(torch.dot(gradient, gradient))
        return -gradient, -square, current.gradient_max

    def _first_step(self, current: Evaluation, state: dict[str, Any], slope: float) -> float:
        """Return the step size to try first."""
        step_size = 2 * state["decrease"] / -slope  # (3.60)
        if 0 < step_size < math.inf:
            return step_size
        (total,) = to_host(current.gradient.abs().sum())
        return self.param_groups[0]["lr"] * min(1.0, 1 / total)


def _restart(state: dict[str, Any]) -> None:
    """Give up the last direction."""
    state["steps"] = 0
    state["restarts"] += 1
