"""How measurements grow: slopes on double logarithmic axes, and times that a loaded machine disturbs little."""

import math
import time
from collections.abc import Callable, Sequence


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent p of the power law values ~ sizes^p, by least squares of the logarithms.

    >>> round(slope([1, 10, 100], [2, 200, 20000]), 12)
    2.0
    """
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    return sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / sum((a - x_mean) ** 2 for a in x)


def fastest(contenders: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The shortest time of each contender in seconds, over `repeats` rounds that take turns.

    Other work on the machine only adds time, so the shortest is the least disturbed; taking turns keeps a
    disturbance from falling on one contender alone.
    """
    times = [math.inf] * len(contenders)
    for _ in range(repeats):
        for index, contender in enumerate(contenders):
            start = time.perf_counter()
            contender()
            times[index] = min(times[index], time.perf_counter() - start)
    return times
