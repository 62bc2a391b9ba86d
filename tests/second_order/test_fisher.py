"""The Fisher matrix against closed forms and textbook loops; the empirical Fisher, which differs from it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.second_order import empirical_fisher, fisher_information
from steepest.second_order.functional_model import flat_function
from tests.host_reads import host_reads


def network(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).to(dtype)


def batch(n=5, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 3, dtype=torch.float64, generator=generator).to(dtype)
    return inputs, torch.randint(3, (n,), generator=generator)


def named(model):
    return dict(model.named_parameters())


def log_likelihood_gradient(model, datum, label):
    """Return ∇_θ log p(label given datum), by autograd through the log-probability."""
    log_p = model(datum[None]).log_softmax(1)[0, label]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(log_p, list(model.parameters()))])


def textbook_fisher(model, inputs):
    """Return Martens, section 5: the mean over data of the sum over labels of p ∇ log p ∇ log pᵀ."""
    total = 0
    for datum in inputs:
        probabilities = model(datum[None]).softmax(1)[0].detach()
        for label, probability in enumerate(probabilities):
            gradient = log_likelihood_gradient(model, datum, label)
            total = total + probability * torch.outer(gradient, gradient)
    return total / len(inputs)


def logit_model(theta, inputs):
    return theta.expand(len(inputs), len(theta))


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=6))
def test_of_logits_is_diag_p_minus_pp(values):
    logits = torch.tensor(values, dtype=torch.float64)
    p = logits.softmax(0)
    found = fisher_information(logit_model, logits, torch.zeros(2, 1))
    torch.testing.assert_close(found, torch.diag(p) - torch.outer(p, p), rtol=0, atol=1e-14)
    torch.testing.assert_close(found.sum(1), torch.zeros_like(p), rtol=0, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 4])
def test_of_one_datum_is_a_kronecker_product_of_rank_classes_minus_one(classes):
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, classes, bias=False).double(), torch.randn(3, dtype=torch.float64)
    p = model(x).softmax(0).detach()
    covariance = torch.diag(p) - torch.outer(p, p)
    found = fisher_information(model, named(model), x[None])
    torch.testing.assert_close(found, torch.kron(covariance, torch.outer(x, x)), rtol=1e-13, atol=1e-15)
    assert torch.linalg.matrix_rank(found) == classes - 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_of_a_network_is_the_textbook_sum_over_all_labels(dtype, tolerance):
    model, (inputs, _) = network(dtype), batch(dtype=dtype)
    found = fisher_information(model, named(model), inputs)
    torch.testing.assert_close(found, textbook_fisher(model, inputs), rtol=tolerance, atol=tolerance)
    assert found.dtype == dtype and not found.requires_grad


def test_of_a_unit_gaussian_is_the_mean_of_jacobians_squared():
    model, (inputs, _) = network(), batch()
    jacobians = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (inputs,)))(named(model))
    j = torch.cat([part.flatten(2) for part in jacobians.values()], dim=2)  # (N, C, D)
    found = fisher_information(model, named(model), inputs, "gaussian")
    torch.testing.assert_close(found, torch.einsum("ncd,nce->de", j, j).detach() / len(inputs))


def test_empirical_is_the_mean_over_observed_labels():
    model, (inputs, targets) = network(), batch()
    gradients = torch.stack([log_likelihood_gradient(model, x, y) for x, y in zip(inputs, targets, strict=True)])
    found = empirical_fisher(model, named(model), inputs, targets)
    torch.testing.assert_close(found, gradients.mT @ gradients / len(inputs), rtol=1e-13, atol=1e-15)


def test_empirical_of_a_gaussian_weights_by_squared_residuals():
    model, (inputs, _) = network(), batch()
    targets = torch.randn(len(inputs), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = 0
    for x, y in zip(inputs, targets, strict=True):
        loss = (model(x) - y).square().sum() / 2
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
        expected = expected + torch.outer(gradient, gradient) / len(inputs)
    torch.testing.assert_close(empirical_fisher(model, named(model), inputs, targets, "gaussian"), expected)
    perfect = empirical_fisher(model, named(model), inputs, model(inputs).detach(), "gaussian")
    assert torch.equal(perfect, torch.zeros_like(perfect))


def test_true_and_empirical_differ_where_labels_are_not_the_models():
    # The model is sure of class 0, and the label is class 1.
    logits = torch.tensor([4.0, 0.0], dtype=torch.float64)
    true = fisher_information(logit_model, logits, torch.zeros(1, 1))
    wrong = empirical_fisher(logit_model, logits, torch.zeros(1, 1), torch.tensor([1]))
    p = logits.softmax(0)[0]
    torch.testing.assert_close(true[0, 0], p * (1 - p))
    torch.testing.assert_close(wrong[0, 0], p**2)
    assert wrong[0, 0] > 50 * true[0, 0]


def test_fisher_does_not_see_labels_and_its_score_has_mean_zero():
    # Σ_c p_c ∇ log p_c = 0, so that F is a covariance: here by drawing every label in proportion.
    logits = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    labels = torch.tensor([0, 0, 1, 2])
    empirical = empirical_fisher(logit_model, logits, torch.zeros(4, 1), labels)
    torch.testing.assert_close(empirical, fisher_information(logit_model, logits, torch.zeros(4, 1)))


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_drawn_labels_estimate_without_bias_and_follow_the_generator(likelihood):
    model, (inputs, _) = network(), batch(3)
    exact = fisher_information(model, named(model), inputs, likelihood)
    estimates = {
        samples: fisher_information(
            model,
            named(model),
            inputs,
            likelihood,
            samples=samples,
            generator=torch.Generator().manual_seed(0),
        )
        for samples in (1, 20_000)
    }
    # The standard error of an entry is about |F| / sqrt(samples): 0.007.
    assert (estimates[20_000] - exact).abs().max() < 0.03 * exact.abs().max()
    assert (estimates[1] - exact).abs().max() > 0.03 * exact.abs().max()
    again = fisher_information(
        model, named(model), inputs, likelihood, samples=1, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(again, estimates[1])


def test_impossible_labels_are_never_drawn():
    logits = torch.tensor([0.0, -torch.inf, 0.0], dtype=torch.float64)
    found = fisher_information(logit_model, logits, torch.zeros(50, 1), samples=20)
    expected = torch.tensor([[1, 0, -1], [0, 0, 0], [-1, 0, 1]], dtype=torch.float64) / 4
    torch.testing.assert_close(found, expected)


def test_diagonal_is_the_diagonal():
    model, (inputs, targets) = network(), batch()
    for function, arguments in ((fisher_information, ()), (empirical_fisher, (targets,))):
        full = function(model, named(model), inputs, *arguments)
        torch.testing.assert_close(function(model, named(model), inputs, *arguments, diagonal=True), full.diagonal())


def test_thirty_percent_of_wrong_labels_raise_the_empirical_diagonal():
    # A logistic model that fits: the true diagonal stays what it is, the empirical one sees the wrong labels.
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, 2, dtype=torch.float64, generator=generator)
    model = torch.nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.5, 0.0], [-1.5, 0.0]]))
        model.bias.zero_()
    labels = torch.multinomial(model(inputs).softmax(1).detach(), 1, generator=generator)[:, 0]
    flipped = torch.where(torch.rand(4000, generator=generator) < 0.3, 1 - labels, labels)
    true = fisher_information(model, named(model), inputs, diagonal=True)
    clean = empirical_fisher(model, named(model), inputs, labels, diagonal=True)
    noisy = empirical_fisher(model, named(model), inputs, flipped, diagonal=True)
    torch.testing.assert_close(clean, true, rtol=0.2, atol=0)
    assert (noisy > 1.5 * true).all()


def test_parameters_may_be_a_part_in_any_order_and_others_stay():
    model, (inputs, _) = network(), batch()
    full = fisher_information(model, named(model), inputs)
    part = {"2.bias": model[2].bias, "0.bias": model[0].bias}
    rows = [*range(28, 31), *range(12, 16)]
    torch.testing.assert_close(fisher_information(model, part, inputs), full[rows][:, rows])


def test_parameters_need_not_be_those_that_the_model_has():
    model, (inputs, _) = network(), batch()
    other = network(seed=5)
    torch.testing.assert_close(
        fisher_information(model, named(other), inputs), fisher_information(other, named(other), inputs)
    )


def test_works_on_a_convolutional_network_and_leaves_it_as_it_was():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    ).double()
    inputs = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="1 is a BatchNorm layer with statistics of the batch"):
        fisher_information(model, named(model), inputs)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fisher_information(model, named(model), inputs)
    torch.testing.assert_close(found, textbook_fisher(model, inputs))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    without_running = torch.nn.BatchNorm1d(3, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="model is a BatchNorm layer with statistics of the batch"):
        fisher_information(without_running, named(without_running), torch.ones(2, 3))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_mode_of_the_caller_does_not_matter(mode):
    model, (inputs, targets) = network(), batch()
    expected = fisher_information(model, named(model), inputs), empirical_fisher(model, named(model), inputs, targets)
    with mode():
        inputs = inputs.clone()
        torch.testing.assert_close(fisher_information(model, named(model), inputs), expected[0])
        torch.testing.assert_close(empirical_fisher(model, named(model), inputs, targets), expected[1])


def test_autocast_of_the_caller_does_not_matter():
    model, (inputs, targets) = network(torch.float32), batch(dtype=torch.float32)
    expected = fisher_information(model, named(model), inputs), empirical_fisher(model, named(model), inputs, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = fisher_information(model, named(model), inputs), empirical_fisher(model, named(model), inputs, targets)
    assert all(torch.equal(matrix, other) for matrix, other in zip(found, expected, strict=True))


def test_non_contiguous_inputs_and_one_datum():
    model, (inputs, _) = network(), batch(4)
    strided = inputs.repeat_interleave(2, dim=1)[:, ::2]
    assert not strided.is_contiguous()
    torch.testing.assert_close(fisher_information(model, named(model), strided), textbook_fisher(model, inputs))
    torch.testing.assert_close(fisher_information(model, named(model), inputs[:1]), textbook_fisher(model, inputs[:1]))


def test_the_host_reads_nothing():
    model, (inputs, targets) = network(), batch()
    with host_reads() as reads:
        fisher_information(model, named(model), inputs)
        fisher_information(model, named(model), inputs, samples=1)
        fisher_information(model, named(model), inputs, "gaussian", samples=2)
        empirical_fisher(model, named(model), inputs, targets)
    assert reads == []


@pytest.mark.gpu
def test_runs_on_a_gpu_without_waiting():
    model, (inputs, targets) = network(), batch()
    expected = fisher_information(model, named(model), inputs)
    model, inputs, targets = model.cuda(), inputs.cuda(), targets.cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    fisher_information(model, named(model), inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = fisher_information(model, named(model), inputs)
        fisher_information(model, named(model), inputs, samples=1, generator=generator)
        fisher_information(model, named(model), inputs, "gaussian", samples=2, generator=generator)
        empirical_fisher(model, named(model), inputs, targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), expected)


LINEAR = torch.nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": 3}, TypeError, "model must be a module or a function"),
        ({"parameters": {}}, ValueError, "parameters must not be empty"),
        ({"parameters": [1.0]}, TypeError, "parameters must be a mapping"),
        ({"parameters": torch.ones(3)}, TypeError, "parameters must be a mapping of names to tensors, got Tensor"),
        ({"parameters": {"bais": torch.ones(3)}}, ValueError, "is no parameter of model"),
        ({"parameters": {"bias": torch.ones(2)}}, ValueError, r"must have shape \(3,\)"),
        ({"parameters": {"bias": torch.ones(3).half()}}, TypeError, "must have dtype float32 or float64"),
        (
            {"parameters": {"weight": torch.ones(3, 3).double(), "bias": torch.ones(3)}},
            TypeError,
            r"parameters\['bias'\] has dtype torch.float32",
        ),
        ({"model": logit_model, "parameters": torch.ones(0)}, ValueError, "parameters must have elements"),
        ({"inputs": [[1.0]]}, TypeError, "inputs must be a torch.Tensor"),
        ({"inputs": torch.ones(0, 3)}, ValueError, "inputs must be a non-empty batch"),
        ({"inputs": torch.tensor(1.0)}, ValueError, "inputs must be a non-empty batch"),
        ({"likelihood": "poisson"}, ValueError, "likelihood must be one of categorical, gaussian"),
        ({"samples": 0}, ValueError, "samples must be >= 1"),
        ({"samples": 1.5}, TypeError, "samples must be a Python int"),
        ({"samples": 1, "generator": 0}, TypeError, "generator must be a torch.Generator"),
        ({"model": lambda p, x: x.sum(1), "parameters": {"w": torch.ones(1)}}, ValueError, "outputs must have shape"),
    ],
)
def test_wrong_arguments_are_named(changes, error, message):
    arguments = {"model": LINEAR, "parameters": named(LINEAR), "inputs": torch.ones(2, 3), **changes}
    with pytest.raises(error, match=message):
        fisher_information(**arguments)


@pytest.mark.parametrize(
    ("targets", "likelihood", "error", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), "categorical", ValueError, r"targets must have shape \(2,\)"),
        (torch.zeros(2), "categorical", TypeError, "targets must have dtype torch.int64"),
        (torch.zeros(2, 1), "gaussian", ValueError, r"targets must have shape \(2, 3\)"),
        (torch.zeros(2, 3).double(), "gaussian", TypeError, "targets must have dtype torch.float32"),
        ([0, 1], "categorical", TypeError, "targets must be a torch.Tensor"),
        (torch.zeros(2, dtype=torch.int64, device="meta"), "categorical", ValueError, "targets is on meta"),
    ],
)
def test_wrong_targets_are_named(targets, likelihood, error, message):
    with pytest.raises(error, match=message):
        empirical_fisher(LINEAR, named(LINEAR), torch.ones(2, 3), targets, likelihood)


def test_a_function_may_take_parameters_by_name():
    parameters = {"a": torch.tensor([2.0]), "b": torch.tensor([[1.0, 3.0]])}
    fn, theta = flat_function(lambda p, x: p["a"] * x @ p["b"].mT, parameters)
    assert torch.equal(theta, torch.tensor([2.0, 1.0, 3.0]))
    assert torch.equal(fn(theta, torch.tensor([[1.0, 1.0]])), torch.tensor([[8.0]]))
