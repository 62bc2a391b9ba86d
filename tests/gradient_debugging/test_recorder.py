"""GradientRecorder against slow loops in float64: what it records, what it costs the host, what it leaves alone."""

import gc
import io
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
from tests.gradient_debugging.runs import mlp, regression
from tests.host_reads import host_reads


def with_gradients(*gradients, dtype=torch.float32):
    """Return a module whose parameters p0, p1, ... have the given gradients, and weights 1, 2, 3, ..."""
    model = nn.Module()
    for i, gradient in enumerate(gradients):
        if gradient is None:
            model.register_parameter(f"p{i}", nn.Parameter(torch.ones(2, dtype=dtype)))
            continue
        gradient = torch.as_tensor(gradient, dtype=dtype)
        weight = torch.arange(1, gradient.numel() + 1).reshape(gradient.shape).to(dtype)
        model.register_parameter(f"p{i}", nn.Parameter(weight))
        model.get_parameter(f"p{i}").grad = gradient
    return model


def saved_and_loaded(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


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


def test_history_is_bounded_and_keeps_the_last():
    recorder = GradientRecorder(with_gradients([1.0]), every=2, history_size=3)
    for _ in range(20):
        recorder.observe()
    assert [record.step for record in recorder.history] == [14, 16, 18]


@pytest.mark.parametrize("every", [1, 2])
def test_update_ratio_is_what_the_optimizer_did(every):
    model = mlp(1, (20, 8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    recorder = GradientRecorder(model, every, track_updates=True)
    ratios = []
    for _, (x, y) in zip(range(7), regression(1), strict=False):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        recorder.observe()
        before = [p.detach().double().clone() for p in model.parameters()]
        optimizer.step()
        recorder.after_step()
        after = [p.detach().double() for p in model.parameters()]
        pairs = zip(before, after, strict=True)
        # Biases start at 0, beside which any update is infinite.
        ratios.append([((b - a).norm() / a.norm()).item() for a, b in pairs])
    assert recorder.history[0].update_ratios is None
    for before, record in zip(recorder.history, list(recorder.history)[1:], strict=False):
        numpy.testing.assert_allclose(record.update_ratios, ratios[before.step], rtol=1e-4)


def test_a_step_without_after_step_has_no_ratio():
    model = with_gradients([[1.0]])
    recorder = GradientRecorder(model, track_updates=True)
    recorder.observe()
    recorder.after_step()
    recorder.after_step()
    assert recorder.observe().update_ratios == (0.0,)
    assert recorder.observe().update_ratios is None


def test_after_step_needs_track_updates():
    with pytest.raises(RuntimeError, match="track_updates=True"):
        GradientRecorder(nn.Linear(1, 1)).after_step()


class Fixed(nn.Module):
    """A ReLU fed with what it is given, so that the dead units are known."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.relu(x * self.weight)


def dead_after(recorder, model, *batches):
    for batch in batches:
        model(batch).sum().backward()
    return recorder.observe().dead["relu"]


def test_a_unit_is_dead_after_so_many_records_of_silence():
    model = Fixed()
    recorder = GradientRecorder(model, dead_after=3)
    mixed = torch.tensor([[1.0, -1.0, -1.0, -1.0], [-1.0, 2.0, -1.0, -1.0]])
    shares = [dead_after(recorder, model, mixed) for _ in range(4)]
    assert shares == [0.0, 0.0, 0.5, 0.5]
    # One sample that fires brings a unit back, and it dies anew after three records.
    back = torch.tensor([[-1.0, -1.0, 3.0, -1.0]])
    assert dead_after(recorder, model, back, mixed) == 0.25
    assert [dead_after(recorder, model, mixed) for _ in range(3)] == [0.25, 0.25, 0.5]


@pytest.mark.parametrize(("shape", "silent"), [((2, 3, 4), 0.5), ((2, 4, 3, 3), 0.5), ((4,), 0.5)])
def test_units_are_the_last_dimension_or_the_channels(shape, silent):
    model, x = Fixed(), torch.full(shape, -1.0)
    channels = x.movedim(1, -1) if len(shape) == 4 else x
    channels[..., :2] = 1.0
    recorder = GradientRecorder(model, dead_after=1)
    assert dead_after(recorder, model, x) == silent


def test_only_training_forwards_of_recorded_steps_count():
    model, silent, fires = Fixed(), torch.full((1, 2), -1.0), torch.ones(1, 2)
    recorder = GradientRecorder(model, every=2, dead_after=2)
    assert dead_after(recorder, model, silent) == 0.0
    model(fires).sum().backward()
    recorder.observe()
    model.eval()
    model(fires)
    model.train()
    with torch.no_grad():
        model(fires)
    assert dead_after(recorder, model, silent) == 1.0


def test_units_may_change_in_number_between_forwards_and_within_a_step():
    model = Fixed()
    recorder = GradientRecorder(model, dead_after=2)
    silent = [torch.full((2, size), -1.0) for size in (3, 4)]
    assert [dead_after(recorder, model, silent[i]) for i in (0, 1, 1, 0, 0)] == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert dead_after(recorder, model, silent[1], torch.ones(2, 3)) == 0.0


def test_a_batch_without_samples_is_no_silence():
    model = Fixed()
    recorder = GradientRecorder(model, dead_after=2)
    silent, empty = torch.full((2, 3), -1.0), torch.empty(0, 3)
    assert [dead_after(recorder, model, x) for x in (silent, empty, empty, silent)] == [0.0, 0.0, 0.0, 1.0]


def test_close_removes_the_hooks():
    model = Fixed()
    with GradientRecorder(model) as recorder:
        assert len(model.relu._forward_hooks) == 1
    assert len(model.relu._forward_hooks) == 0
    model(torch.ones(1, 2)).sum().backward()
    assert recorder.observe().dead == {}
    assert GradientRecorder(model, activations=()).observe().dead == {}


def test_checkpointed_activations_are_seen():
    model = Fixed()
    recorder = GradientRecorder(model, dead_after=1)
    x = torch.tensor([[1.0, -1.0]])
    torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False).sum().backward()
    assert recorder.observe().dead == {"relu": 0.5}


@pytest.mark.parametrize("every", [1, 2])
def test_a_compiled_model_is_recorded_and_compiled_once(every):
    model = mlp(0, (20, 8, 1))
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    recorder = GradientRecorder(model, every, dead_after=1)
    for step, (x, _) in zip(range(12), regression(0), strict=False):
        compiled(x).square().mean().backward()
        record = recorder.observe()
        if step % every == 0:
            assert record.total_norm > 0 and set(record.dead) == {"1"}
        if step == 0:
            first = len(graphs)
    assert len(graphs) == first


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped():
    def run(steps, recorder, model, optimizer, batches):
        for _, (x, y) in zip(range(steps), batches, strict=False):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            recorder.observe(loss)
            optimizer.step()
            recorder.after_step()

    def fresh():
        model = mlp(2, (20, 16, 1))
        recorder = GradientRecorder(model, 2, 4, entries=True, track_updates=True, dead_after=2)
        return recorder, model, torch.optim.SGD(model.parameters(), lr=0.1)

    whole = fresh()
    run(13, *whole, regression(2))
    batches, first = regression(2), fresh()
    run(7, *first, batches)
    state, weights = saved_and_loaded(first[0].state_dict()), saved_and_loaded(first[1].state_dict())
    second = fresh()
    second[1].load_state_dict(weights)
    second[0].load_state_dict(state)
    run(6, *second, batches)
    assert second[0].step == whole[0].step
    assert list(second[0].history) == list(whole[0].history)
    assert second[0].history[-1].update_ratios is not None


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
