"""Claims: the record, the inventory, the store, and the command that measures."""

import json
from dataclasses import replace

import pytest
import torch
import yaml

from book.claims import measure as measuring
from book.claims import store
from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Verdict, checked_values, registry
from book.claims.statements import STATEMENTS_FILE, Statement, parse, statements


def fake_measure(seed):
    return {"slope": 2.0 + seed, "threads": torch.get_num_threads()}


def fake_verdict(values):
    return Verdict(HOLDS if values["slope"] > 1.5 else FAILS, f"The slope is {values['slope']}.")


def make(name="second_order.1.1", **changes):
    return replace(Claim(name, fake_measure, fake_verdict, ({"slope": 1.0},)), **changes)


@pytest.fixture(autouse=True)
def importable_functions(monkeypatch):
    """The functions above are no part of the project: give them a hash that a test can change."""
    hashes = {}
    for module in (store, measuring):
        monkeypatch.setattr(module, "code_hash", lambda function: hashes.get(function, "one"))
    return hashes


def result(code="one", **values):
    return store.Result(values or {"slope": 2.0}, code, {"torch": "2"}, "2026-01-02", "CPU, 1 thread", 0.1)


# The record


def test_a_verdict_is_one_of_three_kinds():
    with pytest.raises(ValueError, match="holds with conditions"):
        Verdict("probably", "…")
    assert {HOLDS, CONDITIONAL, FAILS} == {"holds", "holds with conditions", "does not hold"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "tpu"}, "device"),
        ({"cost": "free"}, "cost"),
        ({"contrary": ()}, "contrary"),
        ({"device": "cuda"}, "give small"),
    ],
)
def test_a_claim_that_is_declared_wrongly_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=rf"claim second_order\.1\.1.*{message}"):
        make(**change)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), torch.ones(2), None, [1.0, float("nan")], list(range(21))]
)
def test_values_that_a_reader_cannot_take_in_are_refused_by_name(value):
    with pytest.raises(ValueError, match="claim t, value 'x'"):
        checked_values("t", {"x": value})


def test_values_keep_integers_exactly_and_floats_at_six_digits():
    values = {"n": 30625 * 10**18 + 1, "x": 1.23456789e-20, "names": ["a", 2, 0.1234567]}
    assert checked_values("t", values) == {"n": 30625 * 10**18 + 1, "x": 1.23457e-20, "names": ["a", 2, 0.123457]}


def test_a_registry_refuses_doubles_and_strangers():
    assert list(registry("second_order", [make(), make("second_order.1.2")])) == [
        "second_order.1.1",
        "second_order.1.2",
    ]
    with pytest.raises(ValueError, match=r"two claims.*second_order\.1\.1"):
        registry("second_order", [make(), make()])
    with pytest.raises(ValueError, match="does not belong"):
        registry("checkpointing", [make()])


# The inventory


def test_the_inventory_is_numbered_without_gaps_and_without_doubles():
    found = statements()
    entries = yaml.safe_load(STATEMENTS_FILE.read_text(encoding="utf-8"))
    expected = [
        f"{topic}.{question}.{number}"
        for topic, questions in entries.items()
        for question, listed in enumerate(questions.values(), 1)
        for number in range(1, len(listed) + 1)
    ]
    assert list(found) == expected
    slugs = [slug for questions in entries.values() for slug in questions]
    assert len(slugs) == len(set(slugs)) == 28
    assert len(found) == 206
    assert len({statement.text for statement in found.values()}) == len(found)
    assert all(statement.text.endswith(".") for statement in found.values())


def entry(**changes):
    return {"topic": {"slug": [{"id": "topic.1.1", "kind": "claim", "statement": "So.", **changes}]}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"id": "other.1.1"}, "other.1.1"), ({"id": "topic.1"}, "topic.1"), ({"kind": "guess"}, "guess")],
)
def test_a_malformed_inventory_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        parse(entry(**changes))


def test_an_inventory_with_a_double_is_refused():
    doubled = entry()
    doubled["topic"]["slug"] *= 2
    with pytest.raises(ValueError, match=r"two statements.*topic\.1\.1"):
        parse(doubled)


