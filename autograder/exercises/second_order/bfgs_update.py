"""bfgs_update(hessian, step, gradient_change): the BFGS update of the Hessian itself, not of its inverse.

hessian (D, D) positive definite, step and gradient_change (D,); returns (D, D) (Nocedal & Wright,
Numerical Optimization, eq. 6.19), or a copy of `hessian` where step·gradient_change <= 0.
"""

import torch

from steepest.second_order import bfgs_inverse_update

from ...drivers import second_order as drivers
from ...exercise import Exercise, Misconception
from .sampling import case, positive, symmetric, vectors


def reference(hessian, step, gradient_change):
    """Through the book's update of the inverse: the two are inverses of each other."""
    if step @ gradient_change <= 0:
        return hessian.clone()
    updated = torch.linalg.inv(bfgs_inverse_update(torch.linalg.inv(hessian), step, gradient_change))
    return (updated + updated.mT) / 2


def sample(generator, kind):
    """Pairs from a quadratic, y = A s, and pairs of negative or zero curvature."""
    plans = {
        "public": [
            (2, "positive", 1.0, "float64", "contiguous"),
            (4, "positive", 1.0, "float32", "contiguous"),
            (3, "negative", 1.0, "float64", "contiguous"),
        ],
        "hidden": [
            (1, "positive", 1.0, "float64", "contiguous"),
            (6, "positive", 100.0, "float64", "strided"),
            (5, "negative", 1.0, "float32", "strided"),
            (7, "zero", 1.0, "float64", "contiguous"),
        ],
    }
    for size, curvature, scale, dtype, layout in plans[kind]:
        hessian = scale * symmetric(generator, positive(generator, size, condition=6.0))
        step = vectors(generator, size)
        change = scale * symmetric(generator, positive(generator, size, condition=6.0)) @ step
        if curvature == "negative":
            change = -change
        if curvature == "zero":
            step, change = torch.eye(size, dtype=step.dtype)[:2] * vectors(generator, 2, 1)
        inputs = {"hessian": hessian, "step": step, "gradient_change": change}
        yield case(f"D = {size}, {curvature} curvature along the step", inputs, dtype, layout)


def _bfgs(b, s, y):
    product = b @ s
    return b - torch.outer(product, product) / (s @ product) + torch.outer(y, y) / (s @ y)


def _inverse_form(b, s, y):
    left = torch.eye(len(s), dtype=b.dtype) - torch.outer(s, y) / (s @ y)
    return left @ b @ left.mT + torch.outer(s, s) / (s @ y)


def _rank_one(b, s, y):
    residual = y - b @ s
    return b + torch.outer(residual, residual) / (residual @ s)


def _wrong_normalisation(b, s, y):
    product = b @ s
    return b - torch.outer(product, product) / (s @ s) + torch.outer(y, y) / (s @ y)


def _scalar_for_matrix(b, s, y):
    product = b @ s
    return b - (product @ product) / (s @ product) + (y @ y) / (s @ y)


def _where_curved(update):
    """`update`, with the contract's rule for step·gradient_change <= 0."""
    return lambda b, s, y: update(b, s, y) if s @ y > 0 else b.clone()


MISCONCEPTIONS = (
    Misconception(
        "negative curvature accepted",
        _bfgs,
        "A pair whose step·gradient_change is not positive must leave the matrix as it is; with it the matrix loses "
        "positive definiteness, and the next direction may lead uphill.",
    ),
    Misconception(
        "update of the inverse",
        _where_curved(_inverse_form),
        "Multiply your result by the step: it should give the gradient change. Yours maps the gradient change to the "
        "step, as an approximation of the inverse would. Which matrix does the contract ask for?",
        "another update",
    ),
    Misconception(
        "DFP",
        _where_curved(lambda b, s, y: _inverse_form(b, y, s)),
        "Your matrix satisfies the secant equation, but it is DFP's update: the dual formula, which recovers more "
        "slowly from a bad matrix. BFGS changes the Hessian by two rank-one terms.",
        "another update",
    ),
    Misconception(
        "symmetric rank one",
        _where_curved(_rank_one),
        "Your matrix satisfies the secant equation by one rank-one term (SR1). That update can lose positive "
        "definiteness; BFGS keeps it with two terms.",
        "another update",
    ),
    Misconception(
        "old curvature kept",
        _where_curved(lambda b, s, y: b + torch.outer(y, y) / (s @ y)),
        "Curvature is only added: along the step the matrix now holds the old curvature and the new one together. "
        "What has to go first?",
    ),
    Misconception(
        "old curvature added",
        _where_curved(lambda b, s, y: 2 * b - _bfgs(b, s, y) + 2 * torch.outer(y, y) / (s @ y)),
        "The term with the old matrix has the wrong sign: the old curvature along the step is doubled and should "
        "disappear.",
    ),
    Misconception(
        "divided by the step's length",
        _where_curved(_wrong_normalisation),
        "The term with the old matrix is divided by step·step. Check the units of both terms, then multiply your "
        "result by the step: the old curvature along it should be gone exactly.",
    ),
    Misconception(
        "number for a matrix",
        _where_curved(_scalar_for_matrix),
        "The product of two 1-D tensors with @ is a number, even with a transpose, and adding it shifts every entry. "
        "A rank-one term is a matrix.",
    ),
    Misconception(
        "signs of the two terms exchanged",
        _where_curved(lambda b, s, y: 2 * b - _bfgs(b, s, y)),
        "The new curvature is taken away and the old one is added. After the update the matrix times the step should "
        "be the gradient change.",
    ),
    Misconception(
        "never updated",
        lambda b, s, y: b.clone(),
        "The matrix comes back unchanged even where the curvature along the step is positive. Look at the condition "
        "under which you skip a pair.",
    ),
)

BFGS_UPDATE = Exercise(
    name="bfgs_update",
    topic="second_order",
    points=4,
    difficulty=3,
    importance=4,
    minutes=20,
    sample=sample,
    driver=drivers.bfgs_update,
    reference=reference,
    misconceptions=MISCONCEPTIONS,
    families={
        "another update": "This is one of BFGS's relatives. Write down the secant equation for the matrix that the "
        "contract asks for, and the two terms that BFGS changes it by.",
    },
)
