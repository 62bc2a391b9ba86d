"""Clipping of gradients: by the norm of them all, which keeps the direction, or entry by entry.

Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", arXiv 1211.5063
(2013), algorithm 1.

| paper      | here        | shape  |
|------------|-------------|--------|
| ĝ          | the `.grad` of `parameters`, as one vector | |
| ||ĝ||      | `norm`      | ()     |
| threshold  | `max_norm`  | number |
| threshold / ||ĝ||, where that is below 1 | `coefficient` | () |

As in torch the coefficient is min(1, c / (||ĝ|| + 1e-6)), so that a norm of zero divides nothing by zero and a
norm of exactly c is scaled by slightly less than 1. Multiplying always, by 1 where nothing is to clip, spares
the host the comparison, for which it would have to wait.
"""

import math
from collections.abc import Iterable
from typing import Literal

import torch

from steepest.gradient_debugging.gradient_norms import require_finite_norm, require_order
from steepest.gradient_debugging.grouped_norms import accumulator, grouped, norm_of_groups
from steepest.validation import require_nonnegative

EPSILON = 1e-6


@torch.no_grad()
def clip_grad_norm_(
    parameters: torch.Tensor | Iterable[torch.Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    nonfinite: Literal["keep", "propagate"] = "keep",
    scaled: bool = False,
) -> torch.Tensor:
    """Scale all gradients in place by one factor so that their norm is at most `max_norm`.

    The step keeps its direction. Arguments, formula and result are those of `torch.nn.utils.clip_grad_norm_`,
    except for a norm that isn't finite. There torch multiplies by c / inf = 0 or by NaN: an infinite norm makes
    the infinite entries NaN and zeroes all others, even where every entry is finite and only the sum of squares
    overflowed; a NaN norm makes every entry NaN. Here such gradients are left as they are, bit for bit, and the
    norm that is returned reports it: skip the step if it isn't finite, and look for the cause. Nothing is read
    by the host for this.

    Args:
        parameters: parameters, or one; those without a gradient are passed over. A parameter that is listed
            twice is counted and scaled twice, as in torch; `model.parameters()` lists each one once.
        max_norm: c >= 0, in the unit of the gradients (unscale them first if the loss was scaled); `inf` only
            measures.
        norm_type: p > 0, or `inf`.
        error_if_nonfinite: raise if the norm is NaN or infinite, before any gradient is touched. For this the
            host waits for the norm.
        foreach: False takes the gradients one by one. None and True take all of one device and dtype together.
        nonfinite: "keep" leaves the gradients as they are if the norm isn't finite; "propagate" multiplies, as
            torch does.
        scaled: measure as `total_norm(..., scaled=True)` does, at several times the cost, so that finite gradients too
            large to square are clipped as well.

    Returns:
        The norm before clipping, a tensor () as from `total_norm`; 0 if there is no gradient.

    Raises:
        TypeError: a parameter isn't a tensor, a gradient is complex or sparse, or an argument isn't a number.
        ValueError: `parameters` is empty, a number is out of range, or `nonfinite` is something else.
        RuntimeError: the norm isn't finite and `error_if_nonfinite` is set.

    Example:
        >>> weight, bias = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
        >>> weight.grad, bias.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
        >>> clip_grad_norm_([weight, bias], max_norm=1.0)
        tensor(5.)
        >>> weight.grad, bias.grad
        (tensor([0.6000, 0.0000]), tensor([0.8000]))
        >>> bias.grad = torch.tensor([float("inf")])
        >>> clip_grad_norm_([weight, bias], max_norm=1.0)
        tensor(inf)
        >>> weight.grad
        tensor([0.6000, 0.0000])
    """
    # An infinite max_norm only measures.
    if max_norm != math.inf:
        require_nonnegative("max_norm", max_norm)
    order = require_order(norm_type)
    if nonfinite not in ("keep", "propagate"):
        raise ValueError(f"nonfinite must be 'keep' or 'propagate', got {nonfinite!r}; to raise, error_if_nonfinite")
    gradients = gradients_of(parameters)
    if not gradients:
        return torch.tensor(0.0)

    groups = grouped("gradients", gradients)
    norm = norm_of_groups(groups, order, foreach is not False, scaled)
    if error_if_nonfinite:
        require_finite_norm(norm, order)
    coefficient = (max_norm / (norm + EPSILON)).clamp(max=1)
    if nonfinite == "keep":
        # False for NaN as well.
        coefficient = torch.where(norm < math.inf, coefficient, 1)
    for group in groups.values():
        dtype = group[0].dtype
        factor = coefficient.to(group[0].device, accumulator(dtype))
        if factor.dtype != dtype:
            # As an operand of 16 bits the factor itself would be rounded, in float16 to 0 below 3e-8.
            for gradient in group:
                gradient.copy_(gradient.to(factor.dtype).mul_(factor))
        elif foreach is not False:
            torch._foreach_mul_(group, factor)
        else:
            for gradient in group:
                gradient.mul_(factor)
    return norm


@torch.no_grad()
def clip_grad_value_(
    parameters: torch.Tensor | Iterable[torch.Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Clamp each entry of each gradient to [-clip_value, clip_value] in place.

    This turns the gradient: entries beyond the value lose, the others don't. Infinite entries become
    `clip_value`, and NaN stays. Arguments are those of `torch.nn.utils.clip_grad_value_`.

    Args:
        parameters: parameters, or one; those without a gradient are passed over.
        clip_value: the largest absolute entry to keep, >= 0, in the unit of the gradients.
        foreach: False takes the gradients one by one. None and True take all of one device and dtype together.

    Raises:
        TypeError: a parameter isn't a tensor, a gradient is complex or sparse, or `clip_value` isn't a number.
        ValueError: `parameters` is empty, or `clip_value` is negative or not finite.

    Example:
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> weight.grad = torch.tensor([10.0, 0.1])
        >>> clip_grad_value_(weight, 0.5)
        >>> weight.grad
        tensor([0.5000, 0.1000])
    """
    require_nonnegative("clip_value", clip_value)
    gradients = gradients_of(parameters)
    if not gradients:
        return
    for group in grouped("gradients", gradients).values():
        if foreach is not False:
            torch._foreach_clamp_min_(group, -clip_value)
            torch._foreach_clamp_max_(group, clip_value)
        else:
            for gradient in group:
                gradient.clamp_(-clip_value, clip_value)


def gradients_of(parameters: torch.Tensor | Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradients there are; raise unless `parameters` is a tensor or some tensors."""
    if isinstance(parameters, torch.nn.Module):
        raise TypeError(
            f"parameters must be tensors, got the module {type(parameters).__name__}; pass its parameters()"
        )
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    if not parameters:
        raise ValueError("parameters is empty; a generator yields them once only, so make it anew for each call")
    try:
        gradients = [parameter.grad for parameter in parameters]
    except AttributeError as error:
        found = ", ".join(sorted({type(parameter).__name__ for parameter in parameters}))
        raise TypeError(f"parameters must be tensors, got {found}") from error
    return [gradient for gradient in gradients if gradient is not None]
