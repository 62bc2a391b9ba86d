"""A real browser for tests, and what figures of `steepest.explore` show in it, read back as numbers.

The readers share no code with the front end: they invert the drawn path with the attributes of the axes.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def started_browser() -> Iterator[Browser]:
    """Chromium or Chrome from PATH, else Playwright's own; skips the test, with the reason, without either."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except Error as error:
            pytest.skip(f"no Chromium or Chrome on PATH, and Playwright has none either: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@dataclass(frozen=True)
class Drawn:
    """What one mark of a figure shows: `kind` as in the front end, and the vertices of a line in values.

    `x` and `y` (n,) hold NaN where the line is interrupted. `pixel` is the value (or, on a log axis, the log10)
    that one px stands for, along each axis.
    """

    panel: int
    mark: int
    x: np.ndarray
    y: np.ndarray
    pixel: tuple[float, float]


def open_figures(page: Page, address: str) -> int:
    """Go to `address` and wait until each figure on the page is alive; how many there are."""
    page.goto(address)
    count = page.locator("steepest-figure").count()
    page.wait_for_function(
        "n => document.querySelectorAll('steepest-figure.steepest-alive svg').length >= n", arg=count
    )
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return count


def figure_name(page: Page, number: int = 0) -> str:
    """module:qualname of the function behind figure `number` of the page."""
    return page.locator("steepest-figure").nth(number).get_attribute("data-figure")


def state_of(page: Page, number: int = 0) -> dict[str, Any]:
    """The state of figure `number`, as the page says it."""
    return page.locator("steepest-figure").nth(number).evaluate("figure => figure.state")


def set_state(page: Page, values: dict[str, Any], number: int = 0) -> None:
    """Move controls of figure `number` and wait until it is drawn."""
    page.locator("steepest-figure").nth(number).evaluate("(figure, values) => figure.setState(values)", values)


def caption_of(page: Page, number: int = 0) -> str:
    """The text under figure `number`: its alt text for the current state."""
    return page.locator("steepest-figure").nth(number).locator(".steepest-caption").inner_text()


def drawn_lines(page: Page, number: int = 0) -> dict[tuple[int, int], Drawn]:
    """Every line of figure `number` by (panel, mark), read from its path and the attributes of the axes."""
    found = (
        page.locator("steepest-figure")
        .nth(number)
        .evaluate(
            """figure => [...figure.querySelectorAll('.steepest-line[data-mark]')].map(path => ({
            panel: Number(path.dataset.panel), mark: Number(path.dataset.mark), d: path.getAttribute('d'),
            axes: ['x', 'y'].map(name => ({...path.closest('svg').querySelector(`[data-axis=${name}]`).dataset})),
        }))"""
        )
    )
    lines = {}
    for entry in found:
        points = path_points(entry["d"])
        x, y = (_invert(points[:, i], axis) for i, axis in enumerate(entry["axes"]))
        pixel = tuple(_per_pixel(axis) for axis in entry["axes"])
        lines[entry["panel"], entry["mark"]] = Drawn(entry["panel"], entry["mark"], x, y, pixel)
    return lines


def drawn_bars(page: Page, number: int = 0) -> dict[tuple[int, int], dict[str, float]]:
    """Lengths of the bars of figure `number` in values, by (panel, mark) and name."""
    found = (
        page.locator("steepest-figure")
        .nth(number)
        .evaluate(
            """figure => [...figure.querySelectorAll('.steepest-bars')].map(group => ({
            panel: Number(group.dataset.panel), mark: Number(group.dataset.mark),
            axes: ['x', 'y'].map(name => ({...group.closest('svg').querySelector(`[data-axis=${name}]`).dataset})),
            bars: [...group.querySelectorAll('rect.steepest-bar')].map(bar => [bar.dataset.name,
                ...['x', 'y', 'width', 'height'].map(name => Number(bar.getAttribute(name)))]),
        }))"""
        )
    )
    groups = {}
    for entry in found:
        across, upright = entry["axes"], entry["axes"][0]["scale"] == "category"
        ends = {name: y if upright else x + width for name, x, y, width, height in entry["bars"]}
        values = _invert(np.array(list(ends.values())), across[1 if upright else 0])
        groups[entry["panel"], entry["mark"]] = dict(zip(ends, values.tolist(), strict=True))
    return groups


def path_points(d: str) -> np.ndarray:
    """Vertices (n, 2) of path data made of M and L, with a row of NaN between subpaths."""
    rows: list[tuple[float, float]] = []
    for command, x, y in re.findall(r"([ML])\s*(-?[\d.]+)[,\s](-?[\d.]+)", d):
        if command == "M" and rows:
            rows.append((np.nan, np.nan))
        rows.append((float(x), float(y)))
    return np.array(rows).reshape(-1, 2)


def external_requests(page: Page) -> list[str]:
    """A list that fills with every request of `page` that is neither a file nor data, nor of its own origin."""
    found: list[str] = []

    def note(request: Any) -> None:
        own = page.url.split("/")[:3] == request.url.split("/")[:3]
        if not own and not request.url.startswith(("file:", "data:", "blob:")) and request.url != page.url:
            found.append(request.url)

    page.on("request", note)
    return found


def serious_violations(page: Page, axe_path: str | os.PathLike[str]) -> list[str]:
    """What axe-core finds on the page as serious or critical: 'rule: the element's HTML'."""
    page.add_script_tag(path=axe_path)
    # What fades in has less contrast on the way than when it is there.
    page.evaluate(
        """() => document.getAnimations()
            .filter(animation => animation.effect.getComputedTiming().endTime !== Infinity)
            .forEach(animation => animation.finish())"""
    )
    # Without preload axe does not fetch style sheets, which a page opened as a file may not.
    found = page.evaluate("() => axe.run({preload: false})")["violations"]
    return [
        f"{violation['id']}: {node['html'][:160]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def _ends(axis: dict[str, str]) -> tuple[float, float]:
    domain = json.loads(axis["domain"])
    if axis["scale"] == "category":
        return -0.5, len(domain) - 0.5
    return tuple(np.log10(domain)) if axis["scale"] == "log" else tuple(domain)


def _invert(pixels: np.ndarray, axis: dict[str, str]) -> np.ndarray:
    low, high = _ends(axis)
    start, end = json.loads(axis["range"])
    values = low + (pixels - start) / (end - start) * (high - low)
    return 10.0**values if axis["scale"] == "log" else values


def _per_pixel(axis: dict[str, str]) -> float:
    (low, high), (start, end) = _ends(axis), json.loads(axis["range"])
    return abs((high - low) / (end - start))
