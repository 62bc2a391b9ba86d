"""The inventory: every statement that the course answers, read from statements.yml."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

STATEMENTS_FILE = Path(__file__).with_name("statements.yml")
STATEMENT_KINDS = ("claim", "definition")
ID = re.compile(r"(?P<topic>[a-z_]+)\.(?P<question>\d+)\.(?P<number>\d+)")


@dataclass(frozen=True)
class Statement:
    """One statement: its id (topic.question.number), its text, the slug of its page, and its kind.

    A `claim` is measured; a `definition` has nothing to measure and is taught by its page.

    >>> Statement("second_order.1.2", "…", "why_second_order_converges_faster", "claim").anchor
    'claim-second-order-1-2'
    """

    id: str
    text: str
    question: str
    kind: str

    @property
    def topic(self) -> str:
        """The topic, which is the folder of its page."""
        return self.id.split(".")[0]

    @property
    def page(self) -> str:
        """The page, below book/."""
        return f"{self.topic}/{self.question}"

    @property
    def anchor(self) -> str:
        """The anchor in its page, `claim-…` or `definition-…`."""
        return f"{self.kind}-{self.id.replace('_', '-').replace('.', '-')}"


@cache
def _read(modified: int) -> dict[str, Statement]:
    entries = yaml.safe_load(STATEMENTS_FILE.read_text(encoding="utf-8"))
    return parse(entries)


def parse(topics: dict[str, dict[str, list[dict[str, str]]]]) -> dict[str, Statement]:
    """Statements by id, in order, from {topic: {question slug: [{id, kind, statement}, …]}}.

    Raises ValueError for an id that is malformed, stands twice or under another topic, and for an unknown kind.
    """
    found: dict[str, Statement] = {}
    for topic, questions in topics.items():
        for slug, entries in questions.items():
            for entry in entries:
                statement = Statement(entry["id"], entry["statement"], slug, entry["kind"])
                match = ID.fullmatch(statement.id)
                if match is None or match["topic"] != topic:
                    raise ValueError(f"statement {statement.id!r} under {topic}: an id is {topic}.question.number")
                if statement.kind not in STATEMENT_KINDS:
                    raise ValueError(f"statement {statement.id}: kind is claim or definition, not {statement.kind!r}")
                if statement.id in found:
                    raise ValueError(f"two statements have the id {statement.id}")
                found[statement.id] = statement
    return found


def statements() -> dict[str, Statement]:
    """All statements by id, in the order of the course.

    >>> list(statements())[0]
    'second_order.1.1'
    """
    return _read(STATEMENTS_FILE.stat().st_mtime_ns)
