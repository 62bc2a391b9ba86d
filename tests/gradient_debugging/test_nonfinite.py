"""Faults planted at known places must be found there, and nothing else may change."""

import math

import pytest
import torch
from torch import nn

from steepest.gradient_debugging import NonFinite, find_nonfinite


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Forward(nn.Module):
    """Adds `fault` to one entry of what goes through."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def forward(self, x):
        return torch.cat([x.flatten()[:1] + self.fault, x.flatten()[1:]]).view_as(x)


class _Faulty(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, fault, in_weight):
        ctx.fault, ctx.in_weight = fault, in_weight
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        weight_gradient = torch.tensor([ctx.fault if ctx.in_weight else 1.0, 1.0])
        return gradient if ctx.in_weight else gradient * ctx.fault, weight_gradient, None, None


class Backward(nn.Module):
    """Finite forward; its backward puts `fault` into the gradient of its input or of its weight."""

    def __init__(self, fault, in_weight):
        super().__init__()
        self.fault, self.in_weight = fault, in_weight
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return _Faulty.apply(x, self.weight, self.fault, self.in_weight)


class SquareRoot(nn.Module):
    def forward(self, x):
        return x.sqrt()


def layers(*inserted):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), *inserted, nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))


def loss_of(output):
    return output.square().mean()


def step_of(model, x):
    def closure():
        model.zero_grad()
        loss = loss_of(model(x))
        loss.backward()
        return loss

    return closure


def both_ways(model, x):
    """The finding from model and inputs, which must be that of the closure except for the check of the inputs."""
    found = find_nonfinite(model, x, loss_fn=loss_of)
    assert find_nonfinite(model, closure=step_of(model, x)) == found
    return found


def test_nothing_is_found_in_a_healthy_step():
    assert both_ways(layers(), normal(5, 3)) is None


@pytest.mark.parametrize(("fault", "counts"), [(math.nan, (1, 0)), (math.inf, (0, 1)), (-math.inf, (0, 1))])
def test_forward_output(fault, counts):
    found = both_ways(layers(Forward(fault)), normal(5, 3))
    assert found == NonFinite("forward output", "2", *counts, 15, ("forward input", "2"))
    assert find_nonfinite(layers(Forward(fault)), normal(5, 3)).name == "2"


@pytest.mark.parametrize("fault", [math.nan, math.inf])
def test_gradient_of_output(fault):
    found = both_ways(layers(Backward(fault, in_weight=False)), normal(5, 3))
    assert (found.place, found.name) == ("gradient of output", "1")
    assert found.nan + found.inf == 15 and (found.nan > 0) == math.isnan(fault)
    # The weight of the faulty module itself is fine and comes just before.
    assert found.last_finite == ("parameter gradient", "2.weight")


def test_parameter_gradient():
    found = both_ways(layers(Backward(math.nan, in_weight=True)), normal(5, 3))
    assert (found.place, found.name, found.nan, found.inf, found.entries) == ("parameter gradient", "2.weight", 1, 0, 2)


def test_the_innermost_module_is_named_by_its_path():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), nn.ModuleDict({"deep": Forward(math.inf)})["deep"]))
    assert find_nonfinite(model, normal(5, 3)).name == "1.1"


def test_parameters_buffers_and_inputs_come_first():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), Forward(math.nan))
    x = normal(5, 3)
    infinite = x.clone()
    infinite[0, :2] = math.inf
    assert find_nonfinite(model, x, infinite) == NonFinite("input", "inputs[1]", 0, 2, 15, ("input", "inputs[0]"))
    assert find_nonfinite(model, {"x": infinite}).place == "input"
    model[1].running_var[2] = math.nan
    assert find_nonfinite(model, infinite).name == "1.running_var"
    with torch.no_grad():
        model[1].bias[0] = math.inf
    assert find_nonfinite(model, infinite) == NonFinite("parameter", "1.bias", 0, 1, 3, ("parameter", "1.weight"))


def test_infinite_masks_in_buffers_are_no_fault():
    model = layers()
    model.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
    assert find_nonfinite(model, normal(5, 3)) is None


def test_code_between_modules_shows_at_the_next_modules_input():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x, by_name):
            x = self.first(x)
            return self.second(input=x / 0) if by_name else self.second(x / 0)

    for by_name in (False, True):
        found = find_nonfinite(Between(), normal(5, 3), by_name)
        assert (found.place, found.name, found.last_finite) == ("forward input", "second", ("forward output", "first"))


def test_the_loss_itself():
    found = find_nonfinite(layers(), normal(5, 3), loss_fn=lambda output: (output.sum() * 0).log())
    assert (found.place, found.inf, found.entries) == ("loss", 1, 1)
    model, x = layers(), normal(5, 3)
    found = find_nonfinite(model, closure=lambda: (model(x).sum() * 0).log())
    assert (found.place, found.last_finite) == ("loss", ("forward output", ""))


def test_a_gradient_that_only_the_backward_breaks():
    # 0 * inf: the square root's slope at 0 times the zero that `where` sends back.
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU())
    found = find_nonfinite(
        model, torch.zeros(2, 3), loss_fn=lambda y: torch.where(y > 0, y.sqrt(), torch.zeros_like(y)).sum()
    )
    assert (found.place, found.name, found.nan) == ("gradient of output", "1", 6)
    # What the model hands on from its last module is that module's, so that the two places bracket the fault.
    found = find_nonfinite(nn.Sequential(model, Backward(math.nan, False)), normal(2, 3), loss_fn=torch.sum)
    assert (found.name, found.last_finite) == ("0.1", ("parameter gradient", "1.weight"))
    deeper = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), nn.Tanh()))
    found = find_nonfinite(deeper, normal(2, 3), loss_fn=lambda y: (y - y.detach()).sqrt().sum())
    assert (found.name, found.last_finite) == ("1.1", ("loss", ""))
    root = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Sequential(SquareRoot()))
    found = find_nonfinite(root, torch.zeros(2, 1), loss_fn=torch.sum)
    assert (found.name, found.last_finite) == ("1", ("gradient of output", "2.0"))


def test_in_place_modules_shared_modules_and_structured_outputs():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 3), nn.Identity(), nn.LSTM(3, 2))
    assert find_nonfinite(model, normal(5, 3), loss_fn=lambda output: output[0].sum() + output[1][0].sum()) is None
    broken = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Identity(), Backward(math.inf, False))
    found = find_nonfinite(broken, normal(5, 3).abs(), loss_fn=torch.sum)
    # The identity hands on the tensor of the rectifier.
    assert (found.place, found.name) == ("gradient of output", "1")


def test_a_module_that_puts_out_its_parameter_keeps_no_hook():
    class Prompt(nn.Module):
        def __init__(self):
            super().__init__()
            self.prompt = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.prompt

    model = nn.Sequential(Prompt(), nn.Linear(3, 2))
    for _ in range(2):
        assert find_nonfinite(model, normal(3), loss_fn=torch.sum) is None
    assert not model[0].prompt._backward_hooks


def no_hooks_left(model):
    modules = all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    return modules and all(not parameter._backward_hooks for parameter in model.parameters())


@pytest.mark.parametrize("fault", [0.0, math.nan])
def test_gradients_buffers_and_hooks_are_left_as_they_were(fault):
    model = layers(nn.BatchNorm1d(3), Forward(fault), Backward(fault or 1.0, True))
    x = normal(5, 3).requires_grad_()
    kept = [torch.full_like(parameter, 7.0) for parameter in model.parameters()]
    for parameter, gradient in zip(model.parameters(), kept, strict=True):
        parameter.grad = gradient
    model[0].bias.grad = kept[1] = None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = both_ways(model, x)
    assert (found is None) == (fault == 0)
    assert all(p.grad is gradient for p, gradient in zip(model.parameters(), kept, strict=True))
    assert all((gradient == 7).all() for gradient in kept if gradient is not None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    find_nonfinite(model, x, loss_fn=loss_of)
    assert no_hooks_left(model)


class Replacing(nn.Module):
    """Two names for one buffer, the first of which each forward binds anew."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(3))
        self.register_buffer("alias", self.average)

    def forward(self, x):
        assert self.average is self.alias
        self.average = 0.9 * self.average + x.detach().mean(0)
        return x + self.average


