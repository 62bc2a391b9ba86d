"""The weight β of the last direction in nonlinear conjugate gradients, by two formulas.

Sources: Fletcher & Reeves, "Function minimization by conjugate gradients", Computer J. 7 (1964); Polak & Ribière,
"Note sur la convergence de méthodes de directions conjuguées" (1969); Nocedal & Wright, Numerical Optimization,
2nd ed. (2006), section 5.2.

| book            | here                            | shape |
|-----------------|---------------------------------|-------|
| ∇f_k, ∇f_{k-1}  | `gradient`, `previous_gradient` | (D,)  |
| β_k             | the returned tensor             | ()    |
"""

import torch


def fletcher_reeves_beta(gradient: torch.Tensor, previous_gradient: torch.Tensor) -> torch.Tensor:
    """Return β = ∇f_kᵀ∇f_k / ∇f_{k-1}ᵀ∇f_{k-1} (Nocedal & Wright, eq. 5.41a).

    Args:
        gradient: ∇f_k, (D,).
        previous_gradient: ∇f_{k-1}, (D,), not zero.

    Returns:
        β, (), at least 0.

    Example:
        >>> fletcher_reeves_beta(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0]))
        tensor(0.5000)
    """
    return torch.dot(gradient, gradient) / torch.dot(previous_gradient, previous_gradient)


def polak_ribiere_plus_beta(gradient: torch.Tensor, previous_gradient: torch.Tensor) -> torch.Tensor:
    """Return β = max(0, ∇f_kᵀ(∇f_k - ∇f_{k-1}) / ∇f_{k-1}ᵀ∇f_{k-1}) (Nocedal & Wright, eq. 5.44 and 5.45).

    Where successive gradients are orthogonal, as on a quadratic with exact line search, this is the
    Fletcher-Reeves β. Where a step was so short that the gradient hardly changed, it is about 0, and the next
    direction is the negative gradient again.

    Args:
        gradient: ∇f_k, (D,).
        previous_gradient: ∇f_{k-1}, (D,), not zero.

    Returns:
        β, (), at least 0.

    Example:
        >>> polak_ribiere_plus_beta(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 1.0]))
        tensor(1.)
        >>> polak_ribiere_plus_beta(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.0]))
        tensor(0.)
    """
    change = gradient - previous_gradient
    return (torch.dot(gradient, change) / torch.dot(previous_gradient, previous_gradient)).clamp(min=0)


BETAS = {"polak_ribiere_plus": polak_ribiere_plus_beta, "fletcher_reeves": fletcher_reeves_beta}
