"""What the recomputation of checkpoint finds again: random numbers and autocast; batch norm, which it updates twice."""

from unittest import mock

import pytest
import torch
from torch import nn

from steepest.checkpointing import checkpoint
from steepest.checkpointing.forward_state import ForwardState
from tests.checkpointing.nets import assert_same_bits, build, gradients, under_autocast

# ---- random numbers


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


def test_nested_dropout_draws_the_same_masks():
    net, x = build("dropout")

    def outer(x):
        return nn.functional.dropout(checkpoint(net, nn.functional.dropout(x, 0.5)).sin(), 0.5)

    def outer_plain(x):
        return nn.functional.dropout(net(nn.functional.dropout(x, 0.5)).sin(), 0.5)

    assert_same_bits(gradients(lambda x: checkpoint(outer, x), net, x), gradients(outer_plain, net, x))


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


def test_first_use_of_cuda_inside_the_function_is_an_error():
    x = torch.ones(3, requires_grad=True)
    first_use = mock.patch("torch.cuda.is_initialized", side_effect=[False, True])
    with first_use, pytest.raises(RuntimeError, match="CUDA was first used inside"):
        checkpoint(torch.exp, x)
    with mock.patch("torch.cuda.is_initialized", side_effect=[False, True]):
        checkpoint(torch.exp, x, preserve_rng_state=False).sum().backward()


# ---- autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cache_enabled", [True, False])
def test_autocast_is_restored(dtype, cache_enabled):
    net, x = build("mlp")
    dtypes = []

    def region(x):
        x = net(x)
        dtypes.append((x.dtype, torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))
        return x.float().exp().sin()

    def step(run):
        return gradients(under_autocast(run, dtype=dtype, cache_enabled=cache_enabled), net, x)

    expected = step(region)
    dtypes.clear()
    assert_same_bits(step(lambda x: checkpoint(region, x)), expected)
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


# ---- on a GPU


@pytest.mark.gpu
def test_on_cuda_a_region_without_tensor_arguments_finds_its_masks():
    net, x = build("dropout", device="cuda")
    assert_same_bits(gradients(lambda x: checkpoint(lambda: net(x)), net, x), gradients(net, net, x))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_cuda_autocast_is_restored(dtype):
    net, x = build("dropout", device="cuda")

    def step(run):
        return gradients(under_autocast(run, "cuda", dtype=dtype), net, x)

    assert_same_bits(step(lambda x: checkpoint(net, x)), step(net))
