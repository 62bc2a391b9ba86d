"""DynamicLossScaler replayed against torch.amp.GradScaler and the kernel that adapts its scale."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.mixed_precision import DynamicLossScaler
from tests.host_reads import host_reads

INF, NAN = math.inf, math.nan
RULE = {"init_scale": 4.0, "growth_factor": 2.0, "backoff_factor": 0.25, "growth_interval": 2}


def problem(kind=torch.optim.Adam, shapes=((3,), (2, 2)), **options):
    """Return equal parameters and an optimizer of them."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return parameters, kind(parameters, **{"lr": 0.1, **options})


def one_step(scaler, parameters, optimizer, factor):
    """Train on a linear loss whose gradient is `factor` everywhere."""
    optimizer.zero_grad()
    loss = sum((factor * parameter).sum() for parameter in parameters)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("overflow", [INF, -INF, NAN])
def test_the_scale_follows_the_rule(overflow):
    parameters, optimizer = problem()
    scaler, scales = DynamicLossScaler(**RULE), []
    for found_inf in (0, 0, 1, 0, 0):
        one_step(scaler, parameters, optimizer, overflow if found_inf else 1.0)
        scales.append(scaler.get_scale())
    assert scales == [4, 8, 2, 2, 4] and scaler.skipped_steps == 1


@settings(max_examples=60)
@given(
    overflows=st.lists(st.booleans(), min_size=1, max_size=25),
    init_scale=st.sampled_from([1.0, 3.3, 65536.0, 2.0**126, 1e-3]),
    growth_factor=st.sampled_from([2.0, 1.1, 1.7, 3.0]),
    backoff_factor=st.sampled_from([0.5, 0.25, 0.3, 0.9]),
    growth_interval=st.integers(1, 4),
)
def test_the_scale_is_bit_for_bit_that_of_torchs_kernel(overflows, **rule):
    scaler = DynamicLossScaler(**rule)
    scale, tracker = torch.tensor(rule["init_scale"]), torch.zeros((), dtype=torch.int32)
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler.scale(weight.sum())
    for overflow in overflows:
        weight.grad = torch.tensor([1.0, NAN if overflow else 2.0])
        scaler.step(optimizer)
        scaler.update()
        torch._amp_update_scale_(
            scale,
            tracker,
            torch.tensor(float(overflow)),
            rule["growth_factor"],
            rule["backoff_factor"],
            rule["growth_interval"],
        )
        assert scaler.get_scale() == scale.item()
        assert scaler.state_dict()["_growth_tracker"] == tracker.item()
    assert scaler.skipped_steps == sum(overflows)


@settings(max_examples=30)
@given(
    factors=st.lists(st.sampled_from([1.0, -0.3, 1e-30, 3e38, INF, NAN]), min_size=1, max_size=12),
    init_scale=st.sampled_from([2.0, 3.3, 65536.0]),
    unscale=st.booleans(),
)
def test_training_is_bit_for_bit_that_of_torchs_scaler(factors, init_scale, unscale):
    runs = []
    for scaler in (
        DynamicLossScaler(**{**RULE, "init_scale": init_scale}),
        torch.amp.GradScaler("cpu", **{**RULE, "init_scale": init_scale}),
    ):
        parameters, optimizer = problem()
        trace = []
        for factor in factors:
            optimizer.zero_grad()
            scaler.scale(sum((factor * parameter**2).sum() for parameter in parameters)).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            trace += [parameter.detach().clone() for parameter in parameters]
            trace += [parameter.grad.clone() for parameter in parameters]
        runs.append((trace, scaler.state_dict()))
    (own, own_state), (peer, peer_state) = runs
    for one, other in zip(own, peer, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert own_state == peer_state


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_a_skip_leaves_weights_and_state_bit_for_bit(kind):
    parameters, optimizer = problem(kind, momentum=0.9) if kind is torch.optim.SGD else problem(kind)
    scaler = DynamicLossScaler()
    one_step(scaler, parameters, optimizer, 1.0)
    weights = [parameter.detach().clone() for parameter in parameters]
    state = {
        name: value.clone() for name, value in optimizer.state[parameters[0]].items() if isinstance(value, torch.Tensor)
    }
    assert state
    one_step(scaler, parameters, optimizer, INF)
    assert all(torch.equal(*pair) for pair in zip(weights, parameters, strict=True))
    assert all(torch.equal(value, optimizer.state[parameters[0]][name]) for name, value in state.items())
    one_step(scaler, parameters, optimizer, 1.0)
    assert not torch.equal(weights[0], parameters[0])


def test_finite_entries_whose_squares_and_sums_overflow_are_no_overflow():
    weight = torch.zeros(100, requires_grad=True)
    optimizer, scaler = torch.optim.SGD([weight], lr=1e-38), DynamicLossScaler(init_scale=2.0)
    scaler.scale(weight.sum())
    weight.grad = torch.full((100,), 3e38)
    scaler.step(optimizer)
    assert scaler.skipped_steps == 0
    torch.testing.assert_close(weight.detach(), torch.full((100,), -1.5))


def test_one_bad_entry_anywhere_is_found():
    for position in range(7):
        for bad in (INF, -INF, NAN):
            parameters, optimizer = problem(torch.optim.SGD)
            scaler = DynamicLossScaler()
            scaler.scale(parameters[0].sum())
            flat = torch.zeros(7)
            flat[position] = bad
            parameters[0].grad, parameters[1].grad = flat[:3].clone(), flat[3:].reshape(2, 2).clone()
            scaler.step(optimizer)
            assert scaler.skipped_steps == 1


@pytest.mark.parametrize("bad", range(3))
def test_an_overflow_in_any_dtype_is_found(bad):
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    parameters = [torch.ones(2, dtype=dtype, requires_grad=True) for dtype in dtypes]
    optimizer, scaler = torch.optim.SGD(parameters, lr=0.1), DynamicLossScaler()
    scaler.scale(parameters[0].sum())
    for i, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, INF if i == bad else 1.0)
    scaler.step(optimizer)
    assert scaler.skipped_steps == 1 and all(torch.equal(p, torch.ones_like(p)) for p in parameters)


