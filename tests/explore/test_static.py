"""The figure as it stands in the built book, and its picture."""

import base64
import functools
import gzip
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from steepest.explore import axis, build, contour, explore, figure, line, panel
from steepest.explore.encoding import dequantise
from steepest.explore.fallback import picture
from steepest.explore.packing import unpack
from steepest.explore.palette import DIVERGING, SEQUENTIAL, SERIES
from tests.explore import sample


@pytest.fixture
def static(monkeypatch):
    monkeypatch.setenv("STEEPEST_STATIC", "1")


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")).astype(int)


def near(pixels, colour, within=24):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(pixels - wanted).max(-1) <= within).sum()


def test_static_html_only(static):
    shown = explore(sample.descent, **sample.DESCENT)
    bundle = shown._repr_mimebundle_(include=None, exclude=None)
    assert bundle.keys() == {"text/html"}
    html = bundle["text/html"]
    assert f'<steepest-figure data-figure="{sample.__name__}:descent">' in html
    assert "http:" not in html and "https:" not in html
    data = re.search(r'class="steepest-data">([A-Za-z0-9+/=]+)</script>', html).group(1)
    header, tables, pools = unpack(gzip.decompress(base64.b64decode(data)))
    assert [control["name"] for control in header["controls"]] == list(sample.DESCENT)
    newton = header["panels"][0]["marks"][2]
    assert newton["depends"] == []
    row = pools[newton["fields"]["x"][0]][tables[newton["fields"]["x"][1]][0]]
    assert dequantise(row, -15, 15) == pytest.approx([-2.5, 0], abs=1e-3)


def test_alt_text_and_names_are_escaped(static):
    def fn(a):
        return figure(
            panel(line([0], [0]), x=axis("<x>", domain=(0, 1)), y=axis("y", domain=(0, 1))), alt='a < "b" & c'
        )

    html = explore(fn, a=[1]).html
    assert 'alt="a &lt; &quot;b&quot; &amp; c"' in html and "&lt;locals&gt;" in html


def test_a_callable_without_a_name_serves(static):
    def fn(height, a):
        return figure(panel(line([0], [height]), x=axis("x", domain=(0, 1)), y=axis("y", domain=(0, 1))), alt=f"{a}")

    assert "functools.partial" in explore(functools.partial(fn, 0.5), a=[1, 2]).html


def test_the_build_loads_no_widget_machinery():
    code = (
        "import sys; from tests.explore import sample; from steepest.explore import explore;"
        "explore(sample.gallery, **sample.GALLERY); assert not {'anywidget', 'ipywidgets'} & set(sys.modules)"
    )
    environment = {**os.environ, "STEEPEST_STATIC": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_picture_shows_every_series_in_its_colour():
    marks = [line([0, 1], [i, i], label=f"series {i}", series=i) for i in range(8)]
    shown = figure(panel(*marks, x=axis("x", domain=(0, 1)), y=axis("y", domain=(-1, 8))), alt="eight lines")
    pixels = decoded(picture(shown, {}))
    for series in SERIES:
        assert near(pixels, series.light) > 100, series
    assert near(pixels, "#ffffff", 2) > 0.7 * pixels.shape[0] * pixels.shape[1]


def test_the_picture_reveals_up_to_the_default_state():
    def drawn(step):
        mark = line(range(11), [1] * 11, reveal="step")
        shown = figure(panel(mark, x=axis("x", domain=(0, 10)), y=axis("y", domain=(0, 2))), alt="one line")
        return near(decoded(picture(shown, {"step": step})), SERIES[0].light)

    assert drawn(1) < 0.5 * drawn(5) < 0.5 * drawn(10)


def test_the_picture_of_every_kind_of_mark_is_compact():
    uri = picture(sample.gallery(1.0, "one"), {})
    assert uri.startswith("data:image/png;base64,") and len(uri) < 90_000
    pixels = decoded(uri)
    assert near(pixels, DIVERGING[0], 40) > 50 and near(pixels, DIVERGING[-1], 40) > 50
    assert near(pixels, SERIES[3].light) > 500


def test_level_lines_look_alike_above_and_below_zero():
    def drawn(shift):
        field = contour([0, 1], [0, 1], np.array([[-2, 0], [0, 2]]) + shift, [shift - 1, shift + 1])
        axes = {"x": axis("x", domain=(0, 1)), "y": axis("y", domain=(0, 1))}
        return decoded(picture(figure(panel(field, **axes), alt="levels"), {}))

    assert (drawn(-5) == drawn(5)).all()


def test_front_end_and_python_agree_on_the_palette():
    css = (build.FRONTEND / "src" / "explore.css").read_text()
    script = (build.FRONTEND / "src" / "palette.js").read_text()
    colours = [colour for _, colour in re.findall(r"--steepest-series-(\d): (#\w+);", css)]
    assert colours == [series.light for series in SERIES] + [series.dark for series in SERIES]
    dashes = re.findall(r'"([^"]*)"', script.split("DASHES = [")[1].split("]")[0])
    assert [tuple(map(float, dash.split())) for dash in dashes] == [series.dash for series in SERIES]
    assert re.findall(r'name: "(\w+)"', script) == [series.marker for series in SERIES]
    for name, ramp in (("SEQUENTIAL", SEQUENTIAL), ("DIVERGING", DIVERGING)):
        assert tuple(re.findall(r"#\w{6}", script.split(f"{name} = [")[1].split("]")[0])) == ramp
