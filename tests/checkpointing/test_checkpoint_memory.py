"""What checkpoint keeps between the passes, how much it runs again, and when its tensors are freed."""

import gc
import weakref
from functools import partial

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from steepest.checkpointing import LiveMemory, checkpoint
from tests.checkpointing.nets import assert_same_bits, build, gradients, saved_bytes
from tests.host_reads import host_reads

# ---- what is kept


def test_only_the_inputs_of_the_region_are_kept():
    net, x = build("mlp")
    x = (x * 2).detach().requires_grad_()
    excluded = [x, *net.parameters()]
    with saved_bytes(excluded) as plain:
        net(x)
    with saved_bytes(excluded) as kept:
        checkpoint(net, x)
    # Tanh keeps its output, the linear layer's input; GELU its input; the last linear layer GELU's output.
    assert sum(plain.values()) == 4 * 4 * (8 + 8 + 8)
    assert sum(kept.values()) == 0
    with saved_bytes(net.parameters()) as kept:
        checkpoint(net, x)
    assert sum(kept.values()) == 4 * x.numel()


def test_live_bytes_agree_with_what_autograd_was_given():
    net = nn.Sequential(
        *[nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Sigmoid()) for _ in range(6)]
    )
    x = torch.randn(32, 64)
    with saved_bytes([x, *net.parameters()]) as saved:
        net(x).sum()
    for run, kept in ((net, sum(saved.values())), (lambda x: checkpoint(net, x), 0)):
        with LiveMemory() as memory:
            loss = run(x).sum()
            assert memory.live_bytes() - 4 == kept
            loss.backward()
            del loss
            assert memory.live_bytes() == sum(4 * p.numel() for p in net.parameters())
        net.zero_grad()


def test_the_inner_inputs_belong_to_the_outer_region():
    x = torch.randn(1000, requires_grad=True)

    def outer(x):
        for _ in range(10):
            x = checkpoint(lambda x: x.sin().exp(), x * 1.5)
        return x

    with LiveMemory() as memory:
        output = checkpoint(outer, x)
        assert memory.live_bytes() == output.numel() * 4


def test_other_hooks_around_it_keep_the_inputs():
    net, x = build("mlp")
    expected = gradients(net, net, x)
    packed = []

    def run(x):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (packed.append(t.shape), t.clone())[1], lambda t: t):
            return checkpoint(net, x * 1)

    assert_same_bits(gradients(run, net, x), expected)
    assert packed == [x.shape]


# ---- what is freed


def test_memory_is_freed_without_the_garbage_collector():
    net, x = build("transformer")
    gc.collect()
    gc.disable()
    try:
        with LiveMemory() as memory:
            hidden = x * 2
            watched = weakref.ref(hidden)
            loss = checkpoint(net, hidden).sum()
            del hidden
            loss.backward()
            del loss
            x.grad = None
            net.zero_grad()
            assert memory.live_bytes() == 0 and watched() is None
            # A graph that is dropped unused, too.
            checkpoint(net, x)
            assert memory.live_bytes() == 0
    finally:
        gc.enable()


def test_boundaries_are_freed_as_the_backward_pass_goes_on():
    layers = 8
    x = torch.randn(1000, requires_grad=True)
    kept = []
    with LiveMemory() as memory:
        y = x
        for _ in range(layers):
            y = checkpoint(lambda x: x.sin().exp(), y)
            y.register_hook(lambda gradient: kept.append(memory.live_bytes()))
        loss = y.sum()
        del y
        loss.backward()
    assert kept == sorted(kept, reverse=True) and kept[0] - kept[-1] >= (layers - 2) * 4000


def test_recomputed_tensors_are_freed_as_they_are_read_though_the_graph_is_retained():
    def region(x):
        for _ in range(10):
            x = x.sin()
        return x

    x = torch.randn(1000, requires_grad=True)
    at_the_end = []
    x.register_hook(lambda gradient: at_the_end.append(memory.live_bytes()))
    with LiveMemory() as memory:
        loss = checkpoint(region, x).sum()
        before = memory.live_bytes()
        loss.backward(retain_graph=True)
    assert at_the_end[0] - before <= 3 * 4000 and memory.peak_bytes() - before >= 9 * 4000


def test_gradients_of_some_inputs_leave_nothing_behind():
    x, y = torch.randn(1000, requires_grad=True), torch.randn(1000, requires_grad=True)

    def region(x, y):
        return x.exp().sin() + y.exp().sin()

    with LiveMemory() as memory:
        loss = checkpoint(region, x, y).sum()
        before = memory.live_bytes()
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert memory.live_bytes() - before == gradient.numel() * 4
        (other,) = torch.autograd.grad(loss, y)
    assert torch.equal(gradient, torch.autograd.grad(region(x, y).sum(), x)[0])
    assert torch.equal(other, torch.autograd.grad(region(x, y).sum(), y)[0])


