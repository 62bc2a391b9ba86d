"""Compare two observed values, and show one in a few characters."""

import math

import numpy as np
import torch


def gap(first, second) -> float:
    """Difference of two observed values as a share of their magnitude.

    Args:
        first, second: values that `arrays.encode` can carry.

    Returns:
        max |a − b| / max(|a|, |b|) for floating-point values, with the difference itself where both are
        zero throughout; for others 0 if equal. Infinite if they differ in type, shape, dtype, in the
        places of NaN and infinities, or in a value that is not floating-point.

    >>> gap(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])), gap(1, 2), gap("a", "a")
    (0.5, inf, 0.0)
    """
    if type(first) is not type(second):
        return math.inf
    if isinstance(first, float):
        first, second = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    if isinstance(first, np.ndarray):
        first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
        if first.dtype != second.dtype or first.dtype.kind != "f":
            return 0.0 if first.dtype == second.dtype and np.array_equal(first, second) else math.inf
        first, second = torch.from_numpy(first), torch.from_numpy(second)
    if not isinstance(first, torch.Tensor):
        return 0.0 if first == second else math.inf
    if first.shape != second.shape or first.dtype != second.dtype:
        return math.inf
    if not first.is_floating_point():
        return 0.0 if torch.equal(first, second) else math.inf
    if not first.numel():
        return 0.0
    first, second = first.double(), second.double()
    scale = max(torch.linalg.vector_norm(each, math.inf).item() for each in (first, second))
    difference = torch.dist(first, second, p=math.inf).item()
    if math.isfinite(scale) and math.isfinite(difference):
        return difference / (scale or 1.0)
    return _gap_with_nonfinite(first, second)


def _gap_with_nonfinite(first, second):
    """The same where entries are NaN or infinite, or their difference overflows."""
    finite = first.isfinite() & second.isfinite()
    same = (first == second) | (first.isnan() & second.isnan())
    if not (finite | same).all():
        return math.inf
    if not finite.any():
        return 0.0
    first, second = first[finite], second[finite]
    scale = torch.maximum(first.abs(), second.abs()).max().item()
    return (first / scale - second / scale).abs().max().item() if scale else 0.0


def show(value) -> str:
    """A value in a few characters: arrays rounded to five digits, long ones abbreviated.

    >>> show(torch.linspace(0, 1, 3)), show(None), show(2)
    ('[0.  0.5 1. ]', 'None', '2')
    """
    if isinstance(value, torch.Tensor):
        value = (value.double() if value.is_floating_point() else value).detach().cpu().numpy()
    if not isinstance(value, np.ndarray):
        return str(value)[:80]
    text = np.array2string(value, precision=5, threshold=24, edgeitems=3, suppress_small=False)
    return text.replace("\n", "\n          ")
