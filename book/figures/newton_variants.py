"""Steps of Newton, of |H|-Newton and of gradient descent, as the figures of a saddle and of a network take them."""

from collections.abc import Callable

import torch

from steepest.second_order import hessian_vector_product, newton_step, saddle_free_newton_step

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
