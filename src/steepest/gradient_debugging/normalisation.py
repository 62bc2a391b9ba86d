"""Batch, layer and group normalisation in plain tensor arithmetic.

Sources: Ioffe, Szegedy, "Batch normalization", arXiv 1502.03167 (2015), algorithms 1 and 2; Ba, Kiros, Hinton,
"Layer normalization", arXiv 1607.06450 (2016), equations 3 and 4; Wu, He, "Group normalization", arXiv
1803.08494 (2018), equations 1 to 7.

| papers            | here                        | shape                   |
|-------------------|-----------------------------|-------------------------|
| x                 | `input`                     | (N, C, *) or (*, D)     |
| μ, σ²             | `mean`, `variance`          | 1 along the axes they are taken over |
| ε                 | `eps`                       | number                  |
| x̂ = (x - μ) / sqrt(σ² + ε) | `normalised`       | that of `input`         |
| γ, β              | `weight`, `bias`            | (C,), or `normalized_shape` |
| y = γ x̂ + β       | the returned tensor         | that of `input`         |

The three differ only in the axes that share a mean: batch and space for each channel; the last axes for each
sample; a group's channels and space for each sample. So only the first mixes samples, needs running averages
for evaluation, and depends on the batch size.

float16 and bfloat16 inputs are computed in float32 and rounded once: a variance summed in 16 bits is lost.
"""

import math
from collections.abc import Iterable, Sequence

import torch

from steepest.validation import (
    require_count,
    require_floating,
    require_nonnegative,
    require_positive,
    require_probability,
)


def batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Normalise each channel over batch and space, as `torch.nn.functional.batch_norm` does.

    In training the batch's own mean and *biased* variance normalise it, and the running averages move towards
    its mean and *unbiased* variance (n / (n - 1) of the biased one; algorithm 2, step 10). In evaluation the
    running averages normalise. Gradients flow through mean and variance in training.

    Args:
        input: (N, C, *), floating.
        running_mean, running_var: (C,), updated in place in training; both or neither, and needed otherwise.
        weight, bias: γ and β, (C,), or None for 1 and 0.
        training: normalise by the batch's own statistics.
        momentum: weight of the new statistics in the running averages, in [0, 1].
        eps: added to the variance; > 0 in training, else >= 0.

    Returns:
        The normalised tensor, with shape and dtype of `input`.

    Raises:
        TypeError: a tensor isn't floating, or a number isn't one.
        ValueError: shapes don't fit, running averages are missing, a number is out of range, or in training
            there is one value per channel, which is its own mean.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> running_mean, running_var = torch.zeros(2), torch.ones(2)
        >>> batch_norm(x, running_mean, running_var, training=True)
        tensor([[-1.0000,  0.0000],
                [ 1.0000,  0.0000]])
        >>> running_mean, running_var
        (tensor([0.2000, 0.0000]), tensor([1.1000, 0.9000]))
    """
    require_floating("input", input)
    require_probability("momentum", momentum)
    if training:
        require_positive("eps", eps)
    else:
        require_nonnegative("eps", eps)
    if input.dim() < 2:
        raise ValueError(f"input must have shape (N, C, ...), got {tuple(input.shape)}")
    channels = input.shape[1]
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must be given both or neither")
    for name, tensor in (
        ("running_mean", running_mean),
        ("running_var", running_var),
        ("weight", weight),
        ("bias", bias),
    ):
        _require_shape(name, tensor, (channels,))

    x = _in_at_least_float32(input)
    per_channel = (1, channels, *(1,) * (x.dim() - 2))
    if training:
        count = math.prod(x.shape) // max(channels, 1)
        if count <= 1:
            raise ValueError(f"in training each channel needs more than one value, got shape {tuple(input.shape)}")
        mean, variance = _mean_and_variance(x, [axis for axis in range(x.dim()) if axis != 1])  # (1, C, 1, ...)
        if running_mean is not None:
            with torch.no_grad():
                unbiased = variance * (count / (count - 1))
                running_mean.lerp_(mean.flatten().to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.flatten().to(running_var.dtype), momentum)
    elif running_mean is None:
        raise ValueError("running_mean and running_var are needed when training is False")
    else:
        mean, variance = (_in_at_least_float32(average).view(per_channel) for average in (running_mean, running_var))
    normalised = (x - mean) * torch.rsqrt(variance + eps)
    return _scaled_and_shifted(normalised, weight, bias, per_channel).to(input.dtype)


def layer_norm(
    input: torch.Tensor,
    normalized_shape: int | Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Normalise each sample over its last axes, as `torch.nn.functional.layer_norm` does.

    Args:
        input: (*, *normalized_shape), floating.
        normalized_shape: lengths of the last axes, which share a mean; an int is the last one's.
        weight, bias: γ and β, of shape `normalized_shape`, or None for 1 and 0.
        eps: added to the variance, >= 0.

    Returns:
        The normalised tensor, with shape and dtype of `input`.

    Raises:
        TypeError: a tensor isn't floating, or a number isn't one.
        ValueError: shapes don't fit, or a number is out of range.

    Example:
        >>> layer_norm(torch.tensor([[1.0, 3.0], [-10.0, 10.0]]), 2)
        tensor([[-1.0000,  1.0000],
                [-1.0000,  1.0000]])
    """
    require_floating("input", input)
    require_nonnegative("eps", eps)
    shape = tuple(normalized_shape) if isinstance(normalized_shape, Iterable) else (normalized_shape,)
    for i, length in enumerate(shape):
        require_count(f"normalized_shape[{i}]", length)
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise ValueError(f"normalized_shape must be the end of input's shape {tuple(input.shape)}, got {shape}")
    _require_shape("weight", weight, shape)
    _require_shape("bias", bias, shape)

    x = _in_at_least_float32(input)
    mean, variance = _mean_and_variance(x, list(range(-len(shape), 0)))
    normalised = (x - mean) * torch.rsqrt(variance + eps)
    return _scaled_and_shifted(normalised, weight, bias, shape).to(input.dtype)


