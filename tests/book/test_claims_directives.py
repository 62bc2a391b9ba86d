"""The claim directives, through a small Sphinx project of their own (MyST, warnings as errors)."""

import json
import re
from dataclasses import replace
from html import unescape
from io import StringIO

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from book.claims import store
from book.claims.claim import load_claims
from book.claims.code import code_hash
from book.claims.statements import statements

CLAIM = "second_order.1.2"
PAGE = "second_order/why_second_order_converges_faster"
VALUES = {
    "dimensions": [2, 10, 50],
    "quadratics per dimension": 20,
    "condition number": 100.0,
    "largest relative error after one step": 3e-14,
}


class Book:
    """A folder with Markdown pages that is built into HTML."""

    def __init__(self, folder):
        self.source, self.folder = folder / "source", folder
        self.source.mkdir()

    def page(self, name, text):
        path = self.source / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def build(self, builder="html"):
        """Build; what was logged is in `log` and `warnings`."""
        settings = {"extensions": ["myst_parser", "book.extensions.claims"], "html_theme": "basic"}
        self.log, self.warnings = StringIO(), StringIO()
        with docutils_namespace():
            app = Sphinx(self.source, None, self.folder / "out", self.folder / "trees", builder, settings,
                         status=self.log, warning=self.warnings)  # fmt: skip
            app.build()
        return app

    def html(self, name="index"):
        return (self.folder / "out" / f"{name}.html").read_text(encoding="utf-8")


