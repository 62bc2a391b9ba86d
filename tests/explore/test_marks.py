"""Marks, axes and panels: shapes and what is refused."""

import numpy as np
import pytest
import torch

from steepest.explore import axis, bars, contour, figure, heatmap, image, line, panel, rule, text, until_divergence

X, Y = axis("x", domain=(0, 1)), axis("y", domain=(0, 1))
NAMES = axis("name", categories=["a", "b"])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: axis("x"), ValueError, "either domain=.* or categories"),
        (lambda: axis("x", domain=(0, 1), categories=["a"]), ValueError, "either"),
        (lambda: axis("x", domain=(1, 1)), ValueError, "domain of axis 'x' must be two finite rising numbers"),
        (lambda: axis("x", domain=(0, 1), scale="log"), ValueError, "positive rising"),
        (lambda: axis("x", domain=(0, 1), scale="sqrt"), ValueError, "'linear' or 'log'"),
        (lambda: axis("x", categories=["a", "a"]), ValueError, "different categories"),
        (lambda: line([0, 1], [0]), ValueError, r"one length, got \(2,\) and \(1,\)"),
        (lambda: line([[0]], [[0]]), ValueError, r"x of a line must have 1 dimension\(s\), got shape \(1, 1\)"),
        (lambda: line([], []), ValueError, r"shape \(0,\)"),
        (lambda: line(["a"], [0]), TypeError, "x of a line must be numbers"),
        (lambda: line([0], [0], series=8), ValueError, "0 to 7, got 8"),
        (lambda: line([0], [0], style="curve"), ValueError, "got 'curve'"),
        (lambda: line([0], [0], depends="rate"), TypeError, "the string 'rate'"),
        (lambda: contour([0, 1], [0, 1, 2], np.zeros((2, 3)), [0]), ValueError, r"\(3, 2\), got \(2, 3\)"),
        (lambda: contour([0, 1], [0, 1], np.zeros((2, 2)), [1, 0]), ValueError, "rise strictly"),
        (lambda: heatmap(np.zeros((2, 2)), (0, 1), (1, 0), (0, 1)), ValueError, r"y of a heatmap.*\(low, high\)"),
        (lambda: heatmap(np.zeros((2, 2)), (0, 1), (0, 1), (1, 0)), ValueError, "domain of a heatmap"),
        (lambda: image(np.zeros((2, 2, 4)), (0, 1), (0, 1)), ValueError, r"\(2, 2, 4\)"),
        (lambda: bars(["a"], [1, 2]), ValueError, "1 names and 2 values"),
        (lambda: rule(), ValueError, "either x or y"),
        (lambda: text([0, 1], [0, 1], "one"), ValueError, "2 x, 2 y, 1 strings"),
        (lambda: text(0, 0, "a", anchor="left"), ValueError, "got 'left'"),
        (lambda: panel("line", x=X, y=Y), TypeError, "made of marks, got 'line'"),
        (lambda: panel(x=X, y=NAMES, equal=True), ValueError, "two linear axes"),
        (lambda: panel(bars(["a"], [1]), x=X, y=Y), ValueError, "one axis of categories"),
        (lambda: panel(bars(["c"], [1]), x=NAMES, y=Y), ValueError, r"'c', which is no category.*\['a', 'b'\]"),
        (lambda: figure(alt="nothing"), ValueError, "one or more panels"),
        (lambda: figure(panel(x=X, y=Y), alt=" "), ValueError, "needs alt"),
        (lambda: until_divergence([np.nan, 1]), ValueError, "first point"),
        (lambda: until_divergence([1], [1, 2]), ValueError, r"one length, got \[1, 2\]"),
    ],
)
def test_what_is_wrong_is_said(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_tensors_lists_and_ranges_are_arrays():
    tensor = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    mark = line(range(2), tensor)
    assert mark.arrays["y"].tolist() == [1.0, 2.0]
    assert line([torch.tensor(1.0), 2], [0, 0]).arrays["x"].tolist() == [1.0, 2.0]


def test_marks_hold_copies():
    values = np.zeros(2)
    mark = line(values, values)
    values[0] = 5
    assert mark.arrays["x"].tolist() == [0, 0]


def test_until_divergence_cuts_all_arrays_at_one_index():
    x, y = until_divergence([0.0, 1.0, 2.0, 3.0], [0.0, 5.0, np.inf, 7.0])
    assert x.tolist() == [0, 1, 1, 1] and y.tolist() == [0, 5, 5, 5]
    assert until_divergence([1.0, 2.0]).tolist() == [1, 2]
