"""What checkpoint refuses: changes in place, recomputations that do something else, wrong arguments."""

import pytest
import torch

from steepest.checkpointing import checkpoint
from tests.checkpointing.nets import assert_same_bits, build


def test_changing_an_input_in_place_is_an_error():
    x = torch.ones(3, requires_grad=True)
    hidden = x * 2
    output = checkpoint(lambda h: (h + 1).exp(), hidden)
    hidden.add_(1)
    with pytest.raises(RuntimeError, match="input of a checkpointed function was changed in place"):
        output.sum().backward()
    # By the function itself.
    output = checkpoint(lambda h: h.mul_(2).exp(), x * 2)
    with pytest.raises(RuntimeError, match="input of a checkpointed function was changed in place"):
        output.sum().backward()
    # In a container.
    hidden = x * 2
    output = checkpoint(lambda hs: (hs[0] + 1).exp(), [hidden])
    hidden.zero_()
    with pytest.raises(RuntimeError, match="input of a checkpointed function was changed in place"):
        output.sum().backward()


def test_changing_a_parameter_in_place_is_an_error():
    net, x = build("mlp")
    loss = checkpoint(net, x).sum()
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(RuntimeError, match=r"leaf tensor of shape \(8, 6\).*was changed in place"):
        loss.backward()


def test_changing_an_intermediate_in_place_after_it_was_saved_is_an_error_as_without_checkpointing():
    def wrong(x):
        y = x.exp()
        z = y * y.sin()
        y.add_(1)
        return z.exp() * y

    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        wrong(x).sum().backward()
    with pytest.raises(RuntimeError, match="was changed in place after it was saved"):
        checkpoint(wrong, x).sum().backward()


def test_changing_an_intermediate_in_place_before_it_is_saved_is_fine():
    def region(x):
        y = (x * 2).add_(1)
        y[0] = 5.0
        return y.relu_().sin().mul_(2)

    x = torch.randn(4, requires_grad=True)
    assert_same_bits(torch.autograd.grad(checkpoint(region, x).sum(), x), torch.autograd.grad(region(x).sum(), x))


def alternating(*functions):
    turns = iter(functions)
    return lambda x: next(turns)(x)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda x: x.T.exp().sin().exp(), r"number 0 was .* \(3, 4\) on cpu .*and is now .* \(4, 3\)"),
        (lambda x: x.double().exp().sin().exp(), "number 0 was torch.float32 .*and is now torch.float64"),
        (lambda x: x.exp().tanh().exp(), "number 1 was .*by ExpBackward0 and is now .*by TanhBackward0"),
        (lambda x: x.exp().detach().sin().exp(), "saved 1 tensors where its forward pass saved at least 3"),
        (lambda x: x.exp(), "saved 1 tensors where its forward pass saved at least 3"),
        (lambda x: x + 1, "saved 0 tensors where its forward pass saved at least 3"),
    ],
)
def test_a_recomputation_that_saves_other_tensors_is_an_error(second, message):
    x = torch.randn(3, 4, requires_grad=True)
    loss = checkpoint(alternating(lambda x: x.exp().sin().exp(), second), x).sum()
    with pytest.raises(RuntimeError, match=message):
        loss.backward()


def test_what_an_outer_recomputation_finds_wrong_is_not_taken_for_an_inner_input():
    def outer(first):
        return lambda x: checkpoint(lambda x: x.exp().sin(), first(x))

    x = torch.randn(3, requires_grad=True)
    loss = checkpoint(alternating(outer(torch.cos), outer(torch.tanh)), x).sum()
    with pytest.raises(RuntimeError, match=r"by no recorded operation and is now .*by TanhBackward0"):
        loss.backward()


def test_an_error_in_the_function_passes_through_and_leaves_the_state_alone():
    net, x = build("dropout")

    def fail(x):
        torch.rand(3)
        raise KeyError("mine")

    torch.manual_seed(0)
    with pytest.raises(KeyError, match="mine"):
        checkpoint(fail, x)
    loss = checkpoint(alternating(net, fail), x).sum()
    state = torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        loss.backward()
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    # No hooks are left behind.
    y = x.exp()
    assert y.grad_fn._saved_result is not None


def test_backward_twice_without_retaining_is_torchs_error():
    x = torch.ones(3, requires_grad=True)
    loss = checkpoint(torch.exp, x).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="function must be callable, got Tensor"):
        checkpoint(torch.ones(3), torch.ones(3))
    with pytest.raises(TypeError, match="preserve_rng_state must be True or False, got NoneType"):
        checkpoint(torch.exp, torch.ones(3), preserve_rng_state=None)


def test_func_transforms_and_forward_mode_are_refused():
    with pytest.raises(RuntimeError):
        torch.func.grad(lambda x: checkpoint(torch.exp, x).sum())(torch.ones(3))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError):
        checkpoint(torch.exp, torch.autograd.forward_ad.make_dual(torch.ones(3), torch.ones(3)))
