"""The generalised Gauss-Newton matrix: its product with a vector, and the matrix itself on demand.

Source: Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural
Computation 14 (2002); Martens, arXiv 1412.1193, section 8.

| paper                     | here                | shape      |
|---------------------------|---------------------|------------|
| w                         | `theta`             | (D,)       |
| v                         | `vector`            | (D,)       |
| network output F(w)       | `outputs`           | (N, C)     |
| J v                       | `tangent`           | (N, C)     |
| H_L J v                   | `curved`            | (N, C)     |
| G v = Jᵀ H_L J v          | the returned tensor | (D,)       |
"""

from collections.abc import Callable

import torch

from steepest.second_order.functional_model import Parameters, flat_function, functional_mode, require_batch
from steepest.second_order.validation import require_matching


def gauss_newton_vector_product(
    model: torch.nn.Module | Callable[..., torch.Tensor],
    parameters: Parameters,
    inputs: torch.Tensor,
    loss: Callable[[torch.Tensor], torch.Tensor],
    vector: torch.Tensor,
) -> torch.Tensor:
    """Return G v = Jᵀ H_L J v, where J = ∂outputs/∂θ and H_L is the Hessian of the loss in the outputs.

    G is the Hessian of the loss after the model is replaced by its linearisation (Schraudolph 2002). It is positive
    semi-definite where the loss is convex in the outputs, whatever the model, and equals the Fisher matrix for
    cross-entropy of logits and for half the squared error. The product takes O(D) memory: forward mode gives J v,
    differentiating the loss alone twice H_L J v, reverse mode Jᵀ. Each operator of the model must have a forward-mode
    derivative in torch.

    Args:
        model: a module, or a function of (parameters, inputs), that returns the outputs as a tensor. Their rows may
            depend on each other, but buffers must stay as they are: call `eval()` on a model with BatchNorm. It runs
            without autocast.
        parameters: float32 or float64 tensors by name, in whose order D is counted, such as
            `dict(model.named_parameters())`; for a function also one tensor.
        inputs: (N, ...), a batch.
        loss: maps the outputs to a tensor with one element, such as
            `lambda outputs: cross_entropy(outputs, targets)`; its scale is the scale of G.
        vector: (D,), dtype and device of the parameters.

    Returns:
        G v, (D,), detached.

    Raises:
        TypeError: an argument has a wrong type or dtype, or `loss` returns no tensor.
        ValueError: shapes or devices don't fit, or `loss` returns more than one element.

    Example:
        For f(θ) = θ² and the loss f²/2, G = (2θ)² at θ = 3, where the Hessian is 54:

        >>> model, theta = lambda theta, inputs: theta**2 * inputs, torch.tensor([3.0])
        >>> half_square = lambda outputs: outputs.square().sum() / 2
        >>> gauss_newton_vector_product(model, theta, torch.ones(1), half_square, torch.ones(1))
        tensor([36.])
    """
    with functional_mode(inputs):
        product, theta = _product(model, parameters, inputs, loss)
        require_matching("vector", vector, tuple(theta.shape), "parameters", theta)
        return product(vector.detach().clone())


def gauss_newton_matrix(
    model: torch.nn.Module | Callable[..., torch.Tensor],
    parameters: Parameters,
    inputs: torch.Tensor,
    loss: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return G = Jᵀ H_L J, (D, D), by D products at once; for small models.

    The arguments and errors are those of `gauss_newton_vector_product`.

    Example:
        >>> model = lambda theta, inputs: inputs @ theta
        >>> inputs = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
        >>> gauss_newton_matrix(model, torch.zeros(2), inputs, lambda outputs: outputs.square().sum() / 2)
        tensor([[1., 2.],
                [2., 5.]])
    """
    with functional_mode(inputs):
        product, theta = _product(model, parameters, inputs, loss)
        return torch.func.vmap(product)(torch.eye(theta.numel(), dtype=theta.dtype, device=theta.device))


def _product(
    model: torch.nn.Module | Callable[..., torch.Tensor],
    parameters: Parameters,
    inputs: torch.Tensor,
    loss: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """Return the function v -> G v, and theta."""
    inputs = require_batch(inputs)
    fn, theta = flat_function(model, parameters)

    def scalar_loss(outputs: torch.Tensor) -> torch.Tensor:
        value = loss(outputs)
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"loss must return a torch.Tensor, got {type(value).__name__}")
        if value.numel() != 1:
            raise ValueError(f"loss must return one element, got shape {tuple(value.shape)}; sum or average it")
        return value.sum()

    def product(vector: torch.Tensor) -> torch.Tensor:
        # Apply J, then the loss Hessian, then Jᵀ.
        outputs, tangent = torch.func.jvp(lambda point: fn(point, inputs), (theta,), (vector,))  # (N, C) each
        # H_L is symmetric, so that reverse mode gives H_L u as well; torch 2.13 lacks forward mode for mse_loss here.
        _, loss_hessian = torch.func.vjp(torch.func.grad(scalar_loss), outputs)
        (curved,) = loss_hessian(tangent)  # (N, C)
        _, transposed_jacobian = torch.func.vjp(lambda point: fn(point, inputs), theta)
        return transposed_jacobian(curved)[0]  # (D,)

    return product, theta
