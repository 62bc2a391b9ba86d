"""newton_step(point, gradient, hessian, damping): damped Newton, a batch of points at once.

point, gradient (B, D), hessian (B, D, D), damping a number >= 0; returns the new points (B, D),
x − (H + damping·I)⁻¹ g row by row.
"""

import torch

from steepest.second_order import newton_step as book_newton_step

from ...drivers import second_order as drivers
from ...exercise import Exercise, Misconception
from .sampling import case, positive, symmetric, vectors


def _solve(matrix, vector):
    return torch.linalg.solve(matrix, vector[..., None])[..., 0]


def _identity(hessian):
    return torch.eye(hessian.shape[-1], dtype=hessian.dtype)


def reference(point, gradient, hessian, damping):
    """The book's step, added to each point."""
    steps = [book_newton_step(g, h, damping) for g, h in zip(gradient, hessian, strict=True)]
    return point + torch.stack(steps)


def sample(generator, kind):
    """Batches of positive definite problems; damping 0 and a single entry among them."""
    plans = {
        "public": [
            (2, 3, 0.5, 1.0, "float64", "contiguous"),
            (1, 2, 0.0, 1.0, "float64", "contiguous"),
            (3, 4, 2.0, 1.0, "float32", "contiguous"),
        ],
        "hidden": [
            (1, 1, 0.7, 1.0, "float64", "contiguous"),
            (2, 7, 3.0, 1.0, "float32", "contiguous"),
            (3, 3, 150.0, 100.0, "float64", "strided"),
            (6, 6, 0.0, 1.0, "float32", "strided"),
        ],
    }
    for batch, size, damping, scale, dtype, layout in plans[kind]:
        inputs = {
            "point": vectors(generator, batch, size),
            "gradient": vectors(generator, batch, size, scale=scale),
            "hessian": scale * symmetric(generator, positive(generator, batch, size)),
            "damping": damping,
        }
        yield case(f"B = {batch}, D = {size}, damping {damping:g}", inputs, dtype, layout)


MISCONCEPTIONS = (
    Misconception(
        "uphill step",
        lambda x, g, h, damping: x + _solve(h + damping * _identity(h), g),
        "The step goes the wrong way. With a positive definite Hessian the gradient's product with the step "
        "must be negative; check its sign.",
    ),
    Misconception(
        "step without the point",
        lambda x, g, h, damping: -_solve(h + damping * _identity(h), g),
        "These are the steps. The contract asks for where they lead: the new points.",
    ),
    Misconception(
        "damping subtracted",
        lambda x, g, h, damping: x - _solve(h - damping * _identity(h), g),
        "Damping should make the step shorter and more careful; yours grows with it. Look at what it does to the "
        "smallest eigenvalue.",
        "damping",
    ),
    Misconception(
        "damping ignored",
        lambda x, g, h, damping: x - _solve(h, g),
        "The result does not depend on the damping. Without it nothing protects the step from eigenvalues near zero.",
        "damping",
    ),
    Misconception(
        "damping on every entry",
        lambda x, g, h, damping: x - _solve(h + damping, g),
        "Adding a number to a tensor adds it to every entry. Damping must shift each eigenvalue by the same amount "
        "and keep the eigenvectors: which matrix does that?",
        "damping",
    ),
    Misconception(
        "damping relative to the diagonal",
        lambda x, g, h, damping: x - _solve(h + damping * torch.diag_embed(h.diagonal(dim1=-2, dim2=-1)), g),
        "You scale the damping by the Hessian's own diagonal (Marquardt's variant). The contract asks for the same "
        "shift in every direction.",
        "damping",
    ),
    Misconception(
        "damping as a learning rate",
        lambda x, g, h, damping: x - _solve(h, g) / (1 + damping),
        "You shorten the whole step by one factor. Damping should hold back flat directions much more than steep "
        "ones, so it has to act before the system is solved.",
        "damping",
    ),
    Misconception(
        "Hessian times gradient",
        lambda x, g, h, damping: x - ((h + damping * _identity(h)) @ g[..., None])[..., 0],
        "You multiply by the Hessian, which makes steps long where the curvature is high. Newton does the opposite: "
        "it solves a linear system.",
    ),
    Misconception(
        "diagonal only",
        lambda x, g, h, damping: x - g / (h.diagonal(dim1=-2, dim2=-1) + damping),
        "You divide each component by its own curvature, so the off-diagonal entries never enter. They carry the "
        "rotation of the valley, the very thing that Newton corrects for.",
    ),
    Misconception(
        "one Hessian for the whole batch",
        lambda x, g, h, damping: x - _solve((h[:1] + damping * _identity(h)).expand_as(h), g),
        "All points use the first point's Hessian. Curvature changes from point to point: each row has its own matrix.",
    ),
)

NEWTON_STEP = Exercise(
    name="newton_step",
    topic="second_order",
    points=4,
    difficulty=2,
    importance=5,
    minutes=15,
    sample=sample,
    driver=drivers.newton_step,
    reference=reference,
    misconceptions=MISCONCEPTIONS,
    families={
        "damping": "Your steps are right without damping. Look again at where the damping enters, and what it does "
        "to each eigenvalue of the Hessian.",
    },
)
