"""Conjugate gradients, linear and nonlinear, and Newton-CG, beside scipy, torchmin and torch.

Run as ``python benchmarks/conjugate_gradient.py``. One CPU thread; contenders take turns in one process, in
rotating order; times are of the processor, and ratios are medians over the rounds. Four tables:

- A Hessian-vector product in units of a gradient: through a kept graph, and from scratch.
- ``conjugate_gradient`` beside ``scipy.sparse.linalg.cg`` on a 2-D Laplacian, with torch's products in both and
  with scipy's own sparse matrix.
- ``newton_cg`` beside torchmin's, to the same largest entry of the gradient.
- ``NonlinearCG`` beside scipy's CG and torch.optim.LBFGS: evaluations, of which a step takes all its time.

With a CUDA GPU the first table and conjugate_gradient are measured there too. Results go to
``benchmarks/results/conjugate_gradient.json``.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy
import scipy.optimize
import scipy.sparse.linalg
import torch
import torchmin
from lbfgs import chained_rosenbrock, extended_rosenbrock, logistic_regression
from threadpoolctl import threadpool_limits

from steepest.second_order import NonlinearCG, conjugate_gradient, hessian_vector_product, newton_cg
from steepest.second_order.newton_cg import CurvatureGraph

RESULTS = Path(__file__).parent / "results" / "conjugate_gradient.json"
GRADIENT_TOLERANCE = 1e-6
SIDE = 200  # points along a side of the Laplacian's grid

Row = dict[str, float | int | str]


def timed(contenders: dict[str, Callable[[], object]], rounds: int, cuda: bool = False) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round, the order rotated from round to round."""
    clock = time.perf_counter if cuda else time.process_time
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        contenders[name]()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if cuda:
                torch.cuda.synchronize()
            began = clock()
            contenders[name]()
            if cuda:
                torch.cuda.synchronize()
            seconds[name].append(clock() - began)
    return seconds


def ratios(seconds: dict[str, list[float]], baseline: str) -> dict[str, float]:
    """Return each contender's median ratio to the baseline's time in the same round."""
    return {
        name: statistics.median(own / base for own, base in zip(times, seconds[baseline], strict=True))
        for name, times in seconds.items()
    }


def perceptron(device: str) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
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


def measure_products(device: str) -> dict[str, Row]:
    """Time a gradient, and a Hessian-vector product by each way, on a network of 101,000 weights."""
    loss, start = perceptron(device)
    vector = torch.randn(start.shape, generator=torch.Generator().manual_seed(1)).to(device)
    variable = start.clone().requires_grad_()
    kept = CurvatureGraph(loss, start)
    dual = torch.func.grad(loss)
    contenders = {
        "gradient": lambda: torch.autograd.grad(loss(variable), variable),
        "gradient with its graph kept": lambda: CurvatureGraph(loss, start),
        "product, graph kept": lambda: kept.product(vector),
        "product from scratch": lambda: hessian_vector_product(loss, start, vector),
        "product, torch.func forward over reverse": lambda: torch.func.jvp(dual, (start,), (vector,)),
    }
    relative = ratios(timed(contenders, 31, device == "cuda"), "gradient")
    return {name: {"gradients": value} for name, value in relative.items()}


def laplacian(field: torch.Tensor) -> torch.Tensor:
    """Return the five-point Laplacian, positive definite, of a flat field on a square with zero borders."""
    grid = field.view(SIDE, SIDE)
    result = 4 * grid
    result[1:] -= grid[:-1]
    result[:-1] -= grid[1:]
    result[:, 1:] -= grid[:, :-1]
    result[:, :-1] -= grid[:, 1:]
    return result.view(-1)


def measure_linear(device: str) -> dict[str, Row]:
    """Solve for a random right side to a relative residual of 1e-6, float64."""
    b = torch.randn(SIDE * SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    one = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(SIDE, SIDE))
    eye = scipy.sparse.eye_array(SIDE)
    matrix = (scipy.sparse.kron(one, eye) + scipy.sparse.kron(eye, one)).tocsr()
    operator = scipy.sparse.linalg.LinearOperator(
        matrix.shape, matvec=lambda v: laplacian(torch.from_numpy(v)).numpy(), dtype=numpy.float64
    )
    iterations: dict[str, int] = {}

    def own() -> None:
        iterations["steepest"] = conjugate_gradient(laplacian, b, rtol=1e-6, true_residual=False).iterations

    def peer(name: str, operand: object) -> Callable[[], None]:
        def solve() -> None:
            steps: list[None] = []
            scipy.sparse.linalg.cg(operand, b.numpy(), rtol=1e-6, callback=lambda x: steps.append(None))
            iterations[name] = len(steps)

        return solve

    def products() -> None:
        vector = b
        for _ in range(iterations["steepest"]):
            laplacian(vector)

    contenders: dict[str, Callable[[], object]] = {"steepest": own, "products alone": products}
    if device == "cpu":
        contenders["scipy, torch's product"] = peer("scipy, torch's product", operator)
        contenders["scipy, its sparse matrix"] = peer("scipy, its sparse matrix", matrix)
    seconds = timed(contenders, 11, device == "cuda")
    relative = ratios(seconds, "steepest" if device == "cuda" else "scipy, torch's product")
    return {
        name: {
            "time_ratio": relative[name],
            "milliseconds": 1e3 * statistics.median(seconds[name]),
            "iterations": iterations.get(name, iterations["steepest"]),
        }
        for name in contenders
    }


def gradient_max(loss: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    """Return the largest entry of the gradient, computed anew."""
    variable = x.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(variable), variable)[0].abs().max().item()


class Counted:
    """A function that counts its calls."""

    def __init__(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.fn = fn
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.fn(x)


def iterations_of_torchmin(loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> int:
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


def problems() -> dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor, int]]:
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


