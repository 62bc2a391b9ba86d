"""The built book in a real browser: every page alive, offline, readable by everyone, and true to the reference."""

import functools
import http.server
import importlib
import random
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml

from steepest.explore import build as front_end
from tests.book.compare import compare_figure
from tests.browser import (
    caption_of,
    external_requests,
    figure_name,
    open_figures,
    serious_violations,
    set_state,
    state_of,
)

PROJECT = Path(__file__).resolve().parents[2]
SITE = PROJECT / "_build" / "html"
AXE = front_end.FRONTEND / "node_modules" / "axe-core" / "axe.min.js"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not SITE.exists(), reason="the book is not built: run `make book`"),
]


def pages_of_toc() -> list[str]:
    toc = yaml.safe_load((PROJECT / "_toc.yml").read_text(encoding="utf-8"))
    found = [toc["root"]]
    for chapter in toc["chapters"]:
        found += [chapter["file"], *(section["file"] for section in chapter.get("sections", []))]
    return found


PAGES = pages_of_toc()
QUESTIONS = [page for page in PAGES if "index" not in page]


def address(page: str) -> str:
    return (SITE / f"{page}.html").as_uri()


def functions_of(page: str) -> list[str]:
    html = (SITE / f"{page}.html").read_text(encoding="utf-8")
    return re.findall(r'<steepest-figure data-figure="([^"]+)"', html)


FIGURES = [(page, number) for page in QUESTIONS for number in range(len(functions_of(page)))] if SITE.exists() else []


