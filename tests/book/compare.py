"""Compares what a page draws with what the figure's function returns in Python, mark by mark.

The readers work on the drawing alone: path data, rectangles, words and pixels, inverted by the axes' attributes.
"""

import json

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from tests.browser import drawn_bars, drawn_lines

# Marks are rounded to 16 bits over three frames and drawn with two decimals.
TOLERANCE_PX = 0.06


def compare_figure(page, number, figure, state) -> int:
    """Assert that figure `number` of `page` shows `figure`; how many marks were compared."""
    lines, bars = drawn_lines(page, number), drawn_bars(page, number)
    compared = 0
    for p, panel in enumerate(figure.panels):
        for m, mark in enumerate(panel.marks):
            node = _mark(page, number, p, m)
            if mark.kind == "line":
                _compare_line(panel, mark, lines[p, m], state)
            elif mark.kind == "bars":
                _compare_bars(panel, mark, bars[p, m])
            elif mark.kind == "rule":
                _compare_rule(panel, mark, node)
            elif mark.kind == "text":
                _compare_text(panel, mark, node)
            elif mark.kind == "contour":
                _compare_contour(panel, mark, node)
            elif mark.kind == "heatmap":
                _compare_heatmap(mark, node)
            else:
                raise NotImplementedError(f"no comparison for {mark.kind}: write one")
            compared += 1
    return compared


def _mark(page, number, panel, mark):
    return page.locator("steepest-figure").nth(number).locator(f'[data-panel="{panel}"][data-mark="{mark}"]').first


