"""Three methods at a saddle: the function, the paths, the figure."""

import math
from functools import cache
from typing import Any

import numpy as np
import torch

from book.figures.newton_variants import METHODS, step_of
from book.figures.wording import signed
from steepest.explore import axis, contour, explore, figure, line, panel, rule, stops, text

STEPS = 15
LEARNING_RATE = 0.2
MINIMUM = math.sqrt(2.0)


def saddle(point: torch.Tensor) -> torch.Tensor:
    """The function x² − y² + y⁴/4 of `point` (2, ...): a saddle at the origin, minima of −1 at (0, ±√2)."""
    x, y = point
    return x**2 - y**2 + y**4 / 4


@cache
def saddle_path(method: str, x0: float, y0: float, damping: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates x, y and values f, each (STEPS + 1,), of one of `METHODS`."""
    points = [torch.tensor([x0, y0], dtype=torch.float64)]
    for _ in range(STEPS):
        x, y = points[-1]
        gradient = torch.stack([2 * x, y**3 - 2 * y])
        hessian = torch.diag(torch.stack([torch.full_like(x, 2.0), 3 * y**2 - 2]))
        points.append(points[-1] + step_of(method, gradient, hessian, damping, LEARNING_RATE))
    path = torch.stack(points).T  # (2, STEPS + 1)
    return path[0].numpy(), path[1].numpy(), saddle(path).numpy()


@cache
def saddle_surface() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n,) along both axes, and the values (n, n) of `saddle` on their grid."""
    grid = torch.linspace(-2.2, 2.2, 45)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    return grid.numpy(), saddle(torch.stack([x, y])).numpy()


def _place(x: float, y: float) -> str:
    """Where a point of the saddle's plane lies, in words."""
    if math.hypot(x, y) < 0.01:
        return "at the saddle"
    if math.hypot(x, abs(y) - MINIMUM) < 0.02:
        return "at a minimum"
    return f"at ({signed(x, 1)}, {signed(y, 1)})"


def at_saddle(x0: float, y0: float, damping: float, step: int):
    """Paths of the three methods from (x0, y0), and the values of f along them up to `step`."""
    grid, surface = saddle_surface()
    count = np.arange(STEPS + 1)
    on_map, on_plot, said = [], [], []
    for series, method in enumerate(METHODS):
        damped = method != "gradient descent"
        xs, ys, values = saddle_path(method, x0, y0, damping if damped else 0.0)
        marks: dict[str, Any] = {
            "label": method if damped else f"gradient descent, η = {LEARNING_RATE}",
            "series": series, "style": "both", "reveal": "step",
            "depends": ["x0", "y0", "damping"] if damped else ["x0", "y0"],
        }  # fmt: skip
        on_map.append(line(xs, ys, **marks))
        on_plot.append(line(count, values, **marks))
        highest = values[: step + 1].max()
        jump = f" after leaving the frame (up to f = {signed(highest, 0)})" if highest > 2.5 else ""
        said.append(f"{method} is {_place(xs[step], ys[step])}{jump}, f = {signed(values[step], 2)}")
    stuck = "" if y0 else " From y₀ = 0 the gradient has no y component, so no method leaves the ridge."
    return figure(
        panel(
            contour(grid, grid, surface, levels=[-0.9, -0.7, -0.45, -0.2, 0.0, 0.3, 0.7, 1.2, 2.0, 3.0], depends=[]),
            *on_map,
            text([-0.12] * 3, [0.0, MINIMUM, -MINIMUM], ["saddle", "minimum", "minimum"], anchor="end", depends=[]),
            title="Paths", x=axis("x", domain=(-2.2, 2.2)), y=axis("y", domain=(-2.2, 2.2)), equal=True,
        ),
        panel(
            rule(y=0.0, label="saddle", depends=[]),
            rule(y=-1.0, label="minimum", depends=[]),
            *on_plot,
            title="Value", x=axis("step k", domain=(0, STEPS)), y=axis("f", domain=(-1.2, 2.5)),
        ),
        alt=f"Start ({x0:g}, {y0:g}), damping {damping:g}, step {step}: {'; '.join(said)}.{stuck}",
    )  # fmt: skip


def saddle_figure():
    """Newton, |H|-Newton and gradient descent at a saddle."""
    return explore(
        at_saddle,
        x0=stops([0.0, 0.4, 0.8, 1.2], default=0.8, label="start x₀"),
        y0=stops([0.0, 0.1, 0.2, 0.4, 0.6, 0.7, 1.0, 1.8], default=0.6, label="start y₀"),
        damping=stops([0.0, 0.5, 1.0, 3.0], default=0.0, label="damping δ of both Newton methods"),
        step=stops(range(STEPS + 1), default=STEPS, label="step k", play=True),
    )
