"""The figures in a real browser, opened from a file: what is drawn is what the Python function says."""

import random

import numpy as np
import pytest

from steepest.explore import axis, build, explore, figure, line, panel, until_divergence
from tests.browser import (
    caption_of,
    drawn_bars,
    drawn_lines,
    external_requests,
    figure_name,
    open_figures,
    serious_violations,
    set_state,
    state_of,
)
from tests.explore import sample

pytestmark = pytest.mark.browser


def states(controls, count, seed):
    generator = random.Random(seed)
    return [{name: generator.choice(control.values) for name, control in controls.items()} for _ in range(count)]


def coordinates(panel, mark, revealed):
    x, y = mark.arrays["x"][:revealed], mark.arrays["y"][:revealed]
    return [np.log10(v) if axis.scale == "log" else v for v, axis in ((x, panel.x), (y, panel.y))]


@pytest.mark.parametrize(
    "state", [*states(sample.DESCENT, 6, seed=1), {"rate": 0.3, "condition": 30, "noise": False, "step": 20}]
)
def test_drawn_lines_equal_the_functions_values(page, state):
    set_state(page, state)
    assert state_of(page) == state
    figure = sample.descent(**state)
    lines = drawn_lines(page)
    assert lines.keys() == {(0, 1), (0, 2), (1, 0), (1, 1)}
    for (p, m), drawn in lines.items():
        panel, mark = figure.panels[p], figure.panels[p].marks[m]
        revealed = state["step"] + 1 if mark.reveal else None
        expected = coordinates(panel, mark, revealed)
        got = [np.log10(v) if axis.scale == "log" else v for v, axis in ((drawn.x, panel.x), (drawn.y, panel.y))]
        # A line that diverges is cut at its crossing: all vertices but the last are the function's own.
        cut = drawn.x.size < expected[0].size
        count = drawn.x.size - 1 if cut else drawn.x.size
        assert cut or drawn.x.size == expected[0].size
        for values, wanted, pixel in zip(got, expected, drawn.pixel, strict=True):
            np.testing.assert_allclose(values[:count], wanted[:count], rtol=0, atol=0.03 * pixel)
        if cut:
            ends = [np.array([wanted[count - 1], wanted[count]]) for wanted in expected]
            shares = [(values[-1] - end[0]) / (end[1] - end[0]) for values, end in zip(got, ends, strict=True)]
            assert 0 < shares[1] < 1
            assert shares[0] == pytest.approx(shares[1], abs=0.02)


def test_a_line_that_comes_back_is_revealed_point_by_point(page):
    # The extended frame reaches two spans beyond 0..1: the line crosses y = 3 at 2.5 / 8.5 of the way out and back.
    out, back = 0.2 + 0.2 * 2.5 / 8.5, 0.8 - 0.2 * 2.5 / 8.5
    first, second = [(0.0, 0.5), (0.2, 0.5), (out, 3.0)], [(back, 3.0), (0.8, 0.5), (1.0, 0.5)]
    gap = [(np.nan, np.nan)]
    shown = {0: first[:1], 1: first[:2], 2: first, 3: first, 4: first + gap + second[:2], 5: first + gap + second}
    for point, expected in shown.items():
        set_state(page, {"point": point}, number=2)
        drawn = drawn_lines(page, number=2)[0, 0]
        np.testing.assert_allclose(np.c_[drawn.x, drawn.y], expected, atol=2e-3)
    arrow = page.locator("steepest-figure").nth(2).locator(".steepest-arrow")
    assert arrow.get_attribute("d") == ""
    set_state(page, {"point": 3}, number=2)
    assert arrow.get_attribute("d") != ""


def test_a_diverging_line_shows_where_it_leaves_and_the_caption_says_so(page):
    set_state(page, {"condition": 100, "rate": 0.3, "noise": False, "step": 20})
    arrows = page.locator("steepest-figure").first.locator(".steepest-arrow")
    assert [bool(arrow.get_attribute("d")) for arrow in arrows.all()] == [True, False, True, False]
    assert "leaves the frame" in caption_of(page)
    set_state(page, {"condition": 1, "rate": 0.1})
    assert not any(arrow.get_attribute("d") for arrow in arrows.all())


