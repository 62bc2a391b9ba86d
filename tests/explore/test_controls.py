"""Controls: what is accepted, what is refused and in which words."""

import pytest

from steepest.explore import choice, stops, switch
from steepest.explore.controls import default_state, read_controls


def function(rate, method, noise):
    """Never called."""


def test_plain_values_mean_the_matching_control():
    controls = read_controls(function, {"rate": [0.1, 1], "method": ["a", "b"], "noise": True})
    assert [control.kind for control in controls.values()] == ["stops", "choice", "switch"]
    assert default_state(controls) == {"rate": 0.1, "method": "a", "noise": True}
    assert controls["rate"].label == "rate"


def test_whole_numbers_stay_whole():
    assert stops(range(3)).integer and stops([1, 2]).values == (1, 2)
    assert not stops([1, 2.5]).integer and not choice(["a"]).integer


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([1, 10, 100], True),
        ([1, 2, 3], False),
        ([0.01, 0.02, 0.05, 0.1, 0.2], True),
        ([-1, 1, 10], False),
        ([1, 9], False),
    ],
)
def test_log_spacing_is_seen(values, log):
    assert stops(values).log_spaced is log


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: stops([]), ValueError, "at least one value"),
        (lambda: stops([1, 1]), ValueError, "rise strictly"),
        (lambda: stops([1, float("inf")]), ValueError, "finite"),
        (lambda: stops(["a"]), TypeError, "stops are numbers, got 'a'"),
        (lambda: stops([True, 2]), TypeError, "stops are numbers, got True"),
        (lambda: stops([1, 2], default=3), ValueError, r"default 3 is not one of the values \[1, 2\]"),
        (lambda: choice([]), ValueError, "at least one option"),
        (lambda: choice(["a", "a"]), ValueError, "must differ"),
        (lambda: choice(["a", 1]), TypeError, "got 1"),
        (lambda: choice(["a"], default="b"), ValueError, "default 'b'"),
        (lambda: switch("yes"), TypeError, "is a bool, got 'yes'"),
        (
            lambda: read_controls(function, {"rate": 3, "method": ["a"], "noise": False}),
            TypeError,
            "control 'rate' must be",
        ),
        (
            lambda: read_controls(function, {"rate": [1, "a"], "method": ["a"], "noise": False}),
            TypeError,
            "control 'rate'",
        ),
        (
            lambda: read_controls(function, {"speed": [1, 2]}),
            TypeError,
            "no parameter 'speed'.*'rate', 'method', 'noise'",
        ),
        (
            lambda: read_controls(function, {"rate": [1, 2]}),
            TypeError,
            "needs a control for its parameter 'method', 'noise'",
        ),
        (lambda: read_controls(lambda **_: None, {"_x": [1]}), ValueError, "begin with a letter"),
    ],
)
def test_what_is_wrong_is_said(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_one_and_true_are_different_values():
    assert stops([0, 1]).index(1) == 1
    with pytest.raises(ValueError, match="True"):
        stops([0, 1]).index(True)
