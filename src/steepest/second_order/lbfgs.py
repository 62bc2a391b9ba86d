"""L-BFGS as a torch optimizer, with a strong Wolfe line search and an account of what happened.

Sources: Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Prog. 45
(1989); Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), algorithm 7.5 and section 7.2.

| paper           | here                       | shape  |
|-----------------|----------------------------|--------|
| x_k             | `point`                    | (D,)   |
| f_k, ∇f_k       | `current.value`, `.gradient` | number, (D,) |
| p_k = -H_k ∇f_k | `direction`                | (D,)   |
| p_k^T ∇f_k      | `slope`                    | number |
| α_k             | `step_size`                | number |
| m               | `history_size`             | number |
| s_k, y_k        | rows of a `PairHistory`    | (m, D) |
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
    LBFGSReport,
)
from steepest.second_order.line_search import LineSearchResult, strong_wolfe
from steepest.second_order.pair_history import PairHistory
from steepest.second_order.validation import require_float_tensor

# Most evaluations in one line search, the default of torch.optim.LBFGS's.
SEARCH_EVALUATIONS = 25
COUNTERS = (
    "iterations",
    "function_evaluations",
    "skipped_pairs",
    "line_search_failures",
    "nonfinite_losses",
    "history_resets",
)


class LBFGS(torch.optim.Optimizer):
    """Limited-memory BFGS for deterministic losses (Nocedal & Wright, algorithm 7.5).

    Arguments and their order are those of `torch.optim.LBFGS`, and so are the defaults, except that the line
    search is on. Like there, all parameters form one group and share dtype and device. Different are:

    - A pair (s, y) is formed from two gradients of the same call of `step`, so that data which change between
      the calls don't enter y. For this, the last point of a call is evaluated without line search too.
    - A step is refused where loss or gradient isn't finite: the parameters are left at the best point seen.
    - What happened stands in `report` and is part of the state.

    With the line search, the loss never rises within a call of `step`. Without it, each step has size `lr`.

    Args:
        params: parameters (float32 or float64, dense), or one parameter group.
        lr: step size to try first, or to take without line search. The first step, and each one without
            pairs, goes along the gradient scaled by min(1, 1 / |g|_1).
        max_iter: most iterations in a call of `step`.
        max_eval: most evaluations of the closure in a call. By default max_iter * 5 // 4 as in torch, but at
            least 25, so that a call of one iteration can finish its line search.
        tolerance_grad: stops where no entry of the gradient is larger.
        tolerance_change: stops where step, change of the loss or slope is smaller; 0 turns it off.
        history_size: m, the pairs kept; they take 2 m D numbers.
        line_search_fn: "strong_wolfe" or None.

    Raises:
        TypeError: a parameter is complex, sparse or of another dtype, or dtypes differ.
        ValueError: no parameter, more than one group, several devices, or an option is out of range.

    Example:
        >>> point = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = LBFGS([point], max_iter=100, tolerance_change=0)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (1 - point[0]) ** 2 + 100 * (point[1] - point[0] ** 2) ** 2
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item()
        24.199999999999996
        >>> torch.allclose(point, torch.ones(2, dtype=torch.float64))
        True
        >>> optimizer.report.converged
        True
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float | torch.Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = "strong_wolfe",
    ) -> None:
        if isinstance(lr, torch.Tensor) and lr.numel() != 1:
            raise ValueError(f"lr as a tensor must have one element, got shape {tuple(lr.shape)}")
        if not 0 < float(lr) < math.inf:
            raise ValueError(f"lr must be finite and > 0, got {float(lr)}")
        if max_eval is None:
            max_eval = max(max_iter * 5 // 4, SEARCH_EVALUATIONS)
        for name, number in (("max_iter", max_iter), ("max_eval", max_eval), ("history_size", history_size)):
            if number < 1:
                raise ValueError(f"{name} must be >= 1, got {number}")
        for name, number in (("tolerance_grad", tolerance_grad), ("tolerance_change", tolerance_change)):
            if not number >= 0:
                raise ValueError(f"{name} must be >= 0, got {number}")
        if line_search_fn not in ("strong_wolfe", None):
            raise ValueError(f"line_search_fn must be 'strong_wolfe' or None, got {line_search_fn!r}")
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one parameter group; called by the constructor.

        Raises:
            TypeError: a parameter is complex, sparse or of another dtype, or dtypes differ.
            ValueError: there is a group already, the group is empty, or devices differ.
        """
        if self.param_groups:
            raise ValueError("LBFGS has one parameter group only: pass all parameters in a single list")
        super().add_param_group(param_group)
        parameters = self.param_groups[0]["params"]
        if sum(parameter.numel() for parameter in parameters) == 0:
            raise ValueError("LBFGS got no parameter elements to optimize")
        for i, parameter in enumerate(parameters):
            require_float_tensor(f"params[{i}]", parameter)
            if parameter.dtype != parameters[0].dtype:
                raise TypeError(f"params[{i}] is {parameter.dtype} but params[0] is {parameters[0].dtype}")
            if parameter.device != parameters[0].device:
                raise ValueError(
                    f"params[{i}] is on {parameter.device} but params[0] on {parameters[0].device}"
                )

    @property
    def report(self) -> LBFGSReport:
        """What happened so far."""
        state = self.state.get(self.param_groups[0]["params"][0])
        if not state:
            return LBFGSReport()
        counters = {name: state[name] for name in COUNTERS}
        history_bytes = sum(state[name].nbytes for name in PairHistory.TENSORS)
        return LBFGSReport(**counters, history_bytes=history_bytes, reason=REASONS[state["reason"]])

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state: the ring is written in place, so that references would change."""
        return _with_cloned_state(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a copy of what `state_dict` returned; the optimizer goes on from there."""
        super().load_state_dict(_with_cloned_state(state_dict))

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor:
        """Run up to `max_iter` iterations and return the loss at the start.

        Args:
            closure: clears the gradients, computes the loss, calls backward, returns the loss.

        Raises:
            TypeError: `closure` is missing, or returns no tensor.
            ValueError: `closure` returns more than one element or leaves no gradient; a schedule has set `lr`
                to something not finite and > 0.
        """
        if not callable(closure):
            raise TypeError(
                "LBFGS.step needs a closure that clears gradients, calls backward, returns the loss"
            )
        lr = float(self.param_groups[0]["lr"])
        if not 0 < lr < math.inf:
            raise ValueError(f"lr must be finite and > 0, got {lr}; let the schedule end or start above 0")
        parameters = self.param_groups[0]["params"]
        state = self.state[parameters[0]]
        objective = FlatObjective(parameters, closure)
        if not state:
            history = PairHistory(self.param_groups[0]["history_size"], objective.point)
            state.update(history.state(), **dict.fromkeys(COUNTERS, 0), reason=REASONS.index(NOT_STARTED))
        history = PairHistory.from_state(state)
        try:
            state["reason"] = REASONS.index(self._minimise(objective, history, state))
        finally:
            state.update(history.state())
            state["function_evaluations"] += objective.evaluations
            state["nonfinite_losses"] += objective.nonfinite
        return objective.first_loss

    def _minimise(self, objective: FlatObjective, history: PairHistory, state: dict[str, Any]) -> str:
        """Iterate from the parameters as they are; return why it ended."""
        group = self.param_groups[0]
        lr, max_eval, tolerance_change = float(group["lr"]), group["max_eval"], group["tolerance_change"]
        current = objective.evaluate()
        if not math.isfinite(current.value):
            return NONFINITE
        if current.gradient_max <= group["tolerance_grad"]:
            return GRADIENT
        if objective.evaluations >= max_eval:
            return MAX_EVAL

        searching = group["line_search_fn"] is not None
        finfo = torch.finfo(objective.point.dtype)
        # A line search never accepts a higher loss; without one the iterates may rise.
        best_value, best_point = current.value, objective.point if searching else objective.point.clone()
        for _ in range(group["max_iter"]):
            state["iterations"] += 1
            direction = (
                history.direction(current.gradient) if history.count else _scaled_descent(current.gradient)
            )
            slope, lowest, highest = to_host(
                torch.dot(current.gradient, direction), *torch.aminmax(direction)
            )
            if history.count and not -math.inf < slope < 0:
                history.clear()
                state["history_resets"] += 1
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
                state["line_search_failures"] += not result.success
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
                state["history_resets"] += 1
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
                state["skipped_pairs"] += 1
            change = abs(new.value - current.value)
            current = new
            if current.gradient_max <= group["tolerance_grad"]:
                return GRADIENT
            if result.step_size * max(-lowest, highest) <= tolerance_change:
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


def _with_cloned_state(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return the state dict with copies of the tensors in its state."""
    state = {
        key: {
            name: value.clone() if isinstance(value, torch.Tensor) else value
            for name, value in entries.items()
        }
        for key, entries in state_dict["state"].items()
    }
    return {**state_dict, "state": state}
