"""GradientRecorder against slow loops in float64: what it records, what it costs the host, what it leaves alone."""

import gc
import math
import warnings
import weakref

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steepest.gradient_debugging import GradientRecord, GradientRecorder
from tests.gradient_debugging.runs import mlp, regression, with_gradients
from tests.host_reads import host_reads


def slow_statistics(gradient):
    """The entries one by one, in Python's floats."""
    entries = [float(entry) for entry in gradient.reshape(-1)]
    return (
        sum(entry**2 for entry in entries) ** 0.5,
        max(abs(entry) for entry in entries),
        max(entries),
        min(entries),
        sum(entries) / len(entries),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_statistics_are_those_of_a_slow_loop(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,), (), (2, 1, 3)]
    gradients = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    model = with_gradients(*gradients, dtype=dtype)
    model.p0.grad = gradients[0].T.contiguous().T
    record = GradientRecorder(model, entries=True).observe()
    assert record.names == ("p0", "p1", "p2", "p3") and record.dimensions == (2, 1, 0, 3)
    columns = (record.norms, record.largest, record.maxima, record.minima, record.means)
    for i, gradient in enumerate(gradients):
        numpy.testing.assert_allclose(
            [column[i] for column in columns], slow_statistics(gradient), rtol=2e-6, atol=1e-7
        )
        weights = model.get_parameter(f"p{i}").detach().double()
        numpy.testing.assert_allclose(record.weight_norms[i], weights.norm().item(), rtol=1e-6)
    total = sum(slow_statistics(gradient)[0] ** 2 for gradient in gradients) ** 0.5
    numpy.testing.assert_allclose(record.total_norm, total, rtol=1e-6)
    assert record.nan_counts == record.inf_counts == (0, 0, 0, 0)


def test_dtypes_may_differ_between_parameters():
    model = with_gradients([3.0, 4.0], [6.0, 8.0], [1.0])
    model.p1.data, model.p1.grad = model.p1.data.double(), None
    model.p1.grad = torch.tensor([6.0, 8.0], dtype=torch.float64)
    model.p2.data, model.p2.grad = model.p2.data.bfloat16(), None
    model.p2.grad = torch.tensor([1.0], dtype=torch.bfloat16)
    assert GradientRecorder(model).observe().norms == (5.0, 10.0, 1.0)


def test_nan_infinity_and_an_overflowed_norm_are_three_things():
    nan, inf = math.nan, math.inf
    model = with_gradients([1.0, nan, nan, inf], [-inf, 2.0], [3e19, 3e19], [1.0, 2.0], None)
    record = GradientRecorder(model, entries=True).observe()
    assert record.nan_layers == ("p0",)
    assert record.inf_layers == ("p1",)
    assert record.overflowed_layers == ("p2",)
    assert record.missing == ("p4",)
    assert record.nan_counts[:4] == (2, 0, 0, 0) and record.inf_counts[:4] == (1, 1, 0, 0)
    assert math.isnan(record.maxima[0]) and record.minima[1] == -inf
    assert math.isnan(record.total_norm) and not record.finite


def test_the_total_is_nan_though_infinity_would_hide_it():
    record = GradientRecord(0, ("a", "b"), (math.inf, math.nan))
    assert math.isnan(record.total_norm)
    assert GradientRecord(0, ("a", "b"), (math.inf, 1.0)).total_norm == math.inf


def test_float16_norms_do_not_overflow_in_float16():
    model = with_gradients([60000.0, 60000.0], dtype=torch.float16)
    model.p0.data.fill_(60000.0)
    record = GradientRecorder(model).observe()
    numpy.testing.assert_allclose((record.norms[0], record.weight_norms[0]), 60000 * 2**0.5, rtol=1e-3)
    assert record.finite and not record.overflowed_layers


def test_a_model_without_gradients_parameters_or_entries():
    record = GradientRecorder(nn.Linear(2, 2), entries=True).observe()
    assert record.norms == (None, None) and record.total_norm == 0 and record.missing == ("weight", "bias")
    assert record.largest is None and record.maxima is None and record.finite
    assert GradientRecorder(nn.ReLU()).observe().names == ()
    assert GradientRecorder(nn.ReLU()).observe(loss=1.5).loss == 1.5
    model = nn.Module()
    model.empty = nn.Parameter(torch.empty(0))
    assert GradientRecorder(model).observe().names == ()


def test_frozen_parameters_are_left_out_and_tied_ones_count_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    model(torch.ones(1, 2)).sum().backward()
    assert GradientRecorder(model).observe().names == ("0.weight", "1.bias")


