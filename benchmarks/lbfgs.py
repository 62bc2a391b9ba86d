"""L-BFGS beside torch.optim.LBFGS and scipy's L-BFGS-B: time, evaluations and final loss.

Run as ``python benchmarks/lbfgs.py``. One CPU thread, float64, history 10, to |g|_inf <= 1e-6. The contenders
minimise the same torch function from the same start and take turns in one process, so that a change of the
machine's speed hits all of them; times are of the processor, and the ratios are medians over the rounds.
``closure alone`` is as many evaluations as steepest's without any optimizer: no ratio can get below it. ``bare
two-loop`` is the textbook recursion with the same line search and nothing else: no checks of gradients, tolerances or
curvature, no state, one parameter, and gradients that aren't copied, which a closure that zeroes them would overwrite.
Results go to ``benchmarks/results/lbfgs.json``.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy
import scipy
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from steepest.second_order import LBFGS, strong_wolfe

HISTORY = 10
TOLERANCE = 1e-6
MAX_ITERATIONS = 20_000
OWN = "steepest LBFGS"
BASELINE = "torch.optim.LBFGS"
RESULTS = Path(__file__).parent / "results" / "lbfgs.json"


@dataclass(frozen=True)
class Problem:
    """A function to minimise, its start, how often it is timed, and the time ratio to reach."""

    name: str
    loss: Callable[[torch.Tensor], torch.Tensor]
    start: torch.Tensor
    rounds: int
    target: float


@dataclass(frozen=True)
class Run:
    """One minimisation: processor time in seconds, counts, and where it ended."""

    seconds: float
    iterations: int
    evaluations: int
    loss: float
    gradient_max: float


def extended_rosenbrock(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of independent Rosenbrock functions of the pairs (x_1, x_2), (x_3, x_4), ..."""
    odd, even = x[0::2], x[1::2]
    return (100 * (even - odd**2) ** 2 + (1 - odd) ** 2).sum()


def chained_rosenbrock(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of Rosenbrock functions of all neighbours (x_i, x_{i+1})."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def logistic_regression(samples: int, features: int, seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the mean logistic loss with a small ridge, on labels drawn from a logistic model."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, dtype=torch.float64, generator=generator)
    weights = torch.randn(features, dtype=torch.float64, generator=generator) / features**0.5
    uniforms = torch.rand(samples, dtype=torch.float64, generator=generator)
    signs = torch.where(uniforms < torch.sigmoid(3 * x @ weights), 1.0, -1.0).to(torch.float64)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(-signs * (x @ w)).mean() + 0.5e-3 * torch.dot(w, w)

    return loss


