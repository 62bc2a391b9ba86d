"""KFAC against dense Fisher and Gauss-Newton blocks, loops over patches, dense Kronecker solves and its invariances."""

import copy
import io
import itertools
import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from steepest.second_order import KFAC, fisher_information
from steepest.second_order.kfac_factors import damped_inverses, input_rows
from tests.host_reads import host_reads
from tests.second_order.test_fisher import batch, named, network, textbook_fisher

GAUSSIAN = {"likelihood": "gaussian", "samples": None}


def half_square(outputs, targets):
    return (outputs - targets).square().sum(1).mean() / 2


def kfac(model, **options):
    return KFAC(model.parameters(), model, **{"samples": None, **options})


def train_step(optimizer, model, inputs, targets, loss=cross_entropy):
    optimizer.zero_grad()
    outputs = model(inputs)
    optimizer.update_factors(outputs)
    loss(outputs, targets).backward()
    optimizer.step()


def block(optimizer, layer):
    """Return the layer's block G ⊗ A in the order of its parameters: weight row by row, then bias."""
    state = optimizer.state[layer.weight]
    a, g = state["input_factor"], state["gradient_factor"]
    order = torch.arange(len(g) * len(a)).view(len(g), len(a))
    if layer.bias is not None:
        order = torch.cat([order[:, :-1].flatten(), order[:, -1]])
    order = order.flatten()
    return torch.kron(g, a)[order][:, order]


def diagonal_blocks(matrix, model):
    """Return the blocks of a matrix over all parameters that belong to layers with parameters."""
    sizes = [n for n in (sum(p.numel() for p in m.parameters(recurse=False)) for m in model.modules()) if n]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [matrix[a : a + n, a : a + n] for a, n in zip(starts, sizes, strict=True)]


def layers_of(model):
    return [m for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]


@pytest.mark.parametrize("bias", [True, False])
def test_is_the_block_gauss_newton_matrix_of_a_deep_linear_net_with_squared_error(bias):
    torch.manual_seed(0)
    sizes = [3, 4, 5, 2]
    model = torch.nn.Sequential(*(torch.nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(sizes)))
    model, inputs = model.double(), torch.randn(7, 3, dtype=torch.float64)
    # Jᵀ J / N, by reverse-mode Jacobians: the loss Hessian of half the squared error is I / N.
    jacobians = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (inputs,)))(named(model))
    j = torch.cat([part.flatten(2).flatten(0, 1) for part in jacobians.values()], dim=1).detach()
    optimizer = kfac(model, likelihood="gaussian")
    optimizer.update_factors(model(inputs))
    for layer, oracle in zip(model, diagonal_blocks(j.mT @ j / 7, model), strict=True):
        torch.testing.assert_close(block(optimizer, layer), oracle, rtol=1e-12, atol=1e-12)


def test_is_the_block_fisher_matrix_of_one_datum():
    model, (inputs, _) = network(), batch(1)
    optimizer = kfac(model)
    optimizer.update_factors(model(inputs))
    for layer, oracle in zip(layers_of(model), diagonal_blocks(textbook_fisher(model, inputs), model), strict=True):
        torch.testing.assert_close(block(optimizer, layer), oracle, rtol=1e-12, atol=1e-14)


def test_is_an_approximation_for_many_data_of_a_nonlinear_net():
    model, (inputs, _) = network(), batch(50)
    optimizer = kfac(model)
    optimizer.update_factors(model(inputs))
    oracle = diagonal_blocks(textbook_fisher(model, inputs), model)[0]
    error = (block(optimizer, model[0]) - oracle).norm() / oracle.norm()
    assert 1e-3 < error < 1


def test_factors_are_the_textbook_expectations():
    model, (inputs, targets) = network(), batch()
    optimizer = kfac(model)
    optimizer.update_factors(model(inputs))
    empirical = kfac(model)
    empirical.update_factors(model(inputs), targets)
    a, g, observed = 0, 0, 0
    for x, y in zip(inputs, targets, strict=True):
        hidden = model[1](model[0](x))
        a = a + torch.outer(torch.cat([hidden, torch.ones(1)]), torch.cat([hidden, torch.ones(1)])) / len(inputs)
        pre = model[0](x).detach().requires_grad_()
        log_p = model[2](model[1](pre)).log_softmax(0)
        for label in range(3):
            (gradient,) = torch.autograd.grad(log_p[label], pre, retain_graph=True)
            g = g + log_p[label].exp() * torch.outer(gradient, gradient) / len(inputs)
            observed = observed + (label == y) * torch.outer(gradient, gradient) / len(inputs)
    torch.testing.assert_close(optimizer.state[model[2].weight]["input_factor"], a.detach())
    torch.testing.assert_close(optimizer.state[model[0].weight]["gradient_factor"], g.detach())
    torch.testing.assert_close(empirical.state[model[0].weight]["gradient_factor"], observed)


