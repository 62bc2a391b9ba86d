"""LBFGS against scipy's minima, torch.optim.LBFGS's counts and traces, and its own account of trouble."""

import copy
import math

import numpy
import pytest
import scipy.optimize
import torch

from steepest.second_order import LBFGS, lbfgs_direction
from tests.second_order.problems import (
    PROBLEMS,
    ROSENBROCK_START,
    chained_rosenbrock,
    closure_for,
    extended_rosenbrock,
    minimised,
    parameters_of_any_shape_and_stride,
    value_and_gradient_of,
)


def minimise(fn, start, kind=LBFGS, **options):
    return minimised(kind, fn, start, **{"line_search_fn": "strong_wolfe", **options})


@pytest.mark.parametrize("history_size", [1, 5, 100])
@pytest.mark.parametrize("name", PROBLEMS)
def test_reaches_the_minimum_that_scipy_finds(name, history_size):
    fn, start = PROBLEMS[name]
    oracle = scipy.optimize.minimize(
        value_and_gradient_of(fn), start.numpy(), jac=True, method="BFGS", options={"gtol": 1e-9}
    )
    point, optimizer, _ = minimise(fn, start, history_size=history_size, tolerance_grad=1e-8)
    numpy.testing.assert_allclose(fn(point).item(), oracle.fun, rtol=1e-9, atol=1e-12)
    if name == "logistic regression":
        numpy.testing.assert_allclose(point.numpy(), oracle.x, atol=1e-6)
    assert optimizer.report.reason == "tolerance_grad: largest entry of the gradient"
    assert optimizer.report.converged


@pytest.mark.parametrize("history_size", [2, 10])
@pytest.mark.parametrize("name", PROBLEMS)
def test_needs_as_many_evaluations_as_torch(name, history_size):
    fn, start = PROBLEMS[name]
    options = {"history_size": history_size, "tolerance_grad": 1e-6}
    _, own, own_trace = minimise(fn, start, **options)
    _, _, peer_trace = minimise(fn, start, torch.optim.LBFGS, **options)
    assert len(own_trace) <= 1.1 * len(peer_trace) + 2
    assert own.report.function_evaluations == len(own_trace)


@pytest.mark.parametrize("history_size", [1, 3, 20])
def test_every_step_follows_the_two_loop_recursion(history_size):
    # Iterates, not the end: a wrong direction reaches the minimum too.
    fn, start = PROBLEMS["chained Rosenbrock"]
    point = start.clone().requires_grad_()
    optimizer = LBFGS([point], max_iter=1, history_size=history_size, tolerance_change=0)
    closure = closure_for(optimizer, fn, [point])
    points, gradients = [], []
    for _ in range(15):
        closure()
        points.append(point.detach().clone())
        gradients.append(point.grad.clone())
        optimizer.step(closure)
    for k in range(2, 14):
        pairs = range(max(0, k - history_size), k)
        steps = torch.stack([points[i + 1] - points[i] for i in pairs])
        changes = torch.stack([gradients[i + 1] - gradients[i] for i in pairs])
        direction = lbfgs_direction(gradients[k], steps, changes)
        moved = points[k + 1] - points[k]
        step_size = moved.dot(direction) / direction.dot(direction)
        torch.testing.assert_close(moved, step_size * direction, rtol=1e-6, atol=1e-6 * moved.abs().max().item())
        slope, new_slope = gradients[k].dot(direction), gradients[k + 1].dot(direction)
        assert abs(new_slope) <= 0.9 * abs(slope)
        assert fn(points[k + 1]) <= fn(points[k]) + 1e-4 * step_size * slope


@pytest.mark.parametrize("slope_of_start", [1e-3, 1.0, 50.0])
def test_the_first_step_is_torchs(slope_of_start):
    def fn(x):
        return slope_of_start * (x + x.square()).sum()

    start = torch.zeros(3, dtype=torch.float64)
    options = {"max_iter": 1, "line_search_fn": None, "lr": 0.25, "tolerance_grad": 0}
    torch.testing.assert_close(
        minimise(fn, start, **options)[0],
        minimise(fn, start, torch.optim.LBFGS, **options)[0],
        rtol=1e-12,
        atol=0,
    )


