"""Stochastic depth in a transformer block: skipping the dropped samples beside masking them.

Run as ``python benchmarks/drop_path.py``. One CPU thread, float32, forward and backward through a pre-norm block of
attention and MLP, both branches with the same drop probability. The contenders take turns in one process, so that
a change of the machine's speed hits all of them, from seeds with which each branch drops as many samples as it does on
average: the luck of few draws would else move the ratio by more than 0.01. Times are of the processor, and the
ratios are medians over the rounds. ``masking as timm`` draws a mask, divides it and multiplies the output
of the branch; ``without DropPath`` is the block itself, which no mask is faster than. Skipping can't be faster than
the share of kept samples times the branches, plus what is done for all samples. With a CUDA GPU the same is measured
there, on a larger block, synchronised, by the clock. Results go to ``benchmarks/results/drop_path.json``.
"""

import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from steepest.regularization import drop_path, drop_path_residual

ROUNDS = 41
TARGETS = {0.1: 0.90, 0.3: 0.71, 0.5: 0.54}
OWN = "steepest, skipping"
BASELINE = "masking as timm"
RESULTS = Path(__file__).parent / "results" / "drop_path.json"
# Samples, tokens, width, heads. Each probability drops a whole number of these samples on average.
SIZES = {"cpu": (60, 64, 128, 4), "cuda": (240, 197, 384, 6)}

Residual = Callable[[nn.Module, torch.Tensor, float], torch.Tensor]


class SelfAttention(nn.Module):
    """Multi-head attention of normalised tokens, (B, T, D) to (B, T, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, heads, T, D / heads)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).reshape(batch, tokens, width))


def make_branches(width: int, heads: int) -> list[nn.Module]:
    """Return the branches of one block: attention and MLP."""
    mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    return [SelfAttention(width, heads), mlp]


def masked_as_timm(branch: nn.Module, x: torch.Tensor, drop_prob: float) -> torch.Tensor:
    """Multiply the output of the branch by a scaled Bernoulli mask."""
    output = branch(x)
    mask = output.new_empty(len(output), *[1] * (output.ndim - 1)).bernoulli_(1 - drop_prob)
    return x + output * mask.div_(1 - drop_prob)


CONTENDERS: dict[str, Residual] = {
    BASELINE: masked_as_timm,
    OWN: lambda branch, x, drop_prob: drop_path_residual(branch, x, drop_prob, training=True),
    "steepest, masking": lambda branch, x, drop_prob: x + drop_path(branch(x), drop_prob, training=True),
    "without DropPath": lambda branch, x, drop_prob: x + branch(x),
}


def seconds(residual: Residual, branches: list[nn.Module], x: torch.Tensor, drop_prob: float) -> float:
    """Return the time of a forward and backward pass through the block."""
    clock = time.process_time if x.device.type == "cpu" else time.perf_counter
    x.grad = None
    for branch in branches:
        branch.zero_grad()
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    began = clock()
    output = x
    for branch in branches:
        output = residual(branch, output, drop_prob)
    output.sum().backward()
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def average_seeds(x: torch.Tensor, drop_prob: float) -> list[int]:
    """Return the first seeds for which both branches keep the expected number of samples."""
    ones, expected = torch.ones(len(x), device=x.device), round((1 - drop_prob) * len(x))
    seeds = []
    for seed in itertools.count():
        torch.manual_seed(seed)
        kept = [int(drop_path(ones, drop_prob, training=True).count_nonzero()) for _ in range(2)]
        if kept == [expected, expected]:
            seeds.append(seed)
            if len(seeds) == ROUNDS:
                return seeds


def measure(device: str, drop_prob: float) -> dict[str, dict[str, float]]:
    """Return for each contender its median time and its median time ratio to the baseline."""
    samples, tokens, width, heads = SIZES[device]
    torch.manual_seed(0)
    branches = [branch.to(device) for branch in make_branches(width, heads)]
    x = torch.randn(samples, tokens, width, device=device, requires_grad=True)
    names = list(CONTENDERS)
    for name in names:
        seconds(CONTENDERS[name], branches, x, drop_prob)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn, seed in enumerate(average_seeds(x, drop_prob)):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            torch.manual_seed(seed)
            times[name].append(seconds(CONTENDERS[name], branches, x, drop_prob))
    return {
        name: {
            "time_ratio": statistics.median(own / base for own, base in zip(times[name], times[BASELINE], strict=True)),
            "milliseconds": 1e3 * statistics.median(times[name]),
        }
        for name in names
    }


def main() -> None:
    """Measure all probabilities on each device, print a table, write the results."""
    torch.set_num_threads(1)
    results = {}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        results[device] = {}
        for drop_prob, target in TARGETS.items():
            rows = measure(device, drop_prob)
            own, block = rows[OWN]["time_ratio"], rows["without DropPath"]["time_ratio"]
            verdict = "met" if own <= target else "missed"
            results[device][drop_prob] = {"target": target, "verdict": verdict, "contenders": rows}
            print(f"\n{device}, (samples, tokens, width, heads) = {SIZES[device]}, p = {drop_prob}")
            print(f"  {'':20} {'time ratio':>10} {'ms':>9}")
            for name, row in rows.items():
                print(f"  {name:20} {row['time_ratio']:>10.3f} {row['milliseconds']:>9.2f}")
            print(f"  time target {target}: {verdict}")
            if verdict == "missed":
                print(f"  the kept share of the block alone is {(1 - drop_prob) * block:.3f}; the rest is")
                print("  gathering the kept samples, adding them back, and reading which they are")

    versions = {"python": platform.python_version(), "torch": torch.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"versions": versions, "rounds": ROUNDS, "devices": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