@pytest.mark.parametrize("train", [False, True])
def test_buffers_stay_the_same_tensors_and_good_for_the_backward_of_an_earlier_forward(train):
    model = layers(nn.BatchNorm1d(3)).train(train)
    loss = model(normal(5, 3)).sum()
    find_nonfinite(model, normal(5, 3, seed=1), loss_fn=loss_of)
    loss.backward()

    model = layers(Replacing())
    before = list(model.buffers())
    find_nonfinite(model, normal(5, 3))
    assert model[2].average is model[2].alias is before[0] and not before[0].any()


def test_errors_of_the_step_come_through_and_leave_no_hooks():
    model = layers(nn.BatchNorm1d(3))
    model[0].bias.grad = kept = torch.ones(3)
    with pytest.raises(RuntimeError, match="shapes"):
        find_nonfinite(model, normal(5, 4), loss_fn=loss_of)
    with pytest.raises(KeyError):
        find_nonfinite(model, closure=lambda: {}[model(normal(5, 3)).sum()])
    assert no_hooks_left(model) and model[0].bias.grad is kept and model[2].num_batches_tracked == 0


def test_a_closure_that_swallows_exceptions_does_not_hide_the_first():
    model = layers(Forward(math.nan))

    def closure():
        try:
            model(normal(5, 3))
        except Exception:
            return model[0](normal(5, 3) * math.inf).sum()

    assert find_nonfinite(model, closure=closure).name == "2"