def test_without_line_search_the_iterates_are_torchs():
    fn, start = PROBLEMS["logistic regression"]
    options = {"line_search_fn": None, "lr": 0.5, "max_iter": 12, "tolerance_grad": 0, "history_size": 4}
    own, optimizer, _ = minimise(fn, start, **options)
    torch.testing.assert_close(own, minimise(fn, start, torch.optim.LBFGS, **options)[0], rtol=1e-9, atol=1e-12)
    assert optimizer.report.iterations == 12 and optimizer.report.reason == "max_iter"
    assert optimizer.report.function_evaluations == 13


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_several_parameters_of_any_shape_and_stride_equal_one_vector(dtype):
    fn, start = PROBLEMS["logistic regression"]
    start = start.to(dtype) + torch.linspace(-1, 1, 20, dtype=dtype)
    whole, _, whole_trace = minimise(fn, start, max_iter=6)
    parameters = parameters_of_any_shape_and_stride(start)
    optimizer = LBFGS(parameters, max_iter=6, tolerance_change=0)
    trace = []
    optimizer.step(closure_for(optimizer, fn, parameters, trace))
    assert trace == whole_trace
    assert torch.equal(torch.cat([parameter.detach().reshape(-1) for parameter in parameters]), whole)
    assert all(parameter.dtype == dtype for parameter in parameters)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("layout", ["vector", "matrix", "transposed"])
def test_one_parameter_of_any_layout_with_gradients_made_anew_or_zeroed_in_place(layout, set_to_none):
    fn, start = PROBLEMS["chained Rosenbrock"]
    _, _, whole_trace = minimise(fn, start, max_iter=12)
    point = {
        "vector": lambda: start.clone(),
        "matrix": lambda: start.reshape(4, 5).clone(),
        "transposed": lambda: start.reshape(4, 5).T.contiguous().T,
    }[layout]().requires_grad_()
    optimizer = LBFGS([point], max_iter=12, tolerance_change=0)
    trace = []

    def closure():
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = fn(point.reshape(-1))
        loss.backward()
        trace.append(loss.item())
        return loss

    optimizer.step(closure)
    assert trace == whole_trace


def test_parameters_without_gradient_stay_and_sparse_gradients_count():
    table = torch.nn.Embedding(4, 2, sparse=True)
    idle = torch.ones(3, requires_grad=True)
    before = table.weight.detach().clone()
    optimizer = LBFGS([table.weight, idle], max_iter=10)

    def closure():
        optimizer.zero_grad()
        loss = (table(torch.tensor([1, 3])) - 2).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(idle, torch.ones(3))
    torch.testing.assert_close(table.weight[[1, 3]], torch.full((2, 2), 2.0))
    assert torch.equal(table.weight[[0, 2]], before[[0, 2]])


def test_step_returns_the_loss_at_the_start_and_the_loss_never_rises():
    fn, start = PROBLEMS["chained Rosenbrock"]
    point = start.clone().requires_grad_()
    optimizer = LBFGS([point], max_iter=3, tolerance_change=0)
    closure = closure_for(optimizer, fn, [point])
    losses = []
    for _ in range(20):
        expected = fn(point.detach()).item()
        losses.append(optimizer.step(closure).item())
        assert losses[-1] == expected
    assert losses == sorted(losses, reverse=True)


def test_a_learning_rate_schedule_and_a_tensor_rate_are_honoured():
    def fn(x):
        return 0.5 * x.square().sum()

    point = torch.full((2,), 0.1, dtype=torch.float64).requires_grad_()
    optimizer = LBFGS([point], lr=torch.tensor(0.5), max_iter=1, line_search_fn=None, tolerance_change=0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 if epoch == 0 else 0.5)
    optimizer.step(closure_for(optimizer, fn, [point]))
    torch.testing.assert_close(point.detach(), torch.full((2,), 0.05, dtype=torch.float64))
    scheduler.step()
    optimizer.step(closure_for(optimizer, fn, [point]))
    torch.testing.assert_close(point.detach(), torch.full((2,), 0.0375, dtype=torch.float64))


