"""A closure over many parameters, seen as a function of one flat vector.

| symbol   | here                     | shape  |
|----------|--------------------------|--------|
| x        | `point`                  | (D,)   |
| f(x)     | `value` of an `Evaluation` | number |
| ∇f(x)    | `gradient`               | (D,)   |
| p        | `direction`              | (D,)   |
| p^T ∇f(x) | `slope`                 | number |
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch


def to_host(*scalars: torch.Tensor) -> list[float]:
    """Return one-element tensors as Python floats, by one transfer from an accelerator."""
    if scalars[-1].is_cpu:
        return [scalar.item() for scalar in scalars]
    device = scalars[-1].device
    return torch.stack([scalar.reshape(()).to(device) for scalar in scalars]).tolist()


class Evaluation(NamedTuple):
    """The value, slope and gradient at one point; `value` is inf where loss or gradient isn't finite."""

    value: float
    slope: float
    gradient: torch.Tensor
    gradient_max: float


class FlatObjective:
    """Evaluates a closure along lines, and moves the parameters that it depends on.

    `point` (D,) holds the parameters from which lines start; between `along` and `accept` the parameters
    themselves stand at the last trial.

    Args:
        parameters: dense tensors of one dtype and device.
        closure: clears the gradients, computes the loss, calls backward, returns the loss.
    """

    def __init__(self, parameters: list[torch.Tensor], closure: Callable[[], torch.Tensor]) -> None:
        self.parameters = parameters
        self.closure = closure
        self.evaluations = 0
        self.nonfinite = 0
        self.first_loss: torch.Tensor | None = None
        self._aliases = [parameter.detach() for parameter in parameters]
        self.point = torch.cat([alias.reshape(-1) for alias in self._aliases])
        self._trial_step = 0.0
        if len(parameters) == 1 and parameters[0].is_contiguous():
            # A single parameter is a flat vector already: trials are written where they are evaluated.
            self._trial, self._trial_parts = self._aliases[0].view(-1), []
            return
        self._trial = torch.empty_like(self.point)
        sizes = [alias.numel() for alias in self._aliases]
        # Views made once: making them at each move would cost as much as the arithmetic of a small problem.
        self._trial_parts = [
            part.view(alias.shape) for part, alias in zip(self._trial.split(sizes), self._aliases, strict=True)
        ]

    def evaluate(self, direction: torch.Tensor | None = None) -> Evaluation:
        """Call the closure at the parameters as they are; one transfer to the host.

        Args:
            direction: (D,), for the slope; without it the slope is 0.

        Raises:
            TypeError: the closure returned no tensor.
            ValueError: the loss has more than one element, or no parameter has a gradient.
        """
        with torch.enable_grad():
            loss = self.closure()
        self.evaluations += 1
        if not isinstance(loss, torch.Tensor):
            raise TypeError(f"closure must return the loss as a torch.Tensor, got {type(loss).__name__}")
        if loss.numel() != 1:
            raise ValueError(f"closure must return one element, got shape {tuple(loss.shape)}; sum or average")
        if self.first_loss is None:
            # A copy: a loss that is a view of a parameter would move with it.
            self.first_loss = loss.detach().clone()
        gradient = self._gather_gradient()
        lowest, highest = torch.aminmax(gradient)
        if direction is None:
            slope = 0.0
            value, lowest, highest = to_host(loss, lowest, highest)
        else:
            value, lowest, highest, slope = to_host(loss, lowest, highest, torch.dot(gradient, direction))
        gradient_max = max(-lowest, highest)
        if not (math.isfinite(value) and math.isfinite(gradient_max)):
            self.nonfinite += 1
            value = math.inf
        return Evaluation(value, slope, gradient, gradient_max)

    def along(self, direction: torch.Tensor) -> Callable[[float], tuple[float, float, Evaluation]]:
        """Return φ for `strong_wolfe`: it moves the parameters to point + α direction and evaluates there."""

        def evaluate(step_size: float) -> tuple[float, float, Evaluation]:
            self._move(direction, step_size)
            try:
                evaluation = self.evaluate(direction)
            except BaseException:
                # A trial may lie anywhere: whoever catches the exception should find the parameters where they were.
                self.reset(self.point)
                raise
            return evaluation.value, evaluation.slope, evaluation

        return evaluate

    def accept(self, direction: torch.Tensor, step_size: float) -> None:
        """Make point + α direction the new `point`, and leave the parameters there."""
        if step_size != self._trial_step:
            self._move(direction, step_size)
        self.point.copy_(self._trial)

    def reset(self, point: torch.Tensor) -> None:
        """Move the parameters to `point` (D,)."""
        self._trial.copy_(point)
        self._scatter_trial()

    def _move(self, direction: torch.Tensor, step_size: float) -> None:
        # torch refuses a number beyond the range of the dtype, but takes an infinite one.
        alpha = step_size if step_size <= torch.finfo(self.point.dtype).max else math.inf
        torch.add(self.point, direction, alpha=alpha, out=self._trial)
        self._scatter_trial()
        self._trial_step = step_size

    def _scatter_trial(self) -> None:
        if self._trial_parts:
            torch._foreach_copy_(self._aliases, self._trial_parts)

    def _gather_gradient(self) -> torch.Tensor:
        """Return the gradients as one new vector (D,); zero where a parameter has none."""
        gradients = [parameter.grad for parameter in self.parameters]
        # A gradient without others is copied: joining one tensor costs more than that where parameters are small.
        if len(gradients) == 1 and gradients[0] is not None and gradients[0].layout is torch.strided:
            return gradients[0].clone() if gradients[0].ndim == 1 else gradients[0].flatten().clone()
        if all(gradient is None for gradient in gradients):
            raise ValueError("closure left no parameter with a gradient; call loss.backward() in it")
        for i, gradient in enumerate(gradients):
            if gradient is None:
                gradient = torch.zeros_like(self.parameters[i])
            elif gradient.is_sparse:
                gradient = gradient.to_dense()
            gradients[i] = gradient.reshape(-1)
        return torch.cat(gradients)