def _scaled(values, axis):
    """Values along an axis as they are drawn: log10 on a log axis."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values) if axis.scale == "log" else np.asarray(values, float)


def _frame(axis):
    if axis.categories:
        return -0.5, len(axis.categories) - 0.5
    low, high = _scaled(np.array(axis.domain), axis)
    return low, high


def _compare_line(panel, mark, drawn, state):
    count = int(state[mark.reveal]) + 1 if mark.reveal else None
    expected = np.stack([_scaled(mark.arrays[n][:count], a) for n, a in (("x", panel.x), ("y", panel.y))], 1)
    got = np.stack([_scaled(v, a) for v, a in ((drawn.x, panel.x), (drawn.y, panel.y))], 1)
    pixel = np.array(drawn.pixel)
    inside = np.ones(len(expected), bool)
    for i, a in enumerate((panel.x, panel.y)):
        low, high = _frame(a)
        inside &= (expected[:, i] >= low) & (expected[:, i] <= high)
    # Every point in the frame is a vertex of the drawing, or lies on it ...
    if inside.any():
        assert _distance(expected[inside] / pixel, got / pixel).max() < TOLERANCE_PX
    # ... and the drawing goes nowhere else.
    vertices = got[np.isfinite(got).all(1)]
    if len(vertices):
        assert _distance(vertices / pixel, expected / pixel).max() < 10 * TOLERANCE_PX


def _distance(points, polyline):
    """Distance (n,) of points (n, 2) to a polyline (k, 2) in which rows of NaN are interruptions."""
    start, end = polyline[:-1], polyline[1:]
    whole = np.isfinite(start).all(1) & np.isfinite(end).all(1)
    alone = polyline[np.isfinite(polyline).all(1)]
    start, along = np.concatenate([start[whole], alone]), np.concatenate([(end - start)[whole], 0 * alone])
    share = ((points[:, None] - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-30)
    nearest = start + np.clip(share, 0, 1)[..., None] * along
    return np.sqrt(((points[:, None] - nearest) ** 2).sum(-1)).min(1)


def _compare_bars(panel, mark, drawn):
    axis = panel.x if panel.x.categories is None else panel.y
    low, high = _frame(axis)
    expected = np.clip(_scaled(mark.arrays["values"], axis), low, high)
    assert list(drawn) == mark.options["names"]
    got = _scaled(np.array(list(drawn.values())), axis)
    # A bar starts at zero, or at the frame: a value below it has no length.
    base = low if axis.scale == "log" else min(max(0.0, low), high)
    shown = np.where(expected < base, base, expected) if axis.scale == "log" else expected
    positive = shown >= base
    np.testing.assert_allclose(got[positive], shown[positive], atol=(high - low) * 2e-3)


def _axes(node):
    return node.evaluate(
        """node => ['x', 'y'].map(name => ({...node.closest('svg').querySelector(`[data-axis=${name}]`).dataset}))"""
    )


def _to_px(value, axis, dataset):
    low, high = _frame(axis)
    start, end = json.loads(dataset["range"])
    return start + (value - low) / (high - low) * (end - start)


def _compare_rule(panel, mark, node):
    name, axis = ("x", panel.x) if "x" in mark.arrays else ("y", panel.y)
    value = _scaled(mark.arrays[name], axis)[0]
    low, high = _frame(axis)
    if not low <= value <= high:
        return
    d = node.get_attribute("d")
    first = d[1:].replace("V", ",").replace("H", ",").split(",")
    got = float(first[0 if name == "x" else 1])
    assert abs(got - _to_px(value, axis, _axes(node)[0 if name == "x" else 1])) < TOLERANCE_PX


def _compare_text(panel, mark, node):
    words = node.evaluate(
        """node => [...node.querySelectorAll('text')].map(t =>
            [t.textContent, Number(t.getAttribute('x')), Number(t.getAttribute('y')), t.style.display])"""
    )
    axes = _axes(node)
    assert [word[0] for word in words] == list(mark.strings)
    for i, (_, x, y, display) in enumerate(words):
        at = [_scaled(mark.arrays[n], a)[i] for n, a in (("x", panel.x), ("y", panel.y))]
        expected = [_to_px(v, a, d) for v, a, d in zip(at, (panel.x, panel.y), axes, strict=True)]
        if display != "none":
            np.testing.assert_allclose([x, y], expected, atol=TOLERANCE_PX)


def _compare_contour(panel, mark, node):
    d = node.get_attribute("d") or ""
    numbers = np.array([float(v) for v in d.replace("M", " ").replace("L", " ").replace(",", " ").split()])
    if not numbers.size:
        return
    ranges = [json.loads(axis["range"]) for axis in _axes(node)]
    coordinates = []
    for i, axis in enumerate((panel.x, panel.y)):
        (start, end), (low, high) = ranges[i], _frame(axis)
        coordinates.append(low + (numbers[i::2] - start) / (end - start) * (high - low))
    z, levels = mark.arrays["z"], np.array(mark.options["levels"])
    x, y = (np.linspace(*_scaled(mark.arrays[n], a), k) for n, a, k in
            (("x", panel.x, z.shape[1]), ("y", panel.y, z.shape[0])))  # fmt: skip
    height = RegularGridInterpolator((y, x), z, bounds_error=False, fill_value=None)
    points = np.stack([np.clip(coordinates[1], *sorted(y[[0, -1]])), np.clip(coordinates[0], *sorted(x[[0, -1]]))], 1)
    # What a tenth of a pixel, to which contours are drawn, is worth in height, and the rounding of z's knots.
    steps = np.array([(y[-1] - y[0]) / abs(np.subtract(*ranges[1])), (x[-1] - x[0]) / abs(np.subtract(*ranges[0]))])
    shifts = [height(np.clip(points + sign * steps * unit, [y[0], x[0]], [y[-1], x[-1]]))
              for unit in np.eye(2) for sign in (-1, 1)]  # fmt: skip
    slack = 0.25 * np.ptp(np.stack(shifts), axis=0) + 2e-3 * (levels[-1] - levels[0] + np.abs(levels).max())
    off = np.abs(height(points)[:, None] - levels).min(1)
    assert np.mean(off <= slack) > 0.99


def _compare_heatmap(mark, node):
    height, width, *data = node.evaluate(
        """async image => {
            const picture = new Image(); picture.src = image.getAttribute('href'); await picture.decode();
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [picture.width, picture.height];
            const context = canvas.getContext('2d'); context.drawImage(picture, 0, 0);
            return [picture.height, picture.width,
                    ...context.getImageData(0, 0, picture.width, picture.height).data];
        }"""
    )
    z, (low, high) = mark.arrays["z"], mark.options["domain"]
    assert z.shape == (height, width)
    colours = np.array(data).reshape(height, width, 4)[::-1, :, :3].reshape(-1, 3)
    values = np.clip(z.reshape(-1), low, high)
    # Cells of one colour have nearly one value, so that the colours order as the values do.
    for colour in np.unique(colours, axis=0):
        same = values[(colours == colour).all(1)]
        assert np.ptp(same) <= 3 * (high - low) / 255
    warm_or_dark = colours @ ([1, 0, -1] if low == -high else [-1, -1, -1])
    assert warm_or_dark[values >= low + 0.9 * (high - low)].min(initial=765) >= warm_or_dark[
        values <= low + 0.1 * (high - low)
    ].max(initial=-765)
