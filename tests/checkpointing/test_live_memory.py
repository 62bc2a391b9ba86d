"""LiveMemory against storages counted by hand and by the garbage collector; layer_bytes against what autograd saves."""

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steepest.checkpointing import LayerBytes, LiveMemory, layer_bytes
from tests.checkpointing.nets import build, saved_bytes
from tests.host_reads import host_reads


def test_counts_storages_not_tensors():
    before = torch.zeros(100)
    with LiveMemory() as memory:
        assert memory.live_bytes() == memory.peak_bytes() == 0
        x = torch.ones(100)
        assert memory.live_bytes() == 400
        view, row, transposed = x.view(10, 10), x[3:], x.view(10, 10).T
        x.add_(1)
        torch.mul(x, 2, out=x)
        before.add_(1)
        old = before[:5].detach()
        assert memory.live_bytes() == 400
        copy = transposed.contiguous()
        assert memory.live_bytes() == 800
        del x, view, transposed
        assert memory.live_bytes() == 800
        del row
        assert memory.live_bytes() == 400
        torch.mul(before, 2)
        assert memory.live_bytes() == 400 and memory.peak_bytes() == 800
        del copy
        assert memory.live_bytes() == 0 and memory.peak_bytes() == 800
        memory.reset_peak()
        assert memory.peak_bytes() == memory.peak_bytes("cpu") == 0
    assert old.numel() == 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_bytes_of_every_dtype(dtype):
    with LiveMemory() as memory:
        x = torch.zeros(7, 3, dtype=dtype)
        assert memory.live_bytes() == 21 * x.element_size()


def test_tensors_from_python_numbers_several_outputs_and_lists():
    with LiveMemory() as memory:
        a = torch.tensor([1.0, 2.0, 3.0])
        assert memory.live_bytes() == 12
        values, indices = a.sort()
        assert memory.live_bytes() == 12 + 12 + 24
        parts = torch.ones(10).chunk(3)
        assert memory.live_bytes() == 48 + 40
        scaled = torch._foreach_mul([a, values], 2.0)
        assert memory.live_bytes() == 88 + 24
    assert len(parts) + len(scaled) + len(indices) == 8


def test_storages_that_grow_and_shrink():
    with LiveMemory() as memory:
        x = torch.ones(10)
        x.resize_(100)
        assert memory.live_bytes() == 400
        x.untyped_storage().resize_(0)
        x.resize_(5)
        assert memory.live_bytes() == 20 and memory.peak_bytes() == 400


def test_tensors_that_only_the_graph_holds():
    x = torch.zeros(1000, requires_grad=True)
    with LiveMemory() as memory:
        loss = x.exp().sin().sum()
        # exp keeps its result, which is what sin keeps too.
        assert memory.live_bytes() == 4000 + 4
        loss.backward(retain_graph=True)
        assert memory.live_bytes() == 8000 + 4
        loss.backward()
        assert memory.live_bytes() == 4000 + 4
        del loss
        x.grad = None
        assert memory.live_bytes() == 0


@pytest.mark.parametrize("name", ["mlp", "dropout", "transformer", "convolution"])
def test_a_forward_pass_leaves_what_autograd_was_given_to_save(name):
    net, x = build(name)
    with saved_bytes([x, *net.parameters()]) as saved:
        torch.manual_seed(0)
        output = net(x)
    output_saved = output.untyped_storage().data_ptr() in saved
    torch.manual_seed(0)
    with LiveMemory() as memory:
        output = net(x)
        own = 0 if output_saved else output.untyped_storage().nbytes()
        # Autograd may save a tensor that no operator made: biases of a convolution, for example, exist before.
        assert memory.live_bytes() == sum(saved.values()) + own


def test_after_the_block_bytes_fall_but_do_not_rise():
    with LiveMemory() as memory:
        x = torch.ones(10)
    y = torch.ones(20)
    assert memory.live_bytes() == 40
    del x
    assert memory.live_bytes() == 0
    with memory:
        z = torch.ones(30)
    assert memory.live_bytes() == 120 and memory.peak_bytes() == 120
    del y, z


def test_blocks_inside_each_other_count_for_themselves():
    with LiveMemory() as outer:
        x = torch.ones(10)
        with LiveMemory() as inner:
            y = x + 1
            assert (outer.live_bytes(), inner.live_bytes()) == (80, 40)
        del x, y
        assert (outer.live_bytes(), inner.live_bytes()) == (0, 0)


def test_inference_mode_errors_and_the_garbage_collector():
    with torch.inference_mode(), LiveMemory() as memory:
        x = torch.ones(10) * 2
        assert memory.live_bytes() == 40
        del x
        with pytest.raises(RuntimeError):
            torch.ones(2) @ torch.ones(3)
        assert memory.live_bytes() == 0
        gc.disable()
        loop = [torch.ones(10)]
        loop.append(loop)
        del loop
        assert memory.live_bytes() == 40
        gc.enable()
        gc.collect()
        assert memory.live_bytes() == 0


def test_devices_are_counted_apart():
    with LiveMemory() as memory:
        x, y = torch.ones(10), torch.ones(5, device="meta")
        y = y * 2
        assert memory.live_bytes() == 60 and memory.peak_bytes() == 80
        assert memory.live_bytes("cpu") == memory.live_bytes(torch.device("cpu")) == 40
        assert memory.live_bytes("meta") == 20 and memory.peak_bytes("meta") == 40
        assert memory.peak_bytes("cpu") == 40
    with pytest.raises(TypeError, match=r"device must be a torch\.device or a str, got int"):
        memory.live_bytes(0)
    del x


