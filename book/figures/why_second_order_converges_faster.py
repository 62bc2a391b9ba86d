"""Figures of the page 'Why do second-order methods converge faster?'."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from steepest.explore import (
    axis,
    bars,
    choice,
    contour,
    explore,
    figure,
    line,
    panel,
    rule,
    stops,
    switch,
    text,
    until_divergence,
)
from steepest.second_order import newton_step, strong_wolfe

STEPS = 40
MOMENTUM = 0.9
NOISE = 0.05
REACH = 3.0
LOSS_FLOOR = 1e-8
START = torch.tensor([-2.5, 0.9], dtype=torch.float64)  # along the flat and the steep direction

DIGIT_STEPS = 10
ERROR_REACH = 100.0
RESOLUTION = torch.finfo(torch.float64).eps / 2


class Loss(NamedTuple):
    """A loss of one parameter: its function of a tensor (1,), its minimiser, a learning rate for gradient descent,
    and what ends a run of Newton's method that diverges."""

    value: Callable[[torch.Tensor], torch.Tensor]
    minimiser: float
    rate: float
    divergence: str = ""


def one_logit(point: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a logit whose label is 1 with probability 0.8."""
    return binary_cross_entropy_with_logits(point, torch.full_like(point, 0.8))


# The first two learning rates are half of 1 / L''(θ*); at the third minimum L'' is zero.
LOSSES = {
    "θ − log θ": Loss(
        lambda point: (point - torch.log(point)).sum(),
        1.0,
        0.5,
        "after its first step left θ > 0, where the loss is defined",
    ),
    "cross-entropy of one logit": Loss(
        one_logit, math.log(4.0), 3.125, "where the Hessian in float64 is zero and there is no further step"
    ),
    "θ⁴, Hessian zero at the minimum": Loss(lambda point: (point**4).sum(), 0.0, 0.02),
}


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
    """Coordinates (41,) of a grid over the frame and the loss (41, 41) on it."""
    grid = np.linspace(-REACH, REACH, 41)
    hessian = quadratic(condition, rotation).numpy()
    points = np.stack(np.meshgrid(grid, grid), axis=-1)
    return grid, 0.5 * np.einsum("yxi,ij,yxj->yx", points, hessian, points)


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
    grid, loss = level_lines(condition, rotation)
    start = runs["Newton"][0][0]
    paths, curves = [], []
    for series, (name, (points, losses)) in enumerate(runs.items()):
        options = {"label": name, "series": series, "reveal": "step"}
        paths.append(line(points[:, 0], points[:, 1], depends=[*varies[name], "rotation"], **options))
        # The problem, its start and its noise turn together, so that rotation can't change a loss.
        curves.append(line(np.arange(STEPS + 1), np.maximum(losses, LOSS_FLOOR), depends=varies[name], **options))
    levels = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
    return figure(
        panel(
            contour(grid, grid, loss, levels=levels, depends=["condition", "rotation"]),
            *paths,
            text(start[0], start[1] + 0.3, "start", anchor="middle", depends=["rotation"]),
            title="Paths over the level lines of the loss",
            x=axis("θ₁", domain=(-REACH, REACH)),
            y=axis("θ₂", domain=(-REACH, REACH)),
            equal=True,
        ),
        panel(
            rule(y=LOSS_FLOOR, label=f"{power_of_ten(LOSS_FLOOR)} or less", depends=[]),
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
        words = f"has a mean loss of {power_of_ten(losses[-late:].mean())} over the last {late} steps"
        count = np.count_nonzero(outside > STEPS - late)
        return f"{words} and is outside the frame at {count} of them" if count else words
    if losses[-1] <= LOSS_FLOOR:
        step = int(np.argmax(losses <= LOSS_FLOOR))
        return f"is at the minimum after {step} {'step' if step == 1 else 'steps'}"
    if np.isclose(lengths[-1], lengths[0], rtol=0.01):
        return "bounces from side to side without coming to rest"
    return f"ends {power_of_ten(np.linalg.norm(points[-1]))} from the minimum at a loss of {power_of_ten(losses[-1])}"


def power_of_ten(value: float) -> str:
    """A positive number in words that read well: 0.00071 as 7 × 10⁻⁴, numbers from 0.1 to 100 plainly."""
    if 0.1 <= value < 100:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    raised = f"{int(exponent)}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa}\u00a0×\u00a010{raised}"


@lru_cache(maxsize=1024)
def newton_errors(name: str, start: float, search: bool) -> np.ndarray:
    """|θ_k − θ*| (DIGIT_STEPS + 1,) of Newton's method in one dimension; NaN from where it has no step left."""
    loss, minimiser = LOSSES[name][:2]
    slope_and_value = torch.func.grad_and_value(loss)
    point = torch.tensor([minimiser + start], dtype=torch.float64)
    errors = [abs(start)]
    for _ in range(DIGIT_STEPS):
        gradient, value = slope_and_value(point)
        try:
            step = newton_step(gradient, torch.func.hessian(loss)(point))
        except ValueError:
            break  # the Hessian has become zero
        # Below this predicted decrease the loss can't tell points apart, and the full step is safe.
        if search and -(gradient @ step).item() > 1e-12 * max(1.0, abs(value.item())):
            step = step * guarded_length(loss, point, step, gradient, value)
        point = point + step
        errors.append(abs(point.item() - minimiser))
    return np.pad(np.array(errors), (0, DIGIT_STEPS + 1 - len(errors)), constant_values=np.nan)


def guarded_length(loss, point, step, gradient, value) -> float:
    """The share of a Newton step that satisfies the strong Wolfe conditions."""

    def evaluate(length):
        slope, height = torch.func.grad_and_value(loss)(point + length * step)
        return height.item(), (slope @ step).item(), None

    return strong_wolfe(evaluate, 1.0, value.item(), (gradient @ step).item()).step_size


@lru_cache(maxsize=1024)
def descent_errors(name: str, start: float) -> np.ndarray:
    """|θ_k − θ*| (DIGIT_STEPS + 1,) of torch.optim.SGD in one dimension."""
    loss, minimiser, rate, _ = LOSSES[name]
    point = torch.tensor([minimiser + start], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([point], lr=rate)
    errors = [abs(start)]
    for _ in range(DIGIT_STEPS):
        optimizer.zero_grad()
        loss(point).backward()
        optimizer.step()
        errors.append(abs(point.item() - minimiser))
    return np.array(errors)


def correct_digits(errors: np.ndarray) -> np.ndarray:
    """Correct decimal digits −log₁₀ |e|, between 0 and the 16 that float64 resolves."""
    return np.maximum(0.0, -np.log10(np.maximum(errors, RESOLUTION)))


def digits(loss, start, search):
    """Error and correct digits of Newton's method, step by step, beside gradient descent."""
    errors = {
        "gradient descent": until_divergence(descent_errors(loss, start)),
        "Newton": until_divergence(newton_errors(loss, start, search)),
    }
    varies = {"gradient descent": ["loss", "start"], "Newton": ["loss", "start", "search"]}
    series = {"gradient descent": 0, "Newton": 3}
    steps = np.arange(DIGIT_STEPS + 1)
    names = [str(step) for step in steps]
    return figure(
        panel(
            rule(y=RESOLUTION, depends=[]),
            text(0.2, 4 * RESOLUTION, "rounding level of float64", depends=[]),
            *(
                line(steps, np.maximum(values, RESOLUTION), name, series[name], "both", varies[name])
                for name, values in errors.items()
            ),
            title="Distance to the minimum",
            x=axis("step k", domain=(0, DIGIT_STEPS)),
            y=axis("error |eₖ|", domain=(RESOLUTION / 10, ERROR_REACH), scale="log"),
        ),
        panel(
            *(bars(names, correct_digits(values), name, series[name], varies[name]) for name, values in errors.items()),
            title="Correct digits",
            x=axis("step k", categories=names),
            y=axis("−log₁₀ |eₖ|", domain=(0, 17), unit="digits"),
        ),
        alt=describe_digits(loss, start, search),
    )


def describe_digits(loss: str, start: float, search: bool) -> str:
    """What the state shows, in words."""
    errors = newton_errors(loss, start, search)
    head = f"Newton's method{' with a line search' if search else ''} on {loss}, started {start:g} from the minimum, "
    arrived, outside = np.flatnonzero(errors <= 8 * RESOLUTION), np.flatnonzero(errors > ERROR_REACH)
    if arrived.size:
        shown = ", ".join(f"{count:.1f}" for count in correct_digits(errors[: arrived[0] + 1]))
        return f"{head}has {shown} correct digits at steps 0 to {arrived[0]}; float64 has no more."
    if outside.size:
        leaves = f"diverges: it leaves the frame at step {outside[0]}"
        return f"{head}{leaves}, {LOSSES[loss].divergence}."
    return (
        f"{head}multiplies the error by {errors[-1] / errors[-2]:.3f} in each step: the digits grow by the same "
        "amount each time and do not double."
    )


def descent_figure():
    """Gradient descent, SGD, momentum and Newton's method on a quadratic."""
    return explore(
        descent,
        condition=stops([1, 3, 10, 30, 100, 1000], default=100, label="condition number κ"),
        rotation=stops([0, 30, 60, 90], default=30, label="rotation", unit="°"),
        rate=stops([0.1, 0.3, 1, 1.5, 1.8, 2, 2.1, 3, 4], default=1.8, label="learning rate", unit="/ λₘₐₓ"),
        noise=switch(False, label="gradient noise"),
        step=stops([*range(10), *range(10, 20, 2), *range(20, STEPS + 1, 5)], default=STEPS, label="step", play=True),
    )


def digits_figure():
    """Errors and digits of Newton's method in one dimension."""
    return explore(
        digits,
        loss=choice(list(LOSSES), label="loss"),
        start=stops([0.01, 0.1, 0.3, 0.6, 0.9, 1.2, 1.5, 2, 3], default=0.6, label="distance of the start e₀"),
        search=switch(False, label="line search"),
    )
