"""Alerts about a training run, and the two policies that raise them.

`FixedThresholds` is the rule of thumb: a total norm above 100 may be an explosion, above 1000 surely is one, below
1e-7 gradients vanish. But a norm grows with the number of parameters, with a summed instead of an averaged loss and
with a loss scale, so that no constant fits two models. `RunningThresholds` judges each layer relative to its weights
and to the run's own running quantiles (Schneider, Dangel, Hennig, "Cockpit", arXiv 2102.06604).

Both test for NaN and infinity first, because every comparison with NaN is False. An infinite norm of finite entries
is another thing than infinite entries: the former is cured by a smaller scale, and a loss scaler doesn't see it.
With a loss scaler infinite gradients are by design: it tries scales until one overflows, and skips that step. Only
several skips in a row, or a scale that keeps falling, say that something is wrong.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from steepest.gradient_debugging.gradient_record import GradientRecord
from steepest.validation import require_count, require_positive

FIND_FIRST = (
    "skip this step; find the first offending operator (find_nonfinite, torch.autograd.set_detect_anomaly) and check"
    " logarithms, divisions and roots near 0, and FP16 ranges. Clipping doesn't cure it"
)


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that needs a look.

    Attributes:
        kind: what holds: "loss", "nan", "inf", "overflowed norm", "skipped steps", "falling scale", "no gradient",
            "explosion", "possible explosion", "vanishing", "loss spike", "gradient spike", "large update",
            "lost update", "dead units".
        subject: the layer that it concerns most, or "total", "loss", "scale".
        step: the step of the record.
        value: the quantity that was judged.
        message: what is seen.
        remedy: what to do.
    """

    kind: str
    subject: str
    step: int
    value: float
    message: str
    remedy: str


class AlertPolicy(Protocol):
    """Judges one record after the other; `judge` returns everything that holds, whether or not it did before."""

    def judge(self, record: GradientRecord) -> list[Alert]:
        """Return what is wrong with the record."""

    def state_dict(self) -> dict[str, object]:
        """Return what a resumed run needs to judge the same."""

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state`."""


class NonfiniteCheck:
    """The part that policies share: loss and gradients that aren't numbers, and a loss scaler in trouble.

    Args:
        patience: so many skipped steps in a row alarm, and so does a scale halved so many times, on balance, within
            `window` records.
        window: records within which the scale is followed.

    Raises:
        TypeError: an argument isn't an int.
        ValueError: an argument is < 1.

    Example:
        >>> check = NonfiniteCheck(patience=2)
        >>> skipped = GradientRecord(step=0, names=("w",), norms=(float("inf"),), scale=1024.0)
        >>> [alert.kind for _ in range(2) for alert in check.judge(skipped)]
        ['skipped steps']
    """

    def __init__(self, patience: int = 4, window: int = 100) -> None:
        require_count("patience", patience)
        require_count("window", window)
        self.patience = patience
        self._skips = 0
        self._scales: deque[float] = deque(maxlen=window)

    def judge(self, record: GradientRecord) -> list[Alert]:
        """Return what isn't finite and should be."""
        alerts = []

        def add(kind: str, subject: str, value: float, message: str, remedy: str) -> None:
            alerts.append(Alert(kind, subject, record.step, value, message, remedy))

        if record.loss is not None and not math.isfinite(record.loss):
            add("loss", "loss", record.loss, f"the loss is {record.loss}", FIND_FIRST)
        if record.norms and len(record.missing) == len(record.names):
            remedy = "observe after backward and before zero_grad; look for a detached graph"
            add("no gradient", "total", 0.0, "no parameter has a gradient", remedy)
        if record.scale is None:
            # NaN flows from the operator that made it towards the input: the layer nearest the output is the suspect.
            for kind, layers in (("nan", record.nan_layers), ("inf", record.inf_layers)):
                if layers:
                    value = math.nan if kind == "nan" else math.inf
                    message = f"{kind} in the gradients of {listed(layers)}; nearest the output: {layers[-1]}"
                    add(kind, layers[-1], value, message, FIND_FIRST)
        else:
            alerts += self._scaler_alerts(record)
        overflowed = record.overflowed_layers
        if overflowed:
            add(
                "overflowed norm",
                overflowed[0],
                math.inf,
                f"the norm of finite gradients overflows in {listed(overflowed)}",
                "clipping would set these gradients to 0: average the loss, lower the loss scale, or take the norm"
                " scaled by its largest entry",
            )
        return alerts

    def state_dict(self) -> dict[str, object]:
        """Return the skips in a row and the last scales."""
        return {"skips": self._skips, "scales": list(self._scales)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state`."""
        self._skips = state["skips"]
        self._scales = deque(state["scales"], maxlen=self._scales.maxlen)

    def _scaler_alerts(self, record: GradientRecord) -> list[Alert]:
        self._skips = self._skips + 1 if record.skipped else 0
        self._scales.append(record.scale)
        if self._skips >= self.patience:
            message = f"{self._skips} steps in a row were skipped for NaN or infinite gradients"
            return [Alert("skipped steps", "scale", record.step, self._skips, message, FIND_FIRST)]
        if record.scale <= max(self._scales) / 2**self.patience:
            message = f"the loss scale fell from {max(self._scales):g} to {record.scale:g}"
            remedy = "look for a loss that grows or overflows in FP16; use BF16, which needs no scaler"
            return [Alert("falling scale", "scale", record.step, record.scale, message, remedy)]
        return []


class FixedThresholds:
    """The rule of thumb: one total norm, three constants, NaN and infinity before them.

    Args:
        large: above this the gradients may explode.
        huge: above this they do.
        small: below this they vanish.
        patience: as for `NonfiniteCheck`.

    Raises:
        TypeError: a threshold isn't a number, or `patience` isn't an int.
        ValueError: a threshold isn't positive and finite, or they aren't in order.

    Example:
        >>> record = GradientRecord(step=7, names=("w",), norms=(2000.0,))
        >>> [(alert.kind, alert.value) for alert in FixedThresholds().judge(record)]
        [('explosion', 2000.0)]
    """

    def __init__(self, large: float = 100.0, huge: float = 1000.0, small: float = 1e-7, patience: int = 4) -> None:
        for name, value in (("large", large), ("huge", huge), ("small", small)):
            require_positive(name, value)
        if not small < large <= huge:
            raise ValueError(f"thresholds must be in order small < large <= huge, got {small}, {large}, {huge}")
        self.large, self.huge, self.small = large, huge, small
        self._nonfinite = NonfiniteCheck(patience)

    def judge(self, record: GradientRecord) -> list[Alert]:
        """Return what is beyond the thresholds."""
        alerts = self._nonfinite.judge(record)
        norm = record.total_norm
        if not math.isfinite(norm) or len(record.missing) == len(record.names):
            return alerts
        if norm > self.large:
            kind = "explosion" if norm > self.huge else "possible explosion"
            remedy = "lower the learning rate, clip by norm; check whether the loss is averaged"
            alerts.append(Alert(kind, "total", record.step, norm, f"the total norm is {norm:g}", remedy))
        elif norm < self.small:
            remedy = "initialise for the activation, add skips; check whether the run has converged"
            alerts.append(Alert("vanishing", "total", record.step, norm, f"the total norm is {norm:g}", remedy))
        return alerts

    def state_dict(self) -> dict[str, object]:
        """Return what a resumed run needs to judge the same."""
        return self._nonfinite.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state`."""
        self._nonfinite.load_state_dict(state)


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Return up to three names, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
