"""checkpoint against plain autograd, to the bit, and against torch.utils.checkpoint; what it keeps and refuses."""

import gc
import weakref
from functools import partial
from unittest import mock

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steepest.checkpointing import LiveMemory, checkpoint
from steepest.checkpointing.forward_state import ForwardState
from tests.checkpointing.nets import NETS, Counted, assert_same_bits, build, gradients, saved_bytes
from tests.host_reads import host_reads

# ---- the same gradients


@pytest.mark.parametrize("name", NETS)
def test_gradients_and_random_state_are_the_same_to_the_bit(name):
    net, x = build(name)
    expected = gradients(net, net, x)
    assert_same_bits(gradients(lambda x: checkpoint(net, x), net, x), expected)
    peer = gradients(lambda x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False), net, x)
    assert_same_bits(peer, expected)


def test_without_preserving_random_numbers_dropout_gradients_are_wrong():
    net, x = build("dropout")
    expected = gradients(net, net, x)
    lost = gradients(lambda x: checkpoint(net, x, preserve_rng_state=False), net, x)
    assert torch.equal(lost[0], expected[0])
    assert not torch.equal(lost[1], expected[1])
    # The stream moves on by the second draw.
    assert not torch.equal(lost[-1], expected[-1])


def test_a_generator_argument_is_restored_and_put_back():
    def region(x, generator):
        return (x * torch.rand(x.shape, generator=generator)).sin()

    def step(run):
        generator = torch.Generator().manual_seed(7)
        x = torch.ones(50, requires_grad=True)
        loss = run(x, generator).sum()
        between = torch.rand(3, generator=generator)
        loss.backward()
        return x.grad, between, generator.get_state()

    assert_same_bits(step(lambda *args: checkpoint(region, *args)), step(region))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cache_enabled", [True, False])
def test_autocast_is_restored(dtype, cache_enabled):
    net, x = build("mlp")
    dtypes = []

    def region(x):
        x = net(x)
        dtypes.append((x.dtype, torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))
        return x.float().exp().sin()

    def run(call):
        def forward(x):
            with torch.autocast("cpu", dtype=dtype, cache_enabled=cache_enabled):
                return call(x)

        return forward

    expected = gradients(run(region), net, x)
    dtypes.clear()
    assert_same_bits(gradients(run(lambda x: checkpoint(region, x)), net, x), expected)
    assert dtypes == [(dtype, True, cache_enabled)] * 2
    assert not torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled()


def test_autocast_on_cuda_is_noted_though_nothing_ran_there_yet():
    before = torch.is_autocast_enabled("cuda")
    with mock.patch("torch.cuda.is_initialized", return_value=False):
        try:
            torch.set_autocast_enabled("cuda", True)
            noted = {arguments["device_type"]: arguments for arguments in ForwardState.capture((), False).autocasts}
        finally:
            torch.set_autocast_enabled("cuda", before)
    assert noted["cuda"]["enabled"] and not noted["cpu"]["enabled"]