@pytest.fixture(scope="module")
def server():
    """The book served from this machine; yields its origin."""
    handler = functools.partial(QuietHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and keeps its log to itself."""

    def log_message(self, format, *args):
        return


@pytest.fixture
def open_page(browser):
    """A function that opens a page and returns it with its problems: console errors and failed requests."""
    contexts = []

    def opened(url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        problems = []
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
        page.on("response", lambda response: response.status >= 400 and problems.append(response.url))
        requests = external_requests(page)
        open_figures(page, url)
        return page, problems, requests

    yield opened
    for context in contexts:
        context.close()


def controls_of(page, number):
    """The controls of a figure as the page holds them: name → the values that it can take."""
    return page.locator("steepest-figure").nth(number).evaluate(
        """figure => Object.fromEntries(figure.view.controls.map(({header}) =>
            [header.name, header.kind === 'switch' ? [false, true] : header.values]))"""
    )


def function_named(name):
    module, _, qualname = name.partition(":")
    return getattr(importlib.import_module(module), qualname)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_served_from_its_own_origin_alone(open_page, server, page):
    opened, problems, requests = open_page(f"{server}/{page}.html")
    opened.wait_for_load_state("networkidle")
    assert [url for url in requests if not url.startswith(f"{server}/")] == []
    assert problems == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_works_as_a_file_without_network(open_page, page):
    opened, problems, requests = open_page(address(page), offline=True)
    opened.wait_for_load_state("networkidle")
    assert requests == []
    assert problems == []
    source = (PROJECT / f"{page}.md").read_text(encoding="utf-8")
    if "$$" in source:
        # MathJax came from the page's own folder and has set the formulas.
        opened.wait_for_selector("mjx-container")
        assert opened.locator("mjx-merror").count() == 0


@pytest.mark.parametrize("page", QUESTIONS)
def test_a_question_page_has_figures(page):
    assert functions_of(page)


@pytest.mark.parametrize(("page", "number"), FIGURES)
def test_drawn_marks_equal_the_function(open_page, page, number):
    """At the default and three random settings, values read back from the drawing equal `fn` called in Python."""
    opened, _, _ = open_page(address(page))
    fn = function_named(figure_name(opened, number))
    controls = controls_of(opened, number)
    generator = random.Random(f"{page} {number}")
    settings = [state_of(opened, number)]
    settings += [{name: generator.choice(values) for name, values in controls.items()} for _ in range(3)]
    for setting in settings:
        set_state(opened, setting, number)
        assert state_of(opened, number) == setting
        figure = fn(**setting)
        assert compare_figure(opened, number, figure, setting) > 0
        assert caption_of(opened, number).split() == figure.alt.split()


@pytest.mark.parametrize(("page", "number"), FIGURES)
def test_every_control_works_by_keyboard_and_says_its_value(open_page, page, number):
    opened, _, _ = open_page(address(page))
    figure = opened.locator("steepest-figure").nth(number)
    for name, values in controls_of(opened, number).items():
        if len(values) < 2:
            continue
        control = figure.locator(f'[data-control="{name}"]')
        inputs = control.first
        kind = inputs.get_attribute("type") or "select"
        before = state_of(opened, number)[name]
        if kind == "radio":
            inputs = figure.locator(f'[data-control="{name}"]:checked')
        inputs.focus()
        assert opened.evaluate("document.activeElement.dataset.control") == name
        key = "Space" if kind == "checkbox" else "ArrowLeft" if before == values[-1] else "ArrowRight"
        if kind == "select":
            key = "ArrowUp" if before == values[-1] else "ArrowDown"
        opened.keyboard.press(key)
        assert state_of(opened, number)[name] != before, f"{key} does not move {name}"
        if kind == "range":
            assert inputs.get_attribute("aria-valuetext")
            assert figure.locator(f'output[for="{inputs.get_attribute("id")}"]').inner_text().strip()
    figure.get_by_role("button", name="Reset").press("Enter")
    opened.wait_for_timeout(50)
    fn = function_named(figure_name(opened, number))
    assert caption_of(opened, number).split() == fn(**state_of(opened, number)).alt.split()


@pytest.mark.parametrize("page", QUESTIONS)
def test_time_plays_and_pauses(open_page, page):
    opened, _, _ = open_page(address(page))
    plays = 0
    for number, figure in enumerate(opened.locator("steepest-figure").all()):
        play = figure.get_by_role("button", name=re.compile("^Play"))
        if play.count() == 0:
            continue
        plays += 1
        before = state_of(opened, number)
        play.first.click()
        opened.wait_for_timeout(900)
        figure.get_by_role("button", name=re.compile("^(Pause|Play)")).first.click()
        assert state_of(opened, number) != before
    assert plays > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_nothing_serious(open_page, page, scheme):
    opened, _, _ = open_page(address(page), color_scheme=scheme)
    assert opened.evaluate("document.documentElement.dataset.theme") == scheme
    # Folded parts are read too.
    opened.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert serious_violations(opened, AXE) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_narrow_screen_needs_no_sideways_scrolling(open_page, page):
    opened, _, _ = open_page(address(page), viewport={"width": 390, "height": 844})
    opened.wait_for_timeout(300)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    too_wide = opened.evaluate(
        """() => [...document.querySelectorAll('steepest-figure *')].filter(node =>
            node.getBoundingClientRect().right > 391 && getComputedStyle(node).visibility !== 'hidden'
            && !node.closest('svg')).map(node => node.outerHTML.slice(0, 120))"""
    )
    assert too_wide == []


@pytest.mark.parametrize("page", PAGES)
def test_print_cuts_no_code_off(open_page, page):
    opened, _, _ = open_page(address(page), viewport={"width": 700, "height": 1000})
    opened.emulate_media(media="print")
    opened.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    cut = "[...document.querySelectorAll('.bd-article pre')].filter(code => code.scrollWidth > code.clientWidth + 1)"
    assert opened.evaluate(f"{cut}.map(code => code.textContent.slice(0, 60))") == []


@pytest.mark.parametrize("page", PAGES)
def test_pictures_have_alt_texts(open_page, page):
    opened, _, _ = open_page(address(page))
    alts = opened.evaluate("[...document.querySelectorAll('.bd-article img')].map(image => image.alt)")
    assert all(alt.strip() and "Figure size" not in alt for alt in alts)


@pytest.mark.parametrize("page", QUESTIONS)
def test_without_javascript_and_in_print_a_picture_shows(browser, page):
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(address(page))
    pictures = opened.locator("img.steepest-fallback")
    assert pictures.count() == len(functions_of(page))
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        assert picture.is_visible()
        assert picture.evaluate("image => image.complete && image.naturalWidth > 200")
    context.close()
    context = browser.new_context()
    opened = context.new_page()
    open_figures(opened, address(page))
    opened.emulate_media(media="print")
    for figure in opened.locator("steepest-figure").all():
        assert figure.locator("img.steepest-fallback").is_visible()
        assert not figure.locator(".steepest-controls").is_visible()
    context.close()


@pytest.mark.parametrize("page", PAGES)
def test_internal_links_lead_somewhere(page):
    path = SITE / f"{page}.html"
    html = path.read_text(encoding="utf-8")
    for link in re.findall(r'<a[^>]*\shref="([^"]+)"', html):
        target, anchor = urldefrag(unquote(link))
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        aimed = (path.parent / target).resolve() if target else path
        assert aimed.exists(), f"{page} links to {link}"
        if anchor and aimed.suffix == ".html":
            assert f'id="{anchor}"' in aimed.read_text(encoding="utf-8"), f"{page} links to {link}"
