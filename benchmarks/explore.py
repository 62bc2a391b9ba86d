"""Live figures: milliseconds from moving a slider to the painted picture, and bytes over the wire.

Run as ``python benchmarks/explore.py``; needs Chromium or Chrome. The figure has contours on an 80 x 80 grid, three
paths of 101 points and their losses on a log axis, over 8 conditions x 12 rates x 101 steps. Each control's slider is
moved to another stop 40 times; a move is timed from the input event until after the next paint, and its script
alone beside it. Budgets: 25 ms at full speed, 80 ms at a quarter of it, 150 kB for the script and for the numbers.
Results go to ``benchmarks/results/explore.json``.
"""

import gzip
import json
import os
import re
import shutil
import statistics
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from steepest.explore import axis, build, contour, explore, figure, line, panel, stops, until_divergence

MOVES = 40
STEPS = 100
RESULTS = Path(__file__).parent / "results" / "explore.json"

MEASURE = """
async ([control, moves]) => {
    const slider = document.querySelector(`input[data-control=${control}]`);
    const painted = () => new Promise(done => requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = () => done(performance.now());
        channel.port2.postMessage(0);
    }));
    const times = [], scripts = [];
    for (let i = 0; i < moves; i++) {
        await new Promise(done => setTimeout(done, 20 + 16 * Math.random()));
        const start = performance.now();
        slider.value = (Number(slider.value) + 3) % (Number(slider.max) + 1);
        slider.dispatchEvent(new Event('input', {bubbles: true}));
        const script = performance.now() - start;
        const end = await painted();
        times.push(end - start);
        scripts.push(script);
    }
    return [times, scripts];
}
"""


@cache
def trajectories(condition: float, rate: float) -> list[np.ndarray]:
    """Gradient descent with three momenta on diag(1, condition): points (STEPS + 1, 2) of each."""
    paths = []
    for momentum in (0.0, 0.5, 0.9):
        points, velocity = [np.array([-2.5, 1.8])], np.zeros(2)
        for _ in range(STEPS):
            velocity = momentum * velocity - rate * points[-1] * [1.0, condition]
            points.append(points[-1] + velocity)
        paths.append(np.array(points))
    return paths


def descent(condition: float, rate: float, step: int):
    """The figure that is timed."""
    grid = np.linspace(-3, 3, 80)
    height = 0.5 * (grid**2 + condition * grid[:, None] ** 2)
    paths, losses = [], []
    for series, points in enumerate(trajectories(condition, rate)):
        x, y = until_divergence(*np.where(abs(points) < 1e100, points, np.inf).T)
        loss = np.maximum(0.5 * (x**2 + condition * y**2), 1e-300)
        label = f"momentum {(0, 0.5, 0.9)[series]}"
        paths.append(line(x, y, label=label, series=series, style="both", reveal="step"))
        losses.append(line(range(STEPS + 1), loss, label=label, series=series, reveal="step"))
    return figure(
        panel(
            contour(grid, grid, height, [0.05, 0.2, 0.5, 1, 2, 4, 8, 16, 32, 64], depends=["condition"]),
            *paths,
            x=axis("first", domain=(-3, 3)),
            y=axis("second", domain=(-3, 3)),
            equal=True,
        ),
        panel(*losses, x=axis("step", domain=(0, STEPS)), y=axis("loss", domain=(1e-12, 1e3), scale="log")),
        alt=f"Condition number {condition}, rate {rate}.",
    )


def measure(page: Page, slowdown: int) -> dict[str, dict[str, float]]:
    """Median ms of each control, to the paint and of the script alone, at 1/slowdown of the processor's speed.

    The page is loaded afresh; `first_paint_ms` is of the moves over stops that were not drawn before.
    """
    page.reload()
    page.wait_for_selector(".steepest-alive svg")
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
    results = {}
    for control in ("condition", "rate", "step"):
        times, scripts = page.evaluate(MEASURE, [control, MOVES])
        results[control] = {
            "paint_ms": statistics.median(times),
            "first_paint_ms": statistics.median(times[:7]),
            "script_ms": statistics.median(scripts),
        }
    return results


def main() -> None:
    """Measure, print and write the results."""
    os.environ["STEEPEST_STATIC"] = "1"
    build.build()
    html = explore(
        descent,
        cell_limit=10_000,
        condition=stops([1, 2, 3, 5, 10, 20, 50, 100], default=10),
        rate=stops(np.geomspace(0.005, 1.0, 12).round(4).tolist()),
        step=stops(range(STEPS + 1), default=STEPS, play=True),
    ).html
    data = re.search(r'steepest-data">([^<]*)', html).group(1)
    sizes = {
        "script_gzip": len(gzip.compress(build.SCRIPT.read_bytes(), mtime=0)),
        "style_gzip": len(gzip.compress(build.STYLE.read_bytes(), mtime=0)),
        "numbers_gzip": len(data) * 3 // 4,
    }
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "figure.html"
        path.write_text(
            f'<!doctype html><meta charset="utf-8"><title>figure</title><link rel="stylesheet" '
            f'href="{build.STYLE.as_uri()}">'
            f'<script defer src="{build.SCRIPT.as_uri()}"></script><body style="max-width: 800px">{html}'
        )
        found = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.goto(path.as_uri())
        page.wait_for_selector(".steepest-alive svg")
        speeds = {f"{slowdown}x": measure(page, slowdown) for slowdown in (1, 4)}
        version = browser.version
        browser.close()
    for speed, controls in speeds.items():
        for control, times in controls.items():
            print(
                f"{speed} throttle  {control:10} " + "  ".join(f"{name} {value:6.1f}" for name, value in times.items())
            )
    print("  ".join(f"{name} {size:,} bytes" for name, size in sizes.items()))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"chromium": version, "moves": MOVES, "throttle": speeds, "bytes": sizes}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
