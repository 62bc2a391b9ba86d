"""Activation statistics against counts by hand and numpy, and that the model is left as it was."""

import math

import numpy
import pytest
import torch
from torch import nn

from steepest.gradient_debugging import activation_statistics
from tests.host_reads import host_reads


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Constant(nn.Module):
    """Puts out what it is given, whatever comes in."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


def of_output(output, module=None):
    model = nn.Sequential(Constant(output), *([module] if module else []))
    statistics = activation_statistics(model, torch.zeros(1))
    return statistics["1" if module else "0"]


def test_numbers_are_those_of_numpy():
    output = normal(6, 5, 4, seed=3).relu()
    row, array = of_output(output), output.double().numpy()
    assert row.mean == pytest.approx(array.mean(), rel=1e-6)
    assert row.std == pytest.approx(array.std(), rel=1e-6)
    assert row.zeros == pytest.approx((array == 0).mean())
    assert row.largest == pytest.approx(numpy.abs(array).max())
    assert row.saturated is None


@pytest.mark.parametrize(
    ("shape", "silent", "share"),
    [
        ((5, 4), (slice(None), 1), 1 / 4),
        ((5, 3, 4), (slice(None), slice(None), 1), 1 / 4),
        ((5, 4, 3, 2), (slice(None), 1), 1 / 4),
        ((5, 4, 3, 2, 2), (slice(None), 1), 1 / 4),
        ((4,), (1,), 1 / 4),
    ],
)
def test_a_unit_is_dead_if_it_is_zero_for_every_sample(shape, silent, share):
    output = torch.ones(shape)
    output[silent] = 0
    assert of_output(output).dead == pytest.approx(share)
    output[0] = torch.ones(shape[1:]) if len(shape) > 1 else 1
    assert of_output(output).dead == (0 if len(shape) > 1 else pytest.approx(share))


def test_a_unit_that_is_off_for_half_of_the_batch_is_not_dead():
    row = of_output(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert (row.zeros, row.dead) == (0.5, 0)


def test_saturation_is_counted_where_the_derivative_vanishes():
    x = torch.tensor([[-3.5, -3.0, -2.0, 0.0, 2.0, 5.0]])
    # tanh(2) = 0.964, tanh(3) = 0.995; sigmoid(2 x) = (1 + tanh(x)) / 2.
    assert of_output(x, nn.Tanh()).saturated == pytest.approx(3 / 6)
    assert of_output(2 * x, nn.Sigmoid()).saturated == pytest.approx(3 / 6)
    assert of_output(x, nn.ReLU()).saturated is None


def test_large_activations_and_nonfinite_ones_are_visible():
    row = of_output(torch.tensor([[1.0, -7.0]]))
    assert row.largest == 7
    assert math.isnan(of_output(torch.tensor([[1.0, math.nan]])).mean)
    assert math.isnan(of_output(torch.tensor([[1.0, math.nan]])).largest)
    assert of_output(torch.tensor([[1.0, math.inf]])).largest == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_summed_in_float32_at_least(dtype):
    # The squared deviations, 90000, are beyond float16.
    row = of_output(torch.tensor([[0.0, 600.0]] * 300, dtype=dtype))
    assert (row.mean, row.std, row.largest) == (pytest.approx(300), pytest.approx(300), 600)


def test_layers_come_in_order_of_execution_and_repeated_calls_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.activation = nn.ReLU()
            self.second, self.first = nn.Linear(3, 2), nn.Linear(4, 3)

        def forward(self, x):
            return self.activation(self.second(self.activation(self.first(x))))

    names = list(activation_statistics(Twice(), normal(5, 4)))
    assert names == ["first", "activation", "second", "activation#2"]


def test_chosen_modules_by_path_and_type():
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Tanh(), nn.Linear(3, 3)), nn.ReLU())
    x = normal(5, 4)
    assert list(activation_statistics(model, x)) == ["0", "1.0", "1.1", "2"]
    assert list(activation_statistics(model, x, modules=["1", nn.ReLU])) == ["1", "2"]
    assert list(activation_statistics(model, x, modules=nn.Linear)) == ["0", "1.1"]
    assert list(activation_statistics(model, x, modules="1.0")) == ["1.0"]
    assert list(activation_statistics(nn.Linear(4, 3), x)) == [""]


def test_first_floating_tensor_of_a_structure_counts_and_others_are_left_out():
    lstm = nn.LSTM(4, 3)
    statistics = activation_statistics(lstm, normal(5, 2, 4))
    assert statistics[""].largest == pytest.approx(lstm(normal(5, 2, 4))[0].abs().max().item())
    assert of_output({"ids": torch.arange(3), "hidden": [torch.full((2, 2), 5.0)]}).mean == 5
    model = nn.Sequential(Constant(torch.arange(3)), Constant(torch.empty(0, 3)), Constant(torch.ones(2, 2)))
    assert list(activation_statistics(model, torch.zeros(1))) == ["2"]


def test_the_model_its_buffers_and_hooks_are_left_as_they_were_also_after_an_error():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = normal(5, 4).requires_grad_()
    activation_statistics(model, x)
    with pytest.raises(RuntimeError):
        activation_statistics(model, normal(5, 7))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training and x.grad is None


def test_the_host_reads_once():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.ReLU())
    with host_reads() as reads:
        activation_statistics(model, normal(5, 4))
    assert reads == ["Tensor.tolist"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: activation_statistics(torch.relu, normal(2)), TypeError, "model must be a torch.nn.Module"),
        (
            lambda: activation_statistics(nn.ReLU(), normal(2), modules=["x"]),
            ValueError,
            r"\['x'\] are not in the model",
        ),
        (lambda: activation_statistics(nn.ReLU(), normal(2), modules=[3]), TypeError, "modules must hold paths and"),
        (lambda: activation_statistics(nn.ReLU(), normal(2), modules=[int]), TypeError, "modules must hold paths and"),
        (lambda: activation_statistics(nn.ReLU(), torch.arange(3)), ValueError, "floating tensor"),
        (lambda: activation_statistics(nn.ReLU(), normal(2), modules=nn.Tanh), ValueError, "floating tensor"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu():
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), normal(5, 4)
    here = activation_statistics(model, x)
    there = activation_statistics(model.cuda(), x.cuda())
    assert there["1"].mean == pytest.approx(here["1"].mean, rel=1e-4)
