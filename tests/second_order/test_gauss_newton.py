"""The Gauss-Newton product against dense Jacobians, closed forms, the Fisher matrix and the Hessian."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from steepest.second_order import fisher_information, gauss_newton_matrix, gauss_newton_vector_product
from tests.host_reads import host_reads
from tests.second_order.test_fisher import batch, named, network


def dense(model, inputs, loss_hessian):
    """Return Σ_nm J_nᵀ H_nm J_m from Jacobians by reverse mode and a given Hessian (N C, N C)."""
    parameters = [p.detach() for p in model.parameters()]
    names = list(named(model))
    jacobians = torch.autograd.functional.jacobian(
        lambda *values: torch.func.functional_call(model, dict(zip(names, values, strict=True)), (inputs,)),
        tuple(parameters),
    )
    j = torch.cat([part.flatten(2).flatten(0, 1) for part in jacobians], dim=1)  # (N C, D)
    return j.mT @ loss_hessian @ j


def cross_entropy_hessian(logits):
    """Return the Hessian of the mean cross-entropy in the logits: blocks (diag p - ppᵀ) / N, whatever the targets."""
    p = logits.detach().softmax(1)
    return torch.block_diag(*(torch.diag(row) - torch.outer(row, row) for row in p)) / len(p)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_cross_entropy_by_its_closed_form(dtype, tolerance):
    model, (inputs, targets) = network(dtype), batch(dtype=dtype)
    oracle = dense(model, inputs, cross_entropy_hessian(model(inputs)))

    def loss(outputs):
        return cross_entropy(outputs, targets)

    found = gauss_newton_matrix(model, named(model), inputs, loss)
    torch.testing.assert_close(found, oracle, rtol=tolerance, atol=tolerance)
    vector = torch.randn(len(oracle), dtype=dtype, generator=torch.Generator().manual_seed(2))
    product = gauss_newton_vector_product(model, named(model), inputs, loss, vector)
    torch.testing.assert_close(product, oracle @ vector, rtol=tolerance, atol=tolerance)
    assert product.dtype == dtype and not product.requires_grad


def test_a_loss_that_couples_data_uses_the_whole_hessian():
    model, (inputs, _) = network(), batch()

    def loss(outputs):
        return torch.logsumexp(outputs.flatten(), 0)

    p = model(inputs).detach().flatten().softmax(0)
    oracle = dense(model, inputs, torch.diag(p) - torch.outer(p, p))
    torch.testing.assert_close(gauss_newton_matrix(model, named(model), inputs, loss), oracle)


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_equals_the_fisher_matrix_of_the_negative_log_likelihood(likelihood):
    model, (inputs, targets) = network(), batch()
    losses = {
        "categorical": lambda outputs: cross_entropy(outputs, targets),
        "gaussian": lambda outputs: (outputs - 3).square().sum(1).mean() / 2,
    }
    fisher = fisher_information(model, named(model), inputs, likelihood)
    found = gauss_newton_matrix(model, named(model), inputs, losses[likelihood])
    torch.testing.assert_close(found, fisher, rtol=1e-12, atol=1e-14)


def test_mean_squared_error_is_two_over_c_of_the_gaussian_fisher():
    model, (inputs, _) = network(), batch()
    found = gauss_newton_matrix(model, named(model), inputs, lambda f: mse_loss(f, torch.ones_like(f)))
    torch.testing.assert_close(found, 2 / 3 * fisher_information(model, named(model), inputs, "gaussian"))


def test_equals_the_hessian_for_a_linear_model_and_not_for_a_deep_one():
    inputs, targets = batch()
    linear = torch.nn.Linear(3, 3).double()
    differences = []
    for model in (linear, network()):
        names = list(named(model))
        theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        sizes = [p.numel() for p in model.parameters()]

        def loss_of(point, model=model, names=names, sizes=sizes):
            parts = [part.view(p.shape) for part, p in zip(point.split(sizes), model.parameters(), strict=True)]
            outputs = torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (inputs,))
            return cross_entropy(outputs, targets)

        hessian = torch.autograd.functional.hessian(loss_of, theta)
        found = gauss_newton_matrix(model, named(model), inputs, lambda f: cross_entropy(f, targets))
        differences.append((found - hessian).abs().max())
    assert differences[0] < 1e-15 and differences[1] > 1e-2


def test_matrix_is_symmetric_and_positive_semi_definite():
    model, (inputs, targets) = network(), batch()
    found = gauss_newton_matrix(model, named(model), inputs, lambda f: cross_entropy(f, targets))
    torch.testing.assert_close(found, found.mT, rtol=0, atol=1e-16)
    assert torch.linalg.eigvalsh(found).min() > -1e-15


def test_rows_may_depend_on_each_other():
    # Attention over the batch: there are no gradients of single data, yet J and H_L exist.
    theta = torch.tensor([0.5, -1.0], dtype=torch.float64)
    inputs = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def model(theta, inputs):
        return (inputs * theta @ inputs.mT).softmax(1) @ inputs

    j = torch.autograd.functional.jacobian(lambda point: model(point, inputs).flatten(), theta)
    found = gauss_newton_matrix(model, theta, inputs, lambda f: f.square().sum() / 2)
    torch.testing.assert_close(found, j.mT @ j)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_mode_of_the_caller_does_not_matter_and_nothing_is_changed(mode):
    model, (inputs, targets) = network(), batch()
    vector = torch.ones(31, dtype=torch.float64, requires_grad=True)
    arguments = model, named(model), inputs, lambda f: cross_entropy(f, targets), vector
    expected = gauss_newton_vector_product(*arguments)
    with mode():
        torch.testing.assert_close(gauss_newton_vector_product(*arguments), expected)
    assert vector.grad is None and all(p.grad is None for p in model.parameters())


def test_autocast_of_the_caller_does_not_matter():
    model, (inputs, targets) = network(torch.float32), batch(dtype=torch.float32)
    arguments = model, named(model), inputs, lambda f: cross_entropy(f, targets)
    expected = gauss_newton_matrix(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gauss_newton_matrix(*arguments), expected)
        torch.testing.assert_close(gauss_newton_vector_product(*arguments, torch.eye(31)[0]), expected[0])


def test_the_host_reads_nothing():
    model, (inputs, targets) = network(), batch()
    with host_reads() as reads:
        gauss_newton_vector_product(
            model, named(model), inputs, lambda f: cross_entropy(f, targets), torch.ones(31, dtype=torch.float64)
        )
    assert reads == []


@pytest.mark.gpu
def test_runs_on_a_gpu_without_waiting():
    model, (inputs, targets) = network(), batch()
    vector = torch.ones(31, dtype=torch.float64)
    expected = gauss_newton_vector_product(model, named(model), inputs, lambda f: cross_entropy(f, targets), vector)
    model, inputs, targets, vector = model.cuda(), inputs.cuda(), targets.cuda(), vector.cuda()
    arguments = model, named(model), inputs, lambda f: cross_entropy(f, targets), vector
    gauss_newton_vector_product(*arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = gauss_newton_vector_product(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize(
    ("loss", "vector", "error", "message"),
    [
        (lambda f: 1.0, torch.ones(12), TypeError, "loss must return a torch.Tensor"),
        (lambda f: f, torch.ones(12), ValueError, "loss must return one element"),
        (torch.sum, torch.ones(11), ValueError, r"vector must have shape \(12,\)"),
        (torch.sum, torch.ones(12).double(), TypeError, "vector has dtype torch.float64"),
    ],
)
def test_wrong_arguments_are_named(loss, vector, error, message):
    model = torch.nn.Linear(3, 3)
    with pytest.raises(error, match=message):
        gauss_newton_vector_product(model, named(model), torch.ones(2, 3), loss, vector)