@pytest.mark.parametrize("state", states(sample.GALLERY, 3, seed=2))
def test_drawn_bars_equal_the_functions_values(page, state):
    set_state(page, state, number=1)
    figure, drawn = sample.gallery(**state), drawn_bars(page, number=1)
    assert drawn.keys() == {(2, 0), (2, 1), (3, 0)}
    for (p, m), values in drawn.items():
        mark = figure.panels[p].marks[m]
        assert list(values) == mark.options["names"]
        np.testing.assert_allclose(list(values.values()), mark.arrays["values"], rtol=2e-3)


def test_heatmap_pixels_order_as_the_function_says(page):
    pixels = (
        page.locator("steepest-figure")
        .nth(1)
        .locator("image")
        .first.evaluate(
            """async image => {
            const picture = new Image(); picture.src = image.getAttribute('href'); await picture.decode();
            const canvas = document.createElement('canvas');
            canvas.width = picture.width; canvas.height = picture.height;
            const context = canvas.getContext('2d'); context.drawImage(picture, 0, 0);
            return [picture.height, picture.width, ...context.getImageData(0, 0, picture.width, picture.height).data];
        }"""
        )
    )
    height, width, *data = pixels
    colours = np.array(data).reshape(height, width, 4).astype(int)[::-1]
    z = sample.gallery(size=1.0, method="one").panels[0].marks[0].arrays["z"]
    assert z.shape == (height, width)
    warmth = colours[..., 0] - colours[..., 2]
    assert (warmth[z > 0.3] > 20).all() and (warmth[z < -0.3] < -20).all()


def test_contour_vertices_lie_on_their_levels(page):
    set_state(page, {"condition": 3})
    d, axes = page.locator(".steepest-contour-lines").first.evaluate(
        """path => [path.getAttribute('d'), ['x', 'y'].map(name =>
            JSON.parse(path.closest('svg').querySelector(`[data-axis=${name}]`).dataset.range))]"""
    )
    numbers = np.array([float(part) for part in d.replace("M", " ").replace("L", " ").replace(",", " ").split()])
    x, y = (-3 + 6 * (numbers[i::2] - low) / (high - low) for i, (low, high) in enumerate(axes))
    z = 0.5 * (x**2 + 3 * y**2)
    levels = np.array([0.1, 1, 10, 30])
    # Straight interpolation within a cell of width 0.2 is off by at most curvature * 0.2^2 / 8.
    assert np.abs(z[:, None] - levels).min(1).max() < 3 * 0.2**2 / 8 + 0.06
    assert {0.1, 1.0, 10.0} <= set(levels[np.abs(z[:, None] - levels).argmin(1)])


def test_keyboard_moves_a_slider_and_the_drawing(page):
    before = drawn_lines(page)[0, 1]
    page.get_by_label("learning rate").press("ArrowLeft")
    assert state_of(page)["rate"] == 0.1
    after = drawn_lines(page)[0, 1]
    assert not np.allclose(before.x[:5], after.x[:5])
    figure = sample.descent(**state_of(page))
    np.testing.assert_allclose(after.y, figure.panels[0].marks[1].arrays["y"], atol=0.03 * after.pixel[1])
    assert page.locator("output").nth(1).inner_text() == "0.1 1/s"
    assert page.get_by_label("learning rate").get_attribute("aria-valuetext") == "0.1 1/s"


def test_every_control_is_reached_and_worked_by_keyboard(page):
    page.get_by_label("condition number").focus()
    names = []
    for _ in range(9):
        names.append(page.evaluate("document.activeElement.dataset.control ?? document.activeElement.textContent"))
        page.keyboard.press("Tab")
    assert names[:7] == ["condition", "rate", "noise", "step", "Play", "Reset", "size"]
    assert names[7:9] == ["method", "Reset"]
    page.get_by_label("gradient noise").press("Space")
    assert state_of(page)["noise"] is True
    page.get_by_label("one").press("ArrowRight")
    assert state_of(page, 1)["method"] == "two"


def test_keys_do_not_leave_the_figure(page):
    page.evaluate("() => { window.heard = 0; document.addEventListener('keydown', () => window.heard++); }")
    page.get_by_label("learning rate").press("ArrowLeft")
    assert page.evaluate("window.heard") == 0


