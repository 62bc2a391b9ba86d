"""Norms of gradients: one a parameter in the order of depth, and one of them all.

Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", arXiv 1211.5063
(2013), section 3.2, which judges training by the norm of all gradients taken as one vector.

| mathematics            | here                             | shape |
|------------------------|----------------------------------|-------|
| g_1, ..., g_N          | `tensors`                        | any   |
| p                      | `norm_type`                      | number > 0 or inf |
| n_i = |g_i|_p          | `gradient_norms(...).norms`      | (N,)  |
| |g|_p = |(n_1, ..., n_N)|_p | `total_norm`                | ()    |
| s = max_j |g_ij|       | `largest`                        | ()    |
| |g_i|_p = s |g_i / s|_p | with `scaled=True`              |       |

The norm of all is the norm of the norms, not their sum. A square overflows long before its root does: FP32
entries of 3e19 have an infinite 2-norm though all are finite, and entries of 1e-30 the norm 0. Dividing by
the largest entry first keeps the squares between 0 and 1.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from steepest.gradient_debugging.grouped_norms import grouped, kind, norm_of_groups, norms_of, stacked


class GradientNorms(NamedTuple):
    """The parameters that have a gradient, and its norms, in order of registration.

    `norms` is one tensor (N,), so that `dict(zip(names, norms.tolist()))` reads all of them at once.
    """

    names: tuple[str, ...]
    norms: torch.Tensor


@torch.no_grad()
def gradient_norms(
    model: torch.nn.Module | Iterable[tuple[str, torch.Tensor]], norm_type: float = 2.0, *, scaled: bool = False
) -> GradientNorms:
    """Return the norm of each parameter's gradient, in order of registration, which is that of depth.

    Vanishing and exploding gradients show in the shape of this profile, which a total hides: the largest
    layers make up the total. NaN and infinite entries make their parameter's norm NaN or infinite. The host
    reads nothing; on a GPU the norms are there when `norms` is read.

    Args:
        model: a module, or pairs (name, parameter) as from `named_parameters()`. Parameters without a gradient
            are left out.
        norm_type: p > 0, or `inf` for the largest absolute entry.
        scaled: divide by the largest entry first, so that only a norm beyond the dtype's range is infinite
            and only that of a zero gradient is zero. Takes a second pass over the gradients, and a copy of
            one at a time.

    Returns:
        The names and the norms (N,), on the first gradient's device, in the widest dtype of the gradients
        and at least float32.

    Raises:
        TypeError: `model` is something else, a gradient is complex or sparse, or `norm_type` is no number.
        ValueError: no parameter has a gradient, or `norm_type` isn't > 0.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Tanh(), torch.nn.Linear(1, 2, bias=False))
        >>> model[0].weight.grad = torch.tensor([[3.0, 4.0]])
        >>> model[2].weight.grad = torch.tensor([[3e-30], [4e-30]])
        >>> gradient_norms(model).names
        ('0.weight', '2.weight')
        >>> gradient_norms(model).norms
        tensor([5., 0.])
        >>> gradient_norms(model, scaled=True).norms
        tensor([5.0000e+00, 5.0000e-30])
    """
    named = model.named_parameters() if isinstance(model, torch.nn.Module) else model
    try:
        with_gradient = [(name, parameter.grad) for name, parameter in named if parameter.grad is not None]
    except (TypeError, ValueError, AttributeError) as error:
        raise TypeError(f"model must be a module or pairs (name, parameter), got {type(model).__name__}") from error
    if not with_gradient:
        raise ValueError("no parameter has a gradient: measure after backward() and before zero_grad()")
    names, gradients = zip(*with_gradient, strict=True)
    order = require_order(norm_type)
    groups = grouped("gradients", list(gradients))
    norms = [norms_of(group, order, scaled=scaled) for group in groups.values()]
    if len(groups) == 1:
        return GradientNorms(names, torch.stack(norms[0]))
    # Back from groups to the order of registration.
    group_norms = dict(zip(groups, map(iter, norms), strict=True))
    in_order = [next(group_norms[kind(gradient)]) for gradient in gradients]
    return GradientNorms(names, stacked(in_order))


@torch.no_grad()
def total_norm(
    tensors: torch.Tensor | Iterable[torch.Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    scaled: bool = False,
) -> torch.Tensor:
    """Return the norm of all tensors taken as one vector, as `torch.nn.utils.get_total_norm` does.

    A NaN in any tensor makes it NaN and an infinite entry infinite, and so does a finite gradient whose sum of
    powers overflows. What is what, `scaled=True` tells: then only infinite entries make an infinite norm,
    unless the norm itself is too large for its dtype. So does `norm_type=inf`, the largest absolute entry.

    Args:
        tensors: gradients, or one. Parameters have theirs in `.grad`.
        norm_type: p > 0, or `inf`.
        error_if_nonfinite: raise if the norm is NaN or infinite. For this the host waits for the norm.
        foreach: False takes the tensors one by one. None and True take all of one device and dtype together.
        scaled: as for `gradient_norms`.

    Returns:
        The norm, a tensor () on the first tensor's device, in the widest dtype of the tensors and at least
        float32: torch's is float16 for float16 tensors, which overflows above 65504. Without tensors, 0.

    Raises:
        TypeError: something isn't a tensor, is complex or sparse, or `norm_type` is no number.
        ValueError: `norm_type` isn't > 0.
        RuntimeError: the norm isn't finite and `error_if_nonfinite` is set.

    Example:
        >>> total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(5.)
        >>> large = torch.full((4,), 3e19)
        >>> total_norm(large), total_norm(large, scaled=True)
        (tensor(inf), tensor(6.0000e+19))
    """
    tensors = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
    order = require_order(norm_type)
    if not tensors:
        return torch.tensor(0.0)
    norm = norm_of_groups(grouped("tensors", tensors), order, foreach is not False, scaled)
    if error_if_nonfinite:
        require_finite_norm(norm, order)
    return norm


def require_order(norm_type: float) -> float:
    """Return `norm_type` as a float; raise unless it is a number > 0, possibly infinite.

    >>> require_order(0)
    Traceback (most recent call last):
    ValueError: norm_type must be > 0 or inf, got 0.0
    """
    if isinstance(norm_type, bool) or not (isinstance(norm_type, (int, float)) or norm_type == "inf"):
        raise TypeError(f"norm_type must be a Python number or inf, got {norm_type!r}")
    order = float(norm_type)
    # The 0-norm counts entries, and counts do not combine as norms do; negative orders are no norms.
    if not order > 0:
        raise ValueError(f"norm_type must be > 0 or inf, got {order}")
    return order


def require_finite_norm(norm: torch.Tensor, order: float) -> None:
    """Raise RuntimeError unless the norm is finite; the host waits for it."""
    value = norm.item()
    if not math.isfinite(value):
        raise RuntimeError(
            f"the total norm of order {order} is {value}, so the gradients cannot be clipped; look for the first"
            " NaN or inf with find_nonfinite, or for finite gradients too large to square with scaled=True"
        )
