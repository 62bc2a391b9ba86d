"""The product of a Hessian with a vector, without forming the Hessian.

Source: Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994).

| paper         | here                 | shape  |
|---------------|----------------------|--------|
| w             | `point`              | (D,)   |
| v             | `vector`             | (D,)   |
| ∇_w E         | `gradient`           | (D,)   |
| R_v{∇_w E} = Hv | the returned tensor | (D,)  |
"""

from collections.abc import Callable

import torch

from steepest.second_order.validation import require_matching, require_vector


def hessian_vector_product(
    fn: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor, vector: torch.Tensor
) -> torch.Tensor:
    """Return H(point) v for a scalar function of a vector, exact up to rounding.

    H v is the gradient of the scalar (∇f · v) with v held fixed, so differentiating twice gives it in O(D)
    memory and a small multiple of the time of a gradient. Pearlmutter (1994) derives the same product
    forward over reverse (his R operator); this is reverse over reverse.

    Args:
        fn: maps a vector (D,) to a tensor with one element; twice differentiable by autograd.
        point: (D,), float32 or float64, where the Hessian is taken.
        vector: (D,), same dtype and device as `point`.

    Returns:
        H(point) v, (D,), detached, with dtype and device of `point`. Zero where `fn` is linear or constant.

    Raises:
        TypeError: `point` or `vector` isn't a float32 or float64 tensor, their dtypes differ, or `fn`
            returns something other than a tensor.
        ValueError: shapes or devices don't fit, or `fn` returns more than one element.

    Example:
        >>> point, vector = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 10.0])
        >>> hessian_vector_product(lambda x: (x**3).sum(), point, vector)
        tensor([  6., 120.])
    """
    require_vector("point", point)
    require_matching("vector", vector, tuple(point.shape), "point", point)

    # Under inference mode autograd records nothing, and every function would look constant.
    with torch.inference_mode(False), torch.enable_grad():
        variable = point.clone().detach().requires_grad_()
        value = fn(variable)
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"fn must return a torch.Tensor, got {type(value).__name__}")
        if value.numel() != 1:
            raise ValueError(f"fn must return one element, got shape {tuple(value.shape)}; sum or average it")
        if not value.requires_grad:
            return torch.zeros_like(point)
        (gradient,) = torch.autograd.grad(value.sum(), variable, create_graph=True, materialize_grads=True)
        if not gradient.requires_grad:
            return torch.zeros_like(point)
    (product,) = torch.autograd.grad(gradient, variable, grad_outputs=vector.detach(), materialize_grads=True)
    return product
