"""Hutchinson's estimators against their laws of mean and variance, exact over all sign vectors of small matrices."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.second_order import hessian_vector_product, hutchinson_diagonal, hutchinson_trace
from steepest.second_order import hutchinson as module

ESTIMATORS = {"trace": hutchinson_trace, "diagonal": hutchinson_diagonal}


def random_matrix(size, seed, symmetric=True):
    matrix = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (matrix + matrix.T) / 2 if symmetric else matrix


def samples_over_all_signs(estimator, matrix, monkeypatch):
    """Return one estimate for each of the 2^D sign vectors, which come up equally often."""
    size = len(matrix)
    estimates = []
    for signs in itertools.product([-1.0, 1.0], repeat=size):
        probe = torch.tensor(signs)
        monkeypatch.setattr(module, "random_signs", lambda size, device, generator, probe=probe: probe.clone())
        estimates.append(estimator(matrix.mv, matrix[0]))
    return torch.stack(estimates)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_mean_over_all_sign_vectors_is_exact(size, symmetric, monkeypatch):
    matrix = random_matrix(size, seed=size, symmetric=symmetric)
    traces = samples_over_all_signs(hutchinson_trace, matrix, monkeypatch)
    diagonals = samples_over_all_signs(hutchinson_diagonal, matrix, monkeypatch)
    torch.testing.assert_close(traces.mean(), matrix.trace(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(diagonals.mean(dim=0), matrix.diagonal(), rtol=1e-13, atol=1e-13)
    assert traces.shape == (2**size,) and diagonals.shape == (2**size, size)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_variance_over_all_sign_vectors_is_that_of_the_law(size, monkeypatch):
    matrix = random_matrix(size, seed=10 + size)
    off_diagonal = matrix - matrix.diagonal().diag()
    traces = samples_over_all_signs(hutchinson_trace, matrix, monkeypatch)
    diagonals = samples_over_all_signs(hutchinson_diagonal, matrix, monkeypatch)
    torch.testing.assert_close(traces.var(correction=0), 2 * off_diagonal.square().sum(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        diagonals.var(dim=0, correction=0), off_diagonal.square().sum(dim=1), rtol=1e-12, atol=1e-13
    )


def test_drawn_samples_follow_the_law_of_mean_and_variance():
    # Of n draws the mean has the standard error √(V / n), the variance √((κ - 1) / n) V with the kurtosis κ, which
    # the sixteen sign vectors give. Bounds of five standard errors.
    matrix, draws = random_matrix(4, seed=3), 5000
    generator = torch.Generator().manual_seed(0)
    traces = torch.stack([hutchinson_trace(matrix.mv, matrix[0], generator=generator) for _ in range(draws)])
    variance = 2 * (matrix - matrix.diagonal().diag()).square().sum()
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    forms = torch.einsum("ni,ij,nj->n", signs, matrix, signs)
    kurtosis = ((forms - matrix.trace()) ** 4).mean() / variance**2
    assert abs(traces.mean() - matrix.trace()) <= 5 * (variance / draws).sqrt()
    assert abs(traces.var() / variance - 1) <= 5 * ((kurtosis - 1) / draws).sqrt()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_variance_falls_with_the_number_of_independent_samples(name):
    # A probe that is used again would leave the variance where it was.
    matrix, draws, n_samples = torch.tensor([[1.0, 2.0], [2.0, -1.0]], dtype=torch.float64), 2000, 16
    generator = torch.Generator().manual_seed(1)
    means = torch.stack([ESTIMATORS[name](matrix.mv, matrix[0], n_samples, generator=generator) for _ in range(draws)])
    # 4 z_1 z_2 and 2 z_1 z_2: variances 16 and 4 for one sample.
    expected = (16.0 if name == "trace" else 4.0) / n_samples
    variances = means.var(dim=0)
    # A sum of 16 independent signs has the kurtosis 3 - 2 / 16; five standard errors of the variance.
    assert ((variances / expected - 1).abs() <= 5 * math.sqrt(2 / draws)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_sample_of_a_diagonal_matrix_is_exact(dtype):
    diagonal = torch.tensor([3.0, -2.0, 0.0, 1e3], dtype=dtype)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(hutchinson_diagonal(lambda v: diagonal * v, diagonal, generator=generator), diagonal)
        trace = hutchinson_trace(lambda v: diagonal * v, diagonal, generator=generator)
        assert trace.item() == 1001 and trace.dtype == dtype and trace.shape == ()


@settings(max_examples=30)
@given(size=st.integers(1, 6), seed=st.integers(0, 1000), n_samples=st.integers(1, 5))
def test_an_estimate_is_the_mean_over_the_probes_that_matvec_was_shown(size, seed, n_samples):
    matrix = random_matrix(size, seed, symmetric=False)
    for name, estimator in ESTIMATORS.items():
        probes = []

        def matvec(vector, probes=probes):
            probes.append(vector.clone())
            return matrix @ vector

        estimate = estimator(matvec, matrix[0], n_samples, torch.Generator().manual_seed(seed))
        assert len(probes) == n_samples and all((probe.abs() == 1).all() for probe in probes)
        expected = torch.zeros(size, dtype=torch.float64)
        for probe in probes:
            for i in range(size):
                for j in range(size):
                    expected[i] += probe[i] * matrix[i, j] * probe[j] / n_samples
        expected = expected.sum() if name == "trace" else expected
        torch.testing.assert_close(estimate, expected, rtol=1e-12, atol=1e-12)


def test_probes_are_independent_fair_signs():
    probes = []
    hutchinson_trace(lambda v: probes.append(v) or v, torch.empty(6), 4000, torch.Generator().manual_seed(2))
    probes = torch.stack(probes)  # (4000, 6)
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    # Means of entries, of products of entries, of products of successive probes: five standard errors of 1 / √4000.
    bound = 5 / math.sqrt(4000)
    assert probes.mean(dim=0).abs().max() <= bound
    assert (probes.T @ probes / 4000 - torch.eye(6)).abs().max() <= bound
    assert (probes[1:].T @ probes[:-1] / 3999).abs().max() <= bound


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_generator_decides_the_probes(name):
    matrix = random_matrix(8, seed=4)
    estimates = [
        ESTIMATORS[name](matrix.mv, matrix[0], generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    assert torch.equal(estimates[0], estimates[1]) and not torch.equal(estimates[0], estimates[2])
    before = torch.get_rng_state()
    ESTIMATORS[name](matrix.mv, matrix[0], generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)
    ESTIMATORS[name](matrix.mv, matrix[0])
    assert not torch.equal(torch.get_rng_state(), before)


def test_hessian_vector_products_give_the_hessians_trace_and_diagonal():
    def fn(x):
        return (x**4).sum() + x.prod()

    point = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    hessian = torch.func.hessian(fn)(point)
    generator = torch.Generator().manual_seed(0)
    estimate = hutchinson_diagonal(lambda v: hessian_vector_product(fn, point, v), point, 400, generator)
    deviations = (hessian - hessian.diagonal().diag()).square().sum(dim=1).sqrt()
    assert ((estimate - hessian.diagonal()).abs() <= 5 * deviations / math.sqrt(400)).all()


def test_like_is_neither_read_nor_changed_and_may_be_of_any_stride():
    like = torch.full((4, 3), math.nan)[:, 1]
    assert torch.equal(hutchinson_diagonal(lambda v: 2 * v, like), torch.full((4,), 2.0))
    variable = torch.ones(4, requires_grad=True)
    assert hutchinson_trace(lambda v: 2 * v, variable).item() == 8 and torch.equal(variable.detach(), torch.ones(4))
    with torch.inference_mode():
        assert hutchinson_trace(lambda v: 2 * v, torch.ones(4)).item() == 8


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(
    ("matvec", "like", "options", "error", "message"),
    [
        (lambda v: v, [1.0], {}, TypeError, r"like must be a torch\.Tensor, got list"),
        (lambda v: v, torch.ones(2).half(), {}, TypeError, "like must have dtype float32 or float64"),
        (lambda v: v, torch.ones(2, 2), {}, ValueError, r"like must be a non-empty vector of shape \(D,\)"),
        (lambda v: v, torch.ones(0), {}, ValueError, "like must be a non-empty vector"),
        (lambda v: v, torch.ones(2), {"n_samples": 0}, ValueError, "n_samples must be >= 1"),
        (lambda v: v, torch.ones(2), {"n_samples": 1.0}, TypeError, "n_samples must be a Python int"),
        (lambda v: v, torch.ones(2), {"generator": 0}, TypeError, r"generator must be a torch\.Generator or None"),
        (lambda v: v.sum(), torch.ones(2), {}, ValueError, r"the result of matvec must have shape \(2,\)"),
        (lambda v: v.double(), torch.ones(2), {}, TypeError, r"the result of matvec has dtype torch\.float64"),
        (lambda v: 1.0, torch.ones(2), {}, TypeError, r"the result of matvec must be a torch\.Tensor"),
    ],
)
def test_wrong_arguments_are_named(name, matvec, like, options, error, message):
    with pytest.raises(error, match=message):
        ESTIMATORS[name](matvec, like, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_cuda_draws_on_the_device_without_waiting(name):
    diagonal = torch.tensor([3.0, -2.0, 5.0], device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        estimate = ESTIMATORS[name](lambda v: diagonal * v, diagonal, 3, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = diagonal.sum() if name == "trace" else diagonal
    torch.testing.assert_close(estimate, expected)