def test_a_saved_tensor_can_be_read_outside_of_a_backward_pass():
    x = torch.randn(1000, requires_grad=True)
    with LiveMemory() as memory:
        output = checkpoint(lambda x: x.exp().sin(), x)
        before = memory.live_bytes()
        assert torch.equal(output.grad_fn._saved_self, x.exp())
        assert memory.live_bytes() == before
    assert torch.equal(torch.autograd.grad(output.sum(), x)[0], x.exp().cos() * x.exp())


# ---- what is run again


def test_a_region_that_saves_nothing_is_not_run_again():
    calls = []
    x = torch.ones(3, requires_grad=True)
    checkpoint(lambda x: (calls.append(1), x + 1)[1], x).sum().backward()
    assert calls == [1] and torch.equal(x.grad, torch.ones(3))


def test_stops_at_the_last_tensor_that_is_needed():
    notes = []

    def region(x):
        y = x.exp()
        notes.append("exp")
        z = y.sin()
        notes.append("sin")
        a, b = z + 1, z.exp()
        notes.append("both")
        return a, b

    x = torch.randn(3, requires_grad=True)
    a, b = checkpoint(region, x)
    torch.autograd.grad(a.sum() + b.sum(), x)
    # The second exp saves its result, so that it must be computed.
    assert notes == ["exp", "sin", "both", "exp", "sin"]
    notes.clear()
    a, b = checkpoint(region, x)
    del b
    a.sum().backward()
    # Nobody needs the result of the second exp any more, and sin saves its input before it runs.
    assert notes == ["exp", "sin", "both", "exp"]
    torch.testing.assert_close(x.grad, x.detach().exp().cos() * x.detach().exp())


def test_modules_run_their_exit_hooks_when_the_recomputation_stops():
    net, x = build("mlp")
    left = []
    net.register_forward_hook(lambda *_: left.append(1), always_call=True)
    checkpoint(net, x).sum().backward()
    assert left == [1, 1]


def test_a_function_that_catches_every_exception():
    def region(x):
        try:
            y = x.exp().sin()
        except Exception:
            y = x.cos()
        return y * 1

    x = torch.randn(3, requires_grad=True)
    checkpoint(region, x).sum().backward()
    torch.testing.assert_close(x.grad, x.detach().exp().cos() * x.detach().exp())


def nested(run, depth, x, notes):
    def level(x):
        notes.append(depth)
        x = x.sin() * 1.5
        if depth:
            x = nested(run, depth - 1, x, notes)
        return x.exp().cos()

    return run(level, x)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_nested_regions(depth):
    x = torch.randn(10, requires_grad=True)
    (expected,) = torch.autograd.grad(nested(lambda f, x: f(x), depth, x, []).sum(), x)
    notes = []
    (gradient,) = torch.autograd.grad(nested(checkpoint, depth, x, notes).sum(), x)
    assert torch.equal(gradient, expected)
    # The region at each depth runs forwards, then once for itself and once for each region around it.
    assert [notes.count(level) for level in range(depth, -1, -1)] == [2 + outer for outer in range(depth + 1)]
    peer = []
    nested(partial(torch.utils.checkpoint.checkpoint, use_reentrant=False), depth, x, peer).sum().backward()
    assert sorted(notes) == sorted(peer)


def test_no_host_reads():
    net, x = build("dropout")
    with host_reads() as reads:
        checkpoint(net, x).sum().backward()
    assert reads == []


# ---- on a GPU


@pytest.mark.gpu
def test_on_cuda_nothing_waits_and_less_is_allocated():
    net = nn.Sequential(*[nn.Sequential(nn.Linear(256, 256), nn.GELU()) for _ in range(12)]).cuda()
    # Large beside the workspaces of matrix products.
    x = torch.randn(32768, 256, device="cuda", requires_grad=True)

    def peak(run):
        net.zero_grad(set_to_none=False)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        run(x).sum().backward()
        return torch.cuda.max_memory_allocated() - start

    def segments(x):
        for layer in net:
            x = checkpoint(layer, x)
        return x

    # The first passes make the gradients and the library's workspaces.
    peak(net), peak(segments)
    try:
        torch.cuda.set_sync_debug_mode("error")
        segments(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert peak(segments) < 0.75 * peak(net)