def run_torch_optimizer(kind: type[torch.optim.Optimizer], problem: Problem) -> Run:
    """Minimise by an optimizer with the interface of torch.optim.LBFGS, in a single step."""
    point = problem.start.clone().requires_grad_()
    optimizer = kind(
        [point],
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        point.grad = None
        loss = problem.loss(point)
        loss.backward()
        return loss

    began = time.process_time()
    optimizer.step(closure)
    seconds = time.process_time() - began
    if isinstance(optimizer, LBFGS):
        iterations, evaluations = optimizer.report.iterations, optimizer.report.function_evaluations
    else:
        state = optimizer.state[point]
        iterations, evaluations = state["n_iter"], state["func_evals"]
    return Run(seconds, iterations, evaluations, *end(problem, point))


def run_scipy(problem: Problem) -> Run:
    """Minimise by scipy's L-BFGS-B with the values and gradients from torch."""

    def value_and_gradient(x: numpy.ndarray) -> tuple[float, numpy.ndarray]:
        point = torch.from_numpy(x).requires_grad_()
        loss = problem.loss(point)
        (gradient,) = torch.autograd.grad(loss, point)
        return loss.item(), gradient.numpy()

    options = {
        "maxcor": HISTORY,
        "gtol": TOLERANCE,
        "ftol": 0.0,
        "maxiter": MAX_ITERATIONS,
        "maxfun": 2 * MAX_ITERATIONS,
    }
    began = time.process_time()
    result = minimize(value_and_gradient, problem.start.numpy(), jac=True, method="L-BFGS-B", options=options)
    seconds = time.process_time() - began
    return Run(seconds, result.nit, result.nfev, *end(problem, torch.from_numpy(result.x)))


def run_bare(problem: Problem) -> Run:
    """Minimise by Nocedal & Wright's algorithms 7.4 and 7.5 without any safeguard."""
    point = problem.start.clone().requires_grad_()
    at = point.detach()
    evaluations = 0

    def evaluate(direction: torch.Tensor | None) -> tuple[float, float, torch.Tensor]:
        nonlocal evaluations
        evaluations += 1
        point.grad = None
        with torch.enable_grad():
            loss = problem.loss(point)
            loss.backward()
        slope = 0.0 if direction is None else point.grad.dot(direction).item()
        return loss.item(), slope, point.grad

    began = time.process_time()
    with torch.no_grad():
        value, _, gradient = evaluate(None)
        pairs: list[tuple[torch.Tensor, torch.Tensor, float]] = []
        iterations, scale = 0, 1 / gradient.abs().sum().item()
        while gradient.abs().max() > TOLERANCE:
            direction = -gradient
            alphas = []
            for s, y, rho in reversed(pairs):
                alphas.append(rho * s.dot(direction).item())
                direction.add_(y, alpha=-alphas[-1])
            direction.mul_(scale)
            for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
                direction.add_(s, alpha=alpha - rho * y.dot(direction).item())
            start = at.clone()

            def along(step_size: float, start=start, direction=direction) -> tuple[float, float, torch.Tensor]:
                torch.add(start, direction, alpha=step_size, out=at)
                return evaluate(direction)

            step_size, value, _, _, _, new = strong_wolfe(along, 1.0, value, gradient.dot(direction).item())
            y = new - gradient
            curvature = y.dot(direction).item() * step_size
            scale = curvature / y.dot(y).item()
            pairs = [*pairs[-HISTORY + 1 :], (direction.mul_(step_size), y, 1 / curvature)]
            gradient = new
            iterations += 1
    return Run(time.process_time() - began, iterations, evaluations, *end(problem, point))


def end(problem: Problem, point: torch.Tensor) -> tuple[float, float]:
    """Return the loss and the largest gradient entry at a point, computed anew."""
    point = point.detach().clone().requires_grad_()
    loss = problem.loss(point)
    (gradient,) = torch.autograd.grad(loss, point)
    return loss.item(), gradient.abs().max().item()


def run_closure_alone(problem: Problem, evaluations: int) -> Run:
    """Evaluate loss and gradient so many times at the start, as the other contenders' closures do."""
    point = problem.start.clone().requires_grad_()
    began = time.process_time()
    for _ in range(evaluations):
        point.grad = None
        problem.loss(point).backward()
    return Run(time.process_time() - began, 0, evaluations, *end(problem, point))


CONTENDERS: dict[str, Callable[[Problem], Run]] = {
    OWN: lambda problem: run_torch_optimizer(LBFGS, problem),
    BASELINE: lambda problem: run_torch_optimizer(torch.optim.LBFGS, problem),
    "scipy L-BFGS-B": run_scipy,
    "bare two-loop": run_bare,
}


def measure(problem: Problem) -> dict[str, dict[str, float]]:
    """Return for each contender its counts, end, median time and median time ratio to the baseline."""
    warm_up = {name: contender(problem) for name, contender in CONTENDERS.items()}
    contenders = dict(CONTENDERS)
    contenders["closure alone"] = partial(run_closure_alone, evaluations=warm_up[OWN].evaluations)
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(problem.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            runs[name].append(contenders[name](problem))
    rows = {}
    for name, own in runs.items():
        ratios = [run.seconds / base.seconds for run, base in zip(own, runs[BASELINE], strict=True)]
        rows[name] = {
            "time_ratio": statistics.median(ratios),
            "milliseconds": 1e3 * statistics.median(run.seconds for run in own),
            "iterations": own[0].iterations,
            "evaluations": own[0].evaluations,
            "loss": own[0].loss,
            "gradient_max": own[0].gradient_max,
        }
    return rows


def main() -> None:
    """Measure all problems, print a table, write the results."""
    torch.set_num_threads(1)
    rosenbrock_start = torch.tensor([-1.2, 1.0], dtype=torch.float64).repeat(500)
    problems = [
        Problem("extended Rosenbrock, D = 1000", extended_rosenbrock, rosenbrock_start, 41, 0.55),
        Problem("chained Rosenbrock, D = 1000", chained_rosenbrock, rosenbrock_start, 3, 0.55),
        Problem(
            "logistic regression, D = 1000, n = 5000",
            logistic_regression(5000, 1000, seed=0),
            torch.zeros(1000, dtype=torch.float64),
            7,
            0.90,
        ),
    ]
    results = {}
    for problem in problems:
        rows = measure(problem)
        results[problem.name] = {"target": problem.target, "rounds": problem.rounds, "contenders": rows}
        print(f"\n{problem.name} ({problem.rounds} rounds)")
        heads = f"{'time ratio':>10} {'ms':>9} {'iterations':>10} {'evaluations':>11} {'loss':>12} {'|g|_inf':>8}"
        print(f"  {'':18} {heads}")
        for name, row in rows.items():
            print(
                f"  {name:18} {row['time_ratio']:>10.3f} {row['milliseconds']:>9.2f} {row['iterations']:>10}"
                f" {row['evaluations']:>11} {row['loss']:>12.5g} {row['gradient_max']:>8.1e}"
            )
        own, base = rows[OWN], rows[BASELINE]
        verdict = "met" if own["time_ratio"] <= problem.target else "missed"
        evaluations = own["evaluations"] / base["evaluations"]
        print(f"  time target {problem.target}: {verdict}; evaluations {evaluations:.3f} of torch's")
        if verdict == "missed":
            alone, bare = rows["closure alone"]["time_ratio"], rows["bare two-loop"]["time_ratio"]
            print(
                f"  of the ratio, {alone:.3f} is the closure when it runs alone, which no optimizer can save;"
                f" {own['time_ratio'] - alone:.3f} is all else, of which the bare two-loop has {bare - alone:.3f}"
            )

    versions = {"python": platform.python_version(), "torch": torch.__version__, "scipy": scipy.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"versions": versions, "problems": results}, indent=2) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
