"""Alert policies on hand-made histories, and running quantiles against numpy."""

import io
import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.gradient_debugging import FixedThresholds, GradientRecord, RunningQuantile, RunningThresholds
from steepest.gradient_debugging.alerts import NonfiniteCheck, listed

NAN, INF = math.nan, math.inf


def record(step=0, norms=(1.0,), names=None, **known):
    names = names or tuple(f"layer{i}" for i in range(len(norms)))
    return GradientRecord(step, names, tuple(norms), **known)


def kinds(policy, records):
    """Return the kinds of alerts at each record."""
    return [[alert.kind for alert in policy.judge(entry)] for entry in records]


def jitter(seed, count, spread=0.2):
    return numpy.exp(spread * numpy.random.default_rng(seed).standard_normal(count)).tolist()


# --- RunningQuantile ---


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.integers(1, 20),
    st.floats(0, 1),
)
def test_quantiles_of_the_last_values_are_numpys(values, window, q):
    running = RunningQuantile(window)
    for count, value in enumerate(values, start=1):
        running.append(value)
        expected = numpy.quantile(values[max(0, count - window) : count], q)
        numpy.testing.assert_allclose(running.quantile(q), expected, rtol=1e-12, atol=1e-9)
    assert len(running) == min(len(values), window)


@given(st.lists(st.sampled_from([1.0, 2.0, 2.0, 3.0, NAN, INF, -INF]), max_size=40), st.integers(1, 5))
def test_values_that_are_not_finite_are_left_out(values, window):
    running, finite = RunningQuantile(window), [value for value in values if math.isfinite(value)]
    for value in values:
        running.append(value)
    if finite:
        assert running.quantile(0.5) == numpy.median(finite[-window:])
    else:
        assert math.isnan(running.quantile(0.5))


def test_a_quantile_goes_on_from_its_state():
    running, other = RunningQuantile(3), RunningQuantile(8)
    for value in (5.0, 1.0, 3.0, 2.0):
        running.append(value)
    other.load_state_dict(running.state_dict())
    for each in (running, other):
        each.append(9.0)
    assert other.quantile(0.5) == running.quantile(0.5) == 3.0 and len(other) == 3


def test_bad_quantiles():
    with pytest.raises(ValueError, match="window must be >= 1, got 0"):
        RunningQuantile(0)
    with pytest.raises(ValueError, match=r"q must be in \[0, 1\], got 1.5"):
        RunningQuantile().quantile(1.5)


# --- what both policies share ---

POLICIES = pytest.mark.parametrize("policy", [FixedThresholds, RunningThresholds])


@POLICIES
def test_nan_infinity_and_overflow_are_told_apart(policy):
    # Only the middle layer is bad, and comparisons of NaN with anything are False.
    assert kinds(policy(), [record(norms=(1.0, NAN, 1.0))]) == [["nan"]]
    assert kinds(policy(), [record(norms=(1.0, INF, 1.0), largest=(1.0, INF, 1.0))]) == [["inf"]]
    assert kinds(policy(), [record(norms=(1.0, INF, 1.0), largest=(1.0, 3e19, 1.0))]) == [["overflowed norm"]]
    assert kinds(policy(), [record(norms=(NAN, INF), largest=(NAN, INF))]) == [["nan", "inf"]]


@POLICIES
def test_the_layer_nearest_the_output_is_the_suspect(policy):
    [alert] = policy().judge(record(step=4, norms=(NAN, NAN, 1.0)))
    assert (alert.subject, alert.step) == ("layer1", 4) and "nearest the output: layer1" in alert.message
    assert "Clipping doesn't cure it" in alert.remedy


@POLICIES
@pytest.mark.parametrize("loss", [NAN, INF])
def test_a_loss_that_is_not_finite_alarms_even_with_a_scaler(policy, loss):
    assert kinds(policy(), [record(loss=loss, scale=2.0)]) == [["loss"]]


@POLICIES
def test_no_gradient_at_all_is_reported(policy):
    [alert] = policy().judge(record(norms=(None, None)))
    assert alert.kind == "no gradient" and "before zero_grad" in alert.remedy
    assert kinds(policy(), [record(norms=(None, 1.0)), record(norms=(), names=())])[0] == []


def scaled(step, skipped, scale):
    return record(step, norms=(INF if skipped else 1.0,), largest=(INF if skipped else 0.5,), scale=scale)


@POLICIES
def test_occasional_skips_of_a_loss_scaler_are_by_design(policy):
    history, scale = [], 65536.0
    for step in range(200):
        skipped = step % 20 < 2 and step > 0
        history.append(scaled(step, skipped, scale))
        # It grows back between the skips, as after its growth interval.
        scale = scale / 2 if skipped else min(65536.0, scale * 2)
    assert kinds(policy(), history) == [[]] * 200


@POLICIES
def test_several_skips_in_a_row_alarm(policy):
    history = [scaled(step, step >= 2, 1024.0) for step in range(8)] + [scaled(8, False, 1024.0)]
    expected = [[]] * 5 + [["skipped steps"]] * 3 + [[]]
    assert kinds(policy(patience=4), history) == expected
    again = [scaled(step, step % 4 != 0, 1024.0) for step in range(20)]
    assert kinds(policy(patience=4), again) == [[]] * 20


