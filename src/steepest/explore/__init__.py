"""Live figures: a Python function of controls, evaluated at build and alive in a static page.

>>> from steepest.explore import axis, explore, figure, line, panel, stops
>>> def parabola(width):
...     x = [-2.0, -1.0, 0.0, 1.0, 2.0]
...     curve = line(x, [width * value**2 for value in x], label="width times x squared")
...     frame = panel(curve, x=axis("x", domain=(-2, 2)), y=axis("y", domain=(0, 4)))
...     return figure(frame, alt=f"A parabola of width {width}.")
>>> shown = explore(parabola, width=stops([0.5, 1, 2], default=1, label="width"))
"""

from .arrays import until_divergence
from .controls import choice, stops, switch
from .engine import explore
from .marks import bars, contour, heatmap, image, line, rule, text
from .panels import axis, figure, panel

__all__ = [
    "axis",
    "bars",
    "choice",
    "contour",
    "explore",
    "figure",
    "heatmap",
    "image",
    "line",
    "panel",
    "rule",
    "stops",
    "switch",
    "text",
    "until_divergence",
]
