"""The packed block: what goes in comes out, equal things once, and the budget."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from steepest.explore import axis, contour, figure, line, panel, stops, text
from steepest.explore.controls import read_controls
from steepest.explore.encoding import GAP, dequantise
from steepest.explore.grid import evaluate
from steepest.explore.packing import compress, held_at_default, pack, pack_within, unpack
from tests.explore import sample

X, Y = axis("x", domain=(0, 1)), axis("y", domain=(0, 1))


def frame(*marks, alt="seen"):
    return figure(panel(*marks, x=X, y=Y), alt=alt)


def grid_of(fn, **controls):
    return evaluate(fn, read_controls(fn, controls))


def cell(header, depends, positions):
    sizes = {control["name"]: len(control["values"]) for control in header["controls"]}
    number = 0
    for name in depends:
        number = number * sizes[name] + positions[name]
    return number


def field_of(unpacked, p, m, name, positions):
    header, tables, pools = unpacked
    mark = header["panels"][p]["marks"][m]
    length, table = mark["fields"][name]
    return pools[length][tables[table][cell(header, mark["depends"], positions)]]


@settings(deadline=None)
@given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9)), elements=st.floats(-2, 3)
    )
)
def test_packing_round_trip(values):
    def fn(a, b):
        row = values[a, b]
        return frame(line(np.linspace(0, 1, row.size), row), text(0, 0, f"{row[0]:.1f}"), alt=f"{a} of {b % 2}")

    grid = grid_of(fn, a=range(values.shape[0]), b=range(values.shape[1]))
    block = pack(grid)
    unpacked = unpack(block)
    header, tables, _ = unpacked
    for a, b in itertools.product(*map(range, values.shape[:2])):
        positions = {"a": a, "b": b}
        got = dequantise(field_of(unpacked, 0, 0, "y", positions), -2, 3)
        np.testing.assert_allclose(got, values[a, b], rtol=0, atol=0.5001 * 5 / 65534)
        count, table = header["panels"][0]["marks"][1]["strings"]
        start = count * cell(header, header["panels"][0]["marks"][1]["depends"], positions)
        assert header["strings"][tables[table][start]] == f"{values[a, b, 0]:.1f}"
        alt = header["alt"]
        assert alt["texts"][tables[alt["table"]][cell(header, alt["depends"], positions)]] == f"{a} of {b % 2}"
    assert block == pack(grid) and compress(block) == compress(block)


def test_equal_arrays_are_stored_once_across_marks():
    def fn(a):
        steps = np.linspace(0, 1, 50)
        return frame(*[line(steps, steps * (1 + i % 2) / 2, series=i) for i in range(6)])

    _, _, pools = unpack(pack(grid_of(fn, a=range(5))))
    assert {length: len(rows) for length, rows in pools.items()} == {50: 2}


def test_alt_texts_are_stored_once_per_combination_they_vary_with():
    def fn(a, b):
        return frame(line([0], [0]), alt=f"a is {a}")

    header, tables, _ = unpack(pack(grid_of(fn, a=range(3), b=range(100))))
    assert header["alt"]["depends"] == ["a"] and len(tables[header["alt"]["table"]]) == 3


def test_cut_lines_are_padded_to_one_length_with_an_index():
    def fn(a):
        return frame(line([0, 0.5, 1, 1], [0, 0.5, 1 + 1000 * a, 1]))

    unpacked = unpack(pack(grid_of(fn, a=[0, 1])))
    whole, cut = (field_of(unpacked, 0, 0, "x", {"a": a}) for a in (0, 1))
    index = [field_of(unpacked, 0, 0, "index", {"a": a}).tolist() for a in (0, 1)]
    assert whole.size == cut.size and index[0][:4] == [0, 1, 2, 3]
    assert (cut == GAP).sum() == 1 and max(index[1]) == 3


def test_time_costs_nothing_where_lines_are_revealed():
    def size(steps):
        controls = {**sample.DESCENT, "step": stops(range(steps), default=0)}
        return len(compress(pack(evaluate(sample.descent, controls))))

    assert size(20) < 1.05 * size(1)


def test_the_same_figure_gives_the_same_bytes():
    first, second = (
        compress(pack(evaluate(sample.gallery, read_controls(sample.gallery, sample.GALLERY)))) for _ in "ab"
    )
    assert first == second


def test_compressed_blocks_carry_no_time():
    # RFC 1952: bytes 4 to 7 are the time of modification.
    assert compress(b"block")[4:8] == bytes(4)


def noisy(seed, size, flag):
    """400 random values, so that every state costs 800 bytes but those that differ in flag only."""
    values = np.random.default_rng((seed, size)).random(400)
    return frame(line(np.linspace(0, 1, 400), values))


def test_over_budget_names_the_control_to_thin_and_what_each_costs():
    grid = grid_of(noisy, seed=range(12), size=range(3), flag=False)
    assert len(pack_within(grid, 10**6)) > 1000
    with pytest.raises(ValueError, match=r"more than its budget of 1,000: thin out the stops of 'seed'") as caught:
        pack_within(grid, 1000)
    costs = {
        name: int(cost.replace(",", ""))
        for name, cost in re.findall(r"(\w+) ([\d,]*\d)", str(caught.value).split(":")[-1])
    }
    assert list(costs) == ["seed", "size", "flag"]
    one_seed = len(compress(pack(grid_of(noisy, seed=[0], size=range(3), flag=False))))
    assert costs["seed"] == pytest.approx(len(compress(pack(grid))) - one_seed, rel=0.02)


def test_without_controls_the_arrays_are_to_blame():
    grid = grid_of(lambda: frame(line(range(2), range(2))))
    with pytest.raises(ValueError, match="thin out its arrays"):
        pack_within(grid, 10)


def test_holding_a_control_keeps_the_rest():
    grid = grid_of(noisy, seed=stops(range(4), default=2), size=range(3), flag=False)
    held = unpack(pack(held_at_default(grid, "seed")))
    full = unpack(pack(grid))
    for size in range(3):
        np.testing.assert_array_equal(
            field_of(held, 0, 0, "y", {"seed": 0, "size": size, "flag": 0}),
            field_of(full, 0, 0, "y", {"seed": 2, "size": size, "flag": 0}),
        )


def test_contours_carry_their_shape_and_scale():
    grid = np.linspace(0, 1, 4)
    header, _, pools = unpack(pack(grid_of(lambda: frame(contour(grid, grid[:3], np.ones((3, 4)), [0.5, 1.5])))))
    mark = header["panels"][0]["marks"][0]
    assert mark["shape"] == [3, 4] and mark["knots"] == [-2.5, 0.5, 1.5, 4.5] and set(pools) == {2, 12}
