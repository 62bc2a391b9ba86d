"""CheckpointFunction: right where the textbook's version can be, and each of its limits shown."""

import weakref
from unittest import mock

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from steepest.checkpointing import CheckpointFunction, LiveMemory, checkpoint
from tests.checkpointing.nets import NETS, Counted, assert_same_bits, build, gradients, saved_bytes, under_autocast
from tests.host_reads import host_reads


def run(function, *args):
    return CheckpointFunction.apply(function, True, *args)


# ---- what works


@pytest.mark.parametrize("name", NETS)
def test_gradients_and_random_state_are_the_same_to_the_bit(name):
    net, x = build(name)
    expected = gradients(net, net, x)
    assert_same_bits(gradients(lambda x: run(net, x), net, x), expected)
    peer = gradients(lambda x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=True), net, x)
    assert_same_bits(peer, expected)


def test_without_preserving_random_numbers_dropout_gradients_are_wrong():
    net, x = build("dropout")
    expected = gradients(net, net, x)
    lost = gradients(lambda x: CheckpointFunction.apply(net, False, x), net, x)
    assert torch.equal(lost[0], expected[0]) and not torch.equal(lost[1], expected[1])


def test_autocast_and_a_generator_argument_are_restored():
    net, x = build("mlp")
    dtypes = []

    def region(x, generator):
        y = net(x) * torch.rand(6, generator=generator)
        dtypes.append((net(x).dtype, torch.is_autocast_cache_enabled()))
        return y

    def step(call):
        def forward(x):
            return call(region, x, torch.Generator().manual_seed(2))

        return gradients(under_autocast(forward, dtype=torch.bfloat16, cache_enabled=False), net, x)

    expected = step(lambda region, *args: region(*args))
    dtypes.clear()
    assert_same_bits(step(run), expected)
    assert dtypes == [(torch.bfloat16, False)] * 2


def test_several_inputs_and_outputs():
    x, y = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    z = torch.randn(3)

    def region(x, factor, y, z, name):
        return x.exp() * factor * z, name, (x * y).sin(), torch.tensor([1, 2]), z * 2

    def step(call):
        x.grad = y.grad = None
        outputs = call(region, x, 2.0, y, z, "name")
        assert outputs[1] == "name"
        assert torch.equal(outputs[3], torch.tensor([1, 2])) and torch.equal(outputs[4].detach(), z * 2)
        (outputs[0] * outputs[2]).sum().backward()
        return x.grad, y.grad

    assert_same_bits(step(run), step(lambda region, *args: region(*args)))
    # Only the first output is used.
    run(region, x, 2.0, y, z, "name")[0].sum().backward()
    assert z.grad is None


def test_requires_grad_of_the_inputs_is_kept():
    seen = []

    def region(x, y, i):
        seen.append((x.requires_grad, y.requires_grad, i.requires_grad, x.is_leaf))
        return x * y * i

    hidden = torch.ones(2, requires_grad=True) * 2
    run(region, hidden, torch.ones(2), torch.arange(2)).sum().backward()
    # Forwards they are as they were; backwards detached, so that the inner backward pass ends there.
    assert seen == [(True, False, False, False), (True, False, False, True)]


def test_the_same_tensor_twice_and_a_view():
    x = torch.randn(4, requires_grad=True)
    run(lambda a, b, c: (a * b.sin()).sum() + c.exp().sum(), x, x, x[1:3]).backward()
    once = x.grad
    x.grad = None
    ((x * x.sin()).sum() + x[1:3].exp().sum()).backward()
    torch.testing.assert_close(once, x.grad)


def test_backward_twice_recomputes_twice():
    net, x = build("dropout")
    counted = Counted(net)
    expected = gradients(net, net, x)
    torch.manual_seed(1)
    x.grad = None
    net.zero_grad()
    loss = (run(counted, x) ** 2).sum()
    loss.backward(retain_graph=True)
    assert torch.equal(x.grad, expected[1])
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * expected[1])
    assert counted.notes == ["start", "end"] * 3


def test_only_the_inputs_are_kept_and_the_function_runs_twice():
    counted = Counted(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Sigmoid()))
    x = torch.randn(32, 64, requires_grad=True)
    with LiveMemory() as memory, saved_bytes(counted.parameters()) as saved:
        output = run(counted, x)
        assert memory.live_bytes() == output.numel() * 4
    assert saved == {x.untyped_storage().data_ptr(): 4 * x.numel()}
    output.sum().backward()
    assert counted.notes == ["start", "end"] * 2


def test_inputs_are_freed_with_the_backward_pass():
    hidden = torch.ones(3, requires_grad=True) * 2
    watched = weakref.ref(hidden)
    output = run(torch.exp, hidden)
    del hidden
    assert watched() is not None
    output.sum().backward()
    assert watched() is None


def test_leaves_autocast_grad_mode_and_random_state_alone_when_the_function_fails():
    turns = iter([torch.exp, None])

    def fail_later(x):
        torch.rand(2)
        return next(turns)(x)

    loss = run(fail_later, torch.ones(2, requires_grad=True)).sum()
    state = torch.get_rng_state()
    with pytest.raises(TypeError):
        loss.backward()
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()


def test_no_host_reads():
    net, x = build("dropout")
    with host_reads() as reads:
        run(net, x).sum().backward()
    assert reads == []


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_under_torch_compile():
    net, x = build("dropout")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: run(net, x).sin(), backend="aot_eager")
    assert_same_bits(gradients(compiled, net, x), gradients(lambda x: net(x).sin(), net, x))


# ---- its limits


