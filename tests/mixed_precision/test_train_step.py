"""train_step_amp against the loop written out with torch's own scaler, autocast and clipping."""

import math

import pytest
import torch

from steepest.mixed_precision import DynamicLossScaler, train_step_amp
from tests.host_reads import host_reads

MSE = torch.nn.MSELoss()


def small_model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def data(samples=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 4, generator=generator), torch.randn(samples, 2, generator=generator)


def split(inputs, targets, sizes):
    return list(zip(inputs.split(sizes), targets.split(sizes), strict=True))


class Scalar(torch.nn.Module):
    """One weight whose gradient is the mean of the inputs, for losses that are the mean output."""

    def __init__(self, value=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([value]))

    def forward(self, x):
        return x * self.weight


def mean_output(output, targets):
    return output.mean()


def textbook_step(model, batches, optimizer, scaler, dtype, max_norm):
    """The loop of torch's automatic mixed precision examples, for equal micro-batches."""
    optimizer.zero_grad()
    total = 0
    for inputs, targets in batches:
        with torch.autocast("cpu", dtype=dtype):
            loss = MSE(model(inputs), targets) / len(batches)
        scaler.scale(loss).backward()
        total += loss.item()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    return total, norm


@pytest.mark.parametrize("max_norm", [0.05, 1e3])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_follows_the_textbook_loop_with_torchs_scaler(dtype, parts, max_norm):
    # The initial scale overflows float16 at first, so that skips are among the steps.
    rule = {"init_scale": 2.0**24, "growth_interval": 3}
    scalers = [DynamicLossScaler(**rule), torch.amp.GradScaler("cpu", **rule)]
    own_model, peer_model = small_model(), small_model()
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in (own_model, peer_model)]
    stepped = []
    for i in range(20):
        inputs, targets = data(seed=i)
        batches = split(inputs, targets, 12 // parts)
        own = train_step_amp(own_model, MSE, batches, optimizers[0], scalers[0], dtype=dtype, max_norm=max_norm)
        loss, norm = textbook_step(peer_model, batches, optimizers[1], scalers[1], dtype, max_norm)
        assert own.loss.item() == pytest.approx(loss, rel=1e-6)
        assert own.stepped == bool(norm.isfinite())
        torch.testing.assert_close(own.grad_norm, norm, rtol=1e-5, atol=0, equal_nan=True)
        assert scalers[0].state_dict() == scalers[1].state_dict()
        stepped.append(own.stepped)
    assert any(stepped) and all(stepped) == (dtype == torch.bfloat16)
    for own, peer in zip(own_model.parameters(), peer_model.parameters(), strict=True):
        torch.testing.assert_close(own, peer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [[12], [6, 6], [5, 5, 2], [1, 11]])
def test_ragged_micro_batches_give_the_gradient_of_the_whole(sizes):
    model, (inputs, targets) = small_model().double(), data()
    inputs, targets = inputs.double(), targets.double()
    loss = MSE(model(inputs), targets)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = train_step_amp(model, MSE, split(inputs, targets, sizes), optimizer, dtype=torch.float32)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(step.loss, loss.detach(), rtol=1e-12, atol=0)
    norm = torch.cat([gradient.flatten() for gradient in expected]).norm()
    torch.testing.assert_close(step.grad_norm, norm, rtol=1e-12, atol=0)
    assert step.stepped is True and not step.loss.requires_grad and step.loss.shape == step.grad_norm.shape == ()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_without_a_scaler_it_is_the_plain_loop(dtype):
    own_model, peer_model, (inputs, targets) = small_model(), small_model(), data()
    own_optimizer, peer_optimizer = (torch.optim.SGD(m.parameters(), lr=0.5) for m in (own_model, peer_model))
    for _ in range(5):
        train_step_amp(own_model, MSE, [(inputs, targets)], own_optimizer, dtype=dtype)
        peer_optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
            loss = MSE(peer_model(inputs), targets)
        loss.backward()
        peer_optimizer.step()
    for own, peer in zip(own_model.parameters(), peer_model.parameters(), strict=True):
        assert torch.equal(own, peer) and own.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_training_reduces_the_loss(dtype):
    model, (inputs, targets) = small_model(), data()
    optimizer, scaler = torch.optim.Adam(model.parameters(), lr=0.05), DynamicLossScaler()
    losses = [
        train_step_amp(model, MSE, split(inputs, targets, 6), optimizer, scaler, dtype=dtype, max_norm=1.0).loss.item()
        for _ in range(60)
    ]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 2.0**16), (torch.bfloat16, None)])
