"""Where records and alerts go: a file of JSON lines, or TensorBoard."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from steepest.gradient_debugging.alerts import Alert
from steepest.gradient_debugging.gradient_record import GradientRecord


class Sink(Protocol):
    """Takes each record with the alerts that it raised."""

    def write(self, record: GradientRecord, alerts: Sequence[Alert]) -> None:
        """Take in one record and its alerts."""

    def close(self) -> None:
        """Write out what is left."""


class JSONLSink:
    """Appends one JSON object a record to a file, each written out at once, so that a crash loses none.

    JSON has no NaN and no infinity; they are written as the strings "NaN", "Infinity" and "-Infinity", which Python's
    `float` and JavaScript's `Number` read. `read_jsonl` reads the file back.

    Args:
        path: the file; made with its folder if missing, continued if not. A last line that a crash cut short is
            dropped.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sink = JSONLSink(Path(folder) / "run.jsonl")
        ...     sink.write(GradientRecord(step=0, names=("w",), norms=(float("nan"),)), [])
        ...     print(sink.path.read_text().strip())
        ...     read_jsonl(sink.path)[0].norms
        {"step": 0, "names": ["w"], "norms": ["NaN"], "dead": {}, "total_norm": "NaN", "alerts": []}
        (nan,)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            written = self.path.read_bytes()
            whole = written.rfind(b"\n") + 1
            if whole < len(written):
                self.path.write_bytes(written[:whole])

    def write(self, record: GradientRecord, alerts: Sequence[Alert]) -> None:
        """Append a line."""
        line = record.as_dict() | {
            "total_norm": record.total_norm,
            "alerts": [
                {name: getattr(alert, name) for name in ("kind", "subject", "value", "message", "remedy")}
                for alert in alerts
            ],
        }
        text = json.dumps(_written(line), allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def close(self) -> None:
        """Do nothing: every record is in the file already."""


class TensorBoardSink:
    """Writes scalars to TensorBoard: loss, total norm, and one curve a layer for norms, updates and dead units.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`, or anything with its `add_scalar`, `add_text` and `flush`.
            It stays open after `close`, for it is the caller's.

    Example:
        >>> from unittest.mock import Mock
        >>> writer = Mock()
        >>> TensorBoardSink(writer).write(GradientRecord(step=3, names=("w",), norms=(2.0,)), [])
        >>> [call.args for call in writer.add_scalar.call_args_list]
        [('gradient/total_norm', 2.0, 3), ('gradient_norm/w', 2.0, 3)]
    """

    def __init__(self, writer: object) -> None:
        for method in ("add_scalar", "add_text", "flush"):
            if not hasattr(writer, method):
                raise TypeError(f"writer must have {method}(), got {type(writer).__name__}; pass a SummaryWriter")
        self._writer = writer

    def write(self, record: GradientRecord, alerts: Sequence[Alert]) -> None:
        """Write the record's scalars at its step, and each alert as text."""
        scalars = {"loss": record.loss, "loss_scale": record.scale, "gradient/total_norm": record.total_norm}
        for group, values in (
            ("gradient_norm", record.norms),
            ("weight_norm", record.weight_norms),
            ("update_ratio", record.update_ratios),
        ):
            scalars |= {f"{group}/{name}": value for name, value in zip(record.names, values or (), strict=False)}
        scalars |= {f"dead_units/{name}": share for name, share in record.dead.items()}
        for tag, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(tag, value, record.step)
        for alert in alerts:
            self._writer.add_text(f"alert/{alert.kind}", f"{alert.message}. Remedy: {alert.remedy}", record.step)

    def close(self) -> None:
        """Flush the writer."""
        self._writer.flush()


def read_jsonl(path: str | Path) -> list[GradientRecord]:
    """Return the records of a file that `JSONLSink` wrote, by step.

    A run resumed from an older checkpoint writes some steps again: the later line stands. A last line that a crash
    cut short is left out.

    Raises:
        ValueError: another line isn't JSON.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "run.jsonl"
        ...     for norm in (2.0, 1.0):  # the second time after a restart from the same step
        ...         JSONLSink(path).write(GradientRecord(step=7, names=("w",), norms=(norm,)), [])
        ...     [(record.step, record.norms) for record in read_jsonl(path)]
        [(7, (1.0,))]
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    records = {}
    for number, line in enumerate(lines, start=1):
        try:
            state = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not JSON: {error}") from error
        record = GradientRecord.from_dict(_read(state))
        records[record.step] = record
    return [records[step] for step in sorted(records)]


def _written(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {name: _written(entry) for name, entry in value.items()}
    return [_written(entry) for entry in value] if isinstance(value, list) else value


def _read(value: object) -> object:
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    if isinstance(value, dict):
        return {name: _read(entry) for name, entry in value.items()}
    return [_read(entry) for entry in value] if isinstance(value, list) else value
