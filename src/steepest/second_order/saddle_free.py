"""The saddle-free Newton step: Newton with the eigenvalues' absolute values.

Source: Dauphin, Pascanu, Gulcehre, Cho, Ganguli, Bengio, "Identifying and attacking the saddle point
problem in high-dimensional non-convex optimization", arXiv 1406.2572 (2014), sections 5 and 6.

| paper            | here                      | shape  |
|------------------|---------------------------|--------|
| ∇f               | `gradient`                | (D,)   |
| H                | `hessian`                 | (D, D) |
| \\|H\\|            | `eigenvectors`, `curvature` | (D, D), (D,) |
| λ_i, e_i         | `eigenvalues`, columns of `eigenvectors` | |
| λ (damping)      | `damping`                 | number |
| Δθ               | the returned step         | (D,)   |
"""

import torch

from steepest.second_order.validation import require_damping, require_matching, require_vector


def saddle_free_newton_step(gradient: torch.Tensor, hessian: torch.Tensor, damping: float = 0.0) -> torch.Tensor:
    """Return the step -(|H| + damping I)^-1 g, where |H| has the absolute eigenvalues of H.

    Newton divides the gradient's component along e_i by λ_i, and so walks uphill where λ_i < 0: towards the
    saddle. Dividing by |λ_i| keeps the rescaling and restores the descent direction (Dauphin et al. 2014,
    section 5, and algorithm 1). Where H is positive definite this is Newton's step.

    The cost is O(D^3) time and O(D^2) memory, an eigendecomposition.

    Args:
        gradient: (D,), float32 or float64.
        hessian: (D, D), symmetric (only its lower triangle is read), same dtype and device as `gradient`.
        damping: number >= 0 added to the absolute eigenvalues, in the unit of the Hessian.

    Returns:
        The step (D,), with dtype and device of `gradient`. The inputs are left unchanged.

    Raises:
        TypeError: an argument isn't a float32 or float64 tensor, dtypes differ, `damping` isn't a number.
        ValueError: shapes or devices don't fit, `damping` is negative or not finite, the eigendecomposition
            fails (non-finite entries), or |H| + damping I is singular to working precision.

    Example:
        At a saddle the second component turns round:

        >>> hessian = torch.tensor([[2.0, 0.0], [0.0, -8.0]])
        >>> saddle_free_newton_step(torch.tensor([2.0, 4.0]), hessian)
        tensor([-1.0000, -0.5000])
    """
    require_vector("gradient", gradient)
    size = gradient.numel()
    require_matching("hessian", hessian, (size, size), "gradient", gradient)
    require_damping(damping)

    try:
        eigenvalues, eigenvectors = torch.linalg.eigh(hessian)  # (D,), (D, D)
    except torch.linalg.LinAlgError as error:
        raise ValueError("the eigendecomposition of hessian failed; look for non-finite entries in it") from error
    curvature = eigenvalues.abs() + damping  # (D,)
    # eigh returns a zero eigenvalue as rounding noise of this size; its reciprocal would be meaningless.
    noise = size * torch.finfo(hessian.dtype).eps * eigenvalues.abs().max()
    # Not `<=`, which NaN would pass: not every device's eigh raises for it.
    if not bool(curvature.min() > noise):
        raise ValueError(
            f"|hessian| + damping * I is singular to working precision or not finite (damping={damping}), "
            "so there is no saddle-free step; pass a larger damping"
        )
    return -(eigenvectors @ ((eigenvectors.mT @ gradient) / curvature))
