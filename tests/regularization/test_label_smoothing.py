"""Smoothed labels against torch's own smoothed cross-entropy and the minimum that theory gives."""

import math

import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.regularization import smooth_labels
from tests.host_reads import host_reads

cross_entropy = torch.nn.functional.cross_entropy


def test_every_class_gets_its_share():
    expected = torch.tensor([[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]])
    torch.testing.assert_close(smooth_labels(torch.tensor([2, 0]), 0.1, 4), expected)
    torch.testing.assert_close(smooth_labels(expected, 1.0), torch.full((2, 4), 0.25))
    assert torch.equal(smooth_labels(torch.tensor([1], dtype=torch.uint8), 0.0, 2), torch.tensor([[0.0, 1.0]]))


@pytest.mark.parametrize(("epsilon", "classes"), [(0.1, 10), (0.3, 3)])
def test_the_best_gap_of_logits_is_the_one_in_the_docstring(epsilon, classes):
    target = smooth_labels(torch.eye(classes, dtype=torch.float64)[:1], epsilon)

    def loss(gap):
        logits = torch.zeros(1, classes, dtype=torch.float64)
        logits[0, 0] = gap
        return cross_entropy(logits, target).item()

    best = scipy.optimize.minimize_scalar(loss, bracket=(0, 5)).x
    assert best == pytest.approx(math.log((1 - epsilon) * classes / epsilon + 1), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_probabilities_keep_their_dtype_and_gradient(dtype):
    target = torch.full((2, 4), 0.25, dtype=dtype, requires_grad=True)
    smoothed = smooth_labels(target, 0.25)
    assert smoothed.dtype == dtype
    smoothed.sum().backward()
    assert torch.equal(target.grad, torch.full_like(target, 0.75))


def test_classes_get_the_default_dtype_and_nothing_is_read():
    with host_reads() as reads:
        smoothed = smooth_labels(torch.tensor([0, 1]), 0.1, 3)
    assert reads == [] and smoothed.dtype == torch.float32
    assert smooth_labels(torch.zeros(0, dtype=torch.int64), 0.1, 3).shape == (0, 3)
    compiled = torch.compile(smooth_labels, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.tensor([0, 1]), 0.1, 3), smoothed)


# Properties come last: where something is wrong, shrinking their examples takes longest.
@given(
    classes=st.integers(1, 9), batch=st.integers(1, 5), epsilon=st.floats(0, 1), soft=st.booleans(),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_cross_entropy_with_smoothed_targets_is_torchs(classes, batch, epsilon, soft, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, dtype=torch.float64, generator=generator)
    if soft:
        target = torch.softmax(torch.randn(batch, classes, dtype=torch.float64, generator=generator), 1)
    else:
        target = torch.randint(classes, (batch,), generator=generator)
    before = target.clone()
    smoothed = smooth_labels(target, epsilon, classes)
    ours = cross_entropy(logits, smoothed.double())
    torch.testing.assert_close(ours, cross_entropy(logits, target, label_smoothing=epsilon), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(smoothed.sum(1).double(), torch.ones(batch, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(target, before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.tensor([0]), 1.2, 3), ValueError, "label_smoothing must be in"),
        ((torch.tensor([0]), "0.1", 3), TypeError, "label_smoothing must be a Python number"),
        ((torch.tensor([0]), 0.1), ValueError, "num_classes must be given"),
        ((torch.tensor([0]), 0.1, 3.0), TypeError, "num_classes must be a Python int"),
        ((torch.tensor([3]), 0.1, 3, True), ValueError, r"target must lie in \[0, 3\)"),
        ((torch.tensor([-1]), 0.1, 3, True), ValueError, r"target must lie in \[0, 3\)"),
        ((torch.rand(2, 2, 2), 0.1), ValueError, r"target of probabilities must have shape \(B, K\)"),
        (
            (torch.empty(3, 0), 0.1),
            ValueError,
            r"target of probabilities must have shape \(B, K\), K >= 1, got \(3, 0\)",
        ),
        ((torch.ones(2, 2), 0.1, 2, True), ValueError, "target must hold rows >= 0 that sum to 1"),
        (([0, 1], 0.1, 2), TypeError, "target must be a torch.Tensor"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        smooth_labels(*arguments)
