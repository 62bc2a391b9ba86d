"""Time and memory of work on a device, for claims about GPUs; the same code runs on the CPU.

A GPU works through a queue: a time is the host's, from an empty queue to an empty queue.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil

import torch

from steepest.checkpointing import LiveMemory

# Calls are repeated until a reading is this long, so that neither the clock nor the last wait matters.
READING_SECONDS = 0.01


def wait(device: str) -> None:
    """Wait until the device has done all that it was asked to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def release(device: str) -> None:
    """Free what earlier work left: tensors held by cycles of objects, and the blocks that the allocator keeps."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def seconds_of_each(
    contenders: Mapping[str, Callable[[], object]], device: str, rounds: int = 10
) -> dict[str, list[float]]:
    """The seconds that one call of each contender takes, once a round, the contenders taking turns.

    Each is called once before, to warm up, and once to see how many calls make a reading.

    >>> times = seconds_of_each({"add": lambda: torch.ones(2) + 1}, "cpu", rounds=3)
    >>> len(times["add"]), all(seconds > 0 for seconds in times["add"])
    (3, True)
    """
    calls = {}
    for name, contender in contenders.items():
        contender()
        calls[name] = max(1, ceil(READING_SECONDS / _seconds(contender, 1, device)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(_seconds(contenders[name], calls[name], device))
    return times


def _seconds(contender: Callable[[], object], calls: int, device: str) -> float:
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        contender()
    wait(device)
    return (time.perf_counter() - start) / calls


def ratio(times: Mapping[str, list[float]], name: str, base: str) -> float:
    """The median over the rounds of one contender's time over another's.

    >>> ratio({"a": [2.0, 3.0, 8.0], "b": [1.0, 2.0, 2.0]}, "a", "b")
    2.0
    """
    return statistics.median(own / other for own, other in zip(times[name], times[base], strict=True))


def peak_bytes(work: Callable[[], object], device: str) -> int:
    """The most bytes of tensors alive at a time while `work` runs: those that it finds and those that it makes.

    On a GPU these are the allocator's, with the workspaces of libraries; on the CPU only what the work makes counts.

    >>> peak_bytes(lambda: torch.ones(1000) + 1, "cpu")
    8000
    """
    if device == "cuda":
        wait(device)
        release(device)
        torch.cuda.reset_peak_memory_stats()
        work()
        wait(device)
        return torch.cuda.max_memory_allocated()
    with LiveMemory() as memory:
        work()
    return memory.peak_bytes()


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Compute FP32 matrix products and convolutions in full ("highest") or on GPUs in TF32 ("high")."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision == "high"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def random_tensor(*shape: int, device: str, seed: int) -> torch.Tensor:
    """Standard normal numbers in FP32, the same on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)
