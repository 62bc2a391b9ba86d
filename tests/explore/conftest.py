"""Fixtures: the built front end, and a page with figures, opened as a file."""

import pytest

from steepest.explore import build, explore
from tests.browser import open_figures
from tests.explore import sample

PAGE = """<!doctype html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Figures</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<link rel="stylesheet" href="{static}/explore.css"><script defer src="{static}/explore.js"></script>
<style>body {{ margin: 1rem; font-family: sans-serif;
background: var(--pst-color-background); color: var(--pst-color-text-base) }}
html {{ --pst-color-background: #fff; --pst-color-text-base: #222832; --pst-color-text-muted: #48566b }}
html[data-theme="dark"] {{ --pst-color-background: #14181e; --pst-color-text-base: #ced6dd;
--pst-color-text-muted: #9ca4af }}</style></head>
<body><main><h1>Figures</h1>{figures}</main></body></html>
"""


@pytest.fixture(scope="session")
def static_folder():
    """The built front end."""
    build.build()
    return build.STATIC


@pytest.fixture(scope="session")
def address(static_folder, tmp_path_factory):
    """A file with the sample figures, as the book's build would make them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEEPEST_STATIC", "1")
        figures = [
            explore(sample.descent, **sample.DESCENT),
            explore(sample.gallery, **sample.GALLERY),
            explore(sample.excursion, **sample.EXCURSION),
        ]
    path = tmp_path_factory.mktemp("site") / "figures.html"
    body = "".join(figure._repr_mimebundle_()["text/html"] for figure in figures)
    path.write_text(PAGE.format(static=static_folder.as_uri(), figures=body), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    """The page with all figures alive; any error in its scripts fails the test."""
    context = browser.new_context(viewport={"width": 900, "height": 800})
    opened = context.new_page()
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    open_figures(opened, address)
    yield opened
    context.close()
    assert not errors
