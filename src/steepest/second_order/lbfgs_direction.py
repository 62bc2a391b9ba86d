"""The L-BFGS direction by the two-loop recursion.

Sources: Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 35 (1980); Liu &
Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Prog. 45 (1989);
Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), algorithm 7.4.

| paper                        | here               | shape  |
|------------------------------|--------------------|--------|
| ∇f_k                         | `gradient`         | (D,)   |
| s_i, oldest first            | `steps`            | (m, D) |
| y_i, oldest first            | `gradient_changes` | (m, D) |
| ρ_i = 1 / y_i^T s_i          | `1 / curvatures`   | (m,)   |
| γ_k, with H_k^0 = γ_k I      | `scale`            | number |
| q, then r                    | `direction`        | (D,)   |
| α_i, β                       | `alpha`, `beta`    | numbers |
"""

import torch

from steepest.second_order.validation import require_matching, require_vector


def lbfgs_direction(
    gradient: torch.Tensor, steps: torch.Tensor, gradient_changes: torch.Tensor
) -> torch.Tensor:
    """Return -H g, where H is the L-BFGS inverse Hessian of the m stored pairs, in O(m D) time.

    H is what m BFGS updates make of γ I (Nocedal & Wright, eq. 7.19), with the scale γ = s^T y / y^T y of
    the newest pair (eq. 7.20). No matrix is formed: the first loop runs from the newest pair to the oldest,
    the second one back (algorithm 7.4).

    Args:
        gradient: g, (D,), float32 or float64.
        steps: s_i in rows, (m, D), oldest first, same dtype and device. m = 0 is allowed.
        gradient_changes: y_i in rows, (m, D), oldest first, same dtype and device.

    Returns:
        The direction (D,); -gradient where m = 0. The inputs are left unchanged.

    Raises:
        TypeError: an argument isn't a float32 or float64 tensor, or dtypes differ.
        ValueError: shapes or devices don't fit, or a pair has s^T y <= 0.

    Example:
        One pair of a function with curvature 4 along the first axis:

        >>> pair = torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 0.0]])
        >>> lbfgs_direction(torch.tensor([2.0, 1.0]), *pair)
        tensor([-0.5000, -0.2500])
    """
    require_vector("gradient", gradient)
    if isinstance(steps, torch.Tensor) and steps.ndim != 2:
        raise ValueError(f"steps must be a matrix of shape (m, D), got shape {tuple(steps.shape)}")
    count = steps.shape[0] if isinstance(steps, torch.Tensor) else 0
    shape = (count, gradient.numel())
    require_matching("steps", steps, shape, "gradient", gradient)
    require_matching("gradient_changes", gradient_changes, shape, "steps", gradient)
    if count == 0:
        return -gradient

    curvatures = (steps * gradient_changes).sum(dim=1)  # (m,)
    if not bool((curvatures > 0).all()):
        bad = int(torch.nonzero(~(curvatures > 0))[0])
        raise ValueError(
            "every pair needs steps[i] . gradient_changes[i] > 0, "
            f"pair {bad} has {curvatures[bad].item():.3g}; leave such pairs out of the history"
        )

    direction = -gradient
    alpha = torch.empty_like(curvatures)
    for i in reversed(range(count)):
        alpha[i] = torch.dot(steps[i], direction) / curvatures[i]
        direction -= alpha[i] * gradient_changes[i]
    scale = curvatures[-1] / torch.dot(gradient_changes[-1], gradient_changes[-1])
    direction *= scale
    for i in range(count):
        beta = torch.dot(gradient_changes[i], direction) / curvatures[i]
        direction += (alpha[i] - beta) * steps[i]
    return direction