def test_no_two_stops_of_a_slider_read_alike(page, monkeypatch):
    monkeypatch.setenv("STEEPEST_STATIC", "1")
    decays = [0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
    axes = {"x": axis("x", domain=(0, 1)), "y": axis("y", domain=(0, 1))}
    shown = explore(lambda decay: figure(panel(line([0, 1], [0, decay]), **axes), alt=f"{decay}"), decay=decays)
    page.evaluate("html => document.querySelector('main').insertAdjacentHTML('beforeend', html)", shown.html)
    slider = page.locator("steepest-figure.steepest-alive [data-control=decay]")
    read = []
    for _ in decays:
        read.append(slider.get_attribute("aria-valuetext"))
        slider.press("ArrowRight")
    assert read == [str(decay) for decay in decays]


def test_reset_returns_to_the_default_state(page):
    default = state_of(page)
    caption = caption_of(page)
    set_state(page, {"condition": 1, "rate": 0.01, "noise": True, "step": 3})
    assert state_of(page) != default and caption_of(page) != caption
    page.get_by_role("button", name="Reset").first.click()
    assert state_of(page) == default and caption_of(page) == caption


def test_play_runs_through_the_steps_and_stops(page):
    button = page.get_by_role("button", name="Play step")
    button.click()
    pause = page.get_by_role("button", name="Pause step")
    assert pause.inner_text() == "Pause"
    page.wait_for_function("() => document.querySelector('steepest-figure').state.step > 2")
    pause.click()
    step = state_of(page)["step"]
    assert 2 < step <= sample.STEPS
    assert drawn_lines(page)[1, 0].x.size == step + 1
    button.click()
    page.wait_for_function(f"() => document.querySelector('steepest-figure').state.step === {sample.STEPS}")
    page.get_by_role("button", name="Play step").wait_for()


def test_only_what_changed_is_drawn_again(page):
    page.evaluate(
        """() => {
            window.touched = new Set();
            new MutationObserver(records => records.forEach(r => window.touched.add(r.target.getAttribute('class'))))
                .observe(document.querySelector('.steepest-panels'), {attributes: true, subtree: true});
        }"""
    )
    set_state(page, {"step": 5})
    touched = set(page.evaluate("() => [...window.touched]"))
    assert "steepest-line" in touched
    assert not touched & {"steepest-contour-lines", "steepest-contour-fill", "steepest-tick", "steepest-axis-line"}


def test_a_wrong_state_is_refused_in_words(page):
    with pytest.raises(Exception, match=r"0\.5 is not a value of rate"):
        set_state(page, {"rate": 0.5})
    with pytest.raises(Exception, match="no control speed: condition, rate"):
        set_state(page, {"speed": 1})


def test_announces_the_settled_state_to_screen_readers(page):
    page.get_by_label("learning rate").press("ArrowLeft")
    status = page.locator(".steepest-announcement").first
    page.wait_for_function("() => document.querySelector('.steepest-announcement').textContent.includes('rate 0.1')")
    assert status.inner_text() == caption_of(page)
    svg = page.get_by_role("img", name="Path: second against first")
    assert page.locator(f"#{svg.get_attribute('aria-describedby')}").inner_text() == caption_of(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 900])
def test_axe_finds_nothing_and_nothing_overflows(page, theme, width):
    page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(150)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    overflowing = page.evaluate(
        """() => [...document.querySelectorAll('.steepest-root *')].filter(element => {
            const box = element.getBoundingClientRect();
            const clipped = element.closest('.steepest-announcement, .steepest-layer');
            return box.width && !clipped && (box.right > innerWidth + 0.5 || box.left < 0);
        }).map(element => element.outerHTML.slice(0, 80))"""
    )
    assert overflowing == []
    assert serious_violations(page, build.FRONTEND / "node_modules" / "axe-core" / "axe.min.js") == []


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("theme", "paper"), [("light", "#ffffff"), ("dark", "#14181e")])
def test_lines_stand_out_in_both_themes(page, theme, paper):
    page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    colours = page.evaluate(
        """() => { const style = getComputedStyle(document.querySelector('.steepest-root'));
            return [...Array(8).keys()].map(i => style.getPropertyValue(`--steepest-series-${i}`).trim())
                .concat(['rule', 'level', 'accent'].map(name => style.getPropertyValue(`--steepest-${name}`).trim()));
        }"""
    )
    assert len(set(colours[:8])) == 8
    for colour in colours:
        lights = sorted((luminance(colour), luminance(paper)))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 3, colour


