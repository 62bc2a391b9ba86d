"""What the benchmarks share: a clock for each device, contenders that take turns, ratios, tables and results.

A processor changes its speed with its load and its temperature, so that two times taken one after the other compare
moments as much as code. Here contenders take turns in one process, and the figure is a ratio: the median, over
the rounds, of a contender's time divided by the baseline's in the same round.
"""

import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

RESULTS = Path(__file__).parent / "results"

Row = dict[str, float | int | None]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Target:
    """A value that should be at most so large, and why it is larger where it is.

    Example:
        >>> print(Target("time of ours over theirs", 0.52, 0.55, "it copies"))
        time of ours over theirs: 0.520, target 0.55: met
        >>> print(Target("time of ours over theirs", 0.62, 0.55, "it copies"))
        time of ours over theirs: 0.620, target 0.55: missed; it copies
    """

    what: str
    value: float
    target: float
    why: str

    @property
    def met(self) -> bool:
        """Whether the value is at most the target; NaN isn't."""
        return self.value <= self.target

    def __str__(self) -> str:
        verdict = "met" if self.met else f"missed; {self.why}"
        return f"{self.what}: {self.value:.3f}, target {self.target:.4g}: {verdict}"


@dataclass(frozen=True)
class Table:
    """What was measured of some contenders on one problem and one device, and what should have come out.

    In the rows ``ratio`` is to the baseline; a figure that a contender lacks stays blank.

    Example:
        >>> rows = {"ours": {"ratio": 0.5, "calls": 7}, "theirs": {"ratio": 1.0, "calls": 12}}
        >>> print(Table("a sum", "cpu", 9, "theirs", rows, [Target("ours over theirs", 0.5, 0.6, "it adds twice")]))
        a sum, cpu (9 rounds, ratio to theirs)
                   ratio        calls
          ours     0.500            7
          theirs   1.000           12
          ours over theirs: 0.500, target 0.6: met
    """

    title: str
    device: str
    rounds: int
    baseline: str
    contenders: dict[str, Row]
    targets: Sequence[Target] = ()

    def __str__(self) -> str:
        columns = list(dict.fromkeys(column for row in self.contenders.values() for column in row))
        widths = {column: 7 if column == "ratio" else max(12, len(column)) for column in columns}
        names = max(map(len, self.contenders))
        rounds = "1 round" if self.rounds == 1 else f"{self.rounds} rounds"
        lines = [f"{self.title}, {self.device} ({rounds}, ratio to {self.baseline})"]
        lines.append(f"  {'':{names}}" + "".join(f" {column:>{widths[column]}}" for column in columns))
        for name, row in self.contenders.items():
            cells = [f" {_cell(column, row.get(column)):>{widths[column]}}" for column in columns]
            lines.append(f"  {name:{names}}" + "".join(cells))
        return "\n".join([*lines, *(f"  {target}" for target in self.targets)])


def _cell(column: str, value: float | int | None) -> str:
    if value is None or isinstance(value, int):
        return "" if value is None else str(value)
    return f"{value:.3f}" if column == "ratio" else f"{value:.4g}"


def devices() -> list[str]:
    """Return the devices to measure on: the CPU, and the first CUDA GPU where there is one."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def clock(device: str) -> Callable[[], float]:
    """Return the clock of a device, in seconds.

    On the CPU it counts the time of the processor, which other processes don't add to. On a GPU it is the wall clock,
    read when all work that was queued is done.
    """
    if device == "cpu":
        return time.process_time

    def synchronized() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronized


def orders(names: Sequence[str], rounds: int, shuffled: bool = False) -> Iterator[list[str]]:
    """Yield the order of the contenders in each round, so that none profits from its place.

    Rotated, each is first in its turn, but always comes after the same one. Where it matters what that one leaves in
    the caches, the order is shuffled, the same way in each process.

    Example:
        >>> list(orders(["a", "b", "c"], 4))
        [['a', 'b', 'c'], ['b', 'c', 'a'], ['c', 'a', 'b'], ['a', 'b', 'c']]
    """
    shuffler = random.Random(0)
    for turn in range(rounds):
        first = turn % len(names)
        yield shuffler.sample(names, len(names)) if shuffled else [*names[first:], *names[:first]]


def interleaved(
    contenders: dict[str, Callable[[], object]],
    rounds: int,
    device: str,
    *,
    warm_up: int = 1,
    prepare: Callable[[int], object] = lambda turn: None,
    shuffled: bool = False,
) -> Times:
    """Return the seconds that each contender takes in each round, all of them taking turns.

    Args:
        contenders: what is timed, by name; called without arguments.
        rounds: how often each is timed.
        device: where they work, which decides about the clock.
        warm_up: how often each is called before, untimed.
        prepare: called before each call, with the number of the round, while the clock stands.
        shuffled: whether the order is shuffled instead of rotated.
    """
    now = clock(device)
    times: Times = {name: [] for name in contenders}
    for contender in contenders.values():
        for _ in range(warm_up):
            prepare(0)
            contender()
    for turn, order in enumerate(orders(list(contenders), rounds, shuffled)):
        for name in order:
            prepare(turn)
            began = now()
            contenders[name]()
            times[name].append(now() - began)
    return times


def median_ratio(own: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the median over the rounds of one time divided by the other in the same round.

    A round in which the machine was slow for both counts like any other; the ratio of the two medians may come from
    different rounds.

    Example:
        >>> own, baseline = [1.0, 8.0, 3.0], [2.0, 16.0, 4.0]
        >>> median_ratio(own, baseline), statistics.median(own) / statistics.median(baseline)
        (0.5, 0.75)
    """
    return statistics.median(a / b for a, b in zip(own, baseline, strict=True))


def compared(times: Times, baseline: str) -> dict[str, Row]:
    """Return each contender's median ratio to the baseline, and its median milliseconds for orientation.

    Example:
        >>> compared({"ours": [0.25, 0.75], "theirs": [0.5, 1.0]}, "theirs")
        {'ours': {'ratio': 0.625, 'milliseconds': 500.0}, 'theirs': {'ratio': 1.0, 'milliseconds': 750.0}}
    """
    return {
        name: {"ratio": median_ratio(own, times[baseline]), "milliseconds": 1e3 * statistics.median(own)}
        for name, own in times.items()
    }


def write_results(name: str, tables: Sequence[Table], packages: Sequence[str] = (), folder: Path = RESULTS) -> Path:
    """Write the tables, and the versions of Python, torch and the given distributions, as JSON; return the file."""
    document = {
        "benchmark": name,
        "versions": {"python": platform.python_version()} | {each: version(each) for each in ("torch", *packages)},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "tables": [
            asdict(table) | {"targets": [asdict(target) | {"met": target.met} for target in table.targets]}
            for table in tables
        ],
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def report(name: str, tables: Callable[[], Iterable[Table]], packages: Sequence[str] = ()) -> None:
    """Measure on one CPU thread, print each table when it is there, write ``results/<name>.json``.

    Args:
        name: of the benchmark and its results.
        tables: measures; a generator, so that tables show one by one.
        packages: distributions whose versions belong to the results, beside torch.
    """
    torch.set_num_threads(1)
    done = []
    with threadpool_limits(1):
        for table in tables():
            print(f"\n{table}", flush=True)
            done.append(table)
    write_results(name, done, packages)
