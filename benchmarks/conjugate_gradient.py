"""Conjugate gradients, linear and nonlinear, and Newton-CG, beside scipy, torchmin and torch.

Run as ``python benchmarks/conjugate_gradient.py``. Four kinds of tables; the first two on a GPU, too:

- Hessian-vector products, through a kept graph, from scratch, and by torch.func; the baseline is a gradient. Target:
  with the graph kept 0.7 of the time from scratch, since the forward pass and the first backward pass are saved.
- ``conjugate_gradient`` beside ``scipy.sparse.linalg.cg`` on a 2-D Laplacian, float64, to a relative residual of 1e-6:
  scipy with torch's product, the baseline, and with its own sparse matrix; and the products alone. On a GPU steepest
  is the baseline. Target: no more time than the baseline.
- ``newton_cg`` beside torchmin's, the baseline, to the same largest entry of the gradient. Target: no more time.
- ``NonlinearCG`` beside scipy's CG, the baseline, and torch.optim.LBFGS: evaluations, of which a step takes all its
  time. Here ``ratio`` is of evaluations. Target: no more of them than the baseline.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy
import scipy.optimize
import scipy.sparse.linalg
import torch
import torchmin
from lbfgs import chained_rosenbrock, extended_rosenbrock, logistic_regression
from side_by_side import Row, Table, Target, compared, devices, interleaved, median_ratio, report

from steepest.second_order import NonlinearCG, conjugate_gradient, hessian_vector_product, newton_cg
from steepest.second_order.newton_cg import CurvatureGraph

GRADIENT_TOLERANCE = 1e-6
SIDE = 200  # points along a side of the Laplacian's grid
PRODUCT_ROUNDS, LINEAR_ROUNDS = 31, 11
OWN = "steepest"
KEPT, FRESH = "product, graph kept", "product from scratch"
SCIPY, SCIPY_SPARSE = "scipy, torch's product", "scipy, its sparse matrix"
PRODUCTS = "products alone"
TORCHMIN = "torchmin"
OWN_NONLINEAR, SCIPY_NONLINEAR = "NonlinearCG PR+", "scipy CG"

Loss = Callable[[torch.Tensor], torch.Tensor]


def perceptron(device: str) -> tuple[Loss, torch.Tensor]:
    """Return the loss of a three-layer tanh network on random data as a function of its flat weights, and a start."""
    generator = torch.Generator().manual_seed(0)
    sizes = (128, 256, 256, 10)
    inputs = torch.randn(512, sizes[0], generator=generator).to(device)
    labels = torch.randint(sizes[-1], (512,), generator=generator).to(device)
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    start = torch.cat([torch.randn(a * b, generator=generator) / b**0.5 for a, b in shapes]).to(device)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        hidden, offset = inputs, 0
        for layer, (rows, columns) in enumerate(shapes):
            matrix = weights[offset : offset + rows * columns].view(rows, columns)
            offset += rows * columns
            hidden = hidden @ matrix.T
            if layer < len(shapes) - 1:
                hidden = torch.tanh(hidden)
        return torch.nn.functional.cross_entropy(hidden, labels)

    return loss, start


def measure_products(device: str) -> Table:
    """Time a gradient, and a Hessian-vector product by each way, on a network of 100,864 weights."""
    loss, start = perceptron(device)
    vector = torch.randn(start.shape, generator=torch.Generator().manual_seed(1)).to(device)
    variable = start.clone().requires_grad_()
    kept = CurvatureGraph(loss, start)
    dual = torch.func.grad(loss)
    contenders = {
        "gradient": lambda: torch.autograd.grad(loss(variable), variable),
        "gradient with its graph kept": lambda: CurvatureGraph(loss, start),
        KEPT: lambda: kept.product(vector),
        FRESH: lambda: hessian_vector_product(loss, start, vector),
        "product, torch.func forward over reverse": lambda: torch.func.jvp(dual, (start,), (vector,)),
    }
    times = interleaved(contenders, PRODUCT_ROUNDS, device)
    why = "the forward pass is too small a part"
    targets = [Target("time of graph kept over from scratch", median_ratio(times[KEPT], times[FRESH]), 0.7, why)]
    title = "Hessian-vector products of a perceptron"
    return Table(title, device, PRODUCT_ROUNDS, "gradient", compared(times, "gradient"), targets)


def laplacian(field: torch.Tensor) -> torch.Tensor:
    """Return the five-point Laplacian, positive definite, of a flat field on a square with zero borders."""
    grid = field.view(SIDE, SIDE)
    result = 4 * grid
    result[1:] -= grid[:-1]
    result[:-1] -= grid[1:]
    result[:, 1:] -= grid[:, :-1]
    result[:, :-1] -= grid[:, 1:]
    return result.view(-1)


def measure_linear(device: str) -> Table:
    """Solve for a random right side."""
    b = torch.randn(SIDE * SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    one = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(SIDE, SIDE))
    eye = scipy.sparse.eye_array(SIDE)
    matrix = (scipy.sparse.kron(one, eye) + scipy.sparse.kron(eye, one)).tocsr()
    operator = scipy.sparse.linalg.LinearOperator(
        matrix.shape, matvec=lambda v: laplacian(torch.from_numpy(v)).numpy(), dtype=numpy.float64
    )
    iterations: dict[str, int] = {}

    def own() -> None:
        iterations[OWN] = conjugate_gradient(laplacian, b, rtol=1e-6, true_residual=False).iterations

    def peer(name: str, operand: object) -> None:
        steps: list[None] = []
        scipy.sparse.linalg.cg(operand, b.numpy(), rtol=1e-6, callback=lambda x: steps.append(None))
        iterations[name] = len(steps)

    def products() -> None:
        for _ in range(iterations[OWN]):
            laplacian(b)

    contenders: dict[str, Callable[[], object]] = {OWN: own, PRODUCTS: products}
    if device == "cpu":
        contenders[SCIPY] = partial(peer, SCIPY, operator)
        contenders[SCIPY_SPARSE] = partial(peer, SCIPY_SPARSE, matrix)
    baseline = SCIPY if device == "cpu" else OWN
    rows = compared(interleaved(contenders, LINEAR_ROUNDS, device), baseline)
    for name, row in rows.items():
        row["iterations"] = iterations.get(name)
    targets = []
    if device == "cpu":
        why = f"the products alone take {rows[PRODUCTS]['ratio']:.3f}"
        targets.append(Target("time of conjugate_gradient over scipy's cg", rows[OWN]["ratio"], 1.0, why))
    return Table(f"linear CG, Laplacian of {SIDE} x {SIDE}", device, LINEAR_ROUNDS, baseline, rows, targets)


def gradient_max(loss: Loss, x: torch.Tensor) -> float:
    """Return the largest entry of the gradient, computed anew."""
    variable = x.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(variable), variable)[0].abs().max().item()


class Counted:
    """A function that counts its calls."""

    def __init__(self, fn: Loss) -> None:
        self.fn = fn
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.fn(x)


def iterations_of_torchmin(loss: Loss, start: torch.Tensor) -> int:
    """Return after how many iterations torchmin's gradient is as small as `newton_cg` makes it.

    torchmin ends by the length of its step, which says little about the gradient. So it is run once with a test in
    the callback, and then timed for that many iterations without one.
    """
    seen = []

    def reached(x: torch.Tensor) -> bool:
        with torch.enable_grad():
            seen.append(gradient_max(loss, x))
        return seen[-1] <= GRADIENT_TOLERANCE

    torchmin.minimize(loss, start, method="newton-cg", max_iter=1000, options={"xtol": 0.0}, callback=reached)
    return len(seen)


def problems() -> dict[str, tuple[Loss, torch.Tensor, int]]:
    """Return losses, starts and rounds."""
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    return {
        "extended Rosenbrock, D = 1000": (extended_rosenbrock, start.repeat(500), 11),
        "chained Rosenbrock, D = 100": (chained_rosenbrock, start.repeat(50), 3),
        "logistic regression, D = 1000, n = 5000": (
            logistic_regression(5000, 1000, seed=0),
            torch.zeros(1000, dtype=torch.float64),
            3,
        ),
    }


def measure_newton(problem: str, loss: Loss, start: torch.Tensor, rounds: int) -> Table:
    """Minimise by both Newton-CGs to the same largest entry of the gradient."""
    limit = iterations_of_torchmin(loss, start)
    runs: dict[str, Callable[[Loss], object]] = {
        OWN: lambda fn: newton_cg(fn, start, tolerance_grad=GRADIENT_TOLERANCE),
        "steepest, η <= 0.5": lambda fn: newton_cg(fn, start, tolerance_grad=GRADIENT_TOLERANCE, forcing=0.5),
        TORCHMIN: lambda fn: torchmin.minimize(fn, start, method="newton-cg", max_iter=limit, options={"xtol": 0.0}),
    }
    rows = compared(interleaved({name: partial(run, loss) for name, run in runs.items()}, rounds, "cpu"), TORCHMIN)
    for name, run in runs.items():
        counted = Counted(loss)
        result = run(counted)
        peer = name == TORCHMIN
        rows[name] |= {
            "iterations": result.nit if peer else result.iterations,
            "evaluations": counted.calls,
            "products": result.ncg if peer else result.hessian_vector_products,
            "loss": loss(result.x).item(),
            "gradient_max": gradient_max(loss, result.x),
        }
    targets = [Target("time of newton_cg over torchmin's", rows[OWN]["ratio"], 1.0, "see evaluations and products")]
    return Table(f"Newton-CG: {problem}", "cpu", rounds, TORCHMIN, rows, targets)


def minimise_by(
    kind: type[torch.optim.Optimizer],
    loss: Loss,
    start: torch.Tensor,
    **options: object,
) -> tuple[torch.Tensor, int]:
    """Minimise by an optimizer in a single step; return the point and the evaluations."""
    point = start.clone().requires_grad_()
    optimizer = kind(
        [point], max_iter=5000, max_eval=20_000, tolerance_grad=GRADIENT_TOLERANCE, tolerance_change=0, **options
    )
    evaluations = 0

    def closure() -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        point.grad = None
        value = loss(point)
        value.backward()
        return value

    optimizer.step(closure)
    return point.detach(), evaluations


def minimise_by_scipy(loss: Loss, start: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Minimise by scipy's nonlinear CG (Polak-Ribière+) with values and gradients from torch."""

    def value_and_gradient(x: numpy.ndarray) -> tuple[float, numpy.ndarray]:
        point = torch.from_numpy(x).requires_grad_()
        value = loss(point)
        return value.item(), torch.autograd.grad(value, point)[0].numpy()

    options = {"gtol": GRADIENT_TOLERANCE, "maxiter": 5000}
    result = scipy.optimize.minimize(value_and_gradient, start.numpy(), jac=True, method="CG", options=options)
    return torch.from_numpy(result.x), result.nfev


