"""A step of AdaHessian beside pytorch_optimizer's, on networks of a million parameters.

Run as ``python benchmarks/adahessian.py``. A step is gradient, Hessian-vector product and update, from the loss to the
moved parameters. The contenders train copies of one network on the same batch and take turns in one process, each first
in its turn; times are of the processor, on one CPU thread, and ratios are medians over the rounds. On a GPU, where
there is one, they are of the wall clock after synchronisation. ``gradient + HVP`` is what no implementation can save:
loss, gradient with its graph and one Hessian-vector product with fixed signs, and no update. Results go to
``benchmarks/results/adahessian.json``.
"""

import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytorch_optimizer
import torch
from threadpoolctl import threadpool_limits

from steepest.second_order import AdaHessian

OWN = "steepest AdaHessian"
BASELINE = "pytorch_optimizer"
LIMIT = "gradient + HVP"
TARGET = 0.95
ROUNDS = 41
RESULTS = Path(__file__).parent / "results" / "adahessian.json"


@dataclass(frozen=True)
class Problem:
    """A network with a million parameters, and the shape of its batches."""

    name: str
    layers: Callable[[], torch.nn.Module]
    batch: tuple[int, ...]


def perceptron() -> torch.nn.Module:
    """Return a network of five square layers; 1.03 million parameters."""
    layers = [layer for _ in range(4) for layer in (torch.nn.Linear(450, 450), torch.nn.Tanh())]
    return torch.nn.Sequential(*layers, torch.nn.Linear(450, 450))


def convolutions() -> torch.nn.Module:
    """Return a network of four convolutions; 1.03 million parameters."""
    layers = [layer for _ in range(3) for layer in (torch.nn.Conv2d(170, 170, 3, padding=1), torch.nn.Tanh())]
    return torch.nn.Sequential(*layers, torch.nn.Conv2d(170, 170, 3, padding=1))


PROBLEMS = [
    Problem("perceptron, batch 8", perceptron, (8, 450)),
    Problem("perceptron, batch 128", perceptron, (128, 450)),
    Problem("convolutions, batch 2 of 8 x 8", convolutions, (2, 170, 8, 8)),
]


def own_step(network: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Return a step of this package's AdaHessian."""
    optimizer = AdaHessian(network.parameters(), lr=1e-3, eps=1e-4)
    return lambda: optimizer.step(loss)


def peer_step(network: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Return a step of pytorch_optimizer's AdaHessian as its documentation shows it."""
    optimizer = pytorch_optimizer.AdaHessian(network.parameters(), lr=1e-3, eps=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward(create_graph=True)
        optimizer.step()

    return step


def limit_step(network: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Return the part of a step that differentiates."""
    params = list(network.parameters())
    signs = [torch.ones_like(param) for param in params]

    def step() -> None:
        gradients = torch.autograd.grad(loss(), params, create_graph=True)
        torch.autograd.grad(gradients, params, signs)

    return step


CONTENDERS = {OWN: own_step, BASELINE: peer_step, LIMIT: limit_step}


def measure(problem: Problem, device: torch.device) -> dict[str, dict[str, float]]:
    """Return for each contender the median time of a step and its median ratio to the baseline."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(problem.batch, device=device), torch.randn(problem.batch, device=device)
    steps = {}
    for name, contender in CONTENDERS.items():
        torch.manual_seed(1)
        network = problem.layers().to(device)

        def loss(network: torch.nn.Module = network) -> torch.Tensor:
            return torch.nn.functional.mse_loss(network(inputs), targets)

        steps[name] = contender(network, loss)

    def seconds(step: Callable[[], None]) -> float:
        if device.type == "cpu":
            began = time.process_time()
            step()
            return time.process_time() - began
        torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(seconds(steps[name]))
    return {
        name: {
            "time_ratio": statistics.median(t / base for t, base in zip(own, times[BASELINE], strict=True)),
            "milliseconds": 1e3 * statistics.median(own),
        }
        for name, own in times.items()
    }


def main() -> None:
    """Measure all problems, print a table, write the results."""
    torch.set_num_threads(1)
    # That a gradient with a graph refers to itself is what the peer's usage is.
    warnings.filterwarnings("ignore", message="Using backward")
    devices = [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()
    results = {}
    for device in devices:
        for problem in PROBLEMS:
            rows = measure(problem, device)
            title = f"{problem.name}, {device.type}"
            results[title] = {"target": TARGET, "rounds": ROUNDS, "contenders": rows}
            print(f"\n{title} ({ROUNDS} rounds)\n  {'':20} {'time ratio':>10} {'ms':>9}")
            for name, row in rows.items():
                print(f"  {name:20} {row['time_ratio']:>10.3f} {row['milliseconds']:>9.2f}")
            verdict = "met" if rows[OWN]["time_ratio"] <= TARGET else "missed"
            print(f"  time target {TARGET}: {verdict}; the limit is {rows[LIMIT]['time_ratio']:.3f}")
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_optimizer": version("pytorch_optimizer"),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"versions": versions, "problems": results}, indent=2) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
