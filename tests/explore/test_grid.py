"""Evaluation on the grid: what is stored, and each error in its words."""

import itertools

import numpy as np
import pytest

from steepest.explore import axis, contour, explore, figure, line, panel, stops, switch, text
from steepest.explore.controls import read_controls
from steepest.explore.encoding import dequantise
from steepest.explore.grid import evaluate

X, Y = axis("x", domain=(0, 10)), axis("y", domain=(0, 10))


def grid_of(fn, **controls):
    return evaluate(fn, read_controls(fn, controls))


def frame(*marks, alt="seen", title="Plot", **keywords):
    return figure(panel(*marks, title=title, x=X, y=Y, **keywords), alt=alt)


def test_marks_are_stored_once_per_combination_of_what_they_depend_on():
    def fn(a, b):
        return frame(line([0, 1], [a, a], depends=["a"]), line([0, 1], [a, b]), line([0, 1], [2, 3], depends=[]))

    grid = grid_of(fn, a=[1, 2, 3], b=[4, 5])
    shapes = [data.cells.shape for data in grid.marks[0]]
    assert shapes == [(3,), (3, 2), ()]
    assert [len(data.variants) for data in grid.marks[0]] == [3, 6, 1]


def test_equal_variants_are_stored_once():
    def fn(a):
        return frame(line([0, 1], [a % 2, 0]))

    (data,) = grid_of(fn, a=[1, 2, 3, 4]).marks[0]
    assert len(data.variants) == 2 and data.cells.tolist() == [0, 1, 0, 1]


def test_every_state_keeps_the_functions_values():
    def fn(a, flag):
        return frame(line([0, a], [a, 1 + flag]), alt=f"{a} {flag}")

    controls = read_controls(fn, {"a": [1, 2, 5], "flag": True})
    grid = evaluate(fn, controls)
    for position in itertools.product(range(3), range(2)):
        state = {name: control.values[i] for (name, control), i in zip(controls.items(), position, strict=True)}
        fields, _ = grid.marks[0][0].variants[grid.marks[0][0].cells[position]]
        assert dequantise(fields["y"], -20, 30) == pytest.approx([state["a"], 1 + state["flag"]], abs=1e-3)
        assert grid.alts[grid.alt_cells[position]] == f"{state['a']} {state['flag']}"


def test_a_mark_revealed_by_a_control_does_not_depend_on_it():
    def fn(a, k):
        return frame(line(range(4), [a] * 4, reveal="k"))

    (data,) = grid_of(fn, a=[1, 2], k=range(4)).marks[0]
    assert data.depends == ("a",) and len(data.variants) == 2


def test_the_function_is_called_once_per_state():
    calls = []

    def fn(a, b):
        calls.append((a, b))
        return frame(line([0], [a]))

    grid_of(fn, a=[1, 2], b=[3, 4])
    assert sorted(calls) == [(1, 3), (1, 4), (2, 3), (2, 4)]


def changing(change):
    """A function whose figure is `change(True)` in one state and `change(False)` in the others."""
    return lambda rate, flag: change(rate == 2 and flag)


TWO = ([0, 1], [0, 1])
SHAPES = {
    "the number of panels is 2, but 1": lambda odd: figure(
        *[panel(line(*TWO, depends=[]), x=X, y=Y)] * (2 if odd else 1), alt="seen"
    ),
    "panel 0 'Plot': the number of marks is 2, but 1": lambda odd: frame(*[line(*TWO)] * (2 if odd else 1)),
    r"panel 0 'Plot', mark 0 \(line 'path'\): the shape of x is \(3,\), but \(2,\)": lambda odd: frame(
        line([0, 1, 2], [0, 1, 2], label="path") if odd else line(*TWO, label="path")
    ),
    r"mark 0 \(text\): kind is 'line', but 'text'": lambda odd: frame(line([0], [0]) if odd else text(0, 0, "a")),
    r"mark 0 \(line\): options is .*'series': 1": lambda odd: frame(line(*TWO, series=int(odd))),
    "panel 0 'Plot': title is 'Odd', but 'Plot'": lambda odd: frame(line(*TWO), title="Odd" if odd else "Plot"),
    "panel 0 'Plot': equal is True": lambda odd: frame(line(*TWO), equal=odd),
    r"mark 0 \(text\): the shape of x is \(2,\)": lambda odd: frame(text(*TWO, list("ab")) if odd else text(0, 0, "a")),
    "panel 0: x is .*domain=": lambda odd: figure(panel(line(*TWO), x=axis("x", domain=(0, 1 + odd)), y=Y), alt="seen"),
}


