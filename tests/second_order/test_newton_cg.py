"""Newton-CG against algorithm 7.1 with a dense Hessian, step by step, and against scipy's minima."""

import importlib
import itertools
import math
import weakref

import numpy
import pytest
import scipy.optimize
import torch

from steepest.second_order import newton_cg
from steepest.second_order.newton_cg import CurvatureGraph
from tests.host_reads import host_reads
from tests.second_order.problems import chained_rosenbrock, extended_rosenbrock

# The package exports a function of this name too.
MODULE = importlib.import_module("steepest.second_order.newton_cg")

FEATURES = torch.randn(200, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def logistic_regression(x):
    features = FEATURES.to(x)
    signs = torch.where(torch.arange(200, device=x.device) % 3 == 0, 1.0, -1.0).to(x)
    return torch.nn.functional.softplus(-signs * (features @ x)).mean() + 0.01 * x.square().sum()


def saddle(x):
    return x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4


PROBLEMS = {
    "chained Rosenbrock": (chained_rosenbrock, torch.tensor([-1.2, 1.0] * 3, dtype=torch.float64)),
    "extended Rosenbrock": (extended_rosenbrock, torch.tensor([-1.2, 1.0] * 3, dtype=torch.float64)),
    "logistic regression": (logistic_regression, torch.linspace(-2, 2, 15, dtype=torch.float64)),
    "saddle": (saddle, torch.tensor([0.8, 0.4], dtype=torch.float64)),
}


def algorithm_7_1(gradient, matrix, forcing):
    """Return p, the products used and whether negative curvature was met, for B = matrix (dense, numpy).

    N&W's letters: z_j, r_j, d_j; the loop ends at |r| <= ε = min(η, sqrt|∇f|) |∇f|.
    """
    norm = numpy.linalg.norm(gradient)
    epsilon = min(forcing, math.sqrt(norm)) * norm
    z, r = numpy.zeros_like(gradient), gradient.copy()
    d = -r
    for j in range(20 * len(gradient)):
        curvature = d @ matrix @ d
        if curvature <= 0:
            return (-gradient if j == 0 else z), j + 1, True
        alpha = (r @ r) / curvature
        z = z + alpha * d
        new = r + alpha * matrix @ d
        if numpy.linalg.norm(new) <= epsilon:
            return z, j + 1, False
        d = -new + (new @ new) / (r @ r) * d
        r = new
    raise AssertionError("the inner loop didn't end")


@pytest.mark.parametrize(("damping", "forcing"), [(0.0, 0.5), (0.0, 0.25), (0.3, 0.25), (20.0, 0.5)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_step_is_that_of_the_textbook_with_a_dense_hessian(name, damping, forcing):
    fn, start = PROBLEMS[name]
    points = [start]
    # 0.25 is the default.
    options = {} if forcing == 0.25 else {"forcing": forcing}
    result = newton_cg(fn, start, damping=damping, maxiter=12, tolerance_grad=1e-6, callback=points.append, **options)
    assert len(points) == result.iterations + 1 >= 5
    products = negatives = 0
    for before, after in itertools.pairwise(points):
        gradient = torch.func.grad(fn)(before)
        hessian = torch.func.hessian(fn)(before)
        matrix = (hessian + damping * torch.eye(len(start), dtype=torch.float64)).numpy()
        p, used, negative = algorithm_7_1(gradient.numpy(), matrix, forcing)
        direction = torch.from_numpy(p)
        products, negatives = products + used, negatives + negative
        moved = after - before
        step_size = moved.dot(direction) / direction.dot(direction)
        torch.testing.assert_close(moved, step_size * direction, rtol=1e-5, atol=1e-6 * moved.abs().max().item())
        slope, new_slope = gradient.dot(direction), torch.func.grad(fn)(after).dot(direction)
        assert slope < 0 and abs(new_slope) <= 0.9 * abs(slope)
        assert fn(after) <= fn(before) + 1e-4 * step_size * slope
        # Martens (2010), section 4.1, with the model written out.
        model = gradient.numpy() @ p + 0.5 * p @ matrix @ p
        ratio = (fn(before + direction) - fn(before)).item() / model
        if ratio < 0.25 or (negative and used == 1):
            damping *= 3 / 2
        elif ratio > 0.75:
            damping *= 2 / 3
    assert result.hessian_vector_products == products and result.negative_curvatures == negatives
    assert result.damping == pytest.approx(damping, rel=1e-12)
    assert torch.equal(result.x, points[-1])


def test_the_problems_above_meet_negative_curvature_early_late_and_never():
    counts = {name: newton_cg(fn, start).negative_curvatures for name, (fn, start) in PROBLEMS.items()}
    assert counts["logistic regression"] == 0 < min(counts["saddle"], counts["chained Rosenbrock"])


@pytest.mark.parametrize("damping", [0.0, 1.0])
@pytest.mark.parametrize("name", PROBLEMS)
def test_reaches_the_minimum_that_scipy_finds(name, damping):
    fn, start = PROBLEMS[name]

    def gradient(x):
        return torch.func.grad(fn)(torch.from_numpy(x)).numpy()

    def hessian(x):
        return torch.func.hessian(fn)(torch.from_numpy(x)).numpy()

    oracle = scipy.optimize.minimize(
        lambda x: fn(torch.from_numpy(x)).item(),
        start.numpy(),
        jac=gradient,
        hess=hessian,
        method="Newton-CG",
        options={"xtol": 1e-10},
    )
    result = newton_cg(fn, start, damping=damping, tolerance_grad=1e-9)
    assert result.converged and result.reason == "tolerance_grad: largest entry of the gradient"
    numpy.testing.assert_allclose(result.value, oracle.fun, rtol=1e-9, atol=1e-14)
    numpy.testing.assert_allclose(result.x.numpy(), oracle.x, atol=1e-6)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_account_is_what_happened(name):
    fn, start = PROBLEMS[name]
    calls = []

    def counted(x):
        calls.append(1)
        return fn(x)

    result = newton_cg(counted, start)
    # Products don't evaluate the function again.
    assert len(calls) == result.gradient_evaluations < result.hessian_vector_products + result.gradient_evaluations
    assert result.value == fn(result.x).item()
    torch.testing.assert_close(result.gradient, torch.func.grad(fn)(result.x), rtol=1e-10, atol=1e-12)
    assert result.gradient.abs().max() <= 1e-5 and result.damping == 0


def test_products_are_those_of_the_hessian_and_evaluate_nothing_anew():
    fn, start = PROBLEMS["chained Rosenbrock"]
    calls = []

    def counted(x):
        calls.append(1)
        return fn(x)

    graph = CurvatureGraph(counted, start)
    hessian = torch.func.hessian(fn)(start)
    for vector in torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        torch.testing.assert_close(graph.product(vector), hessian @ vector, rtol=1e-12, atol=1e-12)
    assert len(calls) == 1 and graph.products == 4


def test_convergence_is_superlinear():
    fn, start = PROBLEMS["logistic regression"]
    points = [start]
    newton_cg(fn, start, tolerance_grad=1e-13, callback=points.append)
    norms = [torch.func.grad(fn)(point).norm().item() for point in points]
    ratios = [after / before for before, after in itertools.pairwise(norms)]
    assert min(ratios) < 1e-3 and ratios[-2] < 0.2 * ratios[0]
    # |∇f_{k+1}| <= C |∇f_k|^1.5, the order that the forcing terms give, with a constant near that of the start.
    assert all(after <= 3 * before**1.5 for before, after in itertools.pairwise(norms))


def test_negative_curvature_at_once_gives_the_negative_gradient_and_leaves_the_saddle():
    fn, start = PROBLEMS["saddle"]
    start = torch.tensor([0.0, 0.1], dtype=torch.float64)
    points = []
    result = newton_cg(fn, start, callback=points.append)
    moved = points[0] - start
    assert moved[0] == 0 and moved[1] > 0 and result.negative_curvatures >= 1
    assert result.value == pytest.approx(-1) and result.x[1] == pytest.approx(math.sqrt(2), rel=1e-5)


def test_damping_shortens_the_step_and_follows_the_models_word():
    start = torch.full((3,), 2.0, dtype=torch.float64)
    curvature = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def quadratic(x):
        return 0.5 * (curvature * x * x).sum()

    steps = []
    for damping in (0.0, 1.0, 10.0):
        points = []
        result = newton_cg(quadratic, start, damping=damping, maxiter=1, callback=points.append)
        steps.append((points[0] - start).norm().item())
        # On a quadratic the damped model promises too little, so the damping falls.
        assert result.damping == pytest.approx(damping * 2 / 3)
    assert steps == sorted(steps, reverse=True) and steps[2] < 0.5 * steps[0]
    # Negative curvature all around: the damping was too small.
    assert newton_cg(lambda x: -x.square().sum() + x.pow(4).sum(), 0.1 * start, damping=0.5, maxiter=1).damping == 0.75


def test_limits_end_it_and_are_named():
    fn, start = PROBLEMS["chained Rosenbrock"]
    result = newton_cg(fn, start, maxiter=3)
    assert result.reason == "max_iter" and result.iterations == 3 and not result.converged
    short = newton_cg(fn, start, maxiter=1, cg_maxiter=1)
    assert short.hessian_vector_products == 1
    result = newton_cg(fn, torch.ones(6, dtype=torch.float64))
    assert result.converged and result.iterations == 0 and result.gradient_evaluations == 1
    # Reached by the last iteration allowed, it has converged all the same.
    enough = newton_cg(fn, start)
    assert newton_cg(fn, start, maxiter=enough.iterations).converged


@pytest.mark.parametrize("fn", [lambda x: x.log().sum(), lambda x: (x + 1).clamp(min=0).sqrt().sum()])
def test_a_nonfinite_start_is_reported(fn):
    start = -torch.ones(2, dtype=torch.float64)
    result = newton_cg(fn, start)
    assert result.reason == "non-finite loss or gradient" and not result.converged
    assert torch.equal(result.x, start) and result.value == math.inf and result.iterations == 0


def test_nonfinite_trials_shorten_the_step():
    result = newton_cg(lambda x: (5 * x - x.log()).sum(), torch.tensor([0.9], dtype=torch.float64))
    assert result.converged and result.x.item() == pytest.approx(0.2, rel=1e-5)
    assert result.gradient_evaluations > result.iterations + 1


def test_a_decrease_below_rounding_is_named():
    # In float32, 1e8 + x^2 is 1e8 for all small x, though the gradient isn't zero.
    start = torch.tensor([0.5])
    result = newton_cg(lambda x: 1e8 + x.square().sum(), start)
    assert torch.equal(result.x, start) and result.reason.startswith("rounding") and not result.converged


@pytest.mark.parametrize("scale", [1e-30, 1e36])
def test_a_slope_outside_the_range_of_float32_is_not_convergence(scale):
    fn, start = PROBLEMS["extended Rosenbrock"]
    result = newton_cg(lambda x: scale * fn(x), start.float(), tolerance_grad=0)
    assert torch.equal(result.x, start.float()) and not result.converged
    assert result.reason.startswith("rounding")


class WrongGradient(torch.autograd.Function):
    """The square, whose gradient is said to have the other sign."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return -2 * x * grad


def test_a_failed_line_search_is_named_and_leaves_the_point():
    start = torch.ones(3, dtype=torch.float64)
    result = newton_cg(lambda x: WrongGradient.apply(x).sum(), start)
    assert result.reason == "line search failed along the Newton direction" and not result.converged
    assert torch.equal(result.x, start) and result.iterations == 0 and result.value == 3


def test_linear_and_constant_functions():
    result = newton_cg(lambda x: torch.tensor(5.0), torch.ones(2))
    assert result.converged and torch.equal(result.gradient, torch.zeros(2)) and result.value == 5
    linear = CurvatureGraph(torch.sum, torch.ones(2))
    assert torch.equal(linear.product(torch.ones(2)), torch.zeros(2)) and torch.equal(linear.gradient, torch.ones(2))
    # Unbounded below: it goes down as far as the search goes, and doesn't call that convergence.
    result = newton_cg(torch.sum, torch.ones(2, dtype=torch.float64))
    assert result.value < -1e20 and not result.converged and result.negative_curvatures >= 1


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_grad_mode_and_inputs_stay_as_they_are(mode, dtype):
    fn, start = PROBLEMS["logistic regression"]
    x0 = start.to(dtype).requires_grad_()
    with mode():
        result = newton_cg(fn, x0, tolerance_grad=1e-4)
    assert result.converged and result.x.dtype == dtype and result.hessian_vector_products > 0
    assert not result.x.requires_grad and not result.gradient.requires_grad
    assert x0.grad is None and torch.equal(x0.detach(), start.to(dtype))
    torch.testing.assert_close(result.x.double(), newton_cg(fn, start).x, rtol=0, atol=5e-3)


def test_a_graph_is_freed_with_its_point(monkeypatch):
    made, alive = weakref.WeakSet(), []

    class Watched(CurvatureGraph):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.add(self)

    monkeypatch.setattr(MODULE, "CurvatureGraph", Watched)
    fn, start = PROBLEMS["chained Rosenbrock"]
    result = newton_cg(fn, start, maxiter=8, callback=lambda x: alive.append(len(made)))
    # Only the graph of the point that was accepted last.
    assert result.gradient_evaluations > 8 and alive == [1] * 8 and len(made) == 0


def test_one_transfer_a_product_and_an_evaluation():
    fn, start = PROBLEMS["logistic regression"]
    with host_reads() as reads:
        result = newton_cg(fn, start)
    # An evaluation reads value, slope, extremes and norm; a solve two norms, then three scalars a product;
    # an iteration its slope.
    expected = 5 * result.gradient_evaluations + 3 * result.hessian_vector_products + (2 + 1) * result.iterations
    assert len(reads) == expected


@pytest.mark.parametrize(
    ("fn", "x0", "options", "error", "message"),
    [
        (torch.sum, torch.ones(2, 2), {}, ValueError, "x0 must be a non-empty vector"),
        (torch.sum, torch.ones(2).half(), {}, TypeError, "x0 must have dtype float32 or float64"),
        (torch.sum, torch.ones(2).cfloat(), {}, TypeError, "x0 must have dtype float32 or float64"),
        (torch.sum, [1.0], {}, TypeError, "x0 must be a torch.Tensor"),
        (lambda x: x, torch.ones(2), {}, ValueError, "fn must return one element"),
        (lambda x: 1.0, torch.ones(2), {}, TypeError, "fn must return a torch.Tensor"),
        (torch.sum, torch.ones(2), {"damping": -1.0}, ValueError, "damping must be finite and >= 0"),
        (torch.sum, torch.ones(2), {"damping": "0"}, TypeError, "damping must be a Python number"),
        (torch.sum, torch.ones(2), {"tolerance_grad": math.nan}, ValueError, "tolerance_grad must be finite"),
        (torch.sum, torch.ones(2), {"maxiter": 0}, ValueError, "maxiter must be >= 1"),
        (torch.sum, torch.ones(2), {"cg_maxiter": 1.5}, TypeError, "cg_maxiter must be a Python int"),
        (torch.sum, torch.ones(2), {"forcing": 0.0}, ValueError, "forcing must be > 0"),
        (torch.sum, torch.ones(2), {"forcing": 1.0}, ValueError, "forcing must be < 1"),
        (torch.sum, torch.ones(2), {"callback": 1}, TypeError, "callback must be callable or None"),
    ],
)
def test_wrong_arguments_are_named(fn, x0, options, error, message):
    with pytest.raises(error, match=message):
        newton_cg(fn, x0, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", PROBLEMS)
def test_cuda_follows_the_cpu(name):
    fn, start = PROBLEMS[name]
    on_cpu = newton_cg(fn, start, maxiter=4)
    on_gpu = newton_cg(fn, start.cuda(), maxiter=4)
    assert on_gpu.x.is_cuda and on_gpu.gradient.is_cuda
    torch.testing.assert_close(on_gpu.x.cpu(), on_cpu.x, rtol=1e-7, atol=1e-7)
    assert on_gpu.hessian_vector_products == on_cpu.hessian_vector_products
