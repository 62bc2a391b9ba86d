"""Norms of many tensors in few kernels: grouped by device and dtype, summed wide enough, scaled on request."""

import math
from functools import reduce

import torch
from torch._utils import _flatten_dense_tensors

from steepest.validation import require_floating

# On the CPU the call for a tensor of up to SMALL entries takes longer than its norm: PACK of them are laid end to end,
# few enough that the buffer (64 KiB in float32) comes from the heap and leaves the gradients in the cache.
SMALL, PACK = 1024, 16

# Index of the device (-1 for the CPU), dtype and layout: what tensors must share to go into one kernel.
Kind = tuple[int, torch.dtype, torch.layout]


def kind(tensor: torch.Tensor) -> Kind:
    """Return what is shared within a group."""
    return tensor.get_device(), tensor.dtype, tensor.layout


def grouped(name: str, tensors: list[torch.Tensor]) -> dict[Kind, list[torch.Tensor]]:
    """Return the tensors by device and dtype, each group in order; TypeError unless all are real and dense."""
    try:
        # Written out: a call for each tensor takes longer than all the rest.
        kinds = {(tensor.get_device(), tensor.dtype, tensor.layout) for tensor in tensors}
        supported = all(dtype.is_floating_point and layout is torch.strided for _, dtype, layout in kinds)
    except AttributeError:
        supported = False
    if not supported:
        for i, tensor in enumerate(tensors):
            require_floating(f"{name}[{i}]", tensor)
    if len(kinds) == 1:
        return {kinds.pop(): tensors}
    groups: dict[Kind, list[torch.Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(kind(tensor), []).append(tensor)
    return groups


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to sum powers in: float32 for the 16-bit formats, else `dtype`."""
    return torch.promote_types(dtype, torch.float32)


def norms_of(
    tensors: list[torch.Tensor], order: float, foreach: bool = True, scaled: bool = False
) -> list[torch.Tensor]:
    """Return the norm () of each tensor of one device and dtype."""
    dtype = accumulator(tensors[0].dtype)
    if scaled and order != math.inf:
        return [scaled_norm(tensor, order, dtype) for tensor in tensors]
    # On the CPU the kernels of the norm are many times slower than aminmax for this order.
    if order == math.inf and tensors[0].device.type == "cpu":
        return [largest_entry(tensor).to(dtype) for tensor in tensors]
    if order == math.inf:
        tensors = [tensor if tensor.numel() else tensor.new_zeros(1) for tensor in tensors]
    if foreach:
        return list(torch._foreach_norm(tensors, order, dtype=dtype))
    return [torch.linalg.vector_norm(tensor, order, dtype=dtype) for tensor in tensors]


def scaled_norm(tensor: torch.Tensor, order: float, dtype: torch.dtype) -> torch.Tensor:
    """Return s |x / s|_p with s the largest absolute entry, or 1 where that is 0, NaN or infinite."""
    largest = largest_entry(tensor).to(dtype)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1)
    return scale * torch.linalg.vector_norm(tensor.to(dtype) / scale, order)


def largest_entry(tensor: torch.Tensor) -> torch.Tensor:
    """Return the largest absolute entry (), 0 if there is none, NaN if one is NaN.

    >>> largest_entry(torch.tensor([1.0, -3.0]))
    tensor(3.)
    """
    if tensor.numel() == 0:
        return tensor.new_zeros(())
    lowest, highest = torch.aminmax(tensor)
    return torch.maximum(-lowest, highest)


def stacked(norms: list[torch.Tensor]) -> torch.Tensor:
    """Return the norms as one tensor (N,) on the first one's device, in the widest of their dtypes."""
    dtype = reduce(torch.promote_types, {norm.dtype for norm in norms})
    return torch.stack([norm.to(norms[0].device, dtype) for norm in norms])


def norm_of_groups(groups: dict[Kind, list[torch.Tensor]], order: float, foreach: bool, scaled: bool) -> torch.Tensor:
    """Return the norm () of all tensors in all groups as one vector."""
    pack = foreach and not scaled
    norms = []
    for tensors in groups.values():
        group_norms = packed_norms(tensors, order) if pack else norms_of(tensors, order, foreach, scaled)
        norms.append(norm_of_norms(torch.stack(group_norms), order, scaled))
    return norms[0] if len(norms) == 1 else norm_of_norms(stacked(norms), order, scaled)


def packed_norms(tensors: list[torch.Tensor], order: float) -> list[torch.Tensor]:
    """Return norms () whose norm is that of all tensors; on the CPU the small ones share buffers."""
    if tensors[0].device.type != "cpu":
        return norms_of(tensors, order)
    norms, large, small = [], [], []
    for tensor in tensors:
        (small if tensor.numel() <= SMALL else large).append(tensor)
    for i in range(0, len(small), PACK):
        norms += norms_of([_flatten_dense_tensors(small[i : i + PACK])], order)
    return norms + norms_of(large, order) if large else norms


def norm_of_norms(norms: torch.Tensor, order: float, scaled: bool) -> torch.Tensor:
    """Return |(n_1, ..., n_N)|_p, which is the p-norm of the vectors laid end to end."""
    return scaled_norm(norms, order, norms.dtype) if scaled else torch.linalg.vector_norm(norms, order)
