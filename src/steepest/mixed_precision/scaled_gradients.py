"""The gradients that a loss scaler divides, and whether all of them are finite.

Source: IEEE 754-2019, sections 7.2 and 7.4: what is too large for float16 becomes infinite; infinity minus infinity and
zero times infinity, which follow in the backward pass, are NaN. One of both in any gradient shows an overflow.
"""

import math
from collections import defaultdict

import torch


def gradient_groups(optimizer: torch.optim.Optimizer) -> list[list[torch.Tensor]]:
    """Return the gradients of an optimizer's parameters as real dense tensors that share their memory.

    Each list holds tensors of one device and dtype, so that one kernel can treat all of them. Of a sparse
    gradient it holds the values, of a complex one a view of real and imaginary parts.

    Raises:
        ValueError: a gradient is float16, in which dividing by the scale would lose what the scale saved.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> (3 * weight).sum().backward()
        >>> gradient_groups(torch.optim.SGD([weight]))
        [[tensor([3., 3.])]]
    """
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = defaultdict(list)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.dtype == torch.float16:
                raise ValueError(
                    "Attempting to unscale FP16 gradients: keep parameters in float32 under autocast instead of"
                    " model.half(), or give the optimizer float32 masters"
                )
            gradient = gradient._values() if gradient.is_sparse else gradient
            gradient = torch.view_as_real(gradient) if gradient.is_complex() else gradient
            groups[gradient.device, gradient.dtype].append(gradient)
    return list(groups.values())


def any_nonfinite(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Return whether an entry is infinite or NaN, (), for tensors of one device and dtype; the host reads nothing.

    Judged by the largest magnitude: a sum or a norm of finite entries can overflow.

    Example:
        >>> any_nonfinite([torch.tensor([3e38, 3e38])]), any_nonfinite([torch.zeros(2), torch.tensor([torch.nan])])
        (tensor(False), tensor(True))
    """
    nonempty = [gradient for gradient in gradients if gradient.numel()]
    if not nonempty:
        return torch.zeros((), dtype=torch.bool, device=gradients[0].device)
    # Both hand on NaN. One kernel for all tensors is best on a GPU, but on a CPU this norm isn't vectorised.
    if nonempty[0].is_cuda:
        extremes = torch._foreach_norm(nonempty, math.inf)
    else:
        extremes = [extreme for gradient in nonempty for extreme in torch.aminmax(gradient)]
    return ~torch.stack(extremes).isfinite().all()