@POLICIES
def test_a_falling_scale_alarms_without_skips_in_a_row(policy):
    history = [scaled(step, step % 2 == 1, 1024.0 / 2 ** (step // 2)) for step in range(12)]
    found = kinds(policy(patience=4), history)
    assert found[:8] == [[]] * 8 and all(each == ["falling scale"] for each in found[8:])


@POLICIES
def test_the_same_infinities_without_a_scaler_alarm_at_once(policy):
    assert kinds(policy(), [record(norms=(INF,), largest=(INF,))]) == [["inf"]]


def test_old_scales_leave_the_window():
    check = NonfiniteCheck(patience=2, window=3)
    found = [bool(check.judge(scaled(step, False, scale))) for step, scale in enumerate([8.0, 2.0, 2.0, 2.0])]
    assert found == [False, True, True, False]


# --- FixedThresholds ---


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (1.0, []),
        (100.0, []),
        (100.1, ["possible explosion"]),
        (1000.0, ["possible explosion"]),
        (1e9, ["explosion"]),
        (1e-7, []),
        (0.9e-7, ["vanishing"]),
        (0.0, ["vanishing"]),
    ],
)
def test_the_fixed_thresholds_of_the_total(norm, expected):
    assert kinds(FixedThresholds(), [record(norms=(norm * 0.6, norm * 0.8))]) == [expected]


def test_bad_thresholds():
    with pytest.raises(ValueError, match="small < large <= huge, got 1"):
        FixedThresholds(large=0.5, huge=2.0, small=1.0)
    with pytest.raises(ValueError, match="large must be finite"):
        FixedThresholds(large=INF)
    with pytest.raises(ValueError, match="patience must be >= 1"):
        FixedThresholds(patience=0)
    with pytest.raises(ValueError, match="spike must be > 1, got 1"):
        RunningThresholds(spike=1)
    with pytest.raises(ValueError, match="warmup must be <= window, got 30 > 20"):
        RunningThresholds(window=20, warmup=30)


# --- RunningThresholds ---


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e5])
@pytest.mark.parametrize("seed", range(5))
def test_the_size_of_norms_says_nothing_by_itself(seed, size):
    history = [
        record(step, norms=(size * a, size * b), loss=2 * a, weight_norms=(size * 10, size * 10))
        for step, (a, b) in enumerate(zip(jitter(seed, 300), jitter(seed + 99, 300), strict=True))
    ]
    assert kinds(RunningThresholds(), history) == [[]] * 300


@pytest.mark.parametrize("seed", range(5))
def test_noisy_norms_need_a_larger_factor(seed):
    noisy, calm = ([record(i, (norm,)) for i, norm in enumerate(jitter(seed, 300, s))] for s in (1.0, 0.1))
    assert kinds(RunningThresholds(), noisy) == [[]] * 300
    policies = RunningThresholds(), RunningThresholds()
    kinds(policies[0], noisy), kinds(policies[1], calm)
    assert [len(policy.judge(record(300, (30.0,)))) for policy in policies] == [0, 1]


def test_a_spike_in_a_small_layer_shows_though_the_total_hides_it():
    history = [record(step, (1e-3, 10.0)) for step in range(50)] + [record(50, (0.1, 10.0))]
    found = RunningThresholds()
    assert kinds(found, history)[:50] == [[]] * 50
    [alert] = found.judge(record(51, (0.1, 10.0)))
    assert (alert.kind, alert.subject) == ("gradient spike", "layer0")


def test_an_explosion_in_the_first_steps_needs_no_history():
    history = [record(step, (30.0**step,)) for step in range(6)]
    assert kinds(RunningThresholds(), history) == [[]] * 4 + [["gradient spike"]] * 2


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_spike_stands_out_of_the_losss_own_noise(seed):
    losses = [2.0 + 0.3 * entry for entry in numpy.random.default_rng(seed).standard_normal(100)]
    policy = RunningThresholds()
    assert kinds(policy, [record(i, loss=loss) for i, loss in enumerate(losses)]) == [[]] * 100
    assert kinds(policy, [record(100, loss=7.0), record(101, loss=2.0)]) == [["loss spike"], []]


def test_a_rise_of_a_loss_near_zero_is_no_spike():
    # Nearly fitted: a hard sample lifts the loss a thousandfold, and it is still nothing.
    losses = [2.0] * 30 + [1e-5] * 120
    policy = RunningThresholds()
    assert kinds(policy, [record(i, loss=loss) for i, loss in enumerate(losses)]) == [[]] * 150
    assert kinds(policy, [record(150, loss=1e-2), record(151, loss=1.0)]) == [[], ["loss spike"]]


