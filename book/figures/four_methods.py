"""Gradient descent, SGD, momentum and Newton's method on a quadratic: the problem, the runs, the figure."""

import math
from functools import lru_cache

import numpy as np
import torch

from book.figures.wording import scientific
from steepest.explore import axis, contour, explore, figure, line, panel, rule, stops, switch, text
from steepest.second_order import newton_step

STEPS = 40
MOMENTUM = 0.9
NOISE = 0.05
REACH = 3.0
LOSS_FLOOR = 1e-8
START = torch.tensor([-2.5, 0.9], dtype=torch.float64)  # along the flat and the steep direction


def directions(rotation: float) -> torch.Tensor:
    """Unit vectors (2, 2) of the flat and the steep direction, as columns, turned by `rotation` degrees."""
    angle = math.radians(rotation)
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)


def quadratic(condition: float, rotation: float) -> torch.Tensor:
    """Hessian (2, 2) with eigenvalues 1 / condition and 1."""
    axes = directions(rotation)
    return axes @ torch.diag(torch.tensor([1.0 / condition, 1.0], dtype=torch.float64)) @ axes.T


def gradient_noise(rotation: float, noise: bool) -> torch.Tensor:
    """Noise (STEPS, 2) of the gradients: the same draws for every method, turned with the problem."""
    draws = torch.randn(STEPS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return NOISE * noise * draws @ directions(rotation).T


@lru_cache(maxsize=4096)
def descend(
    condition: float, rotation: float, rate: float, noise: bool, momentum: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Points (STEPS + 1, 2) and losses of torch.optim.SGD on ½ θᵀHθ; `rate` is in units of 1 / λₘₐₓ, which is 1."""
    hessian = quadratic(condition, rotation)
    point = (directions(rotation) @ START).requires_grad_()
    optimizer = torch.optim.SGD([point], lr=rate, momentum=momentum)
    points = [point.detach().clone()]
    for draw in gradient_noise(rotation, noise):
        point.grad = hessian @ point.detach() + draw
        optimizer.step()
        points.append(point.detach().clone())
    return with_losses(points, hessian)


@lru_cache(maxsize=4096)
def newton(condition: float, rotation: float, noise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Points (STEPS + 1, 2) and losses of Newton's method on ½ θᵀHθ."""
    hessian = quadratic(condition, rotation)
    points = [directions(rotation) @ START]
    for draw in gradient_noise(rotation, noise):
        points.append(points[-1] + newton_step(hessian @ points[-1] + draw, hessian))
    return with_losses(points, hessian)


def with_losses(points: list[torch.Tensor], hessian: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The points as one array, and ½ θᵀHθ of each."""
    path = torch.stack(points)
    return path.numpy(), (0.5 * ((path @ hessian) * path).sum(1)).numpy()


@lru_cache(maxsize=256)
def level_lines(condition: float, rotation: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (61,) of a grid over the frame and the root of the loss (61, 61) on it.

    The root has the same level lines and rises evenly from the valley's floor, so that lines interpolated
    between grid points stay smooth where the valley is narrow.
    """
    grid = np.linspace(-REACH, REACH, 61)
    hessian = quadratic(condition, rotation).numpy()
    points = np.stack(np.meshgrid(grid, grid), axis=-1)
    return grid, np.sqrt(0.5 * np.einsum("yxi,ij,yxj->yx", points, hessian, points))


def descent(condition, rotation, rate, noise, step):
    """Four methods on a quadratic: paths over level lines, and loss against step; `step` only reveals."""
    return whole_descent(condition, rotation, rate, noise)


@lru_cache(maxsize=1024)
def whole_descent(condition: float, rotation: float, rate: float, noise: bool):
    """The figure of `descent`, the same at every step."""
    runs = {
        "gradient descent": descend(condition, rotation, rate, False),
        "SGD": descend(condition, rotation, rate, noise),
        "momentum": descend(condition, rotation, rate, noise, MOMENTUM),
        "Newton": newton(condition, rotation, noise),
    }
    varies = {
        "gradient descent": ["condition", "rate"],
        "SGD": ["condition", "rate", "noise"],
        "momentum": ["condition", "rate", "noise"],
        "Newton": ["condition", "noise"],
    }
    grid, root = level_lines(condition, rotation)
    start = runs["Newton"][0][0]
    paths, curves = [], []
    for series, (name, (points, losses)) in enumerate(runs.items()):
        options = {"label": name, "series": series, "reveal": "step"}
        paths.append(line(points[:, 0], points[:, 1], depends=[*varies[name], "rotation"], **options))
        # The problem, its start and its noise turn together, so that rotation can't change a loss.
        curves.append(line(np.arange(STEPS + 1), np.maximum(losses, LOSS_FLOOR), depends=varies[name], **options))
    levels = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
    return figure(
        panel(
            contour(grid, grid, root, levels=np.sqrt(levels), depends=["condition", "rotation"]),
            *paths,
            text(start[0], start[1] + 0.3, "start", anchor="middle", depends=["rotation"]),
            title="Paths over the level lines of the loss",
            x=axis("θ₁", domain=(-REACH, REACH)),
            y=axis("θ₂", domain=(-REACH, REACH)),
            equal=True,
        ),
        panel(
            rule(y=LOSS_FLOOR, label=f"{scientific(LOSS_FLOOR)} or less", depends=[]),
            *curves,
            title="Loss",
            x=axis("step", domain=(0, STEPS)),
            y=axis("loss", domain=(LOSS_FLOOR / 10, 100.0), scale="log"),
        ),
        alt=describe_descent(condition, rate, noise, runs),
    )


def describe_descent(condition: float, rate: float, noise: bool, runs: dict) -> str:
    """What the whole run shows, in words; the same at every step and rotation."""
    source = f"noise of size {NOISE:g} in each gradient component" if noise else "exact gradients"
    said = [f"κ = {condition:g}, learning rate {rate:g}/λₘₐₓ, {source}. Over {STEPS} steps:"]
    for name, (points, losses) in runs.items():
        if noise or name != "SGD":
            said.append(f"{name} {outcome(points, losses, noise and name != 'gradient descent')};")
    said[-1] = said[-1].rstrip(";") + ("." if noise else "; SGD without noise is gradient descent.")
    return " ".join(said)


def outcome(points: np.ndarray, losses: np.ndarray, noise: bool) -> str:
    """What became of one run: where it left the frame, or how far it came."""
    outside = np.flatnonzero(np.abs(points).max(axis=1) > REACH)
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if losses[-1] > 100 * losses[0]:
        return f"diverges and leaves the frame at step {outside[0]}"
    if noise:
        late = STEPS // 2
        words = f"has a mean loss of {scientific(losses[-late:].mean())} over the last {late} steps"
        count = np.count_nonzero(outside > STEPS - late)
        return f"{words} and is outside the frame at {count} of them" if count else words
    if losses[-1] <= LOSS_FLOOR:
        step = int(np.argmax(losses <= LOSS_FLOOR))
        return f"is at the minimum after {step} {'step' if step == 1 else 'steps'}"
    if np.isclose(lengths[-1], lengths[0], rtol=0.01):
        return "bounces from side to side without coming to rest"
    return f"ends {scientific(np.linalg.norm(points[-1]))} from the minimum at a loss of {scientific(losses[-1])}"


def descent_figure():
    """Gradient descent, SGD, momentum and Newton's method on a quadratic."""
    return explore(
        descent,
        condition=stops([1, 3, 10, 30, 100, 1000], default=100, label="condition number κ"),
        rotation=stops([0, 30, 60], default=30, label="rotation", unit="°"),
        rate=stops([0.1, 0.3, 1, 1.5, 1.8, 2, 2.1, 3, 4], default=1.8, label="learning rate", unit="/ λₘₐₓ"),
        noise=switch(False, label="gradient noise"),
        step=stops([*range(10), *range(10, 20, 2), *range(20, STEPS + 1, 5)], default=STEPS, label="step", play=True),
    )
