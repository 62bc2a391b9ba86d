"""A KFAC training step beside a plain SGD step, and beside curvlinops' KFAC where that computes the same.

Run as ``python benchmarks/kfac.py``. One CPU thread, float32, and the first CUDA GPU if there is one. A step is
forward pass, backward pass, and the optimizer's work; with an interval of k, factors and inverses are renewed once in
k steps, and the time is the mean over those k. ``steepest, exact`` and ``curvlinops, exact`` take the expectation over
all classes and renew everything at each step, without running averages; the steps that they propose are compared first.
curvlinops makes its factors in a forward pass of its own. The contenders take turns in one process; CPU times are of
the processor, and ratios are medians over the rounds. Results go to ``benchmarks/results/kfac.json``.
"""

import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from curvlinops import KFACInverseLinearOperator, KFACLinearOperator
from curvlinops.kfac import FisherType
from threadpoolctl import threadpool_limits
from torch.nn.functional import cross_entropy

from steepest.second_order import KFAC

DAMPING = 1e-2
ROUNDS = 7
INTERVALS = (1, 10, 50)
BASELINE = "SGD"
# The steps of the two libraries agree to rounding; this is far above it and far below any other scheme's.
AGREEMENT = 1e-3
RESULTS = Path(__file__).parent / "results" / "kfac.json"


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

        contender = make(Problem(problem.name, build, problem.inputs, problem.targets))
        before = [p.detach().clone() for p in models[0].parameters()]
        contender.step()
        moves.append(
            torch.cat([(p - q).detach().flatten() for p, q in zip(models[0].parameters(), before, strict=True)])
        )
    return ((moves[0] - moves[1]).norm() / moves[0].norm()).item()


def seconds_per_step(contender: Contender, device: torch.device) -> float:
    """Return the mean time of the steps of a period."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(contender.period):
            contender.step()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / contender.period
    began = time.process_time()
    for _ in range(contender.period):
        contender.step()
    return (time.process_time() - began) / contender.period


def measure(problem: Problem) -> dict[str, dict[str, float]]:
    """Return for each contender its median milliseconds a step and median ratio to SGD."""
    contenders = {
        BASELINE: sgd(problem),
        **{f"steepest, interval {k}": steepest(problem, k) for k in INTERVALS},
        "steepest, exact": steepest(problem, 1, None, 0.0),
        "curvlinops, exact": curvlinops(problem),
    }
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(ROUNDS + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken = seconds_per_step(contenders[name], problem.inputs.device)
            # The first round warms up.
            if turn:
                seconds[name].append(taken)
    rows = {}
    for name, own in seconds.items():
        ratios = [one / base for one, base in zip(own, seconds[BASELINE], strict=True)]
        rows[name] = {"ratio": statistics.median(ratios), "milliseconds": 1e3 * statistics.median(own)}
    pairs = zip(seconds["steepest, exact"], seconds["curvlinops, exact"], strict=True)
    rows["steepest, exact"]["ratio_to_curvlinops"] = statistics.median(own / peer for own, peer in pairs)
    return rows


def main() -> None:
    """Measure all problems, print a table, write the results."""
    torch.set_num_threads(1)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    results = {}
    for device in devices:
        generator = torch.Generator().manual_seed(0)
        targets = torch.randint(10, (128,), generator=generator).to(device)
        inputs = torch.randn(128, 784, generator=generator).to(device)
        problems = [
            Problem(f"perceptron 784-256-256-10, batch 128, {device}", mlp, inputs, targets),
            Problem(
                f"two convolutions, 28x28, batch 128, {device}", convolutional, inputs.view(-1, 1, 28, 28), targets
            ),
        ]
        for problem in problems:
            difference = deviation(problem)
            rows = measure(problem)
            results[problem.name] = {"deviation_from_curvlinops": difference, "contenders": rows}
            print(f"\n{problem.name} ({ROUNDS} rounds)")
            print(f"  {'':22} {'ratio to SGD':>12} {'ms a step':>10}")
            for name, row in rows.items():
                print(f"  {name:22} {row['ratio']:>12.2f} {row['milliseconds']:>10.2f}")
            if difference > AGREEMENT:
                raise RuntimeError(f"the steps differ by {difference:.1e}: the contenders don't compute the same")
            ratio = rows["steepest, exact"]["ratio_to_curvlinops"]
            verdict = "met" if ratio <= 1 else "missed"
            print(f"  exact: steps differ by {difference:.1e}; {ratio:.2f} of curvlinops' time, target 1.00: {verdict}")
    RESULTS.parent.mkdir(exist_ok=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    RESULTS.write_text(json.dumps({"versions": versions, "problems": results}, indent=2) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
