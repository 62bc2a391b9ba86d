"""The natural gradient step against its defining equation, numpy, and its invariance."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.second_order import (
    conjugate_gradient,
    fisher_information,
    gauss_newton_vector_product,
    natural_gradient_step,
)
from steepest.second_order.natural_gradient import cholesky_factor
from tests.host_reads import host_reads


def positive_definite(size, seed=0, dtype=torch.float64):
    root = torch.randn(size, size + 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (root @ root.mT).to(dtype)


@pytest.mark.parametrize("damping", [0.0, 0.3, 7])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-11)])
def test_solves_the_damped_system(damping, dtype, tolerance):
    fisher, gradient = positive_definite(6, dtype=dtype), torch.arange(1, 7).to(dtype)
    before = fisher.clone()
    step = natural_gradient_step(gradient, fisher, damping)
    oracle = -numpy.linalg.inv(before.double().numpy() + damping * numpy.eye(6)) @ gradient.double().numpy()
    numpy.testing.assert_allclose(step.double().numpy(), oracle, rtol=tolerance)
    assert step.dtype == dtype and torch.equal(fisher, before)


def test_only_the_lower_triangle_is_read():
    fisher, gradient = positive_definite(4), torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(natural_gradient_step(gradient, fisher.tril()), natural_gradient_step(gradient, fisher))


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_linear_reparametrisation_leaves_the_functions_step_unchanged(seed):
    # y = W x with vec W = B φ: the step in φ, mapped back by B, is the step in W.
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(9, 2, dtype=torch.float64, generator=generator)
    targets = torch.randn(9, 3, dtype=torch.float64, generator=generator)
    change = torch.eye(6, dtype=torch.float64) + 0.3 * torch.randn(6, 6, dtype=torch.float64, generator=generator)
    theta = torch.randn(6, dtype=torch.float64, generator=generator)

    def outputs_of(theta, inputs):
        return inputs @ theta.view(3, 2).mT

    def reparametrised(phi, inputs):
        return outputs_of(change @ phi, inputs)

    steps = []
    for model, point in ((outputs_of, theta), (reparametrised, torch.linalg.solve(change, theta))):
        variable = point.clone().requires_grad_()
        loss = (model(variable, inputs) - targets).square().sum(1).mean() / 2
        (gradient,) = torch.autograd.grad(loss, variable)
        fisher = fisher_information(model, point, inputs, "gaussian")
        after = model(point + 0.5 * natural_gradient_step(gradient, fisher), inputs)
        steps.append(after - model(point, inputs))
        plain = model(point - 0.5 * gradient, inputs) - model(point, inputs)
        assert (plain - steps[0]).abs().max() > 1e-3
    # The error is rounding times the square of the condition of B.
    scale = torch.linalg.cond(change) ** 2
    torch.testing.assert_close(steps[1], steps[0], rtol=0, atol=float(1e-12 * scale))


def test_one_step_fits_a_linear_model_with_ill_scaled_inputs():
    inputs = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = inputs * torch.tensor([1e-3, 1.0, 1e3])
    true = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)

    def model(theta, inputs):
        return (inputs @ theta)[:, None]

    gradient = inputs.mT @ (inputs @ -true) / 20
    fisher = fisher_information(model, torch.zeros(3, dtype=torch.float64), inputs, "gaussian")
    torch.testing.assert_close(natural_gradient_step(gradient, fisher), true)


def test_products_and_conjugate_gradients_give_the_same_step():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4).double()
    parameters, inputs = dict(model.named_parameters()), torch.randn(8, 3, dtype=torch.float64)
    gradient = torch.randn(16, dtype=torch.float64)

    def loss(outputs):
        return torch.nn.functional.cross_entropy(outputs, torch.zeros(8, dtype=torch.int64))

    def damped_product(vector):
        return gauss_newton_vector_product(model, parameters, inputs, loss, vector) + 0.1 * vector

    found = conjugate_gradient(damped_product, -gradient, rtol=1e-12).solution
    expected = natural_gradient_step(gradient, fisher_information(model, parameters, inputs), damping=0.1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_softmax_model_needs_damping_at_any_scale(scale, dtype):
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=dtype)
    fisher = scale * (torch.diag(p) - torch.outer(p, p))
    gradient = torch.tensor([1.0, 0.0, 0.0, -1.0], dtype=dtype)
    with pytest.raises(ValueError, match=r"not positive definite to working precision.*pass a larger damping"):
        natural_gradient_step(gradient, fisher)
    natural_gradient_step(gradient, fisher, damping=1e-3 * scale)


def test_ill_scaled_but_regular_is_not_singular():
    fisher = torch.diag(torch.tensor([1e12, 1.0, 1e-12]))
    torch.testing.assert_close(natural_gradient_step(torch.ones(3), fisher), -torch.tensor([1e-12, 1.0, 1e12]))


@pytest.mark.parametrize(
    "matrix", [torch.zeros(2, 2), -torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.full((2, 2), torch.nan)]
)
def test_no_fisher_matrix_is_refused(matrix):
    with pytest.raises(ValueError, match="not positive definite"):
        natural_gradient_step(torch.ones(2), matrix)


def test_the_host_reads_once_whether_there_is_a_step():
    with host_reads() as reads:
        natural_gradient_step(torch.ones(4, dtype=torch.float64), positive_definite(4))
    assert len(reads) == 1
    with host_reads() as reads:
        cholesky_factor(positive_definite(4))
    assert reads == []


@pytest.mark.gpu
def test_runs_on_a_gpu():
    fisher, gradient = positive_definite(5), torch.ones(5, dtype=torch.float64)
    found = natural_gradient_step(gradient.cuda(), fisher.cuda(), 0.1)
    torch.testing.assert_close(found.cpu(), natural_gradient_step(gradient, fisher, 0.1))


@pytest.mark.parametrize(
    ("gradient", "fisher", "damping", "error", "message"),
    [
        (torch.ones(2, 2), torch.eye(2), 0.0, ValueError, "gradient must be a non-empty vector"),
        (torch.ones(0), torch.eye(0), 0.0, ValueError, "gradient must be a non-empty vector"),
        (torch.ones(2), torch.ones(2), 0.0, ValueError, r"fisher must have shape \(2, 2\)"),
        (torch.ones(2), torch.eye(2).double(), 0.0, TypeError, "fisher has dtype torch.float64"),
        (torch.ones(2), lambda v: v, 0.0, TypeError, "fisher must be a torch.Tensor"),
        (torch.ones(2).bfloat16(), torch.eye(2), 0.0, TypeError, "gradient must have dtype"),
        (torch.ones(2), torch.eye(2), -0.1, ValueError, "damping must be finite and >= 0"),
        (torch.ones(2), torch.eye(2), "1", TypeError, "damping must be a Python number"),
    ],
)
def test_wrong_arguments_are_named(gradient, fisher, damping, error, message):
    with pytest.raises(error, match=message):
        natural_gradient_step(gradient, fisher, damping)
