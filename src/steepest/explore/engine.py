"""`explore`: where a figure's function and its controls become something that shows itself."""

import os
from collections.abc import Callable
from typing import Any

from .controls import read_controls
from .grid import check_size
from .panels import Figure
from .static import StaticFigure


def explore(fn: Callable[..., Figure], *, cell_limit: int = 20_000, byte_budget: int = 150_000, **controls: Any) -> Any:
    """A live figure of `fn`, which takes the value of each control by name and returns `figure(...)`.

    With the environment variable STEEPEST_STATIC=1, as in the book's build, `fn` is evaluated on the product of
    all stops and the result shows as HTML with a picture and packed numbers. Otherwise it is an ipywidget
    (`steepest.explore.live.LiveFigure`) that calls `fn` in the kernel, also between the stops. `fn` should be a
    function of an importable module and quick: cache what does not depend on every control.

    Args:
        fn: called as `fn(**state)`; deterministic.
        cell_limit: most states that the grid may have.
        byte_budget: most bytes, compressed, that the numbers may take in the page.
        controls: `stops(...)`, `choice(...)`, `switch(...)`, a list of numbers or strings, or a bool.

    Raises:
        TypeError: for a control that is none of these, or whose name is no parameter of `fn`.
        ValueError: for a grid over a limit, a figure that changes shape, a mark that varies with a control it
            says it does not depend on, values that can't be shown; each says where and what to do.
    """
    known = read_controls(fn, controls)
    if os.environ.get("STEEPEST_STATIC") == "1":
        return StaticFigure(fn, known, cell_limit, byte_budget)
    check_size(known, cell_limit)
    # Imported here: a book's build must not load any widget machinery.
    from .live import LiveFigure

    return LiveFigure(fn, known)
