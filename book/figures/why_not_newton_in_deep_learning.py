"""Live figures of the page 'Why don't we use Newton's method in deep learning?'.

Three methods at a saddle, the memory and the time that a Hessian takes, and the Hessian of a small network.
"""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_iris

from steepest.explore import axis, choice, contour, explore, figure, line, panel, rule, stops, switch, text
from steepest.second_order import hessian_vector_product, newton_step, saddle_free_newton_step

STEPS = 15
LEARNING_RATE = 0.2
MINIMUM = math.sqrt(2.0)

FORMATS = {"FP16": 2, "FP32": 4, "FP64": 8}
# Parameter counts as stated by Devlin et al. 2019 (section 3), Radford et al. 2019 (abstract) and
# Brown et al. 2020 (table 2.1).
MODELS = {"BERT-base": 110_000_000, "GPT-2": 1_500_000_000, "GPT-3": 175_000_000_000}
GPU_BYTES = 80e9
HISTORY = 10
OPERATIONS_PER_SECOND = 1e15
DAY = 86_400.0
YEAR = 365.25 * DAY
AGE_OF_UNIVERSE = 13.8e9 * YEAR

WIDTHS = (4, 6, 6, 3)

METHODS = ("Newton", "|H|-Newton", "gradient descent")


def gradient_and_hessian(
    fn: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient (D,) and Hessian (D, D) of `fn` at `point` (D,), the latter column by column from D products."""
    variable = point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fn(variable), variable)
    hessian = torch.stack(
        [hessian_vector_product(fn, point, unit) for unit in torch.eye(point.numel(), dtype=point.dtype)]
    )
    return gradient, (hessian + hessian.T) / 2


def step_of(
    method: str, gradient: torch.Tensor, hessian: torch.Tensor, damping: float, learning_rate: float
) -> torch.Tensor:
    """The step (D,) of one of `METHODS`; gradient descent ignores the damping, the others the learning rate."""
    if method == "gradient descent":
        return -learning_rate * gradient
    return (newton_step if method == "Newton" else saddle_free_newton_step)(gradient, hessian, damping)


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


def _number(value: float, digits: int) -> str:
    """A number in words' typography: a real minus sign, and no minus before zero."""
    shown = f"{value:,.{digits}f}"
    return shown.lstrip("-") if float(shown.replace(",", "")) == 0 else shown.replace("-", "−")


def _place(x: float, y: float) -> str:
    """Where a point of the saddle's plane lies, in words."""
    if math.hypot(x, y) < 0.01:
        return "at the saddle"
    if math.hypot(x, abs(y) - MINIMUM) < 0.02:
        return "at a minimum"
    return f"at ({_number(x, 1)}, {_number(y, 1)})"


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
        jump = f" after leaving the frame (up to f = {_number(highest, 0)})" if highest > 2.5 else ""
        said.append(f"{method} is {_place(xs[step], ys[step])}{jump}, f = {_number(values[step], 2)}")
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


def hessian_bytes(parameters: float, bytes_per_number: int, symmetric: bool = False) -> float:
    """Bytes of a Hessian: D² numbers, or D(D + 1)/2 where each pair of equal entries is stored once."""
    entries = parameters * (parameters + 1) / 2 if symmetric else parameters**2
    return float(entries * bytes_per_number)


def cholesky_seconds(parameters: float) -> float:
    """Seconds of the D³/3 operations of a Cholesky factorization at `OPERATIONS_PER_SECOND`."""
    return parameters**3 / 3 / OPERATIONS_PER_SECOND


def in_words(value: float, units: dict[str, float]) -> str:
    """A positive number in the largest of `units` (name to size, rising) that it reaches.

    >>> in_words(1.21e16, {"bytes": 1, "TB": 1e12, "PB": 1e15})
    '12.1 PB'
    """
    name, size = next(((n, s) for n, s in reversed(units.items()) if value >= s), next(iter(units.items())))
    ratio = value / size
    return f"{ratio:,.0f} {name}" if ratio >= 100 else f"{ratio:.3g} {name}"


COUNTS = {"": 1.0, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
BYTES = {"bytes": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15, "EB": 1e18, "ZB": 1e21, "YB": 1e24}
TIMES = {
    "ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "seconds": 1.0, "hours": 3600.0, "days": DAY, "years": YEAR,
    "thousand years": 1e3 * YEAR, "million years": 1e6 * YEAR, "billion years": 1e9 * YEAR,
}  # fmt: skip


def of_size(parameters: int, number: str, symmetric: bool):
    """Memory of a Hessian, of L-BFGS and of a gradient, and the time of one factorization, over D."""
    size = FORMATS[number]
    d = np.logspace(2, 12, 21)
    sizes = np.array(list(MODELS.values()), dtype=float)
    needed, seconds = hessian_bytes(parameters, size, symmetric), cholesky_seconds(parameters)
    gpus = math.ceil(needed / GPU_BYTES)
    fits = "fits on one GPU of 80 GB" if gpus == 1 else f"fills {in_words(gpus, COUNTS).strip()} GPUs of 80 GB"
    name = next((f" ({model})" for model, count in MODELS.items() if count == parameters), "")
    parameter_words = f"{in_words(parameters, COUNTS).strip()} parameters{name}"
    layout = ", each pair of equal entries stored once" if symmetric else ""
    others = {"the gradient": size * parameters, f"L-BFGS with m = {HISTORY}": 2 * HISTORY * size * parameters}
    stored = ["number", "symmetric"]
    parameter_axis = axis("parameters D", domain=(1e2, 1e12), scale="log")
    return figure(
        panel(
            line(d, [hessian_bytes(each, size, symmetric) for each in d], label="Hessian", series=0, depends=stored),
            line(d, 2 * HISTORY * size * d, label="L-BFGS, m = 10", series=1, depends=["number"]),
            line(d, size * d, label="gradient", series=2, depends=["number"]),
            line(sizes, [hessian_bytes(each, size, symmetric) for each in sizes], style="dots", series=3,
                 label="models", depends=stored),
            text(sizes / 1.6, [hessian_bytes(each, size, symmetric) * 2 for each in sizes], list(MODELS),
                 anchor="end", depends=stored),
            rule(y=GPU_BYTES, depends=[]),
            text(1.4e2, 10 * GPU_BYTES, "one GPU, 80 GB", depends=[]),
            rule(x=parameters, depends=["parameters"]),
            line([parameters], [needed], label="D chosen", series=4, style="dots"),
            title="Memory", x=parameter_axis, y=axis("memory", domain=(1e2, 1e26), scale="log", unit="bytes"),
        ),
        panel(
            line(d, cholesky_seconds(d), label="factorization, D³/3", series=5, depends=[]),
            line(sizes, cholesky_seconds(sizes), style="dots", series=3, label="models", depends=[]),
            text(sizes / 1.6, cholesky_seconds(sizes) * 2, list(MODELS), anchor="end", depends=[]),
            rule(y=DAY, depends=[]),
            rule(y=AGE_OF_UNIVERSE, depends=[]),
            text([1.4e2, 1.4e2], [50 * DAY, 50 * AGE_OF_UNIVERSE], ["a day", "age of the universe"], depends=[]),
            rule(x=parameters, depends=["parameters"]),
            line([parameters], [seconds], label="D chosen", series=4, style="dots", depends=["parameters"]),
            title="Time at 10¹⁵ operations a second",
            x=parameter_axis, y=axis("time", domain=(1e-10, 1e22), scale="log", unit="s"),
        ),
        alt=f"{parameter_words}, {number}{layout}: {in_words(needed, BYTES)} for the Hessian, which {fits}; "
        + "; ".join(f"{in_words(value, BYTES)} for {owner}" for owner, value in others.items())
        + f". One factorization takes {in_words(seconds, TIMES)} at 10¹⁵ operations a second.",
    )  # fmt: skip


def size_figure():
    """Bytes of a Hessian, and seconds of its factorization, against the number of parameters."""
    decades = [value * 10**power for power in range(2, 12) for value in (1, 3)] + [10**12]
    counts = sorted({*decades, *MODELS.values()} - {10**8, 10**9, 3 * 10**11})
    return explore(
        of_size,
        parameters=stops(counts, default=MODELS["GPT-3"], label="parameters D"),
        number=choice(list(FORMATS), default="FP32", label="number format"),
        symmetric=switch(False, label="store each pair of equal entries once"),
    )


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
        f"{_number(float(eigenvalues[0]), 2)}. The loss before the step is {start:.2f}; {'; '.join(said)}.",
    )  # fmt: skip


def network_figure():
    """The Hessian of a small network at initialization, and what Newton's step does there."""
    return explore(
        at_initialization,
        seed=stops(range(6), default=2, label="random start"),
        damping=stops([0.001, 0.01, 0.1, 0.3, 1.0, 3.0], default=0.01, label="damping δ of both Newton methods"),
    )
