"""What Mixup and CutMix share: the draw of λ, the partners, and the mixture of the targets.

Source of the draw: Bailey, "Polar generation of random variates with the t-distribution", Math. Comp. 62
(1994): with U and V uniform, sqrt(ν (U^(-2/ν) - 1)) cos(2πV) has Student's t-distribution with ν degrees of
freedom, exactly. If T has, with ν = 2α, then 1/2 + T / (2 sqrt(2α + T^2)) has the Beta(α, α) distribution.
"""

import math
from typing import NamedTuple

import torch

from steepest.regularization.soft_targets import soft_targets
from steepest.validation import (
    require_floating,
    require_generator,
    require_positive,
    require_probability,
    require_tensor,
)


class MixedBatch(NamedTuple):
    """A mixed batch.

    Attributes:
        inputs: (B, ...), the mixed inputs.
        target: (B, K), the mixed class probabilities, for a loss that takes such, as
            `torch.nn.functional.cross_entropy` does.
        lam: the weight λ of each sample's own target, a scalar tensor; that of its partner's is 1 - λ.
    """

    inputs: torch.Tensor
    target: torch.Tensor
    lam: torch.Tensor


def symmetric_beta(alpha: float, device: torch.device, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return one draw of Beta(α, α) in [0, 1], a float64 scalar on `device`.

    `torch.distributions.Beta` takes no generator, and rejection would make the host wait for a device. This
    is exact up to float64: two uniforms, no rejection. With w = U^(1/α) the transformed T is written as
    1/2 + cos(2πV) sqrt((1 - w) / (w + (1 - w) cos²(2πV))) / 2, which overflows for no α.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> draws = torch.stack([symmetric_beta(1.0, torch.device("cpu"), generator) for _ in range(1000)])
        >>> draws.mean().round(decimals=1)
        tensor(0.5000, dtype=torch.float64)
    """
    u, v = torch.rand(2, dtype=torch.float64, device=device, generator=generator)
    w = u ** (1 / alpha)
    cosine = torch.cos(2 * math.pi * v)
    return (0.5 + 0.5 * cosine * torch.sqrt((1 - w) / (w + (1 - w) * cosine**2))).clamp(0, 1)


def prepare_mixing(
    x: torch.Tensor,
    target: torch.Tensor,
    alpha: float,
    num_classes: int | None,
    lam: float | torch.Tensor | None,
    permutation: torch.Tensor | None,
    generator: torch.Generator | None,
    check: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Check the arguments of `mixup` and `cutmix`, and draw what isn't given.

    Returns:
        The soft targets (B, K), λ as a float64 scalar on the device of `x`, and the permutation (B,).
    """
    require_floating("x", x)
    if x.ndim == 0:
        raise ValueError("x must have a batch dimension first, got a scalar")
    require_positive("alpha", alpha)
    require_generator(generator, x.device)
    soft = soft_targets(target, num_classes, torch.promote_types(x.dtype, torch.float32), check)
    if len(soft) != len(x):
        raise ValueError(f"target has {len(soft)} samples but x has {len(x)}")
    if soft.device != x.device:
        raise ValueError(f"target is on {soft.device} but x is on {x.device}; move one of them")

    if lam is None:
        lam = symmetric_beta(alpha, x.device, generator)
    elif isinstance(lam, torch.Tensor):
        require_floating("lam", lam)
        if lam.numel() != 1:
            raise ValueError(f"lam must have one element, got shape {tuple(lam.shape)}")
        lam = lam.reshape(()).to(x.device, torch.float64)
        if check and not bool((lam >= 0) & (lam <= 1)):
            raise ValueError(f"lam must be in [0, 1], got {lam.item()}")
    else:
        require_probability("lam", lam)
        lam = torch.full((), lam, dtype=torch.float64, device=x.device)

    if permutation is None:
        permutation = torch.randperm(len(x), device=x.device, generator=generator)
    else:
        require_tensor("permutation", permutation)
        if permutation.dtype != torch.int64 or permutation.shape != x.shape[:1]:
            raise ValueError(
                f"permutation must be int64 of shape ({len(x)},), got {permutation.dtype} of shape "
                f"{tuple(permutation.shape)}"
            )
        if permutation.device != x.device:
            raise ValueError(f"permutation is on {permutation.device} but x is on {x.device}; move one of them")
        if check and not bool(((permutation >= 0) & (permutation < len(x))).all()):
            raise ValueError(f"permutation must lie in [0, {len(x)})")
    return soft, lam, permutation


def mix_targets(soft: torch.Tensor, lam: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Return λ y_i + (1 - λ) y_j for each sample i and its partner j, (B, K)."""
    return torch.lerp(soft.index_select(0, permutation), soft, lam.to(soft.dtype))