CONVOLUTIONS = {
    "plain": {"kernel_size": 2},
    "rectangular, stride, padding, dilation": {
        "kernel_size": (2, 3),
        "stride": (2, 1),
        "padding": (1, 2),
        "dilation": (1, 2),
    },
    "no bias": {"kernel_size": 3, "bias": False, "padding": 1},
    "same, even kernel": {"kernel_size": (2, 4), "padding": "same", "dilation": (1, 2)},
    "valid": {"kernel_size": 2, "padding": "valid"},
    "circular": {"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular"},
    "reflected": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_is_linear_in_its_patches(name):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(2, 3, **CONVOLUTIONS[name]).double()
    inputs = torch.randn(4, 2, 5, 6, dtype=torch.float64)
    with_bias = layer.bias is not None
    weight = torch.cat([layer.weight.flatten(1), *([layer.bias[:, None]] if with_bias else [])], dim=1)
    outputs = layer(inputs)
    rows = input_rows(layer, inputs, with_bias) @ weight.mT
    torch.testing.assert_close(rows.view(4, *outputs.shape[2:], 3).permute(0, 3, 1, 2), outputs)


def test_convolution_factors_are_loops_over_patches():
    # Grosse & Martens, section 3: Ω = E Σ_t a_t a_tᵀ, Γ = E (1/T) Σ_t g_t g_tᵀ.
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=1, dilation=(1, 2)),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 4),
    ).double()
    conv, inputs = model[0], torch.randn(5, 2, 5, 6, dtype=torch.float64)
    optimizer = kfac(model)
    optimizer.update_factors(model(inputs))
    omega, gamma = torch.zeros(13, 13, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    padded = torch.zeros(5, 2, 7, 8, dtype=torch.float64)
    padded[:, :, 1:-1, 1:-1] = inputs
    for n in range(5):
        pre = conv(inputs[n : n + 1]).detach().requires_grad_()  # (1, 3, 3, 4)
        log_p = model[3](model[2](model[1](pre))).log_softmax(1)[0]
        gradients = [torch.autograd.grad(log_p[c], pre, retain_graph=True)[0] for c in range(4)]
        for row in range(3):
            for column in range(4):
                patch = [
                    padded[n, channel, 2 * row + i, column + 2 * j]
                    for channel in range(2)
                    for i in range(2)
                    for j in range(3)
                ]
                patch = torch.stack([*patch, torch.ones((), dtype=torch.float64)])
                omega += torch.outer(patch, patch) / 5
                for c in range(4):
                    g = gradients[c][0, :, row, column]
                    gamma += log_p[c].detach().exp() * torch.outer(g, g) / (5 * 12)
    torch.testing.assert_close(optimizer.state[conv.weight]["input_factor"], omega, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(optimizer.state[conv.weight]["gradient_factor"], gamma, rtol=1e-12, atol=1e-14)


def test_tokens_count_as_data_where_outputs_have_a_row_for_each():
    torch.manual_seed(0)
    model, inputs = torch.nn.Linear(3, 2).double(), torch.randn(4, 5, 3, dtype=torch.float64)
    by_token, flat = kfac(model), kfac(model)
    by_token.update_factors(model(inputs).flatten(0, 1))
    flat.update_factors(model(inputs.flatten(0, 1)))
    for name in ("input_factor", "gradient_factor"):
        torch.testing.assert_close(by_token.state[model.weight][name], flat.state[model.weight][name])


@pytest.mark.parametrize("damping", [1e-4, 0.3])
@pytest.mark.parametrize("convolution", [False, True])
def test_step_solves_the_damped_kronecker_system(damping, convolution):
    torch.manual_seed(0)
    if convolution:
        model, inputs = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.Flatten()), torch.randn(9, 2, 2, 2)
    else:
        model, inputs = torch.nn.Sequential(torch.nn.Linear(4, 3)), torch.randn(9, 4)
    model, inputs, targets = model.double(), inputs.double(), torch.randint(3, (9,))
    layer = model[0]
    before = layer.weight.detach().flatten(1).clone(), layer.bias.detach().clone()
    optimizer = kfac(model, lr=0.7, damping=damping)
    train_step(optimizer, model, inputs, targets)
    state = optimizer.state[layer.weight]
    a, g = state["input_factor"].numpy(), state["gradient_factor"].numpy()
    # Martens & Grosse, section 6.3.
    pi = math.sqrt((numpy.trace(a) / len(a)) / (numpy.trace(g) / len(g)))
    a = a + pi * math.sqrt(damping) * numpy.eye(len(a))
    g = g + math.sqrt(damping) / pi * numpy.eye(len(g))
    gradient = numpy.concatenate([layer.weight.grad.flatten(1).numpy(), layer.bias.grad.numpy()[:, None]], axis=1)
    step = -0.7 * numpy.linalg.solve(numpy.kron(g, a), gradient.ravel()).reshape(gradient.shape)
    numpy.testing.assert_allclose((layer.weight.detach().flatten(1) - before[0]).numpy(), step[:, :-1], rtol=1e-8)
    numpy.testing.assert_allclose((layer.bias.detach() - before[1]).numpy(), step[:, -1], rtol=1e-8)


def spread(size, seed):
    root = torch.randn(size, size + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return root @ root.mT


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(1e-4, 10))
@settings(max_examples=30)
def test_damping_does_not_see_a_scale_moved_between_the_factors(seed, scale, damping):
    # A ⊗ G = cA ⊗ G/c, and so must be the damped inverses' product.
    a, g = spread(3, seed), spread(4, seed + 1)
    first, second = damped_inverses(a, g, damping), damped_inverses(scale * a, g / scale, damping)
    torch.testing.assert_close(torch.kron(first[0], first[1]), torch.kron(second[0], second[1]), rtol=1e-7, atol=0)


def test_pi_minimises_the_trace_norm_of_the_cross_terms():
    a, g, damping = spread(3, 0), spread(5, 1), 0.01
    inverse = damped_inverses(a, g, damping)[0]
    pi = (torch.linalg.inv(inverse) - a).diagonal().mean() / damping**0.5

    def cross_terms(pi):
        return damping**0.5 * (pi * torch.kron(torch.eye(3), g) + torch.kron(a, torch.eye(5)) / pi).trace()

    assert cross_terms(pi) < min(cross_terms(0.99 * pi), cross_terms(1.01 * pi))


def test_a_layer_without_gradient_has_damping_alone():
    first, second, singular = damped_inverses(torch.eye(2), torch.zeros(3, 3), 0.25)
    torch.testing.assert_close(first, torch.eye(2) / 1.5)
    torch.testing.assert_close(second, torch.eye(3) * 2)
    assert not singular


@pytest.mark.parametrize(("a", "g"), [(1e3, 1e-37), (1e-37, 1e3), (1e20, 1e-20)])
def test_pi_stays_in_the_range_of_float32(a, g):
    inverses = damped_inverses(torch.tensor([[a]]), torch.tensor([[g]]), damping=1e-2)
    assert not inverses[2]
    # Of one by one factors the damped product is a g + 2 √(λ a g) + λ.
    torch.testing.assert_close(inverses[0] * inverses[1], torch.tensor([[1 / (a * g + 0.2 * (a * g) ** 0.5 + 1e-2)]]))


def test_running_averages_start_as_means_and_then_decay():
    model, optimizer = network(), None
    optimizer = kfac(model, lr=0.0, decay=0.6)
    average = 0
    for k in range(1, 7):
        inputs, targets = batch(seed=k)
        a = torch.cat([inputs, torch.ones(5, 1)], dim=1)
        epsilon = min(1 - 1 / k, 0.6)
        average = epsilon * average + (1 - epsilon) * a.mT @ a / 5
        train_step(optimizer, model, inputs, targets)
        torch.testing.assert_close(optimizer.state[model[0].weight]["input_factor"], average)
    with_one = kfac(model)
    with_one.update_factors(model(inputs))
    weights = {name: with_one.state[model[2].weight][name] for name in ("gradient_factor",)}
    assert not torch.allclose(optimizer.state[model[2].weight]["gradient_factor"], weights["gradient_factor"])


def test_intervals_say_when_factors_and_inverses_change():
    model = network()
    optimizer = kfac(model, lr=0.01, factor_interval=2, inverse_interval=3)
    state = optimizer.state[model[0].weight]
    changed = {"input_factor": [], "gradient_factor": [], "input_inverse": [], "gradient_inverse": []}
    for step in range(8):
        before = {name: state.get(name) for name in changed}
        train_step(optimizer, model, *batch(seed=step))
        for name, steps in changed.items():
            if before[name] is None or not torch.equal(before[name], state[name]):
                steps.append(step)
    assert changed["input_factor"] == changed["gradient_factor"] == [0, 2, 4, 6]
    assert changed["input_inverse"] == changed["gradient_inverse"] == [0, 3, 6]


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_drawn_labels_estimate_the_exact_factors(likelihood):
    model, (inputs, _) = network(), batch(3)
    exact = kfac(model, likelihood=likelihood)
    exact.update_factors(model(inputs))
    drawn = [
        kfac(model, likelihood=likelihood, samples=samples, generator=torch.Generator().manual_seed(seed))
        for samples, seed in ((400, 0), (400, 0), (1, 0))
    ]
    for optimizer in drawn:
        optimizer.update_factors(model(inputs))
    oracle, many, again, one = (o.state[model[0].weight]["gradient_factor"] for o in (exact, *drawn))
    # The standard error is about |G| / sqrt(3 * 400): 0.03.
    assert (many - oracle).abs().max() < 0.12 * oracle.abs().max()
    assert (one - oracle).abs().max() > 0.12 * oracle.abs().max()
    assert torch.equal(many, again)


def test_the_extra_backward_pass_leaves_gradients_alone():
    model, (inputs, targets) = network(), batch()
    cross_entropy(model(inputs), targets).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    optimizer = kfac(model, lr=0.0)
    train_step(optimizer, model, inputs, targets)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_in_place_activations_after_a_layer_do_not_hide_its_output():
    factors = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 2),
            torch.nn.ReLU(inplace),
            torch.nn.Flatten(),
            torch.nn.Linear(8, 3),
            torch.nn.ReLU(inplace),
            torch.nn.Linear(3, 2),
        ).double()
        optimizer = kfac(model)
        inputs = torch.randn(6, 1, 3, 3, dtype=torch.float64)
        optimizer.update_factors(model(inputs))
        factors.append([optimizer.state[layer.weight]["gradient_factor"] for layer in layers_of(model)])
    assert all(torch.equal(a, b) for a, b in zip(*factors, strict=True))


