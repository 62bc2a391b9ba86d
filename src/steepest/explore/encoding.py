"""Numbers of a mark as 16-bit integers, in the coordinates of its axes.

Positions are stored as integers over the axis' domain extended on both sides by `MARGIN` times its span, in
log10 on a log axis: an error of at most half a step, 4e-5 of the frame, whatever the scale. What lies
farther out is cut at the extended frame, where the line crosses it, so that it leaves in the right direction.
"""

import numpy as np

from .marks import Mark
from .panels import Axis, Panel

MARGIN = 2.0
GAP = -32768
Point = tuple[float, float]
STEPS = 65534


def axis_frame(axis: Axis) -> tuple[float, float]:
    """Ends of the frame in axis coordinates: the domain, its log10, or -0.5 to n - 0.5 for n categories."""
    if axis.categories is not None:
        return -0.5, len(axis.categories) - 0.5
    low, high = axis.domain
    return (float(np.log10(low)), float(np.log10(high))) if axis.scale == "log" else (low, high)


def axis_extent(axis: Axis) -> tuple[float, float]:
    """Ends of the extended frame in axis coordinates."""
    low, high = axis_frame(axis)
    return low - MARGIN * (high - low), high + MARGIN * (high - low)


def to_axis(axis: Axis, values: np.ndarray) -> np.ndarray:
    """Values in axis coordinates. Zero on a log axis lies below everything: beyond the extended frame.

    Raises:
        ValueError: for negative values on a log axis.
    """
    if axis.scale != "log":
        return np.clip(values, -1e300, 1e300)
    if values.min() < 0:
        raise ValueError(f"the value {values.min():.4g} is negative, which the log axis {axis.label!r} can't show")
    low, high = axis_extent(axis)
    return np.where(values > 0, np.log10(np.where(values > 0, values, 1.0)), low - (high - low))


def quantise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Integers -32767..32767 for values from low to high (what is outside takes its end), int16."""
    share = np.clip((values - low) / (high - low), 0.0, 1.0)
    return (np.rint(share * STEPS) - STEPS // 2).astype(np.int16)


def dequantise(integers: np.ndarray, low: float, high: float) -> np.ndarray:
    """The inverse of `quantise`; NaN for gaps.

    >>> dequantise(quantise(np.array([0.0, 0.25, 1.0]), 0.0, 1.0), 0.0, 1.0).round(4).tolist()
    [0.0, 0.25, 1.0]
    """
    values = low + (integers.astype(np.float64) + STEPS // 2) / STEPS * (high - low)
    return np.where(integers == GAP, np.nan, values)


def contour_knots(mark: Mark) -> list[float]:
    """Knots of the piecewise linear scale that z of a contour is stored in: its levels, and one on either side.

    Every interval between levels gets the same number of integers, so that the lowest of logarithmically
    spaced levels are as sharp as the highest.
    """
    levels = mark.options["levels"]
    if len(levels) == 1:
        reach = float(np.ptp(mark.arrays["z"])) or 1.0
        return [levels[0] - reach, levels[0], levels[0] + reach]
    return [levels[0] - 3 * (levels[1] - levels[0]), *levels, levels[-1] + 3 * (levels[-1] - levels[-2])]


def encode(mark: Mark, panel: Panel, knots: list[float] | None = None) -> dict[str, np.ndarray]:
    """The arrays of `mark` as flat int16 arrays by field; lines get a field `index` where one was cut.

    Raises:
        ValueError: for values that the mark can't show.
    """
    axes = {"x": panel.x, "y": panel.y}
    for name, values in mark.arrays.items():
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise ValueError(
                f"{name} holds {count} value(s) that are not finite; where an iteration diverges, pass its "
                "arrays through until_divergence(...) and say in alt that it diverges"
            )
    if mark.kind == "line":
        x, y = to_axis(panel.x, mark.arrays["x"]), to_axis(panel.y, mark.arrays["y"])
        if mark.options["style"] == "dots":
            return _encode_points(x, y, panel)
        return _encode_line(x, y, panel)
    fields = {
        name: quantise(to_axis(axes[name], values), *axis_extent(axes[name]))
        for name, values in mark.arrays.items()
        if name in axes
    }
    if mark.kind == "contour":
        scaled = np.interp(mark.arrays["z"], knots, np.arange(len(knots)))
        fields["z"] = quantise(scaled, 0, len(knots) - 1).ravel()
    elif mark.kind == "heatmap":
        fields["z"] = quantise(mark.arrays["z"], *mark.options["domain"]).ravel()
    elif mark.kind == "image":
        fields["pixels"] = np.rint(np.clip(mark.arrays["pixels"], 0, 1) * 255).astype(np.int16).ravel()
    elif mark.kind == "bars":
        values_axis = panel.y if panel.x.categories else panel.x
        fields["values"] = quantise(to_axis(values_axis, mark.arrays["values"]), *axis_extent(values_axis))
    return fields


def cut_line(
    x: np.ndarray, y: np.ndarray, frame: tuple[float, float, float, float], extent: tuple[float, float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (x, y) of a line cut at `extent` = (x low, x high, y low, y high), and the index that shows each.

    A line that leaves the extent and has no later point in `frame` ends there; one that comes back is kept,
    with NaN between its parts. A vertex is shown once the revealed index reaches its own.
    """
    outside = ~_inside(x, y, extent)
    in_frame = np.flatnonzero(_inside(x, y, frame))
    last = int(in_frame[-1]) if in_frame.size else 0
    left = np.flatnonzero(outside[last + 1 :])
    end = last + 1 + int(left[0]) if left.size else x.size - 1
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    vertices: list[tuple[float, float, int]] = []
    open_run = False
    if not outside[0]:
        vertices.append((*points[0], 0))
        open_run = True
    for i in range(end):
        part = _within(points[i], points[i + 1], extent)
        if part is None:
            open_run = False
            continue
        if not open_run:
            if vertices:
                vertices.append((np.nan, np.nan, i + 1))
            vertices.append((*part[0], i + 1))
        vertices.append((*part[1], i + 1))
        open_run = not outside[i + 1]
    xs, ys, indexes = zip(*(vertices or [(np.nan, np.nan, 0)]), strict=True)
    return np.array(xs), np.array(ys), np.array(indexes)


