"""A step of AdaHessian beside pytorch_optimizer's, on networks of a million parameters.

Run as ``python benchmarks/adahessian.py``. A step is gradient, Hessian-vector product and update, from the loss to the
moved parameters; each contender trains its copy of one network on the same batch.

Contenders: steepest's AdaHessian; pytorch_optimizer's, the baseline, as its documentation shows it; and ``gradient +
HVP``, which no implementation can save: loss, gradient with its graph and one Hessian-vector product with fixed
signs, and no update.

Target: 0.95 of the baseline's time; a plain implementation takes about as long as the baseline, because the product is
most of a step.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytorch_optimizer
import torch
from side_by_side import Table, Target, compared, devices, interleaved, report

from steepest.second_order import AdaHessian

OWN = "steepest AdaHessian"
BASELINE = "pytorch_optimizer"
LIMIT = "gradient + HVP"
TARGET = 0.95
ROUNDS = 41


@dataclass(frozen=True)
class Problem:
    """A network with a million parameters, and the shape of its batches."""

    name: str
    layers: Callable[[], torch.nn.Module]
    batch: tuple[int, ...]


def perceptron() -> torch.nn.Module:
    """Return a network of five square layers; 1.01 million parameters."""
    layers = [layer for _ in range(4) for layer in (torch.nn.Linear(450, 450), torch.nn.Tanh())]
    return torch.nn.Sequential(*layers, torch.nn.Linear(450, 450))


def convolutions() -> torch.nn.Module:
    """Return a network of four convolutions; 1.04 million parameters."""
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
    """Return a step of pytorch_optimizer's AdaHessian."""
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


def measure(problem: Problem, device: str) -> Table:
    """Time a step of each contender."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(problem.batch, device=device), torch.randn(problem.batch, device=device)
    steps = {}
    for name, contender in CONTENDERS.items():
        torch.manual_seed(1)
        network = problem.layers().to(device)

        def loss(network: torch.nn.Module = network) -> torch.Tensor:
            return torch.nn.functional.mse_loss(network(inputs), targets)

        steps[name] = contender(network, loss)
    rows = compared(interleaved(steps, ROUNDS, device, warm_up=3), BASELINE)
    why = f"{LIMIT} alone takes {rows[LIMIT]['ratio']:.3f}"
    targets = [Target("time of a step", rows[OWN]["ratio"], TARGET, why)]
    return Table(problem.name, device, ROUNDS, BASELINE, rows, targets)


def tables() -> Iterator[Table]:
    """Measure all problems on all devices."""
    # That a gradient with a graph refers to itself is what the peer's usage is.
    warnings.filterwarnings("ignore", message="Using backward")
    for device in devices():
        for problem in PROBLEMS:
            yield measure(problem, device)


def main() -> None:
    """Measure, print the tables, write the results."""
    report("adahessian", tables, ["pytorch_optimizer"])


if __name__ == "__main__":
    main()
