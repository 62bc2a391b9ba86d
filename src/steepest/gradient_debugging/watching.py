"""What the diagnoses that run a model share: walking its outputs, removing hooks, leaving buffers as they were."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch


def floating_tensors(value: object) -> Iterator[torch.Tensor]:
    """Yield the real floating tensors in a structure of tuples, lists and mappings, in order.

    >>> [x.shape for x in floating_tensors((torch.ones(2), {"mask": torch.ones(3).bool(), "h": [torch.ones(4)]}))]
    [torch.Size([2]), torch.Size([4])]
    """
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from floating_tensors(entry)
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from floating_tensors(entry)


@contextmanager
def watched(model: torch.nn.Module) -> Iterator[ExitStack]:
    """Yield a stack for the handles of hooks (`enter_context`); at the end they go, and the buffers are put back.

    The running averages of batch norm are buffers, which a forward in training mode moves, with NaN for good. The
    forwards watched get copies: a buffer that is written to, be it with its own values, would no longer do for the
    backward of an earlier forward, and one that a module replaces would stay replaced.
    """
    owned = [
        (module, *named)
        for module in model.modules()
        for named in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    copies = {id(buffer): buffer.clone() for _, _, buffer in owned}
    try:
        for module, name, buffer in owned:
            setattr(module, name, copies[id(buffer)])
        with ExitStack() as handles:
            yield handles
    finally:
        for module, name, buffer in owned:
            setattr(module, name, buffer)


def require_module(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a torch.nn.Module.

    >>> require_module("model", torch.relu)
    Traceback (most recent call last):
    TypeError: model must be a torch.nn.Module, got builtin_function_or_method
    """
    if not isinstance(value, torch.nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {type(value).__name__}")
