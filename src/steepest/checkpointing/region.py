"""A checkpointed region: slots in the place of saved tensors, filled by running the function again.

Autograd keeps tensors for the backward pass. `torch.autograd.graph.saved_tensors_hooks` lets us say what is kept in
their place. Here that is a slot: an empty object that knows nothing but its place in the order of saving. The first
slot that the backward pass asks for makes the region run again; the tensors that autograd then wants to save are the
same ones in the same order, and fill the slots.

Source of the idea: Chen, Xu, Zhang and Guestrin, arXiv 1604.06174 (2016), algorithm 1.

| name in the literature       | here                                       |
|------------------------------|--------------------------------------------|
| segment, checkpointed region | `Region`                                   |
| checkpoint                   | the region's inputs, kept by `_KeptInputs` |
| rematerialisation            | `Region.recompute`                         |
"""

import threading
import weakref
from collections.abc import Callable

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_flatten, tree_unflatten

from steepest.checkpointing.forward_state import ForwardState


class _KeptInputs(torch.autograd.Function):
    """A node that has only the purpose of saving tensors as autograd saves them.

    So they count as saved tensors of whatever surrounds the region: an outer region recomputes them, other hooks may
    move them to the host, and a change in place is noticed by their version.
    """

    @staticmethod
    def forward(ctx, anchor: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*tensors)
        return torch.empty(0)


class _Slot:
    """Stands in the graph where autograd would keep a tensor; filled by a recomputation, emptied when read."""

    __slots__ = ("__weakref__", "tensor", "version")

    def __init__(self) -> None:
        self.tensor: torch.Tensor | None = None
        self.version = 0


class _Recomputed(Exception):
    """Leaves the function as soon as the last slot is full. An Exception, so that modules run their exit hooks."""


class Region:
    """One call of a checkpointed function: its inputs, and the slots of the tensors that it would have saved."""

    def __init__(self, function: Callable, args: tuple, kwargs: dict, preserve_rng_state: bool) -> None:
        self.function = function
        # Flattening also keeps the containers as they are now, should the caller or the function change them.
        self.leaves, self.structure = tree_flatten((args, kwargs))
        self.state = ForwardState.capture(self.leaves, preserve_rng_state)
        # Autograd refuses to save inference tensors; they stay among the leaves.
        self.places = [
            place
            for place, leaf in enumerate(self.leaves)
            if isinstance(leaf, torch.Tensor) and not leaf.is_inference()
        ]
        anchor = torch.empty(0, requires_grad=True)
        self.kept = _KeptInputs.apply(anchor, *(self.leaves[place] for place in self.places)).grad_fn
        for place in self.places:
            self.leaves[place] = None
        # The graph owns the slots: one that is gone needs no tensor any more.
        self.slots: list[weakref.ref[_Slot]] = []
        self.signatures: list[tuple] = []
        self.saved_leaves: list[tuple[weakref.ref[torch.Tensor], int]] = []
        # A region that spans several GPUs is unpacked by one thread a device.
        self.lock = threading.RLock()

    def pack(self, tensor: torch.Tensor) -> _Slot:
        slot = _Slot()
        self.slots.append(weakref.ref(slot))
        self.signatures.append(_signature(tensor))
        # Linear layers save a view of their weight; it shares the version of the weight itself.
        origin = tensor if tensor._base is None else tensor._base
        if origin.is_leaf:
            self.saved_leaves.append((weakref.ref(origin), origin._version))
        return slot

    def unpack(self, slot: _Slot) -> torch.Tensor:
        with self.lock:
            if slot.tensor is None:
                self.recompute()
            tensor, slot.tensor = slot.tensor, None
            if torch._C._current_graph_task_id() == -1:
                self.empty_slots()
        # Hooks switch off autograd's own check. Early stopping makes most such changes harmless: they come later.
        if tensor._version != slot.version:
            raise RuntimeError(
                f"a tensor of shape {tuple(tensor.shape)} that the checkpointed function needs for the backward pass "
                "was changed in place after it was saved; use the out-of-place operation"
            )
        return tensor

    def recompute(self) -> None:
        """Fill every slot that still exists by running the function again up to the last of them."""
        for reference, version in self.saved_leaves:
            leaf = reference()
            if leaf is not None and leaf._version != version:
                raise RuntimeError(
                    f"a leaf tensor of shape {tuple(leaf.shape)} that the checkpointed function used was changed in "
                    "place before the backward pass, which would recompute from other values; "
                    "call backward first, or change a copy"
                )
        args, kwargs = self.inputs()
        slots = {index: slot for index, reference in enumerate(self.slots) if (slot := reference()) is not None}
        last = max(slots)
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            index, count = count, count + 1
            if index > last:
                return tensor.detach()
            if _signature(tensor) != self.signatures[index]:
                raise RuntimeError(
                    f"the recomputation of a checkpointed function saved other tensors than its forward pass: number "
                    f"{index} was {_describe(self.signatures[index])} and is now {_describe(_signature(tensor))}; "
                    "the function must do the same on both runs"
                )
            if index in slots:
                slots[index].tensor, slots[index].version = tensor.detach(), tensor._version
            if index == last:
                raise _Recomputed
            return tensor.detach()

        try:
            with self.state.restored(), torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
                self.function(*args, **kwargs)
        except _Recomputed:
            return
        finally:
            self.empty_slots_after_backward()
        if count <= last:
            raise RuntimeError(
                f"the recomputation of a checkpointed function saved {count} tensors where its forward pass saved at "
                f"least {last + 1}; the function must do the same on both runs"
            )

    def inputs(self) -> tuple[tuple, dict]:
        """Return the arguments of the forward pass."""
        leaves = list(self.leaves)
        try:
            tensors = self.kept.saved_tensors
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise RuntimeError(
                "an input of a checkpointed function was changed in place, by the function or before the backward "
                "pass, which would recompute from other values; change a copy"
            ) from error
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return tree_unflatten(leaves, self.structure)

    def empty_slots(self) -> None:
        for reference in self.slots:
            slot = reference()
            if slot is not None:
                slot.tensor = None

    def empty_slots_after_backward(self) -> None:
        """Drop at the end of the backward pass what it did not read, when it was for some of the inputs only."""
        if torch._C._current_graph_task_id() == -1:
            return
        # Weakly, because the engine keeps its callbacks to the end, and this region's inputs may go much earlier.
        region = weakref.ref(self)

        def empty() -> None:
            if (alive := region()) is not None:
                alive.empty_slots()

        torch.autograd.Variable._execution_engine.queue_callback(empty)


def _signature(tensor: torch.Tensor) -> tuple:
    """Return what must agree between two runs: shape, dtype, device and the operation that made the tensor."""
    producer = tensor.grad_fn
    return tensor.shape, tensor.dtype, tensor.device, None if producer is None else producer.name()


def _describe(signature: tuple) -> str:
    shape, dtype, device, producer = signature
    return f"{dtype} {tuple(shape)} on {device} by {producer or 'no recorded operation'}"