def test_unscaling_is_in_place_and_exact_for_powers_of_two():
    parameters, optimizer = problem()
    plain = torch.autograd.grad(sum((parameter**3).sum() for parameter in parameters), parameters)
    scaler = DynamicLossScaler(init_scale=2.0**10)
    scaler.scale(sum((parameter**3).sum() for parameter in parameters)).backward()
    addresses = [parameter.grad.data_ptr() for parameter in parameters]
    scaler.unscale_(optimizer)
    assert [parameter.grad.data_ptr() for parameter in parameters] == addresses
    assert all(torch.equal(parameter.grad, gradient) for parameter, gradient in zip(parameters, plain, strict=True))


def test_clipping_between_unscale_and_step_sees_the_true_norm():
    parameters, optimizer = problem(torch.optim.SGD, lr=1.0)
    before = [parameter.detach().clone() for parameter in parameters]
    scaler = DynamicLossScaler()
    scaler.scale(sum(parameter.sum() for parameter in parameters)).backward()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.testing.assert_close(norm, torch.tensor(7.0).sqrt())
    scaler.step(optimizer)
    moved = torch.cat([(new.detach() - old).flatten() for new, old in zip(parameters, before, strict=True)])
    torch.testing.assert_close(moved.norm(), torch.tensor(1.0))


@pytest.mark.parametrize(("overflowing", "skipped"), [((False, True), 1), ((True, True), 2), ((False, False), 0)])
def test_each_optimizer_decides_for_itself_and_the_scale_for_all(overflowing, skipped):
    own, peer = DynamicLossScaler(**RULE), torch.amp.GradScaler("cpu", **RULE)
    outcomes = []
    for scaler in (own, peer):
        sets = [problem(torch.optim.SGD), problem(torch.optim.Adam)]
        for (parameters, optimizer), overflow in zip(sets, overflowing, strict=True):
            scaler.scale((parameters[0] * (INF if overflow else 1.0)).sum()).backward()
            scaler.step(optimizer)
        scaler.update()
        outcomes.append([parameter.detach() for parameters, _ in sets for parameter in parameters])
    assert own.skipped_steps == skipped and own.state_dict() == peer.state_dict()
    assert all(torch.equal(*pair) for pair in zip(*outcomes, strict=True))


