"""TrainingMonitor on real runs: ill ones alarm in the right words, healthy ones don't, and resumed ones go on alike."""

import io
import math

import pytest
import torch
from torch import nn

from steepest.gradient_debugging import FixedThresholds, TrainingMonitor
from tests.gradient_debugging.runs import HEALTHY, ILL, STEPS, classification, mlp, regression, train, watched
from tests.host_reads import host_reads

SEEDS = pytest.mark.parametrize("seed", range(3))


def kinds(alerts):
    return {alert.kind for alert in alerts}


@SEEDS
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_raise_no_alarm(name, seed):
    history, alerts = watched(name, seed)
    assert len(history) == STEPS and all(math.isfinite(record.loss) for record in history)
    assert alerts == ()


@SEEDS
def test_the_constant_100_alarms_on_a_healthy_run(seed):
    # Why it isn't the default: the loss is summed, and the run is as healthy as its averaged twin.
    history, _ = watched("summed loss", seed)
    policy = FixedThresholds()
    found = {alert.kind for record in history for alert in policy.judge(record)}
    assert found == {"possible explosion", "explosion"}


@SEEDS
def test_a_rate_that_is_too_high_alarms_before_the_loss_is_lost(seed):
    history, alerts = watched("rate too high", seed)
    first = alerts[0]
    assert (first.kind, first.subject) == ("gradient spike", "total")
    lost = next(record.step for record in history if not math.isfinite(record.loss))
    assert first.step < lost and {"loss", "nan"} <= kinds(alerts)


@SEEDS
def test_a_rate_that_grows_alarms(seed):
    history, alerts = watched("rate growing", seed)
    assert {"large update", "loss spike"} <= kinds(alerts)
    # Before anything overflowed, and within the part of the run in which it could still be saved.
    assert alerts[0].step < 160 and history[alerts[0].step].loss < history[0].loss


@SEEDS
def test_clipping_hides_a_rate_that_is_too_high_from_everything_but_the_updates(seed):
    _, alerts = watched("rate too high, clipped", seed)
    assert kinds(alerts) == {"large update"}


@SEEDS
def test_a_deep_sigmoid_network_vanishes_at_its_first_layer(seed):
    history, alerts = watched("sigmoid", seed)
    [alert] = alerts
    assert (alert.kind, alert.subject, alert.step) == ("vanishing", "0.weight", 19)
    # The total hides it.
    assert min(record.total_norm for record in history) > 0.01
    assert all(FixedThresholds().judge(record) == [] for record in history)


@SEEDS
def test_a_bad_batch_is_a_spike_at_its_step(seed):
    _, alerts = watched("bad batch", seed)
    assert [(alert.kind, alert.step) for alert in alerts] == [("loss spike", 150), ("gradient spike", 150)]
    assert all(alert.remedy for alert in alerts)


@SEEDS
def test_dead_units_are_found_and_stop_the_gradient(seed):
    _, alerts = watched("dead", seed)
    assert kinds(alerts) == {"dead units", "vanishing"}
    assert alerts[0].step == 9 and alerts[0].value == 1.0


def half_precision_run(seed, init_scale, steps):
    """A run whose scaled gradients overflow as FP16 does; a scaler searches its scale by that."""
    model = mlp(seed, (20, 32, 32, 5))
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient.half().float())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=10)
    skips = 0
    with TrainingMonitor(model) as monitor:
        for _, (x, y) in zip(range(steps), classification(seed), strict=False):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            monitor.observe(loss, scaler)
            skips += monitor.history[-1].skipped
            scaler.step(optimizer)
            monitor.after_step()
            scaler.update()
    return monitor, skips


@SEEDS
def test_a_loss_scaler_that_skips_now_and_then_raises_no_alarm(seed):
    # 2^17 is a few halvings above what FP16 holds here, and every ten steps the scaler tries more again.
    monitor, skips = half_precision_run(seed, init_scale=2.0**17, steps=150)
    assert skips >= 8 and kinds(monitor.alerts) == set()
    policy = FixedThresholds()
    assert all(policy.judge(record) == [] for record in monitor.history)


@SEEDS
def test_a_scale_that_is_far_too_large_alarms_after_several_skips(seed):
    monitor, _ = half_precision_run(seed, init_scale=2.0**40, steps=30)
    assert monitor.alerts[0].kind == "skipped steps" and monitor.alerts[0].step == 3


