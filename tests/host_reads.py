"""Counts the places where the host waits for values of tensors, which on a GPU stalls the queue."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result, or whose result's shape, needs the values of their inputs on the host.
READING = {
    "aten._local_scalar_dense",
    "aten._linalg_check_errors",
    "aten.equal",
    "aten.is_nonzero",
    "aten.masked_select",
    "aten.nonzero",
    "aten._unique2",
    "aten.unique_dim",
    "aten.unique_consecutive",
    "aten.bincount",
}
# On the CPU these read memory without an operator.
READING_METHODS = ("tolist", "numpy", "cpu", "__array__")
INDEXING = {"aten.index", "aten.index_put", "aten.index_put_"}


class _Recorder(TorchDispatchMode):
    def __init__(self, reads: list[str]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = str(operator.overloadpacket)
        masks = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in READING or masks:
            self.reads.append(name)
        return operator(*args, **(kwargs or {}))


def _noting(method: Callable, name: str, reads: list[str]) -> Callable:
    def noted(self, *args, **kwargs):
        reads.append(f"Tensor.{name}")
        return method(self, *args, **kwargs)

    return noted


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """Yield a list that grows by a name with each read of tensor values by the host, on any device.

    On CUDA tests use `torch.cuda.set_sync_debug_mode("error")` instead, which also sees copies to the CPU.
    """
    reads: list[str] = []
    patches = [
        mock.patch.object(torch.Tensor, name, _noting(getattr(torch.Tensor, name), name, reads))
        for name in READING_METHODS
    ]
    for patch in patches:
        patch.start()
    try:
        with _Recorder(reads):
            yield reads
    finally:
        for patch in patches:
            patch.stop()
