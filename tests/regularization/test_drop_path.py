"""DropPath by the laws that any right one obeys, and against a slow loop over the samples that were kept."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.regularization import DropPath, drop_path, drop_path_rates, drop_path_residual
from tests.host_reads import host_reads


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


class SelfAttention(torch.nn.Module):
    """A branch that acts on each sample by itself."""

    def __init__(self, width, dtype):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width, dtype=dtype)
        self.attention = torch.nn.MultiheadAttention(width, 2, batch_first=True, dtype=dtype)

    def forward(self, x):
        normed = self.norm(x)
        return self.attention(normed, normed, normed, need_weights=False)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.8])
def test_the_share_of_kept_samples_is_unbiased(p, dtype):
    # 5 standard errors; a mask drawn in bfloat16 keeps 0.9883 instead of 0.99 and is 10 of them away.
    count = 400_000
    kept = drop_path(torch.ones(count, 1, dtype=dtype), p, True, generator=seeded()).ne(0).double().mean()
    assert abs(kept - (1 - p)) < 5 * math.sqrt(p * (1 - p) / count)


def test_the_expectation_is_the_input():
    # The mean of n draws of b x / (1 - p) has the standard error |x| sqrt(p / (1 - p) / n).
    p, count = 0.3, 100_000
    y = drop_path(torch.tensor([2.0, -3.0]).expand(count, 2), p, True, generator=seeded())
    error = (y.double().mean(0) - torch.tensor([2.0, -3.0])).abs()
    assert (error < 5 * torch.tensor([2.0, 3.0]) * math.sqrt(p / (1 - p) / count)).all()


def test_neighbouring_samples_are_independent():
    # Of independent signs, the mean product of neighbours has the standard error 1 / sqrt(n) about its mean.
    count = 40_000
    kept = drop_path(torch.ones(count), 0.5, True, generator=seeded()).ne(0).double()
    signs = 2 * kept - 1
    assert abs((signs[1:] * signs[:-1]).mean()) < 5 / math.sqrt(count)


@pytest.mark.parametrize("scale_by_keep", [True, False])
@pytest.mark.parametrize("value", [1.0, math.inf, math.nan])
def test_with_probability_one_all_is_zero_and_so_is_the_gradient(scale_by_keep, value):
    x = torch.full((4, 3), value, requires_grad=True)
    y = drop_path(x, 1.0, True, scale_by_keep)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(4, 3)) and torch.equal(x.grad, torch.zeros(4, 3))


def test_without_training_or_with_probability_zero_it_is_the_identity():
    x = torch.randn(5, 2)
    assert drop_path(x, 0.9) is x and drop_path(x, 0.0, True) is x
    assert DropPath(0.9).eval()(x) is x
    torch.testing.assert_close(DropPath(0.9).eval().residual(torch.sin, x), x + torch.sin(x), rtol=0, atol=0)
    torch.testing.assert_close(drop_path_residual(torch.sin, x, 0.0, True), x + torch.sin(x), rtol=0, atol=0)


def test_the_gradient_is_the_mask():
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: drop_path(x, 0.4, True, generator=seeded(3)), x)
    y = drop_path(x, 0.4, True, generator=seeded(3))
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y / x).detach())


@pytest.mark.parametrize("scale_by_keep", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 1.0])
def test_skipping_samples_gives_what_a_loop_over_them_gives(p, scale_by_keep):
    branch = SelfAttention(4, torch.float64)
    x = torch.randn(9, 3, 4, dtype=torch.float64, generator=seeded(1), requires_grad=True)
    kept = drop_path(torch.ones(9), p, True, generator=seeded(2)).ne(0).tolist()
    scale = 1 / (1 - p) if scale_by_keep and p < 1 else 1.0
    outputs = []
    for i in range(9):
        sample = x[i : i + 1]
        outputs.append(sample + scale * branch(sample) if kept[i] else sample)
    expected = torch.cat(outputs)
    cotangent = torch.randn(9, 3, 4, dtype=torch.float64, generator=seeded(4))
    inputs = [x, *branch.parameters()]
    expected_gradients = torch.autograd.grad(
        expected, inputs, cotangent, allow_unused=True, materialize_grads=True, retain_graph=True
    )

    actual = drop_path_residual(branch, x, p, True, scale_by_keep, seeded(2))
    gradients = torch.autograd.grad(actual, inputs, cotangent)
    torch.testing.assert_close(actual, expected)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)
    masked = x + drop_path(branch(x), p, True, scale_by_keep, seeded(2))
    torch.testing.assert_close(actual, masked)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(64,), (64, 10)])
def test_skipping_is_masking_bit_for_bit_where_the_branch_is_elementwise(shape, dtype):
    x = torch.randn(shape, generator=seeded()).to(dtype)
    masked = x + drop_path(x.square(), 0.3, True, generator=seeded(1))
    assert torch.equal(drop_path_residual(torch.square, x, 0.3, True, generator=seeded(1)), masked)


def test_the_branch_sees_the_kept_samples_only():
    seen = []

    def branch(samples):
        seen.append(samples)
        return samples

    x = torch.arange(1.0, 51)
    y = drop_path_residual(branch, x, 0.3, True, generator=seeded())
    assert len(seen) == 1 and torch.equal(seen[0], x[y != x]) and 25 < len(seen[0]) < 45


def test_with_no_sample_kept_parameters_get_zero_gradients():
    branch = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 4))
    x = torch.randn(3, 4)
    y = drop_path_residual(branch, x, 1.0, True)
    assert torch.equal(y, x)
    y.sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in branch.parameters())


@pytest.mark.parametrize(
    ("input_dtype", "output_dtype", "expected"),
    [
        (torch.float32, torch.bfloat16, torch.float32),  # as autocast makes it
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.float32),
    ],
)
def test_the_sum_has_the_dtype_of_a_sum(input_dtype, output_dtype, expected):
    x = torch.ones(8, 2, dtype=input_dtype)
    y = drop_path_residual(lambda samples: samples.to(output_dtype), x, 0.5, True, generator=seeded())
    assert y.dtype == expected and set(y.flatten().tolist()) == {1.0, 3.0}


def test_the_layer_passes_its_settings_on():
    layer = DropPath(0.4, scale_by_keep=False)
    x = torch.ones(1000, 2)
    y = layer(x, seeded())
    assert torch.equal(y, drop_path(x, 0.4, True, False, seeded())) and set(y.unique().tolist()) == {0.0, 1.0}
    expected = drop_path_residual(torch.exp, x, 0.4, True, False, seeded())
    assert torch.equal(layer.residual(torch.exp, x, seeded()), expected)
    assert repr(layer) == "DropPath(drop_prob=0.4, scale_by_keep=False)"
    assert DropPath().drop_prob == 0.0 and not layer.state_dict()


def test_the_generator_decides_and_the_default_one_is_torchs():
    x = torch.ones(64, 1)
    assert torch.equal(drop_path(x, 0.5, True, generator=seeded(7)), drop_path(x, 0.5, True, generator=seeded(7)))
    torch.manual_seed(7)
    assert torch.equal(drop_path(x, 0.5, True), drop_path(x, 0.5, True, generator=seeded(7)))


def test_unusual_tensors_are_taken():
    assert drop_path(torch.ones(0, 3), 0.5, True).shape == (0, 3)
    assert drop_path_residual(torch.sin, torch.ones(0, 3), 0.5, True).shape == (0, 3)
    with torch.inference_mode():
        assert drop_path(torch.ones(4, 3).T, 0.5, True).shape == (3, 4)


def test_the_memory_format_is_kept_and_the_input_unchanged():
    x = torch.randn(8, 3, 4, 5, generator=seeded()).to(memory_format=torch.channels_last)
    before = x.clone()
    for y in (
        drop_path(x, 0.5, True, generator=seeded()),
        drop_path_residual(lambda samples: samples.contiguous().sin(), x, 0.5, True, generator=seeded()),
    ):
        assert y.is_contiguous(memory_format=torch.channels_last) and not torch.equal(y, x)
    assert torch.equal(x, before)


def test_the_mask_makes_no_host_read_and_skipping_makes_one():
    x = torch.ones(16, 4)
    with host_reads() as reads:
        drop_path(x, 0.5, True)
        DropPath(0.5)(x)
    assert reads == []
    with host_reads() as reads:
        drop_path_residual(torch.sin, x, 0.5, True)
    assert reads == ["aten.nonzero"]


def test_compiles_to_one_graph():
    layer = torch.compile(DropPath(0.5), backend="eager", fullgraph=True)
    y = layer(torch.ones(200, 2))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    block = torch.compile(lambda x: drop_path_residual(torch.sin, x, 1.0, True), backend="eager")
    assert torch.equal(block(torch.ones(3, 2)), torch.ones(3, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_mask_does_not_wait(dtype):
    x = torch.ones(1000, 4, device="cuda", dtype=dtype)
    generator = seeded(device="cuda")
    drop_path(x, 0.25, True, generator=generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = drop_path(x, 0.25, True, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert y.device == x.device and 650 < y[:, 0].ne(0).sum() < 850
    skipped = drop_path_residual(torch.square, x, 0.25, True, generator=seeded(1, "cuda"))
    torch.testing.assert_close(skipped, x + drop_path(x.square(), 0.25, True, generator=seeded(1, "cuda")))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], 0.5), TypeError, "x must be a torch.Tensor"),
        ((torch.arange(3), 0.5), TypeError, "x must have a real floating dtype"),
        ((torch.tensor(1.0), 0.5), ValueError, "x must have a batch dimension"),
        ((torch.ones(2), 1.5), ValueError, "drop_prob must be in"),
        ((torch.ones(2), -0.1), ValueError, "drop_prob must be in"),
        ((torch.ones(2), math.nan), ValueError, "drop_prob must be finite"),
        ((torch.ones(2), "0.5"), TypeError, "drop_prob must be a Python number"),
        ((torch.ones(2), 0.5, True, True, 3), TypeError, "generator must be a torch.Generator"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        drop_path(*arguments)
    with pytest.raises(error, match=message):
        drop_path_residual(torch.sin, *arguments)


def test_a_layer_with_a_wrong_probability_or_a_branch_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="drop_prob must be in"):
        DropPath(2.0)
    for branch in (lambda x: x[:, :1], lambda x: x.sum(0, keepdim=True)):
        with pytest.raises(ValueError, match="branch must keep the shape"):
            drop_path_residual(branch, torch.ones(8, 2), 0.1, True, generator=seeded())


def test_rates_end_exactly_at_the_maximum_and_start_as_the_rule_says():
    for depth in (2, 3, 12, 24):
        assert drop_path_rates(depth, 0.1)[0] == 0 and drop_path_rates(depth, 0.1)[-1] == 0.1
        assert drop_path_rates(depth, 0.1, "huang")[0] > 0 and drop_path_rates(depth, 0.1, "huang")[-1] == 0.1
    assert drop_path_rates(1, 0.3) == [0.0] and drop_path_rates(1, 0.3, "huang") == [0.3]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0.1), ValueError, "depth must be >= 1"),
        ((2.0, 0.1), TypeError, "depth must be a Python int"),
        ((3, 1.1), ValueError, "drop_path_rate must be in"),
        ((3, 0.1, "nasnet"), ValueError, "rule must be 'linspace' or 'huang'"),
    ],
)
def test_wrong_arguments_of_rates_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        drop_path_rates(*arguments)


# Properties come last: where something is wrong, shrinking their examples takes longest.
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    p=st.floats(0.01, 0.99),
    scale_by_keep=st.booleans(),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_each_sample_is_dropped_whole_or_scaled(shape, p, scale_by_keep, dtype, seed):
    x = (1 + torch.rand(8, *shape, generator=seeded(seed))).to(dtype)
    before = x.clone()
    y = drop_path(x, p, True, scale_by_keep, seeded(seed))
    assert y.shape == x.shape and y.dtype == dtype and torch.equal(x, before)
    scaled = (x.double() / (1 - p) if scale_by_keep else x.double()).to(dtype)
    for sample, expected in zip(y, scaled, strict=True):
        if sample.any():
            torch.testing.assert_close(sample, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)
        else:
            assert not sample.any()


@given(depth=st.integers(1, 60), rate=st.floats(0, 1))
def test_rates_follow_the_two_rules(depth, rate):
    linspace = torch.linspace(0, rate, depth, dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(drop_path_rates(depth, rate), dtype=torch.float64), linspace)
    # Equation 4: survival p_l = 1 - (l / L)(1 - p_L).
    survival = [1 - layer / depth * (1 - (1 - rate)) for layer in range(1, depth + 1)]
    assert [1 - p for p in drop_path_rates(depth, rate, "huang")] == pytest.approx(survival)
    for rule in ("linspace", "huang"):
        rates = drop_path_rates(depth, rate, rule)
        assert len(rates) == depth and rates == sorted(rates) and rates[0] >= 0 and rates[-1] <= rate