def measure_newton() -> dict[str, dict[str, Row]]:
    """Minimise by both Newton-CGs to the same largest entry of the gradient."""
    tables = {}
    for problem, (loss, start, rounds) in problems().items():
        limit = iterations_of_torchmin(loss, start)
        runs: dict[str, Callable[..., object]] = {
            "steepest": lambda fn, start=start: newton_cg(fn, start, tolerance_grad=GRADIENT_TOLERANCE),
            "steepest, η <= 0.5": lambda fn, start=start: newton_cg(
                fn, start, tolerance_grad=GRADIENT_TOLERANCE, forcing=0.5
            ),
            "torchmin": lambda fn, start=start, limit=limit: torchmin.minimize(
                fn, start, method="newton-cg", max_iter=limit, options={"xtol": 0.0}
            ),
        }
        relative = ratios(timed({name: partial(run, loss) for name, run in runs.items()}, rounds), "torchmin")
        tables[problem] = {}
        for name, run in runs.items():
            counted = Counted(loss)
            result = run(counted)
            peer = name == "torchmin"
            tables[problem][name] = {
                "time_ratio": relative[name],
                "iterations": result.nit if peer else result.iterations,
                "evaluations": counted.calls,
                "products": result.ncg if peer else result.hessian_vector_products,
                "loss": loss(result.x).item(),
                "gradient_max": gradient_max(loss, result.x),
            }
    return tables


def minimise_by(
    kind: type[torch.optim.Optimizer],
    loss: Callable[[torch.Tensor], torch.Tensor],
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


def minimise_by_scipy(loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Minimise by scipy's nonlinear CG (Polak-Ribière+) with values and gradients from torch."""

    def value_and_gradient(x: numpy.ndarray) -> tuple[float, numpy.ndarray]:
        point = torch.from_numpy(x).requires_grad_()
        value = loss(point)
        return value.item(), torch.autograd.grad(value, point)[0].numpy()

    options = {"gtol": GRADIENT_TOLERANCE, "maxiter": 5000}
    result = scipy.optimize.minimize(value_and_gradient, start.numpy(), jac=True, method="CG", options=options)
    return torch.from_numpy(result.x), result.nfev


def measure_nonlinear() -> dict[str, dict[str, Row]]:
    """Count evaluations to the same largest entry of the gradient."""
    tables = {}
    for problem, (loss, start, _) in problems().items():
        fletcher_reeves = {"beta": "fletcher_reeves"}
        ends = {
            "NonlinearCG PR+": minimise_by(NonlinearCG, loss, start),
            "NonlinearCG PR+, restarts by (5.52)": minimise_by(NonlinearCG, loss, start, restart_threshold=0.1),
            "NonlinearCG FR": minimise_by(NonlinearCG, loss, start, **fletcher_reeves),
            "NonlinearCG FR, no restarts by (5.52)": minimise_by(
                NonlinearCG, loss, start, restart_threshold=float("inf"), **fletcher_reeves
            ),
            "scipy CG": minimise_by_scipy(loss, start),
            "torch LBFGS, m = 10": minimise_by(
                torch.optim.LBFGS, loss, start, history_size=10, line_search_fn="strong_wolfe"
            ),
        }
        tables[problem] = {
            name: {"evaluations": count, "loss": loss(point).item(), "gradient_max": gradient_max(loss, point)}
            for name, (point, count) in ends.items()
        }
    return tables


def show(title: str, rows: dict[str, Row]) -> None:
    """Print one table."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    print(f"\n{title}\n  {'':42}" + "".join(f"{column:>14}" for column in columns))
    for name, row in rows.items():
        print(f"  {name:42}" + "".join(f"{row[column]:>14.5g}" for column in columns))


def verdict(what: str, value: float, target: float, why: str) -> dict[str, object]:
    """Print and return whether a target is met, and the reason if it isn't."""
    met = value <= target
    print(f"  {what}: {value:.3f}, target {target}: " + ("met" if met else f"missed; {why}"))
    return {"what": what, "value": value, "target": target, "met": met}


def main() -> None:
    """Measure, print the tables, write the results."""
    torch.set_num_threads(1)
    results: dict[str, object] = {}
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        products = measure_products(device)
        show(f"Hessian-vector products on {device}, in gradients", products)
        kept, fresh = (products[name]["gradients"] for name in ("product, graph kept", "product from scratch"))
        targets = [
            verdict("graph kept over from scratch", kept / fresh, 0.7, "the forward pass is too small a part"),
        ]
        linear = measure_linear(device)
        show(f"linear CG on {device}, Laplacian of {SIDE} x {SIDE}", linear)
        if device == "cpu":
            alone = linear["products alone"]["time_ratio"]
            why = f"the products alone take {alone:.3f}"
            targets.append(verdict("conjugate_gradient over scipy's cg", linear["steepest"]["time_ratio"], 1.0, why))
        results[device] = {"products": products, "linear": linear, "targets": targets}
    newton = measure_newton()
    for problem, rows in newton.items():
        show(f"Newton-CG: {problem}", rows)
        verdict("newton_cg over torchmin's", rows["steepest"]["time_ratio"], 1.0, "see evaluations and products")
    nonlinear = measure_nonlinear()
    for problem, rows in nonlinear.items():
        show(f"Nonlinear CG: {problem}", rows)
        over = rows["NonlinearCG PR+"]["evaluations"] / rows["scipy CG"]["evaluations"]
        verdict("evaluations over scipy's CG", over, 1.0, "c2 = 0.1 here, 0.4 there: closer searches, fewer directions")
    results.update(newton=newton, nonlinear=nonlinear)
    results["versions"] = {"python": platform.python_version(), "torch": torch.__version__, "scipy": scipy.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