@pytest.mark.parametrize("words", SHAPES)
def test_a_figure_that_changes_shape_is_refused(words):
    with pytest.raises(ValueError, match=words) as caught:
        grid_of(changing(SHAPES[words]), rate=[1, 2], flag=False)
    assert "changes shape in state rate=2, flag=True" in str(caught.value)


def test_a_mark_that_varies_with_what_it_denies_is_refused():
    def fn(a, b, c):
        return frame(line([0, 1], [0, b], label="path", depends=["a"]))

    words = r"panel 0 'Plot', mark 0 \(line 'path'\) varies with 'b', .*depends=\['a'\].*state a=1, b=3, c='x'"
    with pytest.raises(ValueError, match=words):
        grid_of(fn, a=[1], b=[2, 3], c=["x", "y"])


def test_words_that_vary_with_what_they_deny_are_refused():
    def fn(a):
        return frame(text(0, 0, f"a = {a}", depends=[]))

    with pytest.raises(ValueError, match="varies with 'a'"):
        grid_of(fn, a=[1, 2])


def test_differences_too_small_to_be_seen_are_none():
    def fn(a):
        return frame(line([0, 1], [0, 1 + 1e-12 * a], depends=[]))

    assert len(grid_of(fn, a=[1, 2]).marks[0][0].variants) == 1


def test_values_that_are_not_finite_name_mark_and_state():
    def fn(a):
        return frame(line([0, 1], [0, np.inf if a == 2 else 1], label="loss"))

    words = r"panel 0 'Plot', mark 0 \(line 'loss'\) in state a=2: y holds 1 value.*until_divergence"
    with pytest.raises(ValueError, match=words):
        grid_of(fn, a=[1, 2])


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        (lambda: line(range(4), range(4), depends=["speed"]), "'speed', which is no control"),
        (lambda: line(range(4), range(4), reveal="speed"), "'speed', which is no control"),
        (lambda: line(range(4), range(4), reveal="k", depends=["k"]), "leave it out of depends"),
        (lambda: line(range(3), range(3), reveal="k"), "indexes of its 3 points, 0 to 2, got 0 to 3"),
    ],
)
def test_wrong_depends_and_reveal_are_refused(mark, words):
    with pytest.raises(ValueError, match=words):
        grid_of(lambda k: frame(mark()), k=range(4))


def test_a_grid_over_the_limit_names_counts_and_the_control_to_thin():
    words = r"12 states \(a 2 x b 6\), more than the limit of 10: thin out the stops of 'b'"
    with pytest.raises(ValueError, match=words):
        explore(lambda a, b: None, cell_limit=10, a=switch(), b=stops(range(6)))


def test_the_functions_own_errors_name_the_state():
    def fn(a):
        raise KeyError("lost")

    with pytest.raises(KeyError) as caught:
        grid_of(fn, a=[1])
    assert caught.value.__notes__ == ["raised by the figure's function in state a=1"]


def test_what_is_no_figure_is_refused():
    with pytest.raises(TypeError, match=r"returns figure\(...\), got 3 in state a=1"):
        grid_of(lambda a: 3, a=[1])


def test_levels_of_a_contour_keep_one_scale_over_all_states():
    grid = np.linspace(0, 10, 5)

    def fn(a):
        return frame(contour(grid, grid, a * np.outer(grid, grid), [1, 10]))

    (data,) = grid_of(fn, a=[1, 2]).marks[0]
    assert data.knots == [-26, 1, 10, 37] and len(data.variants) == 2
