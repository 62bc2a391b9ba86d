"""The default alert policy: each layer beside its weights, and beside the run's own running quantiles.

| quantity of layer l               | here                       |
|-----------------------------------|----------------------------|
| ‖∇W_l‖                            | `record.norms`             |
| its running median and quantiles  | `self._norms[name]`        |
| median ‖∇W_l‖ / ‖W_l‖             | `relative`                 |
| ‖ΔW_l‖ / ‖W_l‖                    | `record.update_ratios`     |

Norms vary by factors, so that what counts as a spike is a factor, too: a power of how far the run's own 0.9-quantile
lies above its median. A layer's gradient is small if it is small beside its weights, not beside a constant; that it
is small beside the other layers' says where it vanished.
"""

import math

from steepest.gradient_debugging.alerts import Alert, NonfiniteCheck, listed
from steepest.gradient_debugging.gradient_record import GradientRecord
from steepest.gradient_debugging.running_quantile import RunningQuantile
from steepest.validation import require_count, require_number

# FP32's spacing beside 1: an update that is smaller beside its weight is rounded away.
ROUNDING = 2.0**-23
# A layer's relative gradient beside the largest of all layers.
VANISHED = 1e-5
# Of a weight's norm, in the median of half a window: five such updates turn the weight over.
LARGE_UPDATE = 0.2


