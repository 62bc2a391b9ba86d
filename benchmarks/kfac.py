"""A KFAC training step beside a plain SGD step, and beside curvlinops' KFAC where that computes the same.

Run as ``python benchmarks/kfac.py``. float32. A step is forward pass, backward pass, and the optimizer's work; with an
interval of k, factors and inverses are renewed once in k steps, and the time is the mean over those k.

Contenders: torch's SGD, the baseline; steepest's KFAC with several intervals; and ``steepest, exact`` and ``curvlinops,
exact``, which take the expectation over all classes and renew everything at each step, without running averages.
curvlinops makes its factors in a forward pass of its own. The steps that the exact two propose are compared first:
their relative difference is ``deviation``, and one beyond rounding ends the benchmark.

Target: steepest's exact step takes no longer than curvlinops'.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from curvlinops import KFACInverseLinearOperator, KFACLinearOperator
from curvlinops.kfac import FisherType
from side_by_side import Table, Target, compared, devices, interleaved, median_ratio, report
from torch.nn.functional import cross_entropy

from steepest.second_order import KFAC

DAMPING = 1e-2
ROUNDS = 7
INTERVALS = (1, 10, 50)
BASELINE = "SGD"
OWN, PEER = "steepest, exact", "curvlinops, exact"
# The steps of the two libraries agree to rounding; this is far above it and far below any other scheme's.
AGREEMENT = 1e-3


@dataclass(frozen=True)
class Problem:
    """A network, built anew for each contender, and a batch for it."""

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True)
class Contender:
    """A function that takes a step, and how many steps make a period of its costs."""

    step: Callable[[], None]
    period: int

    def run(self) -> None:
        """Take the steps of a period."""
        for _ in range(self.period):
            self.step()


def mlp() -> torch.nn.Module:
    """Return a perceptron with two hidden layers."""
    torch.manual_seed(0)
    sizes = (784, 256, 256)
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    return torch.nn.Sequential(*hidden, torch.nn.Linear(256, 10))


def convolutional() -> torch.nn.Module:
    """Return a network of two convolutions and a linear layer."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 7 * 7, 10),
    )


def sgd(problem: Problem) -> Contender:
    """Return torch's SGD."""
    model = problem.build().to(problem.inputs.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(problem.inputs), problem.targets).backward()
        optimizer.step()

    return Contender(step, 10)


def steepest(problem: Problem, interval: int, samples: int | None = 1, decay: float = 0.95) -> Contender:
    """Return our KFAC."""
    model = problem.build().to(problem.inputs.device)
    optimizer = KFAC(
        model.parameters(),
        model,
        lr=1e-3,
        damping=DAMPING,
        decay=decay,
        factor_interval=interval,
        inverse_interval=interval,
        samples=samples,
    )

    def step() -> None:
        optimizer.zero_grad()
        outputs = model(problem.inputs)
        optimizer.update_factors(outputs)
        cross_entropy(outputs, problem.targets).backward()
        optimizer.step()

    return Contender(step, interval)


def curvlinops(problem: Problem) -> Contender:
    """Return a step with curvlinops' factors and inverses, both new at each step."""
    model = problem.build().to(problem.inputs.device)
    parameters = list(model.parameters())

    def step() -> None:
        model.zero_grad()
        cross_entropy(model(problem.inputs), problem.targets).backward()
        factors = KFACLinearOperator(
            model,
            torch.nn.CrossEntropyLoss(),
            parameters,
            [(problem.inputs, problem.targets)],
            check_deterministic=False,
            fisher_type=FisherType.TYPE2,
            num_per_example_loss_terms=1,
            separate_weight_and_bias=False,
            num_data=len(problem.inputs),
        )
        inverse = KFACInverseLinearOperator(factors, damping=DAMPING, use_heuristic_damping=True)
        directions = inverse @ [p.grad for p in parameters]
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=-1e-3)

    return Contender(step, 1)


def deviation(problem: Problem) -> float:
    """Return the relative difference of the first steps by curvlinops and by us, both exact."""
    moves = []
    for make in (curvlinops, lambda problem: steepest(problem, 1, None, 0.0)):
        models: list[torch.nn.Module] = []

        def build(models: list[torch.nn.Module] = models) -> torch.nn.Module:
            models.append(problem.build())
            return models[-1]

        contender = make(replace(problem, build=build))
        before = [p.detach().clone() for p in models[0].parameters()]
        contender.step()
        moves.append(
            torch.cat([(p - q).detach().flatten() for p, q in zip(models[0].parameters(), before, strict=True)])
        )
    return ((moves[0] - moves[1]).norm() / moves[0].norm()).item()


def measure(problem: Problem, device: str) -> Table:
    """Compare the exact steps, then time a step of each contender."""
    difference = deviation(problem)
    if difference > AGREEMENT:
        raise RuntimeError(f"the steps differ by {difference:.1e}: the contenders don't compute the same")
    contenders = {
        BASELINE: sgd(problem),
        **{f"steepest, interval {k}": steepest(problem, k) for k in INTERVALS},
        OWN: steepest(problem, 1, None, 0.0),
        PEER: curvlinops(problem),
    }
    periods = interleaved({name: contender.run for name, contender in contenders.items()}, ROUNDS, device)
    times = {name: [t / contenders[name].period for t in own] for name, own in periods.items()}
    why = "both take a backward pass for each class"
    targets = [Target("time over curvlinops'", median_ratio(times[OWN], times[PEER]), 1.0, why)]
    rows = compared(times, BASELINE)
    rows[OWN]["deviation"] = difference
    return Table(problem.name, device, ROUNDS, BASELINE, rows, targets)


def problems(device: str) -> list[Problem]:
    """Return the problems, their batches on a device."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(10, (128,), generator=generator).to(device)
    inputs = torch.randn(128, 784, generator=generator).to(device)
    return [
        Problem("perceptron 784-256-256-10, batch 128", mlp, inputs, targets),
        Problem("two convolutions, 28 x 28, batch 128", convolutional, inputs.view(-1, 1, 28, 28), targets),
    ]


def tables() -> Iterator[Table]:
    """Measure all problems on all devices."""
    for device in devices():
        for problem in problems(device):
            yield measure(problem, device)


def main() -> None:
    """Measure, print the tables, write the results."""
    report("kfac", tables, ["curvlinops-for-pytorch"])


if __name__ == "__main__":
    main()