def test_other_parameters_take_the_plain_gradient():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = torch.nn.LayerNorm(3), torch.nn.Linear(3, 3)
            self.attention = torch.nn.MultiheadAttention(3, 1, batch_first=True)

        def forward(self, x):
            return self.linear(self.attention(*[self.norm(x)[None]] * 3)[0][0])

    torch.manual_seed(0)
    model, (inputs, targets) = Block().double(), batch()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_step(kfac(model, lr=0.1), model, inputs, targets)
    for name, parameter in model.named_parameters():
        plain = torch.allclose(parameter, before[name] - 0.1 * parameter.grad, rtol=1e-12, atol=1e-14)
        assert plain == (not name.startswith("linear"))


def test_without_its_bias_a_layer_has_no_homogeneous_coordinate():
    torch.manual_seed(0)
    model, (inputs, targets) = torch.nn.Linear(3, 3).double(), batch()
    optimizer = KFAC([model.weight], model, samples=None)
    bias = model.bias.detach().clone()
    train_step(optimizer, model, inputs, targets)
    torch.testing.assert_close(optimizer.state[model.weight]["input_factor"], inputs.mT @ inputs / 5)
    assert torch.equal(model.bias, bias)
    # Added later, it takes the plain gradient.
    optimizer.add_param_group({"params": [model.bias], "lr": 0.5})
    train_step(optimizer, model, inputs, targets)
    torch.testing.assert_close(model.bias.detach(), bias - 0.5 * model.bias.grad)
    frozen = torch.nn.Linear(3, 3).double()
    frozen.bias.requires_grad_(False)
    optimizer = kfac(frozen)
    train_step(optimizer, frozen, inputs, targets)
    assert optimizer.state[frozen.weight]["input_factor"].shape == (3, 3)