def test_parameters_get_no_gradient_when_no_input_requires_one():
    net, x = build("mlp")
    output = run(net, x.detach())
    assert not output.requires_grad
    checkpoint(net, x.detach()).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_tensors_in_containers_are_not_seen():
    x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)

    def region(x, others):
        return x * others[0]

    assert not run(lambda others: others[0].exp(), [y]).requires_grad
    assert not run(lambda x: [x.exp()], x)[0].requires_grad
    assert not run(lambda x: {"out": x.exp()}, x)["out"].requires_grad
    # The inner backward pass reaches the leaf in the list by itself; a tensor with a history it reaches only once.
    run(region, x, [y]).sum().backward()
    assert torch.equal(y.grad, torch.ones(3))
    hidden = y.exp()
    loss = (run(region, x, [hidden]) + hidden).sum()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_autograd_grad_and_chosen_inputs_are_refused():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"not with torch.autograd.grad or backward\(inputs=...\)"):
        torch.autograd.grad(run(torch.exp, x).sum(), x)
    with pytest.raises(RuntimeError, match="works with backward"):
        run(torch.exp, x).sum().backward(inputs=[x])


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_differentiating_twice_is_refused():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="can't be differentiated twice"):
        run(torch.exp, x).sum().backward(create_graph=True)


def test_no_keyword_arguments():
    with pytest.raises(TypeError, match="keyword"):
        CheckpointFunction.apply(torch.exp, True, x=torch.ones(3, requires_grad=True))


def test_it_always_runs_the_whole_function():
    x = torch.ones(3, requires_grad=True)
    for call, ends in ((run, 2), (checkpoint, 1)):
        counted = Counted(nn.Sigmoid())

        def region(x, counted=counted):
            return x.exp(), counted(x)

        call(region, x)[0].sum().backward()
        assert counted.notes.count("end") == ends, call


def test_no_output_that_requires_a_gradient_is_an_error_in_the_backward_pass():
    output = run(lambda x: x.detach() * 2, torch.ones(3, requires_grad=True))
    assert output.requires_grad
    with pytest.raises(RuntimeError, match="no output of the checkpointed function requires a gradient"):
        output.sum().backward()


def test_nested_regions_run_once_more_for_each_level():
    notes = []

    def nested(depth, x, call):
        def level(x):
            notes.append(depth)
            x = x.sin()
            return (nested(depth - 1, x, call) if depth else x).exp()

        return call(level, x)

    x = torch.randn(5, requires_grad=True)
    (expected,) = torch.autograd.grad(nested(2, x, lambda f, x: f(x)).sum(), x)
    notes.clear()
    nested(2, x, run).sum().backward()
    assert torch.equal(x.grad, expected)
    assert [notes.count(depth) for depth in (2, 1, 0)] == [2, 3, 4]
    # Mixed with the other kind.
    for outer, inner in ((run, checkpoint), (checkpoint, run)):
        x.grad = None
        outer(lambda x, inner=inner: inner(lambda x: x.sin().exp(), x * 2).cos(), x).sum().backward()
        (expected,) = torch.autograd.grad((x * 2).sin().exp().cos().sum(), x)
        assert torch.equal(x.grad, expected)


def test_a_hook_of_a_shared_parameter_fires_once_a_region():
    weight = torch.tensor(2.0, requires_grad=True)
    for call, times in ((run, 2), (checkpoint, 1)):
        fired = []
        handle = weight.register_hook(fired.append)
        x = torch.ones(1, requires_grad=True)
        call(lambda x: weight * x, call(lambda x: weight * x, x)).sum().backward()
        handle.remove()
        assert len(fired) == times


def test_batch_norm_statistics_are_updated_twice():
    norm = nn.BatchNorm1d(4)
    run(norm, torch.randn(8, 4, requires_grad=True)).sum().backward()
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize("requires_grad", [True, False])
def test_changing_an_input_in_place_is_an_error(requires_grad):
    anchor = torch.ones(3, requires_grad=True)
    hidden = torch.ones(3, requires_grad=requires_grad) * 2
    output = run(lambda a, h: a * h.exp(), anchor, hidden)
    hidden.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
    # By the function itself, when autograd saves too late to notice.
    output = run(lambda a, h: a * h.mul_(2).exp(), anchor, torch.ones(3, requires_grad=requires_grad) * 2)
    with pytest.raises(RuntimeError, match="argument 1 of the checkpointed function was changed in place"):
        output.sum().backward()


def test_a_parameter_changed_in_place_goes_unnoticed():
    x, weight = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    output = run(lambda x: x * weight, x)
    with torch.no_grad():
        weight.fill_(5.0)
    output.sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 5.0))


def test_wrong_arguments_are_named():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(TypeError, match="function must be callable, got Tensor"):
        CheckpointFunction.apply(x, True, x)
    with pytest.raises(TypeError, match="preserve_rng_state must be True or False, got Tensor"):
        CheckpointFunction.apply(torch.exp, x)


def test_first_use_of_cuda_inside_the_function_is_an_error():
    first_use = mock.patch("torch.cuda.is_initialized", side_effect=[False, True])
    with first_use, pytest.raises(RuntimeError, match="CUDA was first used inside"):
        run(torch.exp, torch.ones(3, requires_grad=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETS)
def test_on_cuda_gradients_and_random_states_are_the_same_to_the_bit(name, monkeypatch):
    # Else a convolution's backward pass may add in any order.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    net, x = build(name, device="cuda")

    def step(call):
        return [*gradients(call, net, x), torch.cuda.get_rng_state()]

    assert_same_bits(step(lambda x: run(net, x)), step(net))
