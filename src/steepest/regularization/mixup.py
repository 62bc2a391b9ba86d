"""Mixup: training on convex combinations of pairs of samples.

Source: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: beyond empirical risk minimization", arXiv 1710.09412 (2017),
section 2.

| paper                       | here                       | shape    |
|-----------------------------|----------------------------|----------|
| x_i, y_i                    | `x`, `target`              | (B, ...), (B, K) |
| x_j, y_j                    | rows `permutation` of them |          |
| λ ~ Beta(α, α)              | `lam`, `alpha`             | scalar   |
| x̃ = λ x_i + (1 - λ) x_j     | `inputs` of the result     | (B, ...) |
| ỹ = λ y_i + (1 - λ) y_j     | `target` of the result     | (B, K)   |
"""

import torch

from steepest.regularization.mixing import MixedBatch, mix_targets, prepare_mixing


def mixup(
    x: torch.Tensor,
    target: torch.Tensor,
    alpha: float = 1.0,
    num_classes: int | None = None,
    *,
    lam: float | torch.Tensor | None = None,
    permutation: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    check: bool = False,
) -> MixedBatch:
    """Mix each sample and its target with those of a partner, all with the same λ.

    λ ~ Beta(α, α) has mean 1/2 and variance 1 / (4 (2α + 1)): with α = 0.2 it is mostly near 0 or 1, with α = 1
    uniform. As cross-entropy is linear in the target, its value for the mixed target is
    λ CE(y_i) + (1 - λ) CE(y_j). Partners are a random permutation of the batch, as in the paper's code; to pair as
    timm does, pass ``torch.arange(B).flip(0)``. Nothing is read by the host. Use it in training only.

    Args:
        x: (B, ...), inputs of any floating dtype.
        target: classes (B,) of an integer dtype, or class probabilities (B, K) of a floating one.
        alpha: α > 0 of the Beta distribution.
        num_classes: K; needed where `target` holds classes.
        lam: λ in [0, 1], a number or a tensor with one element, instead of a draw.
        permutation: (B,), int64, the partner of each sample, instead of a draw.
        generator: source of randomness, on the device of `x`; torch's default if None.
        check: raise ValueError where values of `target` aren't classes or distributions, and where those of tensors
            `lam` and `permutation` are out of range; the host waits for it.

    Returns:
        A `MixedBatch`. Its λ is rounded to the dtype of `x` first, so that inputs and targets have the same.
        Targets of classes become float32, or float64 where `x` is that. The arguments are left unchanged.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes or devices don't fit, `alpha` isn't > 0, `lam` is a number outside [0, 1], or
            `num_classes` is missing.

    Example:
        >>> x, classes = torch.tensor([[0.0], [10.0]]), torch.tensor([0, 1])
        >>> mixed = mixup(x, classes, num_classes=2, lam=0.75, permutation=torch.tensor([1, 0]))
        >>> mixed.inputs
        tensor([[2.5000],
                [7.5000]])
        >>> mixed.target
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """
    soft, lam, permutation = prepare_mixing(x, target, alpha, num_classes, lam, permutation, generator, check)
    weight = lam.to(x.dtype)
    inputs = torch.lerp(x[permutation], x, weight)  # (B, ...)
    return MixedBatch(inputs, mix_targets(soft, weight, permutation), weight.to(soft.dtype))
