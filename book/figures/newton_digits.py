"""Newton's method in one dimension: the runs, and the figure of their errors and correct digits."""

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


def digits_figure():
    """Errors and digits of Newton's method in one dimension."""
    return explore(
        digits,
        loss=choice(list(LOSSES), label="loss"),
        start=stops([0.01, 0.1, 0.3, 0.6, 0.9, 1.2, 1.5, 2, 3], default=0.6, label="distance of the start e₀"),
        search=switch(False, label="line search"),
    )
