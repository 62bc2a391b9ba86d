"""The Hessian-vector product against torch.func.hessian, which forms the matrix forward over reverse."""

import pytest
import torch

from steepest.second_order import hessian_vector_product

FUNCTIONS = {
    "rosenbrock": lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(),
    "log-sum-exp": lambda x: torch.logsumexp(x * torch.arange(1, len(x) + 1, dtype=x.dtype), 0),
    "tanh of products": lambda x: torch.tanh(x[:-1] * x[1:]).sum().reshape(1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_equals_the_full_hessian_times_the_vector(name, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(7, dtype=dtype, generator=generator)
    vector = torch.randn(7, dtype=dtype, generator=generator)
    hessian = torch.func.hessian(lambda x: FUNCTIONS[name](x).sum())(point)
    product = hessian_vector_product(FUNCTIONS[name], point, vector)
    torch.testing.assert_close(product, hessian @ vector, rtol=tolerance, atol=tolerance)
    assert product.dtype == dtype and not product.requires_grad


@pytest.mark.parametrize(
    "fn", [lambda x: (3 * x).sum(), lambda x: torch.tensor(5.0), lambda x: x.detach().sum()]
)
def test_linear_and_constant_functions_have_a_zero_product(fn):
    assert torch.equal(hessian_vector_product(fn, torch.ones(3), torch.ones(3)), torch.zeros(3))


def test_leaves_the_callers_tensors_and_grad_mode_alone():
    point = torch.tensor([1.0, 2.0], requires_grad=True)
    vector = torch.tensor([1.0, 1.0])
    with torch.no_grad():
        product = hessian_vector_product(lambda x: (x**4).sum(), point, vector)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(product, torch.tensor([12.0, 48.0]))
    assert point.grad is None and torch.equal(point.detach(), torch.tensor([1.0, 2.0]))


def test_inference_mode_does_not_make_the_function_look_constant():
    with torch.inference_mode():
        product = hessian_vector_product(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]), torch.ones(2))
    torch.testing.assert_close(product, torch.tensor([6.0, 12.0]))


@pytest.mark.parametrize(
    ("fn", "point", "vector", "error", "message"),
    [
        (lambda x: x, torch.ones(2), torch.ones(2), ValueError, "fn must return one element"),
        (lambda x: 1.0, torch.ones(2), torch.ones(2), TypeError, "fn must return a torch.Tensor"),
        (torch.sum, torch.ones(2, 2), torch.ones(2), ValueError, "point must be a non-empty vector"),
        (torch.sum, torch.ones(2), torch.ones(3), ValueError, r"vector must have shape \(2,\)"),
        (torch.sum, torch.ones(2), torch.ones(2).double(), TypeError, "vector has dtype torch.float64"),
        (torch.sum, torch.ones(2).half(), torch.ones(2), TypeError, "point must have dtype"),
    ],
)
def test_wrong_arguments_are_named(fn, point, vector, error, message):
    with pytest.raises(error, match=message):
        hessian_vector_product(fn, point, vector)
