"""Marks: what is drawn in a panel.

They are declarative: a function given to `explore` builds them from the numbers that the reference code
returns, and three renderers (the front end, matplotlib, a live kernel) draw them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arrays import as_array, as_interval, plain

SERIES_COUNT = 8
LINE_STYLES = ("line", "dots", "both")
ANCHORS = ("start", "middle", "end")


@dataclass(frozen=True, eq=False)
class Mark:
    """One thing drawn in a panel.

    `arrays` may differ between states in value but not in shape, `strings` in value but not in number;
    `options` are the same in every state. `depends` names the controls that it varies with; None: every one
    but `reveal`, the control whose value is the index of the last point shown.
    """

    kind: str
    arrays: dict[str, np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)
    strings: tuple[str, ...] = ()
    depends: tuple[str, ...] | None = None
    reveal: str | None = None

    @property
    def label(self) -> str | None:
        """The text of its legend entry, None where it has none."""
        return self.options.get("label")


def line(
    x: Any,
    y: Any,
    label: str | None = None,
    series: int = 0,
    style: str = "line",
    depends: Sequence[str] | None = None,
    reveal: str | None = None,
) -> Mark:
    """A line through points x, y of shape (n,), n >= 1.

    `series` (0 to 7) picks colour, dash and marker; `style` is "line", "dots" or "both". With `reveal` only the
    points up to the index that this control holds are drawn, so that a time control adds no data.

    >>> line([0, 1], [3.0, 4.0], label="loss", series=2).arrays["y"]
    array([3., 4.])
    """
    x, y = as_array(x, "x of a line", 1), as_array(y, "y of a line", 1)
    if x.shape != y.shape:
        raise ValueError(f"x and y of a line must have one length, got {x.shape} and {y.shape}")
    if style not in LINE_STYLES:
        raise ValueError(f"the style of a line is one of {LINE_STYLES}, got {style!r}")
    options = {"label": label, "series": _series(series), "style": style}
    return Mark("line", {"x": x, "y": y}, options, depends=_names(depends), reveal=reveal)


def contour(
    x: Any, y: Any, z: Any, levels: Iterable[float], label: str | None = None, depends: Sequence[str] | None = None
) -> Mark:
    """Level lines of z (ny, nx) over the evenly spaced coordinates x (nx,), y (ny,), at strictly rising `levels`.

    The coordinates are those of the axes' scales: on a log axis they are evenly spaced in the logarithm.
    """
    x, y, z = as_array(x, "x of a contour", 1), as_array(y, "y of a contour", 1), as_array(z, "z of a contour", 2)
    if z.shape != (y.size, x.size) or min(z.shape) < 2:
        raise ValueError(f"z of a contour must have shape (len(y), len(x)) = {(y.size, x.size)}, got {z.shape}")
    values = [float(level) for level in levels]
    if not values or sorted(set(values)) != values or not np.isfinite(values).all():
        raise ValueError(f"levels of a contour must be finite and rise strictly, got {values!r}")
    ends = {"x": x[[0, -1]], "y": y[[0, -1]]}
    return Mark("contour", {**ends, "z": z}, {"label": label, "levels": values}, depends=_names(depends))


def heatmap(
    z: Any,
    x: tuple[float, float],
    y: tuple[float, float],
    domain: tuple[float, float],
    label: str | None = None,
    depends: Sequence[str] | None = None,
) -> Mark:
    """Cells z (ny, nx) filling the rectangle x by y; the first row lies at y[0].

    Colours run over `domain`, from blue over neutral to red where it is symmetric about 0, else from light to
    dark; values outside it take the colour of its end.
    """
    z = as_array(z, "z of a heatmap", 2)
    options = {"label": label, "domain": list(as_interval(domain, "domain of a heatmap"))}
    return Mark("heatmap", {"x": _pair(x, "x"), "y": _pair(y, "y"), "z": z}, options, depends=_names(depends))


def image(pixels: Any, x: tuple[float, float], y: tuple[float, float], depends: Sequence[str] | None = None) -> Mark:
    """A picture of pixels (H, W) or (H, W, 3) in 0..1 in the rectangle x by y; the first row lies at y[1], on top."""
    pixels = as_array(pixels, "pixels of an image", (2, 3))
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        raise ValueError(f"pixels of an image have shape (H, W) or (H, W, 3), got {pixels.shape}")
    arrays = {"x": _pair(x, "x"), "y": _pair(y, "y"), "pixels": pixels}
    return Mark("image", arrays, depends=_names(depends))


def bars(
    names: Iterable[str],
    values: Any,
    label: str | None = None,
    series: int = 0,
    depends: Sequence[str] | None = None,
) -> Mark:
    """Bars of `values` (n,) at `names`, which are categories of one of the panel's axes.

    Several `bars` in a panel stand side by side.
    """
    names, values = [str(name) for name in names], as_array(values, "values of bars", 1)
    if len(names) != values.size:
        raise ValueError(f"bars need one value per name, got {len(names)} names and {values.size} values")
    options = {"label": label, "series": _series(series), "names": names}
    return Mark("bars", {"values": values}, options, depends=_names(depends))


def rule(
    x: float | None = None, y: float | None = None, label: str | None = None, depends: Sequence[str] | None = None
) -> Mark:
    """A straight line across the frame: vertical at `x` or horizontal at `y`, with its label written at it."""
    if (x is None) == (y is None):
        raise ValueError("rule needs either x or y")
    arrays = {"x": as_array([x], "x of a rule", 1)} if y is None else {"y": as_array([y], "y of a rule", 1)}
    return Mark("rule", arrays, {"label": label}, depends=_names(depends))


def text(
    x: Any, y: Any, string: str | Iterable[str], anchor: str = "start", depends: Sequence[str] | None = None
) -> Mark:
    """Words at points: x, y are numbers with one string, or of shape (n,) with n strings.

    `anchor` ("start", "middle", "end") is the part of the words that stands at the point.
    """
    strings = (string,) if isinstance(string, str) else tuple(str(part) for part in string)
    x, y = (as_array(np.atleast_1d(plain(value)), f"{name} of a text", 1) for name, value in (("x", x), ("y", y)))
    if not x.size == y.size == len(strings):
        raise ValueError(f"text needs one string per point, got {x.size} x, {y.size} y, {len(strings)} strings")
    if anchor not in ANCHORS:
        raise ValueError(f"the anchor of a text is one of {ANCHORS}, got {anchor!r}")
    return Mark("text", {"x": x, "y": y}, {"anchor": anchor}, strings, _names(depends))


def _pair(ends: Any, name: str) -> np.ndarray:
    array = as_array(ends, f"{name} of a heatmap or image", 1)
    if array.size != 2 or array[0] >= array[1]:
        raise ValueError(f"{name} of a heatmap or image must be (low, high), got {ends!r}")
    return array


def _series(series: int) -> int:
    if isinstance(series, bool) or not isinstance(series, int) or not 0 <= series < SERIES_COUNT:
        raise ValueError(f"series must be an int from 0 to {SERIES_COUNT - 1}, got {series!r}")
    return series


def _names(depends: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(depends, str):
        raise TypeError(f"depends is a list of control names, got the string {depends!r}")
    return None if depends is None else tuple(depends)
