"""Checkpointing beside torch.utils.checkpoint: time and peak memory of a training step.

Run as ``python benchmarks/checkpointing.py``. One CPU thread. A chain of 24 pre-norm transformer layers of width 128,
16 sequences of 64 tokens. The contenders are plans: nothing recomputed, a number of segments, or what
`optimal_segments` finds for a budget of bytes from the measured amounts of the layers; torch's rival for a budget is
the number of segments that recomputes the fewest layers of all whose measured peak keeps to it. Every plan does the
same step and they take turns in one process, so that a change of the machine's speed hits all of them; times are of
the processor, and the ratios, to the plan that recomputes nothing, are medians over the rounds. Peaks are of the bytes
that the step makes, counted by `LiveMemory`; the gradients of the parameters exist before.

With a CUDA GPU the same is measured there too, with synchronised wall time, and beside the counted peak the
allocator's. Results go to ``benchmarks/results/checkpointing.json``.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
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
PLAIN = "nothing recomputed"
OWN_ALL, TORCH_ALL = f"steepest, {LAYERS} segments", f"torch, {LAYERS} segments"
RESULTS = Path(__file__).parent / "results" / "checkpointing.json"


@dataclass(frozen=True)
class Plan:
    """A way to run the chain, and how many layers it runs twice."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    recomputed_layers: int


@dataclass(frozen=True)
class Row:
    """What was measured of a plan."""

    time_ratio: float
    milliseconds: float
    peak_mib: float
    allocated_mib: float | None
    recomputed_layers: int


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


def peaks(plan: Plan, x: torch.Tensor) -> tuple[float, float | None]:
    """Return the peak of a step as counted and, on a GPU, as the allocator has it; MiB."""
    with LiveMemory() as memory:
        plan.forward(x).sum().backward()
    allocated = None
    if x.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        plan.forward(x).sum().backward()
        torch.cuda.synchronize()
        allocated = (torch.cuda.max_memory_allocated() - before) / MIB
    return memory.peak_bytes() / MIB, allocated


def seconds(plan: Plan, x: torch.Tensor) -> float:
    """Return the time of a step: of the processor, or on a GPU until it is done."""
    if x.is_cuda:
        torch.cuda.synchronize()
        began = time.perf_counter()
        plan.forward(x).sum().backward()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    plan.forward(x).sum().backward()
    return time.process_time() - began


def measure(plans: dict[str, Plan], x: torch.Tensor) -> dict[str, Row]:
    """Return what each plan takes, the plans taking turns in a rotating order."""
    times: dict[str, list[float]] = {name: [] for name in plans}
    names = list(plans)
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(seconds(plans[name], x))
    rows = {}
    for name, plan in plans.items():
        peak, allocated = peaks(plan, x)
        ratio = statistics.median(own / plain for own, plain in zip(times[name], times[PLAIN], strict=True))
        rows[name] = Row(ratio, 1e3 * statistics.median(times[name]), peak, allocated, plan.recomputed_layers)
    return rows


def budget_plans(model: nn.Sequential, x: torch.Tensor) -> dict[float, tuple[str, Plan, str, Plan | None]]:
    """Return for each budget, in bytes, steepest's plan and torch's best number of segments, with their names."""
    measured = layer_bytes(model, x)
    # The input of the network is in memory anyway.
    boundary = (0, *measured.boundary[1:])
    print(
        f"a layer keeps {measured.internal[0] / MIB:.2f} MiB, passes on {measured.boundary[0] / MIB:.2f} MiB, "
        f"and its backward pass takes {measured.workspace / MIB:.2f} MiB more"
    )
    rivals = {segments: torch_plan(model, segments) for segments in range(1, LAYERS + 1)}
    rival_peaks = {segments: peaks(plan, x)[0] * MIB for segments, plan in rivals.items()}
    found = {}
    for share in BUDGETS:
        budget = share * segment_peak([LAYERS], measured.internal, boundary, measured.workspace)
        plan = optimal_segments(LAYERS, measured.internal, boundary, budget, workspace_bytes=measured.workspace)
        fitting = [segments for segments, peak in rival_peaks.items() if peak <= budget]
        best = min(fitting, key=lambda segments: rivals[segments].recomputed_layers, default=None)
        found[budget] = (
            f"steepest, {' '.join(map(str, plan.sizes))}",
            own_plan(model, plan.sizes),
            f"torch, {best} segments",
            None if best is None else rivals[best],
        )
    return found


