"""Loops around the reference code that the claims of second_order run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from book.claims.second_order.problems import Loss, hessian, value_and_gradient
from steepest.second_order import LBFGS, bfgs_inverse_update, lbfgs_direction, newton_step, strong_wolfe


def newton(loss: Loss, start: torch.Tensor, tolerance: float) -> int:
    """Newton's method until the gradient's norm is below `tolerance`; the iterations it took."""
    point, iterations = start, 0
    while True:
        gradient = value_and_gradient(loss, point)[1]
        if gradient.norm() < tolerance:
            return iterations
        point = point + newton_step(gradient, hessian(loss, point))
        iterations += 1


def gradient_descent(loss: Loss, start: torch.Tensor, rate: float, tolerance: float) -> int:
    """Gradient descent until the gradient's norm is below `tolerance`; the gradients it took."""
    point, evaluations = start, 0
    while True:
        gradient = value_and_gradient(loss, point)[1]
        evaluations += 1
        if gradient.norm() < tolerance:
            return evaluations
        point = point - rate * gradient


class DenseInverse:
    """BFGS: the whole matrix M (D, D) in place of the inverse Hessian, at first a multiple of the identity."""

    def __init__(self, start: torch.Tensor) -> None:
        self.matrix = torch.eye(start.numel(), dtype=start.dtype)
        self.empty = True

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """−M g."""
        return -(self.matrix @ gradient)

    def add(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """Take in a pair; the first one sets the scale (Nocedal & Wright, eq. 6.20)."""
        if self.empty:
            self.matrix *= (step @ change) / (change @ change)
            self.empty = False
        self.matrix = bfgs_inverse_update(self.matrix, step, change)


class RecentPairs:
    """L-BFGS: the last `memory` pairs (s, y)."""

    def __init__(self, start: torch.Tensor, memory: int = 10) -> None:
        self.steps = self.changes = start.new_zeros(0, start.numel())
        self.memory = memory

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """−H g from the pairs."""
        return lbfgs_direction(gradient, self.steps, self.changes)

    def add(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """Take in a pair and forget the oldest beyond the memory."""
        self.steps = torch.cat([self.steps, step[None]])[-self.memory :]
        self.changes = torch.cat([self.changes, change[None]])[-self.memory :]


@dataclass
class Step:
    """One step of a quasi-Newton loop: s, y, the gradient after it, and the evaluations it took."""

    step: torch.Tensor
    change: torch.Tensor
    gradient: torch.Tensor
    evaluations: int


def quasi_newton(
    loss: Loss, start: torch.Tensor, curvature: DenseInverse | RecentPairs, tolerance: float
) -> Iterator[Step]:
    """Steps of BFGS or L-BFGS with a strong Wolfe search until no entry of the gradient exceeds `tolerance`."""
    point = start
    value, gradient = value_and_gradient(loss, point)
    rate = min(1.0, 1 / float(gradient.abs().sum()))
    while gradient.abs().max() > tolerance:
        direction = curvature.direction(gradient)

        def evaluate(size: float, point=point, direction=direction) -> tuple[float, float, torch.Tensor]:
            new_value, new_gradient = value_and_gradient(loss, point + size * direction)
            return new_value, float(new_gradient @ direction), new_gradient

        found = strong_wolfe(evaluate, rate, value, float(gradient @ direction))
        if not found.success:
            return
        step, change = found.step_size * direction, found.payload - gradient
        if step @ change > 0:
            curvature.add(step, change)
        point, value, gradient, rate = point + step, found.value, found.payload, 1.0
        yield Step(step, change, gradient, found.evaluations)


def run_lbfgs(loss: Loss, start: torch.Tensor, evaluations: int, memory: int = 10) -> tuple[torch.Tensor, LBFGS]:
    """The reference optimizer for at most about `evaluations` gradients; the point and the optimizer."""
    point = start.clone().requires_grad_()
    optimizer = LBFGS([point], max_iter=evaluations, max_eval=evaluations, history_size=memory, tolerance_grad=0,
                      tolerance_change=0)  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(point)
        value.backward()
        return value

    optimizer.step(closure)
    return point.detach(), optimizer


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in an optimizer's state."""
    entries = optimizer.state_dict()["state"].values()
    return sum(value.nbytes for entry in entries for value in entry.values() if isinstance(value, torch.Tensor))


def truncated_conjugate_gradient(
    product: Callable[[torch.Tensor], torch.Tensor], gradient: torch.Tensor, iterations: int
) -> tuple[torch.Tensor, int]:
    """An approximate solution of C s = −g from products with C alone, and how many it took.

    Stops at a tenth of the residual, and at a direction of negative curvature, where it keeps what it has.
    """
    solution, residual = torch.zeros_like(gradient), -gradient
    direction, square = residual, residual @ residual
    for count in range(1, iterations + 1):
        image = product(direction)
        curvature = direction @ image
        if curvature <= 0:
            return (solution if count > 1 else -gradient), count
        size = square / curvature
        solution, residual = solution + size * direction, residual - size * image
        previous, square = square, residual @ residual
        if square.sqrt() < 0.1 * gradient.norm():
            break
        direction = residual + square / previous * direction
    return solution, count
