"""The claims about GPUs, run at a small size on the CPU."""

import re

import pytest

from book.claims import KINDS, load_claims, read_results, statements
from book.claims.checkpointing.gpu_runs import TOO_LARGE
from book.claims.claim import CONDITIONAL, checked_values
from book.claims.code import used_code

TOPICS = dict.fromkeys(statement.topic for statement in statements().values())
CLAIMS = {name: claim for topic in TOPICS for name, claim in load_claims(topic, "cuda").items()}


@pytest.fixture(scope="module")
def small_values():
    """The values of the small runs, each measured once."""
    found = {}

    def values(claim):
        if claim.id not in found:
            found[claim.id] = checked_values(claim.id, claim.small(0))
        return found[claim.id]

    return values


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_the_measurement_runs_and_is_judged(claim, small_values):
    assert claim.id in statements()
    verdict = claim.verdict(small_values(claim))
    assert verdict.kind in KINDS
    assert verdict.sentence.endswith(".") and len(verdict.sentence) < 700
    assert not re.search(r"nan|inf\b|e[+-]\d\d|\d{12}|tensor\(", verdict.sentence), verdict.sentence


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_other_values_turn_the_verdict(claim, small_values):
    values = small_values(claim)
    verdicts = []
    for contrary in claim.contrary:
        assert set(contrary) <= set(values), "contrary values must be values that are measured"
        verdicts.append(claim.verdict({**values, **contrary}))
    assert len({verdict.kind for verdict in verdicts}) == len(verdicts), "each must give a verdict of its own"
    assert len({verdict.sentence for verdict in verdicts}) == len(verdicts)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_the_code_of_the_full_measurement_can_be_found(claim):
    assert any(label.startswith("book.claims.on_device") for label in used_code(claim.measure))


@pytest.mark.parametrize("name", ["checkpointing.1.6", "checkpointing.4.3"])
def test_the_more_blocks_are_checkpointed_the_lower_the_peak(name, small_values):
    values = small_values(CLAIMS[name])
    none, half, whole = (values[f"peak bytes, {mode} checkpointed"] for mode in ("none", "half", "all"))
    assert all(a >= b >= c and a > c for a, b, c in zip(none, half, whole, strict=True))


def test_a_batch_that_does_not_fit_leaves_a_verdict(small_values):
    for name, claim in CLAIMS.items():
        if not name.startswith("checkpointing."):
            continue
        values = small_values(claim)
        lists = {key: [TOO_LARGE] * len(found) for key, found in values.items() if "checkpointed" in key}
        assert claim.verdict({**values, **lists}).kind == CONDITIONAL


def test_half_precision_halves_the_activations_only(small_values):
    values = small_values(CLAIMS["mixed_precision.1.2"])
    assert values["bytes of the model, FP16"] == values["bytes of the model, FP32"] == 4 * values["parameters"]
    assert values["bytes of Adam's state, FP16"] == values["bytes of Adam's state, FP32"]
    assert values["bytes of activations, FP16"] < values["bytes of activations, FP32"]


@pytest.mark.gpu
def test_the_suite_stays_within_eight_minutes():
    results = read_results("cuda")
    assert set(results) == set(CLAIMS), "measure them: python -m book.claims.measure --device cuda"
    assert sum(result.seconds for result in results.values()) < 480