def _encode_line(x: np.ndarray, y: np.ndarray, panel: Panel) -> dict[str, np.ndarray]:
    extent = (*axis_extent(panel.x), *axis_extent(panel.y))
    if _inside(x, y, extent).all():
        return {"x": quantise(x, *extent[:2]), "y": quantise(y, *extent[2:])}
    frame = (*axis_frame(panel.x), *axis_frame(panel.y))
    x, y, index = cut_line(x, y, frame, extent)
    fields = _with_gaps(x, y, np.isnan(x), extent)
    return {**fields, "index": index.astype(np.int16)}


def _encode_points(x: np.ndarray, y: np.ndarray, panel: Panel) -> dict[str, np.ndarray]:
    extent = (*axis_extent(panel.x), *axis_extent(panel.y))
    return _with_gaps(x, y, ~_inside(x, y, extent), extent)


def _with_gaps(x: np.ndarray, y: np.ndarray, gaps: np.ndarray, extent: tuple[float, ...]) -> dict[str, np.ndarray]:
    fields = {}
    for name, values, (low, high) in (("x", x, extent[:2]), ("y", y, extent[2:])):
        fields[name] = np.where(gaps, GAP, quantise(np.where(gaps, low, values), low, high)).astype(np.int16)
    return fields


def _inside(x: np.ndarray, y: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    return (x >= box[0]) & (x <= box[1]) & (y >= box[2]) & (y <= box[3])


def _within(start: Point, end: Point, box: tuple[float, ...]) -> tuple[Point, Point] | None:
    """The part of a segment within a box (Liang and Barsky, 1984), None if there is none."""
    if max(map(abs, start)) > max(map(abs, end)):
        # Crossings are computed from the nearer end: from one at 1e200 nothing would be left of their digits.
        part = _within(end, start, box)
        return part and part[::-1]
    enter, leave = 0.0, 1.0
    for at, to, low, high in zip(start, end, box[::2], box[1::2], strict=True):
        change = to - at
        if change == 0:
            if not low <= at <= high:
                return None
            continue
        shares = sorted(((low - at) / change, (high - at) / change))
        enter, leave = max(enter, shares[0]), min(leave, shares[1])
    if enter >= leave:
        return None
    # Ends are kept in the box: at 1e16 times its size a crossing is rounded to more than the box's width.
    first, last = (
        tuple(
            min(max(at + share * (to - at), low), high)
            for at, to, low, high in zip(start, end, box[::2], box[1::2], strict=True)
        )
        for share in (enter, leave)
    )
    return (start if enter == 0 else first), (end if leave == 1 else last)
