"""The natural gradient step.

Source: Amari, "Natural gradient works efficiently in learning", Neural Computation 10 (1998), theorem 1;
Martens, arXiv 1412.1193, sections 5 and 6.

| paper                 | here              | shape  |
|-----------------------|-------------------|--------|
| ∇h                    | `gradient`        | (D,)   |
| F                     | `fisher`          | (D, D) |
| λ (damping)           | `damping`         | number |
| L, with L Lᵀ = F + λI | `factor`          | (D, D) |
| -(F + λI)⁻¹ ∇h        | the returned step | (D,)   |
"""

import torch

from steepest.second_order.validation import require_damping, require_matching, require_vector


def natural_gradient_step(gradient: torch.Tensor, fisher: torch.Tensor, damping: float = 0.0) -> torch.Tensor:
    """Return the step -(F + damping I)^-1 g; the caller scales it by a step size and adds it to the point.

    The Fisher matrix is the second-order term of the KL divergence between the model's distributions before and
    after a step. Among steps of equal small divergence, this one lowers the loss most (Amari, theorem 1). So it
    doesn't depend on how the distribution is parametrised: exactly for linear changes of the parameters with
    `damping` = 0, to first order in the step size for others. Damping breaks this, and turns the step towards
    -gradient / damping as it grows.

    The cost is O(D^3) time, by a Cholesky factor, and O(D^2) memory. Where only products F v are at hand, as
    from `gauss_newton_vector_product`, `conjugate_gradient` solves the same system.

    Args:
        gradient: (D,), float32 or float64.
        fisher: (D, D), symmetric positive semi-definite (only its lower triangle is read), same dtype and device
            as `gradient`; the model's own, as by `fisher_information`.
        damping: number >= 0 added to the diagonal, in the unit of the Fisher matrix.

    Returns:
        The step (D,), with dtype and device of `gradient`. The inputs are left unchanged.

    Raises:
        TypeError: an argument isn't a float32 or float64 tensor, dtypes differ, `damping` isn't a number.
        ValueError: shapes or devices don't fit, `damping` is negative or not finite, or the damped matrix isn't
            positive definite to working precision. A softmax model's Fisher matrix needs damping for this.

    Example:
        Ten times finer units for the second parameter make its gradient 1/10 and its Fisher entry 1/100 as large. Its
        step is then ten times as large, the same move:

        >>> natural_gradient_step(torch.tensor([2.0, 3.0]), torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        tensor([-0.5000, -3.0000])
        >>> natural_gradient_step(torch.tensor([2.0, 0.3]), torch.tensor([[4.0, 0.0], [0.0, 0.01]]))
        tensor([ -0.5000, -30.0000])
    """
    require_vector("gradient", gradient)
    size = gradient.numel()
    require_matching("fisher", fisher, (size, size), "gradient", gradient)
    require_damping(damping)

    damped = fisher.clone()
    damped.diagonal().add_(damping)
    factor, singular = cholesky_factor(damped)
    if bool(singular):
        raise ValueError(
            f"fisher + damping * I is not positive definite to working precision (damping={damping}), so there is "
            "no natural gradient step; pass a larger damping, and a Fisher matrix rather than a Hessian"
        )
    return -torch.cholesky_solve(gradient[:, None], factor).squeeze(1)


def cholesky_factor(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lower Cholesky factor of a symmetric matrix, and whether it is singular, as a boolean tensor.

    The host reads nothing. A matrix counts as singular where it isn't positive definite, and where a pivot is lost
    in the rounding of its diagonal entry: a comparison that no rescaling of rows and columns changes.

    Example:
        >>> cholesky_factor(torch.tensor([[1e8, 0.0], [0.0, 1e-8]]))[1]
        tensor(False)
        >>> cholesky_factor(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))[1]
        tensor(True)
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal().square() / matrix.diagonal()
    # In exact arithmetic a singular matrix has a zero pivot; rounding leaves this much of it. NaN is no pivot either.
    noise = len(matrix) * torch.finfo(matrix.dtype).eps
    return factor, (failed > 0) | ~(pivots > noise).all()
