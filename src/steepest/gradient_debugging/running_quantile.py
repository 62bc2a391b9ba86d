"""Quantiles of the last values of a stream, by which a run is judged against its own history.

Medians and quantiles instead of means and standard deviations, because one wild value moves a mean and inflates a
deviation so far that the next wild value passes for normal.
"""

import bisect
import math
from collections import deque

from steepest.validation import require_count, require_probability


class RunningQuantile:
    """Quantiles of the last `window` finite values, at O(log window) comparisons a value.

    The values are kept twice: in order of arrival, to know which leaves next, and sorted. Values that aren't finite
    are left out: they say nothing about what is usual.

    Args:
        window: how many values are kept.

    Raises:
        TypeError: `window` isn't an int.
        ValueError: `window` < 1.

    Example:
        >>> losses = RunningQuantile(window=3)
        >>> for loss in (9.0, 1.0, float("nan"), 2.0, 3.0):
        ...     losses.append(loss)
        >>> losses.quantile(0.5), len(losses)
        (2.0, 3)
    """

    def __init__(self, window: int = 100) -> None:
        require_count("window", window)
        self.window = window
        self._arrivals: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def append(self, value: float) -> None:
        """Take a value in, and let the oldest go if the window is full; a value that isn't finite is ignored."""
        if not math.isfinite(value):
            return
        if len(self._arrivals) == self.window:
            oldest = self._arrivals.popleft()
            del self._sorted[bisect.bisect_left(self._sorted, oldest)]
        self._arrivals.append(value)
        bisect.insort(self._sorted, value)

    def quantile(self, q: float) -> float:
        """Return the q-quantile, interpolated linearly between neighbours; NaN while there are no values."""
        require_probability("q", q)
        if not self._sorted:
            return math.nan
        position = q * (len(self._sorted) - 1)
        below = math.floor(position)
        above = min(below + 1, len(self._sorted) - 1)
        low, high = self._sorted[below], self._sorted[above]
        return low if low == high else low + (position - below) * (high - low)

    def state_dict(self) -> dict[str, object]:
        """Return the window and its values, oldest first."""
        return {"window": self.window, "values": list(self._arrivals)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state`."""
        self.window = state["window"]
        self._arrivals = deque(state["values"])
        self._sorted = sorted(self._arrivals)