@pytest.mark.parametrize("scaled", [False, True])
def test_the_host_waits_once_a_recorded_step_and_never_else(scaled):
    model = mlp(0, (20, 16, 16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0) if scaled else None
    recorder = GradientRecorder(model, every=3, entries=True, track_updates=True, dead_after=1)
    batches = regression(0)
    for step in range(7):
        x, y = next(batches)
        optimizer.zero_grad()
        with host_reads() as reads:
            loss = (model(x) - y).square().mean()
        assert reads == []
        if scaled:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
        else:
            loss.backward()
        with host_reads() as reads:
            record = recorder.observe(loss, scaler)
        assert reads == (["Tensor.tolist"] if step % 3 == 0 else [])
        assert (record is not None) == (step % 3 == 0)
        optimizer.step()
        with host_reads() as reads:
            recorder.after_step()
        assert reads == []
        if scaled:
            scaler.update()
    assert [record.step for record in recorder.history] == [0, 3, 6]
    assert recorder.history[-1].loss == pytest.approx(loss.item(), rel=1e-12)
    assert recorder.history[-1].scale == (4.0 if scaled else None)
    assert set(recorder.history[-1].dead) == {"1", "3"}


def test_a_disabled_scaler_is_none():
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert GradientRecorder(with_gradients([1.0])).observe(scaler=scaler).scale is None


def test_own_scaler_gives_its_scale_too():
    mixed_precision = pytest.importorskip("steepest.mixed_precision")
    scaler = mixed_precision.DynamicLossScaler(init_scale=512.0)
    assert GradientRecorder(with_gradients([1.0])).observe(scaler=scaler).scale == 512.0


def test_recording_leaves_the_training_alone():
    def trained(watch):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        recorder = GradientRecorder(model, entries=True, track_updates=True) if watch else None
        for _, (x, y) in zip(range(5), regression(0), strict=False):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            before = [p.grad.clone() for p in model.parameters()]
            if watch:
                recorder.observe(loss)
            assert all(map(torch.equal, before, [p.grad for p in model.parameters()]))
            optimizer.step()
            if watch:
                recorder.after_step()
        return list(model.parameters())

    assert all(map(torch.equal, trained(False), trained(True)))


def test_no_graph_and_no_activation_is_kept_alive():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    recorder = GradientRecorder(model, track_updates=True)
    hidden = model(torch.ones(1, 2))
    loss = hidden.sum()
    # backward(retain_graph=True) leaves the graph to whoever holds the loss.
    loss.backward(retain_graph=True)
    recorder.observe(loss)
    alive = weakref.ref(hidden), weakref.ref(loss)
    del hidden, loss
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


number = st.one_of(st.none(), st.floats())


@given(st.lists(number, min_size=1, max_size=4), st.one_of(st.none(), st.floats()))
def test_a_record_survives_its_dict(norms, loss):
    names = tuple(f"p{i}" for i in range(len(norms)))
    record = GradientRecord(3, names, tuple(norms), largest=tuple(norms), loss=loss, dead={"a": 0.5})
    assert repr(GradientRecord.from_dict(record.as_dict() | {"unknown": 1})) == repr(record)


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        GradientRecorder([])
    with pytest.raises(ValueError, match="every must be >= 1, got 0"):
        GradientRecorder(nn.Linear(1, 1), every=0)
    with pytest.raises(TypeError, match="history_size must be a Python int, got float"):
        GradientRecorder(nn.Linear(1, 1), history_size=2.0)
    with pytest.raises(ValueError, match="after must be >= 1, got 0"):
        GradientRecorder(nn.Linear(1, 1), dead_after=0)
    recorder = GradientRecorder(nn.Linear(1, 1), every=2)
    for _ in range(2):
        with pytest.raises(TypeError, match="loss must be a tensor or a number, got str"):
            recorder.observe("1.0")
        with pytest.raises(ValueError, match=r"loss must have one element, got shape \(2,\)"):
            recorder.observe(torch.ones(2))
    assert recorder.step == 0


def test_sparse_and_complex_gradients_are_refused_by_name():
    model = nn.Embedding(3, 2, sparse=True)
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="the gradient of weight must be dense"):
        GradientRecorder(model).observe()
    model = with_gradients([1.0], dtype=torch.complex64)
    with pytest.raises(TypeError, match="the gradient of p0 must have a real floating dtype"):
        GradientRecorder(model).observe()


@pytest.mark.gpu
def test_on_cuda_the_host_waits_once():
    model = mlp(0, (20, 16, 1)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    recorder = GradientRecorder(model, every=2, entries=True, track_updates=True)
    x, y = (part.cuda() for part in next(regression(0)))
    for step in range(4):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as waits:
                warnings.simplefilter("always")
                recorder.observe(loss, scaler)
                optimizer.step()
                recorder.after_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len([wait for wait in waits if "synchron" in str(wait.message)]) == (step % 2 == 0)
        scaler.update()
    assert recorder.history[-1].norms[0] == pytest.approx(model[0].weight.grad.norm().item(), rel=1e-5)
