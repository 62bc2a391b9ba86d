"""Why an L-BFGS run ended and what happened on the way."""

from dataclasses import dataclass

NOT_STARTED = "not started"
GRADIENT = "tolerance_grad: largest entry of the gradient"
STEP = "tolerance_change: largest entry of the step"
LOSS = "tolerance_change: change of the loss"
SLOPE = "tolerance_change: directional derivative"
MAX_ITER = "max_iter"
MAX_EVAL = "max_eval"
ROUNDING = "rounding: the loss can't show the decrease that is left"
SEARCH_FAILED = "line search failed along the negative gradient"
NONFINITE = "non-finite loss or gradient"
# The optimizer's state holds the place in this list: loading a state dict turns strings into something else.
REASONS = (NOT_STARTED, GRADIENT, STEP, LOSS, SLOPE, MAX_ITER, MAX_EVAL, ROUNDING, SEARCH_FAILED, NONFINITE)

# A tolerance ended the run.
CONVERGED = (GRADIENT, STEP, LOSS, SLOPE)


@dataclass(frozen=True)
class LBFGSReport:
    """What an `LBFGS` has done so far, summed over the calls of `step`.

    Attributes:
        iterations: directions tried.
        function_evaluations: calls of the closure.
        skipped_pairs: steps without positive curvature (s^T y <= 0 up to rounding), left out of the history.
        line_search_failures: searches that ended without a strong Wolfe point, cut short included.
        nonfinite_losses: evaluations whose loss or gradient wasn't finite.
        history_resets: times that the pairs were dropped, as no step along their direction was lower.
        history_bytes: memory of the pairs; it grows with them up to 2 `history_size` D numbers and a small matrix.
        reason: why the last call of `step` ended, one of this module's constants.
    """

    iterations: int = 0
    function_evaluations: int = 0
    skipped_pairs: int = 0
    line_search_failures: int = 0
    nonfinite_losses: int = 0
    history_resets: int = 0
    history_bytes: int = 0
    reason: str = NOT_STARTED

    @property
    def converged(self) -> bool:
        """Whether a tolerance ended the last call of `step`."""
        return self.reason in CONVERGED