def report(device: torch.device) -> dict:
    """Measure on a device, print a table and the verdicts, return both."""
    model, x = build(device)
    print(f"\n{device}: {LAYERS} layers, width {WIDTH}, {TOKENS} tokens, batch {BATCH} ({ROUNDS} rounds)")
    budgets = budget_plans(model, x)
    plans = {
        PLAIN: Plan(model, 0),
        f"steepest, {ROOT_SEGMENTS} segments": own_plan(model, ROOT_SEGMENTS),
        f"torch, {ROOT_SEGMENTS} segments": torch_plan(model, ROOT_SEGMENTS),
        OWN_ALL: own_plan(model, LAYERS),
        TORCH_ALL: torch_plan(model, LAYERS),
    }
    for own_name, own, rival_name, rival in budgets.values():
        plans[own_name] = own
        if rival is not None:
            plans[rival_name] = rival
    rows = measure(plans, x)

    print(f"  {'':34} {'time ratio':>10} {'ms':>8} {'peak MiB':>9} {'allocated':>10} {'run twice':>10}")
    for name, row in rows.items():
        allocated = "" if row.allocated_mib is None else f"{row.allocated_mib:.1f}"
        print(
            f"  {name:34} {row.time_ratio:>10.3f} {row.milliseconds:>8.1f} {row.peak_mib:>9.1f} {allocated:>10}"
            f" {row.recomputed_layers:>10}"
        )
    verdicts = [*segment_verdicts(rows, x), *budget_verdicts(rows, budgets)]
    for line in verdicts:
        print(f"  {line}")
    return {"plans": {name: asdict(row) for name, row in rows.items()}, "verdicts": verdicts}


def segment_verdicts(rows: dict[str, Row], x: torch.Tensor) -> list[str]:
    """Return whether as many segments as layers meet the targets of time and memory."""
    own, rival = rows[OWN_ALL], rows[TORCH_ALL]
    time_verdict = "met" if own.time_ratio <= TIME_TARGET else "missed"
    lines = [f"time at most {TIME_TARGET}: {time_verdict} ({own.time_ratio:.3f}, torch {rival.time_ratio:.3f})"]
    memory_verdict = "met" if own.peak_mib <= MEMORY_TARGET_MIB else "missed"
    line = f"peak at most {MEMORY_TARGET_MIB} MiB: {memory_verdict} ({own.peak_mib:.1f}, torch {rival.peak_mib:.1f})"
    boundaries = (LAYERS - 1) * x.numel() * x.element_size() / MIB
    if memory_verdict == "missed" and boundaries > MEMORY_TARGET_MIB:
        line += f"; out of reach: the {LAYERS - 1} boundaries that must be kept are {boundaries:.1f} MiB by themselves"
    return [*lines, line]


def budget_verdicts(rows: dict[str, Row], budgets: dict[float, tuple[str, Plan, str, Plan | None]]) -> list[str]:
    """Return for each budget whether steepest's plan keeps to it and is the fastest."""
    lines = []
    for budget, (own_name, _, rival_name, rival) in budgets.items():
        own = rows[own_name]
        keeps = "kept to" if own.peak_mib * MIB <= budget else "exceeded"
        line = f"budget {budget / MIB:.1f} MiB {keeps} ({own.peak_mib:.1f}); "
        if rival is None:
            line += "no number of torch's segments keeps to it"
        else:
            verdict = "fastest" if own.time_ratio <= rows[rival_name].time_ratio else "not fastest"
            line += f"{verdict}: {own.time_ratio:.3f}, {rival_name} {rows[rival_name].time_ratio:.3f}"
        lines.append(line)
    return lines


def main() -> None:
    """Measure on the CPU and on a GPU if there is one, write the results."""
    torch.set_num_threads(1)
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    results = {str(device): report(device) for device in devices}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    targets = {"time_ratio": TIME_TARGET, "peak_mib": MEMORY_TARGET_MIB}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"versions": versions, "rounds": ROUNDS, "targets": targets, "devices": results}, indent=2) + "\n"
    )


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
