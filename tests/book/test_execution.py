"""A page is executed again exactly when its cells, or the modules that they use, have changed."""

from types import SimpleNamespace

import pytest
from sphinx.application import Sphinx

from book import fingerprint
from book.extensions import execution

PAGE = """---
file_format: mystnb
kernelspec:
  name: python3
---

# Page

```{code-cell} ipython3
from steepest.trial import ANSWER
print("the answer is", ANSWER)
```
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A book of one page in a project of its own; returns a function that builds it and reads the page."""
    package = tmp_path / "src" / "steepest"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "trial.py").write_text("ANSWER = 41\n")
    source = tmp_path / "pages"
    source.mkdir()
    (source / "index.md").write_text(PAGE)
    monkeypatch.setattr(fingerprint, "ROOTS", {"steepest": tmp_path / "src"})
    monkeypatch.setattr(execution, "PROJECT", tmp_path)
    for variable in ("PYTHONPATH", "STEEPEST_STATIC"):
        monkeypatch.setenv(variable, "")

    def run() -> tuple[str, int]:
        app = Sphinx(
            srcdir=source,
            confdir=None,
            outdir=tmp_path / "out",
            doctreedir=tmp_path / "doctrees",
            buildername="html",
            confoverrides={
                "extensions": ["myst_nb", "book.extensions.execution"],
                # Said here because Sphinx keeps the suffixes of an earlier application in the same process.
                "source_suffix": {".md": "myst-nb"},
                "nb_execution_mode": "cache",
                "nb_execution_cache_path": str(tmp_path / "cache"),
            },
            status=None,
        )
        app.build()
        executed = len(list((tmp_path / "cache" / "executed").iterdir()))
        return (tmp_path / "out" / "index.html").read_text(), executed

    return run


def test_the_output_follows_the_code_that_a_page_imports(build, tmp_path):
    html, executed = build()
    assert "the answer is 41" in html
    assert executed == 1

    html, executed = build()
    assert executed == 1, "nothing changed, so nothing runs"

    (tmp_path / "src" / "steepest" / "trial.py").write_text("ANSWER = 42\n")
    html, executed = build()
    assert "the answer is 42" in html
    assert executed == 2


def test_prose_may_change_without_execution(build, tmp_path):
    build()
    page = tmp_path / "pages" / "index.md"
    page.write_text(page.read_text() + "\nA sentence more.\n")
    html, executed = build()
    assert "A sentence more." in html
    assert executed == 1


def test_line_numbers_survive_the_key():
    app = SimpleNamespace(env=SimpleNamespace(metadata={"page": {}}))
    source = [PAGE]
    execution.key_on_used_modules(app, "page", source)
    assert len(source[0].splitlines()) == len(PAGE.splitlines())
    assert source[0].splitlines()[5:] == PAGE.splitlines()[5:]
