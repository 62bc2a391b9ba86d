"""Clipping against the formula entry by entry, torch's own functions, and what must not change."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.gradient_debugging import clip_grad_norm_, clip_grad_value_
from tests.host_reads import host_reads


def parameters_with(*gradients, dtype=torch.float32):
    made = []
    for gradient in gradients:
        gradient = None if gradient is None else torch.as_tensor(gradient, dtype=dtype)
        parameter = torch.zeros((1,) if gradient is None else gradient.shape, dtype=dtype, requires_grad=True)
        parameter.grad = gradient
        made.append(parameter)
    return made


def random_gradients(dtype=torch.float32, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (1,), (), (5000,), (2, 3, 2, 2)]
    return [(scale * torch.randn(shape, generator=generator)).to(dtype) for shape in shapes]


def entries(parameters):
    return [x for parameter in parameters if parameter.grad is not None for x in parameter.grad.flatten().tolist()]


def bits(parameters):
    return [parameter.grad.view(torch.int32).clone() for parameter in parameters]


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 0.3, 50.0, 1e6, math.inf])
@pytest.mark.parametrize("foreach", [None, True, False])
def test_agrees_with_torch(order, max_norm, foreach):
    ours, theirs = parameters_with(*random_gradients()), parameters_with(*random_gradients())
    norm = clip_grad_norm_(ours, max_norm, order, False, foreach)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, order, False, foreach)
    torch.testing.assert_close(norm, expected)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.grad, other.grad)


@given(
    st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=4), min_size=1, max_size=4),
    st.floats(0.015625, 20),
)
def test_one_factor_scales_all_and_never_above_one(gradients, max_norm):
    parameters = parameters_with(*gradients, dtype=torch.float64)
    before = entries(parameters)
    norm = math.sqrt(math.fsum(x * x for x in before))
    returned = clip_grad_norm_(parameters, max_norm)
    factor = min(1.0, max_norm / (norm + 1e-6))
    assert returned.item() == pytest.approx(norm, rel=1e-12, abs=1e-150)
    assert entries(parameters) == pytest.approx([factor * x for x in before], rel=1e-9, abs=1e-300)
    assert math.sqrt(math.fsum(x * x for x in entries(parameters))) <= max_norm * (1 + 1e-12)


def test_small_gradients_keep_their_bits_and_a_norm_of_exactly_the_threshold_shrinks_by_a_millionth():
    parameters = parameters_with([0.3, 0.4])
    before = bits(parameters)
    clip_grad_norm_(parameters, 1.0)
    assert all(map(torch.equal, bits(parameters), before))
    (parameter,) = parameters_with([1.0], dtype=torch.float64)
    clip_grad_norm_(parameter, 1.0)
    assert parameter.grad.item() == pytest.approx(1 / (1 + 1e-6), rel=1e-14)


def test_gradients_of_zero_stay_zero_with_any_threshold():
    (parameter,) = parameters_with([0.0, 0.0])
    assert clip_grad_norm_(parameter, 0.0).item() == 0 and entries([parameter]) == [0, 0]


@pytest.mark.parametrize("entry", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("max_norm", [1.0, math.inf])
def test_by_default_gradients_with_a_nonfinite_norm_keep_their_bits(entry, foreach, max_norm):
    parameters = parameters_with([3.0, entry], [4.0])
    before = bits(parameters)
    norm = clip_grad_norm_(parameters, max_norm, foreach=foreach)
    assert all(map(torch.equal, bits(parameters), before))
    assert math.isnan(norm.item()) if math.isnan(entry) else norm.item() == math.inf


@pytest.mark.parametrize("entry", [math.inf, math.nan, 3e38])
def test_propagate_does_what_torch_does(entry):
    ours, theirs = parameters_with([3.0, entry], [4.0]), parameters_with([3.0, entry], [4.0])
    clip_grad_norm_(ours, 1.0, nonfinite="propagate")
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.grad, other.grad, equal_nan=True)


def test_propagated_infinity_is_nan_where_it_was_and_zero_elsewhere():
    parameters = parameters_with([3.0, math.inf], [4.0])
    clip_grad_norm_(parameters, 1.0, nonfinite="propagate")
    first, poisoned, other = entries(parameters)
    assert first == 0 and math.isnan(poisoned) and other == 0


def test_finite_gradients_too_large_to_square_are_kept_or_clipped_if_scaled_and_not_zeroed():
    (kept,) = parameters_with([3e19] * 4)
    assert clip_grad_norm_(kept, 1.0).item() == math.inf
    assert entries([kept]) == pytest.approx([3e19] * 4)
    (scaled,) = parameters_with([3e19] * 4)
    assert clip_grad_norm_(scaled, 1.0, scaled=True).item() == pytest.approx(6e19)
    assert entries([scaled]) == pytest.approx([0.5] * 4)
    (infinite,) = parameters_with([3e19, math.inf])
    clip_grad_norm_(infinite, 1.0, scaled=True)
    assert entries([infinite]) == [pytest.approx(3e19), math.inf]


@pytest.mark.parametrize("entry", [math.inf, math.nan])
def test_error_if_nonfinite_raises_before_anything_is_touched(entry):
    parameters = parameters_with([3.0, 4.0], [entry])
    before = bits(parameters)
    for nonfinite in ("keep", "propagate"):
        with pytest.raises(RuntimeError, match="cannot be clipped"):
            clip_grad_norm_(parameters, 1.0, 2.0, True, nonfinite=nonfinite)
    assert all(map(torch.equal, bits(parameters), before))


# On the CPU a tensor () is an unrounded factor anyway.
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_gradients_are_scaled_by_an_unrounded_factor(dtype, device):
    gradients = random_gradients(dtype, scale=30.0)
    parameters = [gradient.to(device).requires_grad_() for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.to(device, copy=True)
    before = [gradient.double() for gradient in gradients]
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in before))
    clip_grad_norm_(parameters, 0.7)
    for parameter, gradient in zip(parameters, before, strict=True):
        # One rounding to the dtype, and none before; a double may lie across a tie from its float32.
        exact = (gradient * (0.7 / (norm + 1e-6))).float().to(dtype)
        assert parameter.grad.dtype == dtype
        assert (parameter.grad.cpu() == exact).float().mean() > 0.99


def test_float16_norms_above_its_range_do_not_zero_the_gradients():
    (parameter,) = parameters_with([6e4] * 1024, dtype=torch.float16)
    assert clip_grad_norm_(parameter, 32.0).item() == pytest.approx(6e4 * 32, rel=1e-3)
    assert entries([parameter]) == pytest.approx([1.0] * 1024, rel=1e-3)


def test_mixed_dtypes_share_one_factor():
    parameters = [
        *parameters_with([3.0], dtype=torch.float16),
        *parameters_with([4.0], dtype=torch.float64),
        *parameters_with([12.0]),
    ]
    assert clip_grad_norm_(parameters, 1.3).item() == pytest.approx(13.0)
    assert entries(parameters) == pytest.approx([0.3, 0.4, 1.2], rel=1e-3)
    assert [parameter.grad.dtype for parameter in parameters] == [torch.float16, torch.float64, torch.float32]


def test_parameters_without_gradients_are_passed_over_and_gradients_stay_the_same_tensors():
    parameters = parameters_with([3.0], None, [4.0])
    gradients = [parameter.grad for parameter in parameters]
    clip_grad_norm_(iter(parameters), 1.0)
    assert all(parameter.grad is gradient for parameter, gradient in zip(parameters, gradients, strict=True))
    assert clip_grad_norm_(parameters_with(None), 1.0).item() == 0
    assert clip_grad_value_(parameters_with(None), 1.0) is None


def test_empty_and_non_contiguous_gradients():
    base = torch.tensor([[3.0, 7.0], [4.0, 7.0]])
    empty, strided = parameters_with(torch.empty(0), torch.zeros(2, 1))
    strided.grad = base[:, :1]
    assert clip_grad_norm_([empty, strided], 1.0, math.inf).item() == 4
    clip_grad_norm_([empty, strided], 0.5)
    assert base.flatten().tolist() == pytest.approx([0.3, 7.0, 0.4, 7.0], rel=1e-5)
    clip_grad_value_([empty, strided], 0.35)
    assert base.flatten().tolist() == pytest.approx([0.3, 7.0, 0.35, 7.0], rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"scaled": True}, {"foreach": False}, {"nonfinite": "propagate"}])
def test_the_host_reads_nothing_unless_it_is_to_raise(options):
    parameters = parameters_with(*random_gradients())
    with host_reads() as reads:
        clip_grad_norm_(parameters, 1.0, **options)
        clip_grad_value_(parameters, 0.1)
        assert reads == []
        clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True, **options)
    assert len(reads) == 1


@pytest.mark.parametrize("foreach", [None, True, False])
def test_value_clipping_clamps_each_entry_as_torch_does(foreach):
    ours, theirs = parameters_with(*random_gradients()), parameters_with(*random_gradients())
    clip_grad_value_(ours, 0.5, foreach)
    torch.nn.utils.clip_grad_value_(theirs, 0.5, foreach)
    assert entries(ours) == entries(theirs)
    (parameter,) = parameters_with([10.0, 0.1, -10.0, math.inf, -math.inf, math.nan])
    clip_grad_value_(parameter, 0.5, foreach)
    *finite, last = entries([parameter])
    assert finite == pytest.approx([0.5, 0.1, -0.5, 0.5, -0.5]) and math.isnan(last)


def test_norm_clipping_keeps_the_direction_and_value_clipping_does_not():
    cosines = []
    for clip in (clip_grad_norm_, clip_grad_value_):
        (parameter,) = parameters_with([10.0, 0.1], dtype=torch.float64)
        clip(parameter, 0.5)
        cosines.append(torch.cosine_similarity(parameter.grad, torch.tensor([10.0, 0.1]).double(), dim=0).item())
    assert cosines == [pytest.approx(1.0, abs=1e-12), pytest.approx(0.98, abs=0.005)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: clip_grad_norm_([], 1.0), ValueError, "parameters is empty"),
        (lambda p: clip_grad_norm_(iter(()), 1.0), ValueError, "a generator yields them once"),
        (lambda p: clip_grad_value_([], 1.0), ValueError, "parameters is empty"),
        (lambda p: clip_grad_norm_([p, 1.0], 1.0), TypeError, "parameters must be tensors, got Tensor, float"),
        (lambda p: clip_grad_norm_(torch.nn.Linear(1, 1), 1.0), TypeError, r"module Linear; pass its parameters\(\)"),
        (lambda p: clip_grad_value_(torch.nn.Sequential(), 1.0), TypeError, "got the module Sequential"),
        (lambda p: clip_grad_norm_(p, -1.0), ValueError, "max_norm must be >= 0"),
        (lambda p: clip_grad_norm_(p, math.nan), ValueError, "max_norm must be finite"),
        (lambda p: clip_grad_norm_(p, None), TypeError, "max_norm must be a Python number"),
        (lambda p: clip_grad_norm_(p, 1.0, 0), ValueError, "norm_type must be > 0"),
        (lambda p: clip_grad_norm_(p, 1.0, nonfinite="raise"), ValueError, "nonfinite must be 'keep' or 'propagate'"),
        (lambda p: clip_grad_value_(p, -1.0), ValueError, "clip_value must be >= 0"),
        (lambda p: clip_grad_value_(p, math.inf), ValueError, "clip_value must be finite"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_touched(call, error, message):
    (parameter,) = parameters_with([3.0, 4.0])
    with pytest.raises(error, match=message):
        call(parameter)
    assert entries([parameter]) == [3.0, 4.0]


def test_complex_and_sparse_gradients_are_refused_by_name():
    sparse = torch.nn.Embedding(3, 2, sparse=True)
    sparse(torch.tensor([1])).sum().backward()
    complex_parameter = torch.zeros(2, dtype=torch.complex64, requires_grad=True)
    complex_parameter.grad = torch.ones(2, dtype=torch.complex64)
    for clip in (clip_grad_norm_, clip_grad_value_):
        with pytest.raises(TypeError, match=r"gradients\[0\] must be dense"):
            clip(sparse.parameters(), 1.0)
        with pytest.raises(TypeError, match=r"gradients\[0\] must have a real floating dtype"):
            clip(complex_parameter, 1.0)


def test_clips_gradients_that_carry_a_graph():
    parameter = torch.ones(2, requires_grad=True)
    (parameter.grad,) = torch.autograd.grad(parameter.pow(3).sum(), parameter, create_graph=True)
    clip_grad_norm_(parameter, 1.0)
    assert torch.linalg.vector_norm(parameter.grad).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"scaled": True}, {"foreach": False}])
def test_works_under_compile(options):
    compiled = torch.compile(
        lambda parameters: clip_grad_norm_(parameters, 1.0, **options), backend="aot_eager", fullgraph=True
    )
    parameters = parameters_with([3.0, 0.0], [4.0])
    assert compiled(parameters).item() == pytest.approx(5.0)
    assert entries(parameters) == pytest.approx([0.6, 0.0, 0.8], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"scaled": True}, {"foreach": False}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu_nothing_waits(options, dtype):
    parameters = []
    for gradient in random_gradients(dtype):
        parameter = torch.zeros_like(gradient, device="cuda", requires_grad=True)
        parameter.grad = gradient.cuda()
        parameters.append(parameter)
    torch.cuda.set_sync_debug_mode("error")
    try:
        clip_grad_norm_(parameters, 1.0, **options)
        clip_grad_value_(parameters, 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert max(map(abs, entries(parameters))) <= 0.1
