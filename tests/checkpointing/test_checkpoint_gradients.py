"""The gradients of checkpoint: those of plain autograd, to the bit, in every way to ask for them."""

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steepest.checkpointing import checkpoint
from tests.checkpointing.nets import NETS, Counted, assert_same_bits, build, gradients, saved_bytes

# ---- the same gradients


@pytest.mark.parametrize("name", NETS)
def test_gradients_and_random_state_are_the_same_to_the_bit(name):
    net, x = build(name)
    expected = gradients(net, net, x)
    assert_same_bits(gradients(lambda x: checkpoint(net, x), net, x), expected)
    peer = gradients(lambda x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False), net, x)
    assert_same_bits(peer, expected)


def test_keyword_arguments_containers_and_other_objects():
    weights = {"a": torch.randn(3, requires_grad=True), "b": [torch.randn(3, requires_grad=True)]}
    x = torch.randn(3, requires_grad=True)

    def region(x, name, function=None, *, weights, scale):
        return (x * weights["a"]).sin() * scale + function(weights["b"][0]) * len(name)

    def step(run):
        leaves = [x, weights["a"], weights["b"][0]]
        return torch.autograd.grad(run(x, "name", torch.cos, weights=weights, scale=2.0).sum(), leaves)

    # The region has parameters of the names that checkpoint uses itself.
    assert_same_bits(step(lambda *args, **kwargs: checkpoint(region, *args, **kwargs)), step(region))
    assert torch.equal(checkpoint(lambda function: function * 2, function=x), x * 2)


def test_containers_that_change_after_the_call_are_replayed_as_they_were():
    x = torch.randn(3, requires_grad=True)

    def region(x, options):
        return x.exp() * options.pop("scale")

    checkpoint(region, x, {"scale": 3.0}).sum().backward()
    assert torch.equal(x.grad, 3.0 * x.detach().exp())


@pytest.mark.parametrize("shape", ["tuple", "dict", "nested", "object"])
def test_any_output(shape):
    class Result:
        def __init__(self, value):
            self.value = value

    x = torch.randn(4, requires_grad=True)
    make, read = {
        "tuple": (lambda a, b: (a, 3, b, None), lambda out: out[0] + out[2]),
        "dict": (lambda a, b: {"a": a, "b": b}, lambda out: out["a"] + out["b"]),
        "nested": (lambda a, b: [a, {"b": (b,)}], lambda out: out[0] + out[1]["b"][0]),
        "object": (lambda a, b: Result(a * b), lambda out: out.value),
    }[shape]

    def region(x):
        return make(x.sin().exp(), x.cos().exp())

    expected = torch.autograd.grad(read(region(x)).sum(), x)
    assert_same_bits(torch.autograd.grad(read(checkpoint(region, x)).sum(), x), expected)


def test_parameters_get_gradients_though_no_input_requires_one():
    net, x = build("dropout")
    x = x.detach()
    for run in (net, lambda x: checkpoint(net, x)):
        torch.manual_seed(0)
        net.zero_grad()
        run(x).sum().backward()
        if run is net:
            expected = [p.grad.clone() for p in net.parameters()]
    assert_same_bits([p.grad for p in net.parameters()], expected)
    torch.manual_seed(0)
    net.zero_grad()
    # No arguments at all.
    checkpoint(lambda: net(x)).sum().backward()
    assert_same_bits([p.grad for p in net.parameters()], expected)


def test_integer_and_empty_inputs():
    table = nn.Embedding(10, 4)
    tokens = torch.tensor([[1, 2], [3, 1]])
    expected = torch.autograd.grad(table(tokens).exp().sum(), table.weight)
    assert_same_bits(torch.autograd.grad(checkpoint(lambda i: table(i).exp(), tokens).sum(), table.weight), expected)
    empty = torch.empty(0, 3, requires_grad=True)
    checkpoint(torch.exp, empty).sum().backward()
    assert empty.grad.shape == (0, 3)


# ---- autograd.grad, higher derivatives, several backward passes


def test_gradcheck_and_gradgradcheck():
    torch.manual_seed(0)
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def region(x, weight):
        return torch.tanh(x @ weight) * x.exp(), x.sin() ** 2

    def run(x, weight):
        return checkpoint(region, x, weight)

    assert torch.autograd.gradcheck(run, (x, weight))
    assert torch.autograd.gradgradcheck(run, (x, weight))


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_gradient_penalty_by_double_backward(name):
    net, x = build(name)

    def step(run):
        torch.manual_seed(3)
        # torch's fused attention has no second derivative on every device; the mathematical one does.
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            (gradient,) = torch.autograd.grad(run(x).sin().sum(), x, create_graph=True)
        return torch.autograd.grad((gradient**2).sum(), [x, *net.parameters()], allow_unused=True)

    assert_same_bits(step(lambda x: checkpoint(net, x)), step(net))