def test_limits_and_tolerances_end_a_call_and_are_named():
    fn, start = PROBLEMS["chained Rosenbrock"]
    _, optimizer, _ = minimise(fn, start, max_iter=7)
    assert optimizer.report.reason == "max_iter" and optimizer.report.iterations == 7
    assert not optimizer.report.converged
    _, optimizer, trace = minimise(fn, start, max_iter=100, max_eval=9)
    assert optimizer.report.reason == "max_eval" and len(trace) == 9
    _, optimizer, _ = minimise(fn, start, tolerance_change=1e-3, tolerance_grad=0)
    assert optimizer.report.reason.startswith("tolerance_change") and optimizer.report.converged
    _, optimizer, trace = minimise(fn, torch.ones(20, dtype=torch.float64))
    assert optimizer.report.reason.startswith("tolerance_grad") and len(trace) == 1


@pytest.mark.parametrize(
    ("fn", "start", "lr", "reason"),
    [
        # From 0.5 to -0.5, where the loss is the same.
        (lambda x: x.square().sum(), 0.5, 1.0, "tolerance_change: change of the loss"),
        (lambda x: 5e5 * x.square().sum(), 1e-3, 1e-4, "tolerance_change: largest entry of the step"),
        (lambda x: 1e-4 * x.sum(), 1.0, 1e3, "tolerance_change: directional derivative"),
    ],
)
def test_each_tolerance_of_change_ends_a_call(fn, start, lr, reason):
    start = torch.tensor([start], dtype=torch.float64)
    options = {"line_search_fn": None, "lr": lr, "tolerance_grad": 0, "max_iter": 3}
    _, optimizer, _ = minimise(fn, start, tolerance_change=1e-3, **options)
    assert optimizer.report.reason == reason and optimizer.report.iterations == 1
    _, optimizer, _ = minimise(fn, start, tolerance_change=0, **options)
    assert not optimizer.report.reason.startswith("tolerance_change")


@pytest.mark.parametrize("line_search_fn", ["strong_wolfe", None])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_max_eval_is_never_exceeded(limit, line_search_fn):
    options = {"max_eval": limit, "line_search_fn": line_search_fn, "lr": 1e-3}
    _, optimizer, trace = minimise(extended_rosenbrock, ROSENBROCK_START, **options)
    assert len(trace) == optimizer.report.function_evaluations == limit
    assert optimizer.report.reason == "max_eval"


@pytest.mark.parametrize("scale", [1e-30, 1e36])
def test_a_slope_outside_the_range_of_float32_is_not_convergence(scale):
    # The square of the gradient is 0 below 1e-45, and the sum of its entries infinite above 3e38.
    start = ROSENBROCK_START.float()
    point, optimizer, _ = minimise(lambda x: scale * extended_rosenbrock(x), start, tolerance_grad=0)
    assert torch.equal(point, start)
    assert optimizer.report.reason.startswith("rounding") and not optimizer.report.converged


def test_a_decrease_below_rounding_is_named():
    # In float32, 1e8 + x^2 is 1e8 for all small x, though the gradient isn't zero.
    start = torch.tensor([0.5])
    point, optimizer, trace = minimise(lambda x: 1e8 + x.square().sum(), start)
    assert torch.equal(point, start) and len(trace) <= 25
    assert optimizer.report.reason.startswith("rounding") and not optimizer.report.converged
    assert optimizer.report.line_search_failures == 1


def test_a_nonfinite_start_is_reported_and_nothing_moves():
    start = torch.tensor([-1.0], dtype=torch.float64)
    point, optimizer, trace = minimise(lambda x: x.sqrt().sum(), start)
    assert torch.equal(point, start) and len(trace) == 1
    assert optimizer.report.nonfinite_losses == 1
    assert optimizer.report.reason == "non-finite loss or gradient" and not optimizer.report.converged


def test_nonfinite_trials_are_counted_and_stepped_back_from():
    # -log(x) needs x > 0, and the first step leads out of it.
    def fn(x):
        return (x - x.log()).sum() * 100

    point, optimizer, trace = minimise(fn, torch.tensor([3.0], dtype=torch.float64), lr=10)
    assert optimizer.report.nonfinite_losses == sum(not math.isfinite(loss) for loss in trace) > 0
    torch.testing.assert_close(point, torch.ones(1, dtype=torch.float64))


