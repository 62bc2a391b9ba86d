"""diagnose: every row of the table on real runs and hand-made histories, its causes told apart, no false alarm."""

import math
from dataclasses import replace

import numpy
import pytest
import torch
from torch import nn

from steepest.gradient_debugging import GradientRecord, TrainingMonitor
from steepest.gradient_flow import diagnose
from tests.gradient_debugging.runs import HEALTHY, classification, mlp, regression, train, watched

NAN, INF = math.nan, math.inf
SEEDS = pytest.mark.parametrize("seed", range(3))


def history_of(norms, losses=None, **columns):
    """Return records of one weight with these norms; columns give one number a record."""
    losses = losses or [None] * len(norms)
    return [
        GradientRecord(step, ("w",), (norm,), loss=loss, **{name: (values[step],) for name, values in columns.items()})
        for step, (norm, loss) in enumerate(zip(norms, losses, strict=True))
    ]


def found(history):
    """Return the likeliest cause of each symptom."""
    return {finding.symptom: finding.causes[0].name for finding in diagnose(history)}


def noise(seed, count=200, spread=0.3):
    return numpy.exp(spread * numpy.random.default_rng(seed).standard_normal(count)).tolist()


# --- healthy ---


@SEEDS
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_show_nothing(name, seed):
    assert diagnose(watched(name, seed)[0]) == []


@SEEDS
def test_noise_shows_nothing_with_or_without_a_loss(seed):
    assert diagnose(history_of(noise(seed))) == []
    assert diagnose(history_of(noise(seed, spread=1.0), noise(seed + 50))) == []
    assert diagnose(history_of([50 * norm for norm in noise(seed, spread=0.2)])) == []


def test_short_histories():
    assert diagnose([]) == []
    assert diagnose(history_of([1e6])) == []
    assert diagnose(history_of([NAN]))[0].symptom == "not finite"


# --- norm > 100 throughout ---


@SEEDS
def test_a_rate_that_is_too_high(seed):
    assert found(watched("rate too high, clipped", seed)[0]) == {"large norm": "learning rate too high"}


def test_large_norms_by_their_start():
    flat = [2.0] * 50
    assert found(history_of([500.0] * 50, flat)) == {"large norm": "scale of loss, inputs or initialisation"}
    assert found(history_of([1.0] + [500.0] * 49, flat)) == {"large norm": "learning rate too high"}
    assert found(history_of([500.0] * 25 + [1.0] * 25, flat)) == {}
    [finding] = diagnose(history_of([500.0] * 50, flat, weight_norms=[9.0] * 50, update_ratios=[1e-3] * 50))
    assert [cause.supported for cause in finding.causes] == [True, False]
    assert "average the loss" in finding.remedy and finding.steps == tuple(range(50))
    # Beside a weight of 0 an update is infinite, or NaN if there was none.
    ratios = [NAN] * 30 + [math.inf] * 5 + [1e-3] * 15
    [finding] = diagnose(history_of([500.0] * 50, flat, weight_norms=[9.0] * 50, update_ratios=ratios))
    assert [cause.supported for cause in finding.causes] == [True, False]


def test_a_large_norm_is_no_symptom_while_the_loss_falls():
    assert diagnose(history_of([5000.0] * 50, [100.0 * 0.9**i for i in range(50)])) == []
    assert diagnose(history_of([5000.0] * 50))[0].symptom == "large norm"


def test_nan_is_not_below_a_hundred_but_not_finite():
    assert set(found(history_of([NAN] * 50))) == {"not finite"}
    assert set(found(history_of([500.0, NAN] * 25, [2.0] * 50))) == {"large norm", "not finite"}


# --- norm grows over time ---


@SEEDS
def test_a_rate_that_grows(seed):
    history = watched("rate growing", seed)[0]
    assert found(history)["growing norm"] == "learning rate or its schedule"


@pytest.mark.parametrize("dip", [False, True])
def test_growth_by_its_loss_and_weights(dip):
    growth = [1.03**i for i in range(200)]
    growth = [50.0] * 20 + growth[20:] if dip else growth
    rising, falling = [1 + i / 100 for i in range(200)], [3 - i / 100 for i in range(200)]
    shrinking, steady = [1 / norm for norm in growth], [1.0] * 200
    assert set(found(history_of(growth, rising))) == {"growing norm"}
    assert set(found(history_of(growth))) == {"growing norm"}
    assert found(history_of(growth, falling, weight_norms=steady)) == {}
    weight_decay = {"growing norm": "weight decay on scale-invariant weights"}
    assert found(history_of(growth, falling, weight_norms=shrinking)) == weight_decay
    assert found(history_of(growth[::-1], falling, weight_norms=steady)) == {}


