"""A figure in a live kernel: an ipywidget that calls the figure's function for whatever value is chosen."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import anywidget
import traitlets

from .build import SCRIPT_LIVE, STYLE
from .controls import Control, State, Value
from .grid import evaluate
from .packing import control_header, pack
from .panels import Figure

UNBUILT = """
export default { render({ el }) {
  el.textContent = "The front end of steepest.explore is not built: run python -m steepest.explore.build, " +
    "then restart the kernel.";
} };
"""


class LiveFigure(anywidget.AnyWidget):
    """An anywidget, and so an ipywidget: it composes with `HBox`, `observe`, `link` and `jslink`.

    Every control is a synchronised trait of its own name. A numeric control takes any value between its first
    and last stop (whole numbers only where all stops are whole); the figure follows on each change.

    Attributes:
        state: the value of each control.
        error: what went wrong for the current state, empty if nothing did; shown in the figure.

    Raises:
        ValueError: if a control has the name of an attribute that every widget has.
    """

    _esm = SCRIPT_LIVE if SCRIPT_LIVE.exists() else UNBUILT
    _css = STYLE if STYLE.exists() else ""

    _controls = traitlets.List().tag(sync=True)
    _block = traitlets.Bytes(b"").tag(sync=True)
    _answers = traitlets.Int(0).tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)

    def __init__(self, fn: Callable[..., Figure], controls: Mapping[str, Control]) -> None:
        taken = [name for name in controls if hasattr(type(self), name)]
        if taken:
            raise ValueError(f"a control can't be named {taken[0]!r}, which every widget has: rename the parameter")
        super().__init__()
        self._fn = fn
        self._known = dict(controls)
        self._controls = [_live_header(name, control) for name, control in controls.items()]
        self.add_traits(**{name: _trait(control) for name, control in controls.items()})
        self._show()
        # No names at all would mean all traits to traitlets, those that _show sets included.
        if controls:
            self.observe(self._show, names=list(controls))

    @property
    def state(self) -> State:
        """The value of each control."""
        return {name: getattr(self, name) for name in self._known}

    def _show(self, change: Any = None) -> None:
        state = self.state
        only = {
            name: replace(control, values=(state[name],), default=state[name]) for name, control in self._known.items()
        }
        try:
            block = pack(evaluate(self._fn, only))
        except Exception as error:  # whatever the function raises is shown in the figure, in its own words
            block, message = self._block, f"{type(error).__name__}: {error}"
        else:
            message = ""
        with self.hold_sync():
            self.error = message
            self._block = block
            self._answers += 1


def between(control: Control, position: float) -> Value:
    """The value at a slider's `position` between stop 0 and stop n - 1, as the front end computes it.

    >>> from steepest.explore.controls import stops
    >>> between(stops([1.0, 10.0, 100.0]), 0.5)
    3.1622776601683795
    >>> between(stops([0, 10, 20]), 0.26)
    3
    """
    low = min(int(position), len(control.values) - 2)
    start, end, share = control.values[low], control.values[low + 1], position - low
    value = start * (end / start) ** share if control.log_spaced else start + share * (end - start)
    return round(value) if control.integer else value


def _live_header(name: str, control: Control) -> dict[str, Any]:
    return {**control_header(name, control), "integer": control.integer, "log": control.log_spaced, "live": True}


def _trait(control: Control) -> traitlets.TraitType:
    if control.kind == "switch":
        trait = traitlets.Bool(control.default)
    elif control.kind == "choice":
        trait = traitlets.Enum(control.values, control.default)
    else:
        number = traitlets.Int if control.integer else traitlets.Float
        trait = number(control.default, min=control.values[0], max=control.values[-1])
    return trait.tag(sync=True)