def test_bias_alone_takes_the_plain_gradient():
    model, (inputs, targets) = network(), batch()
    optimizer = KFAC([*model[0].parameters(), model[2].bias], model, lr=0.2, samples=None)
    weight, bias = model[2].weight.detach().clone(), model[2].bias.detach().clone()
    train_step(optimizer, model, inputs, targets)
    assert torch.equal(model[2].weight, weight)
    torch.testing.assert_close(model[2].bias.detach(), bias - 0.2 * model[2].bias.grad)


def test_groups_have_their_own_options():
    results = []
    for lrs in ((0.1, 0.1), (0.1, 0.3)):
        model = network()
        biases = [model[0].bias, model[2].bias]
        groups = [{"params": [model[0].weight, model[2].weight], "lr": lrs[0]}, {"params": biases, "lr": lrs[1]}]
        optimizer = KFAC(groups, model, samples=None)
        before = [p.detach().clone() for p in model.parameters()]
        train_step(optimizer, model, *batch())
        results.append([p.detach() - old for p, old in zip(model.parameters(), before, strict=True)])
    for i, (one, other) in enumerate(zip(*results, strict=True)):
        torch.testing.assert_close(other, one * (3.0 if i % 2 else 1.0))


def test_momentum_and_maximize():
    steps = {}
    for name, options in {"plain": {}, "momentum": {"momentum": 0.5}, "up": {"maximize": True}}.items():
        model = network()
        optimizer = kfac(model, lr=1e-6, decay=1.0, **options)
        steps[name] = []
        for _ in range(3):
            before = torch.cat([p.detach().flatten() for p in model.parameters()])
            train_step(optimizer, model, *batch())
            steps[name].append(torch.cat([p.detach().flatten() for p in model.parameters()]) - before)
    # The parameters hardly move, so that all plain steps are alike.
    torch.testing.assert_close(steps["up"][0], -steps["plain"][0], rtol=1e-5, atol=1e-12)
    for k, factor in enumerate((1, 1.5, 1.75)):
        torch.testing.assert_close(steps["momentum"][k], factor * steps["plain"][0], rtol=1e-3, atol=1e-9)


