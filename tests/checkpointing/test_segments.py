"""optimal_segments against every way to cut a short chain, against closed forms, and against measured peaks."""

import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steepest.checkpointing import (
    LiveMemory,
    SegmentPlan,
    checkpoint_sequential,
    layer_bytes,
    optimal_segments,
    segment_peak,
    segment_sizes,
    segments,
)


def compositions(n):
    """All ways to write n as an ordered sum: a cut or none after each but the last layer."""
    for cuts in itertools.product([False, True], repeat=n - 1):
        ends = [index + 1 for index, cut in enumerate(cuts) if cut] + [n]
        yield tuple(after - before for before, after in zip([0, *ends], ends, strict=False))


def simulated_peak(sizes, internal, boundary, workspace):
    """The bytes of a step, played through event by event: what is stored and freed, without equation (1)."""
    live, peak, alive = 0, 0, []
    first = 0
    for index, size in enumerate(sizes):
        live += boundary[first]
        alive.append(boundary[first])
        if index == len(sizes) - 1:
            live += sum(internal[first:])
        first += size
    end = len(internal)
    for index in reversed(range(len(sizes))):
        begin = end - sizes[index]
        if index < len(sizes) - 1:
            live += sum(internal[begin:end])
        peak = max(peak, live + workspace)
        live -= sum(internal[begin:end]) + alive.pop()
        end = begin
    assert live == 0 and end == 0
    return peak


AMOUNT = st.integers(0, 30)


@settings(max_examples=100)
@given(st.data())
def test_every_way_to_cut_a_short_chain(data):
    n = data.draw(st.integers(1, 8))
    internal = data.draw(st.lists(AMOUNT, min_size=n, max_size=n))
    boundary = data.draw(st.lists(AMOUNT, min_size=n, max_size=n))
    workspace = data.draw(AMOUNT)
    budget = data.draw(st.integers(0, 40 * n) | st.none())
    equal = data.draw(st.booleans())
    every = [segment_sizes(n, k) for k in range(1, n + 1)] if equal else list(compositions(n))
    rows = [(n - sizes[-1], simulated_peak(sizes, internal, boundary, workspace)) for sizes in every]
    least = min(peak for _, peak in rows)
    limit = least if budget is None else budget
    arguments = {"workspace_bytes": workspace, "equal": equal}
    if limit < least:
        with pytest.raises(ValueError, match=f"budget of {budget} bytes: the least possible peak is {least}$"):
            optimal_segments(n, internal, boundary, budget, **arguments)
        return
    plan = optimal_segments(n, internal, boundary, budget, **arguments)
    assert (plan.recomputed_layers, plan.peak_bytes) == min(row for row in rows if row[1] <= limit)
    assert plan.peak_bytes == simulated_peak(plan.sizes, internal, boundary, workspace)
    assert plan.recomputed_layers == n - plan.sizes[-1] and sum(plan.sizes) == n
    assert plan.sizes in every


@settings(max_examples=40)
@given(st.integers(1, 9), AMOUNT, AMOUNT, AMOUNT)
def test_equal_layers_every_way_to_cut(n, a, b, budget):
    rows = [(n - s[-1], simulated_peak(s, [a] * n, [b] * n, 0)) for s in compositions(n)]
    plan = optimal_segments(n, a, b)
    least = min(peak for _, peak in rows)
    assert (plan.recomputed_layers, plan.peak_bytes) == min(row for row in rows if row[1] == least)
    fastest = optimal_segments(n, a, b, least + budget)
    assert (fastest.recomputed_layers, fastest.peak_bytes) == min(row for row in rows if row[1] <= least + budget)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6), st.floats(0, 1e6), st.floats(0, 1))
def test_amounts_that_are_not_integers(internal, boundary, slack):
    n = len(internal)
    peaks = {s: segment_peak(s, internal, boundary) for s in compositions(n)}
    least = min(peaks.values())
    assert optimal_segments(n, internal, boundary).peak_bytes == least
    budget = least * (1 + slack)
    plan = optimal_segments(n, internal, boundary, budget)
    assert plan.peak_bytes == peaks[plan.sizes] <= budget
    assert plan.recomputed_layers == min(n - s[-1] for s, peak in peaks.items() if peak <= budget)