def test_a_backward_pass_under_autocast_recomputes_without_it():
    net, x = build("mlp")
    seen = []

    def region(x):
        seen.append(torch.is_autocast_enabled("cpu"))
        return net(x).exp()

    output = checkpoint(region, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output.sum().backward()
        assert torch.is_autocast_enabled("cpu")
    assert seen == [False, False]


def test_keyword_arguments_containers_and_other_objects():
    weights = {"a": torch.randn(3, requires_grad=True), "b": [torch.randn(3, requires_grad=True)]}
    x = torch.randn(3, requires_grad=True)

    def region(x, name, function=None, *, weights, scale):
        return (x * weights["a"]).sin() * scale + function(weights["b"][0]) * len(name)

    def step(run):
        leaves = [x, weights["a"], weights["b"][0]]
        return torch.autograd.grad(run(x, "name", torch.cos, weights=weights, scale=2.0).sum(), leaves)

    # The region has parameters of the names that checkpoint uses itself.
    assert_same_bits(step(lambda *args, **kwargs: checkpoint(region, *args, **kwargs)), step(region))
    assert torch.equal(checkpoint(lambda function: function * 2, function=x), x * 2)


def test_containers_that_change_after_the_call_are_replayed_as_they_were():
    x = torch.randn(3, requires_grad=True)

    def region(x, options):
        return x.exp() * options.pop("scale")

    checkpoint(region, x, {"scale": 3.0}).sum().backward()
    assert torch.equal(x.grad, 3.0 * x.detach().exp())


@pytest.mark.parametrize("shape", ["tuple", "dict", "nested", "object"])
def test_any_output(shape):
    class Result:
        def __init__(self, value):
            self.value = value

    x = torch.randn(4, requires_grad=True)
    make, read = {
        "tuple": (lambda a, b: (a, 3, b, None), lambda out: out[0] + out[2]),
        "dict": (lambda a, b: {"a": a, "b": b}, lambda out: out["a"] + out["b"]),
        "nested": (lambda a, b: [a, {"b": (b,)}], lambda out: out[0] + out[1]["b"][0]),
        "object": (lambda a, b: Result(a * b), lambda out: out.value),
    }[shape]

    def region(x):
        return make(x.sin().exp(), x.cos().exp())

    expected = torch.autograd.grad(read(region(x)).sum(), x)
    assert_same_bits(torch.autograd.grad(read(checkpoint(region, x)).sum(), x), expected)


def test_parameters_get_gradients_though_no_input_requires_one():
    net, x = build("dropout")
    x = x.detach()
    for run in (net, lambda x: checkpoint(net, x)):
        torch.manual_seed(0)
        net.zero_grad()
        run(x).sum().backward()
        if run is net:
            expected = [p.grad.clone() for p in net.parameters()]
    assert_same_bits([p.grad for p in net.parameters()], expected)
    torch.manual_seed(0)
    net.zero_grad()
    # No arguments at all.
    checkpoint(lambda: net(x)).sum().backward()
    assert_same_bits([p.grad for p in net.parameters()], expected)


def test_integer_and_empty_inputs():
    table = nn.Embedding(10, 4)
    tokens = torch.tensor([[1, 2], [3, 1]])
    expected = torch.autograd.grad(table(tokens).exp().sum(), table.weight)
    assert_same_bits(torch.autograd.grad(checkpoint(lambda i: table(i).exp(), tokens).sum(), table.weight), expected)
    empty = torch.empty(0, 3, requires_grad=True)
    checkpoint(torch.exp, empty).sum().backward()
    assert empty.grad.shape == (0, 3)


def test_a_region_that_saves_nothing_is_not_run_again():
    calls = []
    x = torch.ones(3, requires_grad=True)
    checkpoint(lambda x: (calls.append(1), x + 1)[1], x).sum().backward()
    assert calls == [1] and torch.equal(x.grad, torch.ones(3))


# ---- autograd.grad, higher derivatives, several backward passes


def test_gradcheck_and_gradgradcheck():
    torch.manual_seed(0)
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def region(x, weight):
        return torch.tanh(x @ weight) * x.exp(), x.sin() ** 2

    def run(x, weight):
        return checkpoint(region, x, weight)

    assert torch.autograd.gradcheck(run, (x, weight))
    assert torch.autograd.gradgradcheck(run, (x, weight))


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_gradient_penalty_by_double_backward(name):
    net, x = build(name)

    def step(run):
        torch.manual_seed(3)
        # torch's fused attention has no second derivative on every device; the mathematical one does.
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            (gradient,) = torch.autograd.grad(run(x).sin().sum(), x, create_graph=True)
        return torch.autograd.grad((gradient**2).sum(), [x, *net.parameters()], allow_unused=True)

    assert_same_bits(step(lambda x: checkpoint(net, x)), step(net))


def test_backward_twice_and_with_create_graph():
    net, x = build("dropout")
    counted = Counted(net)
    torch.manual_seed(0)
    (once,) = torch.autograd.grad(net(x).sum(), x)
    torch.manual_seed(0)
    loss = checkpoint(counted, x).sum()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert torch.equal(gradient, once)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.equal(gradient, once)
    assert counted.notes.count("start") == 4


def test_backward_twice_without_retaining_is_torchs_error():
    x = torch.ones(3, requires_grad=True)
    loss = checkpoint(torch.exp, x).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


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


def test_a_node_that_reads_its_tensors_twice():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (ctx.saved_tensors[0] + ctx.saved_tensors[0])

    x = torch.randn(5, requires_grad=True)
    checkpoint(lambda x: Twice.apply(x.exp()), x).sum().backward()
    torch.testing.assert_close(x.grad, 2 * (2 * x.detach()).exp())


def test_a_region_that_differentiates_itself():
    def region(x):
        y = x.exp().sin()
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y * slope

    x = torch.randn(5, requires_grad=True)
    expected = torch.autograd.grad(region(x).sum(), x)
    assert_same_bits(torch.autograd.grad(checkpoint(region, x).sum(), x), expected)


def test_without_gradients_the_function_just_runs():
    x = torch.ones(3, requires_grad=True)
    for context in (torch.no_grad, torch.inference_mode):
        with context(), saved_bytes() as saved:
            output = checkpoint(torch.exp, x)
        assert torch.equal(output, x.detach().exp()) and not output.requires_grad and not saved


def test_inference_tensors_are_passed_on():
    with torch.inference_mode():
        constant = torch.full((3,), 2.0)
    x = torch.ones(3, requires_grad=True)
    checkpoint(lambda x, c: (x + c).exp(), x, constant).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 3.0).exp())


