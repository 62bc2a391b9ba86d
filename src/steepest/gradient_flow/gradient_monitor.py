"""The checklist of gradient flow, written down every so many steps: per parameter and in total."""

import math
from collections import deque
from types import TracebackType

import torch
from torch import nn

from steepest.gradient_debugging import GradientRecord, GradientRecorder, LossScaler
from steepest.gradient_flow.causes import Finding
from steepest.gradient_flow.diagnose import diagnose

Statistics = dict[str, dict[str, float]]


class GradientMonitor:
    """A `GradientRecorder` that records the entries of each gradient every `log_freq` steps.

    Call `log_gradients` once an optimizer step: after the last backward and after a loss scaler's `unscale_`, before
    clipping, the optimizer's step and `zero_grad`. It never steps anything and leaves gradients alone; a logged step
    makes the host wait once, other steps never. `TrainingMonitor` is the other view of the same recorder, for
    alerts while the run goes on.

    Args:
        model: the network.
        log_freq: log steps 0, log_freq, 2·log_freq, ...
        history_size: logged steps kept, oldest dropped.

    Raises:
        TypeError: `model` isn't a module, or a count isn't an int.
        ValueError: a count is < 1.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> monitor = GradientMonitor(model, log_freq=1)
        >>> monitor.log_gradients()
        {}
        >>> model(torch.tensor([3.0, -4.0])).backward()
        >>> monitor.log_gradients()["weight"]["norm"]
        5.0
        >>> print(monitor.report())
        step 1: total norm 5.099, maximum 3, minimum -4
    """

    def __init__(self, model: nn.Module, log_freq: int = 100, history_size: int = 500) -> None:
        self.recorder = GradientRecorder(model, log_freq, history_size, entries=True)

    @property
    def history(self) -> deque[GradientRecord]:
        """The logged steps, oldest first."""
        return self.recorder.history

    def log_gradients(
        self, loss: torch.Tensor | float | None = None, scaler: LossScaler | None = None
    ) -> Statistics | None:
        """Log this step if it is due.

        Args:
            loss: the loss of the step, without a scaler's scale; `diagnose` tells more apart with it.
            scaler: the loss scaler, if one is used.

        Returns:
            By name of the parameter: "norm", "max", "min" and "mean" of its gradient's entries, and how many are NaN
            and ±inf ("nan_count", "inf_count"). Parameters without a gradient are left out. None if the step isn't due.

        Raises:
            TypeError: `loss` is neither a tensor nor a number, or a gradient is complex or sparse.
            ValueError: `loss` has more than one element.
        """
        record = self.recorder.observe(loss, scaler)
        return None if record is None else _statistics(record)

    def report(self) -> str:
        """Return the last logged step in words, with the parameters that aren't finite.

        Raises:
            RuntimeError: nothing has been logged.
        """
        if not self.history:
            raise RuntimeError("nothing has been logged; call log_gradients() after backward() first")
        record = self.history[-1]
        statistics = _statistics(record)
        if not statistics:
            return f"step {record.step}: no parameter has a gradient"
        maximum = _extreme([entry["max"] for entry in statistics.values()], max)
        minimum = _extreme([entry["min"] for entry in statistics.values()], min)
        total = record.total_norm
        lines = [f"step {record.step}: total norm {total:.4g}, maximum {maximum:.4g}, minimum {minimum:.4g}"]
        for name, entry in statistics.items():
            if entry["nan_count"] or entry["inf_count"]:
                lines.append(f"  {name}: {entry['nan_count']} NaN, {entry['inf_count']} infinite")
        lines += [f"  {name}: finite, but its norm overflows" for name in record.overflowed_layers]
        return "\n".join(lines)

    def diagnose(self) -> list[Finding]:
        """Return what `diagnose` finds in the history so far."""
        return diagnose(self.history)

    def close(self) -> None:
        """Remove the hooks from the model; the history stays."""
        self.recorder.close()

    def __enter__(self) -> "GradientMonitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, object]:
        """Return what a resumed run needs to go on."""
        return self.recorder.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state`."""
        self.recorder.load_state_dict(state)


def _statistics(record: GradientRecord) -> Statistics:
    columns = (record.norms, record.maxima, record.minima, record.means, record.nan_counts, record.inf_counts)
    statistics = {}
    for name, norm, *rest in zip(record.names, *(column or record.norms for column in columns), strict=True):
        if norm is not None:
            maximum, minimum, mean, nans, infinities = rest
            statistics[name] = {
                "norm": norm,
                "max": maximum,
                "min": minimum,
                "mean": mean,
                "nan_count": int(nans),
                "inf_count": int(infinities),
            }
    return statistics


def _extreme(values: list[float], of: type[max] | type[min]) -> float:
    # max and min compare, and every comparison with NaN is False: they would pass over it or stop at it.
    return math.nan if any(map(math.isnan, values)) else of(values)