def test_works_without_gradients_outside_and_for_frozen_parameters():
    model, x = layers(Backward(math.nan, False)), normal(5, 3)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert find_nonfinite(model, x, loss_fn=loss_of).name == "1"
            # Made under inference mode, a tensor stays marked.
            assert find_nonfinite(model, x.clone(), loss_fn=loss_of).name == "1"
    model.requires_grad_(False)
    x.requires_grad_()
    found = find_nonfinite(model, x, loss_fn=loss_of)
    assert (found.place, found.name) == ("gradient of output", "1") and x.grad is None


def test_the_report_reads_as_a_sentence():
    found = find_nonfinite(layers(Forward(math.nan)), normal(5, 3))
    assert str(found) == "forward output 2: 1 NaN and 0 inf of 15 entries; last finite: forward input 2"
    assert str(NonFinite("parameter", "a", 0, 2, 3, None)) == "parameter a: 0 NaN and 2 inf of 3 entries"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: find_nonfinite(torch.relu, x), TypeError, "model must be a torch.nn.Module"),
        (lambda m, x: find_nonfinite(m, x, loss_fn=x), TypeError, "loss_fn must be a function, got Tensor"),
        (lambda m, x: find_nonfinite(m, closure=3), TypeError, "closure must be a function, got int"),
        (lambda m, x: find_nonfinite(m, x, closure=step_of(m, x)), ValueError, "pass it without inputs and loss_fn"),
        (lambda m, x: find_nonfinite(m, loss_fn=loss_of, closure=step_of(m, x)), ValueError, "closure is the whole"),
        (lambda m, x: find_nonfinite(m, x, loss_fn=lambda y: y), ValueError, "loss_fn must return a tensor with one"),
        (lambda m, x: find_nonfinite(m, x, loss_fn=lambda y: 1.0), ValueError, "loss_fn must return a tensor with one"),
        (lambda m, x: find_nonfinite(m, x, loss_fn=lambda y: y.detach().sum()), ValueError, "depends on nothing that"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(layers(), normal(5, 3))


@pytest.mark.gpu
def test_on_a_gpu():
    found = find_nonfinite(layers(Backward(math.nan, False)).cuda(), normal(5, 3).cuda(), loss_fn=loss_of)
    assert (found.place, found.name) == ("gradient of output", "1")
