"""L-BFGS beside torch.optim.LBFGS and scipy's L-BFGS-B: time, evaluations and final loss.

Run as ``python benchmarks/lbfgs.py``. float64, history 10, to |g|_inf <= 1e-6; all minimise the same torch function
from the same start, and the time is that of the whole minimisation.

Contenders: steepest's LBFGS; torch's with its strong Wolfe search, the baseline; on the CPU scipy's; ``bare two-loop``,
the textbook recursion with the same line search and nothing else: no checks of gradients, tolerances or curvature, no
state, one parameter, and gradients that aren't copied, which a closure that zeroes them would overwrite; and ``closure
alone``, as many evaluations as steepest's without any optimizer: no ratio can get below it.

Targets: of the baseline's time 0.55 on Rosenbrock's functions and 0.90 on logistic regression, a little less than a
plain implementation takes; and 1.02 of its evaluations.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy
import torch
from scipy.optimize import minimize
from side_by_side import Row, Table, Target, compared, devices, interleaved, report

from steepest.second_order import LBFGS, strong_wolfe

HISTORY = 10
TOLERANCE = 1e-6
MAX_ITERATIONS = 20_000
EVALUATIONS_TARGET = 1.02
OWN = "steepest LBFGS"
BASELINE = "torch.optim.LBFGS"
BARE = "bare two-loop"
ALONE = "closure alone"


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
    """One minimisation: its counts, and where it ended."""

    iterations: int
    evaluations: int
    point: torch.Tensor


def extended_rosenbrock(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of independent Rosenbrock functions of the pairs (x_1, x_2), (x_3, x_4), ..."""
    odd, even = x[0::2], x[1::2]
    return (100 * (even - odd**2) ** 2 + (1 - odd) ** 2).sum()


def chained_rosenbrock(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of Rosenbrock functions of all neighbours (x_i, x_{i+1})."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def logistic_regression(
    samples: int, features: int, seed: int, device: str = "cpu"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the mean logistic loss with a small ridge, on labels drawn from a logistic model."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, dtype=torch.float64, generator=generator)
    weights = torch.randn(features, dtype=torch.float64, generator=generator) / features**0.5
    uniforms = torch.rand(samples, dtype=torch.float64, generator=generator)
    signs = torch.where(uniforms < torch.sigmoid(3 * x @ weights), 1.0, -1.0).to(device, torch.float64)
    x = x.to(device)

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

    optimizer.step(closure)
    if isinstance(optimizer, LBFGS):
        return Run(optimizer.report.iterations, optimizer.report.function_evaluations, point)
    state = optimizer.state[point]
    return Run(state["n_iter"], state["func_evals"], point)


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
    result = minimize(value_and_gradient, problem.start.numpy(), jac=True, method="L-BFGS-B", options=options)
    return Run(result.nit, result.nfev, torch.from_numpy(result.x))


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
    return Run(iterations, evaluations, point)


def run_closure_alone(problem: Problem, evaluations: int) -> Run:
    """Evaluate loss and gradient so many times at the start, as the other contenders' closures do."""
    point = problem.start.clone().requires_grad_()
    for _ in range(evaluations):
        point.grad = None
        problem.loss(point).backward()
    return Run(0, evaluations, point)


def end(problem: Problem, run: Run) -> Row:
    """Return the counts of a run, and the loss and the largest gradient entry where it ended, computed anew."""
    point = run.point.detach().clone().requires_grad_()
    loss = problem.loss(point)
    (gradient,) = torch.autograd.grad(loss, point)
    return {
        "iterations": run.iterations,
        "evaluations": run.evaluations,
        "loss": loss.item(),
        "gradient_max": gradient.abs().max().item(),
    }


def measure(problem: Problem, device: str) -> Table:
    """Minimise by each contender: once for the counts and the end, then timed."""
    contenders: dict[str, Callable[[], Run]] = {
        OWN: partial(run_torch_optimizer, LBFGS, problem),
        BASELINE: partial(run_torch_optimizer, torch.optim.LBFGS, problem),
        BARE: partial(run_bare, problem),
    }
    if device == "cpu":
        contenders["scipy L-BFGS-B"] = partial(run_scipy, problem)
    runs = {name: contender() for name, contender in contenders.items()}
    contenders[ALONE] = partial(run_closure_alone, problem, runs[OWN].evaluations)
    runs[ALONE] = contenders[ALONE]()
    rows = compared(interleaved(contenders, problem.rounds, device, warm_up=0), BASELINE)
    own, bare, alone = (rows[name]["ratio"] for name in (OWN, BARE, ALONE))
    why = (
        f"{alone:.3f} of it is the closure when it runs alone, which no optimizer can save; {own - alone:.3f} is all"
        f" else, of which the bare two-loop has {bare - alone:.3f}"
    )
    evaluations = runs[OWN].evaluations / runs[BASELINE].evaluations
    targets = [
        Target("time", own, problem.target, why),
        Target("evaluations over torch's", evaluations, EVALUATIONS_TARGET, "rounding leads to another path"),
    ]
    rows = {name: row | end(problem, runs[name]) for name, row in rows.items()}
    return Table(problem.name, device, problem.rounds, BASELINE, rows, targets)


def problems(device: str) -> list[Problem]:
    """Return the problems, built on a device."""
    rosenbrock_start = torch.tensor([-1.2, 1.0], dtype=torch.float64, device=device).repeat(500)
    return [
        Problem("extended Rosenbrock, D = 1000", extended_rosenbrock, rosenbrock_start, 41, 0.55),
        Problem("chained Rosenbrock, D = 1000", chained_rosenbrock, rosenbrock_start, 3, 0.55),
        Problem(
            "logistic regression, D = 1000, n = 5000",
            logistic_regression(5000, 1000, seed=0, device=device),
            torch.zeros(1000, dtype=torch.float64, device=device),
            7,
            0.90,
        ),
    ]


def tables() -> Iterator[Table]:
    """Measure all problems on all devices."""
    for device in devices():
        for problem in problems(device):
            yield measure(problem, device)


def main() -> None:
    """Measure, print the tables, write the results."""
    report("lbfgs", tables, ["scipy"])


if __name__ == "__main__":
    main()
