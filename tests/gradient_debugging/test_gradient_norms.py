"""Norms of gradients against sums of powers in exact or double arithmetic on the host, and against torch's own."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.gradient_debugging import gradient_norms, total_norm
from tests.host_reads import host_reads

ORDERS = [1, 1.5, 2.0, 3, math.inf]
LARGE = torch.full((4,), 3e19)


def norm_by_sum(entries, order):
    """(sum |x|^p)^(1/p), or the largest |x|, in Python floats."""
    if order == math.inf:
        return max((abs(x) for x in entries), default=0.0)
    return math.fsum(abs(x) ** order for x in entries) ** (1 / order)


def flat(tensors):
    return [float(x) for tensor in tensors for x in tensor.detach().reshape(-1).tolist()]


def some_tensors(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (1,), (), (0,), (5000,), (2, 3, 2, 2), (7,)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def network(*gradients):
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 1, bias=False) for _ in gradients))
    for layer, gradient in zip(model, gradients, strict=True):
        layer.weight.grad = None if gradient is None else torch.tensor([gradient])
    return model


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}, {"scaled": True}])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.float16, 1e-5), (torch.bfloat16, 1e-5)],
)
def test_total_is_the_norm_of_all_entries_as_one_vector(order, options, dtype, tolerance):
    tensors = some_tensors(dtype)
    norm = total_norm(tensors, order, **options)
    assert norm.item() == pytest.approx(norm_by_sum(flat(tensors), order), rel=tolerance)
    assert norm.shape == () and norm.dtype == torch.promote_types(dtype, torch.float32)


@given(st.lists(st.lists(st.floats(-100, 100, width=32), max_size=5), min_size=1, max_size=6), st.sampled_from(ORDERS))
def test_any_split_of_a_vector_has_the_same_norm(rows, order):
    tensors = [torch.tensor(row, dtype=torch.float64) for row in rows]
    exact = norm_by_sum([x for row in rows for x in row], order)
    for scaled in (False, True):
        # abs: without scaling the squares of entries below 1e-162 underflow.
        assert total_norm(tensors, order, scaled=scaled).item() == pytest.approx(exact, rel=1e-12, abs=1e-50)


@pytest.mark.parametrize("order", [1.0, 2.0, math.inf])
def test_arguments_and_result_are_those_of_torch(order):
    tensors = [tensor for tensor in some_tensors() if tensor.numel()]
    theirs = torch.nn.utils.get_total_norm(tensors, order, False, True)
    torch.testing.assert_close(total_norm(tensors, order, False, True), theirs)
    torch.testing.assert_close(
        total_norm(tensors=iter(tensors), norm_type=order, error_if_nonfinite=False, foreach=None), theirs
    )
    assert total_norm([]) == torch.nn.utils.get_total_norm([])


def test_a_single_tensor_needs_no_list_and_inf_may_be_spelt():
    assert total_norm(torch.tensor([3.0, -4.0])).item() == 5
    assert total_norm(torch.tensor([3.0, -4.0]), "inf").item() == 4


def test_non_contiguous_tensors_and_expanded_ones():
    base = torch.arange(12.0).reshape(3, 4)
    assert total_norm([base[:, ::2]]).item() == pytest.approx(math.sqrt(sum(x * x for x in (0, 2, 4, 6, 8, 10))))
    assert total_norm([torch.ones(1).expand(9)]).item() == 3


def test_mixed_dtypes_are_summed_in_the_widest():
    tensors = [torch.full((3,), 2.0, dtype=dtype) for dtype in (torch.float16, torch.float64, torch.float32)]
    for options in ({}, {"scaled": True}, {"foreach": False}):
        norm = total_norm(tensors, **options)
        assert norm.dtype == torch.float64 and norm.item() == pytest.approx(6.0, rel=1e-7)


@pytest.mark.parametrize("order", [2.0, math.inf])
@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"scaled": True}])
@pytest.mark.parametrize(("entry", "shown"), [(math.nan, math.isnan), (math.inf, math.isinf), (-math.inf, math.isinf)])
def test_nan_and_infinity_show_in_the_total_and_in_their_layer_only(order, options, entry, shown):
    model = network([1.0, 2.0], [3.0, entry], [0.0, 0.0])
    assert shown(total_norm([parameter.grad for parameter in model.parameters()], order, **options).item())
    first, second, third = gradient_norms(model, order, scaled=options.get("scaled", False)).norms.tolist()
    assert shown(second) and math.isfinite(first) and third == 0


def test_nan_wins_over_infinity():
    tensors = [torch.tensor([math.inf]), torch.tensor([math.nan])]
    for scaled in (False, True):
        assert math.isnan(total_norm(tensors, scaled=scaled).item())


def test_an_overflowed_norm_of_finite_entries_is_told_from_an_infinite_one():
    assert torch.isinf(total_norm(LARGE))
    assert total_norm(LARGE, math.inf).item() == pytest.approx(3e19)
    assert total_norm(LARGE, scaled=True).item() == pytest.approx(6e19)
    assert torch.isinf(total_norm([LARGE, torch.tensor([math.inf])], scaled=True))
    # bfloat16 has the range of float32, and so do the sums.
    assert total_norm(LARGE.bfloat16(), scaled=True).item() == pytest.approx(6e19, rel=1e-2)


@given(st.integers(-120, 120), st.lists(st.floats(0.5, 2, width=32), min_size=1, max_size=6))
def test_scaled_norms_are_exact_over_the_whole_range(exponent, mantissas):
    tensor = torch.tensor(mantissas, dtype=torch.float64).mul(2.0**exponent).float()
    squares = sum(Fraction(x) ** 2 for x in tensor.double().tolist())
    norm = Fraction(total_norm([tensor, tensor.new_zeros(2)], scaled=True).item())
    assert abs(norm**2 / squares - 1) < 1e-5


def test_a_sum_of_finite_norms_that_overflows_is_scaled_too():
    tensors = [torch.tensor([3e19]) for _ in range(4)]
    assert total_norm(tensors, scaled=True).item() == pytest.approx(6e19)
    assert total_norm([torch.tensor([3e-30, 4e-30])], scaled=True).item() == pytest.approx(5e-30)


def test_float16_norms_above_its_range_are_finite():
    half = torch.full((4,), 6e4, dtype=torch.float16)
    assert torch.isinf(torch.nn.utils.get_total_norm([half]))
    assert total_norm(half).item() == pytest.approx(1.2e5, rel=1e-3)
    parameter = torch.zeros(4, dtype=torch.float16, requires_grad=True)
    parameter.grad = half
    assert gradient_norms([("a", parameter)]).norms.item() == pytest.approx(1.2e5, rel=1e-3)


def test_norms_are_per_parameter_in_order_of_registration_without_those_that_have_no_gradient():
    names, norms = gradient_norms(network([3.0, 4.0], None, [0.0, 0.5], [6.0, 8.0]))
    assert names == ("0.weight", "2.weight", "3.weight")
    torch.testing.assert_close(norms, torch.tensor([5.0, 0.5, 10.0]))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scaled", [False, True])
def test_norms_of_mixed_dtypes_keep_their_order(order, scaled):
    named = []
    for i, dtype in enumerate([torch.float32, torch.float64, torch.float32, torch.bfloat16, torch.float64]):
        parameter = torch.zeros(2, dtype=dtype, requires_grad=True)
        parameter.grad = torch.tensor([i, i + 0.5], dtype=dtype)
        named.append((f"p{i}", parameter))
    names, norms = gradient_norms(iter(named), order, scaled=scaled)
    assert names == tuple(name for name, _ in named) and norms.dtype == torch.float64
    assert norms.tolist() == pytest.approx([norm_by_sum([i, i + 0.5], order) for i in range(5)], rel=1e-6)


def test_norm_of_the_norms_is_the_total():
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2))
    model(torch.randn(3, 5, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    total = total_norm([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(torch.linalg.vector_norm(gradient_norms(model).norms), total)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_host_reads_nothing_until_it_converts_and_then_once(scaled):
    model = network([3.0, 4.0], [0.0, 0.5])
    with host_reads() as reads:
        total_norm([parameter.grad for parameter in model.parameters()], scaled=scaled)
        norms = gradient_norms(model, scaled=scaled).norms
        assert reads == []
        norms.tolist()
    assert reads == ["Tensor.tolist"]


def test_gradients_with_a_graph_and_inference_tensors_are_measured_without_recording():
    parameter = torch.ones(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(parameter.pow(3).sum(), parameter, create_graph=True)
    assert not total_norm([gradient]).requires_grad
    with torch.inference_mode():
        assert total_norm([torch.ones(4)]).item() == 2


def test_error_if_nonfinite_names_the_order_and_the_value():
    with pytest.raises(RuntimeError, match=r"order 2.0 is inf.*find_nonfinite"):
        total_norm(LARGE, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match="is nan"):
        total_norm(torch.tensor([math.nan]), error_if_nonfinite=True)
    assert total_norm(torch.tensor([3.0, 4.0]), error_if_nonfinite=True).item() == 5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: total_norm([1.0]), TypeError, r"tensors\[0\] must be a torch.Tensor"),
        (lambda: total_norm([torch.ones(1), torch.ones(2).to_sparse()]), TypeError, r"tensors\[1\] must be dense"),
        (lambda: total_norm([torch.ones(2, dtype=torch.complex64)]), TypeError, "real floating dtype"),
        (lambda: total_norm(torch.ones(2), 0), ValueError, "norm_type must be > 0"),
        (lambda: total_norm(torch.ones(2), -math.inf), ValueError, "norm_type must be > 0"),
        (lambda: total_norm(torch.ones(2), math.nan), ValueError, "norm_type must be > 0"),
        (lambda: total_norm(torch.ones(2), "fro"), TypeError, "norm_type must be a Python number"),
        (lambda: total_norm(torch.ones(2), True), TypeError, "norm_type must be a Python number"),
        (lambda: gradient_norms(network(None)), ValueError, "after backward.* before zero_grad"),
        (lambda: gradient_norms([]), ValueError, "no parameter has a gradient"),
        (lambda: gradient_norms(3), TypeError, "model must be a module or pairs"),
        (lambda: gradient_norms(network([1.0, 1.0]).parameters()), TypeError, "model must be a module or pairs"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_works_under_compile():
    model = network([3.0, 4.0], [0.0, 0.5])
    compiled = torch.compile(lambda module: gradient_norms(module).norms, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(model), torch.tensor([5.0, 0.5]))


@pytest.mark.gpu
@pytest.mark.parametrize("scaled", [False, True])
def test_on_a_gpu_nothing_waits(scaled):
    tensors = [tensor.cuda() for tensor in some_tensors()]
    named = []
    for i, gradient in enumerate(tensors):
        parameter = torch.zeros_like(gradient, requires_grad=True)
        parameter.grad = gradient
        named.append((str(i), parameter))
    torch.cuda.set_sync_debug_mode("error")
    try:
        total, norms = total_norm(tensors, scaled=scaled), gradient_norms(named, scaled=scaled).norms
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert total.item() == pytest.approx(norm_by_sum(flat(tensors), 2), rel=1e-5)
    assert norms.tolist() == pytest.approx([norm_by_sum(flat([tensor]), 2) for tensor in tensors], rel=1e-5)


@pytest.mark.gpu
def test_tensors_on_two_devices_meet_on_the_first():
    norm = total_norm([torch.full((3,), 2.0, device="cuda"), torch.full((1,), 2.0)])
    assert norm.device.type == "cuda" and norm.item() == pytest.approx(4.0)
