"""What is known about the gradients of one step, as plain numbers on the host."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields

Numbers = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class GradientRecord:
    """One recorded step. Tuples have one entry a parameter, in the order of `names`.

    Only `step`, `names` and `norms` are needed, so that a history can be written by hand.

    Attributes:
        step: number of the step, from 0.
        names: parameters that require a gradient, in the model's order.
        norms: L2 norm of each gradient, None where there is none.
        largest: largest absolute entry of each gradient. It tells an infinite norm of finite entries (the sum of
            squares overflowed) from a gradient with infinite entries.
        weight_norms: L2 norm of each parameter.
        update_ratios: ‖change of the parameter‖ / ‖parameter before‖ of the step that followed the *previous* record;
            None without `after_step`.
        dimensions: number of dimensions of each parameter. Biases and gains (0 or 1) are judged with their layer,
            not by themselves.
        maxima, minima, means: of each gradient's entries, signed; only where entries are recorded.
        nan_counts, inf_counts: entries of each gradient that are NaN, ±inf; only where entries are recorded.
        loss: the loss, None if it wasn't given.
        scale: the loss scaler's scale, None without a scaler.
        dead: share of units that haven't fired for long, by name of the activation module.

    Example:
        >>> record = GradientRecord(step=0, names=("a", "b"), norms=(3.0, 4.0))
        >>> record.total_norm, record.finite
        (5.0, True)
    """

    step: int
    names: tuple[str, ...]
    norms: Numbers
    largest: Numbers | None = None
    weight_norms: Numbers | None = None
    update_ratios: Numbers | None = None
    dimensions: tuple[int, ...] | None = None
    maxima: Numbers | None = None
    minima: Numbers | None = None
    means: Numbers | None = None
    nan_counts: Numbers | None = None
    inf_counts: Numbers | None = None
    loss: float | None = None
    scale: float | None = None
    dead: dict[str, float] = field(default_factory=dict)

    @property
    def total_norm(self) -> float:
        """L2 norm of all gradients together; 0 if there are none, NaN if one is NaN."""
        norms = [norm for norm in self.norms if norm is not None]
        # hypot neither overflows nor underflows, but takes infinity's part against NaN.
        return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the parameters without a gradient."""
        return self._where(lambda norm, largest: norm is None)

    @property
    def nan_layers(self) -> tuple[str, ...]:
        """Names of the parameters whose gradient has a NaN."""
        return self._where(lambda norm, largest: norm is not None and math.isnan(norm))

    @property
    def inf_layers(self) -> tuple[str, ...]:
        """Names of the parameters whose gradient has an infinite entry and no NaN."""
        return self._where(lambda norm, largest: norm == math.inf and (largest is None or largest == math.inf))

    @property
    def overflowed_layers(self) -> tuple[str, ...]:
        """Names of the parameters whose gradient is finite and whose norm is not."""
        return self._where(lambda norm, largest: norm == math.inf and largest is not None and largest < math.inf)

    @property
    def finite(self) -> bool:
        """Whether no entry of any gradient is NaN or infinite."""
        return not self.nan_layers and not self.inf_layers

    @property
    def skipped(self) -> bool:
        """Whether a loss scaler is used and skips the step of this record."""
        return self.scale is not None and not self.finite

    def of_weights(self, values: Numbers | None) -> dict[str, float]:
        """Return the entries of `values` that belong to weights (two dimensions or more), by name, without None."""
        dimensions = self.dimensions or (2,) * len(self.names)
        return {
            name: value
            for name, value, dimension in zip(self.names, values or (), dimensions, strict=False)
            if value is not None and dimension >= 2
        }

    def as_dict(self) -> dict[str, object]:
        """Return the record as a dict of plain lists and numbers, from which `from_dict` makes it again."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, state: dict[str, object]) -> "GradientRecord":
        """Return the record that `as_dict` was called on; keys that a record doesn't have are ignored."""
        known = {entry.name for entry in fields(cls)}
        return cls(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in state.items()
                if name in known
            }
        )

    def _where(self, test: Callable[[float | None, float | None], bool]) -> tuple[str, ...]:
        largest = self.largest or (None,) * len(self.names)
        return tuple(name for name, norm, most in zip(self.names, self.norms, largest, strict=True) if test(norm, most))
