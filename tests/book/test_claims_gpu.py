"""The claims about GPUs, run at a small size on the CPU."""

import itertools
import re

import pytest
import torch

from book.claims import KINDS, load_claims, on_device, read_results, statements
from book.claims.checkpointing import gpu_runs
from book.claims.checkpointing.gpu_runs import MODES, TOO_LARGE
from book.claims.checkpointing.networks import Encoder
from book.claims.claim import CONDITIONAL, checked_values
from book.claims.code import used_code
from book.claims.mixed_precision import gpu_numerics
from book.claims.mixed_precision.gpu_memory import largest_batch
from steepest.mixed_precision import AutocastReport, AutocastRow

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


@pytest.mark.parametrize("name", [name for name in CLAIMS if name.startswith("checkpointing.")])
def test_batches_that_do_not_fit_leave_a_verdict(name, small_values):
    claim = CLAIMS[name]
    values = small_values(claim)
    for fits in itertools.product([True, False], repeat=2 * len(MODES)):
        fitting = {mode: fits[2 * place : 2 * place + 2] for place, mode in enumerate(MODES)}
        lists = {}
        for key, found in values.items():
            for mode in MODES:
                if f"{mode} checkpointed" in key:
                    needed = [mode, "none"] if "over no" in key else [mode]
                    lists[key] = [
                        entry if all(fitting[one][place] for one in needed) else TOO_LARGE
                        for place, entry in enumerate(found)
                    ]
        verdict = claim.verdict({**values, **lists})
        assert verdict.sentence.endswith(".") and (any(fits) or verdict.kind == CONDITIONAL)


def test_running_out_of_memory_costs_one_entry(monkeypatch):
    real = gpu_runs.training_step

    def limited(model, batch, checkpointed, optimizer):
        step = real(model, batch, checkpointed, optimizer)

        def run():
            if checkpointed < 4 and len(batch[0]) > 2:
                raise torch.cuda.OutOfMemoryError
            step()

        return run

    monkeypatch.setattr(gpu_runs, "training_step", limited)
    values = gpu_runs.account.__wrapped__(Encoder(4, 8, 2, 4, 10), (2, 4), "cpu", 1, 0)
    for key, found in values.items():
        if "checkpointed" in key:
            whole = key.endswith("all checkpointed") and "over no" not in key
            assert (found[1] != TOO_LARGE) == whole and found[0] != TOO_LARGE, key
    assert gpu_runs.largest_comparable(values) == 0


@pytest.mark.parametrize("limit", [3, 6, 100])
def test_the_largest_batch_counts_the_second_step_and_ends_where_memory_does(limit):
    def step_at(size):
        kept = []

        def step():
            if size > limit:
                raise torch.cuda.OutOfMemoryError
            # Like an optimizer's state: made in the first step, and there from then on.
            torch.ones(250 * size * (1 + len(kept)))
            kept.append(size)

        return step

    assert largest_batch(step_at, 10_000, "cpu") == min(limit, 5)
    assert largest_batch(step_at, 100, "cpu") == 0


def test_autocasts_operators_are_read_under_the_names_that_a_gpu_gives_them(monkeypatch):
    half, single = torch.float16, torch.float32
    ran = [
        ("aten._to_copy", (single,), half),
        ("aten.convolution", (half, half, half), half),
        ("aten.cudnn_batch_norm", (half, single, single, single, single), half),
        ("aten.addmm", (half, half, half), half),
        # These two kernels read 16 bits and compute in FP32.
        ("aten._log_softmax", (half,), single),
        ("aten._softmax", (half,), single),
        ("aten.nll_loss_forward", (single,), single),
        ("aten.native_layer_norm", (single, single, single), single),
        ("aten.ones", (), single),
    ]
    rows = [AutocastRow("forward", "", *row, 1) for row in ran]
    monkeypatch.setattr(gpu_numerics, "autocast_report", lambda *args, **kwargs: AutocastReport(rows))
    values = checked_values("here", gpu_numerics.observe_autocast("cpu", half, 0))
    assert {key: value for key, value in values.items() if key.startswith("dtype")} == {
        "dtype of convolution": "float16",
        "dtype of matrix product": "float16",
        "dtype of batch norm": "float16",
        "dtype of softmax": "float32",
        "dtype of loss": "float32",
        "dtype of layer norm": "float32",
    }
    assert "cudnn_batch_norm: float16, float32 to float16" in values["operators"]
    rows[2] = AutocastRow("forward", "", "aten.new_batch_norm", (half,), half, 1)
    with pytest.raises(RuntimeError, match=r"unknown names: .*new_batch_norm: float16 to float16"):
        gpu_numerics.observe_autocast("cpu", half, 0)


def test_a_peak_on_a_gpu_is_that_of_the_work_alone(monkeypatch):
    calls = []
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: calls.append(name))
    monkeypatch.setattr(on_device.gc, "collect", lambda: calls.append("collect"))
    on_device.peak_bytes(lambda: calls.append("work"), "cuda")
    before, after = calls[: calls.index("work")], calls[calls.index("work") + 1 :]
    assert before == ["synchronize", "collect", "empty_cache", "reset_peak_memory_stats"]
    assert after == ["synchronize", "max_memory_allocated"]


def test_half_precision_halves_the_activations_only(small_values):
    values = small_values(CLAIMS["mixed_precision.1.2"])
    assert values["bytes of the model, FP16"] == values["bytes of the model, FP32"] == 4 * values["parameters"]
    assert values["bytes of Adam's state, FP16"] == values["bytes of Adam's state, FP32"]
    assert values["bytes of activations, FP16"] < values["bytes of activations, FP32"]


def test_peers_that_are_not_installed_are_named_and_not_measured(monkeypatch):
    monkeypatch.setattr("book.claims.second_order.peers.installed", lambda package: package == "torch")
    claim = CLAIMS["second_order.2.6"]
    values = checked_values(claim.id, claim.small(0))
    assert len(values["peers that are not installed"]) == 4
    assert [name for name in values if name.startswith("time over")] == ["time over torch's L-BFGS"]
    assert claim.verdict(values).sentence.endswith("of torch's L-BFGS.")


@pytest.mark.gpu
def test_the_suite_stays_within_eight_minutes():
    results = read_results("cuda")
    if not results:
        pytest.skip("not measured: python -m book.claims.measure --device cuda")
    assert set(results) == set(CLAIMS)
    assert sum(result.seconds for result in results.values()) < 480
