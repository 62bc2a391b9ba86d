"""Initialisers against torch's bits, the variances of the papers, and a signal's way through fifty layers."""

import math

import pytest
import torch

from steepest.gradient_debugging import kaiming_normal_, xavier_uniform_

SHAPES = [(30, 50), (8, 3, 5), (8, 3, 5, 5), (4, 2, 3, 3, 3), (1, 1)]


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gain", [1.0, 5 / 3, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_xavier_has_the_bits_of_torch(shape, gain, dtype):
    ours = xavier_uniform_(torch.empty(shape, dtype=dtype), gain, seeded())
    assert torch.equal(ours, torch.nn.init.xavier_uniform_(torch.empty(shape, dtype=dtype), gain, seeded()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize(
    ("a", "nonlinearity"),
    [(0, "leaky_relu"), (0.2, "leaky_relu"), (0.2, "relu")]
    + [(0, name) for name in ("relu", "tanh", "sigmoid", "selu", "linear", "conv2d", "conv_transpose1d")],
)
def test_kaiming_has_the_bits_of_torch(shape, mode, a, nonlinearity):
    arguments = (a, mode, nonlinearity)
    ours = kaiming_normal_(torch.empty(shape), *arguments, seeded())
    assert torch.equal(ours, torch.nn.init.kaiming_normal_(torch.empty(shape), *arguments, seeded()))


def test_without_a_generator_the_global_one_is_used():
    for ours, theirs in (
        (xavier_uniform_, torch.nn.init.xavier_uniform_),
        (kaiming_normal_, torch.nn.init.kaiming_normal_),
    ):
        torch.manual_seed(3)
        weight = ours(torch.empty(4, 5))
        torch.manual_seed(3)
        assert torch.equal(weight, theirs(torch.empty(4, 5)))


def test_variances_and_bounds_are_those_of_the_papers():
    weight = xavier_uniform_(torch.empty(200, 600), generator=seeded()).double()
    # Glorot & Bengio, equations 12 and 16.
    assert weight.var().item() == pytest.approx(2 / 800, rel=0.02)
    bound = math.sqrt(6 / 800)
    assert 0.999 * bound < weight.abs().max().item() <= bound * (1 + 1e-6)
    # He et al., equations 10, 14 and 15: 75 inputs and 200 outputs a unit.
    for mode, fan in (("fan_in", 3 * 25), ("fan_out", 800 * 25)):
        weight = kaiming_normal_(torch.empty(800, 3, 5, 5), mode=mode, generator=seeded()).double()
        assert weight.var().item() == pytest.approx(2 / fan, rel=0.03)
    weight = kaiming_normal_(torch.empty(300, 300), a=math.sqrt(5), generator=seeded()).double()
    assert weight.var().item() == pytest.approx(2 / (1 + 5) / 300, rel=0.03)


def signal_sizes(fill, slope, layers=50, width=256):
    """Root mean squares of the pre-activations y_l = W_l f(y_{l-1}) through the layers."""
    generator = seeded()
    y, sizes = torch.randn(64, width, generator=generator, dtype=torch.float64), []
    for _ in range(layers):
        weight = fill(torch.empty(width, width, dtype=torch.float64), generator)
        y = torch.where(y > 0, y, slope * y) @ weight.T
        sizes.append(y.square().mean().sqrt().item())
    return sizes


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_kaiming_keeps_the_variance_through_fifty_rectifiers(slope):
    # He et al., equation 15: Var[y_l] = 1/2 (1 + a^2) n Var[w] Var[y_{l-1}], here a factor of 1 a layer.
    sizes = signal_sizes(lambda w, g: kaiming_normal_(w, a=slope, generator=g), slope)
    assert min(sizes) > 0.3 and max(sizes) < 3


def test_xavier_under_rectifiers_halves_the_variance_a_layer():
    sizes = signal_sizes(lambda w, g: xavier_uniform_(w, generator=g), 0.0)
    assert math.log2(sizes[0] / sizes[-1]) == pytest.approx(49 / 2, abs=2)


def test_xavier_keeps_the_variance_through_fifty_linear_layers():
    sizes = signal_sizes(lambda w, g: xavier_uniform_(w, generator=g), 1.0)
    assert min(sizes) > 0.3 and max(sizes) < 3


@pytest.mark.parametrize("fill", [xavier_uniform_, kaiming_normal_])
def test_fills_parameters_and_views_in_place_without_recording(fill):
    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    assert fill(parameter) is parameter and parameter.grad_fn is None and parameter.requires_grad
    base = torch.zeros(4, 6)
    fill(base[:, ::2])
    assert (base[:, ::2] != 0).all() and (base[:, 1::2] == 0).all()
    with torch.inference_mode():
        assert fill(torch.zeros(3, 3)).abs().sum() > 0


@pytest.mark.parametrize("fill", [xavier_uniform_, kaiming_normal_])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 2, 0)])
def test_tensors_without_elements_warn_and_come_back(fill, shape):
    tensor = torch.empty(shape)
    with pytest.warns(UserWarning, match="no elements") as caught:
        assert fill(tensor) is tensor
    assert caught[0].filename == __file__


@pytest.mark.parametrize("fill", [xavier_uniform_, kaiming_normal_])
@pytest.mark.parametrize(
    ("tensor", "options", "error", "message"),
    [
        (torch.empty(3), {}, ValueError, r"at least two dimensions \(out, in, ...\), got shape \(3,\)"),
        (torch.empty(()), {}, ValueError, "at least two dimensions"),
        (torch.zeros(2, 2, dtype=torch.int64), {}, TypeError, "tensor must have a real floating dtype"),
        ([[1.0]], {}, TypeError, "tensor must be a torch.Tensor"),
        (torch.empty(2, 2), {"generator": 0}, TypeError, "generator must be a torch.Generator"),
    ],
)
def test_wrong_tensors_and_generators_are_named(fill, tensor, options, error, message):
    with pytest.raises(error, match=message):
        fill(tensor, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda w: xavier_uniform_(w, -1.0), ValueError, "gain must be >= 0"),
        (lambda w: xavier_uniform_(w, math.nan), ValueError, "gain must be finite"),
        (lambda w: kaiming_normal_(w, mode="fan_avg"), ValueError, "mode must be 'fan_in' or 'fan_out', got 'fan_avg'"),
        (lambda w: kaiming_normal_(w, nonlinearity="gelu"), ValueError, "leaky_relu.*relu.*tanh; got 'gelu'"),
        (lambda w: kaiming_normal_(w, a="0"), TypeError, "a must be a Python number"),
        (lambda w: kaiming_normal_(w, a=math.inf), ValueError, "a must be finite"),
    ],
)
def test_wrong_numbers_and_names_are_named_and_nothing_is_filled(call, error, message):
    weight = torch.zeros(2, 2)
    with pytest.raises(error, match=message):
        call(weight)
    assert not weight.any()


@pytest.mark.gpu
@pytest.mark.parametrize("fill", [xavier_uniform_, kaiming_normal_])
def test_on_a_gpu_with_its_generator(fill):
    theirs = getattr(torch.nn.init, fill.__name__)
    generators = [torch.Generator("cuda").manual_seed(0) for _ in range(2)]
    ours = fill(torch.empty(20, 30, device="cuda"), generator=generators[0])
    assert torch.equal(ours, theirs(torch.empty(20, 30, device="cuda"), generator=generators[1]))
    with pytest.raises(ValueError, match="generator is on cpu"):
        fill(torch.empty(2, 2, device="cuda"), generator=torch.Generator())
