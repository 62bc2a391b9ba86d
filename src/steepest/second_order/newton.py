"""Newton's step with damping.

Source: Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), chapters 2 and 3.

| paper            | here       | shape  |
|------------------|------------|--------|
| ∇f_k             | `gradient` | (D,)   |
| ∇²f_k            | `hessian`  | (D, D) |
| λ (Levenberg)    | `damping`  | number |
| p_k^N            | `step`     | (D,)   |
"""

import torch

from steepest.second_order.validation import require_damping, require_matching, require_vector


def newton_step(gradient: torch.Tensor, hessian: torch.Tensor, damping: float = 0.0) -> torch.Tensor:
    """Return the damped Newton step -(H + damping I)^-1 g; the caller adds it to the point.

    With `damping` = 0 this is the minimiser of the local quadratic model (Nocedal & Wright, eq. 2.15) where
    the Hessian is positive definite. Elsewhere it leads to the model's stationary point, be that a saddle
    or a maximum. Damping (Levenberg 1944; Nocedal & Wright, section 3.4) moves every eigenvalue up by the same
    amount, and turns the step towards -gradient / damping as it grows.

    The cost is O(D^3) time and O(D^2) memory. The solution is by LU factors, without forming an inverse.

    Args:
        gradient: (D,), float32 or float64.
        hessian: (D, D), symmetric, same dtype and device as `gradient`.
        damping: number >= 0 added to the diagonal, in the unit of the Hessian.

    Returns:
        The step (D,), with dtype and device of `gradient`. The inputs are left unchanged.

    Raises:
        TypeError: an argument isn't a float32 or float64 tensor, dtypes differ, `damping` isn't a number.
        ValueError: shapes or devices don't fit, `damping` is negative or not finite, or the damped Hessian
            is singular. A Hessian that is singular only up to rounding passes and gives a huge step.

    Example:
        >>> hessian = torch.tensor([[2.0, 0.0], [0.0, 8.0]])
        >>> newton_step(torch.tensor([2.0, 4.0]), hessian)
        tensor([-1.0000, -0.5000])
        >>> newton_step(torch.tensor([2.0, 4.0]), hessian, damping=2.0)
        tensor([-0.5000, -0.4000])
    """
    require_vector("gradient", gradient)
    size = gradient.numel()
    require_matching("hessian", hessian, (size, size), "gradient", gradient)
    require_damping(damping)

    damped = hessian.clone()
    damped.diagonal().add_(damping)
    try:
        step = torch.linalg.solve(damped, -gradient)
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            f"hessian + damping * I is singular (damping={damping}), so there is no Newton step; pass a larger damping"
        ) from error
    return step
