"""The warmup schedule against equation 3 of Vaswani et al. in logarithms, and its shape."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.gradient_debugging import noam_lr


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 10**5), st.floats(0.01, 10))
def test_is_the_lower_of_the_two_branches(step, d_model, warmup_steps, factor):
    # ln lrate = ln factor - ln(d_model) / 2 + min(-ln(step) / 2, ln(step) - 3/2 ln(warmup_steps))
    branches = (-math.log(step) / 2, math.log(step) - 1.5 * math.log(warmup_steps))
    expected = math.exp(math.log(factor) - math.log(d_model) / 2 + min(branches))
    assert noam_lr(step, d_model, warmup_steps, factor) == pytest.approx(expected, rel=1e-10)


def test_rises_in_a_line_to_its_peak_at_the_last_warmup_step_and_then_falls():
    rates = [noam_lr(step, 512, 100) for step in range(1, 301)]
    assert rates[:100] == pytest.approx([step * rates[0] for step in range(1, 101)])
    assert max(rates) == rates[99] == pytest.approx(1 / math.sqrt(512 * 100))
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[99:]))
    assert noam_lr(400, 512, 100) == pytest.approx(rates[99] / 2)


def test_the_base_transformers_peak():
    assert noam_lr(4000, 512, 4000) == pytest.approx(6.99e-4, rel=1e-3)
    assert noam_lr(1, 512, 4000) > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 512, 4000), ValueError, "step must be >= 1, got 0: count updates from 1, with LambdaLR pass epoch"),
        ((-1, 512, 4000), ValueError, "step must be >= 1, got -1"),
        ((1.0, 512, 4000), TypeError, "step must be a Python int"),
        ((1, 0, 4000), ValueError, "d_model must be >= 1"),
        ((1, 512, 0), ValueError, "warmup_steps must be >= 1"),
        ((1, 512, 4000, 0.0), ValueError, "factor must be > 0"),
        ((1, 512, 4000, math.inf), ValueError, "factor must be finite"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        noam_lr(*arguments)
