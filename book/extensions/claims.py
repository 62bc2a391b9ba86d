"""Directives that show claims: `{claim} second_order.1.2` one of them, `{claims} second_order` a topic's table.

They only read: the inventory, the store of measurements and the source of the claim. Nothing is measured at
build. A claim without a result, or with one that earlier code made, says so on the page and in the build log.
"""

import inspect

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from book.claims.claim import CONDITIONAL, DEVICES, FAILS, HOLDS, Claim, Verdict, load_claims
from book.claims.code import code_files
from book.claims.statements import STATEMENTS_FILE, Statement, statements
from book.claims.store import NOT_MEASURED, STALE, Result, is_stale, read_results, store_file

LOG = logging.getLogger(__name__)
# The stylesheet draws a shape before the word: a tick, a half-filled circle, a cross, an empty circle.
CSS_CLASSES = {HOLDS: "claim-holds", CONDITIONAL: "claim-conditional", FAILS: "claim-fails"}
OPEN_CLASS = "claim-open"
ON_DEVICE = {"cpu": "on the CPU", "cuda": "on a GPU"}


class Fold(nodes.General, nodes.Element):
    """A part that the reader unfolds; its attribute `summary` is the text to press."""


class StatementLink(nodes.Inline, nodes.TextElement):
    """A statement's number, linked to its page once all pages are read; its attribute `anchor` is where to."""


class ClaimBase(SphinxDirective):
    """What both directives share: finding a claim with its result, and noting what the page depends on."""

    def look_up(self, statement: Statement) -> list[tuple[Claim, Result | None, bool]]:
        """The claims that measure a statement, one a device, each with its result and whether that is out of date."""
        claims = (load_claims(statement.topic, device).get(statement.id) for device in DEVICES)
        return [(claim, *self.result_of(claim)) for claim in claims if claim is not None]

    def result_of(self, claim: Claim) -> tuple[Result | None, bool]:
        """The stored result of a claim, and whether it is out of date; both are noted in the log."""
        for path in (store_file(claim.device), *sorted(code_files(claim.measure))):
            self.env.note_dependency(str(path))
        result = read_results(claim.device).get(claim.id)
        stale = result is not None and is_stale(claim, result)
        if result is None:
            LOG.info("claim %s: %s", claim.id, NOT_MEASURED[claim.device])
        if stale:
            LOG.info("claim %s: %s", claim.id, STALE)
        return result, stale

    def judge(self, claim: Claim, result: Result | None, stale: bool) -> Verdict | None:
        """The verdict on a result; None without one, and where an earlier measurement lacks a value asked for now."""
        if result is None:
            return None
        try:
            return claim.verdict(result.values)
        except KeyError as missing:
            if not stale:
                raise self.error(f"claim {claim.id}: its measurement has no value {missing}") from missing
            LOG.info("claim %s: the earlier measurement has no value %s", claim.id, missing)
            return None

    def depend_on_inventory(self, topic: str) -> None:
        """Note that the page changes with the inventory and with the topic's claims."""
        self.env.note_dependency(str(STATEMENTS_FILE))
        folder = STATEMENTS_FILE.parent
        for path in sorted([*folder.glob(f"{topic}.py"), *folder.glob(f"{topic}/*.py")]):
            self.env.note_dependency(str(path))


class ClaimDirective(ClaimBase):
    """One claim as a box: statement, verdict, measured sentence, device and date, and the evidence, folded."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Build the box; an unknown id, or one that has no claim, is an error."""
        name = self.arguments[0].strip()
        statement = statements().get(name)
        if statement is None:
            raise self.error(f"no statement {name!r} in {STATEMENTS_FILE.name}; ids look like second_order.1.2")
        self.depend_on_inventory(statement.topic)
        found = self.look_up(statement)
        if not found:
            raise self.error(
                f"statement {name} has no claim in book/claims/{statement.topic}: register one, or teach it as a "
                "definition"
            )
        verdicts = [self.judge(*each) for each in found]
        # The box takes its colour from the first device that has been measured.
        verdict = next((verdict for verdict in verdicts if verdict), None)
        box = nodes.admonition(classes=["claim", CSS_CLASSES[verdict.kind] if verdict else OPEN_CLASS])
        box["ids"] = box["names"] = [statement.anchor]
        self.state.document.note_explicit_target(box)
        self.set_source_info(box)
        box += nodes.title("", f"Claim {_number(statement)}")
        box += nodes.paragraph("", statement.text, classes=["claim-statement"])
        for (claim, _, _), each in zip(found, verdicts, strict=True):
            box += nodes.paragraph("", "", *_verdict_words(claim, each, len(found)), classes=["claim-measured"])
        if self.content:
            body = nodes.container(classes=["claim-body"])
            self.state.nested_parse(self.content, self.content_offset, body)
            box += body
        for _, result, stale in found:
            if result is not None:
                box += nodes.paragraph("", _origin(result, stale), classes=["claim-origin"])
        box += [_evidence(claim, result, len(found)) for claim, result, _ in found]
        return [box]