# ---- nesting


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


def test_nested_dropout_draws_the_same_masks():
    net, x = build("dropout")

    def outer(x):
        return nn.functional.dropout(checkpoint(net, nn.functional.dropout(x, 0.5)).sin(), 0.5)

    def outer_plain(x):
        return nn.functional.dropout(net(nn.functional.dropout(x, 0.5)).sin(), 0.5)

    assert_same_bits(gradients(lambda x: checkpoint(outer, x), net, x), gradients(outer_plain, net, x))


def test_the_inner_inputs_belong_to_the_outer_region():
    x = torch.randn(1000, requires_grad=True)

    def outer(x):
        for _ in range(10):
            x = checkpoint(lambda x: x.sin().exp(), x * 1.5)
        return x

    with LiveMemory() as memory:
        output = checkpoint(outer, x)
        assert memory.live_bytes() == output.numel() * 4


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


def test_other_hooks_around_it_keep_the_inputs():
    net, x = build("mlp")
    expected = gradients(net, net, x)
    packed = []

    def run(x):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (packed.append(t.shape), t.clone())[1], lambda t: t):
            return checkpoint(net, x * 1)

    assert_same_bits(gradients(run, net, x), expected)
    assert packed == [x.shape]


# ---- batch norm


@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_batch_norm_statistics_are_updated_twice_and_the_repaired_momentum_makes_up_for_it(momentum):
    x = torch.randn(16, 4)

    def statistics(momentum, run):
        norm = nn.BatchNorm1d(4, momentum=momentum)
        net = nn.Sequential(norm, nn.Tanh())
        run(net, x).sum().backward()
        return norm.running_mean, norm.running_var, norm.num_batches_tracked

    once = statistics(momentum, lambda net, x: net(x))
    twice = statistics(momentum, checkpoint)
    assert twice[2] == 2 and not torch.allclose(once[0], twice[0])
    repaired = statistics(1 - (1 - momentum) ** 0.5, checkpoint)
    torch.testing.assert_close(repaired[:2], once[:2])


# ---- what it refuses


def test_changing_an_input_in_place_is_an_error():
    x = torch.ones(3, requires_grad=True)
    hidden = x * 2
    output = checkpoint(lambda h: (h + 1).exp(), hidden)
    hidden.add_(1)
    with pytest.raises(RuntimeError, match="input of a checkpointed function was changed in place"):
        output.sum().backward()
    # By the function itself.
    output = checkpoint(lambda h: h.mul_(2).exp(), x * 2)
    with pytest.raises(RuntimeError, match="input of a checkpointed function was changed in place"):
        output.sum().backward()
    # In a container.
    hidden = x * 2
    output = checkpoint(lambda hs: (hs[0] + 1).exp(), [hidden])
    hidden.zero_()
    with pytest.raises(RuntimeError, match="input of a checkpointed function was changed in place"):
        output.sum().backward()


def test_changing_a_parameter_in_place_is_an_error():
    net, x = build("mlp")
    loss = checkpoint(net, x).sum()
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(RuntimeError, match=r"leaf tensor of shape \(8, 6\).*was changed in place"):
        loss.backward()


