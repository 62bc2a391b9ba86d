"""What happened in a run of nonlinear conjugate gradients; why it ended is named as for L-BFGS."""

from dataclasses import dataclass

from steepest.second_order.lbfgs_report import CONVERGED, NOT_STARTED


@dataclass(frozen=True)
class NonlinearCGReport:
    """What a `NonlinearCG` has done so far, summed over the calls of `step`.

    Attributes:
        iterations: directions tried.
        function_evaluations: calls of the closure.
        restarts: directions given up for the negative gradient.
        line_search_failures: searches that ended without a strong Wolfe point, cut short included.
        nonfinite_losses: evaluations whose loss or gradient wasn't finite.
        reason: why the last call of `step` ended, a constant of `lbfgs_report`.
    """

    iterations: int = 0
    function_evaluations: int = 0
    restarts: int = 0
    line_search_failures: int = 0
    nonfinite_losses: int = 0
    reason: str = NOT_STARTED

    @property
    def converged(self) -> bool:
        """Whether a tolerance ended the last call of `step`."""
        return self.reason in CONVERGED
