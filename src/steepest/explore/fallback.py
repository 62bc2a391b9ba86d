"""The picture of a figure's default state: what is seen in print, without JavaScript and in a feed reader."""

import base64
import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from PIL import Image

from .controls import State
from .marks import Mark
from .palette import DIVERGING, MUTED, PAPER, RULE, SEQUENTIAL, SERIES, TEXT
from .panels import Axis, Figure, Panel

PANEL_INCHES = 3.6
DOTS_PER_INCH = 120
COLOURS = 96
MARKERS = {
    "circle": "o", "square": "s", "triangle": "^", "diamond": "D", "cross": "x", "star": "*", "wye": "1", "plus": "+",
}  # fmt: skip


def picture(figure: Figure, state: State) -> str:
    """`figure` drawn by matplotlib as a data URI of a PNG on white paper, readable on light and dark pages.

    `state` holds the value of each control, for marks that one reveals.
    """
    width = PANEL_INCHES * len(figure.panels)
    canvas = Canvas(figsize=(width, PANEL_INCHES * 0.95), dpi=DOTS_PER_INCH, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(canvas)
    for axes, panel in zip(canvas.subplots(1, len(figure.panels), squeeze=False)[0], figure.panels, strict=True):
        _draw_panel(axes, panel, state)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(_compact(buffer)).decode()


def _compact(png: io.BytesIO) -> bytes:
    """The same picture with a palette of few colours: a third of the bytes."""
    reduced = Image.open(png).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    reduced.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _draw_panel(axes: Axes, panel: Panel, state: State) -> None:
    axes.set_title(panel.title or "", loc="left", fontsize=10, fontweight="bold", color=TEXT)
    for name, axis in (("x", panel.x), ("y", panel.y)):
        _set_axis(axes, name, axis)
    if panel.equal:
        axes.set_aspect("equal")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=8, length=3, width=0.6)
    groups = [mark for mark in panel.marks if mark.kind == "bars"]
    for mark in panel.marks:
        if mark.kind == "bars":
            _draw_bars(axes, mark, panel, groups.index(mark), len(groups))
        else:
            DRAW[mark.kind](axes, mark, state)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7.5, frameon=True, framealpha=0.85, edgecolor="none", handlelength=2.6, labelcolor=TEXT)


def _set_axis(axes: Axes, name: str, axis: Axis) -> None:
    getattr(axes, f"set_{name}label")(axis.title, fontsize=9, color=TEXT)
    if axis.categories:
        getattr(axes, f"set_{name}ticks")(range(len(axis.categories)), axis.categories)
        limits = (-0.5, len(axis.categories) - 0.5)
        # Categories read from top to bottom, as words do.
        limits = limits[::-1] if name == "y" else limits
    else:
        getattr(axes, f"set_{name}scale")(axis.scale)
        limits = axis.domain
    getattr(axes, f"set_{name}lim")(*limits)


def _draw_line(axes: Axes, mark: Mark, state: State) -> None:
    series = SERIES[mark.options["series"]]
    shown = slice(None if mark.reveal is None else int(state[mark.reveal]) + 1)
    style = mark.options["style"]
    axes.plot(
        mark.arrays["x"][shown],
        mark.arrays["y"][shown],
        color=series.light,
        linewidth=1.6,
        linestyle=_dash(series.dash) if style != "dots" else "none",
        marker=MARKERS[series.marker],
        markersize=4,
        markevery=[-1] if style == "line" else None,
        label=mark.label,
    )


def _draw_contour(axes: Axes, mark: Mark, state: State) -> None:
    rows, columns = mark.arrays["z"].shape
    coordinates = []
    for name, count in (("x", columns), ("y", rows)):
        space = np.geomspace if getattr(axes, f"get_{name}scale")() == "log" else np.linspace
        coordinates.append(space(*mark.arrays[name], count))
    # Given, because matplotlib dashes the lines of negative levels; a dash stands for a series here.
    look = {"colors": RULE, "linewidths": 0.7, "linestyles": "solid"}
    axes.contour(*coordinates, mark.arrays["z"], levels=mark.options["levels"], **look)


def _draw_heatmap(axes: Axes, mark: Mark, state: State) -> None:
    low, high = mark.options["domain"]
    colours = LinearSegmentedColormap.from_list("steepest", DIVERGING if low == -high else SEQUENTIAL)
    drawn = axes.imshow(mark.arrays["z"], extent=_extent(mark), origin="lower", aspect="auto", cmap=colours,
                        vmin=low, vmax=high, interpolation="nearest")  # fmt: skip
    bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.05)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=7)
    bar.set_label(mark.label or "", fontsize=8, color=TEXT)


def _draw_image(axes: Axes, mark: Mark, state: State) -> None:
    pixels = np.clip(mark.arrays["pixels"], 0, 1)
    axes.imshow(pixels, extent=_extent(mark), origin="upper", aspect="auto", cmap="gray", vmin=0, vmax=1)


def _draw_rule(axes: Axes, mark: Mark, state: State) -> None:
    name, value = next(iter(mark.arrays.items()))
    style = {"color": RULE, "linewidth": 0.9, "linestyle": _dash((4, 3))}
    words = {"fontsize": 8, "color": MUTED, "clip_on": True}
    if name == "x":
        axes.axvline(value[0], **style)
        axes.text(value[0], 0.98, f" {mark.label or ''}", va="top", transform=axes.get_xaxis_transform(), **words)
    else:
        axes.axhline(value[0], **style)
        axes.text(
            0.99, value[0], mark.label or "", ha="right", va="bottom", transform=axes.get_yaxis_transform(), **words
        )


def _draw_text(axes: Axes, mark: Mark, state: State) -> None:
    side = {"start": "left", "middle": "center", "end": "right"}[mark.options["anchor"]]
    for x, y, string in zip(mark.arrays["x"], mark.arrays["y"], mark.strings, strict=True):
        axes.text(x, y, string, fontsize=8, color=TEXT, ha=side, va="center", clip_on=True)


def _draw_bars(axes: Axes, mark: Mark, panel: Panel, group: int, groups: int) -> None:
    upright = panel.x.categories is not None
    categories = list(panel.x.categories or panel.y.categories)
    thickness = 0.76 / groups
    at = [categories.index(name) + (group - (groups - 1) / 2) * thickness for name in mark.options["names"]]
    draw, size = (axes.bar, "width") if upright else (axes.barh, "height")
    colour = SERIES[mark.options["series"]].light
    draw(at, mark.arrays["values"], **{size: thickness * 0.92}, color=colour, label=mark.label)


def _extent(mark: Mark) -> tuple[float, ...]:
    return (*mark.arrays["x"], *mark.arrays["y"])


def _dash(lengths: tuple[float, ...]) -> str | tuple[int, tuple[float, ...]]:
    # The front end's lengths are in px; matplotlib's are multiples of nothing but points.
    return (0, tuple(length * 0.75 for length in lengths)) if lengths else "solid"


DRAW = {
    "line": _draw_line,
    "contour": _draw_contour,
    "heatmap": _draw_heatmap,
    "image": _draw_image,
    "rule": _draw_rule,
    "text": _draw_text,
}
