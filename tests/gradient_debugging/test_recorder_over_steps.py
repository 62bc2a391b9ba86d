"""What GradientRecorder carries from step to step: history, update ratios and dead units, also through a resumption."""

import io

import numpy
import pytest
import torch
from torch import nn

from steepest.gradient_debugging import GradientRecorder
from tests.gradient_debugging.runs import mlp, regression, with_gradients

# ---- history and updates


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


def saved_and_loaded(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


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


# ---- dead units


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