class ClaimsDirective(ClaimBase):
    """The table of a topic's statements: number linked to its page, statement, verdict, what was measured."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Build the table; a topic without statements is an error."""
        topic = self.arguments[0].strip()
        rows = [statement for statement in statements().values() if statement.topic == topic]
        if not rows:
            raise self.error(f"no statements of a topic {topic!r} in {STATEMENTS_FILE.name}")
        self.depend_on_inventory(topic)
        body = [self.row(statement) for statement in rows]
        table = _table(["Statement", "Verdict and measurement"], [55, 45], body)
        table["classes"] += ["claims-table"]
        return [table]

    def row(self, statement: Statement) -> list[list[nodes.Node]]:
        """The two cells of a statement."""
        link = StatementLink("", _number(statement), anchor=statement.anchor)
        said = nodes.paragraph("", "", link, nodes.Text(f" {statement.text}"))
        found = self.look_up(statement)
        if not found:
            word = "definition" if statement.kind == "definition" else "not written yet"
            return [[said], [nodes.paragraph("", "", nodes.inline("", word, classes=["claim-word", OPEN_CLASS]))]]
        cell = []
        for claim, result, stale in found:
            words = _verdict_words(claim, self.judge(claim, result, stale), len(found))
            cell.append(nodes.paragraph("", "", *words))
            if stale:
                cell.append(nodes.paragraph("", _sentence_case(STALE) + ".", classes=["claim-origin"]))
        return [[said], cell]


def _number(statement: Statement) -> str:
    return statement.id.split(".", 1)[1]


def _sentence_case(words: str) -> str:
    return words[0].upper() + words[1:]


def _verdict_words(claim: Claim, verdict: Verdict | None, devices: int) -> list[nodes.Node]:
    """The verdict's word and sentence; with a word for the device where the statement has several."""
    if verdict is None:
        return [nodes.inline("", _sentence_case(NOT_MEASURED[claim.device]), classes=["claim-word", OPEN_CLASS])]
    where = f" {ON_DEVICE[claim.device]}" if devices > 1 else ""
    word = nodes.inline("", _sentence_case(verdict.kind) + where, classes=["claim-word", CSS_CLASSES[verdict.kind]])
    return [word, nodes.Text(f". {verdict.sentence}")]


def _origin(result: Result, stale: bool) -> str:
    how = _sentence_case(STALE) if stale else "Measured"
    torch = result.versions.get("torch", "unknown").split("+")[0]
    return f"{how}: {result.device}, {result.date}, torch {torch}."


def _evidence(claim: Claim, result: Result | None, devices: int) -> Fold:
    where = f" ({ON_DEVICE[claim.device]})" if devices > 1 else ""
    fold = Fold(summary=("Values and code" if result else "Code") + where)
    if result is not None:
        pairs = [
            [[nodes.paragraph("", name)], [nodes.paragraph("", _shown(value))]] for name, value in result.values.items()
        ]
        fold += _table(["Value", "Measured"], [60, 40], pairs)
        took = f"It took {result.seconds} s with " if result.seconds else "With "
        versions = ", ".join(f"{name} {number}" for name, number in sorted(result.versions.items()))
        fold += nodes.paragraph("", f"{took}{versions}.")
    code = inspect.getsource(claim.measure)
    fold += nodes.literal_block(code, code, language="python")
    return fold


def _shown(value: object) -> str:
    return ", ".join(_shown(entry) for entry in value) if isinstance(value, list) else str(value)


def _table(head: list[str], widths: list[int], rows: list[list[list[nodes.Node]]]) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in widths), cols=len(widths))
    titles = [nodes.entry("", nodes.paragraph("", title)) for title in head]
    group += nodes.thead("", nodes.row("", *titles))
    group += nodes.tbody("", *(nodes.row("", *(nodes.entry("", *cell) for cell in cells)) for cells in rows))
    return nodes.table("", group)


def link_statements(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn statement numbers into links where a page shows the statement, else into plain text (`doctree-resolved`)."""
    labels = app.env.get_domain("std").anonlabels
    for link in list(doctree.findall(StatementLink)):
        target, anchor = labels.get(link["anchor"], (None, ""))
        text = nodes.inline("", link.astext())
        if target is not None:
            uri = app.builder.get_relative_uri(docname, target) + f"#{anchor}"
            text = nodes.reference("", link.astext(), internal=True, refuri=uri)
        link.replace_self(text)


def visit_fold(self, node: Fold) -> None:
    """Open `<details>` with its summary, in HTML."""
    self.body.append(self.starttag(node, "details", CLASS="claim-fold"))
    self.body.append(f"<summary>{self.encode(node['summary'])}</summary>\n")


def depart_fold(self, node: Fold) -> None:
    """Close `</details>`."""
    self.body.append("</details>\n")


def pass_fold(self, node: Fold) -> None:
    """Other formats show the folded part."""


def setup(app: Sphinx) -> dict:
    """Register the directives."""
    other = (pass_fold, pass_fold)
    app.add_node(Fold, html=(visit_fold, depart_fold), latex=other, text=other)
    app.add_directive("claim", ClaimDirective)
    app.add_directive("claims", ClaimsDirective)
    app.connect("doctree-resolved", link_statements)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
