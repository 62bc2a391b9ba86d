"""Arrays given to marks: any numbers, in float64."""

from typing import Any

import numpy as np


def until_divergence(*arrays: Any) -> Any:
    """The arrays (n,) with everything from the first index where one of them is not finite replaced by the last
    finite point, so that shapes stay. One array in, one out; several in, a tuple out.

    Raises:
        ValueError: if lengths differ or the first point is not finite.

    >>> until_divergence([1.0, 8.0, float("inf"), float("nan")])
    array([1., 8., 8., 8.])
    """
    values = [as_array(array, "an array given to until_divergence", 1) for array in arrays]
    if len({value.size for value in values}) != 1:
        raise ValueError(f"until_divergence needs arrays of one length, got {[value.size for value in values]}")
    finite = np.logical_and.reduce([np.isfinite(value) for value in values])
    count = values[0].size if finite.all() else int(np.argmin(finite))
    if count == 0:
        raise ValueError("until_divergence: the first point is not finite already")
    kept = tuple(np.concatenate([value[:count], np.repeat(value[count - 1], value.size - count)]) for value in values)
    return kept[0] if len(kept) == 1 else kept


def plain(values: Any) -> Any:
    """A tensor as a numpy array in float64, anything else as it is."""
    return values.detach().double().cpu().numpy() if hasattr(values, "detach") else values


def as_array(values: Any, what: str, dimensions: int | tuple[int, ...]) -> np.ndarray:
    """A float64 copy of `values` with the given number of dimensions.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if they have another shape or are empty.
    """
    if isinstance(values, list | tuple):
        values = [plain(value) for value in values]
    try:
        array = np.array(plain(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must be numbers: {error}") from None
    allowed = (dimensions,) if isinstance(dimensions, int) else dimensions
    if array.ndim not in allowed or array.size == 0:
        raise ValueError(f"{what} must have {' or '.join(map(str, allowed))} dimension(s), got shape {array.shape}")
    return array


def as_interval(pair: Any, what: str, positive: bool = False) -> tuple[float, float]:
    """Two finite, rising (and positive) numbers; ValueError for anything else."""
    low, high = (float(end) for end in pair)
    if not (np.isfinite([low, high]).all() and low < high and (low > 0 or not positive)):
        kind = "positive rising" if positive else "rising"
        raise ValueError(f"the {what} must be two finite {kind} numbers, got {pair!r}")
    return low, high