def test_gradient_buffers_are_not_the_momentum():
    model = torch.nn.Sequential(torch.nn.LayerNorm(3), torch.nn.Linear(3, 3)).double()
    optimizer = kfac(model, momentum=0.9)
    train_step(optimizer, model, *batch())
    buffer = optimizer.state[model[0].weight]["momentum_buffer"].clone()
    optimizer.zero_grad(set_to_none=False)
    assert torch.equal(optimizer.state[model[0].weight]["momentum_buffer"], buffer) and buffer.abs().sum() > 0


@pytest.mark.parametrize("through", ["memory", "file"])
def test_state_dict_round_trip_continues_bit_for_bit(through):
    options = {"momentum": 0.9, "factor_interval": 2, "inverse_interval": 3, "samples": 1}
    model, generator = network(), torch.Generator().manual_seed(0)
    optimizer = kfac(model, generator=generator, **options)
    for step in range(4):
        train_step(optimizer, model, *batch(seed=step))
    twin, twin_generator = copy.deepcopy(network()), torch.Generator()
    twin.load_state_dict(model.state_dict())
    restored = kfac(twin, generator=twin_generator, lr=99.0)
    state_dict = optimizer.state_dict()
    if through == "file":
        file = io.BytesIO()
        torch.save(state_dict, file)
        file.seek(0)
        state_dict = torch.load(file, weights_only=True)
    restored.samples = options["samples"]
    restored.load_state_dict(state_dict)
    for step in range(4, 9):
        train_step(optimizer, model, *batch(seed=step))
        train_step(restored, twin, *batch(seed=step))
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_state_dict_is_a_snapshot():
    model = network()
    optimizer = kfac(model, momentum=0.9)
    train_step(optimizer, model, *batch())
    taken, kept = optimizer.state_dict(), copy.deepcopy(optimizer.state_dict())
    train_step(optimizer, model, *batch(seed=2))
    for key, entries in kept["state"].items():
        for name, value in entries.items():
            assert torch.equal(torch.as_tensor(taken["state"][key][name]), torch.as_tensor(value))


def test_a_compiled_model_takes_the_same_steps():
    results = []
    for compiled in (False, True):
        model = network()
        optimizer = kfac(model, momentum=0.9)
        called = torch.compile(model, backend="aot_eager") if compiled else model
        for seed in range(2):
            train_step(optimizer, called, *batch(seed=seed))
        results.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


def test_a_failed_forward_pass_leaves_no_record_behind():
    model, (inputs, targets) = network(), batch()
    optimizer = kfac(model)
    outputs = model(inputs)
    with pytest.raises(RuntimeError):
        model(inputs[:, :2])
    with pytest.raises(ValueError, match="needs a forward pass of model"):
        optimizer.update_factors(outputs)
    assert model[0](inputs).shape == model[0](inputs).shape
    train_step(optimizer, model, inputs, targets)


def test_a_schedule_and_a_closure():
    model, (inputs, targets) = network(), batch()
    optimizer = kfac(model, lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def closure():
        optimizer.zero_grad()
        outputs = model(inputs)
        optimizer.update_factors(outputs)
        loss = cross_entropy(outputs, targets)
        loss.backward()
        return loss

    losses = []
    for _ in range(3):
        losses.append(optimizer.step(closure).item())
        schedule.step()
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1]
    assert optimizer.param_groups[0]["lr"] == 0.0125


def test_unfreezing_by_add_param_group():
    model, (inputs, targets) = network(), batch()
    optimizer = KFAC(model[2].parameters(), model, samples=None, factor_interval=4)
    train_step(optimizer, model, inputs, targets)
    assert model[0].weight not in optimizer.state
    optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.01})
    # Due at its own first step, although the other layer isn't due.
    train_step(optimizer, model, inputs, targets)
    assert optimizer.state[model[0].weight]["updates"] == 1 == optimizer.state[model[2].weight]["updates"]
    with pytest.raises(ValueError, match="lr must be >= 0"):
        optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], "lr": -1.0})
    assert len(optimizer.param_groups) == 2


