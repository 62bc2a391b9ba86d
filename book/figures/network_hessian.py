"""The Hessian of a small network at its start, and what three methods do there."""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_iris

from book.figures.newton_variants import METHODS, gradient_and_hessian, step_of
from book.figures.wording import signed
from steepest.explore import axis, explore, figure, line, panel, rule, stops

WIDTHS = (4, 6, 6, 3)


@cache
def network(seed: int) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """Loss as a function of the parameters (D,), and D initial parameters, of a small classifier of irises.

    Two hidden layers of six tanh units, cross-entropy over all 150 flowers. Weights are drawn from a normal
    distribution of variance one over the number of inputs, biases are zero.
    """
    flowers = load_iris()
    inputs, labels = torch.tensor(flowers.data), torch.tensor(flowers.target)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)  # (150, 4)
    shapes = [shape for fan_in, fan_out in pairwise(WIDTHS) for shape in ((fan_out, fan_in), (fan_out,))]
    counts = [math.prod(shape) for shape in shapes]

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        values = [part.reshape(shape) for part, shape in zip(parameters.split(counts), shapes, strict=True)]
        first, first_bias, second, second_bias, last, last_bias = values
        hidden = torch.tanh(inputs @ first.T + first_bias)
        hidden = torch.tanh(hidden @ second.T + second_bias)
        return torch.nn.functional.cross_entropy(hidden @ last.T + last_bias, labels)

    generator = torch.Generator().manual_seed(seed)
    start = [
        torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[1])
        if len(shape) == 2
        else torch.zeros(shape, dtype=torch.float64)
        for shape in shapes
    ]
    return loss, torch.cat([part.reshape(-1) for part in start])


@cache
def network_curvature(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradient (D,), Hessian (D, D) and its rising eigenvalues (D,) at the initial parameters."""
    loss, start = network(seed)
    gradient, hessian = gradient_and_hessian(loss, start)
    return gradient, hessian, torch.linalg.eigvalsh(hessian)


@cache
def network_step(method: str, seed: int, damping: float) -> tuple[torch.Tensor, float, np.ndarray]:
    """The whole step (D,), the slope gᵀs along it, and the loss (41,) at the fractions 0 to 1 of it."""
    loss, start = network(seed)
    gradient, hessian, _ = network_curvature(seed)
    step = step_of(method, gradient, hessian, damping, learning_rate=1.0)
    losses = [loss(start + fraction * step).item() for fraction in np.linspace(0.0, 1.0, 41)]
    return step, float(gradient @ step), np.array(losses)


def at_initialization(seed: int, damping: float):
    """Eigenvalues of the network's Hessian, and the loss along the steps of three methods."""
    _, _, eigenvalues = network_curvature(seed)
    fraction = np.linspace(0.0, 1.0, 41)
    curves, said = [], []
    for series, method in enumerate(METHODS):
        damped = method != "gradient descent"
        _, slope, losses = network_step(method, seed, damping if damped else 0.0)
        label = method if damped else "gradient descent, η = 1"
        depends = ["seed", "damping"] if damped else ["seed"]
        curves.append(line(fraction, losses, label=label, series=series, depends=depends))
        outside = " outside the frame" if losses[-1] > 3 else ""
        said.append(f"{method} starts {'uphill' if slope > 0 else 'downhill'} and ends at {losses[-1]:.2f}{outside}")
    start, count = losses[0], eigenvalues.numel()
    below = int((eigenvalues < -damping).sum())
    return figure(
        panel(
            line(range(1, count + 1), eigenvalues, label="eigenvalue", series=3, style="dots", depends=["seed"]),
            rule(y=0.0, depends=[]),
            rule(y=-damping, label="−δ", depends=["damping"]),
            title="Eigenvalues of the Hessian, sorted",
            x=axis("index", domain=(0, count + 1)), y=axis("eigenvalue", domain=(-2.0, 2.0)),
        ),
        panel(
            rule(y=start, label="loss before the step", depends=["seed"]),
            *curves,
            title="Loss along the step", x=axis("fraction of the step taken", domain=(0, 1)),
            y=axis("loss", domain=(0, 3), unit="nats"),
        ),
        alt=f"Start {seed}, damping {damping:g}: {below} of {count} eigenvalues lie below −δ, the lowest is "
        f"{signed(float(eigenvalues[0]), 2)}. The loss before the step is {start:.2f}; {'; '.join(said)}.",
    )  # fmt: skip


def network_figure():
    """The Hessian of a small network at initialization, and what Newton's step does there."""
    return explore(
        at_initialization,
        seed=stops(range(6), default=2, label="random start"),
        damping=stops([0.001, 0.01, 0.1, 0.3, 1.0, 3.0], default=0.01, label="damping δ of both Newton methods"),
    )