def test_measuring_before_backward_or_after_zero_grad_is_reported():
    model = mlp(0, (20, 8, 1))
    monitor = TrainingMonitor(model)
    x, y = next(regression(0))
    loss = (model(x) - y).square().mean()
    assert kinds(monitor.observe(loss)) == {"no gradient"}
    loss.backward()
    assert monitor.observe(loss) == []
    model.zero_grad()
    assert kinds(monitor.observe(loss)) == {"no gradient"}


def test_an_alert_is_raised_when_its_condition_begins_and_again_when_it_returns():
    model = nn.Linear(2, 1)
    monitor = TrainingMonitor(model)
    found = []
    for bad in (False, True, True, False, True):
        model.weight.grad = torch.full((1, 2), math.nan if bad else 1.0)
        found.append([alert.kind for alert in monitor.observe()])
    assert found == [[], ["nan"], [], [], ["nan"]]
    assert [alert.step for alert in monitor.alerts] == [1, 4]


def test_a_condition_that_lasts_is_told_once_of_each_layer():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    monitor = TrainingMonitor(model)
    found = []
    for layers in ("1", "0", "1", "0", "", "0"):
        for name, layer in model.named_children():
            layer.weight.grad = torch.full((1, 1), math.nan if name in layers else 1.0)
        found.append([alert.subject for alert in monitor.observe()])
    assert found == [["1.weight"], ["0.weight"], [], [], [], ["0.weight"]]


def test_the_host_waits_once_a_recorded_step_and_never_else():
    model = mlp(0, (20, 16, 1))
    monitor = TrainingMonitor(model, every=4)
    optimizer = torch.optim.Adam(model.parameters())
    for step, (x, y) in zip(range(9), regression(0), strict=False):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        with host_reads() as reads:
            monitor.observe(loss)
        assert len(reads) == (step % 4 == 0)
        optimizer.step()
        with host_reads() as reads:
            monitor.after_step()
        assert reads == []
    assert [record.step for record in monitor.history] == [0, 4, 8]


@pytest.mark.parametrize("policy", [None, FixedThresholds])
@pytest.mark.parametrize("split", [145, 151])
def test_a_resumed_run_alerts_the_same(policy, split):
    make, batches, loss_fn, optimizer, options = ILL["bad batch"]

    def fresh():
        model = make(0)
        return (
            TrainingMonitor(model, policy=policy and policy(large=3.0, huge=9.0)),
            model,
            optimizer(model.parameters()),
        )

    def run(steps, data, monitor, model, optimizer):
        train(model, data, loss_fn, optimizer, steps, monitor.observe, monitor.after_step, **options)
        return monitor

    whole = run(180, batches(0), *fresh())
    data, first, second = batches(0), fresh(), fresh()
    run(split, data, *first)
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in first], buffer)
    buffer.seek(0)
    for part, state in zip(second, torch.load(buffer, weights_only=True), strict=True):
        part.load_state_dict(state)
    run(180 - split, data, *second)
    assert len(whole.alerts) >= 2
    assert list(first[0].alerts) + list(second[0].alerts) == list(whole.alerts)
    assert list(second[0].history) == list(whole.history)


def test_watching_changes_nothing():
    def trained(watch):
        model = mlp(3, (20, 8, 1))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        monitor = TrainingMonitor(model) if watch else None
        observe, after_step = (monitor.observe, monitor.after_step) if watch else (lambda loss: None, None)
        train(model, regression(3), nn.MSELoss(), optimizer, 10, observe, after_step)
        return list(model.parameters())

    assert all(map(torch.equal, trained(False), trained(True)))


def test_alerts_and_history_are_bounded():
    model = nn.Linear(1, 1, bias=False)
    monitor = TrainingMonitor(model, history_size=3)
    for step in range(20):
        model.weight.grad = torch.full((1, 1), math.nan if step % 2 else 1.0)
        monitor.observe()
    assert len(monitor.history) == len(monitor.alerts) == 3 and monitor.alerts[-1].step == 19


def test_close_removes_the_hooks():
    model = nn.Sequential(nn.ReLU())
    with TrainingMonitor(model):
        assert len(model[0]._forward_hooks) == 1
    assert len(model[0]._forward_hooks) == 0
