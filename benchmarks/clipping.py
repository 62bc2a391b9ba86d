"""Clipping of 200 gradients by their norm, beside torch's with foreach and a loop that reads each norm.

Run as ``python benchmarks/clipping.py``. float32, gradients of equal size in each case, a norm above the threshold:
before each call the gradients that the last one clipped are doubled, while the clock stands.

Contenders: steepest's clip_grad_norm_; torch's with foreach=True, the baseline; ``two kernels``, `_foreach_norm` and
`_foreach_mul_` on a ready list of gradients of one kind, with no check: a floor; a loop with one ``.item()`` for each
gradient; and steepest's with scaled=True, whose norm can't overflow. The order is shuffled: who comes after whom
matters here, since each leaves other things in the caches.

Targets, by size: of the baseline's time what the two kernels take in a plain implementation, and for larger gradients,
where memory decides, no more than the baseline.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from side_by_side import Row, Table, Target, compared, devices, interleaved, report

from steepest.gradient_debugging import clip_grad_norm_

TENSORS = 200
MAX_NORM = 1.0
OWN = "steepest clip_grad_norm_"
BASELINE = "torch, foreach=True"
FLOOR = "two kernels"
SCALED = "steepest, scaled=True"

Parameters = list[torch.nn.Parameter]


@dataclass(frozen=True)
class Case:
    """Rows and columns of each gradient, how often it is timed, and the time ratio to reach."""

    rows: int
    columns: int
    rounds: int
    target: float


CASES = [
    Case(32, 32, 301, 0.70),
    Case(64, 64, 201, 0.73),
    Case(256, 256, 61, 0.90),
    Case(512, 512, 15, 1.0),
    Case(1024, 1024, 7, 1.0),
]


def clip_in_a_loop(parameters: Parameters) -> None:
    """Clip with one read of the host for each gradient."""
    with torch.no_grad():
        total = sum(parameter.grad.norm().item() ** 2 for parameter in parameters) ** 0.5
        if total > MAX_NORM:
            for parameter in parameters:
                parameter.grad.mul_(MAX_NORM / total)


def two_kernels(gradients: list[torch.Tensor]) -> None:
    """Clip by the two foreach kernels, and the coefficient in between."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (MAX_NORM / (norm + 1e-6)).clamp(max=1))


def measure(case: Case, device: str) -> Table:
    """Time a call of each contender on gradients of a case's size."""
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for _ in range(TENSORS):
        parameter = torch.nn.Parameter(torch.zeros(case.rows, case.columns, device=device))
        parameter.grad = torch.randn(case.rows, case.columns, generator=generator).to(device)
        parameters.append(parameter)
    gradients = [parameter.grad for parameter in parameters]

    def double(turn: int) -> None:
        torch._foreach_mul_(gradients, 2.0)

    def rows_of(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, Row]:
        return compared(interleaved(contenders, rounds, device, prepare=double, shuffled=True), BASELINE)

    contenders: dict[str, Callable[[], object]] = {
        OWN: lambda: clip_grad_norm_(parameters, MAX_NORM),
        BASELINE: lambda: torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM, foreach=True),
        FLOOR: lambda: two_kernels(gradients),
        "loop with .item()": lambda: clip_in_a_loop(parameters),
    }
    rows = rows_of(contenders, case.rounds)
    # By itself: its many temporaries leave the caches in a state that the others would pay for.
    scaled = {SCALED: lambda: clip_grad_norm_(parameters, MAX_NORM, scaled=True), BASELINE: contenders[BASELINE]}
    rows[SCALED] = rows_of(scaled, case.rounds // 5 + 1)[SCALED]
    why = (
        f"the two kernels alone take {rows[FLOOR]['ratio']:.3f}, the rest is Python: collecting {TENSORS} gradients,"
        " checking that they share device, dtype and layout"
    )
    targets = [Target("time", rows[OWN]["ratio"], case.target, why)]
    title = f"{TENSORS} gradients of {case.rows} x {case.columns}"
    return Table(title, device, case.rounds, BASELINE, rows, targets)


def tables() -> Iterator[Table]:
    """Measure all cases on all devices."""
    for device in devices():
        for case in CASES:
            yield measure(case, device)


def main() -> None:
    """Measure, print the tables, write the results."""
    report("clipping", tables)


if __name__ == "__main__":
    main()
