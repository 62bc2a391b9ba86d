"""Sinks: what is written can be read back, NaN and infinity too, and diagnosed offline."""

import json
import math
from unittest.mock import Mock

import pytest
import torch

from steepest.gradient_debugging import Alert, GradientRecord, JSONLSink, TensorBoardSink, TrainingMonitor, read_jsonl
from tests.gradient_debugging.runs import mlp, regression, train

NAN, INF = math.nan, math.inf
RECORD = GradientRecord(
    step=3,
    names=("a.weight", "a.bias"),
    norms=(2.0, None),
    largest=(1.5, None),
    weight_norms=(4.0, 0.0),
    update_ratios=(1e-3, INF),
    dimensions=(2, 1),
    loss=0.25,
    scale=1024.0,
    dead={"relu": 0.5},
)
ALERT = Alert("nan", "a.weight", 3, NAN, "nan in the gradients of a.weight", "skip this step")


def test_json_lines_are_json_and_come_back_whole(tmp_path):
    sink = JSONLSink(tmp_path / "run.jsonl")
    bad = GradientRecord(step=4, names=("w",), norms=(NAN,), largest=(INF,), minima=(-INF,), loss=-INF)
    sink.write(RECORD, [ALERT])
    sink.write(bad, [])
    sink.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in sink.path.read_text().splitlines()]
    assert lines[0]["total_norm"] == 2.0 and lines[1]["total_norm"] == "NaN"
    assert lines[0]["alerts"] == [
        {"kind": "nan", "subject": "a.weight", "value": "NaN", "message": ALERT.message, "remedy": ALERT.remedy}
    ]
    assert repr(read_jsonl(sink.path)) == repr([RECORD, bad])


def test_a_file_is_made_with_its_folder(tmp_path):
    JSONLSink(tmp_path / "a" / "b" / "run.jsonl").write(RECORD, [])
    assert read_jsonl(tmp_path / "a" / "b" / "run.jsonl") == [RECORD]


def test_a_sink_that_raises_leaves_no_hooks_and_the_others_closed():
    failing, other = Mock(), Mock()
    failing.close.side_effect = failing.write.side_effect = OSError("disk full")
    model = mlp(0, (20, 8, 1))
    with pytest.raises(OSError, match="disk full"), TrainingMonitor(model, sinks=[other, failing]) as monitor:
        monitor.observe()
    assert other.close.call_count == 1 and not model[1]._forward_hooks


def test_every_record_is_in_the_file_at_once(tmp_path):
    sink = JSONLSink(tmp_path / "run.jsonl")
    for step in range(3):
        sink.write(GradientRecord(step, ("w",), (1.0,)), [])
        assert len(read_jsonl(sink.path)) == step + 1


def test_a_resumed_run_goes_on_in_its_file_and_its_repeated_steps_count_once(tmp_path):
    path = tmp_path / "run.jsonl"
    for start, stop, norm in ((0, 5, 1.0), (3, 7, 2.0)):
        sink = JSONLSink(path)
        for step in range(start, stop):
            sink.write(GradientRecord(step, ("w",), (norm,)), [])
    assert [(record.step, record.norms[0]) for record in read_jsonl(path)] == [
        (0, 1.0),
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
        (4, 2.0),
        (5, 2.0),
        (6, 2.0),
    ]


def test_a_last_line_cut_short_is_left_out_and_another_is_an_error(tmp_path):
    path = tmp_path / "run.jsonl"
    sink = JSONLSink(path)
    sink.write(GradientRecord(0, ("w",), (1.0,)), [])
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    assert len(read_jsonl(path)) == 1
    path.write_text(whole[:20] + "\n" + whole)
    with pytest.raises(ValueError, match=r"run\.jsonl, line 1: not JSON"):
        read_jsonl(path)


def test_a_run_goes_on_after_a_crash_cut_its_last_line_short(tmp_path):
    path = tmp_path / "run.jsonl"
    JSONLSink(path).write(GradientRecord(step=1, names=("w",), norms=(1.0,)), [])
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    sink = JSONLSink(path)
    assert path.read_text() == whole
    sink.write(GradientRecord(step=2, names=("w",), norms=(2.0,)), [])
    assert [record.step for record in read_jsonl(path)] == [1, 2]


def test_tensorboard_gets_a_curve_a_layer_and_no_missing_values():
    writer = Mock()
    sink = TensorBoardSink(writer)
    sink.write(RECORD, [ALERT])
    sink.close()
    scalars = {tag: (value, step) for tag, value, step in (call.args for call in writer.add_scalar.call_args_list)}
    assert scalars == {
        "loss": (0.25, 3),
        "loss_scale": (1024.0, 3),
        "gradient/total_norm": (2.0, 3),
        "gradient_norm/a.weight": (2.0, 3),
        "weight_norm/a.weight": (4.0, 3),
        "weight_norm/a.bias": (0.0, 3),
        "update_ratio/a.weight": (1e-3, 3),
        "update_ratio/a.bias": (INF, 3),
        "dead_units/relu": (0.5, 3),
    }
    writer.add_text.assert_called_once_with("alert/nan", f"{ALERT.message}. Remedy: {ALERT.remedy}", 3)
    writer.flush.assert_called_once_with()


def test_a_writer_must_be_one():
    with pytest.raises(TypeError, match=r"writer must have add_scalar\(\), got str; pass a SummaryWriter"):
        TensorBoardSink("runs/1")


def test_a_real_summary_writer_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        sink = TensorBoardSink(writer)
        sink.write(RECORD, [ALERT])
        sink.write(GradientRecord(4, ("a.weight",), (NAN,)), [])
        sink.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    first, second = events.Scalars("gradient_norm/a.weight")
    assert (first.step, first.value, second.step) == (3, 2.0, 4) and math.isnan(second.value)
    assert "alert/nan/text_summary" in events.Tags()["tensors"]


def test_a_monitor_writes_every_record_to_every_sink(tmp_path):
    writer = Mock()
    model = mlp(0, (20, 8, 1))
    sinks = [JSONLSink(tmp_path / "run.jsonl"), TensorBoardSink(writer)]
    with TrainingMonitor(model, every=2, sinks=sinks) as monitor:
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        train(model, regression(0), lambda a, b: (a - b).square().mean(), optimizer, 5, monitor.observe)
    assert read_jsonl(tmp_path / "run.jsonl") == list(monitor.history)
    assert {call.args[2] for call in writer.add_scalar.call_args_list} == {0, 2, 4}
    writer.flush.assert_called_once_with()