def group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Normalise each group of channels of each sample, as `torch.nn.functional.group_norm` does.

    One group is layer norm over (C, *), C groups are instance norm.

    Args:
        input: (N, C, *), floating.
        num_groups: G, a divisor of C; group k holds the channels k C/G to (k + 1) C/G - 1.
        weight, bias: γ and β, one a channel (C,), or None for 1 and 0.
        eps: added to the variance, >= 0.

    Returns:
        The normalised tensor, with shape and dtype of `input`.

    Raises:
        TypeError: a tensor isn't floating, or a number isn't one.
        ValueError: shapes don't fit, a number is out of range, or one sample has one value per group.

    Example:
        >>> group_norm(torch.tensor([[1.0, 3.0, -10.0, 10.0]]), num_groups=2)
        tensor([[-1.0000,  1.0000, -1.0000,  1.0000]])
    """
    require_floating("input", input)
    require_count("num_groups", num_groups)
    require_nonnegative("eps", eps)
    if input.dim() < 2:
        raise ValueError(f"input must have shape (N, C, ...), got {tuple(input.shape)}")
    samples, channels, *space = input.shape
    if channels % num_groups:
        raise ValueError(f"num_groups must divide the {channels} channels of input, got {num_groups}")
    if input.numel() == num_groups:
        raise ValueError(f"each group needs more than one value, got shape {tuple(input.shape)}, {num_groups} groups")
    _require_shape("weight", weight, (channels,))
    _require_shape("bias", bias, (channels,))

    x = _in_at_least_float32(input).reshape(samples, num_groups, channels // num_groups, *space)  # (N, G, C/G, *)
    mean, variance = _mean_and_variance(x, list(range(2, x.dim())))  # (N, G, 1, ...)
    normalised = ((x - mean) * torch.rsqrt(variance + eps)).reshape(input.shape)
    return _scaled_and_shifted(normalised, weight, bias, (1, channels, *(1,) * len(space))).to(input.dtype)


def _mean_and_variance(x: torch.Tensor, axes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and biased variance over some axes, which are kept with length 1."""
    mean = x.mean(axes, keepdim=True)
    # Not mean(x^2) - mean(x)^2, which cancels where the mean is large beside the deviations.
    return mean, (x - mean).square().mean(axes, keepdim=True)


def _scaled_and_shifted(
    normalised: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, shape: Sequence[int]
) -> torch.Tensor:
    """Return γ x̂ + β with weight and bias viewed in `shape`."""
    if weight is not None:
        normalised = normalised * weight.reshape(shape)
    return normalised if bias is None else normalised + bias.reshape(shape)


def _in_at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _require_shape(name: str, tensor: torch.Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise unless the tensor is None or a floating one of this shape."""
    if tensor is None:
        return
    require_floating(name, tensor)
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
