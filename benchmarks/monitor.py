"""What watching costs: a training step with a monitor beside the same step without.

Run as ``python benchmarks/monitor.py``. One CPU thread, float32, Adam. The contenders train copies of one model and
take turns in one process; times are of the processor (on CUDA: of the wall, synchronised), and the ratios are medians
over the rounds of a step with a monitor to the step without one. ``naive`` reads each statistic of each parameter by
``.item()``, as the usual snippet does. Every step is recorded, or every 100th: then the cost of a round of 100 steps.
Results go to ``benchmarks/results/monitor.json``.
"""

import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from steepest.gradient_debugging import TrainingMonitor
from steepest.gradient_flow import GradientMonitor

RESULTS = Path(__file__).parent / "results" / "monitor.json"
ALONE = "no monitor"
NAIVE = "naive"
ROUNDS = 15
WHY_MISSED = (
    "a CPU has no queue that a read could stall, so that reading once saves little, while counts instead of"
    " flags, norms of weights and dead units cost more; every 100 steps the difference is below this machine's noise"
)


class NaiveMonitor:
    """The usual snippet: six reads a parameter, and a history without end."""

    def __init__(self, model: nn.Module, log_freq: int) -> None:
        self.model, self.log_freq, self.step = model, log_freq, 0
        self.history: list[dict[str, dict[str, float]]] = []

    def observe(self, loss: torch.Tensor) -> None:
        """Log this step if it is due."""
        if self.step % self.log_freq == 0:
            logged = {}
            for name, parameter in self.model.named_parameters():
                gradient = parameter.grad
                logged[name] = {
                    "norm": gradient.norm().item(),
                    "max": gradient.max().item(),
                    "min": gradient.min().item(),
                    "mean": gradient.mean().item(),
                    "has_nan": torch.isnan(gradient).any().item(),
                    "has_inf": torch.isinf(gradient).any().item(),
                }
            self.history.append({"loss": loss.item(), **logged})
        self.step += 1


class Run:
    """A model in training under a monitor."""

    def __init__(self, model: nn.Module, inputs: torch.Tensor, watch: Callable[[nn.Module], tuple]) -> None:
        self.model, self.inputs = copy.deepcopy(model), inputs
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-4)
        self.observe, self.after_step = watch(self.model)

    def steps(self, count: int) -> float:
        """Train so many steps, and return the seconds that they took."""
        clock = time.process_time
        if self.inputs.is_cuda:
            torch.cuda.synchronize()
            clock = time.perf_counter
        began = clock()
        for _ in range(count):
            self.optimizer.zero_grad()
            loss = self.model(self.inputs).square().mean()
            loss.backward()
            self.observe(loss)
            self.optimizer.step()
            self.after_step()
        if self.inputs.is_cuda:
            torch.cuda.synchronize()
        return clock() - began


def nothing(*_: object) -> None:
    """Do nothing."""


def training_monitor(every: int, track_updates: bool) -> Callable[[nn.Module], tuple]:
    """Return what makes a TrainingMonitor's two calls of a model."""

    def watch(model: nn.Module) -> tuple:
        monitor = TrainingMonitor(model, every, track_updates=track_updates)
        return monitor.observe, monitor.after_step if track_updates else nothing

    return watch


def contenders(every: int) -> dict[str, Callable[[nn.Module], tuple]]:
    """Return the ways to watch a model."""
    return {
        ALONE: lambda model: (nothing, nothing),
        NAIVE: lambda model: (NaiveMonitor(model, every).observe, nothing),
        "GradientMonitor": lambda model: (GradientMonitor(model, every).log_gradients, nothing),
        "TrainingMonitor": training_monitor(every, track_updates=False),
        "TrainingMonitor, updates": training_monitor(every, track_updates=True),
    }


@dataclass(frozen=True)
class Problem:
    """A model, its input, and how many steps make a round where every step is recorded."""

    name: str
    model: nn.Module
    inputs: torch.Tensor
    steps: int


def problems() -> list[Problem]:
    """Return a small transformer, and an MLP of 200 tensors whose step is mostly overhead."""
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    layers: list[nn.Module] = []
    for _ in range(100):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return [
        Problem("transformer, 2 layers, d = 128, 8 x 32 tokens", transformer, torch.randn(8, 32, 128), 5),
        Problem("MLP, 100 layers of 64, batch 64", nn.Sequential(*layers), torch.randn(64, 64), 5),
    ]


def measure(problem: Problem, every: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return for each contender the median milliseconds a step, and the median ratio to the step without a monitor."""
    count = max(problem.steps, every)
    runs = {name: Run(problem.model, problem.inputs, watch) for name, watch in contenders(every).items()}
    names, seconds = list(runs), {name: [] for name in runs}
    for name in names:
        runs[name].steps(count)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(runs[name].steps(count) / count)
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(own),
            "ratio": statistics.median(a / b for a, b in zip(own, seconds[ALONE], strict=True)),
        }
        for name, own in seconds.items()
    }


def main() -> None:
    """Measure all problems on all devices, print a table, write the results."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for problem in problems():
            problem = Problem(problem.name, problem.model.to(device), problem.inputs.to(device), problem.steps)
            for every in (1, 100):
                rows = measure(problem, every, ROUNDS if every == 1 else 2)
                results[f"{problem.name}, every {every}, {device}"] = rows
                print(f"\n{problem.name}, {device}, recorded every {every} step{'s' * (every > 1)}")
                print(f"  {'':26} {'ms a step':>9} {'ratio':>7}")
                for name, row in rows.items():
                    print(f"  {name:26} {row['milliseconds']:>9.3f} {row['ratio']:>7.3f}")
                own, naive = rows["GradientMonitor"], rows[NAIVE]
                verdict = "met" if own["ratio"] <= naive["ratio"] else "missed"
                print(f"  target: GradientMonitor costs no more than the naive monitor: {verdict}")
                if verdict == "missed":
                    print(f"  {WHY_MISSED}")
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"versions": versions, "problems": results}, indent=2) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