@SEEDS
def test_weight_decay_shrinks_the_weights_before_a_normalisation(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 16, bias=False), nn.LayerNorm(16, elementwise_affine=False))
    head = torch.randn(16, 5)
    monitor = TrainingMonitor(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, weight_decay=1.5)
    train(
        model,
        classification(seed),
        lambda features, y: 1e-4 * nn.functional.cross_entropy(features @ head, y),
        optimizer,
        400,
        monitor.observe,
        monitor.after_step,
    )
    assert found(monitor.history)["growing norm"] == "weight decay on scale-invariant weights"


# --- NaN and infinity ---


@SEEDS
def test_an_explosion_ends_in_values_that_are_not_finite(seed):
    [finding] = diagnose(watched("rate too high", seed)[0])
    assert finding.symptom == "not finite"
    assert "explosion" in [cause.name for cause in finding.causes if cause.supported]


def not_finite(norm, largest, loss, before=1.0, **known):
    return [GradientRecord(step, ("w",), (before,), (before,), loss=1.0, **known) for step in range(20)] + [
        GradientRecord(20, ("w",), (norm,), (largest,), loss=loss, **known)
    ]


def test_where_a_nan_was_made():
    assert found(not_finite(NAN, NAN, NAN)) == {"not finite": "made in the forward pass"}
    assert found(not_finite(NAN, NAN, 1.0)) == {"not finite": "made in the backward pass"}
    assert found(not_finite(INF, INF, 1.0)) == {"not finite": "made in the backward pass"}
    assert found(not_finite(INF, 3e19, 1.0)) == {"not finite": "overflow of the norm only"}
    assert found(history_of([1.0] * 5 + [1e4, 1e9, NAN])) == {"not finite": "explosion"}
    [finding] = diagnose(history_of([1.0] * 20 + [NAN]))
    assert [cause.supported for cause in finding.causes] == [None, None, False, False]


def test_no_remedy_claims_that_clipping_cures_it():
    [finding] = diagnose(not_finite(NAN, NAN, 1.0))
    assert "clipping cures neither NaN nor infinity" in finding.remedy


def test_a_real_forward_and_a_real_backward_nan():
    def run(loss_fn):
        weight = nn.Parameter(torch.tensor([[0.5]]))
        model = nn.Linear(1, 1, bias=False)
        model.weight = weight
        monitor = TrainingMonitor(model)
        for step in range(20):
            model.zero_grad()
            loss = loss_fn(model(torch.tensor([[float(step < 15)]])))
            loss.backward()
            monitor.observe(loss)
        return found(monitor.history)

    assert run(lambda y: y.log().mean() * 0)["not finite"] == "made in the forward pass"
    assert run(lambda y: y.abs().sqrt().mean())["not finite"] == "made in the backward pass"


def test_a_scalers_skips_are_no_symptom_until_there_are_several_in_a_row():
    def scaled(pattern):
        return [
            GradientRecord(i, ("w",), (INF if skip else 1.0,), (INF if skip else 1.0,), scale=8.0, loss=1.0)
            for i, skip in enumerate(pattern)
        ]

    assert diagnose(scaled([0, 0, 1, 1, 1, 0] * 10)) == []
    [finding] = diagnose(scaled([0] * 10 + [1] * 5 + [0] * 10))
    assert (finding.symptom, finding.steps) == ("not finite", (10, 11, 12, 13, 14))
    unscaled = [GradientRecord(i, ("w",), (INF if i == 5 else 1.0,)) for i in range(20)]
    assert diagnose(unscaled)[0].steps == (5,)


# --- norm near 0 ---


@SEEDS
def test_a_deep_sigmoid_network_vanishes(seed):
    [finding] = diagnose(watched("sigmoid", seed)[0])
    assert (finding.symptom, finding.causes[0].name) == ("norm near zero", "vanishing gradients")
    assert [cause.name for cause in finding.causes if cause.supported] == ["vanishing gradients"]


@SEEDS
def test_dead_units(seed):
    assert found(watched("dead", seed)[0]) == {"norm near zero": "dead units"}


def run_of(model, batches, loss_fn, rate, steps=60, hook=None):
    monitor = TrainingMonitor(model)
    if hook is not None:
        for parameter in model.parameters():
            parameter.register_hook(hook)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    train(model, batches, loss_fn, optimizer, steps, monitor.observe, monitor.after_step)
    return found(monitor.history)


@SEEDS
def test_converged(seed):
    batch = [part.double() for part in next(regression(seed, batch=64, features=8))]
    model = nn.Linear(8, 1).double()
    run = run_of(model, iter([batch] * 300), nn.MSELoss(), 0.2, steps=300)
    assert run == {"norm near zero": "converged"}


@SEEDS
def test_a_saturated_loss(seed):
    def saturated(logits, y):
        # A softmax of logits a thousand times too large, taken twice.
        return nn.functional.nll_loss((1e3 * logits).softmax(1), (logits.argmin(1)))

    assert run_of(mlp(seed, (20, 16, 5)), classification(seed), saturated, 0.1) == {"norm near zero": "saturated loss"}


