"""Axes, panels and figures: where marks stand."""

from collections.abc import Iterable
from dataclasses import dataclass

from .arrays import as_interval
from .marks import Mark


@dataclass(frozen=True)
class Axis:
    """An axis that stays the same in every state; see `axis`."""

    label: str
    domain: tuple[float, float] | None
    scale: str
    unit: str
    categories: tuple[str, ...] | None

    @property
    def title(self) -> str:
        """Label and unit as shown."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True, eq=False)
class Panel:
    """Marks over one pair of axes; see `panel`."""

    marks: tuple[Mark, ...]
    title: str | None
    x: Axis
    y: Axis
    equal: bool


@dataclass(frozen=True, eq=False)
class Figure:
    """Panels side by side with one text that says what is seen; see `figure`."""

    panels: tuple[Panel, ...]
    alt: str


def axis(
    label: str,
    domain: tuple[float, float] | None = None,
    scale: str = "linear",
    unit: str = "",
    categories: Iterable[str] | None = None,
) -> Axis:
    """An axis: either a numeric `domain` (low, high) or, for bars, the names of `categories`.

    Raises:
        ValueError: if neither or both are given, the domain does not rise, is not finite, or is not positive
            on a log scale.

    >>> axis("loss", domain=(1e-6, 1), scale="log", unit="nats").title
    'loss (nats)'
    """
    if (domain is None) == (categories is None):
        raise ValueError(f"axis {label!r} needs either domain=(low, high) or categories=[...]")
    if scale not in ("linear", "log"):
        raise ValueError(f"the scale of axis {label!r} is 'linear' or 'log', got {scale!r}")
    if categories is not None:
        names = tuple(str(name) for name in categories)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"axis {label!r} needs different categories, got {list(names)!r}")
        return Axis(label, None, "category", unit, names)
    return Axis(label, as_interval(domain, f"domain of axis {label!r}", positive=scale == "log"), scale, unit, None)


def panel(*marks: Mark, x: Axis, y: Axis, title: str | None = None, equal: bool = False) -> Panel:
    """Marks over the axes `x` and `y`, drawn in the order given.

    With `equal` a unit of x is as long on screen as a unit of y, so that angles are seen as they are.
    """
    for mark in marks:
        if not isinstance(mark, Mark):
            raise TypeError(f"a panel is made of marks, got {mark!r}")
        if mark.kind == "bars":
            _check_bars(mark, x, y)
    if equal and (x.scale, y.scale) != ("linear", "linear"):
        raise ValueError("equal needs two linear axes")
    return Panel(marks, title, x, y, equal)


def figure(*panels: Panel, alt: str) -> Figure:
    """Panels with `alt`, the text that says what is seen in this state; it is shown as the caption too.

    Raises:
        ValueError: if there is no panel or no text.
    """
    if not panels or not all(isinstance(part, Panel) for part in panels):
        raise ValueError("a figure is made of one or more panels")
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError("a figure needs alt, a text that says what is seen in this state")
    return Figure(panels, alt)


def _check_bars(mark: Mark, x: Axis, y: Axis) -> None:
    if (x.categories is None) == (y.categories is None):
        raise ValueError("bars need a panel with one axis of categories and one of numbers")
    unknown = [name for name in mark.options["names"] if name not in (x.categories or y.categories)]
    if unknown:
        raise ValueError(
            f"bars at {unknown[0]!r}, which is no category of the axis: {list(x.categories or y.categories)}"
        )