def test_parameters_without_gradients_are_skipped():
    model, (inputs, targets) = network(), batch()
    optimizer = kfac(model)
    outputs = model(inputs)
    optimizer.update_factors(outputs)
    cross_entropy(outputs, targets).backward()
    model[0].weight.grad = None
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert torch.equal(model[0].weight, before[0]) and not torch.equal(model[2].weight, before[2])
    torch.testing.assert_close(model[0].bias.detach(), before[1] - 0.1 * model[0].bias.grad)
    model[2].bias.grad = None
    weight = model[2].weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model[2].weight.detach(), weight - 0.1 * model[2].weight.grad)


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_invertible_changes_of_a_layers_inputs_leave_the_function_unchanged(seed):
    # Martens & Grosse, section 10: x -> T x with W -> W T⁻¹; the bias coordinate comes along for a shift.
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(12, 3, dtype=torch.float64, generator=generator)
    change = torch.eye(3, dtype=torch.float64) + 0.4 * torch.randn(3, 3, dtype=torch.float64, generator=generator)
    shift = torch.randn(3, dtype=torch.float64, generator=generator)
    targets = torch.randn(12, 2, dtype=torch.float64, generator=generator)
    torch.manual_seed(seed)
    first = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    second = copy.deepcopy(first)
    with torch.no_grad():
        second[0].weight.copy_(torch.linalg.solve(change.mT, first[0].weight.mT).mT)
        second[0].bias.sub_(second[0].weight @ shift)
    outputs = []
    for model, x in ((first, inputs), (second, inputs @ change.mT + shift)):
        optimizer = kfac(model, lr=0.3, damping=0.0, likelihood="gaussian")
        train_step(optimizer, model, x, targets, half_square)
        outputs.append(model(x).detach())
    scale = float(torch.linalg.cond(change)) ** 2
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-8 * scale)


def test_the_host_reads_once_when_inverses_are_renewed_and_never_else():
    model, (inputs, targets) = network(), batch()
    optimizer = kfac(model, samples=1, inverse_interval=2, momentum=0.9)
    counts = []
    for _ in range(4):
        with host_reads() as reads:
            train_step(optimizer, model, inputs, targets)
        counts.append(len(reads))
    assert counts == [1, 0, 1, 0]


def test_only_the_training_forward_pass_is_recorded():
    model, (inputs, targets) = network(), batch()
    optimizer = kfac(model)
    train_step(optimizer, model, inputs, targets)
    factors = optimizer.state[model[0].weight]["input_factor"].clone()
    model(inputs * 7)
    model[0](inputs)
    model[0](inputs)
    outputs = model(inputs)
    with torch.no_grad():
        model(inputs * 100)
    fisher_information(model, named(model), inputs * 100)
    with pytest.raises(ValueError, match="needs a forward pass of model"):
        # The pass without gradients was the last one.
        optimizer.update_factors(outputs)
    optimizer.update_factors(model(inputs))
    torch.testing.assert_close(optimizer.state[model[0].weight]["input_factor"], factors)


def test_outputs_of_an_earlier_pass_are_refused():
    model, (inputs, targets) = network(), batch()
    optimizer = kfac(model)
    for _ in range(2):
        outputs = model(inputs)
        model(inputs * 2)
        with pytest.raises(ValueError, match="outputs must come from the last forward pass of model"):
            optimizer.update_factors(outputs)
        train_step(optimizer, model, inputs, targets)


def test_a_copy_of_the_model_is_not_watched():
    model, (inputs, _) = network(), batch()
    optimizer = kfac(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    outputs = model(inputs)
    average(inputs * 7)
    optimizer.update_factors(outputs)
    oracle = kfac(model)
    oracle.update_factors(model(inputs))
    for name in ("input_factor", "gradient_factor"):
        assert torch.equal(*(o.state[model[0].weight][name] for o in (optimizer, oracle)))
    with pytest.raises(TypeError, match="KFAC can't be copied or pickled: make one for the copy of model"):
        copy.deepcopy((model, optimizer))


def test_a_layer_left_out_of_a_pass_keeps_its_factors():
    class Dropped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.depth = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), 2

        def forward(self, x):
            return self.last(self.first(x) if self.depth == 2 else x)

    model, (inputs, targets) = Dropped().double(), batch()
    optimizer = kfac(model, factor_interval=2)
    # The first layer's second step, and with it its next update, comes later than the other's.
    for depth, updates in ((2, (1, 1)), (1, (1, 1)), (2, (1, 2)), (1, (1, 2)), (2, (2, 3))):
        model.depth = depth
        train_step(optimizer, model, inputs, targets)
        assert tuple(optimizer.state[m.weight]["updates"] for m in (model.first, model.last)) == updates


