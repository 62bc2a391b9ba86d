"""L-BFGS as a torch optimizer, with a strong Wolfe line search and an account of what happened.

Sources: Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Prog. 45
(1989); Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), algorithm 7.5 and section 7.2. The iteration itself
is in `lbfgs_iteration`, its pairs are in `pair_history`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from steepest.second_order.flat_objective import FlatObjective
from steepest.second_order.lbfgs_iteration import minimise
from steepest.second_order.lbfgs_report import NOT_STARTED, REASONS, LBFGSReport
from steepest.second_order.pair_history import PairHistory
from steepest.second_order.single_group import SingleGroupOptimizer, checked_max_eval
from steepest.validation import require_count, require_positive

COUNTERS = (
    "iterations",
    "function_evaluations",
    "skipped_pairs",
    "line_search_failures",
    "nonfinite_losses",
    "history_resets",
)


class LBFGS(SingleGroupOptimizer):
    """Limited-memory BFGS for deterministic losses (Nocedal & Wright, algorithm 7.5).

    Arguments and their order are those of `torch.optim.LBFGS`, and so are the defaults, except that the line
    search is on. Like there, all parameters form one group and share dtype and device. Different are:

    - A pair (s, y) is formed from two gradients of the same call of `step`, so that data which change between
      the calls don't enter y. For this, the last point of a call is evaluated without line search too.
    - A step is refused where loss or gradient isn't finite: the parameters are left at the best point seen. Where the
      closure raises, they go back to the last point accepted.
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
        TypeError: a parameter is complex, sparse or of another dtype, dtypes differ, or a number isn't one.
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
        require_positive("lr", float(lr) if isinstance(lr, torch.Tensor) else lr)
        max_eval = checked_max_eval(max_iter, max_eval, tolerance_grad, tolerance_change)
        require_count("history_size", history_size)
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
            raise TypeError("LBFGS.step needs a closure that clears gradients, calls backward, returns the loss")
        require_positive("lr", float(self.param_groups[0]["lr"]))
        parameters = self.param_groups[0]["params"]
        state = self.state[parameters[0]]
        objective = FlatObjective(parameters, closure)
        if not state:
            history = PairHistory(self.param_groups[0]["history_size"], objective.point)
            state.update(history.state(), **dict.fromkeys(COUNTERS, 0), reason=REASONS.index(NOT_STARTED))
        history = PairHistory.from_state(state)
        try:
            state["reason"] = REASONS.index(minimise(objective, history, self.param_groups[0], state))
        finally:
            state.update(history.state())
            state["function_evaluations"] += objective.evaluations
            state["nonfinite_losses"] += objective.nonfinite
        return objective.first_loss


def _with_cloned_state(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return the state dict with copies of the tensors in its state."""
    state = {
        key: {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in entries.items()}
        for key, entries in state_dict["state"].items()
    }
    return {**state_dict, "state": state}
