"""An exercise's box on a page says what its record says."""

import pytest
from sphinx.application import Sphinx

from autograder.exercises import load
from book.extensions.exercises import summary


def build(folder, text):
    source = folder / "pages"
    (source / "second_order").mkdir(parents=True)
    (source / "index.md").write_text("# Home\n\n```{toctree}\nsecond_order/page\n```\n")
    (source / "second_order" / "page.md").write_text(text)
    warnings = folder / "warnings.txt"
    with open(warnings, "w") as stream:
        app = Sphinx(
            srcdir=source,
            confdir=None,
            outdir=folder / "out",
            doctreedir=folder / "doctrees",
            buildername="html",
            confoverrides={
                "extensions": ["myst_parser", "book.extensions.exercises"],
                # Said here because Sphinx keeps the suffixes of an earlier application in the same process.
                "source_suffix": {".md": "markdown"},
            },
            status=None,
            warning=stream,
        )
        app.build()
    return (folder / "out" / "second_order" / "page.html").read_text(), warnings.read_text()


@pytest.mark.parametrize("exercise", load("second_order"), ids=lambda exercise: exercise.name)
def test_the_box_shows_the_record(tmp_path, exercise):
    html, _ = build(tmp_path, f"# Page\n\n```{{exercise}} {exercise.name}\nDo it.\n```\n")
    assert summary(exercise) in html
    assert "Do it." in html
    for number in (exercise.points, exercise.difficulty, exercise.importance, exercise.minutes):
        assert str(number) in summary(exercise)


def test_an_unknown_exercise_is_named_with_the_known_ones(tmp_path):
    _, warnings = build(tmp_path, "# Page\n\n```{exercise} adam_step\nDo it.\n```\n")
    assert "no exercise 'adam_step'" in warnings
    assert "lbfgs_direction" in warnings