def test_hooks_can_be_removed():
    model, (inputs, targets) = network(), batch()
    optimizer = kfac(model)
    train_step(optimizer, model, inputs, targets)
    outputs = model(inputs)
    optimizer.remove_hooks()
    with pytest.raises(ValueError, match="needs a forward pass of model"):
        optimizer.update_factors(outputs)
    assert not model._forward_pre_hooks and not any(m._forward_hooks for m in model.modules())
    cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def test_autocast_has_factors_in_the_parameters_precision():
    model, (inputs, targets) = network(torch.float32), batch(dtype=torch.float32)
    exact = kfac(model)
    exact.update_factors(model(inputs))
    optimizer = kfac(model)
    with torch.autocast("cpu", torch.bfloat16):
        train_step(optimizer, model, inputs, targets)
    for name in ("input_factor", "gradient_factor"):
        found, oracle = (o.state[model[2].weight][name] for o in (optimizer, exact))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, oracle, rtol=0.05, atol=0.02)


def test_a_step_under_autocast_is_a_step_outside():
    ends = []
    for enabled in (False, True):
        model, (inputs, targets) = network(torch.float32), batch(dtype=torch.float32)
        optimizer = kfac(model)
        outputs = model(inputs)
        optimizer.update_factors(outputs)
        cross_entropy(outputs, targets).backward()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            optimizer.step()
        ends.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


def test_one_image_without_a_batch_dimension():
    torch.manual_seed(0)
    model = torch.nn.Conv2d(2, 3, 2, padding=1, padding_mode="reflect").double()
    image = torch.randn(2, 4, 4, dtype=torch.float64)
    factors = []
    for inputs in (image, image[None]):
        optimizer = kfac(model, likelihood="gaussian")
        optimizer.update_factors(model(inputs).reshape(1, -1))
        factors.append(optimizer.state[model.weight])
        optimizer.remove_hooks()
    for name in ("input_factor", "gradient_factor"):
        torch.testing.assert_close(factors[0][name], factors[1][name])


def test_keyword_calls_and_a_model_that_is_a_single_layer():
    torch.manual_seed(0)
    model, (inputs, _) = torch.nn.Linear(3, 3).double(), batch()
    optimizer = kfac(model)
    optimizer.update_factors(model(input=inputs))
    assert optimizer.state[model.weight]["input_factor"][-1, -1] == 1


def test_layers_beside_the_outputs_have_no_factors():
    class Auxiliary(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.beside = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)

        def forward(self, x):
            self.penalty = self.beside(x).square().mean()
            return self.main(x)

    model, (inputs, targets) = Auxiliary().double(), batch()
    optimizer = kfac(model)
    outputs = model(inputs)
    optimizer.update_factors(outputs)
    (cross_entropy(outputs, targets) + model.penalty).backward()
    weight = model.beside.weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model.beside.weight.detach(), weight - 0.1 * model.beside.weight.grad)


@pytest.mark.gpu
def test_runs_on_a_gpu_and_waits_only_for_new_inverses():
    for samples in (None, 1):
        model, (inputs, targets) = network(), batch()
        oracle = copy.deepcopy(model)
        reference = kfac(oracle, inverse_interval=10, momentum=0.9)
        model, device_inputs, device_targets = model.cuda(), inputs.cuda(), targets.cuda()
        optimizer = kfac(model, inverse_interval=10, momentum=0.9, samples=samples)
        train_step(optimizer, model, device_inputs, device_targets)
        train_step(reference, oracle, inputs, targets)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                train_step(optimizer, model, device_inputs, device_targets)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for _ in range(3):
            train_step(reference, oracle, inputs, targets)
        for parameter, other in zip(model.parameters(), oracle.parameters(), strict=True):
            if samples is None:
                torch.testing.assert_close(parameter.cpu(), other)


