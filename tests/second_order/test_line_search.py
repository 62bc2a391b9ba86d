"""The line search: both conditions recomputed at the step it returns, from starts of 1e-3 to 1e3."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steepest.second_order import strong_wolfe

STARTS = [1e-3, 1e-2, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0, 1e3]


def more_thuente(beta1, beta2):
    """Return φ and φ' of More & Thuente (1994), eq. 5.4: Yanai, Ozawa & Kaneko's test function."""

    def gamma(beta):
        return math.sqrt(1 + beta**2) - beta

    def phi(a):
        return gamma(beta1) * math.hypot(1 - a, beta2) + gamma(beta2) * math.hypot(a, beta1)

    def slope(a):
        return gamma(beta1) * (a - 1) / math.hypot(1 - a, beta2) + gamma(beta2) * a / math.hypot(a, beta1)

    return phi, slope


# name: (φ, φ'), each with φ'(0) < 0 and bounded below.
FUNCTIONS = {
    "parabola": (lambda a: (a - 1) ** 2, lambda a: 2 * (a - 1)),
    "far parabola": (lambda a: (a - 300) ** 2, lambda a: 2 * (a - 300)),
    "near parabola": (lambda a: (a - 0.002) ** 2, lambda a: 2 * (a - 0.002)),
    "quartic with two minima": (
        lambda a: (a - 1) ** 2 * (a - 3) ** 2 - 0.3 * a,
        lambda a: 2 * (a - 1) * (a - 3) ** 2 + 2 * (a - 1) ** 2 * (a - 3) - 0.3,
    ),
    "cubic, then parabola": (
        lambda a: a**3 - 3 * a if a < 10 else 970 + 297 * (a - 10) + (a - 10) ** 2,
        lambda a: 3 * a**2 - 3 if a < 10 else 297 + 2 * (a - 10),
    ),
    "wavy": (lambda a: 0.1 * (a - 5) ** 2 - math.sin(4 * a), lambda a: 0.2 * (a - 5) - 4 * math.cos(4 * a)),
    "exponential": (
        lambda a: math.exp(a) - 5 * a if a < 300 else math.inf,
        lambda a: math.exp(min(a, 700)) - 5,
    ),
    "rational (More-Thuente 5.1)": (lambda a: -a / (a**2 + 2), lambda a: (a**2 - 2) / (a**2 + 2) ** 2),
    "barrier": (
        lambda a: -math.log(2 - a) - 3 * a if a < 2 else math.nan,
        lambda a: 1 / (2 - a) - 3 if a < 2 else math.nan,
    ),
    "near barrier": (
        lambda a: -math.log(0.003 - a) - 1e4 * a if a < 0.003 else math.inf,
        lambda a: 1 / (0.003 - a) - 1e4 if a < 0.003 else math.nan,
    ),
    "More-Thuente 5.4, narrow": more_thuente(0.01, 0.001),
    "More-Thuente 5.4, wide": more_thuente(0.001, 0.01),
}


class Recorder:
    """An `evaluate` for the search that notes each step size and hands it back as the payload."""

    def __init__(self, phi, slope):
        self.phi, self.slope, self.steps = phi, slope, []

    def __call__(self, step_size):
        self.steps.append(step_size)
        return self.phi(step_size), self.slope(step_size), ("payload", step_size)


def assert_strong_wolfe(phi, slope, step_size, c1, c2):
    assert step_size > 0
    assert phi(step_size) <= phi(0.0) + c1 * step_size * slope(0.0)
    assert abs(slope(step_size)) <= c2 * abs(slope(0.0))


@pytest.mark.parametrize(("c1", "c2"), [(1e-4, 0.9), (1e-4, 0.1), (1e-3, 0.01)])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_conditions_hold_at_the_returned_step(name, start, c1, c2):
    phi, slope = FUNCTIONS[name]
    recorder = Recorder(phi, slope)
    result = strong_wolfe(recorder, start, phi(0.0), slope(0.0), c1, c2, max_evaluations=40)
    assert result.success
    assert_strong_wolfe(phi, slope, result.step_size, c1, c2)
    assert result.value == phi(result.step_size) and result.slope == slope(result.step_size)
    assert result.payload == ("payload", result.step_size)
    assert result.evaluations == len(recorder.steps) <= 40
    assert recorder.steps[0] == start


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_usual_constants_need_few_evaluations(name, start):
    phi, slope = FUNCTIONS[name]
    assert strong_wolfe(Recorder(phi, slope), start, phi(0.0), slope(0.0)).evaluations <= 12


def test_an_acceptable_first_step_takes_one_evaluation():
    assert strong_wolfe(Recorder(*FUNCTIONS["parabola"]), 1.05, 1.0, -2.0).evaluations == 1


def test_a_step_that_is_low_but_still_steep_is_not_accepted():
    # Sufficient decrease alone would take the first step; so would a curvature condition without |.|.
    phi, slope = FUNCTIONS["parabola"]
    assert strong_wolfe(Recorder(phi, slope), 0.01, 1.0, -2.0, c2=0.5).step_size > 0.4
    assert strong_wolfe(Recorder(phi, slope), 1.9, 1.0, -2.0, c2=0.5).step_size < 1.5


@pytest.mark.parametrize("start", [4.0, 2.8])
def test_a_cubic_is_minimised_at_once(start):
    # The cubic through values and slopes is the function itself, with its minimum at 1 + sqrt(2). The first
    # start is too high, so that the bracket runs up from 0; the second one is low, so that it runs down to 0.
    phi, slope = lambda a: a**3 / 3 - a**2 - a, lambda a: a**2 - 2 * a - 1
    result = strong_wolfe(Recorder(phi, slope), start, 0.0, -1.0, c2=0.01)
    assert result.success and result.evaluations == 2
    assert math.isclose(result.step_size, 1 + math.sqrt(2), rel_tol=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(1e-2, 1e2),
    st.floats(0, 1),
    st.floats(0, 20),
    st.floats(0, 6.28),
    st.floats(1e-3, 1e3),
    st.floats(0.1, 0.9),
)
def test_conditions_on_random_wavy_functions(centre, height, frequency, phase, start, c2):
    def phi(a):
        return 0.5 * (a / centre - 1) ** 2 + height / 4 * math.sin(frequency * a / centre + phase)

    def slope(a):
        return (a / centre - 1 + height / 4 * frequency * math.cos(frequency * a / centre + phase)) / centre

    assume(slope(0.0) * centre < -1e-3)
    result = strong_wolfe(Recorder(phi, slope), start, phi(0.0), slope(0.0), c2=c2, max_evaluations=60)
    assert result.success
    assert_strong_wolfe(phi, slope, result.step_size, 1e-4, c2)


def test_a_function_without_bound_fails_honestly():
    recorder = Recorder(lambda a: -a, lambda a: -1.0)
    result = strong_wolfe(recorder, 1.0, 0.0, -1.0, max_evaluations=10)
    assert not result.success and result.evaluations == 10
    assert result.step_size == max(recorder.steps) and result.value == -result.step_size
    result = strong_wolfe(recorder, 1e300, 0.0, -1.0, max_evaluations=500)
    assert not result.success and result.evaluations < 500 and math.isfinite(result.step_size)


def test_a_wrong_slope_fails_honestly_at_the_start():
    result = strong_wolfe(Recorder(lambda a: 1 + a, lambda a: 1.0), 1.0, 1.0, -1.0)
    assert not result.success and result.step_size == 0.0 and result.value == 1.0 and result.payload is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nowhere_finite_fails_honestly_at_the_start(bad):
    recorder = Recorder(lambda a: bad, lambda a: bad)
    result = strong_wolfe(recorder, 1.0, 0.0, -1.0)
    assert not result.success and result.step_size == 0.0 and result.payload is None
    assert recorder.steps == sorted(recorder.steps, reverse=True)
    assert result.evaluations == 25


def test_the_lowest_step_is_returned_where_the_limit_is_reached():
    phi, slope = FUNCTIONS["wavy"]
    recorder = Recorder(phi, slope)
    result = strong_wolfe(recorder, 100.0, phi(0.0), slope(0.0), c2=1e-3, max_evaluations=4)
    assert not result.success and result.evaluations == 4
    assert result.value == min(phi(step) for step in [0.0, *recorder.steps])


def test_the_search_ends_where_the_value_cannot_show_the_decrease():
    # 1 + 1e-20 (a - 1)^2 is 1 everywhere in float64.
    result = strong_wolfe(lambda a: (1.0, 2e-20 * (a - 1) - 1e-19, None), 1.0, 1.0, -2e-19, c2=0.1)
    assert not result.success and result.step_size == 0 and result.evaluations <= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_size": 0.0}, "step_size must be finite and > 0"),
        ({"step_size": math.inf}, "step_size must be finite and > 0"),
        ({"value": math.nan}, "value must be finite"),
        ({"slope": 0.0}, "slope must be finite and < 0"),
        ({"slope": math.nan}, "slope must be finite and < 0"),
        ({"c1": 0.95}, "0 < c1 < c2 < 1"),
        ({"c2": 1.0}, "0 < c1 < c2 < 1"),
        ({"max_evaluations": 0}, "max_evaluations must be >= 1"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"step_size": 1.0, "value": 1.0, "slope": -2.0} | change
    with pytest.raises(ValueError, match=message):
        strong_wolfe(Recorder(*FUNCTIONS["parabola"]), **arguments)
