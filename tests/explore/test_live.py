"""The figure in a live kernel: an ipywidget that computes whatever is chosen."""

import ipywidgets
import numpy as np
import pytest
import traitlets

from steepest.explore import axis, choice, explore, figure, line, panel, stops, switch
from steepest.explore.encoding import dequantise
from steepest.explore.live import LiveFigure, between
from steepest.explore.packing import unpack
from tests.explore import sample


def parabola(width, count, kind, flipped):
    if width > 90:
        raise ArithmeticError("too wide to draw")
    x = np.linspace(0, 1, count)
    return figure(
        panel(line(x, width * x**2 * (-1) ** flipped), x=axis("x", domain=(0, 1)), y=axis("y", domain=(-100, 100))),
        alt=f"{kind} parabola of width {width:.2f}",
    )


CONTROLS = {
    "width": stops([1.0, 10.0, 100.0], default=10.0),
    "count": stops([2, 5, 9], default=5),
    "kind": choice(["thin", "thick"]),
    "flipped": switch(False),
}


@pytest.fixture
def live(monkeypatch):
    monkeypatch.delenv("STEEPEST_STATIC", raising=False)
    return explore(parabola, **CONTROLS)


def drawn(live):
    header, tables, pools = unpack(live._block)
    length, table = header["panels"][0]["marks"][0]["fields"]["y"]
    return dequantise(pools[length][tables[table][0]], -500, 500), header["alt"]["texts"]


def test_it_is_a_widget_with_a_trait_per_control(live):
    assert isinstance(live, LiveFigure) and isinstance(live, ipywidgets.DOMWidget)
    assert live.state == {"width": 10.0, "count": 5, "kind": "thin", "flipped": False}
    assert {"width", "count", "kind", "flipped"} <= set(live.keys)
    mimes = live._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in (mimes[0] if isinstance(mimes, tuple) else mimes)


def test_a_changed_control_computes_again_also_between_stops(live):
    live.width = 3.7
    values, alts = drawn(live)
    np.testing.assert_allclose(values, 3.7 * np.linspace(0, 1, 5) ** 2, atol=0.01)
    assert alts == ["thin parabola of width 3.70"]
    live.flipped = True
    np.testing.assert_allclose(drawn(live)[0], -3.7 * np.linspace(0, 1, 5) ** 2, atol=0.01)


def test_a_live_figure_may_change_its_number_of_points(live):
    live.count = 7
    assert drawn(live)[0].size == 7 and live.error == ""


def test_every_change_is_answered_also_where_nothing_differs(live):
    before = live._answers
    live.kind = "thick"
    live.kind = "thin"
    assert live._answers == before + 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 0.5), ("width", 101.0), ("count", 2.5), ("count", 10), ("kind", "none"), ("flipped", 3)],
)
def test_values_outside_a_control_are_refused(live, name, value):
    with pytest.raises(traitlets.TraitError):
        setattr(live, name, value)


def test_errors_of_the_function_show_in_words_and_pass(live):
    block = live._block
    live.width = 95.0
    assert live.error == "ArithmeticError: too wide to draw" and live._block == block
    live.width = 2.0
    assert live.error == "" and live._block != block


def test_it_composes_with_other_widgets(live):
    seen = []
    live.observe(lambda change: seen.append(change["new"]), "width")
    slider = ipywidgets.FloatSlider(min=1, max=100, value=10)
    box = ipywidgets.HBox([slider, live])
    ipywidgets.link((slider, "value"), (live, "width"))
    ipywidgets.jslink((slider, "value"), (live, "width"))
    slider.value = 20.0
    assert seen == [20.0] and live.width == 20.0 and box.children[1] is live
    live.width = 30.0
    assert slider.value == 30.0
    assert drawn(live)[1] == ["thin parabola of width 30.00"]


def test_two_figures_keep_their_own_controls(live):
    other = LiveFigure(lambda speed: parabola(speed, 3, "other", False), {"speed": stops([1.0, 2.0], label="speed")})
    assert "speed" not in live.keys and "width" not in other.keys
    other.speed = 1.5
    assert drawn(other)[1] == ["other parabola of width 1.50"] and live.width == 10.0


def test_a_figure_without_controls_bears_changes_of_other_traits(monkeypatch):
    monkeypatch.delenv("STEEPEST_STATIC", raising=False)
    live = explore(lambda: parabola(3, 3, "fixed", False))
    live.layout = ipywidgets.Layout(width="400px")
    assert live.error == "" and live._answers == 1 and drawn(live)[1] == ["fixed parabola of width 3.00"]
    live.close()


def test_names_that_every_widget_has_are_refused():
    with pytest.raises(ValueError, match="can't be named 'layout'"):
        explore(lambda layout: None, layout=stops([1, 2]))


def test_wrong_controls_are_refused_live_too():
    with pytest.raises(TypeError, match="no parameter 'speed'"):
        explore(parabola, speed=[1, 2])


def test_revealed_lines_work_for_a_single_state(monkeypatch):
    monkeypatch.delenv("STEEPEST_STATIC", raising=False)
    live = explore(sample.descent, **sample.DESCENT)
    live.step = 7
    assert live.error == ""
    header, _, _ = unpack(live._block)
    assert header["panels"][0]["marks"][1]["reveal"] == "step"


def test_between_stops():
    assert between(stops([1.0, 10.0, 100.0]), 1.5) == pytest.approx(10**1.5)
    assert between(stops([0.0, 1.0, 3.0]), 1.25) == pytest.approx(1.5)
    assert between(stops([1, 3, 10, 30]), 0.6) == 2
    assert between(stops([1.0, 2.0]), 1) == 2.0
