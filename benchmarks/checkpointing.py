"""Checkpointing beside torch.utils.checkpoint: time and peak memory of a training step.

Run as ``python benchmarks/checkpointing.py``. A chain of 24 pre-norm transformer layers of width 128, 16 sequences of
64 tokens. Peaks are of the bytes that the step makes, counted by `LiveMemory`, and on a GPU beside it the allocator's;
the gradients of the parameters exist before.

Contenders are plans, which all do the same step: nothing recomputed, the baseline; steepest's and torch's
checkpoint_sequential with a number of segments; and for each of three budgets of bytes what `optimal_segments` finds
from the measured amounts of the layers, beside torch's rival, the number of segments that recomputes the fewest
layers of all whose measured peak keeps to the budget.

Targets: with as many segments as layers, the time and the peak that torch's plan was measured to take; under each
budget, a peak that keeps to it and no more time than torch's rival.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from side_by_side import Table, Target, compared, devices, interleaved, median_ratio, report
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential as torch_checkpoint_sequential

from steepest.checkpointing import (
    LiveMemory,
    checkpoint_sequential,
    layer_bytes,
    optimal_segments,
    segment_peak,
    segment_sizes,
)

LAYERS, WIDTH, HEADS, TOKENS, BATCH = 24, 128, 4, 64, 16
ROOT_SEGMENTS = 5
BUDGETS = (0.6, 0.35, 0.2)  # shares of the peak without checkpointing
ROUNDS = 9
TIME_TARGET, MEMORY_TARGET_MIB = 1.26, 10.1
MIB = 2**20
BASELINE = "nothing recomputed"
OWN_ALL, TORCH_ALL = f"steepest, {LAYERS} segments", f"torch, {LAYERS} segments"


@dataclass(frozen=True)
class Plan:
    """A way to run the chain, and how many layers it runs twice."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    recomputed_layers: int

    def step(self, x: torch.Tensor) -> None:
        """Run the chain forward and backward."""
        self.forward(x).sum().backward()


@dataclass(frozen=True)
class Budget:
    """A peak to keep to, the peak that steepest's plan foresees, its name, and that of torch's rival, if any."""

    mib: float
    foreseen_mib: float
    own: str
    rival: str | None


def build(device: torch.device) -> tuple[nn.Sequential, torch.Tensor]:
    """Return the chain, with gradients of zero in place, and its input."""
    torch.manual_seed(0)
    layers = [
        nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        for _ in range(LAYERS)
    ]
    model = nn.Sequential(*layers).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model, torch.randn(BATCH, TOKENS, WIDTH, device=device)


def own_plan(model: nn.Sequential, segments: int | tuple[int, ...]) -> Plan:
    """Return a plan of steepest's checkpoint_sequential."""
    sizes = segment_sizes(LAYERS, segments) if isinstance(segments, int) else segments
    return Plan(lambda x: checkpoint_sequential(model, segments, x), LAYERS - sizes[-1])


def torch_plan(model: nn.Sequential, segments: int) -> Plan:
    """Return a plan of torch's checkpoint_sequential."""
    recomputed = LAYERS - segment_sizes(LAYERS, segments)[-1]
    return Plan(lambda x: torch_checkpoint_sequential(model, segments, x, use_reentrant=False), recomputed)


def peaks(plan: Plan, x: torch.Tensor) -> dict[str, float]:
    """Return the peak of a step as counted and, on a GPU, as the allocator has it; MiB."""
    with LiveMemory() as memory:
        plan.step(x)
    found = {"peak_mib": memory.peak_bytes() / MIB}
    if x.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        plan.step(x)
        torch.cuda.synchronize()
        found["allocated_mib"] = (torch.cuda.max_memory_allocated() - before) / MIB
    return found


def budget_plans(model: nn.Sequential, x: torch.Tensor) -> tuple[list[Budget], dict[str, Plan]]:
    """Return the budgets, and steepest's plan and torch's best number of segments for each, by name."""
    measured = layer_bytes(model, x)
    # The input of the network is in memory anyway.
    boundary = (0, *measured.boundary[1:])
    rivals = {segments: torch_plan(model, segments) for segments in range(1, LAYERS + 1)}
    rival_peaks = {segments: peaks(plan, x)["peak_mib"] * MIB for segments, plan in rivals.items()}
    budgets, plans = [], {}
    for share in BUDGETS:
        budget = share * segment_peak([LAYERS], measured.internal, boundary, measured.workspace)
        best = optimal_segments(LAYERS, measured.internal, boundary, budget, workspace_bytes=measured.workspace)
        own, rival = f"steepest, {' '.join(map(str, best.sizes))}", None
        plans[own] = own_plan(model, best.sizes)
        fitting = [segments for segments, peak in rival_peaks.items() if peak <= budget]
        if fitting:
            segments = min(fitting, key=lambda segments: rivals[segments].recomputed_layers)
            rival = f"torch, {segments} segments"
            plans[rival] = rivals[segments]
        budgets.append(Budget(budget / MIB, best.peak_bytes / MIB, own, rival))
    return budgets, plans


def measure(device: str) -> Table:
    """Time a step of each plan and count its bytes."""
    model, x = build(torch.device(device))
    budgets, planned = budget_plans(model, x)
    plans = {
        BASELINE: Plan(model, 0),
        f"steepest, {ROOT_SEGMENTS} segments": own_plan(model, ROOT_SEGMENTS),
        f"torch, {ROOT_SEGMENTS} segments": torch_plan(model, ROOT_SEGMENTS),
        OWN_ALL: own_plan(model, LAYERS),
        TORCH_ALL: torch_plan(model, LAYERS),
        **planned,
    }
    times = interleaved({name: partial(plan.step, x) for name, plan in plans.items()}, ROUNDS, device)
    rows = compared(times, BASELINE)
    for name, plan in plans.items():
        rows[name] |= peaks(plan, x) | {"recomputed_layers": plan.recomputed_layers}

    boundaries = (LAYERS - 1) * x.numel() * x.element_size() / MIB
    targets = [
        Target(
            f"time with {LAYERS} segments",
            rows[OWN_ALL]["ratio"],
            TIME_TARGET,
            f"torch: {rows[TORCH_ALL]['ratio']:.3f}",
        ),
        Target(
            f"MiB with {LAYERS} segments",
            rows[OWN_ALL]["peak_mib"],
            MEMORY_TARGET_MIB,
            f"the {LAYERS - 1} boundaries that must be kept are {boundaries:.1f} MiB by themselves;"
            f" torch: {rows[TORCH_ALL]['peak_mib']:.1f}",
        ),
    ]
    for budget in budgets:
        own, under = rows[budget.own], f"under {budget.mib:.1f} MiB"
        if budget.rival is None:
            under += ", which no number of torch's segments keeps to"
        why = f"the plan foresees {budget.foreseen_mib:.1f}"
        targets.append(Target(f"MiB {under}", own["peak_mib"], budget.mib, why))
        if budget.rival is not None:
            over = median_ratio(times[budget.own], times[budget.rival])
            why = f"{own['recomputed_layers']} layers run twice, torch's {rows[budget.rival]['recomputed_layers']}"
            targets.append(Target(f"time over {budget.rival}, {under}", over, 1.0, why))
    title = f"{LAYERS} layers, width {WIDTH}, {TOKENS} tokens, batch {BATCH}"
    return Table(title, device, ROUNDS, BASELINE, rows, targets)


def tables() -> Iterator[Table]:
    """Measure on all devices."""
    yield from map(measure, devices())


def main() -> None:
    """Measure, print the tables, write the results."""
    report("checkpointing", tables)


if __name__ == "__main__":
    main()
