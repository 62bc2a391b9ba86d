"""Which operator ran in which dtype under autocast: observed, because the lists differ by device and version.

Source: the operator lists of `torch.amp` ("Autocast Op Reference"), which say what is meant to happen.

Autocast converts arguments before an operator is dispatched to its kernel. A `TorchDispatchMode` stands behind it,
so it sees what the kernels get: the conversions as `aten._to_copy`, and operators with converted arguments. The
backward pass isn't under autocast; its operators take the dtypes that the forward pass saved.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DTYPES = (torch.float16, torch.bfloat16, torch.float32, None)
HEADS = ("pass", "module", "operator", "inputs", "output", "count")


class AutocastRow(NamedTuple):
    """Calls that are alike: pass ("forward" or "backward"), the module's path ("" is the model), operator, dtypes."""

    phase: str
    module: str
    operator: str
    input_dtypes: tuple[torch.dtype, ...]
    output_dtype: torch.dtype | None
    count: int


class AutocastReport(tuple[AutocastRow, ...]):
    """Rows in the order of their first calls; printed as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        table = [HEADS]
        for row in self:
            inputs = ", ".join(map(_short, row.input_dtypes)) or "-"
            table.append((row.phase, row.module, row.operator, inputs, _short(row.output_dtype), str(row.count)))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table)
        return "\n".join(line.rstrip() for line in lines)


def autocast_report(
    model: torch.nn.Module,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    device_type: str | None = None,
    dtype: torch.dtype | None = None,
    backward: bool = False,
) -> AutocastReport:
    """Run a model once under autocast and return what each operator took and gave, by module.

    Left out are views, which compute nothing, and operators on integers alone. Operators are those of the
    dispatcher: `torch.nn.Linear` shows as `aten.addmm`. Parameters, their gradients, buffers and the states of
    torch's generators are as before afterwards, and so are the inputs.

    Args:
        model: in the mode, training or evaluation, in which it is to be observed.
        inputs: the model's positional arguments, on its device.
        kwargs: its keyword arguments.
        device_type: "cpu", "cuda", ...: that of the first parameter by default.
        dtype: autocast's dtype, the device's default if None. torch.float32 turns autocast off.
        backward: also differentiate the sum of the model's floating outputs.

    Returns:
        One row for all calls with equal pass, module, operator and dtypes. `output_dtype` is that of the first tensor
        returned.

    Raises:
        TypeError: `model` isn't a module.
        ValueError: `dtype` is another one; `model` has no parameters and `device_type` is missing; or `backward`
            is set and no output depends on anything that requires a gradient.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Softmax(-1))
        >>> print(autocast_report(model, torch.ones(2, 3), dtype=torch.bfloat16))
        pass     module  operator       inputs                        output    count
        forward  0       aten._to_copy  float32                       bfloat16  3
        forward  0       aten.addmm     bfloat16, bfloat16, bfloat16  bfloat16  1
        forward  1       aten._softmax  bfloat16                      bfloat16  1
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    first = next(model.parameters(), None)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be torch.float16, torch.bfloat16, torch.float32 or None, got {dtype}")
    if device_type is None:
        if first is None:
            raise ValueError("device_type must be given: the model has no parameters to tell it by")
        device_type = first.device.type
    inputs, kwargs = tree_map(_copied, (inputs, dict(kwargs or {})))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    recorder = _Recorder()
    sources = [*model.parameters(), *_tensors((inputs, kwargs))]
    cuda_devices = {tensor.device for tensor in sources if tensor.is_cuda}
    with torch.random.fork_rng(devices=cuda_devices), recorder.following(model):
        with recorder, torch.autocast(device_type, dtype=dtype, enabled=dtype != torch.float32):
            outputs = torch.func.functional_call(model, buffers, inputs, kwargs)
        if backward:
            roots = [tensor for tensor in _tensors(outputs) if tensor.requires_grad]
            if not roots:
                raise ValueError("backward needs an output that requires a gradient: do parameters or inputs?")
            ones = [torch.ones_like(root) for root in roots]
            recorder.phase = "backward"
            with recorder:
                wanted = [tensor for tensor in sources if tensor.requires_grad]
                torch.autograd.grad(roots, wanted, ones, allow_unused=True)
    return AutocastReport(AutocastRow(*key, count) for key, count in recorder.counts.items())


class _Recorder(TorchDispatchMode):
    """Counts operators by phase, current module and dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "forward"
        self.path = ""
        self.counts: Counter[tuple] = Counter()
        self._owned: set[torch.autograd.graph.Node] = set()
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        returns = operator._schema.returns
        is_view = bool(returns) and returns[0].alias_info is not None and not returns[0].alias_info.is_write
        # Its schema hides that the result shares the memory of the argument.
        is_view = is_view or operator is torch.ops.aten._unsafe_view.default
        taken, given = (_dtypes(tensors) for tensors in ((args, kwargs), result))
        if not is_view and any(dtype.is_floating_point or dtype.is_complex for dtype in taken + given):
            self.counts[self.phase, self.path, str(operator.overloadpacket), taken, given[0] if given else None] += 1
        return result

    @contextmanager
    def following(self, model: torch.nn.Module) -> Iterator[None]:
        """Keep `path` at the module whose forward, or whose part of the backward pass, is running."""
        callers = []

        def enter(path: str) -> Callable:
            def hook(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
                # What computed the arguments belongs to the caller, not to this module.
                self._own((args, kwargs))
                callers.append(self.path)
                self.path = path

            return hook

        def leave(module: torch.nn.Module, args: tuple, output: Any) -> None:
            self._own(output)
            self.path = callers.pop()

        try:
            for path, module in model.named_modules():
                self._handles.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
                self._handles.append(module.register_forward_hook(leave))
            yield
        finally:
            for handle in self._handles:
                handle.remove()

    def _own(self, tensors: Any) -> None:
        """Make every new node of the graph behind these tensors set `path` to the present one when it runs."""
        path = self.path
        nodes = [tensor.grad_fn for tensor in _tensors(tensors) if tensor.grad_fn is not None]
        while nodes:
            node = nodes.pop()
            if node in self._owned:
                continue
            self._owned.add(node)
            # Removed in the end too: the model may have held the node before, and may go on to.
            self._handles.append(node.register_prehook(lambda gradients: setattr(self, "path", path)))
            nodes.extend(following for following, _ in node.next_functions if following is not None)


def _short(dtype: torch.dtype | None) -> str:
    return "-" if dtype is None else str(dtype).removeprefix("torch.")


def _copied(leaf: Any) -> Any:
    """Return a tensor's copy outside the graph that it comes from, and anything else as it is."""
    return leaf.detach().clone().requires_grad_(leaf.requires_grad) if isinstance(leaf, torch.Tensor) else leaf


def _dtypes(tree: Any) -> tuple[torch.dtype, ...]:
    return tuple(tensor.dtype for tensor in _tensors(tree))


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
