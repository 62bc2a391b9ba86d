"""memory_timeline: the order of layers, phases and bytes of a step, for each kind of checkpointing."""

from functools import partial

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from steepest.checkpointing import (
    CheckpointFunction,
    LiveMemory,
    MemoryEvent,
    checkpoint,
    checkpoint_sequential,
    layer_trace,
    memory_timeline,
)

WIDTH = 16


class ABCD(nn.Module):
    """Four layers, of which B and C are checkpointed, each for itself."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.A, self.B, self.C, self.D = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(4))

    def forward(self, x):
        x = self.A(x)
        x = self.run(self.B, x)
        x = self.run(self.C, x)
        return self.D(x)


KINDS = {
    "plain": lambda layer, x: layer(x),
    "checkpoint": checkpoint,
    "CheckpointFunction": lambda layer, x: CheckpointFunction.apply(layer, True, x),
    "torch": partial(torch.utils.checkpoint.checkpoint, use_reentrant=False),
    "torch reentrant": partial(torch.utils.checkpoint.checkpoint, use_reentrant=True),
}


def trace_of_layers(events):
    """The trace with a layer's parts, such as B.0 and B.1, taken together."""
    trace = []
    for phase, module in layer_trace(events):
        entry = (phase, module.split(".")[0])
        if entry[1] and (not trace or trace[-1] != entry):
            trace.append(entry)
    return "  ".join(f"{layer} {phase}" for phase, layer in trace)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_layers(kind):
    model = ABCD(KINDS[kind])
    events = memory_timeline(lambda x: model(x).sum().backward(), torch.randn(8, WIDTH), model=model)
    if kind == "plain":
        order = "A forward  B forward  C forward  D forward  D backward  C backward  B backward  A backward"
    else:
        order = (
            "A forward  B forward  C forward  D forward  D backward  C recompute  C backward  "
            "B recompute  B backward  A backward"
        )
    assert trace_of_layers(events) == order
    assert [event.index for event in events] == list(range(len(events)))
    assert all(isinstance(event, MemoryEvent) for event in events)


def test_segments_run_again_in_order_and_backwards_in_reverse():
    model = nn.Sequential(*[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(5)])
    events = memory_timeline(
        lambda: checkpoint_sequential(model, 2, torch.randn(8, WIDTH)).sum().backward(), model=model
    )
    order = [f"{layer} forward" for layer in "01234"] + [f"{layer} backward" for layer in "432"]
    order += ["0 recompute", "1 recompute", "1 backward", "0 backward"]
    assert trace_of_layers(events) == "  ".join(order)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_live_memory(kind):
    model, x = ABCD(KINDS[kind]), torch.randn(8, WIDTH)

    def step():
        model(x).sum().backward()

    step()
    model.zero_grad(set_to_none=False)
    with LiveMemory() as memory:
        step()
    model.zero_grad(set_to_none=False)
    events = memory_timeline(step, model=model)
    assert max(event.live_bytes for event in events) == memory.peak_bytes()
    model.zero_grad(set_to_none=False)
    assert events == memory_timeline(step, model=model)


def test_phases_and_operators_of_a_region_without_modules():
    x = torch.randn(100, requires_grad=True)
    events = memory_timeline(lambda: checkpoint(lambda x: x.sin().exp(), x).sum().backward())
    mathematics = ("aten.sin", "aten.exp", "aten.cos", "aten.mul")
    assert [(event.phase, event.operator) for event in events if event.operator in mathematics] == [
        ("forward", "aten.sin"),
        ("forward", "aten.exp"),
        ("recompute", "aten.sin"),
        ("recompute", "aten.exp"),
        ("backward", "aten.mul"),
        ("backward", "aten.cos"),
        ("backward", "aten.mul"),
    ]
    assert layer_trace(events) == [] and {event.module for event in events} == {None}


def test_names_are_of_the_innermost_module_and_its_own_operators_keep_its_name():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Tanh()

        def forward(self, x, *, scale):
            return {"out": self.inner(x.exp() * scale).sin()}

    model = nn.ModuleDict({"outer": Outer()})
    x = torch.randn(5, requires_grad=True)
    events = memory_timeline(lambda: model["outer"](x.cos(), scale=x.abs())["out"].sum().backward(), model=model)
    names = {(event.phase, event.operator): event.module for event in events}
    assert names["forward", "aten.exp"] == "outer" and names["forward", "aten.tanh"] == "outer.inner"
    assert names["backward", "aten.tanh_backward"] == "outer.inner"
    # The derivative of sin is a cosine, inside the module; that of cos outside it is a sine.
    assert names["backward", "aten.cos"] == "outer" and names["backward", "aten.sin"] is None
    assert names["forward", "aten.cos"] is None and names["backward", "aten.sgn"] is None


def test_hooks_are_removed_and_errors_pass_through():
    model = nn.Sequential(nn.Linear(3, 3))

    def fail():
        model(torch.ones(1, 3))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        memory_timeline(fail, model=model)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_the_timeline_keeps_no_tensor_alive():
    model = ABCD(checkpoint)
    x = torch.randn(8, WIDTH)
    model(x).sum().backward()
    model.zero_grad(set_to_none=False)
    with LiveMemory() as memory:
        memory_timeline(lambda: model(x).sum().backward(), model=model)
        assert memory.live_bytes() == 0


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="function must be callable, got Tensor"):
        memory_timeline(torch.ones(1))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module or None, got list"):
        memory_timeline(lambda: None, model=[])


@pytest.mark.gpu
def test_on_cuda_the_order_is_the_same():
    model = ABCD(checkpoint).cuda()
    x = torch.randn(8, WIDTH, device="cuda")
    events = memory_timeline(lambda: model(x).sum().backward(), model=model)
    assert "D backward  C recompute  C backward  B recompute  B backward" in trace_of_layers(events)