def test_clipping_bounds_the_true_norm(dtype, scale):
    model, (inputs, targets) = small_model(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = None if scale is None else DynamicLossScaler(init_scale=scale)
    free = train_step_amp(model, MSE, [(inputs, targets)], optimizer, scaler, dtype=dtype)
    clipped = train_step_amp(model, MSE, [(inputs, targets)], optimizer, scaler, dtype=dtype, max_norm=0.01)
    torch.testing.assert_close(clipped.grad_norm, free.grad_norm)
    norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    assert free.grad_norm > 0.1
    torch.testing.assert_close(norm, torch.tensor(0.01), rtol=1e-3, atol=0)


def test_one_update_of_the_scale_for_all_micro_batches():
    model, (inputs, targets) = small_model(), data()
    scaler = DynamicLossScaler(growth_interval=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for tracker, scale in ((1, 2.0**16), (0, 2.0**17)):
        train_step_amp(model, MSE, split(inputs, targets, 4), optimizer, scaler, dtype=torch.bfloat16)
        state = scaler.state_dict()
        assert (state["_growth_tracker"], state["scale"]) == (tracker, scale)


def test_forward_and_loss_run_under_autocast_and_backward_outside():
    model, (inputs, targets) = small_model(), data()
    seen = {}

    def loss_fn(output, targets):
        seen["loss"] = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), output.dtype
        return MSE(output, targets)

    def forward_hook(module, args, output):
        seen["forward"] = torch.is_autocast_enabled("cpu"), output.dtype

    def gradient_hook(gradient):
        seen["backward"] = torch.is_autocast_enabled("cpu")

    model[2].register_forward_hook(forward_hook)
    model[0].weight.register_hook(gradient_hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_step_amp(model, loss_fn, [(inputs, targets)], optimizer, dtype=torch.bfloat16)
    assert seen["forward"] == (True, torch.bfloat16)
    assert seen["loss"] == (True, torch.bfloat16, torch.float32)
    assert seen["backward"] is False


def test_outputs_in_any_container_are_widened():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x):
            return {"logits": self.layer(x), "extras": (self.layer(x), x.argmax(), "kept")}

    def loss_fn(output, targets):
        first, index, text = output["extras"]
        assert output["logits"].dtype == first.dtype == torch.float32
        assert index.dtype == torch.int64 and text == "kept"
        return MSE(output["logits"], targets)

    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert train_step_amp(model, loss_fn, [data()], optimizer, dtype=torch.bfloat16).stepped


def test_a_scaler_saves_gradients_that_float16_loses():
    gradients = []
    for scaler in (DynamicLossScaler(enabled=False), DynamicLossScaler()):
        model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(model.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        batch = [(torch.ones(1, 1), torch.zeros(1, 1))]
        train_step_amp(model, lambda y, _: 1e-8 * y.mean(), batch, optimizer, scaler, dtype=torch.float16)
        gradients.append(model.weight.grad.item())
    assert gradients[0] == 0.0 and gradients[1] == pytest.approx(1e-8, rel=1e-3)


def test_gradients_do_not_pile_up_over_steps_and_are_left_for_inspection():
    model = Scalar()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for _ in range(3):
        train_step_amp(model, mean_output, [(torch.ones(2), torch.ones(2))], optimizer, dtype=torch.float32)
        assert model.weight.grad.item() == 1.0


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize(("dtype", "scaled"), [(torch.bfloat16, False), (torch.float32, False), (torch.float16, True)])
def test_nonfinite_gradients_change_nothing(dtype, scaled, bad):
    model, scaler = Scalar(), DynamicLossScaler() if scaled else None
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def step(value):
        batch = [(torch.tensor([value]), torch.ones(1))]
        return train_step_amp(
            model, mean_output, batch, optimizer, scaler, dtype=dtype, max_norm=1.0, scheduler=scheduler
        )

    assert step(1.0).stepped and scheduler.last_epoch == 1
    weight, state = model.weight.detach().clone(), {k: v.clone() for k, v in optimizer.state[model.weight].items()}
    result = step(bad)
    assert result.stepped is False and not result.grad_norm.isfinite()
    assert torch.equal(model.weight, weight) and scheduler.last_epoch == 1
    assert all(torch.equal(value, optimizer.state[model.weight][name]) for name, value in state.items())
    # As they came, so that the culprit can be looked for.
    torch.testing.assert_close(model.weight.grad, torch.tensor([bad]), equal_nan=True)
    assert step(1.0).stepped and scheduler.last_epoch == 2 and model.weight.isfinite()
    if scaled:
        assert scaler.skipped_steps == 1 and scaler.get_scale() == 2.0**15


def test_one_bad_micro_batch_spoils_the_step():
    model = Scalar()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.tensor([x]), torch.ones(1)) for x in (1.0, math.nan, 1.0)]
    assert not train_step_amp(model, mean_output, batches, optimizer, dtype=torch.bfloat16).stepped
    assert model.weight.item() == 1.0


