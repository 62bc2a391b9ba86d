"""Stochastic depth in a transformer block: skipping the dropped samples beside masking them.

Run as ``python benchmarks/drop_path.py``. float32, forward and backward through a pre-norm block of attention and MLP,
both branches with the same drop probability; on a GPU the block is larger. In each round all start from the same
seed, one with which each branch drops as many samples as it does on average: the luck of few draws would else move
the ratios.

Contenders: steepest's `drop_path_residual`, which runs a branch on the kept samples only; ``masking as timm``, the
baseline, which draws a mask, divides it and multiplies the output of the branch; steepest's `drop_path`, which masks,
too; and ``without DropPath``, the block itself, which no mask is faster than.

Targets, by drop probability: of the baseline's time what a plain implementation of skipping takes. Skipping can't be
faster than the share of kept samples times the branches, plus what is done for all samples.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from side_by_side import Table, Target, compared, devices, interleaved, report
from torch import nn

from steepest.regularization import drop_path, drop_path_residual

ROUNDS = 41
TARGETS = {0.1: 0.90, 0.3: 0.71, 0.5: 0.54}
OWN = "steepest, skipping"
BASELINE = "masking as timm"
BLOCK = "without DropPath"
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
    BLOCK: lambda branch, x, drop_prob: x + branch(x),
}


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


def measure(device: str, drop_prob: float) -> Table:
    """Time a forward and backward pass through the block with each contender."""
    samples, tokens, width, heads = SIZES[device]
    torch.manual_seed(0)
    branches = [branch.to(device) for branch in make_branches(width, heads)]
    x = torch.randn(samples, tokens, width, device=device, requires_grad=True)
    seeds = average_seeds(x, drop_prob)

    def prepare(turn: int) -> None:
        x.grad = None
        for branch in branches:
            branch.zero_grad()
        torch.manual_seed(seeds[turn])

    def passes(residual: Residual) -> Callable[[], None]:
        def forward_and_backward() -> None:
            output = x
            for branch in branches:
                output = residual(branch, output, drop_prob)
            output.sum().backward()

        return forward_and_backward

    contenders = {name: passes(residual) for name, residual in CONTENDERS.items()}
    rows = compared(interleaved(contenders, ROUNDS, device, prepare=prepare), BASELINE)
    why = (
        f"the kept share of the block alone is {(1 - drop_prob) * rows[BLOCK]['ratio']:.3f}; the rest is gathering the"
        " kept samples, adding them back, and reading which they are"
    )
    targets = [Target("time", rows[OWN]["ratio"], TARGETS[drop_prob], why)]
    title = f"p = {drop_prob}, {samples} samples of {tokens} x {width}, {heads} heads"
    return Table(title, device, ROUNDS, BASELINE, rows, targets)


def tables() -> Iterator[Table]:
    """Measure all probabilities on all devices."""
    for device in devices():
        for drop_prob in TARGETS:
            yield measure(device, drop_prob)


def main() -> None:
    """Measure, print the tables, write the results."""
    report("drop_path", tables)


if __name__ == "__main__":
    main()
