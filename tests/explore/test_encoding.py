"""Numbers as 16-bit integers: exactness, and lines that leave the frame."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steepest.explore import axis, contour, heatmap, line, panel
from steepest.explore.encoding import (
    GAP,
    axis_extent,
    contour_knots,
    cut_line,
    dequantise,
    encode,
    quantise,
)

FRAME = (0.0, 1.0, 0.0, 1.0)
EXTENT = (-2.0, 3.0, -2.0, 3.0)
LINEAR = panel(x=axis("x", domain=(0, 1)), y=axis("y", domain=(0, 1)))
LOG = panel(x=axis("x", domain=(0, 10)), y=axis("loss", domain=(1e-12, 1e3), scale="log"))


@given(st.lists(st.floats(-2, 3), min_size=1, max_size=50))
def test_quantised_values_are_within_half_a_step(values):
    values = np.array(values)
    integers = quantise(values, -2, 3)
    assert integers.dtype == np.int16 and (integers != GAP).all()
    np.testing.assert_allclose(dequantise(integers, -2, 3), values, rtol=0, atol=0.5001 * 5 / 65534)


def test_a_loss_on_a_log_axis_is_exact_to_the_pixel():
    loss = np.logspace(3, -12, 11)
    fields = encode(line(range(11), loss), LOG)
    decades = dequantise(fields["y"], *axis_extent(LOG.y))
    # 400 px over 15 decades: a tenth of a pixel.
    assert np.abs(decades - np.log10(loss)).max() < 15 / 400 / 10


def test_zero_on_a_log_axis_leaves_at_the_bottom_and_negatives_are_refused():
    fields = encode(line([0, 1, 2], [1.0, 1e-3, 0.0]), LOG)
    assert dequantise(fields["y"], *axis_extent(LOG.y))[-1] == pytest.approx(axis_extent(LOG.y)[0])
    with pytest.raises(ValueError, match=r"-0\.5 is negative, which the log axis 'loss' can't show"):
        encode(line([0, 1], [1.0, -0.5]), LOG)


def test_a_line_within_the_extent_is_kept_as_it_is():
    fields = encode(line([0, 2.9, 0.5], [0, -1.9, 1]), LINEAR)
    assert "index" not in fields and fields["x"].size == 3


def test_a_diverging_line_is_cut_where_it_crosses_the_extent():
    x, y, index = cut_line(np.array([0.5, 0.5, 1000.5, -7e9]), np.array([0.0, 0.5, 500.5, 3e9]), FRAME, EXTENT)
    assert x.tolist() == pytest.approx([0.5, 0.5, 3.0]) and y.tolist() == pytest.approx([0.0, 0.5, 1.75])
    assert index.tolist() == [0, 1, 2]


def test_a_line_that_comes_back_into_the_frame_is_kept_with_a_gap():
    x, y, index = cut_line(np.array([0.5, 0.5, 0.7, 0.7]), np.array([0.5, 9.0, 9.0, 0.5]), FRAME, EXTENT)
    assert x[[0, 1, 3, 4]].tolist() == pytest.approx([0.5, 0.5, 0.7, 0.7])
    assert y[[0, 1, 3, 4]].tolist() == pytest.approx([0.5, 3.0, 3.0, 0.5])
    assert np.isnan([x[2], y[2]]).all() and index.tolist() == [0, 1, 3, 3, 3]


def test_a_line_that_starts_far_outside_enters_where_it_crosses():
    x, y, index = cut_line(np.array([0.0, 0.5]), np.array([103.0, 0.5]), FRAME, EXTENT)
    share = (103.0 - 3.0) / 102.5
    assert y.tolist() == pytest.approx([3.0, 0.5]) and x[0] == pytest.approx(0.5 * share)
    assert index.tolist() == [1, 1]


def test_a_line_wholly_outside_shows_nothing():
    fields = encode(line([50, 60], [50, 60]), LINEAR)
    assert (fields["x"] == GAP).all()


coordinate = st.one_of(st.floats(-1, 2), st.floats(-20, 20), st.floats(-1e200, 1e200))


@given(st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=12))
@example([(2.232929154881267e16, 0.0), (-1743128454603792.0, 0.0)])
def test_every_vertex_of_a_cut_line_lies_on_the_line_and_within_the_extent(points):
    x, y = np.array(points).T
    xs, ys, index = cut_line(x, y, FRAME, EXTENT)
    assert (np.diff(index) >= 0).all() and index[-1] < len(points)
    for a, b, i in zip(xs, ys, index, strict=True):
        if np.isnan(a):
            continue
        assert -2.001 <= a <= 3.001 and -2.001 <= b <= 3.001
        if a == x[i] and b == y[i]:
            continue
        dx, dy = x[i] - x[i - 1], y[i] - y[i - 1]
        # Twice the triangle's area over the segment's length is the distance from the segment's line.
        length = np.hypot(dx, dy)
        assert abs((a - x[i - 1]) * (dy / length) - (b - y[i - 1]) * (dx / length)) < 1e-9 * max(1, length)
    inside = [(a, b) for a, b in points if 0 <= a <= 1 and 0 <= b <= 1]
    assert all(np.any((xs == a) & (ys == b)) for a, b in inside)


def test_far_dots_are_left_out_one_by_one():
    fields = encode(line([0.2, 50, 0.4], [0.2, 0.2, 0.4], style="dots"), LINEAR)
    assert (fields["x"] == GAP).tolist() == [False, True, False]


def test_the_lowest_of_log_spaced_levels_is_as_sharp_as_the_highest():
    grid = np.linspace(0, 1, 40)
    z = 10 ** (8 * grid[None, :] * np.ones((40, 1)) - 4)
    levels = [1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3]
    mark = contour(grid, grid, z, levels)
    knots = contour_knots(mark)
    scaled = dequantise(encode(mark, LINEAR, knots)["z"], 0, len(knots) - 1)
    kept = np.interp(scaled, np.arange(len(knots)), knots).reshape(z.shape)
    between = (z > levels[0]) & (z < levels[-1])
    np.testing.assert_allclose(kept[between], z[between], rtol=2e-3)


def test_a_single_level_is_sharp_whatever_the_size_of_z():
    grid = np.linspace(0, 1, 5)
    mark = contour(grid, grid, 1e-6 * np.outer(grid, grid), [5e-7])
    knots = contour_knots(mark)
    scaled = dequantise(encode(mark, LINEAR, knots)["z"], 0, 2)
    np.testing.assert_allclose(np.interp(scaled, [0, 1, 2], knots).reshape(5, 5), mark.arrays["z"], atol=1e-10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match=r"y holds 1 value\(s\) that are not finite.*until_divergence.*alt"):
        encode(line([0, 1], [0, value]), LINEAR)
    with pytest.raises(ValueError, match="z holds 4 value"):
        encode(heatmap(np.full((2, 2), value), (0, 1), (0, 1), (0, 1)), LINEAR)
