"""Where to cut a chain of layers into segments, from what its layers keep and pass on.

Source: Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", arXiv 1604.06174 (2016),
section 4.1 and algorithm 3; with unequal costs and an exact search here.

| symbol   | here                | meaning                                                                    |
|----------|---------------------|----------------------------------------------------------------------------|
| n        | `n_layers`          | layers                                                                     |
| a_i      | `internal_bytes`    | bytes that layer i's forward pass leaves for the backward pass, output included |
| b_i      | `boundary_bytes`    | bytes of what enters layer i                                               |
| w        | `workspace_bytes`   | bytes that the backward pass of a layer needs besides: its gradients       |
| s_1 … s_k | `sizes`            | layers of each segment; the last is stored, the others are recomputed       |
| M        | `budget`, `peak_bytes` | bytes of activations at the worst moment                                |

When the backward pass is at segment j, the boundaries of segments 1 to j are alive, and the internals of segment j:
later segments have been freed, earlier ones are not recomputed yet. Hence

    peak(s_1, …, s_k) = w + max_j ( b_first(1) + … + b_first(j) + Σ_{i in segment j} a_i )            (1)

With equal layers and k equal segments that is w + k b + (n/k) a, least near k* = √(n a / b): √n only where a layer
keeps internally as much as it passes on. But the first segments see fewer boundaries, so that equal segments aren't
the best: sizes that fall by b/a from one to the next balance (1) with k* ≈ √(2 n a / b), at a peak near √(2 n a b) in
place of 2 √(n a b).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from steepest.checkpointing.sequential import segment_sizes
from steepest.validation import require_count, require_nonnegative


@dataclass(frozen=True)
class SegmentPlan:
    """A division of a chain of layers into segments.

    Attributes:
        sizes: layers of each segment, in order; `checkpoint_sequential` takes them.
        peak_bytes: equation (1), bytes of activations at the worst moment.
        recomputed_layers: layers whose forward pass runs twice: all but the last segment's.
    """

    sizes: tuple[int, ...]
    peak_bytes: float
    recomputed_layers: int


def segment_peak(
    sizes: Sequence[int],
    internal_bytes: float | Sequence[float],
    boundary_bytes: float | Sequence[float],
    workspace_bytes: float = 0,
) -> float:
    """Return equation (1): the bytes of activations at the worst moment of a step with these segments.

    Args:
        sizes: layers of each segment, each at least 1.
        internal_bytes: of each layer, or one number for all.
        boundary_bytes: what enters each layer, or one number for all.
        workspace_bytes: added to the peak.

    Returns:
        Bytes; an int if all numbers are.

    Raises:
        TypeError: a size isn't an int, or an amount of bytes isn't a number.
        ValueError: a size is below 1, bytes are negative or not finite, or there isn't one amount for each layer.

    Example:
        Equal segments against falling ones, 6 layers that keep 10 bytes each and pass on 10:

        >>> segment_peak([2, 2, 2], 10, 10), segment_peak([3, 2, 1], 10, 10)
        (50, 40)
    """
    if not sizes:
        raise ValueError("sizes must hold at least one segment")
    for index, size in enumerate(sizes):
        require_count(f"sizes[{index}]", size)
    internal = _per_layer("internal_bytes", internal_bytes, sum(sizes))
    boundary = _per_layer("boundary_bytes", boundary_bytes, sum(sizes))
    require_nonnegative("workspace_bytes", workspace_bytes)
    peak, boundaries, start = 0, 0, 0
    for size in sizes:
        boundaries += boundary[start]
        peak = max(peak, boundaries + sum(internal[start : start + size]))
        start += size
    return peak + workspace_bytes


def optimal_segments(
    n_layers: int,
    internal_bytes: float | Sequence[float],
    boundary_bytes: float | Sequence[float],
    budget: float | None = None,
    *,
    workspace_bytes: float = 0,
    equal: bool = False,
) -> SegmentPlan:
    """Return the segments with the least peak, or the fastest ones within a budget of bytes.

    Exact for equation (1). Time is counted in layers that are recomputed; among plans with as few of them, that with
    the least peak is taken. `layer_bytes` measures the arguments.

    Args:
        n_layers: n.
        internal_bytes: a, one number for all layers or one for each, in bytes.
        boundary_bytes: b, one number for all layers or one for each, in bytes. The network's own input counts as a
            boundary; pass 0 for the first layer if it is in memory anyway.
        budget: bytes that (1) may reach. None asks for the least peak possible.
        workspace_bytes: w, in bytes.
        equal: only consider the divisions that `checkpoint_sequential` makes of a number of segments.

    Returns:
        The plan.

    Raises:
        TypeError: `n_layers` isn't an int, bytes or the budget aren't numbers, `equal` isn't a bool.
        ValueError: `n_layers` is below 1, an amount is negative or not finite, there isn't one for each layer, or no
            plan keeps to the budget; the message says the least peak.

    Example:
        >>> optimal_segments(6, 10, 10)
        SegmentPlan(sizes=(3, 2, 1), peak_bytes=40, recomputed_layers=5)
        >>> optimal_segments(6, 10, 10, budget=50)
        SegmentPlan(sizes=(3, 3), peak_bytes=50, recomputed_layers=3)
        >>> optimal_segments(6, 10, 10, budget=30)
        Traceback (most recent call last):
        ValueError: no segments keep to a budget of 30 bytes: the least possible peak is 40
    """
    require_count("n_layers", n_layers)
    internal = _per_layer("internal_bytes", internal_bytes, n_layers)
    boundary = _per_layer("boundary_bytes", boundary_bytes, n_layers)
    require_nonnegative("workspace_bytes", workspace_bytes)
    if budget is not None:
        require_nonnegative("budget", budget)
    if not isinstance(equal, bool):
        raise TypeError(f"equal must be True or False, got {type(equal).__name__}")
    if equal:
        divisions = [segment_sizes(n_layers, segments) for segments in range(1, n_layers + 1)]
    else:
        divisions = [_least_peak(internal, boundary, workspace_bytes)]
        fastest = None if budget is None else _fastest(internal, boundary, workspace_bytes, budget)
        if fastest is not None:
            divisions.append(_least_peak(internal, boundary, workspace_bytes, stored=fastest[-1]))
    plans = [
        SegmentPlan(sizes, segment_peak(sizes, internal, boundary, workspace_bytes), n_layers - sizes[-1])
        for sizes in divisions
    ]
    least = min(plan.peak_bytes for plan in plans)
    if budget is not None and least > budget:
        raise ValueError(f"no segments keep to a budget of {budget} bytes: the least possible peak is {least}")
    fitting = [plan for plan in plans if plan.peak_bytes <= (least if budget is None else budget)]
    return min(fitting, key=lambda plan: (plan.recomputed_layers, plan.peak_bytes))


def _fastest(
    internal: Sequence[float], boundary: Sequence[float], workspace: float, limit: float, stored: int | None = None
) -> tuple[int, ...] | None:
    """Return the sizes with the longest last segment (or one of `stored` layers) whose peak keeps to a limit, or None.

    Of the ways to cut the layers before a segment only the one with the smallest sum of boundaries matters, since
    equation (1) grows with it. So one pass over the layers finds the best: O(n²).
    """
    n_layers = len(internal)
    sums = [0.0] + [inf] * n_layers  # sums[l]: least sum of boundaries with which the first l layers keep to the limit
    previous = [0] * (n_layers + 1)  # previous[l]: where the last segment of that division begins
    for first in range(n_layers):
        if sums[first] == inf:
            continue
        boundaries = sums[first] + boundary[first]
        activations = 0
        for end in range(first + 1, n_layers + 1):
            activations += internal[end - 1]
            if boundaries + activations + workspace > limit:
                break
            if end < n_layers and boundaries < sums[end]:
                sums[end], previous[end] = boundaries, first
            if end == n_layers and stored in (None, n_layers - first):
                cuts = [n_layers, first]
                while cuts[-1] > 0:
                    cuts.append(previous[cuts[-1]])
                return tuple(after - before for before, after in pairwise(reversed(cuts)))
    return None


def _least_peak(
    internal: Sequence[float], boundary: Sequence[float], workspace: float, stored: int | None = None
) -> tuple[int, ...]:
    """Return the sizes with the least peak, with a last segment of `stored` layers if that is given, by bisection."""
    best = _fastest(internal, boundary, workspace, inf, stored)
    impossible, peak = 0.0, segment_peak(best, internal, boundary, workspace)
    while impossible < (limit := (impossible + peak) / 2) < peak:
        sizes = _fastest(internal, boundary, workspace, limit, stored)
        if sizes is None:
            impossible = limit
        else:
            # A sum rounded otherwise than in `_fastest` (from Python 3.12 on) can put the peak above the limit again.
            best, peak = sizes, min(limit, segment_peak(sizes, internal, boundary, workspace))
    return best


def _per_layer(name: str, value: float | Sequence[float], n_layers: int) -> list[float]:
    """Return one amount a layer."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        require_nonnegative(name, value)
        return [value] * n_layers
    if len(value) != n_layers:
        raise ValueError(f"{name} must be a number or one for each of {n_layers} layers, got {len(value)}")
    for index, amount in enumerate(value):
        require_nonnegative(f"{name}[{index}]", amount)
    return list(value)