def test_sparse_tensors_are_left_out():
    with LiveMemory() as memory:
        x = torch.eye(3)
        x.to_sparse() * 2
        del x
    gc.collect()
    assert memory.live_bytes() == 0


def test_no_host_reads():
    with host_reads() as reads, LiveMemory():
        x = torch.ones(3, requires_grad=True)
        x.exp().sum().backward()
    assert reads == []


PROGRAM = st.lists(
    st.tuples(st.sampled_from(["new", "view", "add", "add_", "delete", "clone"]), st.integers(0, 100)), max_size=30
)


@settings(max_examples=60)
@given(PROGRAM)
def test_any_program_of_operations(program):
    held, peak = [torch.zeros(4)], 0
    original = held[0].untyped_storage().data_ptr()
    with LiveMemory() as memory:
        for name, number in program:
            source = held[number % len(held)]
            if name == "new":
                held.append(torch.empty(number + 1))
            elif name == "view":
                held.append(source[: number % 4])
            elif name in ("add", "clone"):
                held.append(source + 1 if name == "add" else source.clone())
            elif name == "add_":
                source.add_(1)
            elif len(held) > 1:
                held.pop(1 + number % (len(held) - 1))
            del source
            sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}
            kept = {t.untyped_storage()._cdata for t in held if t.untyped_storage().data_ptr() == original}
            live = sum(size for key, size in sizes.items() if key not in kept)
            peak = max(peak, live)
            assert memory.live_bytes() == live
    assert memory.peak_bytes() == peak


# ---- layer_bytes


def test_layer_bytes_of_known_layers():
    x = torch.ones(100, 10)
    net = nn.Sequential(
        nn.Linear(10, 20), nn.Sequential(nn.Sigmoid(), nn.Flatten()), nn.Dropout(0.5), nn.ReLU(inplace=True)
    )
    measured = layer_bytes(net, x)
    # Output of each; Dropout also its mask, which has the input's dtype on the CPU; ReLU in place makes nothing.
    assert measured.internal == (8000, 8000, 16000, 0)
    assert measured.boundary == (4000, 8000, 8000, 8000)
    # Alone: the linear layer's output gradient, its input's, and those of weight and bias, which are 880 bytes.
    alone = layer_bytes([nn.Linear(10, 20)], x)
    assert alone.internal == (8000,) and 8000 + 4000 <= alone.workspace <= 8000 + 4000 + 880


def test_layer_bytes_leaves_everything_as_it_was():
    net, x = build("dropout")
    x = x.detach()
    net(x).sum().backward()
    parameters = [(p, p.grad, p.grad.clone()) for p in net.parameters()]
    state, before = torch.get_rng_state(), x.clone()
    with torch.no_grad():
        layer_bytes(net, x)
    with torch.inference_mode():
        layer_bytes(net, x)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, before) and not x.requires_grad
    for parameter, gradient, values in parameters:
        assert parameter.grad is gradient and torch.equal(gradient, values)
    net.zero_grad()
    layer_bytes(net, x)
    assert all(p.grad is None for p in net.parameters())


def test_layer_bytes_of_tokens_and_of_layers_without_gradients():
    embedding = nn.Embedding(10, 4)
    measured = layer_bytes([embedding, torch.sin, torch.detach], torch.arange(6))
    assert measured.boundary == (48, 96, 96) and measured.internal == (96, 96, 0)
    assert layer_bytes([torch.detach], torch.ones(3)) == LayerBytes((0,), (12,), 0)


@pytest.mark.parametrize(
    ("functions", "x", "error", "message"),
    [
        ([], torch.ones(3), ValueError, "functions must hold at least one function"),
        ([torch.sin, 3], torch.ones(3), TypeError, r"functions\[1\] must be callable, got int"),
        ([lambda x: (x, x)], torch.ones(3), TypeError, r"functions\[0\] must return a torch.Tensor, got tuple"),
        ([torch.sin], 3, TypeError, "input must be a torch.Tensor, got int"),
    ],
)
def test_layer_bytes_names_wrong_arguments(functions, x, error, message):
    with pytest.raises(error, match=message):
        layer_bytes(functions, x)


# ---- on a GPU


@pytest.mark.gpu
def test_on_cuda_it_agrees_with_the_allocator():
    net = nn.Sequential(*[nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Dropout(0.1)) for _ in range(6)]).cuda()
    # Large beside the workspaces of matrix products, which only the allocator sees.
    x = torch.randn(16384, 512, device="cuda", requires_grad=True)
    # The first pass makes the gradients and the library's workspaces.
    net(x).sum().backward()
    net.zero_grad(set_to_none=False)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    with LiveMemory() as memory:
        loss = net(x).sum()
        assert memory.live_bytes("cuda") == pytest.approx(torch.cuda.memory_allocated() - start, rel=0.01)
        loss.backward()
    assert memory.peak_bytes("cuda") == pytest.approx(torch.cuda.max_memory_allocated() - start, rel=0.05)
    assert memory.peak_bytes("cuda") == memory.peak_bytes(x.device)