LINEAR = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"params": []}, ValueError, "empty parameter list"),
        ({"model": 3}, TypeError, "model must be a torch.nn.Module"),
        ({"model": torch.nn.LayerNorm(2)}, ValueError, "params must hold the weight of a Linear or Conv2d"),
        ({"params": [LINEAR.bias]}, ValueError, "params must hold the weight of a Linear or Conv2d"),
        ({"lr": -0.1}, ValueError, "lr must be >= 0"),
        ({"damping": -1.0}, ValueError, "damping must be >= 0"),
        ({"damping": math.nan}, ValueError, "damping must be finite"),
        ({"momentum": "0"}, TypeError, "momentum must be a Python number"),
        ({"decay": 1.5}, ValueError, r"decay must be in \[0, 1\]"),
        ({"factor_interval": 0}, ValueError, "factor_interval must be >= 1"),
        ({"inverse_interval": 2.0}, TypeError, "inverse_interval must be a Python int"),
        ({"likelihood": "poisson"}, ValueError, "likelihood must be one of"),
        ({"samples": 0}, ValueError, "samples must be >= 1"),
        ({"generator": 1}, TypeError, "generator must be a torch.Generator"),
        ({"params": [LINEAR.weight, torch.ones(1, dtype=torch.complex64)]}, TypeError, r"params\[1\] must have dtype"),
        ({"params": [LINEAR.weight, torch.ones(1).half()]}, TypeError, r"params\[1\] must have dtype"),
        ({"params": [LINEAR.weight, torch.eye(2).to_sparse()]}, TypeError, r"params\[1\] must be dense"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        KFAC(**{"params": LINEAR.parameters(), "model": LINEAR, **options})
    assert not LINEAR._forward_hooks


def test_layers_that_have_no_kronecker_factors_are_refused_by_name():
    grouped = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1, groups=2), torch.nn.Flatten(), torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"params\[0\] has no Kronecker factors .* '0' is a Conv2d with groups; leave"):
        kfac(grouped)
    KFAC(grouped[2].parameters(), grouped)
    tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match=r"params\[0\] has .* as '0' and '1' of model share it"):
        kfac(tied)
    embedded = torch.nn.Sequential(torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4))
    embedded[1].weight = embedded[0].weight
    with pytest.raises(ValueError, match=r"params\[0\] has .* as '0' and '1' of model share it"):
        kfac(embedded)
    # One bias with two weights: the second layer would precondition what the first one made of its gradient.
    shifted = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    shifted[1].bias = shifted[0].bias
    with pytest.raises(ValueError, match=r"params\[1\] has .* as '0' and '1' of model share it"):
        kfac(shifted)
    optimizer = KFAC([shifted[0].weight, shifted[1].weight], shifted, samples=None)
    train_step(optimizer, shifted, torch.eye(2), torch.tensor([0, 1]))
    assert len(optimizer.state[shifted[0].weight]["input_factor"]) == 2
    layer = torch.nn.Linear(2, 2)
    repeated = torch.nn.Sequential(layer, torch.nn.Tanh(), layer)
    optimizer = kfac(repeated)
    with pytest.raises(ValueError, match="layer '0' was called twice"):
        repeated(torch.ones(1, 2))
    optimizer.remove_hooks()


def test_wrong_use_is_named():
    model, (inputs, targets) = network(), batch()
    optimizer = kfac(model)
    with pytest.raises(ValueError, match="needs a forward pass of model"):
        optimizer.update_factors(torch.ones(2, 3))
    outputs = model(inputs)
    cross_entropy(outputs, targets).backward()
    with pytest.raises(ValueError, match=r"call update_factors\(outputs\) between forward and backward pass"):
        optimizer.step()
    with pytest.raises(ValueError, match="outputs must have a graph"):
        optimizer.update_factors(model(inputs).detach())
    with pytest.raises(ValueError, match=r"outputs must have shape \(N, C\)"):
        optimizer.update_factors(model(inputs).sum())
    with pytest.raises(TypeError, match=r"outputs must be a torch.Tensor"):
        optimizer.update_factors([1.0])
    with pytest.raises(TypeError, match=r"targets must have dtype torch.int64"):
        optimizer.update_factors(model(inputs), targets.double())


def test_singular_factors_are_refused_and_change_nothing():
    model, (inputs, targets) = network(), batch()
    optimizer = kfac(model, damping=0.0)
    before = [p.detach().clone() for p in model.parameters()]
    # The softmax makes G of the last layer singular.
    with pytest.raises(ValueError, match=r"damped factors of '2' are singular.*pass a larger damping"):
        train_step(optimizer, model, inputs, targets)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    damped = kfac(model)
    with pytest.raises(ValueError, match=r"damped factors of '0', '2' are singular .* or not finite"):
        train_step(damped, model, inputs * math.inf, targets)
    # Not even a pivot: all inputs are zero.
    layer = torch.nn.Linear(3, 3, bias=False).double()
    with pytest.raises(ValueError, match="damped factors of 'model' are singular"):
        train_step(kfac(layer, damping=0.0), layer, inputs * 0, targets)


def test_sparse_gradients_are_refused():
    model = torch.nn.Sequential(torch.nn.Embedding(4, 3, sparse=True), torch.nn.Linear(3, 2))
    with pytest.raises(TypeError, match="gradient must be dense"):
        train_step(kfac(model), model, torch.tensor([0, 1, 3]), torch.tensor([0, 1, 1]))