def test_sparse_complex_and_mixed_gradients_are_unscaled_as_torch_does():
    results = []
    for scaler in (DynamicLossScaler(init_scale=3.0), torch.amp.GradScaler("cpu", init_scale=3.0)):
        table = torch.nn.Embedding(4, 2, sparse=True, _weight=torch.ones(4, 2))
        double = torch.ones(2, dtype=torch.float64, requires_grad=True)
        half = torch.ones(5, dtype=torch.bfloat16, requires_grad=True)
        idle, empty = torch.ones(2, requires_grad=True), torch.ones(0, requires_grad=True)
        optimizer = torch.optim.SGD([table.weight, double, half, idle, empty], lr=0.1)
        loss = table(torch.tensor([1, 1, 3])).sum() + (double**2).sum() + (0.1 * half).sum() + empty.sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        results.append([table.weight.grad.to_dense(), double.grad, half.grad])
        scaler.step(optimizer)
        assert idle.grad is None
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))

    weight = torch.tensor([1 + 2j], requires_grad=True)
    scaler = DynamicLossScaler(init_scale=8.0)
    scaler.scale((weight * weight.conj()).real.sum()).backward()
    scaler.unscale_(torch.optim.SGD([weight]))
    assert torch.equal(weight.grad, torch.tensor([2 + 4j]))


def test_only_empty_gradients_are_finite():
    empty = torch.ones(0, requires_grad=True)
    optimizer, scaler = torch.optim.SGD([empty], lr=0.1), DynamicLossScaler()
    scaler.scale(empty.sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.skipped_steps == 0


def test_several_losses_are_scaled_in_order_and_shapes_kept():
    scaler = DynamicLossScaler(init_scale=8.0)
    one, many = torch.tensor(0.5), torch.ones(2, 3)
    scaled = scaler.scale([one, many])
    assert torch.equal(scaled[0], torch.tensor(4.0)) and torch.equal(scaled[1], torch.full((2, 3), 8.0))
    assert torch.equal(one, torch.tensor(0.5))
    assert isinstance(scaled, list) and isinstance(scaler.scale((one, many)), tuple)
    assert torch.equal(next(iter(scaler.scale(part for part in (one, many)))), scaled[0])


def test_state_dicts_go_on_bit_for_bit_and_fit_torchs():
    overflow_at = (1, 5)
    own = DynamicLossScaler(**RULE)
    parameters, optimizer = problem()
    for i in range(3):
        one_step(own, parameters, optimizer, INF if i in overflow_at else 1.0)
    buffer = io.BytesIO()
    torch.save(own.state_dict(), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    assert saved["_growth_tracker"] == 1
    fresh, used, peer = DynamicLossScaler(), DynamicLossScaler(), torch.amp.GradScaler("cpu")
    used.scale(torch.ones(1))
    for other in (fresh, used, peer):
        other.load_state_dict(saved)
        assert other.state_dict() == saved
    assert DynamicLossScaler().state_dict() == torch.amp.GradScaler("cpu").state_dict()
    for i in range(3, 8):
        for scaler in (own, fresh, used, peer):
            one_step(scaler, *problem(), INF if i in overflow_at else 1.0)
        assert own.state_dict() == fresh.state_dict() == used.state_dict() == peer.state_dict()


def test_a_scale_can_be_set():
    scaler = DynamicLossScaler(**RULE)
    scaler.scale(torch.ones(1))
    scaler.update(16.0)
    assert scaler.get_scale() == 16.0
    scaler.update(torch.tensor([32.0]))
    assert scaler.get_scale() == 32.0
    assert scaler.scale(torch.ones(())).item() == 32.0
    with pytest.raises(ValueError, match="new_scale must be > 0"):
        scaler.update(0.0)
    with pytest.raises(ValueError, match=r"new_scale must have one element, got shape \(2,\)"):
        scaler.update(torch.ones(2))
    assert scaler.get_scale() == 32.0


def test_disabled_it_only_steps():
    parameters, optimizer = problem(torch.optim.SGD, lr=1.0)
    scaler = DynamicLossScaler(enabled=False)
    loss = parameters[0].sum()
    assert scaler.scale(loss) is loss and not scaler.is_enabled() and DynamicLossScaler().is_enabled()
    scaler.unscale_(optimizer)
    before = parameters[0].detach().clone()
    loss.backward()
    scaler.step(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(parameters[0], before - 2)
    assert scaler.get_scale() == 1.0 and scaler.state_dict() == {}
    scaler.load_state_dict({})
    assert scaler.step(optimizer, closure=lambda: 3.0) == 3.0


def test_step_returns_what_the_optimizer_returns():
    class Returning(torch.optim.SGD):
        def step(self, closure=None, note=None):
            super().step(closure)
            return note

    weight = torch.ones(1, requires_grad=True)
    optimizer, scaler = Returning([weight]), DynamicLossScaler()
    scaler.scale(weight.sum()).backward()
    assert scaler.step(optimizer, note="taken") == "taken"
    scaler.update()
    weight.grad = torch.tensor([INF])
    assert scaler.step(optimizer, note="taken") is None


def test_calls_out_of_order_are_refused():
    parameters, optimizer = problem()
    scaler = DynamicLossScaler()
    for name, call in (
        ("unscale_", lambda: scaler.unscale_(optimizer)),
        ("step", lambda: scaler.step(optimizer)),
        ("update", scaler.update),
    ):
        with pytest.raises(RuntimeError, match=f"Attempted {name} but no loss was scaled"):
            call()
    scaled = scaler.scale(parameters[0].sum())
    with pytest.raises(RuntimeError, match="No inf checks were recorded prior to update"):
        scaler.update()
    with pytest.raises(RuntimeError, match="No inf checks were recorded for this optimizer"):
        scaler.step(optimizer)
    scaler = DynamicLossScaler()
    scaled = scaler.scale(parameters[0].sum())
    scaled.backward()
    scaler.unscale_(optimizer)
    gradient = parameters[0].grad.clone()
    with pytest.raises(RuntimeError, match=r"unscale_\(\) has already been called on this optimizer"):
        scaler.unscale_(optimizer)
    assert torch.equal(parameters[0].grad, gradient)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) has already been called since the last update"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"unscale_\(\) is being called after step"):
        scaler.unscale_(optimizer)
    scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, closure=lambda: None)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, lambda: None)
    with pytest.raises(RuntimeError, match="The source state dict is empty"):
        scaler.load_state_dict({})


