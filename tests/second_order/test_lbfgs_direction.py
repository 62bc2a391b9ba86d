"""Two-loop recursion and ring of pairs against the dense product of V_k, and against conjugate gradients."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.second_order import lbfgs_direction
from steepest.second_order.pair_history import PairHistory


def dense_inverse_hessian(steps, changes):
    """Return the L-BFGS matrix H_k by N&W, eq. 7.19: ρ_k -> rho, V_k -> v, γ_k I -> the first matrix."""
    size = steps.shape[1]
    matrix = numpy.eye(size) * (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y in zip(steps, changes, strict=True):
        rho = 1 / (y @ s)
        v = numpy.eye(size) - rho * numpy.outer(y, s)
        matrix = v.T @ matrix @ v + rho * numpy.outer(s, s)
    return matrix


def random_pairs(count, size, seed):
    """Return steps and gradient changes, (count, size) each, of a random convex quadratic with noise in y."""
    generator = numpy.random.default_rng(seed)
    curvature = generator.uniform(0.5, 4, size)
    steps = generator.standard_normal((count, size)) * 10.0 ** generator.uniform(-2, 2, (count, 1))
    changes = steps * curvature + 0.05 * numpy.abs(steps) * generator.standard_normal((count, size))
    assert ((steps * changes).sum(axis=1) > 0).all()
    return steps, changes


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_equals_the_dense_product(count, size, seed):
    steps, changes = random_pairs(count, size, seed)
    gradient = numpy.random.default_rng(seed + 1).standard_normal(size)
    expected = -dense_inverse_hessian(steps, changes) @ gradient
    direction = lbfgs_direction(*(torch.from_numpy(array) for array in (gradient, steps, changes)))
    numpy.testing.assert_allclose(
        direction.numpy(), expected, rtol=1e-12, atol=1e-12 * numpy.linalg.norm(expected)
    )
    assert direction.numpy() @ gradient < 0


def test_secant_equation_for_the_newest_pair():
    steps, changes = (torch.from_numpy(array) for array in random_pairs(4, 9, 0))
    torch.testing.assert_close(
        -lbfgs_direction(changes[-1], steps, changes), steps[-1], rtol=1e-12, atol=1e-12
    )
    assert not torch.allclose(-lbfgs_direction(changes[0], steps, changes), steps[0], rtol=1e-3)


def test_no_pairs_give_the_negative_gradient():
    gradient = torch.tensor([1.0, -2.0])
    assert torch.equal(lbfgs_direction(gradient, torch.empty(0, 2), torch.empty(0, 2)), -gradient)


def test_full_memory_and_exact_search_on_a_quadratic_give_conjugate_gradients():
    # N&W, section 7.2: both span the same Krylov spaces and minimise exactly, so that the iterates agree.
    size = 8
    generator = numpy.random.default_rng(5)
    basis, _ = numpy.linalg.qr(generator.standard_normal((size, size)))
    matrix = basis @ numpy.diag(numpy.linspace(1, 20, size)) @ basis.T
    target = generator.standard_normal(size)

    residual = target.copy()
    conjugate, x, iterates = residual.copy(), numpy.zeros(size), []
    for _ in range(6):
        rate = residual @ residual / (conjugate @ matrix @ conjugate)
        x = x + rate * conjugate
        new = residual - rate * matrix @ conjugate
        conjugate = new + (new @ new) / (residual @ residual) * conjugate
        residual = new
        iterates.append(x)

    a, b = torch.from_numpy(matrix), torch.from_numpy(target)
    point = torch.zeros(size, dtype=torch.float64)
    steps, changes = point.new_empty(0, size), point.new_empty(0, size)
    for expected in iterates:
        gradient = a @ point - b
        direction = lbfgs_direction(gradient, steps, changes)
        step = -(gradient @ direction) / (direction @ a @ direction) * direction
        point = point + step
        steps, changes = torch.cat([steps, step[None]]), torch.cat([changes, (a @ step)[None]])
        numpy.testing.assert_allclose(point.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("capacity", [1, 2, 5, 7, 8, 9, 17, 30])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-11)])
def test_ring_agrees_with_the_dense_product_of_its_newest_pairs(capacity, dtype, tolerance):
    # Nineteen pairs wrap every ring at least twice.
    size = 9
    steps, changes = random_pairs(19, size, 3)
    generator = numpy.random.default_rng(4)
    history = PairHistory(capacity, torch.zeros(size, dtype=dtype))
    for k in range(1, 20):
        before = torch.from_numpy(generator.standard_normal(size)).to(dtype)
        after = before + torch.from_numpy(changes[k - 1]).to(dtype)
        direction = torch.from_numpy(steps[k - 1] / 0.25).to(dtype)
        history.push(0.25, direction, after, before)
        assert history.count == min(k, capacity)
        if dtype == torch.float32:
            changes[k - 1] = (after - before).double().numpy()
        newest = slice(max(0, k - capacity), k)
        gradient = generator.standard_normal(size)
        expected = -dense_inverse_hessian(steps[newest], changes[newest]) @ gradient
        numpy.testing.assert_allclose(
            history.direction(torch.from_numpy(gradient).to(dtype)).double().numpy(),
            expected,
            atol=tolerance * numpy.linalg.norm(expected),
        )


def test_a_cleared_ring_forgets_its_pairs():
    steps, changes = random_pairs(6, 5, 7)
    history, fresh = (PairHistory(4, torch.zeros(5, dtype=torch.float64)) for _ in range(2))
    zero = torch.zeros(5, dtype=torch.float64)
    pairs = [
        (1.0, torch.from_numpy(s), torch.from_numpy(y), zero) for s, y in zip(steps, changes, strict=True)
    ]
    for pair in pairs[:5]:
        history.push(*pair)
    history.clear()
    assert history.count == 0
    for pair in pairs[3:]:
        history.push(*pair)
        fresh.push(*pair)
        assert torch.equal(history.direction(pair[1]), fresh.direction(pair[1]))


def test_memory_grows_with_the_pairs_up_to_the_capacity():
    history = PairHistory(50, torch.zeros(5))
    rows = []
    for s, y in zip(*random_pairs(60, 5, 0), strict=True):
        history.push(1.0, torch.from_numpy(s).float(), torch.from_numpy(y).float(), torch.zeros(5))
        rows.append(len(history.steps))
        assert history.steps.shape == history.gradient_changes.shape == (rows[-1], 5)
    assert rows == [8] * 8 + [16] * 8 + [32] * 16 + [50] * 28


def test_a_small_ring_allocates_once():
    history = PairHistory(3, torch.zeros(5))
    addresses = [getattr(history, name).data_ptr() for name in PairHistory.TENSORS]
    steps, changes = random_pairs(8, 5, 0)
    for s, y in zip(steps, changes, strict=True):
        history.push(1.0, torch.from_numpy(s).float(), torch.from_numpy(y).float(), torch.zeros(5))
    assert [getattr(history, name).data_ptr() for name in PairHistory.TENSORS] == addresses


def test_inputs_are_unchanged_and_may_be_non_contiguous():
    steps, changes = random_pairs(3, 4, 0)
    inputs = [
        torch.ones(8, dtype=torch.float64)[::2],
        torch.from_numpy(steps.T.copy()).T,
        torch.from_numpy(changes),
    ]
    copies = [tensor.clone() for tensor in inputs]
    direction = lbfgs_direction(*inputs)
    torch.testing.assert_close(direction, lbfgs_direction(*copies), rtol=1e-13, atol=0)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, copies, strict=True))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(2), torch.ones(1, 3), torch.ones(1, 3)), ValueError, r"steps must have shape \(1, 2\)"),
        ((torch.ones(2), torch.ones(2), torch.ones(2)), ValueError, "steps must be a matrix"),
        ((torch.ones(2), torch.ones(1, 2), torch.ones(2, 2)), ValueError, "gradient_changes must have shape"),
        ((torch.ones(2), [torch.ones(2)], torch.ones(1, 2)), TypeError, "steps must be a torch.Tensor"),
        (
            (torch.ones(2).double(), torch.ones(1, 2), torch.ones(1, 2)),
            TypeError,
            "steps has dtype torch.float32",
        ),
        ((torch.ones(2), torch.ones(2, 2), torch.tensor([[1.0, 1], [-1, 0]])), ValueError, "pair 1 has -1"),
        ((torch.ones(2), torch.ones(1, 2), torch.full((1, 2), float("nan"))), ValueError, "pair 0 has nan"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        lbfgs_direction(*arguments)