def test_a_statement_knows_its_page_and_anchor():
    statement = Statement("mixed_precision.2.4", "…", "fp16_vs_bf16", "definition")
    assert (statement.page, statement.anchor) == ("mixed_precision/fp16_vs_bf16", "definition-mixed-precision-2-4")


# The store


def test_the_store_gives_back_what_was_written_sorted_and_stable(tmp_path):
    results = {"b.1.1": result(), "a.1.1": result(x=[1, 2.5, "é"], big=10**22)}
    store.write_results("cpu", results, tmp_path)
    text = (tmp_path / "cpu.json").read_text(encoding="utf-8")
    assert store.read_results("cpu", tmp_path) == results
    assert list(json.loads(text)) == ["a.1.1", "b.1.1"] and "é" in text
    store.write_results("cpu", dict(reversed(results.items())), tmp_path)
    assert (tmp_path / "cpu.json").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["cpu.json"]


def test_a_failed_write_leaves_the_old_store(tmp_path):
    store.write_results("cpu", {"a.1.1": result()}, tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_results("cpu", {"a.1.1": result(x=float("nan"))}, tmp_path)
    assert store.read_results("cpu", tmp_path) == {"a.1.1": result()}


@pytest.mark.parametrize("text", ["{", "[]", '{"a.1.1": {"values": {}}}', '{"a.1.1": 3}'])
def test_a_damaged_store_is_named(tmp_path, text):
    (tmp_path / "cpu.json").write_text(text)
    with pytest.raises(ValueError, match=r"cpu\.json"):
        store.read_results("cpu", tmp_path)


def test_nothing_measured_is_an_empty_store(tmp_path):
    assert store.read_results("cuda", tmp_path) == {}


def test_a_result_is_stale_when_missing_or_made_by_other_code(importable_functions):
    assert store.is_stale(make(), None)
    assert not store.is_stale(make(), result())
    importable_functions[fake_measure] = "two"
    assert store.is_stale(make(), result())


# The command


def test_measuring_records_values_versions_date_and_device_on_one_thread():
    before = torch.get_num_threads()
    found = measuring.measured(make(), seed=3)
    assert found.values == {"slope": 5.0, "threads": 1}
    assert set(found.versions) == {"python", "torch", "numpy", "scipy", "scikit-learn"}
    assert found.device == "CPU, 1 thread" and found.seconds >= 0 and len(found.date) == 10
    assert torch.get_num_threads() == before


def test_selection_by_name_staleness_and_sample():
    claims = {name: make(name) for name in ("t.1.1", "t.1.2", "t.1.3", "t.1.4")}
    results = {"t.1.1": result(), "t.1.2": result("older"), "t.1.3": result()}

    def chosen(**how):
        return [claim.id for claim in measuring.select(claims, results, **how)]

    assert chosen() == list(claims)
    assert chosen(stale=True) == ["t.1.2", "t.1.4"]
    assert chosen(only=["t.1.3", "t.1.2"]) == ["t.1.3", "t.1.2"]
    assert chosen(only=["t.1.3", "t.1.2"], stale=True) == ["t.1.2"]
    assert len(chosen(sample=2, seed=1)) == 2 and chosen(sample=2, seed=1) == chosen(sample=2, seed=1)
    assert len({tuple(chosen(sample=2, seed=seed)) for seed in range(20)}) > 1
    assert len(chosen(sample=99)) == 4


def test_the_command_measures_what_is_stale_and_drops_what_is_gone(tmp_path, monkeypatch, importable_functions, capsys):
    monkeypatch.setattr(store, "MEASUREMENTS", tmp_path)
    claims = {name: make(name) for name in ("second_order.1.1", "second_order.1.2")}
    monkeypatch.setattr(measuring, "load_claims", lambda topic, device: claims if topic == "second_order" else {})
    store.write_results("cpu", {"second_order.1.2": result(slope=1.8), "second_order.9.9": result()})
    assert measuring.main([]) == 0
    found = store.read_results("cpu")
    assert set(found) == set(claims)
    assert found["second_order.1.2"].values == {"slope": 1.8}
    assert "[1/1] second_order.1.1" in capsys.readouterr().out
    importable_functions[fake_measure] = "two"
    assert measuring.main(["--stale"]) == 0
    assert {stored.code for stored in store.read_results("cpu").values()} == {"two"}


def test_the_check_compares_verdicts_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "MEASUREMENTS", tmp_path)
    claims = {name: make(name) for name in ("second_order.1.1", "second_order.1.2")}
    monkeypatch.setattr(measuring, "load_claims", lambda topic, device: claims if topic == "second_order" else {})
    # Another value with the same verdict passes, a value with another verdict and a missing result do not.
    store.write_results("cpu", {"second_order.1.1": result(slope=1.7)})
    text = (tmp_path / "cpu.json").read_text()
    assert measuring.main(["--check", "--only", "second_order.1.1"]) == 0
    assert measuring.main(["--check", "--sample", "2", "--seed", "5"]) == 1
    assert "second_order.1.2" in capsys.readouterr().err
    store.write_results("cpu", {name: result(slope=1.0) for name in claims})
    assert measuring.main(["--check", "--sample", "1"]) == 1
    store.write_results("cpu", {"second_order.1.1": result(slope=1.7)})
    assert (tmp_path / "cpu.json").read_text() == text