def test_backward_twice_and_with_create_graph():
    net, x = build("dropout")
    counted = Counted(net)
    torch.manual_seed(0)
    (once,) = torch.autograd.grad(net(x).sum(), x)
    torch.manual_seed(0)
    loss = checkpoint(counted, x).sum()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert torch.equal(gradient, once)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.equal(gradient, once)
    assert counted.notes.count("start") == 4


def test_a_node_that_reads_its_tensors_twice():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (ctx.saved_tensors[0] + ctx.saved_tensors[0])

    x = torch.randn(5, requires_grad=True)
    checkpoint(lambda x: Twice.apply(x.exp()), x).sum().backward()
    torch.testing.assert_close(x.grad, 2 * (2 * x.detach()).exp())


def test_a_region_that_differentiates_itself():
    def region(x):
        y = x.exp().sin()
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y * slope

    x = torch.randn(5, requires_grad=True)
    expected = torch.autograd.grad(region(x).sum(), x)
    assert_same_bits(torch.autograd.grad(checkpoint(region, x).sum(), x), expected)


def test_without_gradients_the_function_just_runs():
    x = torch.ones(3, requires_grad=True)
    for context in (torch.no_grad, torch.inference_mode):
        with context(), saved_bytes() as saved:
            output = checkpoint(torch.exp, x)
        assert torch.equal(output, x.detach().exp()) and not output.requires_grad and not saved


def test_inference_tensors_are_passed_on():
    with torch.inference_mode():
        constant = torch.full((3,), 2.0)
    x = torch.ones(3, requires_grad=True)
    checkpoint(lambda x, c: (x + c).exp(), x, constant).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 3.0).exp())


@pytest.mark.parametrize("name", ["mlp", "dropout"])
def test_inside_torch_compile_it_is_torchs_region(name):
    net, x = build(name)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: checkpoint(net, x).sin(), backend="aot_eager", fullgraph=True)
    assert_same_bits(gradients(compiled, net, x), gradients(lambda x: net(x).sin(), net, x))
    # A compiled function inside the region.
    torch._dynamo.reset()
    inside = torch.compile(net, backend="aot_eager")
    assert_same_bits(gradients(lambda x: checkpoint(inside, x), net, x), gradients(net, net, x))


# ---- properties


OPERATIONS = {
    "sin": torch.sin,
    "exp of tanh": lambda x: x.tanh().exp(),
    "relu in place": lambda x: (x * 1.1).relu_(),
    "softmax": lambda x: x.softmax(-1),
    "dropout": lambda x: nn.functional.dropout(x, 0.4),
    "norm": lambda x: nn.functional.layer_norm(x, x.shape[-1:]),
    "matmul": lambda x: x @ x.mT @ x / 10,
    "shift": lambda x: x + 1,
    "views": lambda x: x.view(2, 2, -1).transpose(0, 1).reshape(4, -1),
    "nested": lambda x: checkpoint(lambda x: x.cos() * x, x),
}


@settings(max_examples=40)
@given(
    names=st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=8),
    cuts=st.sets(st.integers(1, 7), max_size=4),
    seed=st.integers(0, 1000),
)
def test_any_chain_in_any_segments(names, cuts, seed):
    def chain(names):
        def run(x):
            for name in names:
                x = OPERATIONS[name](x)
            return x

        return run

    def step(regions):
        torch.manual_seed(seed)
        x = torch.randn(4, 6, requires_grad=True)
        y = x * 1
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(names)], strict=True):
            run = chain(names[start:end])
            y = checkpoint(run, y) if regions else run(y)
        y.sum().backward()
        return x.grad, torch.get_rng_state()

    assert_same_bits(step(True), step(False))


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETS)
def test_on_cuda_gradients_and_random_states_are_the_same_to_the_bit(name, monkeypatch):
    # Else a convolution's backward pass may add in any order.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    net, x = build(name, device="cuda")

    def step(run):
        return [*gradients(run, net, x), torch.cuda.get_rng_state()]

    assert_same_bits(step(lambda x: checkpoint(net, x)), step(net))
