"""The BFGS update of the inverse Hessian.

Source: Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), section 6.1.

| paper                   | here              | shape  |
|-------------------------|-------------------|--------|
| H_k (inverse Hessian)   | `inverse_hessian` | (D, D) |
| s_k = x_{k+1} - x_k     | `step`            | (D,)   |
| y_k = ∇f_{k+1} - ∇f_k   | `gradient_change` | (D,)   |
| 1 / ρ_k = s_k^T y_k     | `curvature`       | number |
| H_k y_k                 | `product`         | (D,)   |
"""

import torch

from steepest.second_order.validation import require_matching, require_vector


def bfgs_inverse_update(
    inverse_hessian: torch.Tensor, step: torch.Tensor, gradient_change: torch.Tensor
) -> torch.Tensor:
    """Return the BFGS update (I - ρ s y^T) M (I - ρ y s^T) + ρ s s^T, with ρ = 1 / s^T y.

    Among the symmetric matrices that satisfy the secant equation M y = s it is the one closest to the old
    one in a weighted Frobenius norm (Nocedal & Wright, eqs. 6.14 to 6.17). It stays positive definite
    exactly when s^T y > 0, which the strong Wolfe conditions guarantee.

    The product is multiplied out, so that it costs O(D^2) time instead of the O(D^3) of matrix products.

    Args:
        inverse_hessian: M, (D, D), symmetric, float32 or float64.
        step: s, (D,), same dtype and device.
        gradient_change: y, (D,), same dtype and device.

    Returns:
        The new (D, D) matrix, symmetric. The inputs are left unchanged.

    Raises:
        TypeError: an argument isn't a float32 or float64 tensor, or dtypes differ.
        ValueError: shapes or devices don't fit, or s^T y is not > 0.

    Example:
        >>> step, gradient_change = torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0])
        >>> bfgs_inverse_update(torch.eye(2), step, gradient_change)
        tensor([[0.2500, 0.0000],
                [0.0000, 1.0000]])
    """
    require_vector("step", step)
    size = step.numel()
    require_matching("gradient_change", gradient_change, (size,), "step", step)
    require_matching("inverse_hessian", inverse_hessian, (size, size), "step", step)

    curvature = torch.dot(step, gradient_change)  # s^T y = 1/ρ
    if not bool(curvature > 0):
        raise ValueError(
            f"step . gradient_change must be > 0, got {curvature.item():.3g}: the update would lose positive "
            "definiteness; skip this pair or use a line search with the Wolfe conditions"
        )
    product = inverse_hessian @ gradient_change  # M y
    scaled_step = step / curvature  # ρ s
    weight = 1 + torch.dot(gradient_change, product) / curvature  # 1 + ρ y^T M y
    cross = torch.outer(scaled_step, product)
    return inverse_hessian - (cross + cross.mT) + weight * torch.outer(scaled_step, step)