@pytest.mark.parametrize(("disturbed", "accepted"), [(1, True), (2, True), (3, False)])
def test_the_check_forgives_a_disturbed_timing_but_no_turned_verdict(disturbed, accepted):
    slopes = iter([1.0] * disturbed + [2.0] * 3)
    claim = replace(make("second_order.1.1"), measure=lambda seed: {"slope": next(slopes)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "code_hash", lambda function: "hash")
        different = measuring.check([claim], {claim.id: result(slope=2.0)}, say=lambda line: None)
    assert different == ([] if accepted else [claim.id])


def test_each_device_has_its_own_claims_and_store(tmp_path, monkeypatch, importable_functions, capsys):
    monkeypatch.setattr(store, "MEASUREMENTS", tmp_path)
    on_gpu = {"device": "cuda", "small": fake_measure}
    claims = {
        "cpu": {name: make(name) for name in ("second_order.1.1", "second_order.1.2")},
        "cuda": {name: make(name, **on_gpu) for name in ("second_order.1.2", "second_order.1.3")},
    }
    monkeypatch.setattr(
        measuring, "load_claims", lambda topic, device: claims[device] if topic == "second_order" else {}
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    assert measuring.main(["--only", "second_order.1.3"]) == 0
    assert list(store.read_results("cuda")) == ["second_order.1.3"] and store.read_results("cpu") == {}
    assert measuring.main([]) == 0
    assert set(store.read_results("cpu")) == set(claims["cpu"])
    assert {found.device for found in store.read_results("cuda").values()} == {"A GPU"}
    with pytest.raises(SystemExit):
        measuring.main(["--only", "second_order.9.9"])
    assert "no claim on this device is called second_order.9.9" in capsys.readouterr().err


def test_a_claim_that_fails_is_named_and_the_others_are_measured(tmp_path, monkeypatch, importable_functions, capsys):
    monkeypatch.setattr(store, "MEASUREMENTS", tmp_path)

    def out_of_memory(seed):
        raise RuntimeError("out of memory")

    first = replace(make("second_order.1.1"), measure=out_of_memory)
    claims = {first.id: first, "second_order.1.2": make("second_order.1.2")}
    monkeypatch.setattr(measuring, "load_claims", lambda topic, device: claims if topic == "second_order" else {})
    importable_functions[out_of_memory] = "three"
    assert measuring.main(["--device", "cpu"]) == 1
    assert list(store.read_results("cpu")) == ["second_order.1.2"]
    printed = capsys.readouterr().err
    assert "RuntimeError: out of memory" in printed and "Not measured (cpu): second_order.1.1" in printed


def test_without_a_gpu_the_command_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measuring.main(["--device", "cuda"]) == 2
    assert "No CUDA device" in capsys.readouterr().err
