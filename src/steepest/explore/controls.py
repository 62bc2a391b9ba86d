"""Controls of a live figure: the values that a reader can choose.

A control has a finite list of values, its *stops*. The built book evaluates the figure's function on the
product of all stops; a live kernel also computes between the stops of a numeric control.
"""

import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

Value = float | int | str | bool
State = dict[str, Value]


@dataclass(frozen=True)
class Control:
    """One control: `kind` is "stops", "choice" or "switch"; `values` are its stops in the order shown.

    `default` is one of `values`; `label` is shown beside the control, followed by the value and `unit`.
    `play` adds a button that runs through the stops.
    """

    kind: str
    values: tuple[Value, ...]
    default: Value
    label: str | None = None
    unit: str = ""
    play: bool = False

    @property
    def integer(self) -> bool:
        """Whether the values are whole numbers, so that a live slider rests on whole numbers only."""
        return self.kind == "stops" and all(isinstance(value, int) for value in self.values)

    @property
    def log_spaced(self) -> bool:
        """Whether the stops are closer to equal ratios than to equal differences.

        >>> stops([1, 3, 10, 30, 100]).log_spaced, stops(range(5)).log_spaced
        (True, False)
        """
        if self.kind != "stops" or len(self.values) < 3 or min(self.values) <= 0:
            return False
        return _unevenness([math.log(value) for value in self.values]) < _unevenness(list(self.values))

    def index(self, value: Value) -> int:
        """Position of `value` among the stops.

        Raises:
            ValueError: if `value` is not a stop of this control.
        """
        for position, stop in enumerate(self.values):
            if stop == value and isinstance(stop, bool) == isinstance(value, bool):
                return position
        raise ValueError(f"{value!r} is not one of the values {list(self.values)!r}")


def stops(
    values: Iterable[float],
    default: float | None = None,
    label: str | None = None,
    unit: str = "",
    play: bool = False,
) -> Control:
    """A slider that rests on the given numbers (strictly rising, at least one).

    The default is the first stop where none is given. `play` is for a control that stands for time.

    Raises:
        TypeError: if a value is not a real number.
        ValueError: if there are no values, they do not rise, one is not finite, or the default is none of them.

    >>> stops([0.1, 0.2, 0.5], default=0.2, unit="s").values
    (0.1, 0.2, 0.5)
    """
    numbers = tuple(_plain_number(value) for value in values)
    if not numbers:
        raise ValueError("stops needs at least one value")
    if any(not math.isfinite(number) for number in numbers):
        raise ValueError(f"stops must be finite numbers, got {list(numbers)!r}")
    if any(later <= earlier for earlier, later in itertools.pairwise(numbers)):
        raise ValueError(f"stops must rise strictly, got {list(numbers)!r}")
    return _with_default(Control("stops", numbers, numbers[0], label, unit, play), default)


def choice(options: Iterable[str], default: str | None = None, label: str | None = None) -> Control:
    """A choice among strings; the default is the first where none is given.

    Raises:
        TypeError: if an option is not a string.
        ValueError: if there are no options, two are the same, or the default is none of them.

    >>> choice(["GD", "Newton"]).default
    'GD'
    """
    names = tuple(options)
    if not names:
        raise ValueError("choice needs at least one option")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"the options of a choice are strings, got {name!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"the options of a choice must differ, got {list(names)!r}")
    return _with_default(Control("choice", names, names[0], label), default)


def switch(default: bool = False, label: str | None = None) -> Control:
    """A checkbox.

    Raises:
        TypeError: if the default is not a bool.

    >>> switch(True).values
    (False, True)
    """
    if not isinstance(default, bool):
        raise TypeError(f"the default of a switch is a bool, got {default!r}")
    return Control("switch", (False, True), default, label)


def read_controls(fn: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Control]:
    """The controls of `explore(fn, **given)`, in the order given, each with a label.

    A list of numbers means `stops`, a list of strings `choice`, a bool `switch`.

    Raises:
        TypeError: if a control is none of these, `fn` has no parameter of its name, or a parameter of `fn`
            without a default has no control.
    """
    parameters = inspect.signature(fn).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in given if name not in parameters and not takes_any]
    if unknown:
        raise TypeError(f"{name_of(fn)} has no parameter {_listed(unknown)}: its parameters are {_listed(parameters)}")
    optional = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    missing = [
        name
        for name, parameter in parameters.items()
        if name not in given and parameter.default is parameter.empty and parameter.kind not in optional
    ]
    if missing:
        raise TypeError(f"{name_of(fn)} needs a control for its parameter {_listed(missing)}: pass one to explore")
    controls = {}
    for name, control in given.items():
        control = _as_control(name, control)
        controls[name] = control if control.label else replace(control, label=name.replace("_", " "))
    return controls


def describe(state: Mapping[str, Value]) -> str:
    """A state in words, for messages.

    >>> describe({"rate": 0.5, "method": "GD"})
    "rate=0.5, method='GD'"
    """
    return ", ".join(f"{name}={value!r}" for name, value in state.items()) or "the only state"


def default_state(controls: Mapping[str, Control]) -> State:
    """The state in which a figure is first shown."""
    return {name: control.default for name, control in controls.items()}


def _as_control(name: str, given: Any) -> Control:
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ValueError(f"control names are identifiers that begin with a letter, got {name!r}")
    if isinstance(given, Control):
        return given
    if isinstance(given, bool):
        return switch(given)
    if isinstance(given, list | tuple | range) and given:
        if all(isinstance(value, str) for value in given):
            return choice(given)
        if all(isinstance(value, Real) and not isinstance(value, bool) for value in given):
            return stops(given)
    raise TypeError(
        f"control {name!r} must be stops(...), choice(...), switch(...), a list of numbers, "
        f"a list of strings or a bool, got {given!r}"
    )


def _plain_number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"stops are numbers, got {value!r}")
    return int(value) if isinstance(value, Integral) else float(value)


def _with_default(control: Control, default: Value | None) -> Control:
    if default is None:
        return control
    try:
        return replace(control, default=control.values[control.index(default)])
    except ValueError as error:
        raise ValueError(f"the default {error}") from None


def _unevenness(values: list[float]) -> float:
    gaps = [later - earlier for earlier, later in itertools.pairwise(values)]
    return max(gaps) / min(gaps)


def name_of(fn: Callable[..., Any]) -> str:
    """What to call `fn`: its qualified name, or how it shows itself where it has none (a partial, say)."""
    return getattr(fn, "__qualname__", repr(fn))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
