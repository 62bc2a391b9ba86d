"""How the eight series look: colour, dash and marker, so that colour never stands alone.

The front end's CSS and `frontend/src/palette.js` hold the same table; a test compares them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """Colour on a light and on a dark ground (contrast at least 3 to 1), dash lengths in px, marker."""

    light: str
    dark: str
    dash: tuple[float, ...]
    marker: str


SERIES = (
    Series("#1f6cb0", "#6db3f2", (), "circle"),
    Series("#c44e14", "#f4935c", (7, 3), "square"),
    Series("#18805a", "#5ccfa0", (2, 2.5), "triangle"),
    Series("#8447ad", "#c79df0", (8, 3, 2, 3), "diamond"),
    Series("#94690f", "#e0bb5c", (12, 4), "cross"),
    Series("#bb3078", "#f48cc0", (5, 2, 1.5, 2, 1.5, 2), "star"),
    Series("#0c7f8c", "#5cd2de", (4, 4), "wye"),
    Series("#5a626d", "#b7c0cb", (1, 3), "plus"),
)
TEXT = "#1f2328"
MUTED = "#57606a"
RULE = "#8c959f"
PAPER = "#ffffff"
SEQUENTIAL = ("#f5f8fb", "#c3d9ec", "#82b1d8", "#3f82bd", "#1a5692", "#0b2c5a")
DIVERGING = ("#1f4e95", "#6fa0d6", "#c9dcef", "#f6f5f3", "#f3cdb6", "#dc8459", "#a0391a")
