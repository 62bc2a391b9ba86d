"""What a training step does in which order, operator by operator, with the bytes that are live after each.

The phase of an operator follows from two things that autograd knows: whether a backward pass is running, and whether
gradients are being recorded. The backward pass itself records none, a recomputation inside it does.

| phase       | backward pass runs | gradients recorded |
|-------------|--------------------|--------------------|
| `forward`   | no                 | any                |
| `recompute` | yes                | yes                |
| `backward`  | yes                | no                 |
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from steepest.checkpointing.live_memory import LiveMemory

Phase = Literal["forward", "recompute", "backward"]


@dataclass(frozen=True)
class MemoryEvent:
    """One operator of a step.

    Attributes:
        index: its place in the order of time, from 0.
        operator: its name, such as "aten.addmm".
        phase: "forward", "recompute" or "backward".
        module: the innermost module that it belongs to, by its name in the model; None outside of them.
        live_bytes: bytes of tensors made in the step that exist just after it.
    """

    index: int
    operator: str
    phase: Phase
    module: str | None
    live_bytes: int


def memory_timeline(
    function: Callable[..., object], *args: object, model: nn.Module | None = None
) -> list[MemoryEvent]:
    """Return the operators of ``function(*args)``, which does a whole step, in order of time.

    Bytes are those of `LiveMemory`: what the step makes, on all devices, and not what existed before. So gradients of
    parameters count if the step makes them; a step that finds them in ``.grad`` adds to them in place.
    `torch.utils.checkpoint` is told apart as `checkpoint` and `CheckpointFunction` are. With ``create_graph=True`` the
    backward pass records gradients too, and shows as recomputation.

    Args:
        function: does the forward and the backward pass, for example ``lambda: model(x).sum().backward()``.
        *args: its arguments.
        model: its submodules, and itself as "", are named in the events. The names of operators of the backward pass
            are those of the modules whose forward pass recorded them.

    Returns:
        One `MemoryEvent` an operator; the largest `live_bytes` is the peak.

    Raises:
        TypeError: `function` isn't callable or `model` isn't a module.

    Example:
        >>> x = torch.zeros(1000, requires_grad=True)
        >>> for event in memory_timeline(lambda: x.exp().sum().backward()):
        ...     print(event.phase, event.operator, event.live_bytes)
        forward aten.exp 4000
        forward aten.detach 4000
        forward aten.sum 4004
        forward aten.ones_like 4008
        backward aten.expand 4008
        backward aten.detach 4008
        backward aten.mul 8008
        backward aten.detach 4008
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module or None, got {type(model).__name__}")
    location = _Location()
    with location.tracking(model), _Timeline(location) as timeline:
        function(*args)
    return timeline.events


def layer_trace(events: Sequence[MemoryEvent]) -> list[tuple[Phase, str]]:
    """Return in which order the modules ran forwards, were recomputed, and ran backwards.

    Consecutive events of one module and phase become one entry. Left out are events outside of the named modules, and
    "aten.detach", with which autograd wraps and unwraps tensors that it saves.

    Example:
        Layers 1 and 2 of four are checkpointed, each for itself; layer 3, the last, is stored:

        >>> from steepest.checkpointing import checkpoint
        >>> model = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(4)])
        >>> def step(x):
        ...     x = model[0](x).tanh()
        ...     for layer in model[1:3]:
        ...         x = checkpoint(lambda x, layer=layer: layer(x.sin()), x)
        ...     model[3](x).sum().backward()
        >>> events = memory_timeline(step, torch.ones(1, 2), model=model)
        >>> "  ".join(f"{phase[0]}{module}" for phase, module in layer_trace(events))
        'f0  f1  f2  f3  b3  r2  b2  r1  b1  b0'
    """
    trace: list[tuple[Phase, str]] = []
    for event in events:
        entry = (event.phase, event.module)
        left_out = event.module is None or event.operator == "aten.detach"
        if not left_out and (not trace or trace[-1] != entry):
            trace.append(entry)
    return trace


class _Timeline(LiveMemory):
    """Counts live bytes and notes them after each operator."""

    def __init__(self, location: "_Location") -> None:
        super().__init__()
        self.events: list[MemoryEvent] = []
        self._location = location

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(operator, types, args, kwargs)
        if torch._C._current_graph_task_id() == -1:
            phase = "forward"
        else:
            phase = "recompute" if torch.is_grad_enabled() else "backward"
        module = self._location.backward if phase == "backward" else self._location.forward
        self.events.append(
            MemoryEvent(len(self.events), str(operator.overloadpacket), phase, module, self.live_bytes())
        )
        return result


class _Location:
    """Which module the step is in, forwards by hooks of modules, backwards by hooks of the nodes they recorded."""

    def __init__(self) -> None:
        # Modules being run, each with the nodes that its inputs come from.
        self._stack: list[tuple[str, set]] = []
        self.backward: str | None = None

    @property
    def forward(self) -> str | None:
        return self._stack[-1][0] if self._stack else None

    @contextlib.contextmanager
    def tracking(self, model: nn.Module | None) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name, module in model.named_modules() if model is not None else ():
                hook = module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True)
                stack.callback(hook.remove)
                # Also when a recomputation leaves the module by an exception, because nothing more is needed.
                stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)
            yield

    def _enter(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._stack.append((name, _nodes((args, kwargs))))

    def _leave(self, module: nn.Module, args: tuple, output: object) -> None:
        name, before = self._stack.pop()
        waiting, seen = list(_nodes(output)), set(before)
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions if following is not None)
            # Inner modules leave first, and their names stay. The node keeps the name, so that nothing keeps the node.
            if self not in node.metadata:
                node.metadata[self] = name
                node.register_prehook(partial(self._enter_backward, name))
                node.register_hook(self._leave_backward)

    def _enter_backward(self, name: str, output_gradients: tuple) -> None:
        self.backward = name

    def _leave_backward(self, input_gradients: tuple, output_gradients: tuple) -> None:
        self.backward = None


def _nodes(tree: object) -> set:
    """Return the nodes of the graph that recorded the tensors in nested containers."""
    return {leaf.grad_fn for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None}
