"""checkpoint_sequential: which layers run again, the same bits, torch's division, and what stays in memory."""

from itertools import pairwise

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steepest.checkpointing import LiveMemory, checkpoint_sequential, segment_sizes
from tests.checkpointing.nets import Counted, assert_same_bits, gradients, saved_bytes

WIDTH = 8


def chain(n_layers, seed=0):
    torch.manual_seed(seed)
    layers = [
        Counted(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.2), nn.Linear(WIDTH, WIDTH), nn.Sigmoid())
        )
        for _ in range(n_layers)
    ]
    return nn.Sequential(*layers), torch.randn(16, WIDTH, requires_grad=True)


def forwards(net):
    return [layer.notes.count("start") for layer in net]


@settings(max_examples=25)
@given(st.data())
def test_any_segments_give_the_same_bits_and_recompute_all_but_the_last(data):
    n_layers = data.draw(st.integers(1, 7))
    segments = data.draw(st.integers(1, n_layers) | st.just("sizes"))
    if segments == "sizes":
        cuts = [0, *sorted(data.draw(st.sets(st.integers(1, 6), max_size=4)) & set(range(1, n_layers))), n_layers]
        segments = [after - before for before, after in pairwise(cuts)]
    net, x = chain(n_layers)
    expected = gradients(net, net, x)
    for layer in net:
        layer.notes.clear()
    assert_same_bits(gradients(lambda x: checkpoint_sequential(net, segments, x), net, x), expected)
    if isinstance(segments, int):
        stored = n_layers - n_layers // segments * (segments - 1)
        for layer in net:
            layer.notes.clear()
        expected = gradients(lambda x: checkpoint_sequential(list(net), segments, x), net, x)
        peer_counts = forwards(net)
        for layer in net:
            layer.notes.clear()
        peer = gradients(
            lambda x: torch.utils.checkpoint.checkpoint_sequential(net, segments, x, use_reentrant=False), net, x
        )
        assert_same_bits(peer, expected)
        assert forwards(net) == peer_counts
    else:
        stored = segments[-1]
        peer_counts = forwards(net)
    assert peer_counts == [2] * (n_layers - stored) + [1] * stored


def test_five_layers_in_two_segments_run_2_2_1_1_1():
    net, x = chain(5)
    checkpoint_sequential(net, 2, x).sum().backward()
    assert forwards(net) == [2, 2, 1, 1, 1]


def test_layers_get_gradients_though_the_input_needs_none():
    net, x = chain(5)
    checkpoint_sequential(net, 2, x.detach()).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_division_is_torchs(n_layers, segments):
    if segments > n_layers:
        with pytest.raises(ValueError, match="segments must be at most"):
            segment_sizes(n_layers, segments)
        return
    # The loop of torch.utils.checkpoint.checkpoint_sequential.
    size, end, sizes = n_layers // segments, -1, []
    for start in range(0, size * (segments - 1), size):
        end = start + size - 1
        sizes.append(size)
    sizes.append(n_layers - 1 - end)
    assert segment_sizes(n_layers, segments) == tuple(sizes)


def test_autograd_keeps_the_boundaries_and_the_last_segment():
    net, x = chain(6)
    one = 4 * x.numel()
    excluded = [x, *net.parameters()]
    with saved_bytes(excluded) as layer:
        net[0](x)
    with saved_bytes(excluded) as last:
        torch.manual_seed(0)
        checkpoint_sequential(net, [2, 2, 2], x)
    # A layer saves the results of Tanh, Dropout (and its mask) and Sigmoid; the last of them is the next boundary.
    assert sum(layer.values()) == 4 * one
    assert sum(last.values()) == 2 * one + 2 * 4 * one


def test_a_single_segment_saves_no_memory_and_costs_no_time():
    net, x = chain(4)

    def peak(run):
        net.zero_grad(set_to_none=False)
        with LiveMemory() as memory:
            run(x).sum().backward()
        return memory.peak_bytes()

    peak(net)
    for layer in net:
        layer.notes.clear()
    assert peak(lambda x: checkpoint_sequential(net, 1, x)) == peak(net)
    assert forwards(net) == [2] * 4
    assert peak(lambda x: checkpoint_sequential(net, 4, x)) < peak(net) / 2


@pytest.mark.parametrize("segments", [1, 2, 3, 5, 9])
def test_peaks_are_at_most_torchs(segments):
    net, x = chain(9)

    def peak(run, **arguments):
        net.zero_grad(set_to_none=False)
        with LiveMemory() as memory:
            run(net, segments, x, **arguments).sum().backward()
        return memory.peak_bytes()

    peak(checkpoint_sequential)
    peer = peak(torch.utils.checkpoint.checkpoint_sequential, use_reentrant=False)
    assert peak(checkpoint_sequential) <= peer


def test_random_numbers_need_not_be_preserved():
    net, x = chain(4)
    expected = gradients(net, net, x)
    lost = gradients(lambda x: checkpoint_sequential(net, 4, x, preserve_rng_state=False), net, x)
    assert torch.equal(lost[0], expected[0]) and not torch.equal(lost[1], expected[1])


@pytest.mark.parametrize(
    ("functions", "segments", "error", "message"),
    [
        ([], 1, ValueError, "functions must hold at least one function"),
        ([torch.exp, 3], 1, TypeError, r"functions\[1\] must be callable, got int"),
        ([torch.exp], 0, ValueError, "segments must be >= 1, got 0"),
        ([torch.exp], True, TypeError, "segments must be a Python int, got bool"),
        ([torch.exp], 2, ValueError, "segments must be at most the number of layers 1, got 2"),
        ([torch.exp] * 3, [1, 1], ValueError, r"segments must add up to the 3 functions, got \(1, 1\)"),
        ([torch.exp] * 3, [3, 0], ValueError, r"segments\[1\] must be >= 1, got 0"),
        ([torch.exp] * 3, [1.5, 1.5], TypeError, r"segments\[0\] must be a Python int, got float"),
        ([torch.exp] * 3, [], ValueError, "segments must add up to the 3 functions"),
        ([torch.exp] * 3, 1.5, TypeError, "segments must be an int or a sequence of ints, got float"),
        ([torch.exp] * 3, "111", TypeError, "segments must be an int or a sequence of ints, got str"),
    ],
)
def test_wrong_arguments_are_named(functions, segments, error, message):
    with pytest.raises(error, match=message):
        checkpoint_sequential(functions, segments, torch.ones(3))