@pytest.mark.parametrize(("n", "a", "b"), [(100, 10, 10), (400, 90, 5), (64, 1, 1)])
def test_equal_segments_are_best_near_the_root_of_n_a_over_b(n, a, b):
    plan = optimal_segments(n, a, b, equal=True)
    # Among divisors of n, which waste nothing, the best number of segments is the closed form's.
    divisors = [k for k in range(1, n + 1) if n % k == 0]
    best = min(divisors, key=lambda k: k * b + n // k * a)
    assert plan.peak_bytes <= best * b + n // best * a
    assert math.isclose(len(plan.sizes), math.sqrt(n * a / b), rel_tol=0.3)
    assert math.isclose(plan.peak_bytes, 2 * math.sqrt(n * a * b), rel_tol=0.06)


@pytest.mark.parametrize(("n", "a", "b"), [(600, 10, 10), (800, 4, 1)])
def test_falling_segments_come_near_the_root_of_two_n_a_b(n, a, b):
    # M = j b + s_j a for every j, with the sizes adding up to n, gives n a = k M - b k² / 2, least at k = √(2 n a / b).
    plan = optimal_segments(n, a, b)
    assert math.isclose(plan.peak_bytes, math.sqrt(2 * n * a * b), rel_tol=0.06)
    assert plan.peak_bytes < 0.8 * optimal_segments(n, a, b, equal=True).peak_bytes
    # The first segment takes what is left over.
    assert list(plan.sizes[1:]) == sorted(plan.sizes[1:], reverse=True)


def test_root_n_is_not_always_the_best_number_of_segments():
    # 24 layers that keep 18 times what they pass on.
    peaks = {k: segment_peak(segment_sizes(24, k), 18, 1) for k in range(1, 25)}
    assert peaks[24] < peaks[12] < peaks[5]
    assert len(optimal_segments(24, 18, 1, equal=True).sizes) == 24


def test_one_segment_saves_nothing():
    assert segment_peak([24], 9, 0) == 24 * 9
    assert optimal_segments(24, 9, 1, budget=24 * 9 + 1).sizes == (24,)
    assert optimal_segments(24, 9, 1, budget=24 * 9).recomputed_layers > 0


def test_a_budget_is_kept_when_the_plan_is_carried_out():
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Linear(32, 32 * width), nn.Tanh(), nn.Linear(32 * width, 32), nn.Sigmoid())
        for width in (1, 4, 2, 1, 3, 1, 2, 4)
    ]
    net, x = nn.Sequential(*layers), torch.randn(64, 32)
    measured = layer_bytes(net, x)
    net(x).sum().backward()

    def run(sizes):
        net.zero_grad(set_to_none=False)
        with LiveMemory() as memory:
            checkpoint_sequential(net, sizes, x).sum().backward()
        return memory.peak_bytes()

    peaks = {}
    for share in (None, 0.6, 0.8, 1.0):
        whole = segment_peak([8], measured.internal, measured.boundary, measured.workspace)
        budget = None if share is None else share * whole
        plan = optimal_segments(8, measured.internal, measured.boundary, budget, workspace_bytes=measured.workspace)
        peaks[share] = run(plan.sizes)
        assert 0.7 * plan.peak_bytes <= peaks[share] <= plan.peak_bytes
    # Near the least peak of all: the largest workspace is taken for that of every layer.
    assert peaks[None] <= 1.2 * min(run(sizes) for sizes in compositions(8))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 1, 1), ValueError, "n_layers must be >= 1, got 0"),
        ((2.0, 1, 1), TypeError, "n_layers must be a Python int, got float"),
        ((2, -1, 1), ValueError, "internal_bytes must be >= 0, got -1"),
        ((2, [1, math.inf], 1), ValueError, r"internal_bytes\[1\] must be finite, got inf"),
        ((2, 1, [1]), ValueError, "boundary_bytes must be a number or one for each of 2 layers, got 1"),
        ((2, 1, "12"), TypeError, "boundary_bytes must be a Python number, got str"),
        ((2, 1, 1, -5), ValueError, "budget must be >= 0, got -5"),
        ((2, 1, 1, "5"), TypeError, "budget must be a Python number, got str"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        optimal_segments(*arguments)


def test_wrong_keywords_and_sizes_are_named():
    with pytest.raises(ValueError, match="workspace_bytes must be >= 0"):
        optimal_segments(2, 1, 1, workspace_bytes=-1)
    with pytest.raises(TypeError, match="equal must be True or False, got int"):
        optimal_segments(2, 1, 1, equal=1)
    with pytest.raises(ValueError, match="sizes must hold at least one segment"):
        segment_peak([], 1, 1)
    with pytest.raises(ValueError, match=r"sizes\[1\] must be >= 1, got 0"):
        segment_peak([1, 0], 1, 1)
    with pytest.raises(ValueError, match="workspace_bytes must be >= 0"):
        segment_peak([1], 1, 1, -1)


def test_a_budget_has_room_for_the_workspace_too():
    # Without it 70 bytes would hold all six layers at once.
    assert optimal_segments(6, 10, 10, budget=70, workspace_bytes=20) == SegmentPlan((3, 3), 70, 3)


def test_the_search_ends_where_sums_are_rounded_otherwise(monkeypatch):
    # From Python 3.12 on, sum compensates for rounding, as fsum does.
    turns = iter(range(10_000))
    search = segments._fastest
    monkeypatch.setattr(segments, "sum", math.fsum, raising=False)
    monkeypatch.setattr(segments, "_fastest", lambda *args: (next(turns), search(*args))[1])
    draw = random.Random(0)
    for _ in range(50):
        internal, boundary = ([draw.random() for _ in range(12)] for _ in range(2))
        assert sum(optimal_segments(12, internal, boundary).sizes) == 12