class RunningThresholds:
    """Judges spikes, vanishing gradients, updates and dead units against the run's own history.

    Args:
        window: records that the quantiles look back on.
        warmup: records before anything is compared with them.
        spike: the smallest factor over the running median that is a spike of a gradient's norm.
        patience: as for `NonfiniteCheck`.

    Raises:
        TypeError: an argument isn't a number, or a count isn't an int.
        ValueError: a count is < 1, `spike` isn't > 1, or `warmup` > `window`.

    Example:
        >>> policy = RunningThresholds()
        >>> for step, norm in enumerate([1.0, 1.1, 0.9] * 10 + [30.0]):
        ...     alerts = policy.judge(GradientRecord(step, names=("w",), norms=(norm,)))
        >>> [(alert.kind, alert.subject, alert.value) for alert in alerts]
        [('gradient spike', 'w', 30.0)]
    """

    def __init__(self, window: int = 100, warmup: int = 20, spike: float = 10.0, patience: int = 4) -> None:
        require_count("window", window)
        require_count("warmup", warmup)
        require_number("spike", spike)
        if spike <= 1:
            raise ValueError(f"spike must be > 1, got {spike}")
        if warmup > window:
            raise ValueError(f"warmup must be <= window, got {warmup} > {window}")
        self.window, self.warmup, self.spike = window, warmup, spike
        self._nonfinite = NonfiniteCheck(patience, window)
        self._loss = RunningQuantile(window)
        self._norms: dict[str, RunningQuantile] = {}
        self._updates: dict[str, RunningQuantile] = {}
        # Highest and lowest running medians so far, by what they are of.
        self._highest: dict[str, float] = {}
        self._lowest_loss = math.inf
        self._was_skipped = False

    def judge(self, record: GradientRecord) -> list[Alert]:
        """Return what holds at this record; then take it into the history."""
        alerts = self._nonfinite.judge(record)
        alerts += self._loss_spike(record) + self._gradient_spike(record)
        self._take_in(record)
        return alerts + self._vanishing(record) + self._update_size(record) + self._dead_units(record)

    def _take_in(self, record: GradientRecord) -> None:
        if record.loss is not None:
            self._loss.append(record.loss)
        for name, norm in self._judged(record).items():
            self._norms.setdefault(name, RunningQuantile(self.window)).append(norm)
        if not self._was_skipped:
            for name, ratio in record.of_weights(record.update_ratios).items():
                self._updates.setdefault(name, RunningQuantile(self.window)).append(ratio)
        self._was_skipped = record.skipped

    def _judged(self, record: GradientRecord) -> dict[str, float]:
        """Return the norms that are followed: of each weight, and of all gradients together."""
        return {**record.of_weights(record.norms), "total": record.total_norm}

    def _ready(self, history: RunningQuantile | None) -> bool:
        return history is not None and len(history) >= self.warmup

    def _loss_spike(self, record: GradientRecord) -> list[Alert]:
        loss = record.loss
        if loss is None or not math.isfinite(loss) or not self._ready(self._loss):
            return []
        median, high = self._loss.quantile(0.5), self._loss.quantile(0.9)
        level = self._highest["loss"] = max(self._highest.get("loss", 0.0), abs(high))
        # A rise that is nothing beside where the run came from is noise of a loss near 0.
        threshold = median + max(8 * (high - median), 0.1 * level)
        if loss <= threshold:
            return []
        message = f"the loss is {loss:g}, its running median {median:g}, its running 0.9-quantile {high:g}"
        remedy = "look at this batch; if the loss stays up, lower the learning rate, lengthen warmup or clip"
        return [Alert("loss spike", "loss", record.step, loss, message, remedy)]

    def _gradient_spike(self, record: GradientRecord) -> list[Alert]:
        worst, spiked = None, []
        for name, norm in self._judged(record).items():
            history = self._norms.get(name)
            if history is None or not math.isfinite(norm):
                continue
            if self._ready(history):
                threshold = spike_threshold(history, self.spike)
            else:
                # An explosion in the first steps doesn't wait until there is a history.
                threshold = self.spike**3 * history.quantile(0.5) if name == "total" else math.inf
            if norm > threshold > 0:
                spiked.append(name)
                median = history.quantile(0.5)
                if worst is None or norm / median > worst[1]:
                    worst = name, norm / median, norm
        if worst is None:
            return []
        name, factor, norm = worst
        message = f"the norm is {factor:.3g} times its running median in {name}; spikes in {listed(spiked)}"
        remedy = (
            "clip by norm near the running 0.9-quantile; replay the batch at older weights: a spike again is the data"
        )
        return [Alert("gradient spike", name, record.step, norm, message, remedy)]

    def _vanishing(self, record: GradientRecord) -> list[Alert]:
        weights = record.of_weights(record.weight_norms)
        relative = {}
        for name, weight in weights.items():
            if self._ready(self._norms.get(name)) and weight > 0:
                relative[name] = self._norms[name].quantile(0.5) / weight
        if not relative:
            return []
        # A gradient larger than its weight tells of a weight near 0, as of a head that starts at 0.
        best = min(max(relative.values()), 1.0)
        converged = self._loss_is_lowest()
        vanished = []
        for name, ratio in relative.items():
            median = self._norms[name].quantile(0.5)
            peak = self._highest[name] = max(self._highest.get(name, 0.0), median)
            moves = self._ready(self._updates.get(name)) and self._updates[name].quantile(0.5) > 100 * ROUNDING
            fell_with_loss = converged and median < 1e-3 * peak
            if ratio < max(ROUNDING, VANISHED * best) and not moves and not fell_with_loss:
                vanished.append(name)
        if not vanished:
            return []
        least = min(vanished, key=relative.get)
        message = f"the gradient is {relative[least]:.1e} of the weights in {least}; vanished in {listed(vanished)}"
        remedy = (
            "initialise for the activation, use ReLU-like activations, skips or normalisation; look for dead units,"
            " a saturated loss or FP16 underflow"
        )
        return [Alert("vanishing", least, record.step, relative[least], message, remedy)]

    def _loss_is_lowest(self) -> bool:
        if not self._ready(self._loss):
            return False
        median = self._loss.quantile(0.5)
        self._lowest_loss = min(self._lowest_loss, median)
        return median <= self._lowest_loss + 0.05 * abs(self._highest.get("loss", 0.0))

    def _update_size(self, record: GradientRecord) -> list[Alert]:
        medians = {
            name: self._updates[name].quantile(0.5)
            for name in record.of_weights(record.update_ratios)
            if self._ready(self._updates.get(name))
        }
        alerts = []
        settled = self.window // 2
        large = [
            name for name, ratio in medians.items() if ratio > LARGE_UPDATE and len(self._updates[name]) >= settled
        ]
        if large:
            most = max(large, key=medians.get)
            message = f"an update is {medians[most]:.2g} of the weights in {most}; large in {listed(large)}"
            remedy = "lower the learning rate, or lengthen warmup: about 1e-3 of the weights is usual"
            alerts.append(Alert("large update", most, record.step, medians[most], message, remedy))
        weights = record.of_weights(record.weight_norms)
        lost = [
            name
            for name, ratio in medians.items()
            if ratio == 0
            and self._ready(self._norms.get(name))
            and self._norms[name].quantile(0.5) > weights.get(name, 0.0) * ROUNDING
        ]
        if lost:
            message = f"updates leave {listed(lost)} unchanged"
            remedy = "keep FP32 master weights of 16-bit weights; check the learning rate and the optimizer's groups"
            alerts.append(Alert("lost update", lost[0], record.step, 0.0, message, remedy))
        return alerts

    def _dead_units(self, record: GradientRecord) -> list[Alert]:
        dead = {name: share for name, share in record.dead.items() if share > 0.5}
        if not dead:
            return []
        most = max(dead, key=dead.get)
        message = f"{dead[most]:.0%} of the units of {most} have not fired for long; over half in {listed(list(dead))}"
        remedy = "lower the learning rate, use LeakyReLU or GELU, check biases and input scale; reinitialise dead units"
        return [Alert("dead units", most, record.step, dead[most], message, remedy)]

    def state_dict(self) -> dict[str, object]:
        """Return what a resumed run needs to judge the same."""
        return {
            "nonfinite": self._nonfinite.state_dict(),
            "loss": self._loss.state_dict(),
            "norms": {name: history.state_dict() for name, history in self._norms.items()},
            "updates": {name: history.state_dict() for name, history in self._updates.items()},
            "highest": dict(self._highest),
            "lowest_loss": self._lowest_loss,
            "was_skipped": self._was_skipped,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state`."""
        self._nonfinite.load_state_dict(state["nonfinite"])
        self._loss.load_state_dict(state["loss"])
        self._norms, self._updates = {}, {}
        for mine, theirs in ((self._norms, state["norms"]), (self._updates, state["updates"])):
            for name, history in theirs.items():
                mine[name] = RunningQuantile(self.window)
                mine[name].load_state_dict(history)
        self._highest = dict(state["highest"])
        self._lowest_loss = state["lowest_loss"]
        self._was_skipped = state["was_skipped"]


def spike_threshold(history: RunningQuantile, factor: float) -> float:
    """Return above which norm a gradient spikes: `factor` medians, or more where the run's own noise is wider.

    For a log-normal norm log(q90 / median) is 1.28 standard deviations, so that its fourth power is 5.1 of them.

    >>> calm = RunningQuantile()
    >>> for norm in (1.0, 1.1, 0.9):
    ...     calm.append(norm)
    >>> spike_threshold(calm, factor=10.0)
    10.0
    """
    median, high = history.quantile(0.5), history.quantile(0.9)
    # The cap keeps the power of a run that jumps between 0 and its norm within range.
    return median * max(factor, min(high / median, 1e20) ** 4) if median > 0 else math.inf
