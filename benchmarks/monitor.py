"""What watching costs: a training step with a monitor beside the same step without.

Run as ``python benchmarks/monitor.py``. float32, Adam; each contender trains its copy of one model. A monitor records
every step, or every 100th: then the cost of 100 steps.

Contenders: the step without a monitor, the baseline; ``naive``, which reads each statistic of each parameter by
``.item()``, as the usual snippet does; steepest's GradientMonitor; and its TrainingMonitor, without and with the norms
of the updates.

Target: GradientMonitor costs no more than the naive monitor.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from side_by_side import Table, Target, compared, devices, interleaved, median_ratio, report
from torch import nn

from steepest.gradient_debugging import TrainingMonitor
from steepest.gradient_flow import GradientMonitor

BASELINE = "no monitor"
NAIVE = "naive"
OWN = "GradientMonitor"
# Between two records of a monitor, the steps that a contender takes in a round, and the rounds.
SCHEDULES = {1: (5, 15), 100: (100, 2)}
WHY_MISSED = (
    "a CPU has no queue that a read could stall, so that reading once saves little, while counts instead of"
    " flags, norms of weights and dead units cost more; every 100 steps the difference is below the machine's noise"
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

    def train(self, steps: int) -> None:
        """Take so many steps."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.model(self.inputs).square().mean()
            loss.backward()
            self.observe(loss)
            self.optimizer.step()
            self.after_step()


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
        BASELINE: lambda model: (nothing, nothing),
        NAIVE: lambda model: (NaiveMonitor(model, every).observe, nothing),
        OWN: lambda model: (GradientMonitor(model, every).log_gradients, nothing),
        "TrainingMonitor": training_monitor(every, track_updates=False),
        "TrainingMonitor, updates": training_monitor(every, track_updates=True),
    }


def problems(device: str) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Return a small transformer, and an MLP of 200 tensors whose step is mostly overhead, with their inputs."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    mlp = nn.Sequential(*[part for _ in range(100) for part in (nn.Linear(64, 64), nn.ReLU())])
    return {
        "transformer, 2 layers, d = 128, 8 x 32 tokens": (
            transformer.to(device),
            torch.randn(8, 32, 128).to(device),
        ),
        "MLP, 100 layers of 64, batch 64": (mlp.to(device), torch.randn(64, 64).to(device)),
    }


def measure(title: str, model: nn.Module, inputs: torch.Tensor, every: int, device: str) -> Table:
    """Time training under each monitor."""
    steps, rounds = SCHEDULES[every]
    runs = {name: partial(Run(model, inputs, watch).train, steps) for name, watch in contenders(every).items()}
    times = {name: [t / steps for t in own] for name, own in interleaved(runs, rounds, device).items()}
    targets = [Target("time over the naive monitor's", median_ratio(times[OWN], times[NAIVE]), 1.0, WHY_MISSED)]
    title = f"{title}, a step, recorded every {every}"
    return Table(title, device, rounds, BASELINE, compared(times, BASELINE), targets)


def tables() -> Iterator[Table]:
    """Measure all problems on all devices."""
    for device in devices():
        for title, (model, inputs) in problems(device).items():
            for every in SCHEDULES:
                yield measure(title, model, inputs, every, device)


def main() -> None:
    """Measure, print the tables, write the results."""
    report("monitor", tables)


if __name__ == "__main__":
    main()