def test_finite_gradients_whose_squares_overflow_are_clipped():
    model = torch.nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batch = [(torch.full((1, 4), 3e19), torch.zeros(1, 1))]
    step = train_step_amp(model, mean_output, batch, optimizer, dtype=torch.float32, max_norm=1.0)
    assert step.stepped
    torch.testing.assert_close(step.grad_norm, torch.tensor(6e19))
    torch.testing.assert_close(model.weight.grad, torch.full((1, 4), 0.5))


def test_skipping_can_be_left_to_the_caller():
    model = Scalar()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = [(torch.tensor([math.nan]), torch.ones(1))]
    step = train_step_amp(model, mean_output, batch, optimizer, dtype=torch.bfloat16, skip_nonfinite=False)
    assert step.stepped is True and step.grad_norm.isnan() and model.weight.isnan()


@pytest.mark.parametrize(
    ("dtype", "scaler", "options", "expected"),
    [
        (torch.float16, DynamicLossScaler(), {}, 1),
        (torch.float16, DynamicLossScaler(), {"skip_nonfinite": False}, 1),
        (torch.bfloat16, None, {}, 1),
        (torch.bfloat16, None, {"skip_nonfinite": False}, 0),
        (torch.float32, None, {"skip_nonfinite": False, "max_norm": None}, 0),
    ],
)
def test_the_host_reads_no_more_than_the_decision(dtype, scaler, options, expected):
    model, (inputs, targets) = small_model(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = split(inputs, targets, 4)
    with host_reads() as reads:
        train_step_amp(model, MSE, batches, optimizer, scaler, **{"dtype": dtype, "max_norm": 1.0, **options})
    assert len(reads) == expected


def test_a_refused_step_leaves_the_scaler_ready_for_the_next():
    """A user's callback that fails, gradients that can't be clipped, an optimizer of other parameters."""
    model, (inputs, targets) = small_model(), data()
    table = torch.nn.Embedding(4, 4, sparse=True)
    other = torch.nn.Parameter(torch.ones(1))
    calls = []

    def failing_second(output, targets):
        calls.append(output)
        if len(calls) == 2:
            raise KeyError("the second micro-batch")
        return MSE(output, targets)

    optimizer, sparse = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(table.parameters(), lr=0.1)
    idle = torch.optim.SGD([other], lr=0.1)
    scaler = DynamicLossScaler()
    batches = split(inputs, targets, 6)
    with pytest.raises(KeyError):
        train_step_amp(model, failing_second, batches, optimizer, scaler, dtype=torch.float16)
    assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(ValueError, match="no parameter of optimizer has a gradient"):
        train_step_amp(model, MSE, batches, idle, scaler, dtype=torch.float16)
    with pytest.raises(TypeError, match=r"gradients\[0\] must be dense"):
        words = [(torch.arange(4), torch.zeros(4, 2))]
        train_step_amp(torch.nn.Sequential(table, model), MSE, words, sparse, scaler, dtype=torch.float16)
    idle.add_param_group({"params": list(model.parameters())})
    table.requires_grad_(False)
    sparse.add_param_group({"params": list(model.parameters())})
    table.weight.grad = None
    for steps in (optimizer, idle, sparse):
        assert train_step_amp(model, MSE, batches, steps, scaler, dtype=torch.float16).stepped


def test_micro_batches_may_come_from_an_iterator_and_the_model_may_have_no_parameters():
    shift = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([shift], lr=0.5)
    batches = split(*data(), 6)

    def shifted(output, targets):
        return (output[:, :2] + shift).mean()

    step = train_step_amp(torch.nn.Identity(), shifted, iter(batches), optimizer, dtype=torch.bfloat16)
    assert step.stepped and torch.equal(shift.detach(), torch.full((2,), -0.25))


def test_further_parameters_of_the_optimizer_may_be_idle():
    model, idle = Scalar(), torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [idle]}, {"params": model.parameters(), "lr": 0.5}], lr=0.1)
    train_step_amp(model, mean_output, [(torch.ones(1), torch.ones(1))], optimizer, dtype=torch.bfloat16)
    assert model.weight.item() == 0.5 and idle.item() == 1.0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dtype": torch.float64}, ValueError, "dtype must be"),
        ({"dtype": torch.float16}, ValueError, "float16 gradients underflow: pass a scaler"),
        ({"max_norm": 0.0}, ValueError, "max_norm must be > 0"),
        ({"micro_batches": []}, ValueError, r"micro_batches must hold pairs.*got n in \[\]"),
        ({"micro_batches": [(torch.ones(0, 4), torch.ones(0, 2))]}, ValueError, r"micro_batches must.*got n in \[0\]"),
        ({"micro_batches": [(torch.ones(4), torch.tensor(1.0))]}, ValueError, r"micro_batches must.*got n in \[0\]"),
        ({"micro_batches": data()}, TypeError, "wrap a single pair in a list"),
        ({"micro_batches": [torch.ones(2, 4)]}, TypeError, "micro_batches must be a sequence of pairs"),
        ({"micro_batches": [(torch.ones(2, 4), [1.0, 2.0])]}, TypeError, "micro_batches must be a sequence of pairs"),
        (
            {"scaler": torch.amp.GradScaler("cpu")},
            TypeError,
            "scaler must be a DynamicLossScaler or None, got GradScaler",
        ),
        ({"loss_fn": lambda output, targets: 1.0}, TypeError, r"loss_fn must return a torch\.Tensor, got float"),
        ({"loss_fn": lambda output, targets: output}, ValueError, "loss_fn must return the mean loss, one element"),
        ({"optimizer": torch.optim.SGD([torch.ones(1, requires_grad=True)])}, ValueError, "no parameter of optimizer"),
    ],
)
def test_wrong_arguments_are_named(changes, error, message):
    model = small_model()
    arguments = {
        "model": model,
        "loss_fn": MSE,
        "micro_batches": [data()],
        "optimizer": torch.optim.SGD(model.parameters()),
        "dtype": torch.bfloat16,
    }
    with pytest.raises(error, match=message):
        train_step_amp(**{**arguments, **changes})


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "scaled"), [(torch.float16, True), (torch.bfloat16, False), (torch.float32, False)])
def test_cuda_trains_and_waits_only_for_the_decision(dtype, scaled):
    model = small_model().cuda()
    inputs, targets = (tensor.cuda() for tensor in data())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scaler = DynamicLossScaler() if scaled else None
    losses = []
    for _ in range(60):
        step = train_step_amp(model, MSE, split(inputs, targets, 6), optimizer, scaler, dtype=dtype, max_norm=1.0)
        losses.append(step.loss)
    assert losses[-1].item() < 0.6 * losses[0].item()
    if not scaled:
        torch.cuda.set_sync_debug_mode("error")
        try:
            train_step_amp(model, MSE, [(inputs, targets)], optimizer, dtype=dtype, max_norm=1.0, skip_nonfinite=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
