"""Newton's and the saddle-free step against numpy, and their refusals."""

import math

import numpy
import pytest
import torch

from steepest.second_order import newton_step, saddle_free_newton_step


def random_symmetric(size, seed, eigenvalues=None):
    """Return a symmetric float64 matrix, numpy, with the given eigenvalues or those of a random one."""
    generator = numpy.random.default_rng(seed)
    if eigenvalues is None:
        matrix = generator.standard_normal((size, size))
        return (matrix + matrix.T) / 2
    basis, _ = numpy.linalg.qr(generator.standard_normal((size, size)))
    return basis @ numpy.diag(eigenvalues) @ basis.T


@pytest.mark.parametrize("seed", range(5))
def test_newton_reaches_the_stationary_point_of_a_quadratic_in_one_step(seed):
    # An indefinite Hessian too: Newton goes to the saddle.
    hessian = torch.from_numpy(random_symmetric(6, seed))
    generator = torch.Generator().manual_seed(seed)
    stationary = torch.randn(6, dtype=torch.float64, generator=generator)
    point = torch.randn(6, dtype=torch.float64, generator=generator)
    gradient = hessian @ (point - stationary)
    torch.testing.assert_close(point + newton_step(gradient, hessian), stationary, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("damping", [0.0, 0.3, 7])
def test_newton_step_solves_the_damped_system(damping):
    hessian = random_symmetric(5, 3)
    gradient = numpy.random.default_rng(4).standard_normal(5)
    expected = -numpy.linalg.inv(hessian + damping * numpy.eye(5)) @ gradient
    step = newton_step(torch.from_numpy(gradient), torch.from_numpy(hessian), damping)
    numpy.testing.assert_allclose(step.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("damping", [0.0, 0.3, 7])
def test_saddle_free_step_divides_by_absolute_eigenvalues(damping):
    hessian = random_symmetric(5, 8)
    gradient = numpy.random.default_rng(9).standard_normal(5)
    eigenvalues, eigenvectors = numpy.linalg.eigh(hessian)
    assert eigenvalues.min() < 0 < eigenvalues.max()
    expected = sum(-(e @ gradient) / (abs(v) + damping) * e for v, e in zip(eigenvalues, eigenvectors.T, strict=True))
    step = saddle_free_newton_step(torch.from_numpy(gradient), torch.from_numpy(hessian), damping)
    numpy.testing.assert_allclose(step.numpy(), expected, rtol=1e-10)
    assert step.numpy() @ gradient < 0


def test_saddle_free_step_is_newtons_where_the_hessian_is_positive_definite():
    hessian = torch.from_numpy(random_symmetric(4, 1, eigenvalues=[0.1, 1, 2, 30]))
    gradient = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(
        saddle_free_newton_step(gradient, hessian), newton_step(gradient, hessian), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("method", [newton_step, saddle_free_newton_step])
def test_a_singular_hessian_is_refused_with_the_way_out(method):
    gradient = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"singular.*damping=0\.0.*larger damping"):
        method(gradient, torch.diag(torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)))
    assert torch.isfinite(method(gradient, torch.zeros(3, 3, dtype=torch.float64), damping=0.5)).all()


def test_saddle_free_step_sees_a_singularity_hidden_by_rounding():
    hessian = torch.from_numpy(random_symmetric(6, 2, eigenvalues=[0, 1, -2, 3, -4, 5]))
    with pytest.raises(ValueError, match="working precision"):
        saddle_free_newton_step(torch.ones(6, dtype=torch.float64), hessian)


def test_saddle_free_step_is_refused_where_the_eigenvalues_are_not_finite(monkeypatch):
    # On the CPU eigh raises for NaN; this is what comes of one that doesn't.
    nan = torch.full((2,), math.nan), torch.eye(2)
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: nan)
    with pytest.raises(ValueError, match="not finite"):
        saddle_free_newton_step(torch.ones(2), torch.eye(2))


@pytest.mark.parametrize("method", [newton_step, saddle_free_newton_step])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_inputs_are_unchanged(method, dtype):
    gradient = torch.tensor([1.0, 2.0], dtype=dtype)
    hessian = torch.tensor([[2.0, 1.0], [1.0, -3.0]], dtype=dtype)
    copies = gradient.clone(), hessian.clone()
    step = method(gradient, hessian, damping=0.25)
    assert step.dtype == dtype and step.shape == (2,)
    assert torch.equal(gradient, copies[0]) and torch.equal(hessian, copies[1])


@pytest.mark.parametrize("method", [newton_step, saddle_free_newton_step])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gradient": [1.0, 2.0]}, TypeError, "gradient must be a torch.Tensor"),
        ({"gradient": torch.ones(2, dtype=torch.int64)}, TypeError, "gradient must have dtype"),
        ({"gradient": torch.ones(2, dtype=torch.complex64)}, TypeError, "gradient must have dtype"),
        ({"gradient": torch.ones(2, 1)}, ValueError, "gradient must be a non-empty vector"),
        ({"gradient": torch.ones(0)}, ValueError, "gradient must be a non-empty vector"),
        ({"hessian": torch.ones(2)}, ValueError, r"hessian must have shape \(2, 2\)"),
        ({"hessian": torch.ones(3, 3)}, ValueError, r"hessian must have shape \(2, 2\)"),
        ({"hessian": torch.eye(2, dtype=torch.float64)}, TypeError, "hessian has dtype torch.float64"),
        ({"hessian": torch.eye(2).to_sparse()}, TypeError, "hessian must be dense"),
        ({"damping": -1.0}, ValueError, "damping must be finite and >= 0"),
        ({"damping": float("nan")}, ValueError, "damping must be finite and >= 0"),
        ({"damping": "1"}, TypeError, "damping must be a Python number"),
    ],
)
def test_wrong_arguments_are_named(method, change, error, message):
    arguments = {"gradient": torch.ones(2), "hessian": torch.eye(2), "damping": 0.0} | change
    with pytest.raises(error, match=message):
        method(**arguments)
