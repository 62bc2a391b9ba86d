"""Linear conjugate gradients beside scipy's iterates and dense solves, and its account of trouble."""

import importlib
import itertools
import math

import numpy
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.second_order import conjugate_gradient, hessian_vector_product
from tests.host_reads import host_reads

# The package exports a function of this name too.
MODULE = importlib.import_module("steepest.second_order.conjugate_gradient")


def matrix_with(eigenvalues, seed=0, dtype=torch.float64):
    """Return a symmetric matrix with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    matrix = basis @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    return ((matrix + matrix.T) / 2).to(dtype)


def random_vector(size, seed=1, dtype=torch.float64):
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def recording(matrix):
    """Return a matvec with the list of the vectors that it was given."""
    seen = []

    def matvec(vector):
        seen.append(vector.clone())
        return matrix @ vector

    return matvec, seen


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_every_iterate_is_scipys(started, preconditioned):
    # Well conditioned: where many more steps are taken, rounding drives any two implementations apart.
    matrix = matrix_with(torch.linspace(1, 20, 150)) + torch.diag(torch.linspace(0, 50, 150))
    b, x0 = random_vector(150), random_vector(150, seed=2) if started else None
    preconditioner = torch.diag(1 / matrix.diagonal()) if preconditioned else None
    own, peers = [], []
    result = conjugate_gradient(matrix, b, x0, rtol=1e-7, preconditioner=preconditioner, callback=own.append)
    end, code = scipy.sparse.linalg.cg(
        matrix.numpy(),
        b.numpy(),
        None if x0 is None else x0.numpy(),
        rtol=1e-7,
        M=None if preconditioner is None else preconditioner.numpy(),
        callback=lambda x: peers.append(x.copy()),
    )
    assert code == 0 and result.converged and result.iterations == len(own) == len(peers) >= 10
    scale = numpy.abs(end).max()
    for x, peer in zip(own, peers, strict=True):
        numpy.testing.assert_allclose(x.numpy(), peer, rtol=0, atol=1e-10 * scale)
    assert torch.equal(result.solution, own[-1])


def test_arguments_and_defaults_are_scipys():
    matrix, b = matrix_with(torch.linspace(1, 20, 150)), random_vector(150)
    for options in ({}, {"atol": 0.5}, {"rtol": 1e-2}, {"rtol": 0.0, "atol": 1e-3}):
        count = []
        scipy.sparse.linalg.cg(matrix.numpy(), b.numpy(), callback=count.append, **options)
        assert conjugate_gradient(matrix, b, **options).iterations == len(count)
    # 10 D iterations, where the tolerance is out of reach.
    matrix, b = matrix_with([1e-9, 1e3, 1.0], dtype=torch.float32), random_vector(3, dtype=torch.float32)
    result = conjugate_gradient(lambda v: matrix @ v + 1e-3 * v.roll(1), b, rtol=1e-20)
    assert result.iterations == 30 and result.reason == "maxiter" and not result.converged


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), distinct=st.integers(1, 5))
def test_k_distinct_eigenvalues_take_k_steps(seed, distinct):
    eigenvalues = torch.linspace(1, 8, distinct).repeat(6)
    b = random_vector(len(eigenvalues), seed)
    result = conjugate_gradient(matrix_with(eigenvalues, seed), b, rtol=1e-9)
    assert result.iterations == distinct and result.residual_norm <= 1e-9 * b.norm()
    before = conjugate_gradient(matrix_with(eigenvalues, seed), b, rtol=1e-9, maxiter=max(1, distinct - 1))
    assert distinct == 1 or before.residual_norm > 1e-5 * b.norm()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), condition=st.floats(1.5, 200), preconditioned=st.booleans())
def test_directions_are_conjugate_and_the_energy_error_keeps_its_bound(seed, condition, preconditioned):
    matrix = matrix_with(torch.logspace(0, math.log10(condition), 20), seed)
    b = random_vector(20, seed + 1)
    matvec, directions = recording(matrix)
    exact = torch.linalg.solve(matrix, b)
    errors = [exact]
    # A well-conditioned symmetric positive definite matrix that has nothing to do with A.
    preconditioner = matrix_with(torch.linspace(1, 2, 20), seed + 2) if preconditioned else None
    conjugate_gradient(
        matvec,
        b,
        maxiter=10,
        rtol=1e-12,
        preconditioner=preconditioner,
        callback=lambda x: errors.append(exact - x),
        true_residual=False,
    )
    stacked = torch.stack(directions)  # (steps, D)
    products = stacked @ matrix @ stacked.T
    scale = products.diagonal().sqrt()
    off_diagonal = products / torch.outer(scale, scale) - torch.eye(len(stacked), dtype=torch.float64)
    assert off_diagonal.abs().max() < 1e-8
    energies = [error @ matrix @ error for error in errors]
    assert all(after < before for before, after in itertools.pairwise(energies))
    if not preconditioned:
        root = math.sqrt(condition)
        rate = (root - 1) / (root + 1)
        for k, energy in enumerate(energies):
            assert energy.sqrt() <= 2 * rate**k * energies[0].sqrt() * (1 + 1e-9) + 1e-12  # N&W, eq. 5.36


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("callables", [False, True])
def test_a_preconditioned_solve_is_the_dense_solve(dtype, callables):
    scales = torch.logspace(0, 3, 30, dtype=dtype)
    matrix = scales[:, None] * matrix_with(torch.linspace(1, 2, 30), dtype=dtype) * scales
    b = random_vector(30, dtype=dtype)
    exact = torch.linalg.solve(matrix.double(), b.double())
    diagonal = matrix.diagonal()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    if callables:
        result = conjugate_gradient(matrix.matmul, b, rtol=tolerance, preconditioner=lambda r: r / diagonal)
    else:
        result = conjugate_gradient(matrix, b, rtol=tolerance, preconditioner=torch.diag(1 / diagonal))
    assert result.solution.dtype == dtype and result.iterations < 30
    error = (result.solution - exact) @ matrix.double() @ (result.solution - exact) / (b.double() @ exact)
    assert error.sqrt() < 100 * tolerance
    plain = conjugate_gradient(matrix, b, rtol=tolerance, maxiter=result.iterations)
    assert plain.recurrence_norm > 10 * result.recurrence_norm


def test_an_exact_preconditioner_takes_one_step():
    matrix, b = matrix_with(torch.logspace(0, 5, 20)), random_vector(20)
    result = conjugate_gradient(matrix, b, rtol=1e-8, preconditioner=torch.linalg.inv(matrix))
    assert result.iterations == 1 and result.converged


def test_both_residuals_are_reported_and_rounding_is_not_convergence():
    matrix = matrix_with(torch.logspace(0, 5, 50), dtype=torch.float32)
    b = random_vector(50, dtype=torch.float32)
    result = conjugate_gradient(matrix, b, rtol=1e-6, maxiter=5000)
    true = b.double() - matrix.double() @ result.solution.double()
    assert result.recurrence_norm <= 1e-6 * b.norm() < 0.1 * result.residual_norm
    assert 0.5 < result.residual_norm / true.norm() < 2
    assert result.reason.startswith("rounding") and not result.converged
    unchecked = conjugate_gradient(matrix, b, rtol=1e-6, maxiter=5000, true_residual=False)
    assert unchecked.converged and unchecked.reason.startswith("tolerance")
    assert math.isnan(unchecked.residual_norm) and torch.equal(unchecked.solution, result.solution)


def test_the_norms_are_those_of_the_residual():
    matrix, b = matrix_with(torch.linspace(1, 9, 12)), random_vector(12)
    for steps in (1, 3, 6):
        result = conjugate_gradient(matrix, b, x0=torch.ones(12).double(), maxiter=steps, rtol=0.0)
        norm = (b - matrix @ result.solution).norm().item()
        assert result.residual_norm == pytest.approx(norm, rel=1e-12)
        assert result.recurrence_norm == pytest.approx(norm, rel=1e-9) and result.iterations == steps


@pytest.mark.parametrize(("started", "checked"), [(False, False), (False, True), (True, False), (True, True)])
def test_one_product_a_step_and_one_transfer(monkeypatch, started, checked):
    matvec, seen = recording(matrix_with(torch.linspace(1, 50, 30)))
    b, x0 = random_vector(30), random_vector(30, 3) if started else None
    transfers, outside = [], []
    genuine = MODULE.to_host

    def counted(*scalars):
        transfers.append(len(scalars))
        outside.extend(reads)
        values = genuine(*scalars)
        reads.clear()
        return values

    monkeypatch.setattr(MODULE, "to_host", counted)
    with host_reads() as reads:
        result = conjugate_gradient(
            matvec, b, x0, maxiter=7, rtol=0.0, preconditioner=lambda r: 2 * r, true_residual=checked
        )
    assert len(seen) == 7 + started + checked and result.iterations == 7
    assert transfers == [2] + [3] * 7 + [1] * checked
    assert outside == reads == []


def test_negative_curvature_ends_it_with_the_direction_and_the_last_iterate():
    matrix = matrix_with([-1.0, 2.0, 3.0, 5.0, 8.0, 9.0, 11.0, 20.0])
    b = random_vector(8)
    iterates = []
    result = conjugate_gradient(matrix, b, callback=iterates.append)
    assert result.reason == "negative curvature: d^T A d <= 0" and not result.converged
    assert 0 < result.iterations == len(iterates) < 8
    assert result.direction @ matrix @ result.direction <= 0
    assert torch.equal(result.solution, iterates[-1])
    assert result.residual_norm == pytest.approx((b - matrix @ result.solution).norm().item(), rel=1e-12)
    # All directions before it have positive curvature, and it is conjugate to them.
    matvec, directions = recording(matrix)
    conjugate_gradient(matvec, b, true_residual=False)
    assert torch.equal(directions[-1], result.direction) and len(directions) == result.iterations + 1
    for direction in directions[:-1]:
        assert direction @ matrix @ direction > 0
        assert abs(direction @ matrix @ result.direction) < 1e-8 * direction.norm() * result.direction.norm()


@pytest.mark.parametrize("curvature", [0.0, -2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_positive_curvature_at_once_the_start_is_returned(curvature, dtype):
    b, x0 = torch.tensor([1.0, 2.0], dtype=dtype), torch.tensor([0.5, -3.0], dtype=dtype)
    result = conjugate_gradient(lambda v: curvature * v, b)
    assert result.iterations == 0 and torch.equal(result.solution, torch.zeros(2, dtype=dtype))
    assert torch.equal(result.direction, b) and result.recurrence_norm == result.residual_norm
    result = conjugate_gradient(lambda v: curvature * v, b, x0)
    assert torch.equal(result.solution, x0) and result.solution.data_ptr() != x0.data_ptr()
    assert torch.equal(result.direction, b - curvature * x0)


def test_a_right_side_of_zero_has_the_solution_zero():
    matrix = matrix_with([1.0, 2.0, 3.0])
    for x0 in (None, torch.ones(3).double()):
        result = conjugate_gradient(matrix, torch.zeros(3).double(), x0)
        assert result.converged and torch.equal(result.solution, torch.zeros(3).double())
        assert result.residual_norm == result.recurrence_norm == result.iterations == 0


def test_a_start_within_the_tolerance_is_kept():
    matrix, b = matrix_with([1.0, 2.0, 3.0]), random_vector(3)
    x0 = torch.linalg.solve(matrix, b)
    result = conjugate_gradient(matrix, b, x0)
    assert result.converged and result.iterations == 0 and torch.equal(result.solution, x0)
    assert result.residual_norm < 1e-14 and result.direction is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_ends_it_with_the_last_finite_iterate(value):
    matrix, b = matrix_with(torch.linspace(1, 10, 6)), random_vector(6)
    calls, iterates = [], []

    def matvec(vector):
        calls.append(1)
        return matrix @ vector * (value if len(calls) == 3 else 1.0)

    result = conjugate_gradient(matvec, b, callback=iterates.append)
    assert result.reason == "non-finite product or residual" and not result.converged
    assert result.iterations == 2 and torch.equal(result.solution, iterates[-1])
    result = conjugate_gradient(matrix, b * value)
    assert result.reason.startswith("non-finite") and result.iterations == 0


def test_a_preconditioner_that_is_not_positive_definite_is_named():
    matrix, b = matrix_with(torch.linspace(1, 10, 6)), random_vector(6)
    result = conjugate_gradient(matrix, b, preconditioner=lambda r: -r)
    assert result.reason.startswith("r^T M r <= 0") and result.iterations == 0 and not result.converged
    assert result.direction is None


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_square_outside_the_range_of_float32_is_not_convergence(size):
    b = torch.tensor([1.0, 2.0]) * size
    result = conjugate_gradient(lambda v: 3 * v, b)
    assert not result.converged and torch.equal(result.solution, torch.zeros(2))
    assert result.residual_norm == pytest.approx(math.sqrt(5) * size, rel=1e-6)


def test_operators_that_return_their_argument_are_safe():
    b = random_vector(5)
    result = conjugate_gradient(lambda v: v, b, preconditioner=lambda r: r)
    assert torch.equal(result.solution, b) and result.iterations == 1
    matrix = matrix_with(torch.linspace(1, 10, 5))
    same = conjugate_gradient(matrix, b, preconditioner=lambda r: r)
    assert torch.equal(same.solution, conjugate_gradient(matrix, b).solution)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_inputs_stay_as_they_are_and_nothing_is_tracked(mode):
    matrix = matrix_with(torch.linspace(1, 10, 6)).requires_grad_()
    b, x0 = random_vector(6).requires_grad_(), random_vector(6, 2).requires_grad_()
    before = [tensor.detach().clone() for tensor in (matrix, b, x0)]
    iterates = []
    with mode():
        result = conjugate_gradient(matrix.T, b, x0, preconditioner=lambda r: matrix @ r, callback=iterates.append)
    assert result.converged and not result.solution.requires_grad
    assert all(torch.equal(tensor.detach(), copy) for tensor, copy in zip((matrix, b, x0), before, strict=True))
    assert matrix.grad is None and len({x.data_ptr() for x in iterates}) == len(iterates)


def test_a_hessian_vector_product_serves_as_matvec():
    point = random_vector(8)
    gradient = torch.func.grad(lambda x: torch.cosh(x).sum() + 0.1 * x.sum() ** 2)(point)
    result = conjugate_gradient(
        lambda v: hessian_vector_product(lambda x: torch.cosh(x).sum() + 0.1 * x.sum() ** 2, point, v),
        -gradient,
        rtol=1e-10,
    )
    hessian = torch.diag(torch.cosh(point)) + 0.2
    torch.testing.assert_close(result.solution, torch.linalg.solve(hessian, -gradient), rtol=1e-8, atol=1e-8)


EYE, ONES = torch.eye(2), torch.ones(2)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((EYE, torch.ones(2, 2)), {}, ValueError, "b must be a non-empty vector"),
        ((EYE, torch.ones(0)), {}, ValueError, "b must be a non-empty vector"),
        ((EYE, torch.ones(2).half()), {}, TypeError, "b must have dtype float32 or float64"),
        ((EYE, torch.ones(2).cfloat()), {}, TypeError, "b must have dtype float32 or float64"),
        ((EYE, ONES, torch.ones(3)), {}, ValueError, r"x0 must have shape \(2,\)"),
        ((EYE, ONES, torch.ones(2).double()), {}, TypeError, "x0 has dtype torch.float64"),
        ((torch.eye(3), ONES), {}, ValueError, r"matvec must have shape \(2, 2\)"),
        ((EYE.double(), ONES), {}, TypeError, "matvec has dtype torch.float64"),
        ((EYE.to_sparse(), ONES), {}, TypeError, "matvec must be dense"),
        (([[1.0]], ONES), {}, TypeError, "matvec must be a callable or a dense matrix, got list"),
        ((lambda v: v[:1], ONES), {}, ValueError, r"matvec\(vector\) must have shape \(2,\)"),
        ((lambda v: v.double(), ONES), {}, TypeError, r"matvec\(vector\) has dtype torch.float64"),
        ((lambda v: 1.0, ONES), {}, TypeError, r"matvec\(vector\) must be a torch.Tensor"),
        ((EYE, ONES), {"preconditioner": torch.eye(3)}, ValueError, "preconditioner must have shape"),
        ((EYE, ONES), {"preconditioner": lambda r: r[:1]}, ValueError, r"preconditioner\(vector\) must"),
        ((EYE, ONES), {"rtol": -1.0}, ValueError, "rtol must be >= 0"),
        ((EYE, ONES), {"atol": math.nan}, ValueError, "atol must be finite"),
        ((EYE, ONES), {"maxiter": 0}, ValueError, "maxiter must be >= 1"),
        ((EYE, ONES), {"maxiter": 2.0}, TypeError, "maxiter must be a Python int"),
        ((EYE, ONES), {"callback": 3}, TypeError, "callback must be callable or None"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        conjugate_gradient(*arguments, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_follows_the_cpu_with_one_transfer_a_step():
    matrix, b = matrix_with(torch.linspace(1, 50, 30)), random_vector(30)
    on_cpu = conjugate_gradient(matrix, b, rtol=1e-8)
    on_gpu = conjugate_gradient(matrix.cuda(), b.cuda(), rtol=1e-8)
    assert on_gpu.solution.is_cuda and on_gpu.iterations == on_cpu.iterations
    torch.testing.assert_close(on_gpu.solution.cpu(), on_cpu.solution, rtol=1e-9, atol=1e-9)

    matrix, b = matrix.cuda(), b.cuda()
    permitted = MODULE.to_host

    def quiet(*scalars):
        torch.cuda.set_sync_debug_mode("default")
        values = permitted(*scalars)
        torch.cuda.set_sync_debug_mode("error")
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "to_host", quiet)
        torch.cuda.set_sync_debug_mode("error")
        try:
            assert conjugate_gradient(matrix, b, rtol=1e-8).converged
        finally:
            torch.cuda.set_sync_debug_mode("default")
