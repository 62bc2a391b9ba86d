"""Clipping of 200 gradients by their norm, beside torch's with foreach and a loop that reads each norm.

Run as ``python benchmarks/clipping.py``. One CPU thread, float32, gradients of equal size in each case, a norm
above the threshold. The contenders take turns in one process, so that a change of the machine's speed hits all of
them; times are of the processor, and the ratios are medians over the rounds. ``two kernels`` is `_foreach_norm` and
`_foreach_mul_` on a ready list of gradients of one kind, with no check: a floor. With a CUDA GPU the
same is measured there, synchronised, by the clock. Results go to ``benchmarks/results/clipping.json``.
"""

import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from steepest.gradient_debugging import clip_grad_norm_

TENSORS = 200
MAX_NORM = 1.0
OWN = "steepest clip_grad_norm_"
BASELINE = "torch, foreach=True"
SCALED = "steepest, scaled=True"
RESULTS = Path(__file__).parent / "results" / "clipping.json"

Parameters = list[torch.nn.Parameter]


@dataclass(frozen=True)
class Case:
    """Entries of each gradient as a matrix, how often it is timed, and the time ratio to reach."""

    rows: int
    columns: int
    rounds: int
    target: float

    @property
    def name(self) -> str:
        return f"{TENSORS} gradients of {self.rows} x {self.columns}"


CASES = [
    Case(32, 32, 301, 0.70),
    Case(64, 64, 201, 0.73),
    Case(256, 256, 61, 0.90),
    Case(512, 512, 15, 1.0),
    Case(1024, 1024, 7, 1.0),
]


def clip_with_torch(parameters: Parameters) -> None:
    """Clip as torch does with its foreach kernels."""
    torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM, foreach=True)


def clip_scaled(parameters: Parameters) -> None:
    """Clip with the norm that can't overflow."""
    clip_grad_norm_(parameters, MAX_NORM, scaled=True)


def clip_in_a_loop(parameters: Parameters) -> None:
    """Clip with one read of the host for each gradient."""
    with torch.no_grad():
        total = sum(parameter.grad.norm().item() ** 2 for parameter in parameters) ** 0.5
        if total > MAX_NORM:
            for parameter in parameters:
                parameter.grad.mul_(MAX_NORM / total)


def two_kernels(parameters: Parameters) -> Callable[[Parameters], None]:
    """Return the two foreach kernels over the gradients, and the coefficient in between."""
    gradients = [parameter.grad for parameter in parameters]

    def clip(_: Parameters) -> None:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (MAX_NORM / (norm + 1e-6)).clamp(max=1))

    return clip


def timed(contender: Callable[[Parameters], None], parameters: Parameters) -> float:
    """Return the seconds of one call: of the processor, or on a GPU by the clock until it is done."""
    on_gpu = parameters[0].is_cuda
    # A clipped gradient isn't clipped again: each call starts from a norm above the threshold.
    with torch.no_grad():
        torch._foreach_mul_([parameter.grad for parameter in parameters], 2.0)
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    began = clock()
    contender(parameters)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - began


def measure(case: Case, device: str) -> dict[str, dict[str, float]]:
    """Return the medians of all contenders on gradients of a case's size."""
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for _ in range(TENSORS):
        parameter = torch.nn.Parameter(torch.zeros(case.rows, case.columns, device=device))
        parameter.grad = torch.randn(case.rows, case.columns, generator=generator).to(device)
        parameters.append(parameter)
    contenders = {
        OWN: lambda some: clip_grad_norm_(some, MAX_NORM),
        BASELINE: clip_with_torch,
        "two kernels": two_kernels(parameters),
        "loop with .item()": clip_in_a_loop,
    }
    rows = take_turns(contenders, parameters, case.rounds)
    # By itself: its many temporaries leave the caches in a state that the others would pay for.
    scaled = take_turns({SCALED: clip_scaled, BASELINE: clip_with_torch}, parameters, case.rounds // 5 + 1)
    return {**rows, SCALED: scaled[SCALED]}


def take_turns(
    contenders: dict[str, Callable[[Parameters], None]], parameters: Parameters, rounds: int
) -> dict[str, dict[str, float]]:
    """Return for each contender the median time and the median time ratio to the baseline."""
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        timed(contenders[name], parameters)
    shuffler = random.Random(0)
    for _ in range(rounds):
        # Shuffled, not rotated: who comes after whom matters here, since each leaves other things in the caches.
        for name in shuffler.sample(names, len(names)):
            seconds[name].append(timed(contenders[name], parameters))
    return {
        name: {
            "time_ratio": statistics.median(
                own / base for own, base in zip(seconds[name], seconds[BASELINE], strict=True)
            ),
            "microseconds": 1e6 * statistics.median(seconds[name]),
        }
        for name in names
    }


def main() -> None:
    """Measure all cases, print a table, write the results."""
    torch.set_num_threads(1)
    results = {}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for case in CASES:
            rows = measure(case, device)
            own, floor = rows[OWN]["time_ratio"], rows["two kernels"]["time_ratio"]
            results[f"{device}: {case.name}"] = {"target": case.target, "rounds": case.rounds, "contenders": rows}
            print(f"\n{device}: {case.name} ({case.rounds} rounds)\n  {'':24} {'time ratio':>10} {'us':>10}")
            for name, row in rows.items():
                print(f"  {name:24} {row['time_ratio']:>10.3f} {row['microseconds']:>10.1f}")
            verdict = "met" if own <= case.target else "missed"
            print(f"  time target {case.target}: {verdict}; the two kernels alone take {floor:.3f},")
            print("  the rest is Python: collecting 200 gradients, checking that they share device, dtype and layout")

    versions = {"python": platform.python_version(), "torch": torch.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"versions": versions, "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
