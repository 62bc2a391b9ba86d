"""A figure's function evaluated on the product of its controls' stops, and checked."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from .controls import Control, State, default_state, describe
from .encoding import contour_knots, encode
from .marks import Mark
from .panels import Figure, Panel


@dataclass(eq=False)
class MarkData:
    """What one mark shows: `variants` of its encoded fields and strings, each stored once, and for every
    combination of the stops of `depends` the number of its variant in `cells` (one dimension per control)."""

    depends: tuple[str, ...]
    cells: np.ndarray
    knots: list[float] | None
    variants: list[tuple[dict[str, np.ndarray], tuple[str, ...]]] = field(default_factory=list)
    digests: dict[bytes, int] = field(default_factory=dict)


@dataclass(eq=False)
class Grid:
    """All states of a figure. `template` is the figure in its default state; `marks[p][m]` belongs to mark m of
    panel p; `alts` are the different alt texts and `alt_cells` the number of each cell's (one dimension per control).
    """

    controls: dict[str, Control]
    template: Figure
    marks: list[list[MarkData]]
    alts: list[str]
    alt_cells: np.ndarray


def evaluate(fn: Callable[..., Figure], controls: Mapping[str, Control], cell_limit: int = 20_000) -> Grid:
    """Call `fn` in every state and keep what it shows.

    Raises:
        ValueError: if there are more states than `cell_limit`, a figure has another shape than in the default
            state, a mark varies with a control that it says it does not depend on, or shows what it can't.
        TypeError: if `fn` does not return a figure.
    """
    check_size(controls, cell_limit)
    default = default_state(controls)
    template = call(fn, default)
    marks = [
        [_empty(mark, f"{_where(template, p, m)}", controls) for m, mark in enumerate(panel.marks)]
        for p, panel in enumerate(template.panels)
    ]
    grid = Grid(dict(controls), template, marks, [], np.zeros([len(c.values) for c in controls.values()], int))
    numbers: dict[str, int] = {}
    for position in itertools.product(*(range(len(control.values)) for control in controls.values())):
        state = {name: control.values[i] for (name, control), i in zip(controls.items(), position, strict=True)}
        figure = template if state == default else call(fn, state)
        check_shape(template, figure, state)
        for p, panel in enumerate(figure.panels):
            for m, mark in enumerate(panel.marks):
                _add(marks[p][m], mark, panel, dict(zip(controls, position, strict=True)), state, _where(figure, p, m))
        grid.alt_cells[position] = numbers.setdefault(figure.alt, len(numbers))
    grid.alts = list(numbers)
    return grid


def check_size(controls: Mapping[str, Control], cell_limit: int) -> None:
    """Raise ValueError, naming the counts and the control to thin, if there are more than `cell_limit` states."""
    counts = {name: len(control.values) for name, control in controls.items()}
    cells = math.prod(counts.values())
    if cells > cell_limit:
        widest = max(counts, key=counts.__getitem__)
        product = " x ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            f"the grid has {cells:,} states ({product}), more than the limit of {cell_limit:,}: "
            f"thin out the stops of {widest!r}"
        )


def call(fn: Callable[..., Figure], state: State) -> Figure:
    """`fn` in `state`; its errors get a note that names the state."""
    try:
        figure = fn(**state)
    except Exception as error:
        error.add_note(f"raised by the figure's function in state {describe(state)}")
        raise
    if not isinstance(figure, Figure):
        raise TypeError(f"the function of a figure returns figure(...), got {figure!r} in state {describe(state)}")
    return figure


def check_shape(template: Figure, figure: Figure, state: State) -> None:
    """Raise ValueError, naming state, panel, mark and what changed, if `figure` differs from `template` in more
    than numbers and strings."""

    def compare(where: str, what: str, before: Any, after: Any) -> None:
        if before != after:
            raise ValueError(
                f"the figure changes shape in state {describe(state)}: {where}{what} is {after!r}, "
                f"but {before!r} in the default state; every state must show the same marks with as many points"
            )

    compare("", "the number of panels", len(template.panels), len(figure.panels))
    for p, (before, after) in enumerate(zip(template.panels, figure.panels, strict=True)):
        where = f"{_where_panel(template, p)}: "
        for name in ("title", "x", "y", "equal"):
            compare(where, name, getattr(before, name), getattr(after, name))
        compare(where, "the number of marks", len(before.marks), len(after.marks))
        for m, (old, new) in enumerate(zip(before.marks, after.marks, strict=True)):
            where = f"{_where(template, p, m)}: "
            for name in ("kind", "options", "depends", "reveal"):
                compare(where, name, getattr(old, name), getattr(new, name))
            shapes = [{name: array.shape for name, array in mark.arrays.items()} for mark in (old, new)]
            for name in shapes[0]:
                compare(where, f"the shape of {name}", shapes[0][name], shapes[1].get(name))


def _empty(mark: Mark, where: str, controls: Mapping[str, Control]) -> MarkData:
    depends = [name for name in controls if name != mark.reveal] if mark.depends is None else mark.depends
    unknown = [name for name in (*depends, *([mark.reveal] if mark.reveal else [])) if name not in controls]
    if unknown:
        raise ValueError(f"{where} depends on or is revealed by {unknown[0]!r}, which is no control of the figure")
    if mark.reveal:
        _check_reveal(mark, where, depends, controls[mark.reveal])
    depends = tuple(name for name in controls if name in depends)
    cells = np.full([len(controls[name].values) for name in depends], -1)
    return MarkData(depends, cells, contour_knots(mark) if mark.kind == "contour" else None)


def _check_reveal(mark: Mark, where: str, depends: Any, control: Control) -> None:
    if mark.reveal in depends:
        raise ValueError(f"{where} is revealed by {mark.reveal!r} and so can't depend on it: leave it out of depends")
    points = mark.arrays["x"].size
    if not control.integer or control.values[0] < 0 or control.values[-1] >= points:
        raise ValueError(
            f"{where} is revealed by {mark.reveal!r}, whose values must be indexes of its {points} points, "
            f"0 to {points - 1}, got {control.values[0]!r} to {control.values[-1]!r}"
        )


def _add(data: MarkData, mark: Mark, panel: Panel, position: Mapping[str, int], state: State, where: str) -> None:
    cell = tuple(position[name] for name in data.depends)
    digest = blake2b(digest_size=16)
    for name, array in mark.arrays.items():
        digest.update(name.encode() + array.tobytes())
    key = digest.digest() + repr(mark.strings).encode()
    seen, variant = int(data.cells[cell]), data.digests.get(key)
    if variant is None:
        try:
            fields = encode(mark, panel, data.knots)
        except ValueError as error:
            raise ValueError(f"{where} in state {describe(state)}: {error}") from None
        if seen >= 0 and _same(data.variants[seen], (fields, mark.strings)):
            return
        variant = len(data.variants)
        data.variants.append((fields, mark.strings))
        data.digests[key] = variant
    if seen >= 0 and seen != variant and not _same(data.variants[seen], data.variants[variant]):
        # The first state of this cell had every other control at its first stop.
        moved = [name for name in position if name not in data.depends and position[name] > 0]
        raise ValueError(
            f"{where} varies with {' or '.join(map(repr, moved))}, which it says it does not depend on "
            f"(depends={list(data.depends)}): seen in state {describe(state)}"
        )
    if seen < 0:
        data.cells[cell] = variant


def _same(first: tuple[dict[str, np.ndarray], Any], second: tuple[dict[str, np.ndarray], Any]) -> bool:
    return (
        first[1] == second[1]
        and first[0].keys() == second[0].keys()
        and all(np.array_equal(first[0][name], second[0][name]) for name in first[0])
    )


def _where_panel(figure: Figure, p: int) -> str:
    title = figure.panels[p].title
    return f"panel {p}" + (f" {title!r}" if title else "")


def _where(figure: Figure, p: int, m: int) -> str:
    mark = figure.panels[p].marks[m]
    name = f"{mark.kind} {mark.label!r}" if mark.label else mark.kind
    return f"{_where_panel(figure, p)}, mark {m} ({name})"