def test_float16_gradients_are_refused_before_anything_changes():
    weight, half = torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.float16, requires_grad=True)
    optimizer, scaler = torch.optim.SGD([weight, half]), DynamicLossScaler()
    scaler.scale(weight.sum() + half.float().sum())
    weight.grad, half.grad = torch.ones(2), torch.ones(2, dtype=torch.float16)
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.unscale_(optimizer)
    assert torch.equal(weight.grad, torch.ones(2))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"init_scale": 0.0}, ValueError, "init_scale must be > 0"),
        ({"init_scale": INF}, ValueError, "init_scale must be finite"),
        ({"growth_factor": 1.0}, ValueError, "growth_factor must be > 1"),
        ({"backoff_factor": 1.0}, ValueError, "backoff_factor must be < 1"),
        ({"backoff_factor": -0.5}, ValueError, "backoff_factor must be > 0"),
        ({"growth_interval": 0}, ValueError, "growth_interval must be >= 1"),
        ({"growth_interval": 2.0}, TypeError, "growth_interval must be a Python int"),
        ({"init_scale": "1"}, TypeError, "init_scale must be a Python number"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        DynamicLossScaler(**options)


def test_wrong_outputs_are_named():
    scaler = DynamicLossScaler()
    with pytest.raises(TypeError, match="outputs must be a tensor or an iterable of tensors, got float"):
        scaler.scale(1.0)
    with pytest.raises(TypeError, match=r"outputs must have a floating dtype, got torch\.int64"):
        scaler.scale([torch.ones(1), torch.arange(2)])


def test_the_host_reads_once_a_step():
    parameters, optimizer = problem(torch.optim.SGD)
    scaler = DynamicLossScaler()
    with host_reads() as reads:
        scaler.scale(sum((parameter**2).sum() for parameter in parameters)).backward()
        scaler.unscale_(optimizer)
        assert reads == []
        scaler.step(optimizer)
        assert len(reads) == 1
        scaler.update()
    assert len(reads) == 1


def test_growth_stops_below_infinity():
    weight = torch.zeros(1, requires_grad=True)
    optimizer, scaler = torch.optim.SGD([weight]), DynamicLossScaler(init_scale=2.0**127, growth_interval=1)
    scaler.scale(weight.sum())
    weight.grad = torch.ones(1)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**127


@pytest.mark.gpu
def test_cuda_decides_as_torch_does_and_waits_only_in_step():
    results = []
    for scaler in (DynamicLossScaler(**RULE), torch.amp.GradScaler("cuda", **RULE)):
        weights = [torch.ones(3, device="cuda", requires_grad=True) for _ in range(4)]
        optimizer = torch.optim.Adam(weights, lr=0.1)
        for factor in (1.0, 1.0, INF, 1.0, NAN, 3e38):
            optimizer.zero_grad()
            loss = sum((factor * weight).sum() for weight in weights)
            torch.cuda.set_sync_debug_mode("error")
            try:
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            scaler.step(optimizer)
            torch.cuda.set_sync_debug_mode("error")
            try:
                scaler.update()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        results.append((scaler.state_dict(), torch.stack(weights).detach().cpu()))
    assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1])