def measure_nonlinear(problem: str, loss: Loss, start: torch.Tensor) -> Table:
    """Count evaluations to the same largest entry of the gradient."""
    fletcher_reeves = {"beta": "fletcher_reeves"}
    lbfgs = {"history_size": 10, "line_search_fn": "strong_wolfe"}
    ends = {
        OWN_NONLINEAR: minimise_by(NonlinearCG, loss, start),
        "NonlinearCG PR+, restarts by (5.52)": minimise_by(NonlinearCG, loss, start, restart_threshold=0.1),
        "NonlinearCG FR": minimise_by(NonlinearCG, loss, start, **fletcher_reeves),
        "NonlinearCG FR, no restarts by (5.52)": minimise_by(
            NonlinearCG, loss, start, restart_threshold=float("inf"), **fletcher_reeves
        ),
        SCIPY_NONLINEAR: minimise_by_scipy(loss, start),
        "torch LBFGS, m = 10": minimise_by(torch.optim.LBFGS, loss, start, **lbfgs),
    }
    base = ends[SCIPY_NONLINEAR][1]
    rows: dict[str, Row] = {
        name: {
            "ratio": count / base,
            "evaluations": count,
            "loss": loss(point).item(),
            "gradient_max": gradient_max(loss, point),
        }
        for name, (point, count) in ends.items()
    }
    why = "c2 = 0.1 here, 0.4 there: closer searches, fewer directions"
    targets = [Target("evaluations over scipy's CG", rows[OWN_NONLINEAR]["ratio"], 1.0, why)]
    return Table(f"nonlinear CG: {problem}", "cpu", 1, SCIPY_NONLINEAR, rows, targets)


def tables() -> Iterator[Table]:
    """Measure products and linear systems on all devices, minimisations on the CPU."""
    for device in devices():
        yield measure_products(device)
        yield measure_linear(device)
    for problem, (loss, start, rounds) in problems().items():
        yield measure_newton(problem, loss, start, rounds)
        yield measure_nonlinear(problem, loss, start)


def main() -> None:
    """Measure, print the tables, write the results."""
    report("conjugate_gradient", tables, ["scipy", "pytorch-minimize"])


if __name__ == "__main__":
    main()
