"""Live and peak bytes of tensors, counted operator by operator, on any device.

A `TorchDispatchMode` sees the outputs of every operator, in the forward pass and in the backward pass. What counts is
the storage below a tensor: views share one. A weak reference to it tells when its memory is freed, whoever held it
last: a variable, or the autograd graph alone.

| quantity       | here                |
|----------------|---------------------|
| live bytes     | storages made inside the block that still exist |
| peak bytes     | the largest number of live bytes after any operator |
"""

import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Context manager that counts the bytes of the storages that are made inside it.

    Works for CPU tensors, which `torch.cuda.max_memory_allocated` can't see. In difference to that, it excludes what
    existed before, doesn't round up to the allocator's blocks, and can't see buffers that a kernel allocates and frees
    inside one operator. Counted are dense tensors; sparse ones and the insides of compiled functions aren't. Tensors
    of the device "meta" count with the bytes that they would have.

    After the block the live bytes still fall as tensors die; new tensors aren't counted any more. The same object can
    be entered again, and goes on counting.

    Example:
        Autograd keeps the result of exp for the backward pass, though no variable holds it:

        >>> x = torch.zeros(1000, requires_grad=True)
        >>> with LiveMemory() as memory:
        ...     loss = x.exp().sum()
        ...     memory.live_bytes()
        4004
        >>> loss.backward()
        >>> memory.live_bytes(), memory.peak_bytes()
        (4, 4004)
    """

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, tuple[weakref.ref, int, torch.device]] = {}
        self._live: Counter[torch.device] = Counter()
        self._peak: Counter[torch.device] = Counter()
        self._total = 0
        self._total_peak = 0

    def live_bytes(self, device: torch.device | str | None = None) -> int:
        """Return the bytes of the counted storages that exist now, on one device or on all together.

        Args:
            device: such as "cpu" or "cuda:1"; None for all.

        Raises:
            TypeError: `device` isn't one.
            RuntimeError: `device` is a text that names none.
        """
        return self._total if device is None else self._live[_with_index(device)]

    def peak_bytes(self, device: torch.device | str | None = None) -> int:
        """Return the largest number of live bytes so far, on one device or on all together; see `live_bytes`."""
        return self._total_peak if device is None else self._peak[_with_index(device)]

    def reset_peak(self) -> None:
        """Let the peak begin anew at the bytes that are live now."""
        self._peak = Counter(self._live)
        self._total_peak = self._total

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        """Run an operator and count the storages that it returns and was not given."""
        kwargs = kwargs or {}
        # An operator that returns its argument or a view of it makes no storage. What lifts a tensor that was made
        # from Python numbers does return its argument, but is the first to show it.
        given = () if operator is torch.ops.aten.lift_fresh.default else _storages((args, kwargs))
        result = operator(*args, **kwargs)
        for storage in _storages(result):
            entry = self._storages.get(id(storage))
            if entry is not None:
                self._resize(id(storage), entry, storage.nbytes())
            elif not any(storage is other for other in given):
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size, device = id(storage), storage.nbytes(), storage.device

        def freed(_: weakref.ref) -> None:
            _, size, _ = self._storages.pop(key)
            self._change(device, -size)

        self._storages[key] = (weakref.ref(storage, freed), size, device)
        self._change(device, size)

    def _resize(self, key: int, entry: tuple[weakref.ref, int, torch.device], size: int) -> None:
        reference, before, device = entry
        if size != before:
            self._storages[key] = (reference, size, device)
            self._change(device, size - before)

    def _change(self, device: torch.device, size: int) -> None:
        self._live[device] += size
        self._total += size
        self._peak[device] = max(self._peak[device], self._live[device])
        self._total_peak = max(self._total_peak, self._total)


def _storages(tree: object) -> list[torch.UntypedStorage]:
    """Return the storages of the dense tensors in nested containers."""
    leaves = (tree,) if isinstance(tree, torch.Tensor) else tree_leaves(tree)
    return [
        leaf.untyped_storage() for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided
    ]


def _with_index(device: torch.device | str) -> torch.device:
    """Return the device as storages name it: a CUDA device always with its index."""
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a torch.device or a str, got {type(device).__name__}")
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
