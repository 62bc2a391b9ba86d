"""Loss functions that the claims of second_order are measured on. All are float64."""

from collections.abc import Callable

import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch.nn.functional import cross_entropy, softplus

Loss = Callable[[torch.Tensor], torch.Tensor]


def random_quadratic(size: int, condition: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The Hessian (D, D) and minimum (D,) of a rotated quadratic with eigenvalues from 1/condition to 1."""
    eigenvalues = torch.logspace(-1, 0, size, base=condition, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    minimum = torch.randn(size, generator=generator, dtype=torch.float64)
    return (rotation * eigenvalues) @ rotation.T, minimum


def rosenbrock(point: torch.Tensor) -> torch.Tensor:
    """The chained Rosenbrock function of a point (D,); its global minimum 0 lies at (1, …, 1)."""
    return (100 * (point[1:] - point[:-1] ** 2) ** 2 + (1 - point[:-1]) ** 2).sum()


def logistic_loss(features: torch.Tensor, labels: torch.Tensor, penalty: float) -> Loss:
    """Mean logistic loss of weights (D,) on features (n, D) and labels ±1 (n,), plus penalty/2 ‖weights‖²."""

    def loss(weights: torch.Tensor) -> torch.Tensor:
        return softplus(-labels * (features @ weights)).mean() + 0.5 * penalty * (weights @ weights)

    return loss


def breast_cancer() -> tuple[torch.Tensor, torch.Tensor]:
    """Wisconsin breast cancer data: standardised features with a constant column (569, 31), labels ±1 (569,)."""
    data, target = load_breast_cancer(return_X_y=True)
    features = torch.from_numpy((data - data.mean(0)) / data.std(0))
    constant = torch.ones(len(features), 1, dtype=torch.float64)
    return torch.cat([features, constant], dim=1), torch.from_numpy(target).double() * 2 - 1


def synthetic_classes(size: int, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (count, size) of standard deviations 1 down to 0.1, noisy labels ±1 from a random direction."""
    scales = torch.logspace(0, -1, size, dtype=torch.float64)
    features = torch.randn(count, size, generator=generator, dtype=torch.float64) * scales
    scores = features @ torch.randn(size, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, generator=generator, dtype=torch.float64) * scores.std()
    return features, torch.sign(scores + noise)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Handwritten digits: pixels in 0..1 (1797, 64), classes (1797,)."""
    data, target = load_digits(return_X_y=True)
    return torch.from_numpy(data / 16), torch.from_numpy(target)


class SmallNetwork:
    """A network with one tanh layer and a softmax, its parameters one flat vector (D,)."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        self.shapes = [(hidden, inputs), (hidden,), (classes, hidden), (classes,)]
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes]
        self.parameters = sum(self.sizes)

    def initial(self, generator: torch.Generator) -> torch.Tensor:
        """Random weights of variance 1/fan-in, biases 0, as one vector (D,)."""
        parts = [
            torch.randn(shape, generator=generator, dtype=torch.float64).flatten() / shape[-1] ** 0.5
            if len(shape) == 2 else torch.zeros(shape, dtype=torch.float64)
            for shape in self.shapes
        ]  # fmt: skip
        return torch.cat(parts)

    def logits(self, parameters: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Scores (n, classes) of features (n, inputs)."""
        parts = [part.view(shape) for part, shape in zip(parameters.split(self.sizes), self.shapes, strict=True)]
        return torch.tanh(features @ parts[0].T + parts[1]) @ parts[2].T + parts[3]

    def loss(self, features: torch.Tensor, classes: torch.Tensor) -> Loss:
        """The mean cross-entropy as a function of the parameters."""
        return lambda parameters: cross_entropy(self.logits(parameters, features), classes)


def value_and_gradient(loss: Loss, point: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The loss as a number and its gradient (D,)."""
    point = point.detach().requires_grad_()
    value = loss(point)
    (gradient,) = torch.autograd.grad(value, point)
    return value.item(), gradient


def hessian(loss: Loss, point: torch.Tensor) -> torch.Tensor:
    """The Hessian (D, D), row by row."""
    return torch.func.hessian(loss)(point)
