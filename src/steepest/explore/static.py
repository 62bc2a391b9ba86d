"""A figure as it stands in the built book: a picture and packed numbers in one custom element."""

from collections.abc import Callable
from html import escape

from .controls import Control, default_state, name_of
from .fallback import picture
from .grid import evaluate
from .packing import pack_within
from .panels import Figure


class StaticFigure:
    """A live figure for a static page; it shows as text/html only, so that no widget machinery is pulled in."""

    def __init__(
        self, fn: Callable[..., Figure], controls: dict[str, Control], cell_limit: int, byte_budget: int
    ) -> None:
        grid = evaluate(fn, controls, cell_limit)
        data = pack_within(grid, byte_budget)
        image = picture(grid.template, default_state(controls))
        self.html = (
            f'<steepest-figure data-figure="{escape(f"{fn.__module__}:{name_of(fn)}")}">'
            f'<img class="steepest-fallback" src="{image}" alt="{escape(grid.template.alt)}">'
            f'<script type="text/plain" class="steepest-data">{data}</script>'
            "</steepest-figure>"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html}
