"""saddle_free_step(point, gradient, hessian, damping, radius): saddle-free Newton in a trust region.

point, gradient (D,), hessian (D, D), damping >= 0, radius > 0; returns the new point (D,):
x + s · min(1, radius / ‖s‖) with s = −(|H| + damping·I)⁻¹ g, and x itself where g = 0.
"""

import torch

from steepest.second_order import saddle_free_newton_step as book_saddle_free_newton_step

from ...drivers import second_order as drivers
from ...exercise import Exercise, Misconception
from .sampling import case, symmetric, vectors


def _limited(step, radius):
    length = step.norm()
    return step * (radius / length) if length > radius else step


def reference(point, gradient, hessian, damping, radius):
    """The book's step, shortened to the radius, added to the point."""
    return point + _limited(book_saddle_free_newton_step(gradient, hessian, damping), radius)


def sample(generator, kind):
    """Saddles with one or more negative eigenvalues; the step inside and outside the radius."""
    plans = {
        "public": [  # D, negative eigenvalues, damping, radius as a multiple of the step's length
            (2, 1, 0.0, 3.0, "float64", "contiguous"),
            (3, 1, 0.5, 2.0, "float32", "contiguous"),
            # In float64, so that a small number in the denominator shows here as it does in the hidden cases.
            (4, 2, 0.3, 0.4, "float64", "contiguous"),
        ],
        "hidden": [
            (1, 1, 0.2, 1.5, "float64", "contiguous"),
            (6, 3, 0.8, 0.6, "float64", "strided"),
            (5, 5, 0.4, 2.5, "float32", "contiguous"),
            (7, 3, 0.5, 0.0, "float64", "contiguous"),
        ],
    }
    for size, negative, damping, share, dtype, layout in plans[kind]:
        signs = [-1] * negative + [1] * (size - negative)
        hessian = symmetric(generator, 12 ** generator.uniform(size=size) * signs)
        gradient = vectors(generator, size)
        length = book_saddle_free_newton_step(gradient, hessian, damping).norm().item()
        where = "inside" if share > 1 else "outside"
        if share == 0:
            gradient, share, where = 0 * gradient, 1.0, "of length 0, inside"
        inputs = {
            "point": vectors(generator, size),
            "gradient": gradient,
            "hessian": hessian,
            "damping": damping,
            "radius": share * length,
        }
        what = f"D = {size}, {negative} negative eigenvalue{'s' * (negative > 1)}, step {where} the radius"
        yield case(what, inputs, dtype, layout)


def _mistake(curvature=lambda values, damping: values.abs() + damping, limited=_limited):
    """Wrong curvature for each eigenvalue, or a wrong way to keep to the radius; otherwise right."""

    def implementation(point, gradient, hessian, damping, radius):
        values, basis = torch.linalg.eigh(hessian)
        step = -(basis @ (basis.mT @ gradient / curvature(values, damping)))
        return point + limited(step, radius)

    return implementation


def _elementwise(point, gradient, hessian, damping, radius):
    matrix = hessian.abs() + damping * torch.eye(len(gradient), dtype=hessian.dtype)
    return point + _limited(-torch.linalg.solve(matrix, gradient), radius)


def _transposed(point, gradient, hessian, damping, radius):
    values, basis = torch.linalg.eigh(hessian)
    return point + _limited(-(basis.mT @ (basis @ gradient / (values.abs() + damping))), radius)


MISCONCEPTIONS = (
    Misconception(
        "signed eigenvalues",
        _mistake(lambda values, damping: values + damping),
        "This is Newton's own step: along directions of negative curvature it walks uphill, into the saddle. "
        "What must change about a negative eigenvalue?",
        "curvature",
    ),
    Misconception(
        "negative eigenvalues set to zero",
        _mistake(lambda values, damping: values.clamp(min=0) + damping),
        "Negative eigenvalues are treated as 0, so only the damping limits the step there. How strongly the surface "
        "curves down is information; a steep fall and a gentle one need different steps.",
        "curvature",
    ),
    Misconception(
        "negative directions dropped",
        _mistake(lambda values, damping: torch.where(values > 0, values + damping, torch.inf)),
        "Nothing moves along directions of negative curvature. They are the way out of the saddle: keep them.",
        "curvature",
    ),
    Misconception(
        "absolute value after damping",
        _mistake(lambda values, damping: (values + damping).abs()),
        "The damping moves a negative eigenvalue towards zero and so lengthens that step. It should shorten every "
        "step: look at the order of your two operations.",
        "curvature",
    ),
    Misconception(
        "squared eigenvalues",
        _mistake(lambda values, damping: values**2 + damping),
        "Squaring removes the sign but also changes the size, and the units: the step no longer fits the curvature.",
        "curvature",
    ),
    Misconception(
        "absolute value of the entries",
        _elementwise,
        "The absolute value of a symmetric matrix belongs to its eigenvalues. Taking it of each entry gives a matrix "
        "with other eigenvectors, and it may still be indefinite.",
    ),
    Misconception(
        "eigenvectors transposed",
        _transposed,
        "The change of basis is the wrong way round. torch.linalg.eigh returns eigenvectors as columns: which product "
        "gives the gradient's components along them?",
    ),
    Misconception(
        "uphill step",
        lambda x, g, h, damping, radius: 2 * x - reference(x, g, h, damping, radius),
        "The step goes uphill in every direction. Its product with the gradient must be negative; check the sign.",
    ),
    Misconception(
        "step without the point",
        lambda x, g, h, damping, radius: reference(x, g, h, damping, radius) - x,
        "This is the step. The contract asks for where it leads: the new point.",
    ),
    Misconception(
        "damping ignored",
        _mistake(lambda values, damping: values.abs()),
        "The result does not depend on the damping, so an eigenvalue near zero would give an enormous step.",
    ),
    Misconception(
        "clamped components",
        _mistake(limited=lambda step, radius: step.clamp(-radius, radius)),
        "Cutting each component by itself turns the step into another direction, and it may still be too long. The "
        "radius limits the length: which operation shortens a vector and keeps its direction?",
        "radius",
    ),
    Misconception(
        "always as long as the radius",
        _mistake(limited=lambda step, radius: step * (radius / step.norm())),
        "Steps shorter than the radius come out longer than they should be, and a step of length 0 becomes NaN. "
        "The radius is an upper limit.",
        "radius",
    ),
    Misconception(
        "radius ignored",
        _mistake(limited=lambda step, radius: step),
        "The result does not depend on the radius. Far from the point the quadratic model means nothing, so the step "
        "must stop there.",
        "radius",
    ),
)

SADDLE_FREE_STEP = Exercise(
    name="saddle_free_step",
    topic="second_order",
    points=4,
    difficulty=3,
    importance=4,
    minutes=20,
    sample=sample,
    driver=drivers.saddle_free_step,
    reference=reference,
    misconceptions=MISCONCEPTIONS,
    families={
        "curvature": "The direction is wrong where the Hessian has negative eigenvalues. Look at what you divide each "
        "eigenvector's share of the gradient by.",
        "radius": "The step itself is right; it is not limited as the contract says. Compare its length with the "
        "radius, before and after.",
    },
)
