"""A line search for the strong Wolfe conditions.

Source: Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), algorithms 3.5 and 3.6, eq. 3.59.

| paper                     | here                          |
|---------------------------|-------------------------------|
| α                         | `step_size`                   |
| φ(α), φ'(α)               | `value`, `slope` of a `Trial` |
| φ(0), φ'(0)               | `value`, `slope`              |
| c_1, c_2                  | `c1`, `c2`                    |
| α_{i-1}, α_i              | `previous`, `trial`           |
| α_lo, α_hi                | `low`, `high`                 |
"""

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

# Safeguards against a cubic that doesn't fit (N&W, section 3.5). An extrapolated trial goes beyond the last
# one by at least the first number times the last stretch, and to at most the second number times the last
# step; an interpolated one keeps this share of the bracket from both ends.
EXPANSION = (0.01, 10.0)
MARGIN = 0.1


class Trial(NamedTuple):
    """One evaluated step size."""

    step_size: float
    value: float
    slope: float
    payload: Any


class LineSearchResult(NamedTuple):
    """What a line search found.

    `success` says that both strong Wolfe conditions hold at `step_size`. Without it, the step is the one
    with the lowest finite value that was seen; `step_size` = 0 with `payload` = None where none was lower
    than the start.
    """

    step_size: float
    value: float
    slope: float
    evaluations: int
    success: bool
    payload: Any


def strong_wolfe(
    evaluate: Callable[[float], tuple[float, float, Any]],
    step_size: float,
    value: float,
    slope: float,
    c1: float = 1e-4,
    c2: float = 0.9,
    max_evaluations: int = 25,
) -> LineSearchResult:
    """Search for a step size α that satisfies the strong Wolfe conditions.

    φ(α) <= φ(0) + c1 α φ'(0)  and  |φ'(α)| <= c2 |φ'(0)|      (Nocedal & Wright, eq. 3.7)

    Step sizes grow until an interval must hold such a point (algorithm 3.5), which is then narrowed
    (algorithm 3.6); trial values are minimisers of the cubic through two values and slopes (eq. 3.59).
    Where φ or φ' isn't finite the interval ends: it is treated as a value too high to interpolate with.

    Args:
        evaluate: maps α > 0 to (φ(α), φ'(α), payload) as Python floats and anything; the payload, for
            example the gradient, is handed back for the step that is returned.
        step_size: the first α to try, > 0.
        value: φ(0), finite.
        slope: φ'(0), finite and < 0.
        c1: constant of sufficient decrease.
        c2: constant of curvature; 0.9 suits quasi-Newton directions, 0.1 nonlinear conjugate gradients.
        max_evaluations: limit on the calls of `evaluate`.

    Returns:
        A `LineSearchResult`. It fails, and says so, where `max_evaluations` is reached, the interval can't be
        divided further in float64, or φ falls without bound as far as the steps grow.

    Raises:
        ValueError: unless step_size is finite and > 0, value finite, slope finite and < 0, 0 < c1 < c2 < 1,
            and max_evaluations >= 1.

    Example:
        >>> parabola = lambda a: ((a - 3.0) ** 2, 2 * (a - 3.0), None)
        >>> result = strong_wolfe(parabola, step_size=0.1, value=9.0, slope=-6.0, c2=0.1)
        >>> result.success, round(result.step_size, 6), result.evaluations
        (True, 3.0, 3)
    """
    _check(step_size, value, slope, c1, c2, max_evaluations)
    best = low = previous = Trial(0.0, value, slope, None)
    high = None  # nothing is known yet beyond which φ doesn't fall
    evaluations = 0

    while step_size is not None and evaluations < max_evaluations:
        trial = Trial(step_size, *evaluate(step_size))
        evaluations += 1
        finite = math.isfinite(trial.value) and math.isfinite(trial.slope)
        decreased = finite and trial.value <= value + c1 * step_size * slope
        if decreased and abs(trial.slope) <= -c2 * slope:
            return LineSearchResult(*trial[:3], evaluations, True, trial.payload)
        if finite and trial.value < best.value:
            best = trial

        if not decreased or trial.value >= low.value:
            high = trial
        elif high is None and trial.slope < 0:
            previous, low = low, trial
        else:
            # The minimum lies on the side of the trial to which φ falls; the other end is given up.
            if high is None or trial.slope * (high.step_size - low.step_size) >= 0:
                high = low
            low = trial
        step_size = _extrapolate(previous, low) if high is None else _interpolate(low, high)

    return LineSearchResult(*best[:3], evaluations, False, best.payload)


def _extrapolate(previous: Trial, low: Trial) -> float | None:
    """Return a step size beyond `low`, or None where there is no larger finite one."""
    smallest = low.step_size + EXPANSION[0] * (low.step_size - previous.step_size)
    largest = EXPANSION[1] * low.step_size
    if not math.isfinite(largest):
        return None
    minimiser = _cubic_minimiser(previous, low)
    return largest if minimiser is None else min(max(minimiser, smallest), largest)


def _interpolate(low: Trial, high: Trial) -> float | None:
    """Return a step size strictly between `low` and `high`, or None where they can't be told apart."""
    width = high.step_size - low.step_size
    epsilon = sys.float_info.epsilon
    if abs(width) <= 4 * epsilon * abs(high.step_size) or abs(low.slope * width) <= epsilon * abs(low.value):
        return None
    if not (math.isfinite(high.value) and math.isfinite(high.slope)):
        # Without any step known to be good, even the order of magnitude of the edge is unknown.
        return low.step_size + (0.1 if low.step_size == 0 else 0.5) * width
    minimiser = _cubic_minimiser(low, high)
    if minimiser is None:
        return low.step_size + 0.5 * width
    share = (minimiser - low.step_size) / width
    return low.step_size + min(max(share, MARGIN), 1 - MARGIN) * width


def _cubic_minimiser(first: Trial, second: Trial) -> float | None:
    """Return the minimiser of the cubic through two values and slopes (N&W, eq. 3.59), None without one."""
    width = second.step_size - first.step_size
    d1 = first.slope + second.slope - 3 * (first.value - second.value) / -width
    square = d1 * d1 - first.slope * second.slope
    if not (math.isfinite(square) and square >= 0):
        return None
    d2 = math.copysign(math.sqrt(square), width)
    denominator = second.slope - first.slope + 2 * d2
    if denominator == 0:
        return None
    minimiser = second.step_size - width * (second.slope + d2 - d1) / denominator
    return minimiser if math.isfinite(minimiser) else None


def _check(step_size: float, value: float, slope: float, c1: float, c2: float, max_evaluations: int) -> None:
    """Raise ValueError for a start from which the search can't succeed."""
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size must be finite and > 0, got {step_size}")
    if not math.isfinite(value):
        raise ValueError(f"value must be finite, got {value}; the search can't compare with it")
    if not (math.isfinite(slope) and slope < 0):
        raise ValueError(f"slope must be finite and < 0, got {slope}; the direction isn't one of descent")
    if not 0 < c1 < c2 < 1:
        raise ValueError(f"need 0 < c1 < c2 < 1, got c1={c1}, c2={c2}")
    if max_evaluations < 1:
        raise ValueError(f"max_evaluations must be >= 1, got {max_evaluations}")
