"""Trace and diagonal of a matrix that is known only by its products with vectors.

Sources: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
splines", Communications in Statistics 19 (1990), for the trace; Bekas, Kokiopoulou & Saad, "An estimator for the
diagonal of a matrix", Applied Numerical Mathematics 57 (2007), for the diagonal.

| papers                   | here                     | shape  |
|--------------------------|--------------------------|--------|
| A                        | `matvec`, a map v -> A v | (D,) -> (D,) |
| u, v_k (random signs)    | `probe`                  | (D,)   |
| A v_k                    | `product`                | (D,)   |
| s, the number of vectors | `n_samples`              | number |

The entries of a probe z are +1 or -1 with equal chance, independent of each other, so that E[z z^T] = I and
z_i^2 = 1. Hence E[z^T A z] = tr(A E[z z^T]) = tr A, and z_i (A z)_i = A_ii + Σ_{j≠i} A_ij z_i z_j, whose sum has the
mean 0. The diagonal itself adds no noise: that is what signs have over Gaussian probes, whose z_i^2 vary. For
symmetric A the variances of one sample are

    Var(z^T A z) = 2 Σ_{i≠j} A_ij^2      (Gaussian: 2 Σ_ij A_ij^2)
    Var(z_i (A z)_i) = Σ_{j≠i} A_ij^2    (Gaussian: A_ii^2 + Σ_j A_ij^2)

and the mean of s independent samples has an s-th of them. Of a diagonal matrix one sample is exact.
"""

from collections.abc import Callable, Iterator

import torch

from steepest.second_order.validation import require_matching, require_vector
from steepest.validation import require_count, require_generator


def hutchinson_trace(
    matvec: Callable[[torch.Tensor], torch.Tensor],
    like: torch.Tensor,
    n_samples: int = 1,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Estimate tr A as the mean of z^T A z over random sign vectors z (Hutchinson 1990).

    The estimate is unbiased for every square A and costs `n_samples` products with it. Signs and not absolute
    values are averaged: negative eigenvalues count as such.

    Args:
        matvec: maps a vector (D,) to A times it, (D,), for example a Hessian-vector product; linear.
        like: (D,), float32 or float64; gives the size, dtype and device of the probes, its values aren't read.
        n_samples: s, the number of independent probes; the standard error falls as 1 / √s.
        generator: source of the signs, on the device of `like`; without it torch's default one.

    Returns:
        The estimate, (), with dtype and device of `like`, in the unit of A.

    Raises:
        TypeError: `like` or a product isn't a float32 or float64 tensor, dtypes differ, `n_samples` isn't an int or
            `generator` no torch.Generator.
        ValueError: shapes or devices don't fit, or `n_samples` < 1.

    Example:
        The matrix [[2, 1], [1, -3]] has the trace -1; a sample is -1 + 2 z_1 z_2.

        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, -3.0]])
        >>> generator = torch.Generator().manual_seed(7)
        >>> [hutchinson_trace(matrix.mv, matrix[0], generator=generator).item() for _ in range(4)]
        [1.0, -3.0, 1.0, 1.0]
        >>> hutchinson_trace(matrix.mv, matrix[0], n_samples=1000, generator=generator)
        tensor(-0.9880)
    """
    samples = (torch.dot(probe, product) for probe, product in _probe(matvec, like, n_samples, generator))
    return sum(samples) / n_samples


def hutchinson_diagonal(
    matvec: Callable[[torch.Tensor], torch.Tensor],
    like: torch.Tensor,
    n_samples: int = 1,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Estimate diag A as the mean of z ⊙ A z over random sign vectors z (Bekas et al. 2007).

    Bekas et al. divide Σ z ⊙ A z by Σ z ⊙ z; for signs that is the number of probes. Unbiased for every square A.

    Args:
        matvec: maps a vector (D,) to A times it, (D,), for example a Hessian-vector product; linear.
        like: (D,), float32 or float64; gives the size, dtype and device of the probes, its values aren't read.
        n_samples: s, the number of independent probes; the standard error of each entry falls as 1 / √s.
        generator: source of the signs, on the device of `like`; without it torch's default one.

    Returns:
        The estimate, (D,), with dtype and device of `like`, in the unit of A.

    Raises:
        TypeError: `like` or a product isn't a float32 or float64 tensor, dtypes differ, `n_samples` isn't an int or
            `generator` no torch.Generator.
        ValueError: shapes or devices don't fit, or `n_samples` < 1.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, -3.0]])
        >>> generator = torch.Generator().manual_seed(7)
        >>> hutchinson_diagonal(matrix.mv, matrix[0], generator=generator)
        tensor([ 3., -2.])
        >>> hutchinson_diagonal(matrix.mv, matrix[0], n_samples=1000, generator=generator)
        tensor([ 2.0040, -2.9960])
    """
    samples = (probe * product for probe, product in _probe(matvec, like, n_samples, generator))
    return sum(samples) / n_samples


def random_signs(size: int, device: torch.device, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return independent +1 and -1, each with chance 1/2, (size,), int8.

    Each random word of 64 bits gives 64 signs; drawing one word a sign takes several times as long.

    Args:
        size: how many.
        device: where.
        generator: source of the signs, on `device`; without it torch's default one.

    Example:
        >>> random_signs(6, torch.device("cpu"), torch.Generator().manual_seed(0))
        tensor([ 1,  1,  1,  1, -1,  1], dtype=torch.int8)
    """
    words = torch.empty(-(-size // 64), dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)
    shifts = torch.arange(8, dtype=torch.int8, device=device)
    bits = words.view(torch.int8).unsqueeze(-1) >> shifts  # (8 words, 8)
    return bits.flatten()[:size].bitwise_and_(1).mul_(2).sub_(1)


def _probe(
    matvec: Callable[[torch.Tensor], torch.Tensor],
    like: torch.Tensor,
    n_samples: int,
    generator: torch.Generator | None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield z and A z for so many independent z; raise where an argument doesn't fit."""
    require_vector("like", like)
    require_count("n_samples", n_samples)
    require_generator(generator, like.device)
    for _ in range(n_samples):
        probe = random_signs(like.numel(), like.device, generator).to(like.dtype)  # (D,)
        product = matvec(probe)  # (D,)
        require_matching("the result of matvec", product, tuple(like.shape), "like", like)
        yield probe, product