@pytest.fixture
def book(tmp_path):
    return Book(tmp_path)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A store of our own; call it with values (and a hash) for the claim, or with nothing for an empty store."""
    folder = tmp_path / "measurements"
    monkeypatch.setattr(store, "MEASUREMENTS", folder)

    def write(values=None, code=None, **fields):
        claim = load_claims("second_order")[CLAIM]
        result = store.Result(
            values or VALUES, code or code_hash(claim.measure), {"python": "3.11.0", "torch": "2.13.0"},
            "2026-01-02", "CPU, 1 thread", 0.3,
        )  # fmt: skip
        store.write_results("cpu", {CLAIM: result}, folder)

    return write


def text_of(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html))).replace("’", "'")


def test_a_claim_shows_statement_verdict_sentence_origin_and_evidence(book, stored):
    stored()
    book.page("index", f"# Page\n\n```{{claim}} {CLAIM}\nAn *extra* remark.\n```\n")
    book.build()
    html = book.html()
    text = text_of(html)
    assert book.warnings.getvalue() == ""
    assert statements()[CLAIM].text in text
    assert "Holds" in text and "3 × 10⁻¹⁴" in text
    assert "Measured: CPU, 1 thread, 2026-01-02, torch 2.13.0." in text
    assert "An <em>extra</em> remark." in html
    assert 'id="claim-second-order-1-2"' in html and "claim-holds" in html
    assert html.count("<details") == html.count("</details>") == 1
    assert re.search(r"<summary>.+</summary>", html)
    assert "def measure_one_step" in text and "largest relative error after one step" in text


def test_the_verdict_follows_the_stored_values(book, stored):
    stored({**VALUES, "largest relative error after one step": 0.5})
    book.page("index", f"# Page\n\n```{{claim}} {CLAIM}\n```\n")
    book.build()
    assert re.search(
        r'<div class="[^"]*admonition[^"]*claim-fails|<div class="[^"]*claim-fails[^"]*admonition', book.html()
    )
    assert "Does not hold" in text_of(book.html())


def test_values_are_escaped(book, stored):
    stored({**VALUES, "<script>alert(1)</script>": "<img src=x onerror=alert(2)>"})
    book.page("index", f"# Page\n\n```{{claim}} {CLAIM}\n```\n")
    book.build()
    assert "<script>alert" not in book.html() and "<img src=x" not in book.html()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in book.html()


def test_a_stale_result_says_so_on_the_page_and_in_the_log_but_does_not_warn(book, stored):
    stored(code="0" * 64)
    book.page("index", f"# Page\n\n```{{claim}} {CLAIM}\n```\n")
    book.build()
    assert "Measured with an earlier version of the code: CPU" in text_of(book.html())
    assert f"claim {CLAIM}: measured with an earlier version of the code" in book.log.getvalue()
    assert book.warnings.getvalue() == ""


def test_a_stale_result_without_a_value_asked_for_now_counts_as_not_measured(book, stored):
    stored({"dimensions": [2]}, code="0" * 64)
    book.page("index", f"# Page\n\n```{{claim}} {CLAIM}\n```\n")
    book.build()
    assert "Not measured yet" in text_of(book.html()) and book.warnings.getvalue() == ""


def test_a_current_result_without_a_value_asked_for_is_an_error(book, stored):
    stored({"dimensions": [2]})
    book.page("index", f"# Page\n\n```{{claim}} {CLAIM}\n```\n")
    book.build()
    assert f"claim {CLAIM}: its measurement has no value" in book.warnings.getvalue()


@pytest.mark.parametrize(("device", "words"), [("cpu", "Not measured yet"), ("cuda", "Not measured on a GPU yet")])
def test_a_claim_without_a_result_says_so(book, stored, monkeypatch, device, words):
    claim = load_claims("second_order")[CLAIM]
    monkeypatch.setattr(
        "book.extensions.claims.load_claims",
        lambda topic, where: {CLAIM: replace(claim, device=device, small=claim.measure)} if where == device else {},
    )
    book.page("index", f"# Page\n\n```{{claim}} {CLAIM}\n```\n")
    book.build()
    assert words in text_of(book.html()) and "claim-open" in book.html()
    assert "def measure_one_step" in text_of(book.html())
    assert words.lower() in book.log.getvalue().lower() and book.warnings.getvalue() == ""


def test_a_statement_measured_on_two_devices_shows_both(book, stored, monkeypatch):
    claim = load_claims("second_order")[CLAIM]
    monkeypatch.setattr(
        "book.extensions.claims.load_claims",
        lambda topic, device: {CLAIM: replace(claim, device=device, small=claim.measure)},
    )
    stored()
    book.page("index", f"# Page\n\n```{{claim}} {CLAIM}\n```\n\n```{{claims}} second_order\n```\n")
    book.build()
    html, text = book.html(), text_of(book.html())
    assert book.warnings.getvalue() == ""
    assert text.count("Holds on the CPU . On 20 random") == 2
    assert text.count("Not measured on a GPU yet") == 2
    assert re.search(r'<div class="[^"]*admonition[^"]*claim-holds|claim-holds[^"]*admonition', html)
    assert re.findall(r"<summary>(.+)</summary>", html) == ["Values and code (on the CPU)", "Code (on a GPU)"]


@pytest.mark.parametrize(
    ("directive", "message"),
    [
        ("```{claim} second_order.99.1\n```", "no statement 'second_order.99.1'"),
        ("```{claim} regularization.1.1\n```", "regularization.1.1 has no claim"),
        ("```{claims} cooking\n```", "no statements of a topic 'cooking'"),
    ],
)
def test_an_unknown_id_is_an_error_with_its_line(book, stored, directive, message):
    book.page("index", f"# Page\n\n{directive}\n")
    book.build()
    assert message in book.warnings.getvalue()
    assert "index.md:3" in book.warnings.getvalue()


def test_the_table_links_statements_to_their_pages_and_names_what_is_missing(book, stored):
    stored()
    book.page("index", f"# Home\n\n```{{toctree}}\n{PAGE}\n```\n\n```{{claims}} second_order\n```\n")
    book.page(PAGE, f"# Page\n\n```{{claim}} {CLAIM}\n```\n\n(definition-second-order-6-4)=\n## Defined\n")
    book.build()
    html, text = book.html(), text_of(book.html())
    assert book.warnings.getvalue() == ""
    assert f'href="{PAGE}.html#claim-second-order-1-2"' in html
    assert f'href="{PAGE}.html#definition-second-order-6-4"' in html
    for statement in statements().values():
        assert (statement.text in text) == (statement.topic == "second_order")
    assert text.count("Holds . On 20 random") == 1
    assert "not written yet" in text


def test_pages_are_rebuilt_when_the_store_changes(book, stored):
    stored()
    book.page("index", f"# Page\n\n```{{claim}} {CLAIM}\n```\n")
    app = book.build()
    names = {str(path) for path in app.env.dependencies["index"]}
    for part in ("measurements/cpu.json", "statements.yml", "convergence.py", "second_order/newton.py"):
        assert any(name.endswith(part) for name in names), part
    assert not any(name.endswith("second_order/lbfgs.py") for name in names)
    path = store.store_file("cpu", book.folder / "measurements")
    entries = json.loads(path.read_text())
    entries[CLAIM]["values"]["largest relative error after one step"] = 0.25
    path.write_text(json.dumps(entries))
    book.build()
    assert "claim-fails" in book.html()


def test_other_formats_show_the_folded_part_too(book, stored):
    stored()
    book.page("index", f"# Page\n\n```{{claim}} {CLAIM}\n```\n")
    book.build(builder="text")
    text = (book.folder / "out" / "index.txt").read_text(encoding="utf-8")
    assert "largest relative error after one step" in text and "def measure_one_step" in text
