"""Normalisations against loops over the papers' sums in double precision, torch's functions, and gradcheck."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.gradient_debugging import batch_norm, group_norm, layer_norm
from tests.host_reads import host_reads

EPS = 1e-3


def normal(*shape, dtype=torch.float64, seed=0, mean=0.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean).to(dtype)


def by_loops(x, set_of, eps=EPS):
    """Wu & He, equations 1 and 2: each entry by mean and biased variance of the entries in the same set."""
    sets = {}
    for index in itertools.product(*map(range, x.shape)):
        sets.setdefault(set_of(index), []).append(x[index].item())
    result = torch.empty_like(x)
    for index in itertools.product(*map(range, x.shape)):
        entries = sets[set_of(index)]
        mean = math.fsum(entries) / len(entries)
        variance = math.fsum((entry - mean) ** 2 for entry in entries) / len(entries)
        result[index] = (x[index].item() - mean) / math.sqrt(variance + eps)
    return result


def along_channels(values, x):
    return values.reshape(1, -1, *(1,) * (x.dim() - 2))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2), (2, 3, 2, 2), (1, 3, 2)])
def test_batch_norm_is_over_batch_and_space(shape):
    x, weight, bias = normal(*shape, mean=2.0), normal(3, seed=1), normal(3, seed=2)
    expected = by_loops(x, lambda index: index[1]) * along_channels(weight, x) + along_channels(bias, x)
    torch.testing.assert_close(batch_norm(x, None, None, weight, bias, training=True, eps=EPS), expected)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_layer_norm_is_over_the_last_axes(axes):
    x = normal(2, 3, 4, 2, mean=2.0)
    shape = x.shape[-axes:]
    weight, bias = normal(*shape, seed=1), normal(*shape, seed=2)
    expected = by_loops(x, lambda index: index[: 4 - axes]) * weight + bias
    torch.testing.assert_close(layer_norm(x, shape, weight, bias, EPS), expected)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("space", [(2,), (2, 3)])
def test_group_norm_is_over_neighbouring_channels_and_space(groups, space):
    x, weight, bias = normal(2, 6, *space, mean=2.0), normal(6, seed=1), normal(6, seed=2)
    # Wu & He, equation 7: channels of a group have the same floor(k / (C/G)).
    expected = by_loops(x, lambda index: (index[0], index[1] // (6 // groups)))
    expected = expected * along_channels(weight, x) + along_channels(bias, x)
    torch.testing.assert_close(group_norm(x, groups, weight, bias, EPS), expected)


def test_one_group_is_layer_norm_and_as_many_as_channels_is_instance_norm():
    x = normal(2, 6, 4, 3)
    torch.testing.assert_close(group_norm(x, 1), layer_norm(x, x.shape[1:]))
    torch.testing.assert_close(group_norm(x, 6), torch.nn.functional.instance_norm(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3), (5, 6, 3, 2), (2, 6, 2, 2, 2)])
def test_agree_with_torch(shape, affine, dtype):
    x = normal(*shape, dtype=dtype, mean=3.0)
    weight, bias = (normal(6, dtype=dtype, seed=i) if affine else None for i in (1, 2))
    pair = [(torch.linspace(0, 1, 6).to(dtype), torch.linspace(1, 2, 6).to(dtype)) for _ in range(2)]
    for training in (True, True, False):
        ours = batch_norm(x, *pair[0], weight, bias, training, 0.3, EPS)
        theirs = torch.nn.functional.batch_norm(x, *pair[1], weight, bias, training, 0.3, EPS)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(pair[0], pair[1])
    torch.testing.assert_close(
        group_norm(x, 3, weight, bias, EPS), torch.nn.functional.group_norm(x, 3, weight, bias, EPS)
    )
    last = x.transpose(1, -1)
    torch.testing.assert_close(
        layer_norm(last, (6,), weight, bias, EPS), torch.nn.functional.layer_norm(last, (6,), weight, bias, EPS)
    )
    torch.testing.assert_close(
        batch_norm(x, None, None, training=True), torch.nn.functional.batch_norm(x, None, None, training=True)
    )
    torch.testing.assert_close(layer_norm(last, 6), torch.nn.functional.layer_norm(last, (6,)))


def test_running_variance_is_unbiased_and_the_batch_is_divided_by_the_biased_one():
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    mean, variance = torch.zeros(1).double(), torch.zeros(1).double()
    y = batch_norm(x, mean, variance, training=True, momentum=1.0, eps=1e-12)
    assert y.flatten().tolist() == pytest.approx([-1.0, 1.0])
    assert (mean.item(), variance.item()) == pytest.approx((1.0, 2.0))
    batch_norm(x + 4, mean, variance, training=True, momentum=0.25)
    assert mean.item() == pytest.approx(0.75 * 1 + 0.25 * 5)


def test_evaluation_uses_and_keeps_the_running_averages():
    mean, variance = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0])
    y = batch_norm(torch.tensor([[3.0, 5.0]]), mean, variance, eps=0.0)
    assert y.tolist() == [[1.0, 1.0]]
    assert mean.tolist() == [1.0, 2.0] and variance.tolist() == [4.0, 9.0]


def test_running_averages_in_16_bits_are_widened_before_eps_is_added():
    x, mean, variance = normal(50, 3, dtype=torch.float16), torch.zeros(3).half(), torch.full((3,), 1e-5).half()
    expected = torch.nn.functional.batch_norm(x.double(), mean.double(), variance.double())
    torch.testing.assert_close(batch_norm(x, mean, variance), expected.half(), rtol=0, atol=0)


def test_running_averages_carry_no_graph():
    x, mean, variance = normal(4, 2).requires_grad_(), torch.zeros(2).double(), torch.ones(2).double()
    batch_norm(x, mean, variance, training=True).square().sum().backward()
    assert not mean.requires_grad and not variance.requires_grad and x.grad is not None


@given(st.integers(2, 5), st.integers(1, 3), st.integers(1, 4), st.floats(-5, 5), st.floats(0.5, 4))
def test_shift_and_scale_of_the_input_change_nothing(samples, groups, per_group, shift, scale):
    x = normal(samples, groups * per_group, 3)
    moved = scale * x + shift
    for norm in (
        lambda t: batch_norm(t, None, None, training=True, eps=1e-12),
        lambda t: layer_norm(t, t.shape[1:], eps=1e-12),
        lambda t: group_norm(t, groups, eps=1e-12),
    ):
        torch.testing.assert_close(norm(moved), norm(x), rtol=1e-6, atol=1e-6)


def test_only_batch_norm_mixes_samples():
    x = normal(3, 4, 5)
    other = torch.cat([x[:1], 7 * x[1:]])
    torch.testing.assert_close(layer_norm(x, (4, 5))[0], layer_norm(other, (4, 5))[0])
    torch.testing.assert_close(group_norm(x, 2)[0], group_norm(other, 2)[0])
    first, second = (batch_norm(t, None, None, training=True)[0] for t in (x, other))
    assert (first - second).abs().max() > 0.1


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2)])
def test_gradients_flow_through_mean_and_variance(shape):
    x, weight, bias = normal(*shape).requires_grad_(), normal(4, seed=1).requires_grad_(), normal(4, seed=2)
    bias.requires_grad_()
    inputs = (x, weight, bias)
    running = torch.zeros(4).double(), torch.ones(4).double()
    functions = [
        lambda x, w, b: batch_norm(x, None, None, w, b, training=True, eps=EPS),
        lambda x, w, b: batch_norm(x, *running, w, b, eps=EPS),
        lambda x, w, b: layer_norm(x.transpose(1, -1), (4,), w, b, EPS),
        lambda x, w, b: group_norm(x, 2, w, b, EPS),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_sixteen_bit_inputs_are_computed_in_float32_and_rounded_once(dtype, mean):
    x = (normal(64, 4, 3, mean=mean) * 100).to(dtype)
    weight, bias = normal(4, dtype=torch.float32, seed=1), normal(4, dtype=torch.float32, seed=2)
    running = torch.zeros(4), torch.ones(4)
    last = x.transpose(1, -1)
    pairs = [
        (
            batch_norm(x, *running, weight, bias, training=True),
            batch_norm(x.float(), None, None, weight, bias, training=True),
        ),
        (group_norm(x, 2, weight, bias), group_norm(x.float(), 2, weight, bias)),
        (layer_norm(last, 4, weight, bias), layer_norm(last.float(), 4, weight, bias)),
    ]
    for rounded, exact in pairs:
        assert rounded.dtype == dtype and torch.equal(rounded, exact.to(dtype))
    assert running[0].dtype == torch.float32
    # Weights of the inputs' own dtype give the same kind of result.
    assert group_norm(x, 2, weight.to(dtype), bias.to(dtype)).dtype == dtype


def test_a_mean_far_from_zero_does_not_cancel():
    x = torch.tensor([[4096.0, 4096.5, 4097.0, 4097.5]])
    torch.testing.assert_close(layer_norm(x, 4), layer_norm(x - 4096, 4))


def test_inputs_are_left_unchanged_and_no_value_is_read():
    x = normal(4, 6, 3, dtype=torch.float32).requires_grad_()
    before, running = x.detach().clone(), (torch.zeros(6), torch.ones(6))
    with host_reads() as reads:
        batch_norm(x, *running, training=True)
        batch_norm(x, *running)
        layer_norm(x, 3)
        group_norm(x, 2)
    assert reads == [] and torch.equal(x.detach(), before)


def test_empty_batches_non_contiguous_inputs_and_inference_mode():
    assert layer_norm(torch.empty(0, 3), 3).shape == (0, 3)
    assert group_norm(torch.empty(0, 4, 2), 2).shape == (0, 4, 2)
    x = normal(3, 5, 4).permute(1, 2, 0)
    torch.testing.assert_close(group_norm(x, 2), group_norm(x.contiguous(), 2))
    with torch.inference_mode():
        torch.testing.assert_close(layer_norm(x, 3), torch.nn.functional.layer_norm(x, (3,)))


def test_torch_and_we_refuse_one_value_per_channel_or_group():
    for x in (torch.ones(1, 3), torch.ones(1, 3, 1)):
        for function in (batch_norm, torch.nn.functional.batch_norm):
            with pytest.raises(ValueError, match=r"more than (1 value per channel|one value, got shape)"):
                function(x, None, None, training=True)
        for function in (group_norm, torch.nn.functional.group_norm):
            with pytest.raises(ValueError, match=r"more than (1 value per channel|one value, got shape)"):
                function(x, 3)
    assert batch_norm(torch.ones(1, 3), torch.zeros(3), torch.ones(3)).shape == (1, 3)


X = torch.ones(2, 4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: batch_norm(X.long(), None, None, training=True), TypeError, "input must have a real floating dtype"),
        (
            lambda: batch_norm(torch.ones(4), None, None, training=True),
            ValueError,
            r"input must have shape \(N, C, ...\)",
        ),
        (lambda: batch_norm(X, None, None), ValueError, "needed when training is False"),
        (lambda: batch_norm(X, torch.ones(4), None, training=True), ValueError, "both or neither"),
        (lambda: batch_norm(X, torch.ones(3), torch.ones(4)), ValueError, r"running_mean must have shape \(4,\)"),
        (lambda: batch_norm(X, torch.ones(4), torch.ones(4, 1)), ValueError, r"running_var must have shape \(4,\)"),
        (lambda: batch_norm(X, None, None, torch.ones(3), training=True), ValueError, r"weight must have shape \(4,\)"),
        (lambda: batch_norm(X, None, None, momentum=1.5, training=True), ValueError, r"momentum must be in \[0, 1\]"),
        (lambda: batch_norm(X, None, None, eps=0.0, training=True), ValueError, "eps must be > 0"),
        (lambda: batch_norm(X, torch.ones(4), torch.ones(4), eps=-1.0), ValueError, "eps must be >= 0"),
        (lambda: batch_norm(torch.empty(0, 4), None, None, training=True), ValueError, "more than one value"),
        (lambda: layer_norm(X, (3, 4)), ValueError, r"normalized_shape must be the end of .*\(2, 4, 3\), got \(3, 4\)"),
        (lambda: layer_norm(X, ()), ValueError, "normalized_shape must be the end"),
        (lambda: layer_norm(X, 3.0), TypeError, r"normalized_shape\[0\] must be a Python int"),
        (lambda: layer_norm(X, 3, bias=torch.ones(4)), ValueError, r"bias must have shape \(3,\)"),
        (lambda: layer_norm(X, 3, weight=[1.0] * 3), TypeError, "weight must be a torch.Tensor"),
        (lambda: layer_norm(X, 3, eps=-1.0), ValueError, "eps must be >= 0"),
        (lambda: group_norm(X, 3), ValueError, "num_groups must divide the 4 channels of input, got 3"),
        (lambda: group_norm(X, 0), ValueError, "num_groups must be >= 1"),
        (lambda: group_norm(torch.ones(4), 2), ValueError, r"input must have shape \(N, C, ...\)"),
        (lambda: group_norm(X, 2, torch.ones(2)), ValueError, r"weight must have shape \(4,\)"),
        (lambda: group_norm(X, 2, eps=math.nan), ValueError, "eps must be finite"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_work_under_compile():
    x, running = normal(4, 6, 3, dtype=torch.float32), (torch.zeros(6), torch.ones(6))

    @torch.compile(backend="aot_eager", fullgraph=True)
    def all_three(x, mean, variance):
        return batch_norm(x, mean, variance, training=True), layer_norm(x, 3), group_norm(x, 2)

    compiled = all_three(x, *running)
    expected = batch_norm(x, None, None, training=True), layer_norm(x, 3), group_norm(x, 2)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(running[0], 0.1 * x.mean((0, 2)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu_as_on_the_cpu_and_nothing_waits(dtype):
    x = normal(8, 6, 5, dtype=dtype)
    on_gpu, running = x.cuda(), (torch.zeros(6, device="cuda"), torch.ones(6, device="cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = batch_norm(on_gpu, *running, training=True), layer_norm(on_gpu, 5), group_norm(on_gpu, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = batch_norm(x, None, None, training=True), layer_norm(x, 5), group_norm(x, 3)
    for result, other in zip(results, expected, strict=True):
        torch.testing.assert_close(result.cpu(), other)