def test_changing_an_intermediate_in_place_after_it_was_saved_is_an_error_as_without_checkpointing():
    def wrong(x):
        y = x.exp()
        z = y * y.sin()
        y.add_(1)
        return z.exp() * y

    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        wrong(x).sum().backward()
    with pytest.raises(RuntimeError, match="was changed in place after it was saved"):
        checkpoint(wrong, x).sum().backward()


def test_changing_an_intermediate_in_place_before_it_is_saved_is_fine():
    def region(x):
        y = (x * 2).add_(1)
        y[0] = 5.0
        return y.relu_().sin().mul_(2)

    x = torch.randn(4, requires_grad=True)
    assert_same_bits(torch.autograd.grad(checkpoint(region, x).sum(), x), torch.autograd.grad(region(x).sum(), x))


def alternating(*functions):
    turns = iter(functions)
    return lambda x: next(turns)(x)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda x: x.T.exp().sin().exp(), r"number 0 was .* \(3, 4\) on cpu .*and is now .* \(4, 3\)"),
        (lambda x: x.double().exp().sin().exp(), "number 0 was torch.float32 .*and is now torch.float64"),
        (lambda x: x.exp().tanh().exp(), "number 1 was .*by ExpBackward0 and is now .*by TanhBackward0"),
        (lambda x: x.exp().detach().sin().exp(), "saved 1 tensors where its forward pass saved at least 3"),
        (lambda x: x.exp(), "saved 1 tensors where its forward pass saved at least 3"),
        (lambda x: x + 1, "saved 0 tensors where its forward pass saved at least 3"),
    ],
)
def test_a_recomputation_that_saves_other_tensors_is_an_error(second, message):
    x = torch.randn(3, 4, requires_grad=True)
    loss = checkpoint(alternating(lambda x: x.exp().sin().exp(), second), x).sum()
    with pytest.raises(RuntimeError, match=message):
        loss.backward()


def test_what_an_outer_recomputation_finds_wrong_is_not_taken_for_an_inner_input():
    def outer(first):
        return lambda x: checkpoint(lambda x: x.exp().sin(), first(x))

    x = torch.randn(3, requires_grad=True)
    loss = checkpoint(alternating(outer(torch.cos), outer(torch.tanh)), x).sum()
    with pytest.raises(RuntimeError, match=r"by no recorded operation and is now .*by TanhBackward0"):
        loss.backward()


def test_an_error_in_the_function_passes_through_and_leaves_the_state_alone():
    net, x = build("dropout")

    def fail(x):
        torch.rand(3)
        raise KeyError("mine")

    torch.manual_seed(0)
    with pytest.raises(KeyError, match="mine"):
        checkpoint(fail, x)
    loss = checkpoint(alternating(net, fail), x).sum()
    state = torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        loss.backward()
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    # No hooks are left behind.
    y = x.exp()
    assert y.grad_fn._saved_result is not None


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="function must be callable, got Tensor"):
        checkpoint(torch.ones(3), torch.ones(3))
    with pytest.raises(TypeError, match="preserve_rng_state must be True or False, got NoneType"):
        checkpoint(torch.exp, torch.ones(3), preserve_rng_state=None)


def test_first_use_of_cuda_inside_the_function_is_an_error():
    x = torch.ones(3, requires_grad=True)
    first_use = mock.patch("torch.cuda.is_initialized", side_effect=[False, True])
    with first_use, pytest.raises(RuntimeError, match="CUDA was first used inside"):
        checkpoint(torch.exp, x)
    with mock.patch("torch.cuda.is_initialized", side_effect=[False, True]):
        checkpoint(torch.exp, x, preserve_rng_state=False).sum().backward()


