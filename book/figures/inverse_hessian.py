"""The matrix of BFGS on its way to the inverse Hessian of a quadratic."""

from functools import cache

import numpy as np
import torch

from book.figures.quasi_newton_runs import FLOOR, along
from book.figures.wording import scientific
from steepest.explore import axis, choice, explore, figure, heatmap, line, panel, rule, stops
from steepest.second_order import bfgs_inverse_update, strong_wolfe

QUADRATIC_SIZE, QUADRATIC_STEPS = 8, 44
EXACT = "exact"


@cache
def learning(condition: float, search: str) -> tuple[np.ndarray, np.ndarray]:
    """BFGS on a quadratic with D = QUADRATIC_SIZE and eigenvalues from 1 to `condition`, in its eigenbasis.

    Returns the errors E = H^½ M H^½ − I after k = 0 … QUADRATIC_STEPS updates, (K + 1, D, D), and the norm of the
    gradient as a share of the first, (K + 1,). M starts as I / `condition`.
    """
    curvatures = torch.logspace(0, np.log10(condition), QUADRATIC_SIZE, dtype=torch.float64)
    roots, identity = curvatures.sqrt(), torch.eye(QUADRATIC_SIZE, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(QUADRATIC_SIZE, generator=generator, dtype=torch.float64)

    def evaluate(point: torch.Tensor) -> tuple[float, torch.Tensor]:
        gradient = curvatures * point
        return 0.5 * (gradient @ point).item(), gradient

    inverse_hessian = identity / condition
    value, gradient = evaluate(point)
    errors, norms = [], []
    for _ in range(QUADRATIC_STEPS + 1):
        errors.append(roots[:, None] * inverse_hessian * roots - identity)
        norms.append(gradient.norm().item())
        if norms[-1] <= 1e-10 * norms[0]:
            continue
        direction = -(inverse_hessian @ gradient)
        slope = (gradient @ direction).item()
        step_size = -slope / (direction @ (curvatures * direction)).item()
        if search != EXACT:
            step_size = strong_wolfe(along(evaluate, point, direction), 1.0, value, slope).step_size
        step = step_size * direction
        before, (value, gradient) = gradient, evaluate(point + step)
        inverse_hessian = bfgs_inverse_update(inverse_hessian, step, gradient - before)
        point = point + step
    return torch.stack(errors).numpy(), np.array(norms) / norms[0]


def approach(condition: float, search: str, step: int):
    """What BFGS's matrix still gets wrong on a quadratic, step by step."""
    errors, norms = learning(condition, search)
    sizes = np.linalg.norm(errors, axis=(1, 2))
    steps = np.arange(QUADRATIC_STEPS + 1)
    curves = [(sizes, "error of M", 0), (norms, "gradient", 2)]
    depends = ["condition", "search"]
    return figure(
        panel(
            heatmap(
                errors[step],
                x=(0.5, QUADRATIC_SIZE + 0.5),
                y=(0.5, QUADRATIC_SIZE + 0.5),
                domain=(-1, 1),
                label="error of M",
            ),
            title="Error of M by pairs of eigenvectors",
            x=axis("eigenvector j, flat to steep", domain=(0.5, QUADRATIC_SIZE + 0.5)),
            y=axis("eigenvector i, flat to steep", domain=(0.5, QUADRATIC_SIZE + 0.5)),
            equal=True,
        ),
        panel(
            *(line(steps, curve, label=label, series=series, depends=depends) for curve, label, series in curves),
            *(
                line(steps, curve, series=series, style="dots", depends=depends, reveal="step")
                for curve, _, series in curves
            ),
            rule(x=QUADRATIC_SIZE, label="D steps", depends=[]),
            title="Norms",
            x=axis("step", domain=(0, QUADRATIC_STEPS)),
            y=axis("norm", domain=(FLOOR, 100), scale="log"),
        ),
        alt=f"At condition number {condition:,} with {search} line search, the error of M falls from {sizes[0]:.1f} to "
        f"{scientific(sizes[QUADRATIC_SIZE])} in {QUADRATIC_SIZE} steps and to {scientific(sizes[-1])} in "
        f"{QUADRATIC_STEPS}; the gradient falls to {scientific(norms[QUADRATIC_SIZE])} and then to "
        f"{scientific(norms[-1])} of its start.",
    )


def approach_figure():
    """The matrix of BFGS on its way to the inverse Hessian."""
    return explore(
        approach,
        condition=stops([3, 10, 30, 100], default=100, label="condition number κ"),
        search=choice([EXACT, "strong Wolfe"], label="line search"),
        step=stops(range(QUADRATIC_STEPS + 1), default=5, label="step", play=True),
    )
