"""NonlinearCG: directions against a textbook loop, minima against scipy's, and its own account of trouble."""

import copy
import itertools
import math
from functools import partial

import numpy
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.second_order import NonlinearCG, fletcher_reeves_beta, polak_ribiere_plus_beta
from tests.host_reads import host_reads
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

BETAS = {"fletcher_reeves": fletcher_reeves_beta, "polak_ribiere_plus": polak_ribiere_plus_beta}
minimise = partial(minimised, NonlinearCG)


def iterates(fn, start, steps, **options):
    """Return the points and gradients at the start and after each of so many steps, and the optimizer."""
    point = start.clone().requires_grad_()
    optimizer = NonlinearCG([point], **{"max_iter": 1, "tolerance_change": 0, "tolerance_grad": 0, **options})
    closure = closure_for(optimizer, fn, [point])
    points, gradients = [], []
    for step in range(steps + 1):
        closure()
        points.append(point.detach().clone())
        gradients.append(point.grad.clone())
        if step < steps:
            optimizer.step(closure)
    return points, gradients, optimizer


@pytest.mark.parametrize(
    ("gradient", "previous", "fletcher_reeves", "polak_ribiere_plus"),
    [
        ([1.0, 2.0], [3.0, 1.0], 5 / 10, 0.0),  # 1 (1 - 3) + 2 (2 - 1) = 0
        ([1.0, 4.0], [3.0, 1.0], 17 / 10, 10 / 10),
        ([2.0, 0.0], [1.0, 1.0], 4 / 2, 2 / 2),
        ([1.0, 0.0], [3.0, 0.0], 1 / 9, 0.0),  # (1 - 3) / 9 < 0
        ([0.0, 3.0], [2.0, 0.0], 9 / 4, 9 / 4),  # orthogonal: the two agree
        ([5.0, 5.0], [5.0, 5.0], 1.0, 0.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beta_on_fixed_vectors(gradient, previous, fletcher_reeves, polak_ribiere_plus, dtype):
    gradient, previous = torch.tensor(gradient, dtype=dtype), torch.tensor(previous, dtype=dtype)
    for formula, expected in (
        (fletcher_reeves_beta, fletcher_reeves),
        (polak_ribiere_plus_beta, polak_ribiere_plus),
    ):
        beta = formula(gradient, previous)
        assert beta.shape == () and beta.dtype == dtype
        torch.testing.assert_close(beta, torch.tensor(expected, dtype=dtype))


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_on_a_quadratic_with_exact_search_both_betas_agree(seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    matrix = root @ root.T + torch.eye(6, dtype=torch.float64)
    point = torch.randn(6, dtype=torch.float64, generator=generator)
    gradient = matrix @ point
    direction = -gradient
    for _ in range(3):
        point = point - (gradient @ direction) / (direction @ matrix @ direction) * direction
        previous, gradient = gradient, matrix @ point
        beta = fletcher_reeves_beta(gradient, previous)
        torch.testing.assert_close(polak_ribiere_plus_beta(gradient, previous), beta, rtol=1e-6, atol=1e-10)
        direction = beta * direction - gradient


@pytest.mark.parametrize("threshold", [None, 0.1, 0.5, math.inf])
@pytest.mark.parametrize("interval", [None, 4])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_step_follows_the_textbook_with_its_restarts(name, beta, interval, threshold):
    # Iterates, not the end: a wrong direction reaches the minimum too.
    fn, start = PROBLEMS[name]
    points, gradients, optimizer = iterates(
        fn, start, 24, beta=beta, restart_interval=interval, restart_threshold=threshold, tolerance_grad=1e-6
    )
    if threshold is None:
        threshold = {"fletcher_reeves": 0.1, "polak_ribiere_plus": math.inf}[beta]
    since, restarts, direction = 0, 0, None
    steps = sum(gradient.abs().max().item() > 1e-6 for gradient in gradients[:-1])
    assert steps >= 9
    for k in range(steps):
        gradient = gradients[k]
        square = sum(g * g for g in gradient.tolist())
        restart = since > 0
        if 0 < since < (interval or 20):
            previous = gradients[k - 1].tolist()
            denominator = sum(g * g for g in previous)
            if beta == "fletcher_reeves":  # (5.41a)
                weight = square / denominator
            else:  # (5.44), (5.45)
                numerator = sum(g * (g - h) for g, h in zip(gradient.tolist(), previous, strict=True))
                weight = max(0.0, numerator / denominator)
            candidate = -gradient + weight * direction  # (5.41b)
            overlap = sum(g * h for g, h in zip(gradient.tolist(), previous, strict=True))
            restart = not (gradient.dot(candidate) < 0 and abs(overlap) / square < threshold)  # (5.52)
        if since == 0 or restart:
            restarts += restart
            candidate, since = -gradient, 0
        direction = candidate
        since += 1

        moved = points[k + 1] - points[k]
        step_size = moved.dot(direction) / direction.dot(direction)
        torch.testing.assert_close(moved, step_size * direction, rtol=1e-6, atol=1e-7 * moved.abs().max().item())
        slope, new_slope = gradient.dot(direction), gradients[k + 1].dot(direction)
        assert abs(new_slope) <= 0.1 * abs(slope) * (1 + 1e-9)
        assert fn(points[k + 1]) <= fn(points[k]) + 1e-4 * step_size * slope
    assert optimizer.report.restarts == restarts
    assert interval is None or restarts >= (steps - 1) // 4


def test_polak_ribiere_restarts_by_itself_where_fletcher_reeves_jams():
    # N&W, section 5.2: after a bad direction, nearly orthogonal to the gradient, and a tiny step, β is about 1
    # for Fletcher-Reeves, which repeats the direction, and about 0 for Polak-Ribière, which drops it.
    previous = torch.tensor([1.0, 0.0], dtype=torch.float64)
    gradient = torch.tensor([0.999, 0.01], dtype=torch.float64)
    direction = torch.tensor([-11.0, 999.0], dtype=torch.float64)

    def cosine_of_the_step(name):
        point = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        optimizer = NonlinearCG([point], max_iter=1, beta=name, restart_threshold=math.inf, tolerance_change=0)
        closure = closure_for(optimizer, lambda x: gradient @ x + 0.5 * x @ x, [point])
        optimizer.step(closure)
        with torch.no_grad():
            point.zero_()
        optimizer.state[point].update(direction=direction, gradient=previous, value=0.0, steps=1)
        optimizer.step(closure)
        moved = point.detach()
        return (-moved @ gradient / moved.norm() / gradient.norm()).item()

    assert cosine_of_the_step("fletcher_reeves") < 0.02
    assert cosine_of_the_step("polak_ribiere_plus") > 0.9


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_reaches_the_minimum_that_scipy_finds(name, beta):
    fn, start = PROBLEMS[name]
    oracle = scipy.optimize.minimize(
        value_and_gradient_of(fn), start.numpy(), jac=True, method="BFGS", options={"gtol": 1e-9}
    )
    point, optimizer, trace = minimise(fn, start, beta=beta, tolerance_grad=1e-8)
    numpy.testing.assert_allclose(fn(point).item(), oracle.fun, rtol=1e-9, atol=1e-12)
    assert optimizer.report.reason == "tolerance_grad: largest entry of the gradient"
    assert optimizer.report.converged and optimizer.report.function_evaluations == len(trace)


@pytest.mark.parametrize("name", PROBLEMS)
def test_needs_about_as_many_evaluations_as_scipys_cg(name):
    fn, start = PROBLEMS[name]
    peer_trace = []
    scipy.optimize.minimize(
        value_and_gradient_of(fn, peer_trace), start.numpy(), jac=True, method="CG", options={"gtol": 1e-6}
    )
    _, _, trace = minimise(fn, start, tolerance_grad=1e-6)
    assert len(trace) <= 1.3 * len(peer_trace)


@pytest.mark.parametrize("beta", BETAS)
def test_on_a_quadratic_it_needs_about_as_many_steps_as_eigenvalues(beta):
    curvature = torch.tensor([1.0, 3.0, 10.0, 30.0], dtype=torch.float64).repeat(5)
    point, optimizer, _ = minimise(
        lambda x: 0.5 * (curvature * x * x).sum(), torch.ones(20, dtype=torch.float64), beta=beta, max_iter=24
    )
    # Four with exact searches; steepest descent needs more than 100.
    assert optimizer.report.converged and optimizer.report.iterations <= 24
    assert point.abs().max() < 1e-7


def test_a_search_starts_from_the_last_decrease():
    fn, start = PROBLEMS["chained Rosenbrock"]
    visited, losses = [], []
    point = start.clone().requires_grad_()
    optimizer = NonlinearCG([point], max_iter=1, tolerance_change=0, lr=0.5)
    plain = closure_for(optimizer, fn, [point])

    def closure():
        visited.append(point.detach().clone())
        return plain()

    for step in range(8):
        before, trials = point.detach().clone(), len(visited)
        losses.append(fn(before))
        optimizer.step(closure)
        gradient, direction = torch.func.grad(fn)(before), optimizer.state[point]["direction"]
        expected = 0.5 / gradient.abs().sum()
        if step > 0:
            expected = 2 * (losses[-1] - losses[-2]) / gradient.dot(direction)  # (3.60)
        torch.testing.assert_close(visited[trials + 1], before + expected * direction, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_the_first_step_is_no_longer_than_lr(scale):
    visited = []

    def fn(x):
        visited.append(x.detach().clone())
        return scale * (x + x.square()).sum()

    minimise(fn, torch.zeros(3, dtype=torch.float64), lr=0.25, max_eval=2)
    expected = -0.25 * min(scale, 1 / 3)
    torch.testing.assert_close(visited[1], torch.full((3,), expected, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_several_parameters_of_any_shape_and_stride_equal_one_vector(dtype):
    fn, start = PROBLEMS["logistic regression"]
    start = start.to(dtype) + torch.linspace(-1, 1, 20, dtype=dtype)
    whole, _, whole_trace = minimise(fn, start, max_iter=6)
    parameters = parameters_of_any_shape_and_stride(start)
    optimizer = NonlinearCG(parameters, max_iter=6, tolerance_change=0)
    trace = []
    optimizer.step(closure_for(optimizer, fn, parameters, trace))
    assert trace == whole_trace
    assert torch.equal(torch.cat([parameter.detach().reshape(-1) for parameter in parameters]), whole)
    assert all(parameter.dtype == dtype for parameter in parameters)


def test_parameters_without_gradient_stay_and_sparse_gradients_count():
    table = torch.nn.Embedding(4, 2, sparse=True)
    idle = torch.ones(3, requires_grad=True)
    before = table.weight.detach().clone()
    optimizer = NonlinearCG([table.weight, idle], max_iter=20)

    def closure():
        optimizer.zero_grad()
        loss = (table(torch.tensor([1, 3])) - 2).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(idle, torch.ones(3))
    torch.testing.assert_close(table.weight[[1, 3]], torch.full((2, 2), 2.0), rtol=1e-4, atol=1e-4)
    assert torch.equal(table.weight[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("beta", BETAS)
def test_one_call_of_many_steps_is_many_calls_of_one(beta):
    fn, start = PROBLEMS["chained Rosenbrock"]
    points, _, one_by_one = iterates(fn, start, 30, beta=beta)
    point, at_once, _ = minimise(fn, start, beta=beta, max_iter=30, max_eval=1000)
    assert torch.equal(point, points[-1])
    assert one_by_one.report.restarts == at_once.report.restarts
    assert one_by_one.report.iterations == at_once.report.iterations == 30


def test_step_returns_the_loss_at_the_start_and_the_loss_never_rises():
    fn, start = PROBLEMS["chained Rosenbrock"]
    point = start.clone().requires_grad_()
    optimizer = NonlinearCG([point], max_iter=3, tolerance_change=0)
    closure = closure_for(optimizer, fn, [point])
    losses = []
    for _ in range(20):
        expected = fn(point.detach()).item()
        losses.append(optimizer.step(closure).item())
        assert losses[-1] == expected
    assert losses == sorted(losses, reverse=True)


def test_other_data_restart_the_directions():
    curvature = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
    point = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = NonlinearCG([point], max_iter=1, tolerance_change=0, restart_threshold=math.inf)
    closure = closure_for(optimizer, lambda x: (curvature * x * x).sum(), [point])
    for _ in range(2):
        optimizer.step(closure)
    assert optimizer.report.restarts == 0
    curvature.mul_(torch.tensor([2.0, 0.5, 1.0]))
    before = point.detach().clone()
    optimizer.step(closure)
    assert optimizer.report.restarts == 1
    moved, gradient = point.detach() - before, 2 * curvature * before
    torch.testing.assert_close(moved / moved.norm(), -gradient / gradient.norm())


def test_a_loss_that_differs_by_rounding_does_not_restart():
    fn, start = PROBLEMS["chained Rosenbrock"]
    factors = (1 + 1e-13 * (-1) ** k * k for k in itertools.count())
    points, _, exact = iterates(fn, start, 6)
    noisy_points, _, noisy = iterates(lambda x: fn(x) * next(factors), start, 6)
    assert noisy.report.restarts == exact.report.restarts == 0
    torch.testing.assert_close(noisy_points[-1], points[-1], rtol=1e-6, atol=1e-9)


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
    ("fn", "start", "tolerance", "reason"),
    [
        # A step of 1e-2 that changes the loss by 5e-4, from a slope of 1e-2.
        (lambda x: (5 * x.square() + 0.1 * x**3).sum(), 1e-2, 1e-3, "tolerance_change: change of the loss"),
        (lambda x: 5e5 * x.square().sum(), 1e-4, 1e-3, "tolerance_change: largest entry of the step"),
        (lambda x: 1e-4 * x.square().sum(), 1.0, 1e-3, "tolerance_change: directional derivative"),
    ],
)
def test_each_tolerance_of_change_ends_a_call(fn, start, tolerance, reason):
    start = torch.tensor([start], dtype=torch.float64)
    _, optimizer, _ = minimise(fn, start, tolerance_change=tolerance, tolerance_grad=0, max_iter=50)
    assert optimizer.report.reason == reason and optimizer.report.converged


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_max_eval_is_never_exceeded(limit):
    _, optimizer, trace = minimise(extended_rosenbrock, ROSENBROCK_START, max_eval=limit, lr=1e-3)
    assert len(trace) == optimizer.report.function_evaluations == limit
    assert optimizer.report.reason == "max_eval"


@pytest.mark.parametrize("scale", [1e-30, 1e36])
def test_a_slope_outside_the_range_of_float32_is_not_convergence(scale):
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
    point, optimizer, _ = minimise(lambda x: x.log().sum(), start)
    assert torch.equal(point, start) and optimizer.report.nonfinite_losses == 1
    assert optimizer.report.reason == "non-finite loss or gradient"


def test_nonfinite_trials_shorten_the_step():
    # The first trial, far beyond 0, has the logarithm of a negative number.
    point, optimizer, _ = minimise(lambda x: (x - x.log()).sum(), torch.tensor([0.5], dtype=torch.float64), lr=1e3)
    assert optimizer.report.nonfinite_losses == 0 or point > 0
    point, optimizer, _ = minimise(lambda x: (5 * x - x.log()).sum(), torch.tensor([3.0], dtype=torch.float64), lr=1e3)
    assert optimizer.report.nonfinite_losses > 0 and optimizer.report.converged
    torch.testing.assert_close(point, torch.tensor([0.2], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_without_a_minimum_is_followed_to_the_end_of_the_range(dtype):
    point = torch.tensor([-2.0, 0.5], dtype=dtype, requires_grad=True)
    optimizer = NonlinearCG([point], max_iter=50, max_eval=1000, tolerance_change=0, tolerance_grad=0)
    closure = closure_for(optimizer, lambda x: 1e-3 * x.sum(), [point])
    losses = [optimizer.step(closure).item() for _ in range(4)]
    assert torch.isfinite(point).all() and point.max() < -1e-8 * torch.finfo(dtype).max
    assert losses == sorted(losses, reverse=True) and not optimizer.report.converged


def test_a_failed_line_search_is_counted_and_leaves_the_point():
    # The gradient has the wrong sign, so that no step along it is lower.
    start = torch.ones(3, dtype=torch.float64)
    point = start.clone().requires_grad_()
    optimizer = NonlinearCG([point])

    def closure():
        optimizer.zero_grad()
        loss = point.square().sum()
        (-loss).backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(point.detach(), start)
    assert optimizer.report.line_search_failures == 1 and not optimizer.report.converged
    assert optimizer.report.reason == "line search failed along the negative gradient"


@pytest.mark.parametrize(
    ("old_direction", "old_decrease", "failures"),
    [
        ([1e3, 1e3, 1e3], 1.0, 0),  # uphill
        ([math.nan] * 3, 1.0, 0),
        ([-1.0, -1.0, -1.0], 1e60, 1),  # a first trial from which 25 evaluations don't come back
    ],
)
def test_where_the_direction_leads_nowhere_the_gradient_is_tried(old_direction, old_decrease, failures):
    curvature = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    point = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = NonlinearCG([point], max_iter=1, tolerance_change=0, restart_threshold=math.inf)
    closure = closure_for(optimizer, lambda x: (curvature * x.square()).sum(), [point])
    optimizer.step(closure)
    with torch.no_grad():
        point.copy_(torch.tensor([3.0, 2.0, 1.0]))
    optimizer.state[point].update(
        direction=torch.tensor(old_direction, dtype=torch.float64),
        gradient=torch.ones(3, dtype=torch.float64),
        value=34.0,
        decrease=old_decrease,
        steps=1,
    )
    optimizer.param_groups[0].update(max_eval=200)
    before = point.detach().clone()
    optimizer.param_groups[0]["max_iter"] = 1 + failures
    optimizer.step(closure)
    assert optimizer.report.restarts == 1 and optimizer.report.line_search_failures == failures
    moved, gradient = point.detach() - before, 2 * curvature * before
    torch.testing.assert_close(moved / moved.norm(), -gradient / gradient.norm())


def test_a_search_that_ends_early_without_a_lower_point_goes_back_to_the_start():
    start = torch.ones(2, dtype=torch.float64)
    point, optimizer, trace = minimise(lambda x: x.square().sum(), start, lr=1e3, max_eval=2)
    assert trace[1] > trace[0] and torch.equal(point, start)
    assert optimizer.report.reason == "max_eval" and optimizer.report.line_search_failures == 1


def test_a_search_that_ends_early_keeps_the_lowest_point_seen():
    def fn(x):
        return (x[0] - 1e6).square() + 0 * x.sum()

    point, optimizer, trace = minimise(fn, torch.zeros(2, dtype=torch.float64), max_iter=50, max_eval=3)
    assert optimizer.report.line_search_failures == 1 and optimizer.report.reason == "max_eval"
    assert fn(point).item() == min(trace)


def test_float32_ends_at_rounding_without_spending_all_evaluations():
    fn, start = PROBLEMS["logistic regression"]
    point, optimizer, trace = minimise(fn, start.float(), tolerance_grad=0)
    assert not optimizer.report.reason.startswith("max") and len(trace) < 400
    exact, _, _ = minimise(fn, start, tolerance_grad=1e-9)
    torch.testing.assert_close(point.double(), exact, rtol=0, atol=2e-3)


def test_one_transfer_a_direction_and_one_an_evaluation():
    fn, start = PROBLEMS["chained Rosenbrock"]
    point = start.clone().requires_grad_()
    optimizer = NonlinearCG([point], max_iter=1, tolerance_change=0, restart_threshold=math.inf)
    closure = closure_for(optimizer, fn, [point])
    for _ in range(3):
        optimizer.step(closure)
    before = optimizer.report
    with host_reads() as reads:
        optimizer.step(closure)
    after = optimizer.report
    assert after.restarts == before.restarts
    evaluations = after.function_evaluations - before.function_evaluations
    # The first evaluation has no slope to read.
    assert reads == ["aten._local_scalar_dense"] * (5 + 4 * evaluations - 1)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_state_dict_continues_bitwise(tmp_path, name, beta):
    fn, start = PROBLEMS[name]
    point = start.clone().requires_grad_()
    optimizer = NonlinearCG([point], max_iter=2, tolerance_change=0, beta=beta)
    closure = closure_for(optimizer, fn, [point])
    for _ in range(3):
        optimizer.step(closure)
    saved, saved_point = optimizer.state_dict(), point.detach().clone()
    frozen = copy.deepcopy(saved)
    torch.save(saved, tmp_path / "state.pt")
    continued = []
    for _ in range(4):
        optimizer.step(closure)
        continued.append(point.detach().clone())

    for state in (saved, torch.load(tmp_path / "state.pt", weights_only=True)):
        again = saved_point.clone().requires_grad_()
        fresh = NonlinearCG([again])
        fresh.load_state_dict(state)
        for expected in continued:
            fresh.step(closure_for(fresh, fn, [again]))
            assert torch.equal(again.detach(), expected)
        assert fresh.report == optimizer.report
    for key, value in frozen["state"][0].items():
        same = torch.equal if isinstance(value, torch.Tensor) else float.__eq__
        assert same(saved["state"][0][key], value) if isinstance(value, (torch.Tensor, float)) else True
        assert type(saved["state"][0][key]) in (torch.Tensor, int, float)


def test_report_starts_empty_and_the_state_is_two_vectors():
    point = torch.ones(10, dtype=torch.float64, requires_grad=True)
    optimizer = NonlinearCG([point])
    assert optimizer.report.iterations == 0 and optimizer.report.reason == "not started"
    assert not optimizer.report.converged
    with torch.no_grad():
        point.mul_(-1)
    optimizer.step(closure_for(optimizer, chained_rosenbrock, [point]))
    tensors = [value for value in optimizer.state[point].values() if isinstance(value, torch.Tensor)]
    assert [tensor.numel() for tensor in tensors] == [10, 10]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ([], {}, ValueError, "empty parameter list"),
        ([{"params": []}], {}, ValueError, "no parameter elements"),
        ([torch.empty(0, requires_grad=True)], {}, ValueError, "no parameter elements"),
        ([torch.ones(2).cfloat()], {}, TypeError, r"params\[0\] must have dtype float32 or float64"),
        ([torch.ones(2).half()], {}, TypeError, r"params\[0\] must have dtype float32 or float64"),
        ([torch.eye(2).to_sparse()], {}, TypeError, r"params\[0\] must be dense"),
        ([torch.ones(2), torch.ones(2).double()], {}, TypeError, r"params\[1\] is torch.float64"),
        ([torch.ones(2), torch.ones(2, device="meta")], {}, ValueError, r"params\[1\] is on meta"),
        ([{"params": [torch.ones(1)]}, {"params": [torch.ones(1)]}], {}, ValueError, "one parameter group only"),
        ([torch.ones(2)], {"lr": 0}, ValueError, "lr must be > 0"),
        ([torch.ones(2)], {"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ([torch.ones(2)], {"max_eval": 0}, ValueError, "max_eval must be >= 1"),
        ([torch.ones(2)], {"tolerance_grad": -1}, ValueError, "tolerance_grad must be >= 0"),
        ([torch.ones(2)], {"tolerance_change": math.nan}, ValueError, "tolerance_change must be finite"),
        ([torch.ones(2)], {"beta": "dai_yuan"}, ValueError, "beta must be one of polak_ribiere_plus, fletcher_reeves"),
        ([torch.ones(2)], {"restart_interval": 0}, ValueError, "restart_interval must be >= 1"),
        ([torch.ones(2)], {"restart_threshold": 0.0}, ValueError, "restart_threshold must be > 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        NonlinearCG(arguments, **options)


@pytest.mark.parametrize(
    ("closure", "error", "message"),
    [
        (None, TypeError, "NonlinearCG.step needs a closure"),
        (lambda: 1.0, TypeError, "closure must return the loss as a torch.Tensor"),
        (lambda: torch.ones(2), ValueError, "closure must return one element"),
        (lambda: torch.ones(()), ValueError, "closure left no parameter with a gradient"),
    ],
)
def test_wrong_closures_are_named(closure, error, message):
    optimizer = NonlinearCG([torch.ones(2, requires_grad=True)])
    with pytest.raises(error, match=message):
        optimizer.step(closure)
    with pytest.raises(TypeError, match=r"NonlinearCG\.step needs a closure"):
        optimizer.step()


def test_a_schedule_that_sets_the_rate_to_zero_is_refused_before_anything_moves():
    point = torch.ones(2, requires_grad=True)
    optimizer = NonlinearCG([point])
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch / 10)
    with pytest.raises(ValueError, match=r"lr must be > 0, got 0\.0"):
        optimizer.step(closure_for(optimizer, torch.sum, [point]))
    assert torch.equal(point.detach(), torch.ones(2)) and optimizer.report.function_evaluations == 0


@pytest.mark.parametrize("last", range(2, 9))
def test_a_closure_that_raises_leaves_the_last_point_accepted(last):
    point = ROSENBROCK_START.clone().requires_grad_()
    optimizer = NonlinearCG([point], max_iter=50)
    visited = []

    def closure():
        loss = closure_for(optimizer, chained_rosenbrock, [point])()
        visited.append((loss.item(), point.detach().clone()))
        if len(visited) == last:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert any(torch.equal(point.detach(), place) for _, place in visited[:-1])
    assert not torch.equal(point.detach(), visited[-1][1])
    before = chained_rosenbrock(point.detach())
    assert before.item() <= visited[0][0]
    assert optimizer.step(closure) == before and chained_rosenbrock(point.detach()) < before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", PROBLEMS)
def test_cuda_follows_the_cpu(name):
    fn, start = PROBLEMS[name]
    on_cpu, _, cpu_trace = minimise(fn, start, max_iter=8)
    on_gpu, optimizer, gpu_trace = minimise(fn, start.cuda(), max_iter=8)
    assert on_gpu.is_cuda and optimizer.state_dict()["state"][0]["direction"].is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-8, atol=1e-8)
    assert len(gpu_trace) == len(cpu_trace)
