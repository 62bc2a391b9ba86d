"""GradientMonitor: the checklist's numbers, on its schedule, at one host read, and visible NaN."""

import math
import warnings

import pytest
import torch
from torch import nn

from steepest.gradient_flow import GradientMonitor
from tests.gradient_debugging.runs import mlp, regression
from tests.host_reads import host_reads


def trained(monitor, model, steps, rate=0.05):
    """Train, and return what was logged at each step, with copies of the gradients."""
    optimizer = torch.optim.SGD(model.parameters(), rate)
    logged, gradients = [], []
    for _, (x, y) in zip(range(steps), regression(0), strict=False):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        logged.append(monitor.log_gradients(loss))
        optimizer.step()
    return logged, gradients


def test_statistics_are_those_of_a_loop_over_the_parameters():
    model = mlp(0, (20, 8, 1))
    logged, gradients = trained(GradientMonitor(model, log_freq=1), model, 3)
    for statistics, expected in zip(logged, gradients, strict=True):
        assert statistics.keys() == expected.keys()
        for name, gradient in expected.items():
            entries = [float(entry) for entry in gradient.reshape(-1)]
            assert statistics[name] == {
                "norm": pytest.approx(math.sqrt(sum(entry**2 for entry in entries)), rel=1e-6),
                "max": max(entries),
                "min": min(entries),
                "mean": pytest.approx(sum(entries) / len(entries), rel=1e-4, abs=1e-7),
                "nan_count": 0,
                "inf_count": 0,
            }


def test_it_logs_at_0_and_every_log_freq_steps_and_counts_every_call():
    model = mlp(0, (20, 8, 1))
    monitor = GradientMonitor(model)
    logged, _ = trained(monitor, model, 201)
    assert [step for step, statistics in enumerate(logged) if statistics is not None] == [0, 100, 200]
    assert [record.step for record in monitor.history] == [0, 100, 200]


def test_one_host_read_a_logged_step_and_none_else():
    model = mlp(0, (20, 8, 8, 1))
    monitor = GradientMonitor(model, log_freq=2)
    x, y = next(regression(0))
    for step in range(5):
        loss = (model(x) - y).square().mean()
        loss.backward()
        with host_reads() as reads:
            monitor.log_gradients(loss)
        assert len(reads) == (step % 2 == 0)


def test_a_model_without_gradients_gives_nothing_and_no_error():
    monitor = GradientMonitor(nn.Linear(2, 1), log_freq=1)
    assert monitor.log_gradients() == {}
    assert monitor.report() == "step 0: no parameter has a gradient"
    assert GradientMonitor(nn.ReLU(), log_freq=1).log_gradients() == {}
    [finding] = monitor.diagnose()
    assert finding.causes[0].name == "detached graph"


def test_parameters_without_gradient_are_left_out():
    model = nn.ModuleDict({"used": nn.Linear(1, 1), "unused": nn.Linear(1, 1)})
    model["used"](torch.ones(1)).backward()
    assert set(GradientMonitor(model, log_freq=1).log_gradients()) == {"used.weight", "used.bias"}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_layer_is_visible_wherever_it_is(place):
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
    for i, layer in enumerate(model):
        layer.weight.grad = torch.full((2, 2), float(i - 1))
    model[place].weight.grad[0, 0] = math.nan
    model[place].weight.grad[1, 1] = math.inf
    monitor = GradientMonitor(model, log_freq=1)
    statistics = monitor.log_gradients()
    bad = statistics[f"{place}.weight"]
    assert (bad["nan_count"], bad["inf_count"]) == (1, 1)
    assert all(math.isnan(bad[name]) for name in ("norm", "max", "min", "mean"))
    # max() and min() of Python pass over a NaN that isn't first.
    lines = monitor.report().splitlines()
    assert lines == [
        "step 0: total norm nan, maximum nan, minimum nan",
        f"  {place}.weight: 1 NaN, 1 infinite",
    ]


def test_a_large_negative_entry_and_an_overflowing_norm_are_reported():
    model = nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[-3e19, 3.0]]), torch.tensor([1.0])
    monitor = GradientMonitor(model, log_freq=1)
    statistics = monitor.log_gradients()
    assert statistics["weight"]["norm"] == math.inf and statistics["weight"]["min"] == pytest.approx(-3e19)
    assert monitor.report().splitlines() == [
        "step 0: total norm inf, maximum 3, minimum -3e+19",
        "  weight: finite, but its norm overflows",
    ]


def test_it_neither_steps_nor_touches_gradients():
    model = mlp(0, (20, 8, 1))
    x, y = next(regression(0))
    (model(x) - y).square().mean().backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in model.parameters()]
    monitor = GradientMonitor(model, log_freq=1)
    monitor.log_gradients()
    monitor.report()
    for (weight, gradient), p in zip(before, model.parameters(), strict=True):
        assert torch.equal(weight, p) and torch.equal(gradient, p.grad)


def test_a_scaler_and_the_loss_reach_the_history():
    model = nn.Linear(2, 1)
    model(torch.ones(2)).backward()
    monitor = GradientMonitor(model, log_freq=1)
    monitor.log_gradients(torch.tensor([0.5]), torch.amp.GradScaler("cpu", init_scale=8.0))
    assert (monitor.history[-1].loss, monitor.history[-1].scale) == (0.5, 8.0)


def test_a_resumed_monitor_keeps_its_schedule():
    model = mlp(0, (20, 8, 1))
    first, second = GradientMonitor(model, log_freq=3), GradientMonitor(model, log_freq=3)
    trained(first, model, 4)
    second.load_state_dict(first.state_dict())
    trained(second, model, 4)
    assert [record.step for record in second.history] == [0, 3, 6]


def test_report_needs_a_logged_step():
    with pytest.raises(RuntimeError, match=r"nothing has been logged; call log_gradients\(\)"):
        GradientMonitor(nn.Linear(1, 1)).report()


def test_close_removes_hooks_and_bad_arguments_are_named():
    model = nn.Sequential(nn.ReLU())
    with GradientMonitor(model):
        assert len(model[0]._forward_hooks) == 1
    assert len(model[0]._forward_hooks) == 0
    with pytest.raises(ValueError, match="every must be >= 1, got 0"):
        GradientMonitor(model, log_freq=0)


@pytest.mark.gpu
def test_on_cuda_the_host_waits_once():
    model = mlp(0, (20, 8, 1)).cuda()
    x, y = (part.cuda() for part in next(regression(0)))
    monitor = GradientMonitor(model, log_freq=1)
    loss = (model(x) - y).square().mean()
    loss.backward()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            monitor.log_gradients(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "synchron" in str(wait.message)]) == 1
