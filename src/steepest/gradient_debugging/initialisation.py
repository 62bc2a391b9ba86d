"""Initial weights whose variance keeps a signal's scale from layer to layer.

Sources: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
(2010), equations 12 and 16; He, Zhang, Ren, Sun, "Delving deep into rectifiers", arXiv 1502.01852 (2015),
equations 10, 14 and 15.

| papers                 | here       | meaning                                           |
|------------------------|------------|---------------------------------------------------|
| n_j (Glorot), n_l (He) | `fan_in`   | inputs that a unit sums: in channels x kernel size |
| n_{j+1}, n̂_l           | `fan_out`  | outputs that an input feeds: out channels x kernel size |
| a (He)                 | `a`        | slope of the rectifier on the negative side       |
| sqrt(2 / (1 + a^2))    | `gain`     | what the nonlinearity takes from a signal's size  |

A unit that sums n inputs of variance v with weights of variance w has variance n w v: forward it stays with
w = 1 / fan_in, backward with w = 1 / fan_out. Glorot and Bengio take w = 2 / (fan_in + fan_out) in between; a
rectifier halves the mean square, for which He et al. double the variance. The samplers take a bound or a
standard deviation, not a variance: U(-b, b) has variance b^2 / 3.
"""

import math
import warnings
from typing import Literal

import torch

from steepest.validation import require_floating, require_generator, require_nonnegative, require_number

LINEAR = {"linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))}
# The gains of tanh, sigmoid and SELU are torch's; neither paper derives them.
FIXED_GAINS = {**dict.fromkeys(LINEAR, 1.0), "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}


def xavier_uniform_(tensor: torch.Tensor, gain: float = 1.0, generator: torch.Generator | None = None) -> torch.Tensor:
    """Fill a weight from U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio, equation 16).

    For layers before tanh, whose slope at zero is 1, with gain 1. Arguments and result are those of
    `torch.nn.init.xavier_uniform_`, to the bit for the same state of the generator.

    Args:
        tensor: (out, in, *kernel), floating, filled in place.
        gain: factor on the standard deviation, >= 0.
        generator: on the tensor's device; the global one if None.

    Returns:
        `tensor`.

    Raises:
        TypeError: `tensor` isn't a floating tensor, or another argument has a wrong type.
        ValueError: `tensor` has fewer than two dimensions, `gain` is out of range, or the devices differ.

    Warns:
        UserWarning: `tensor` has no elements, so there is nothing to fill.

    Example:
        >>> weight = xavier_uniform_(torch.empty(300, 300))
        >>> bool(weight.abs().max() <= 0.1), round(float(300 * weight.var()), 1)
        (True, 1.0)
    """
    require_nonnegative("gain", gain)
    fan_in, fan_out = fans(tensor)
    require_generator(generator, tensor.device)
    if tensor.numel() == 0:
        return _unfilled(tensor)
    std = gain * math.sqrt(2.0 / (fan_in + fan_out))
    bound = math.sqrt(3.0) * std
    with torch.no_grad():
        return tensor.uniform_(-bound, bound, generator=generator)


def kaiming_normal_(
    tensor: torch.Tensor,
    a: float = 0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Fill a weight from N(0, std^2) with std = gain / sqrt(fan) (He et al., equations 10 and 14).

    For layers before a rectifier. Arguments and result are those of `torch.nn.init.kaiming_normal_`, to the bit
    for the same state of the generator.

    Args:
        tensor: (out, in, *kernel), floating, filled in place.
        a: slope of the rectifier on the negative side, for "leaky_relu" only.
        mode: "fan_in" keeps the scale of the activations, "fan_out" that of the gradients.
        nonlinearity: what follows the layer: "relu", "leaky_relu", "tanh", "sigmoid", "selu" or a linear layer's
            name; it sets the gain.
        generator: on the tensor's device; the global one if None.

    Returns:
        `tensor`.

    Raises:
        TypeError: `tensor` isn't a floating tensor, or another argument has a wrong type.
        ValueError: `tensor` has fewer than two dimensions, `a` isn't finite, `mode` or `nonlinearity` is
            unknown, or the devices differ.

    Warns:
        UserWarning: `tensor` has no elements, so there is nothing to fill.

    Example:
        >>> weight = kaiming_normal_(torch.empty(400, 100, 2, 2), nonlinearity="relu")
        >>> round(float(400 * weight.var()), 1)
        2.0
    """
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    gain = gain_of(nonlinearity, a)
    fan_in, fan_out = fans(tensor)
    require_generator(generator, tensor.device)
    if tensor.numel() == 0:
        return _unfilled(tensor)
    std = gain / math.sqrt(fan_in if mode == "fan_in" else fan_out)
    with torch.no_grad():
        return tensor.normal_(0, std, generator=generator)


def fans(tensor: torch.Tensor) -> tuple[int, int]:
    """Return fan_in and fan_out of a weight (out, in, *kernel).

    >>> fans(torch.empty(8, 3, 5, 5))
    (75, 200)
    """
    require_floating("tensor", tensor)
    if tensor.dim() < 2:
        raise ValueError(
            f"tensor must have at least two dimensions (out, in, ...), got shape {tuple(tensor.shape)}; "
            "biases and norms have no fans: fill them with a constant"
        )
    kernel_size = math.prod(tensor.shape[2:])
    return tensor.shape[1] * kernel_size, tensor.shape[0] * kernel_size


def gain_of(nonlinearity: str, a: float) -> float:
    """Return the factor on 1 / sqrt(fan) for a nonlinearity.

    >>> gain_of("leaky_relu", 1)
    1.0
    """
    require_number("a", a)
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + a**2))
    if nonlinearity not in FIXED_GAINS:
        known = ", ".join(sorted({"leaky_relu", *FIXED_GAINS}))
        raise ValueError(f"nonlinearity must be one of {known}; got {nonlinearity!r}")
    return FIXED_GAINS[nonlinearity]


def _unfilled(tensor: torch.Tensor) -> torch.Tensor:
    warnings.warn("tensor has no elements, so there is nothing to fill", stacklevel=3)
    return tensor