@SEEDS
def test_a_detached_graph(seed):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = mlp(seed, (20, 16)), mlp(seed, (16, 5))

        def forward(self, x):
            return self.head(self.body(x).detach())

    run = run_of(Detached(), classification(seed), nn.CrossEntropyLoss(), 0.1)
    assert run == {"norm near zero": "detached graph"}


@SEEDS
def test_fp16_underflow(seed):
    # The gradients of a loss scaled down as far as FP16 loses some of them, and all of the first layer's.
    model = mlp(seed, (20, 16, 16, 5), nn.Tanh)
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    run = run_of(
        model,
        classification(seed),
        lambda logits, y: 1e-4 * nn.functional.cross_entropy(logits, y),
        1.0,
        hook=lambda gradient: gradient.half().float(),
    )
    assert run == {"norm near zero": "FP16 underflow"}


def test_one_small_layer_among_large_ones_is_found_and_one_beside_small_weights_is_not():
    def layers(norms, weights):
        return [GradientRecord(i, ("a", "b"), norms, weight_norms=weights) for i in range(20)]

    assert set(found(layers((1e-9, 1.0), (5.0, 5.0)))) == {"norm near zero"}
    assert diagnose(layers((1e-9, 1.0), (1e-9, 1.0))) == []
    assert diagnose(layers((1.0, 1.0), (0.0, 5.0))) == []


# --- spikes ---


@SEEDS
def test_a_bad_batch(seed):
    [finding] = diagnose(watched("bad batch", seed)[0])
    assert (finding.symptom, finding.steps, finding.causes[0].name) == ("spikes", (150,), "bad batch")
    assert "validate the data" in finding.remedy


def test_spikes_by_what_follows():
    calm = noise(1, 60)
    losses = [2.0] * 30 + [9.0] * 8 + [2.0] * 22
    norms = [*calm[:30], 60.0, *calm[31:]]
    assert found(history_of(norms)) == {"spikes": "bad batch"}
    assert found(history_of(norms, [2.0] * 30 + [9.0] + [2.0] * 29)) == {"spikes": "bad batch"}
    assert found(history_of(norms, losses)) == {"spikes": "unstable optimizer"}
    assert found(history_of([*calm[:30], 60.0, 80.0, *calm[32:]])) == {"spikes": "unstable optimizer"}
    assert diagnose(history_of([*calm[:30], 5.0, *calm[31:]])) == []


def test_growth_without_return_is_no_spike():
    assert "spikes" not in found(history_of([1.0] * 30 + [100.0**i for i in range(1, 10)]))
    assert "spikes" not in found(history_of([1.0] * 30 + [100.0, 1e4, NAN, NAN]))


def test_a_spike_in_the_last_record_has_causes_that_cannot_be_told_yet():
    [finding] = diagnose(history_of([*noise(3, 40), 90.0]))
    assert (finding.symptom, finding.steps) == ("spikes", (40,))
    assert [cause.supported for cause in finding.causes] == [None, None]
    norms = [*noise(3, 40), 90.0]
    norms[20] = 70.0
    [finding] = diagnose(history_of(norms))
    assert finding.steps == (20, 40) and [cause.supported for cause in finding.causes] == [True, False]


def test_a_skipped_step_after_a_spike_hides_nothing():
    calm = noise(4, 60)
    norms = [*calm[:30], 60.0, INF, *calm[32:]]
    [finding] = diagnose([replace(entry, scale=8.0) for entry in history_of(norms)])
    assert (finding.symptom, finding.steps) == ("spikes", (30,))


def test_two_spikes_are_counted_as_two():
    norms = noise(2, 80)
    norms[30], norms[60] = 70.0, 90.0
    [finding] = diagnose(history_of(norms))
    assert finding.steps == (30, 60) and "2 spikes, the largest a norm of 90" in finding.evidence


# --- all ---


def test_every_finding_has_causes_that_can_be_told_apart_and_cured():
    histories = [
        history_of([500.0] * 50),
        history_of([1.05**i for i in range(200)]),
        history_of([1.0] * 20 + [NAN]),
        history_of([1e-9] * 20),
        history_of([*noise(0, 40), 99.0, 1.0]),
    ]
    findings = [finding for history in histories for finding in diagnose(history)]
    assert len({finding.symptom for finding in findings}) == 5
    for finding in findings:
        assert len(finding.causes) >= 2 and finding.evidence and finding.steps
        assert all(cause.told_by and cause.remedy for cause in finding.causes)


def test_other_things_than_records_are_refused():
    with pytest.raises(TypeError, match="history must hold GradientRecords, got float"):
        diagnose([1.0, 2.0])