def test_the_streams_of_cuda_devices_are_restored_and_put_back():
    # A stand-in for the streams of two devices: drawing a number means adding one to the state.
    streams = {0: torch.tensor(10), 1: torch.tensor(20)}
    drawn = []

    def region(x):
        drawn.append(int(streams[1]))
        streams[1] = streams[1] + 1
        return x.exp().sin()

    fake = mock.patch.multiple(
        torch.cuda,
        is_initialized=lambda: True,
        current_device=lambda: 1,
        get_rng_state=lambda device: streams[device],
        set_rng_state=lambda state, device: streams.update({device: state}),
    )
    x = torch.ones(3, requires_grad=True)
    with fake:
        loss = checkpoint(region, x).sum()
        streams[1] = torch.tensor(50)
        loss.backward()
        assert drawn == [20, 20] and {device: int(state) for device, state in streams.items()} == {0: 10, 1: 50}
        drawn.clear()
        checkpoint(region, x, preserve_rng_state=False).sum().backward()
        assert drawn == [50, 51]


def test_func_transforms_and_forward_mode_are_refused():
    with pytest.raises(RuntimeError):
        torch.func.grad(lambda x: checkpoint(torch.exp, x).sum())(torch.ones(3))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError):
        checkpoint(torch.exp, torch.autograd.forward_ad.make_dual(torch.ones(3), torch.ones(3)))


# ---- properties


OPERATIONS = {
    "sin": torch.sin,
    "exp of tanh": lambda x: x.tanh().exp(),
    "relu in place": lambda x: (x * 1.1).relu_(),
    "softmax": lambda x: x.softmax(-1),
    "dropout": lambda x: nn.functional.dropout(x, 0.4),
    "norm": lambda x: nn.functional.layer_norm(x, x.shape[-1:]),
    "matmul": lambda x: x @ x.mT @ x / 10,
    "shift": lambda x: x + 1,
    "views": lambda x: x.view(2, 2, -1).transpose(0, 1).reshape(4, -1),
    "nested": lambda x: checkpoint(lambda x: x.cos() * x, x),
}


@settings(max_examples=40)
@given(
    names=st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=8),
    cuts=st.sets(st.integers(1, 7), max_size=4),
    seed=st.integers(0, 1000),
)
def test_any_chain_in_any_segments(names, cuts, seed):
    def chain(names):
        def run(x):
            for name in names:
                x = OPERATIONS[name](x)
            return x

        return run

    def step(regions):
        torch.manual_seed(seed)
        x = torch.randn(4, 6, requires_grad=True)
        y = x * 1
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(names)], strict=True):
            run = chain(names[start:end])
            y = checkpoint(run, y) if regions else run(y)
        y.sum().backward()
        return x.grad, torch.get_rng_state()

    assert_same_bits(step(True), step(False))


def test_no_host_reads():
    net, x = build("dropout")
    with host_reads() as reads:
        checkpoint(net, x).sum().backward()
    assert reads == []


@pytest.mark.parametrize("name", ["mlp", "dropout"])
def test_inside_torch_compile_it_is_torchs_region(name):
    net, x = build(name)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: checkpoint(net, x).sin(), backend="aot_eager", fullgraph=True)
    assert_same_bits(gradients(compiled, net, x), gradients(lambda x: net(x).sin(), net, x))
    # A compiled function inside the region.
    torch._dynamo.reset()
    inside = torch.compile(net, backend="aot_eager")
    assert_same_bits(gradients(lambda x: checkpoint(inside, x), net, x), gradients(net, net, x))


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETS)
def test_on_cuda_gradients_and_random_states_are_the_same_to_the_bit(name, monkeypatch):
    # Else a convolution's backward pass may add in any order.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    net, x = build(name)
    net, x = net.cuda(), x.detach().cuda().requires_grad_()

    def step(run):
        return [*gradients(run, net, x), torch.cuda.get_rng_state()]

    assert_same_bits(step(lambda x: checkpoint(net, x)), step(net))


@pytest.mark.gpu
def test_on_cuda_a_region_without_tensor_arguments_finds_its_masks():
    net, x = build("dropout")
    net, x = net.cuda(), x.detach().cuda().requires_grad_()
    assert_same_bits(gradients(lambda x: checkpoint(lambda: net(x)), net, x), gradients(net, net, x))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_cuda_autocast_is_restored(dtype):
    net, x = build("dropout")
    net, x = net.cuda(), x.detach().cuda().requires_grad_()

    def run(call):
        def forward(x):
            with torch.autocast("cuda", dtype=dtype):
                return call(x)

        return forward

    assert_same_bits(gradients(run(lambda x: checkpoint(net, x)), net, x), gradients(run(net), net, x))


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
