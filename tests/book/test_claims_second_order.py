"""The claims of second_order, on the measurements in the store, and the pages that show them."""

import re
from pathlib import Path

import pytest
import yaml

from book.claims import DEVICES, KINDS, load_claims, read_results, statements
from book.claims.code import used_code

PROJECT = Path(__file__).resolve().parents[2]
TOPIC = "second_order"
CLAIMS = load_claims(TOPIC)
RESULTS = read_results("cpu")


def finished_pages():
    """The pages of the table of contents, below book/."""
    contents = yaml.safe_load((PROJECT / "_toc.yml").read_text(encoding="utf-8"))
    waiting, files = [contents], [contents["root"]]
    while waiting:
        entry = waiting.pop()
        if "file" in entry:
            files.append(entry["file"])
        for name in ("parts", "chapters", "sections"):
            waiting.extend(entry.get(name, []))
    return {name.removeprefix("book/") for name in files}


FINISHED = [statement for statement in statements().values() if statement.page in finished_pages()]


def test_the_three_questions_are_claims_throughout():
    assert [name for name in statements() if re.match(r"second_order\.[123]\.", name)] == sorted(CLAIMS)


@pytest.mark.parametrize("statement", FINISHED, ids=lambda statement: statement.id)
def test_a_finished_page_answers_its_statements(statement):
    if statement.kind == "claim":
        found = [device for device in DEVICES if statement.id in load_claims(statement.topic, device)]
        assert found, f"{statement.id} is on a finished page but is no claim"
        held = rf"^(```+|:::+)\{{claim\}} {re.escape(statement.id)}\s*$"
    else:
        held = rf"^\({re.escape(statement.anchor)}\)=\s*$"
    page = (PROJECT / "book" / f"{statement.page}.md").read_text(encoding="utf-8")
    assert len(re.findall(held, page, flags=re.MULTILINE)) == 1, f"{statement.page}.md must show {statement.id} once"


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_each_claim_is_measured_and_its_code_can_be_found(claim):
    assert claim.id in RESULTS, f"{claim.id} is not measured: python -m book.claims.measure"
    assert any(label.startswith("book.claims") for label in used_code(claim.measure))


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_contrary_values_turn_the_verdict(claim):
    values = RESULTS[claim.id].values
    verdict = claim.verdict(values)
    assert verdict.kind in KINDS
    for contrary in claim.contrary:
        assert set(contrary) <= set(values), "contrary values must be values that are measured"
        turned = claim.verdict({**values, **contrary})
        assert turned.kind != verdict.kind, contrary
        assert turned.sentence != verdict.sentence, "the sentence must show the value that turned the verdict"


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_the_sentence_is_built_from_the_values(claim):
    sentence = claim.verdict(RESULTS[claim.id].values).sentence
    assert sentence.endswith(".") and len(sentence) < 700
    assert not re.search(r"nan|inf\b|e[+-]\d\d|\d{12}|tensor\(", sentence), sentence


def test_no_claim_is_heavy_and_all_are_measured_within_four_minutes():
    assert sum(RESULTS[name].seconds for name in CLAIMS) < 240
    assert all(claim.cost == "light" for claim in CLAIMS.values())


def test_the_store_names_no_machine():
    assert {result.device for result in RESULTS.values()} == {"CPU, 1 thread"}
