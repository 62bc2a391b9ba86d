"""Watches a training run and says what is wrong and what to do about it."""

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

import torch
from torch import nn

from steepest.gradient_debugging.alerts import Alert, AlertPolicy
from steepest.gradient_debugging.gradient_record import GradientRecord
from steepest.gradient_debugging.recorder import GradientRecorder, LossScaler
from steepest.gradient_debugging.running_thresholds import RunningThresholds
from steepest.gradient_debugging.sinks import Sink


class TrainingMonitor:
    """A `GradientRecorder` whose records are judged by a policy and handed to sinks.

    When to call what in a step (with a scaler and clipping; leave out what isn't used)::

        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        alerts = monitor.observe(loss, scaler)
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        monitor.after_step()
        scaler.update()
        optimizer.zero_grad()

    The host waits once in `observe` of a recorded step, and nowhere else. `after_step` is optional: with it the ratio
    of the update to the weights is known, learning rate, momentum and decay included, and arrives with the next
    record. An alert is raised when its condition begins, for each layer that it comes to concern most, and again only
    after it has ended.

    Args:
        model: the network.
        every: steps between records.
        policy: judges the records; `RunningThresholds()` if None, `FixedThresholds()` for the rule of thumb.
        sinks: take each record and its alerts.
        history_size: records and alerts kept.
        track_updates: allow `after_step`, at the cost of a copy of the weights between the two calls.
        activations: types of activation modules whose dead units are counted, none if empty.

    Raises:
        TypeError: `model` isn't a module, or a count isn't an int.
        ValueError: a count is < 1.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> with TrainingMonitor(model) as monitor:
        ...     (float("nan") * model(torch.ones(1, 2)).sum()).backward()
        ...     [alert.kind for alert in monitor.observe()]
        ['nan']
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 1,
        policy: AlertPolicy | None = None,
        sinks: Sequence[Sink] = (),
        history_size: int = 500,
        *,
        track_updates: bool = True,
        activations: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6),
    ) -> None:
        self.recorder = GradientRecorder(
            model, every, history_size, track_updates=track_updates, activations=activations
        )
        self.policy = RunningThresholds() if policy is None else policy
        self.sinks = tuple(sinks)
        self.alerts: deque[Alert] = deque(maxlen=history_size)
        self._holding: set[tuple[str, str]] = set()

    @property
    def history(self) -> deque[GradientRecord]:
        """The records, oldest first, as `gradient_flow.diagnose` takes them."""
        return self.recorder.history

    def observe(self, loss: torch.Tensor | float | None = None, scaler: LossScaler | None = None) -> list[Alert]:
        """Record and judge this step if it is due, after backward and `unscale_`, before clipping.

        Args:
            loss: the loss of the step, without the scaler's scale, one element.
            scaler: the loss scaler, if one is used.

        Returns:
            The alerts that are new, none if the step isn't due.

        Raises:
            TypeError: `loss` is neither a tensor nor a number, or a gradient is complex or sparse.
            ValueError: `loss` has more than one element.
        """
        record = self.recorder.observe(loss, scaler)
        if record is None:
            return []
        found = self.policy.judge(record)
        new = [alert for alert in found if (alert.kind, alert.subject) not in self._holding]
        # The layer that it concerns most changes back and forth while a condition lasts.
        lasting = {alert.kind for alert in found}
        self._holding = {(kind, subject) for kind, subject in self._holding if kind in lasting}
        self._holding |= {(alert.kind, alert.subject) for alert in found}
        self.alerts.extend(new)
        for sink in self.sinks:
            sink.write(record, new)
        return new

    def after_step(self) -> None:
        """Measure the update, after the optimizer's step; see `GradientRecorder.after_step`."""
        self.recorder.after_step()

    def close(self) -> None:
        """Remove the hooks from the model and close the sinks, all of them also if one raises."""
        self.recorder.close()
        with ExitStack() as closing:
            for sink in self.sinks:
                closing.callback(sink.close)

    def __enter__(self) -> "TrainingMonitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, object]:
        """Return what a resumed run needs to alert the same; save it between two steps. Alerts raised aren't kept."""
        return {
            "recorder": self.recorder.state_dict(),
            "policy": self.policy.state_dict(),
            "holding": sorted(list(condition) for condition in self._holding),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state`."""
        self.recorder.load_state_dict(state["recorder"])
        self.policy.load_state_dict(state["policy"])
        self._holding = {(kind, subject) for kind, subject in state["holding"]}
