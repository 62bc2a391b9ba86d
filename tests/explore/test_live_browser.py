"""The widget's front end in a browser, asking a real `LiveFigure`; once through JupyterLab itself."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from steepest.explore import build, explore
from tests.browser import path_points
from tests.explore import sample

pytestmark = pytest.mark.browser

HOST = """<!doctype html><html lang="en"><head><title>live</title><link rel="icon" href="data:,"></head>
<body><div id="output" style="width: 800px"></div></body></html>"""

# The part of anywidget's model that the front end uses, with the kernel behind window.kernel(values).
MODEL = """
async (code) => {
    const module = await import(URL.createObjectURL(new Blob([code], {type: 'text/javascript'})));
    const bytes = text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
    const values = {}, listeners = {};
    let changed = {};
    const receive = (news) => {
        for (const [name, value] of Object.entries(news)) values[name] = name === '_block' ? bytes(value) : value;
        for (const name of Object.keys(news)) (listeners[`change:${name}`] ?? []).forEach(run => run());
    };
    window.asked = [];
    window.receive = receive;
    const model = {
        get: name => values[name],
        set: (name, value) => { values[name] = changed[name] = value; },
        save_changes: () => {
            const wish = changed; changed = {};
            window.asked.push(wish);
            window.kernel(JSON.stringify(wish)).then(answer => receive(JSON.parse(answer)));
        },
        on: (name, run) => (listeners[name] ??= []).push(run),
        off: (name, run) => { listeners[name] = listeners[name].filter(other => other !== run); },
    };
    receive(JSON.parse(await window.kernel('{}')));
    window.listeners = listeners;
    window.clean = module.default.render({model, el: document.querySelector('#output')});
}
"""


@pytest.fixture
def figure(monkeypatch, static_folder):
    monkeypatch.delenv("STEEPEST_STATIC", raising=False)
    return explore(sample.descent, **sample.DESCENT)


@pytest.fixture
def page(browser, figure):
    context = browser.new_context(viewport={"width": 900, "height": 800})
    opened = context.new_page()
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))

    def kernel(wish):
        for name, value in json.loads(wish).items():
            setattr(figure, name, value)
        names = ("_controls", "error", *figure.state, "_block", "_answers")
        answer = {name: getattr(figure, name) for name in names}
        return json.dumps({**answer, "_block": base64.b64encode(figure._block).decode()})

    opened.expose_function("kernel", kernel)
    opened.set_content(HOST)
    opened.add_style_tag(path=build.STYLE)
    opened.evaluate(MODEL, build.SCRIPT_LIVE.read_text())
    opened.wait_for_selector(".steepest-line[data-mark]", state="attached")
    yield opened
    context.close()
    assert not errors


def drawn_loss(page):
    """Values of the loss' line: the second panel's first mark."""
    path = page.locator('.steepest-line[data-panel="1"][data-mark="0"]')
    ranges = path.evaluate(
        "p => ['x', 'y'].map(n => JSON.parse(p.closest('svg').querySelector(`[data-axis=${n}]`).dataset.range))"
    )
    points = path_points(path.get_attribute("d"))
    (left, right), (bottom, top) = ranges
    return (points[:, 0] - left) / (right - left) * sample.STEPS, -8 + 11 * (points[:, 1] - bottom) / (top - bottom)


def settled(page, figure):
    page.wait_for_function("n => window.asked.length >= 1 && !document.querySelector('.steepest-stale')", arg=0)
    page.wait_for_function(
        "text => document.querySelector('.steepest-caption').textContent === text",
        arg=figure_alt(figure),
    )


def figure_alt(figure):
    return sample.descent(**figure.state).alt


def test_a_slider_computes_between_its_stops(page, figure):
    slider = page.get_by_label("learning rate")
    for _ in range(5):
        slider.press("ArrowLeft")
    settled(page, figure)
    assert figure.rate not in sample.DESCENT["rate"].values and 0.1 < figure.rate < 0.18
    expected = sample.descent(**figure.state).panels[1].marks[0].arrays["y"]
    np.testing.assert_allclose(drawn_loss(page)[1], np.log10(expected), atol=0.02)


def test_whole_numbers_stay_whole_and_dense_ones_keep_their_step(page, figure):
    for _ in range(4):
        page.get_by_label("condition number").press("ArrowRight")
    page.get_by_role("slider", name="step").press("ArrowLeft")
    page.wait_for_function("() => document.querySelectorAll('output')[3].textContent === '19'")
    settled(page, figure)
    assert isinstance(figure.condition, int) and 10 < figure.condition < 30
    assert figure.step == 19 and drawn_loss(page)[0].size == 20


def test_only_the_newest_wish_waits(page, figure):
    page.evaluate(
        """() => { const slider = document.querySelector('[data-control=rate]');
            for (let i = 0; i < 20; i++) { slider.value = i * 0.05; slider.dispatchEvent(new Event('input')); } }"""
    )
    page.wait_for_function("() => document.querySelectorAll('output')[1].textContent.startsWith('0.0284')")
    page.wait_for_function("() => window.asked.length === 2")
    settled(page, figure)
    assert figure.rate == pytest.approx(0.01 * 3**0.95, rel=1e-3)


def test_a_change_in_the_kernel_moves_the_control(page, figure):
    figure.rate = 0.05
    block = base64.b64encode(figure._block).decode()
    page.evaluate("news => window.receive(news)", {"rate": 0.05, "_block": block, "_answers": figure._answers})
    settled_text = figure_alt(figure)
    assert page.locator(".steepest-caption").inner_text() == settled_text
    assert page.locator("output").nth(1).inner_text() == "0.05 1/s"


def test_a_control_that_the_kernel_moves_while_the_reader_moves_another_keeps_its_value(page, figure):
    # As an observer in the notebook does that ties two controls together.
    figure.observe(lambda change: setattr(figure, "condition", 30), "rate")
    page.evaluate(
        """() => { const slider = document.querySelector('[data-control=rate]');
            for (let i = 0; i < 9; i++) { slider.value = i * 0.05; slider.dispatchEvent(new Event('input')); } }"""
    )
    page.wait_for_function("() => window.asked.length === 2")
    settled(page, figure)
    assert figure.condition == 30
    assert page.locator("output").nth(0).inner_text() == "30"
    assert all(wish.keys() == {"rate"} for wish in page.evaluate("() => window.asked"))


def test_errors_are_shown_in_the_figure_and_pass(page, figure):
    page.evaluate("() => window.receive({error: 'ValueError: too wide', _answers: 100})")
    alert = page.get_by_role("alert")
    assert alert.inner_text() == "ValueError: too wide"
    page.evaluate("() => window.receive({error: '', _answers: 101})")
    assert not alert.is_visible()


def test_removal_lets_go_of_the_model(page):
    page.evaluate("() => window.clean()")
    assert page.evaluate("() => Object.values(window.listeners).flat().length") == 0


NOTEBOOK_CELL = """
import ipywidgets
from steepest.explore import explore
from tests.explore import sample
figure = explore(sample.descent, **sample.DESCENT)
slider = ipywidgets.FloatSlider(min=0.01, max=0.3, step=0.0001, value=0.18)
ipywidgets.jslink((slider, "value"), (figure, "rate"))
ipywidgets.VBox([slider, figure])
"""


@pytest.fixture
def lab(tmp_path, static_folder):
    """JupyterLab's address, serving a folder with one notebook."""
    cell = {
        "cell_type": "code",
        "id": "one",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
        "source": NOTEBOOK_CELL,
    }
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "live.ipynb").write_text(json.dumps(notebook))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = str(tmp_path / "home")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "HOME": home,
        "JUPYTER_CONFIG_DIR": home,
    }
    environment.pop("STEEPEST_STATIC", None)
    options = [
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        f"--port={port}",
        "--ServerApp.port_retries=0",
    ]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={tmp_path}"]
    with open(tmp_path / "log.txt", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}/lab/tree/live.ipynb"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail((tmp_path / "log.txt").read_text()[-2000:])
        yield address
    finally:
        process.terminate()
        process.wait(20)


def test_in_jupyterlab_it_lives_composes_and_takes_arrow_keys(browser, lab):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(lab)
    page.locator(".jp-Cell .cm-content").first.click(timeout=60_000)
    page.wait_for_timeout(1000)
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".steepest-line[data-mark]", timeout=90_000)
    page.locator(".steepest-root input[data-control=rate]").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    output = page.locator(".steepest-root output").nth(1)
    # Linked in the browser: the other widget shows the value that the keys chose, between two stops.
    rate = 0.1 * 1.8**0.9
    assert output.inner_text() == f"{rate:.4g} 1/s"
    page.wait_for_function(
        "text => document.querySelector('.widget-readout').textContent.startsWith(text)", arg=f"{rate:.2f}"
    )
    page.wait_for_function(
        "text => document.querySelector('.steepest-caption').textContent.includes(text)", arg=f"rate {rate:.4f}"[:9]
    )
    page.close()