def test_panels_stack_on_a_narrow_screen(page):
    def lefts():
        panels = page.locator("steepest-figure").first.locator(".steepest-panel svg")
        return [round(panel.bounding_box()["x"]) for panel in panels.all()]

    wide = lefts()
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(150)
    assert len(set(wide)) == 2 and len(set(lefts())) == 1
    # Values are read off correctly in the new layout too.
    figure = sample.descent(**state_of(page))
    drawn = drawn_lines(page)[0, 1]
    np.testing.assert_allclose(drawn.x, figure.panels[0].marks[1].arrays["x"], atol=0.03 * drawn.pixel[0])


def test_nothing_is_requested(browser, address):
    page = browser.new_context(offline=True).new_page()
    requests = external_requests(page)
    everything = []
    page.on("request", lambda request: everything.append(request.url))
    open_figures(page, address)
    set_state(page, {"step": 3})
    page.wait_for_timeout(200)
    assert requests == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in everything)


def test_without_javascript_the_picture_shows(browser, address):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(address)
    picture = page.locator("img.steepest-fallback").first
    assert picture.is_visible()
    assert picture.get_attribute("alt") == sample.descent(10, 0.18, False, sample.STEPS).alt
    assert page.locator("steepest-figure").first.inner_text().strip() == ""


def test_print_shows_the_picture_of_the_default_state(page):
    picture = page.locator("img.steepest-fallback").first
    controls = page.locator(".steepest-controls").first
    assert not picture.is_visible() and controls.is_visible()
    page.emulate_media(media="print")
    assert picture.is_visible() and not controls.is_visible()
    assert not page.locator(".steepest-panels").first.is_visible()


def test_reduced_motion_never_plays_by_itself_and_steps_slower(browser, address):
    page = browser.new_context(reduced_motion="reduce").new_page()
    open_figures(page, address)
    assert state_of(page)["step"] == sample.STEPS
    page.evaluate(
        """() => { const original = window.setInterval; window.pauses = [];
            window.setInterval = (run, pause) => { window.pauses.push(pause); return original(run, pause); }; }"""
    )
    page.get_by_role("button", name="Play step").click()
    assert page.evaluate("window.pauses") == [600]
    page.get_by_role("button", name="Pause step").click()
    assert state_of(page)["step"] == 0


def test_pointer_reads_the_values_of_a_point(page):
    figure = sample.descent(**state_of(page))
    mark = figure.panels[0].marks[1]
    svg = page.locator("steepest-figure svg[role=img]").first
    box = svg.bounding_box()
    axes = svg.evaluate("svg => ['x', 'y'].map(n => JSON.parse(svg.querySelector(`[data-axis=${n}]`).dataset.range))")
    at = [low + (mark.arrays[n][1] + 3) / 6 * (high - low) for n, (low, high) in zip("xy", axes, strict=True)]
    page.mouse.move(box["x"] + at[0], box["y"] + at[1])
    words = page.locator(".steepest-readout text").first.text_content()
    assert words.startswith("gradient descent: ")
    numbers = [float(part.replace("−", "-")) for part in words.split(": ")[1].split(", ")]
    np.testing.assert_allclose(numbers, [mark.arrays["x"][1], mark.arrays["y"][1]], atol=0.01)


def test_the_figure_names_its_function(page):
    names = [figure_name(page, i) for i in range(3)]
    assert names == [f"{sample.__name__}:{name}" for name in ("descent", "gallery", "excursion")]


def test_moving_the_element_keeps_it_alive(page):
    page.evaluate("() => document.querySelector('main').append(document.querySelector('steepest-figure'))")
    set_state(page, {"rate": 0.1}, number=2)
    page.set_viewport_size({"width": 500, "height": 800})
    page.wait_for_timeout(150)
    figure = sample.descent(**state_of(page, 2))
    drawn = drawn_lines(page, 2)[0, 1]
    px = until_divergence(figure.panels[0].marks[1].arrays["x"])
    np.testing.assert_allclose(drawn.x, px, atol=0.03 * drawn.pixel[0])