def test_vanishing_is_judged_by_layer_beside_its_weights():
    # The total is as healthy as can be: one layer makes it up.
    history = [record(step, (1e-9, 1e-3, 1.0), weight_norms=(5.0, 5.0, 5.0)) for step in range(30)]
    policy = RunningThresholds()
    found = [policy.judge(entry) for entry in history]
    assert [len(each) for each in found] == [0] * 19 + [1] * 11
    assert (found[-1][0].kind, found[-1][0].subject) == ("vanishing", "layer0")
    # The same norms beside weights of their size are no sign of anything.
    small = [record(step, (1e-9, 1e-3, 1.0), weight_norms=(1e-9, 1e-3, 1.0)) for step in range(30)]
    assert kinds(RunningThresholds(), small) == [[]] * 30


def test_all_layers_alike_can_vanish():
    history = [record(step, (1e-8, 1e-8), weight_norms=(5.0, 5.0)) for step in range(30)]
    assert kinds(RunningThresholds(), history)[-1] == ["vanishing"]


def test_biases_are_not_judged_by_themselves():
    # The gradient of a bias before a normalisation, or of a key's bias, is zero up to rounding.
    known = {"weight_norms": (5.0, 1.0), "dimensions": (2, 1)}
    history = [record(step, (1.0, 1e-10), **known) for step in range(30)]
    assert kinds(RunningThresholds(), history) == [[]] * 30


def test_an_optimizer_that_moves_the_layer_makes_up_for_a_small_gradient():
    known = {"weight_norms": (5.0, 5.0), "update_ratios": (1e-3, 1e-3)}
    history = [record(step, (1e-9, 1.0), **known) for step in range(40)]
    assert kinds(RunningThresholds(), history)[30:] == [[]] * 10


def test_gradients_that_fell_with_the_loss_have_converged():
    def run(final_loss):
        norms = [1.0] * 30 + [0.5**i for i in range(40)] + [1e-10] * 130
        losses = [2.0] * 30 + [final_loss] * 170
        return [
            record(i, (norm,), weight_norms=(5.0,), loss=loss)
            for i, (norm, loss) in enumerate(zip(norms, losses, strict=True))
        ]

    assert kinds(RunningThresholds(), run(0.5)) == [[]] * 200
    # Died: the loss rose to where it was never before and stays.
    assert kinds(RunningThresholds(), run(2.3))[-1] == ["vanishing"]


def test_updates_that_turn_weights_over_alarm_and_usual_ones_do_not():
    def run(ratio):
        return [record(i, (1.0,), weight_norms=(5.0,), update_ratios=(ratio,)) for i in range(60)]

    assert kinds(RunningThresholds(), run(1e-3)) == [[]] * 60
    found = kinds(RunningThresholds(), run(0.4))
    assert found == [[]] * 49 + [["large update"]] * 11
    assert kinds(RunningThresholds(), run(0.0))[-1] == ["lost update"]


def test_a_head_that_starts_at_zero_makes_no_other_layer_vanish():
    # Relative gradients of 1e-4 and 100, the latter for the smallness of its weight.
    records = [record(i, (1e-3, 1.0), weight_norms=(10.0, 1e-2)) for i in range(30)]
    assert kinds(RunningThresholds(), records) == [[]] * 30


def test_updates_are_judged_without_the_norms_of_the_weights_too():
    records = [record(i, (1.0,), update_ratios=(0.0,)) for i in range(30)]
    assert kinds(RunningThresholds(), records)[-1] == ["lost update"]


def test_updates_of_skipped_steps_do_not_count():
    def run(skipped_share):
        return [
            record(
                i,
                (INF if i % 5 < skipped_share else 1.0,),
                largest=(INF if i % 5 < skipped_share else 1.0,),
                weight_norms=(5.0,),
                # The ratio belongs to the step of the record before.
                update_ratios=(0.0 if (i - 1) % 5 < skipped_share else 1e-3,),
                scale=8.0,
            )
            for i in range(100)
        ]

    assert kinds(RunningThresholds(), run(3)) == [[]] * 100


def test_most_units_of_a_layer_dead():
    policy = RunningThresholds()
    assert kinds(policy, [record(dead={"a": 0.5, "b": 0.1})]) == [[]]
    [alert] = policy.judge(record(dead={"a": 0.6, "b": 0.75}))
    assert (alert.kind, alert.subject, alert.value) == ("dead units", "b", 0.75)
    assert "75%" in alert.message and "a, b" in alert.message


@POLICIES
@pytest.mark.parametrize("split", [5, 37, 61])
def test_a_policy_goes_on_from_its_state(policy, split):
    norms = [*jitter(3, 60), 40.0, INF, INF, INF, INF, 1e-9]
    history = [
        record(
            i,
            (norm, 1e-9),
            largest=(norm, 1e-9),
            loss=norm,
            weight_norms=(1.0, 5.0),
            update_ratios=(0.3, 0.0),
            scale=8.0,
        )
        for i, norm in enumerate(norms)
    ]
    whole, first, second = policy(), policy(), policy()
    expected = [whole.judge(entry) for entry in history]
    assert any(expected)
    for entry in history[:split]:
        first.judge(entry)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert [second.judge(entry) for entry in history[split:]] == expected[split:]


def test_few_names_are_listed_whole():
    assert listed(("a",)) == "a" and listed(("a", "b", "c")) == "a, b, c"