def test_a_finite_loss_with_a_nonfinite_gradient_is_not_accepted():
    # The loss falls on to the left, but its gradient ends at 0.5.
    point = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = LBFGS([point], tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = point.square().sum()
        loss.backward()
        if point.item() < 0.5:
            point.grad.fill_(math.inf)
        return loss

    optimizer.step(closure)
    assert optimizer.report.nonfinite_losses > 0
    closure()
    assert torch.isfinite(point.grad).all() and 0.5 <= point.item() < 1


def test_without_line_search_a_nonfinite_step_goes_back_to_the_best_point():
    losses = iter([5.0, 3.0, 4.0, math.nan])
    point = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = LBFGS([point], line_search_fn=None, lr=0.5)
    visited = []

    def closure():
        visited.append(point.detach().clone())
        point.grad = torch.tensor([1.0, 3.0], dtype=torch.float64)
        return torch.tensor(next(losses))

    optimizer.step(closure)
    assert len(visited) == 4 and not torch.equal(visited[1], visited[2])
    assert torch.equal(point.detach(), visited[1])
    assert optimizer.report.nonfinite_losses == 1
    assert optimizer.report.reason == "non-finite loss or gradient"


def test_pairs_without_positive_curvature_are_skipped_and_counted():
    # A concave function without line search: every gradient change points the wrong way.
    options = {"line_search_fn": None, "lr": 0.1, "max_iter": 5}
    _, optimizer, _ = minimise(lambda x: -x.square().sum(), torch.ones(2, dtype=torch.float64), **options)
    report = optimizer.report
    assert report.skipped_pairs == 5 and report.iterations == 5
    _, optimizer, _ = minimise(lambda x: x.sum(), torch.ones(2, dtype=torch.float64), **options)
    assert optimizer.report.skipped_pairs == 5


def test_a_failed_line_search_is_counted_and_leaves_the_point():
    # The gradient has the wrong sign, so that no step along it is lower.
    start = torch.ones(3, dtype=torch.float64)
    point = start.clone().requires_grad_()
    optimizer = LBFGS([point])

    def closure():
        optimizer.zero_grad()
        loss = point.square().sum()
        (-loss).backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(point.detach(), start)
    assert optimizer.report.line_search_failures == 1 and not optimizer.report.converged
    assert optimizer.report.reason == "line search failed along the negative gradient"


@pytest.mark.parametrize(("corruption", "failures"), [(-1.0, 0), (1e60, 1)])
def test_where_the_pairs_lead_nowhere_they_are_dropped_and_the_gradient_is_tried(corruption, failures):
    # A history that points uphill, and one that points so far that 25 evaluations don't come back.
    point = torch.tensor([3.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = LBFGS([point], max_iter=1, history_size=1, tolerance_change=0)
    curvature = torch.tensor([1.0, 4.0], dtype=torch.float64)
    closure = closure_for(optimizer, lambda x: (curvature * x.square()).sum(), [point])
    for _ in range(3):
        optimizer.step(closure)
    state = optimizer.state[point]
    state["steps"].mul_(math.copysign(1, corruption))
    state["scale"].mul_(corruption)
    optimizer.param_groups[0].update(max_iter=200, max_eval=400)
    optimizer.step(closure)
    assert optimizer.report.history_resets == 1
    assert optimizer.report.line_search_failures == failures
    torch.testing.assert_close(point.detach(), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_search_that_ends_early_keeps_the_lowest_point_seen():
    def fn(x):
        return (x[0] - 1e6).square() + 0 * x.sum()

    point, optimizer, trace = minimise(fn, torch.zeros(2, dtype=torch.float64), max_iter=50, max_eval=3)
    assert optimizer.report.line_search_failures == 1 and optimizer.report.reason == "max_eval"
    assert fn(point).item() == min(trace)


def test_a_search_that_ends_at_a_high_trial_goes_back_to_the_lowest():
    # Falls with slope -1 up to a wall: the first trial, 1, is low but steep, the second is behind the wall.
    def fn(x):
        return torch.where(x < 1.5, -x, 100 + x).sum()

    point, optimizer, trace = minimise(fn, torch.zeros(1, dtype=torch.float64), max_eval=3)
    assert trace[1] == -1 and trace[2] > 100 and len(trace) == 3
    assert point.item() == 1 and optimizer.report.line_search_failures == 1


def test_float32_ends_at_rounding_without_spending_all_evaluations():
    fn, start = PROBLEMS["logistic regression"]
    point, optimizer, trace = minimise(fn, start.float(), tolerance_grad=0)
    assert not optimizer.report.reason.startswith("max") and len(trace) < 150
    assert torch.isfinite(point).all()
    exact, _, _ = minimise(fn, start, tolerance_grad=1e-9)
    torch.testing.assert_close(point.double(), exact, rtol=0, atol=2e-3)


@pytest.mark.parametrize("line_search_fn", ["strong_wolfe", None])
def test_state_dict_continues_bitwise(line_search_fn):
    fn, start = PROBLEMS["chained Rosenbrock"]
    options = {
        "max_iter": 4,
        "history_size": 3,
        "tolerance_change": 0,
        "line_search_fn": line_search_fn,
        "lr": 0.3,
    }
    point = start.clone().requires_grad_()
    optimizer = LBFGS([point], **options)
    closure = closure_for(optimizer, fn, [point])
    for _ in range(3):
        optimizer.step(closure)
    saved, saved_point = optimizer.state_dict(), point.detach().clone()
    frozen = copy.deepcopy(saved)
    continued = []
    for _ in range(4):
        optimizer.step(closure)
        continued.append(point.detach().clone())

    for _ in range(2):
        again = saved_point.clone().requires_grad_()
        fresh = LBFGS([again])
        fresh.load_state_dict(saved)
        for expected in continued:
            fresh.step(closure_for(fresh, fn, [again]))
            assert torch.equal(again.detach(), expected)
        assert fresh.report == optimizer.report
    for name, value in frozen["state"][0].items():
        assert (
            torch.equal(saved["state"][0][name], value)
            if isinstance(value, torch.Tensor)
            else (saved["state"][0][name] == value)
        )


def test_state_dict_is_plain_and_survives_a_restricted_load(tmp_path):
    fn, start = PROBLEMS["extended Rosenbrock"]
    _, optimizer, _ = minimise(fn, start, max_iter=5)
    saved = optimizer.state_dict()
    assert all(type(value) in (torch.Tensor, int) for value in saved["state"][0].values())
    torch.save(saved, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    other = LBFGS([start.clone().requires_grad_()])
    other.load_state_dict(loaded)
    assert other.report == optimizer.report


def test_report_starts_empty_and_counts_the_bytes_of_the_pairs():
    point = torch.ones(10, requires_grad=True)
    optimizer = LBFGS([point], history_size=4)
    assert optimizer.report.iterations == 0 and optimizer.report.reason == "not started"
    optimizer.step(closure_for(optimizer, extended_rosenbrock, [point]))
    assert optimizer.report.history_bytes == 4 * (2 * 4 * 10 + 4 * 4 + 1)


def test_memory_of_the_history_does_not_move():
    fn, start = PROBLEMS["chained Rosenbrock"]
    point = start.clone().requires_grad_()
    optimizer = LBFGS([point], max_iter=2, history_size=3)
    closure = closure_for(optimizer, fn, [point])
    optimizer.step(closure)
    address = optimizer.state[point]["steps"].data_ptr()
    for _ in range(5):
        optimizer.step(closure)
    assert optimizer.state[point]["steps"].data_ptr() == address


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ([], {}, ValueError, "empty parameter list"),
        ([{"params": []}], {}, ValueError, "no parameter elements"),
        ([torch.empty(0, requires_grad=True)], {}, ValueError, "no parameter elements"),
        (
            [torch.ones(2, dtype=torch.complex64)],
            {},
            TypeError,
            r"params\[0\] must have dtype float32 or float64",
        ),
        ([torch.eye(2).to_sparse()], {}, TypeError, r"params\[0\] must be dense"),
        ([torch.ones(2), torch.ones(2).double()], {}, TypeError, r"params\[1\] is torch.float64"),
        ([torch.ones(2), torch.ones(2, device="meta")], {}, ValueError, r"params\[1\] is on meta"),
        (
            [{"params": [torch.ones(1)]}, {"params": [torch.ones(1)]}],
            {},
            ValueError,
            "one parameter group only",
        ),
        ([torch.ones(2)], {"lr": 0}, ValueError, "lr must be > 0"),
        ([torch.ones(2)], {"lr": torch.tensor(math.inf)}, ValueError, "lr must be finite"),
        ([torch.ones(2)], {"lr": "1"}, TypeError, "lr must be a Python number"),
        ([torch.ones(2)], {"max_iter": "20"}, TypeError, "max_iter must be a Python int"),
        ([torch.ones(2)], {"max_iter": 2.5}, TypeError, "max_iter must be a Python int"),
        ([torch.ones(2)], {"max_eval": 7.5}, TypeError, "max_eval must be a Python int"),
        ([torch.ones(2)], {"history_size": 1.5}, TypeError, "history_size must be a Python int"),
        ([torch.ones(2)], {"tolerance_grad": None}, TypeError, "tolerance_grad must be a Python number"),
        ([torch.ones(2)], {"lr": torch.ones(2)}, ValueError, "lr as a tensor must have one element"),
        ([torch.ones(2)], {"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ([torch.ones(2)], {"max_eval": 0}, ValueError, "max_eval must be >= 1"),
        ([torch.ones(2)], {"history_size": 0}, ValueError, "history_size must be >= 1"),
        ([torch.ones(2)], {"tolerance_grad": -1}, ValueError, "tolerance_grad must be >= 0"),
        ([torch.ones(2)], {"tolerance_change": math.nan}, ValueError, "tolerance_change must be finite"),
        (
            [torch.ones(2)],
            {"line_search_fn": "armijo"},
            ValueError,
            "line_search_fn must be 'strong_wolfe' or None",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        LBFGS(arguments, **options)


@pytest.mark.parametrize(
    ("closure", "error", "message"),
    [
        (None, TypeError, "LBFGS.step needs a closure"),
        (lambda: 1.0, TypeError, "closure must return the loss as a torch.Tensor"),
        (lambda: torch.ones(2), ValueError, "closure must return one element"),
        (lambda: torch.ones(()), ValueError, "closure left no parameter with a gradient"),
    ],
)
def test_wrong_closures_are_named(closure, error, message):
    optimizer = LBFGS([torch.ones(2, requires_grad=True)])
    with pytest.raises(error, match=message):
        optimizer.step(closure)
    with pytest.raises(TypeError, match=r"LBFGS\.step needs a closure"):
        optimizer.step()


@pytest.mark.parametrize("line_search_fn", ["strong_wolfe", None])
def test_a_schedule_that_sets_the_rate_to_zero_is_refused_before_anything_moves(line_search_fn):
    point = torch.ones(2, requires_grad=True)
    optimizer = LBFGS([point], line_search_fn=line_search_fn)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch / 10)
    with pytest.raises(ValueError, match=r"lr must be > 0, got 0\.0"):
        optimizer.step(closure_for(optimizer, torch.sum, [point]))
    assert torch.equal(point.detach(), torch.ones(2)) and optimizer.report.function_evaluations == 0


@pytest.mark.parametrize("line_search_fn", ["strong_wolfe", None])
def test_a_closure_that_raises_leaves_the_last_point_accepted(line_search_fn):
    point = ROSENBROCK_START.clone().requires_grad_()
    other = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = LBFGS([point, other], max_iter=50, lr=1e-3, line_search_fn=line_search_fn)
    visited = []

    def closure():
        loss = closure_for(optimizer, chained_rosenbrock, [point, other])()
        visited.append((loss.item(), torch.cat([point.detach(), other.detach().flatten()])))
        if len(visited) == 8:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    left = torch.cat([point.detach(), other.detach().flatten()])
    assert any(torch.equal(left, place) for _, place in visited[:-1]) and not torch.equal(left, visited[-1][1])
    assert optimizer.report.function_evaluations == 7
    before = chained_rosenbrock(left)
    assert optimizer.step(closure) == before
    if line_search_fn is not None:
        assert before.item() <= visited[0][0]


def test_the_returned_loss_does_not_move_with_a_parameter_that_it_is_a_view_of():
    point = torch.tensor([3.0], requires_grad=True)
    optimizer = LBFGS([point], max_iter=1, line_search_fn=None)
    loss = optimizer.step(closure_for(optimizer, lambda x: point[0], [point]))
    assert loss.item() == 3.0 and point.item() == 2.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", PROBLEMS)
def test_cuda_follows_the_cpu(name):
    fn, start = PROBLEMS[name]
    on_cpu, _, cpu_trace = minimise(fn, start, max_iter=8)
    on_gpu, optimizer, gpu_trace = minimise(fn, start.cuda(), max_iter=8)
    assert on_gpu.is_cuda and optimizer.state_dict()["state"][0]["steps"].is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-8, atol=1e-8)
    assert len(gpu_trace) == len(cpu_trace)
