"""The BFGS update against its formula in matrix products, and by its defining properties."""

import numpy
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steepest.second_order import bfgs_inverse_update

numbers = st.floats(-10, 10, allow_subnormal=False)


@st.composite
def problems(draw):
    """Draw a symmetric positive definite matrix M and a pair with s^T y clearly positive."""
    size = draw(st.integers(1, 6))
    generator = numpy.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    factor = generator.standard_normal((size, size))
    inverse_hessian = factor @ factor.T + 0.1 * numpy.eye(size)
    step = numpy.array(draw(st.lists(numbers, min_size=size, max_size=size)))
    change = numpy.array(draw(st.lists(numbers, min_size=size, max_size=size)))
    assume(step @ change > 0.05 * numpy.linalg.norm(step) * numpy.linalg.norm(change) > 1e-3)
    return inverse_hessian, step, change


def update(*arrays):
    return bfgs_inverse_update(*(torch.from_numpy(array) for array in arrays)).numpy()


@settings(max_examples=60, deadline=None)
@given(problems())
def test_equals_the_product_of_matrices(problem):
    inverse_hessian, step, change = problem
    rho = 1 / (step @ change)
    v = numpy.eye(len(step)) - rho * numpy.outer(change, step)  # N&W, eq. 6.17
    expected = v.T @ inverse_hessian @ v + rho * numpy.outer(step, step)
    numpy.testing.assert_allclose(update(*problem), expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


@settings(max_examples=60, deadline=None)
@given(problems())
def test_secant_equation_symmetry_and_positive_definiteness(problem):
    _, step, change = problem
    updated = update(*problem)
    scale = numpy.linalg.norm(updated, 2)
    numpy.testing.assert_allclose(updated @ change, step, atol=1e-10 * scale * numpy.linalg.norm(change))
    numpy.testing.assert_allclose(updated, updated.T, rtol=0, atol=1e-13 * scale)
    assert numpy.linalg.eigvalsh(updated).min() > -1e-13 * scale
    if scale < 1e6:
        assert numpy.linalg.eigvalsh(updated).min() > 0


def test_its_inverse_is_the_direct_bfgs_update():
    # N&W, eq. 6.19: the update of the Hessian itself, which shares no terms with that of the inverse.
    generator = numpy.random.default_rng(1)
    factor = generator.standard_normal((5, 5))
    hessian = factor @ factor.T + numpy.eye(5)
    step, change = generator.standard_normal(5), generator.standard_normal(5)
    change *= numpy.sign(step @ change)
    product = hessian @ step
    direct = (
        hessian
        - numpy.outer(product, product) / (step @ product)
        + numpy.outer(change, change) / (change @ step)
    )
    numpy.testing.assert_allclose(
        numpy.linalg.inv(update(numpy.linalg.inv(hessian), step, change)), direct, rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_inputs_are_unchanged(dtype):
    inputs = [
        torch.eye(2, dtype=dtype),
        torch.tensor([1.0, 2.0], dtype=dtype),
        torch.tensor([2.0, 1.0], dtype=dtype),
    ]
    copies = [tensor.clone() for tensor in inputs]
    assert bfgs_inverse_update(*inputs).dtype == dtype
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, copies, strict=True))


@pytest.mark.parametrize("change", [[-1.0, 0.0], [0.0, 1.0], [float("nan"), 0.0]])
def test_a_pair_without_positive_curvature_is_refused(change):
    with pytest.raises(ValueError, match=r"step \. gradient_change must be > 0"):
        bfgs_inverse_update(torch.eye(2), torch.tensor([1.0, 0.0]), torch.tensor(change))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (torch.eye(3), torch.ones(2), torch.ones(2)),
            ValueError,
            r"inverse_hessian must have shape \(2, 2\)",
        ),
        ((torch.eye(2), torch.ones(2), torch.ones(3)), ValueError, r"gradient_change must have shape \(2,\)"),
        ((torch.eye(2), torch.ones(2, 1), torch.ones(2)), ValueError, "step must be a non-empty vector"),
        ((torch.eye(2).double(), torch.ones(2), torch.ones(2)), TypeError, "inverse_hessian has dtype"),
        ((torch.eye(2), [1.0, 1.0], torch.ones(2)), TypeError, "step must be a torch.Tensor"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        bfgs_inverse_update(*arguments)
