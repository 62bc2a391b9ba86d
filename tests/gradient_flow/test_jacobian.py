"""jacobian_spectrum against matrices known in closed form and central differences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steepest.gradient_flow import jacobian_spectrum


def central_differences(fn, x, h=1e-6):
    """The Jacobian (D_out, D_in) by central differences, in float64."""
    columns = []
    for i in range(x.numel()):
        step = torch.zeros(x.numel(), dtype=x.dtype)
        step[i] = h
        step = step.view(x.shape)
        columns.append((fn(x + step) - fn(x - step)).reshape(-1) / (2 * h))
    return torch.stack(columns, dim=1)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 5))
def test_product_of_linear_layers_has_the_singular_values_of_the_matrix_product(inner, outer, depth, seed):
    generator = torch.Generator().manual_seed(seed)
    matrices = [torch.randn(inner, inner, dtype=torch.float64, generator=generator) for _ in range(depth - 1)]
    matrices.append(torch.randn(outer, inner, dtype=torch.float64, generator=generator))
    product = torch.eye(inner, dtype=torch.float64)
    for matrix in matrices:
        product = matrix @ product

    def fn(x):
        for matrix in matrices:
            x = matrix @ x
        return x

    x = torch.randn(inner, dtype=torch.float64, generator=generator)
    eigenvalues = torch.linalg.eigvalsh(product @ product.T if outer <= inner else product.T @ product)
    torch.testing.assert_close(jacobian_spectrum(fn, x).square(), eigenvalues.flip(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 100])
def test_a_network_on_an_image_against_central_differences(chunk_size):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 4, 7)).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    expected = torch.linalg.svdvals(central_differences(network, x)).detach()
    got = jacobian_spectrum(network, x, chunk_size)
    assert got.shape == (7,) and not got.requires_grad
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


def test_leaves_input_parameters_and_gradients_alone():
    network = nn.Linear(3, 3)
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        jacobian_spectrum(network, x)
    assert x.grad is None and network.weight.grad is None and x.requires_grad


def test_works_under_inference_mode():
    with torch.inference_mode():
        spectrum = jacobian_spectrum(torch.tanh, torch.zeros(3))
    torch.testing.assert_close(spectrum, torch.ones(3))


@pytest.mark.parametrize(
    "fn", [lambda x: torch.ones(2), lambda x: torch.ones(2, requires_grad=True) * 1.0, lambda x: (0 * x)[:2]]
)
def test_a_constant_function_has_the_spectrum_zero(fn):
    torch.testing.assert_close(jacobian_spectrum(fn, torch.ones(3)), torch.zeros(2))


def test_dropout_is_drawn_once():
    torch.manual_seed(0)
    spectrum = jacobian_spectrum(nn.Dropout(0.5), torch.ones(64), chunk_size=8)
    assert set(spectrum.tolist()) == {0.0, 2.0}


def test_residual_blocks_shift_the_spectrum_by_the_identity():
    matrix = torch.diag(torch.tensor([0.5, -0.25], dtype=torch.float64))
    spectrum = jacobian_spectrum(lambda x: x + matrix @ x, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(spectrum, torch.tensor([1.5, 0.75], dtype=torch.float64))


@pytest.mark.parametrize(
    ("fn", "x", "options", "error", "message"),
    [
        (torch.tanh, [1.0], {}, TypeError, "x must be a torch.Tensor, got list"),
        (torch.tanh, torch.ones(2, dtype=torch.half), {}, TypeError, "x must be float32 or float64"),
        (torch.tanh, torch.ones(2).long(), {}, TypeError, "x must have a real floating dtype"),
        (torch.tanh, torch.ones(0), {}, ValueError, "x must not be empty"),
        (lambda x: x[:0], torch.ones(2), {}, ValueError, "output of fn must not be empty"),
        (lambda x: 1.0, torch.ones(2), {}, TypeError, "output of fn must be a torch.Tensor, got float"),
        (lambda x: x.half(), torch.ones(2), {}, TypeError, "output of fn must be float32 or float64"),
        (torch.tanh, torch.ones(2), {"chunk_size": 0}, ValueError, "chunk_size must be >= 1"),
    ],
)
def test_wrong_arguments_are_named(fn, x, options, error, message):
    with pytest.raises(error, match=message):
        jacobian_spectrum(fn, x, **options)


@pytest.mark.gpu
def test_same_on_cuda():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    x = torch.randn(5, dtype=torch.float64)
    expected = jacobian_spectrum(network, x)
    got = jacobian_spectrum(network.cuda(), x.cuda())
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), expected)
