"""Reductions of many tensors on their device, and one transfer of all results to the host."""

import torch

from steepest.gradient_debugging.grouped_norms import stacked

OF_ENTRIES = ("largest", "maxima", "minima", "means", "nan_counts", "inf_counts")


def tensor_norms(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return the L2 norms (N,) of N tensors of any dtypes and devices, on the first one's device.

    16-bit tensors are summed in float32, so that a norm above 65504 doesn't overflow.

    >>> tensor_norms([torch.full((2, 2), 60000.0, dtype=torch.float16), torch.tensor(2.0)])
    tensor([1.2000e+05, 2.0000e+00])
    """
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(i)
    norms, widest = {}, torch.float32
    for (_, dtype), places in groups.items():
        accumulator = torch.promote_types(dtype, torch.float32)
        widest = torch.promote_types(widest, accumulator)
        found = torch._foreach_norm([tensors[i] for i in places], dtype=accumulator)
        norms |= dict(zip(places, found, strict=True))
    return torch.stack([norms[i].to(tensors[0].device, widest) for i in range(len(tensors))])


def entry_statistics(tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return largest, maxima, minima, means and counts of NaN and of ±inf of N tensors, each (N,).

    These have no foreach kernels, so several kernels a tensor are queued; the host still waits for none of them.

    >>> statistics = entry_statistics([torch.tensor([1.0, -3.0, 5.0]), torch.tensor([float("nan"), float("inf")])])
    >>> statistics["maxima"].tolist(), statistics["nan_counts"].tolist(), statistics["inf_counts"].tolist()
    ([5.0, nan], [0, 1], [0, 1])
    """
    statistics: dict[str, list[torch.Tensor]] = {name: [] for name in OF_ENTRIES if name != "largest"}
    for tensor in tensors:
        minimum, maximum = tensor.aminmax()
        statistics["minima"].append(minimum)
        statistics["maxima"].append(maximum)
        statistics["means"].append(tensor.mean(dtype=torch.promote_types(tensor.dtype, torch.float32)))
        statistics["nan_counts"].append(torch.count_nonzero(tensor.isnan()))
        # x - x is 0 unless x is NaN or infinite, and quicker to count than isinf.
        statistics["inf_counts"].append(torch.count_nonzero(tensor - tensor))
    columns = {name: stacked(values) for name, values in statistics.items()}
    columns["inf_counts"] -= columns["nan_counts"]
    columns["largest"] = torch.maximum(-columns["minima"], columns["maxima"])
    return columns


def transferred(columns: dict[str, torch.Tensor], device: torch.device) -> dict[str, list[float]]:
    """Return tensors (N_i,) as lists of numbers, by one transfer for all of them together.

    >>> transferred({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3])}, torch.device("cpu"))
    {'a': [1.0, 2.0], 'b': [3.0]}
    """
    if not columns:
        return {}
    # Wide enough for every count, and for every norm in its own dtype.
    flat = torch.cat([column.to(device, torch.float64) for column in columns.values()]).tolist()
    values, start = {}, 0
    for name, column in columns.items():
        values[name] = flat[start : start + len(column)]
        start += len(column)
    return values
