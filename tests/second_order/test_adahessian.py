"""AdaHessian against the paper's equations, written out in float64 loops with the whole Hessian."""

import copy
import gc
import math
import warnings
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.second_order import AdaHessian
from steepest.second_order.hutchinson import random_signs
from steepest.second_order.parameter_diagonals import parameter_diagonals, spatial_average
from tests.host_reads import host_reads

OPTIONS = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3}


def coupled(params):
    """A smooth loss in which all entries of all parameters meet."""
    x = torch.cat([param.reshape(-1) for param in params])
    weights = torch.linspace(0.5, 2.0, len(x), dtype=x.dtype)
    return torch.logsumexp(weights * x, 0) + (weights * x**4).sum() / 4 + (x[:-1] * x[1:]).sum()


def start(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for shape in shapes]


class SlowAdaHessian:
    """Algorithm 1 of Yao et al. (2020) by entries of one flat vector, with the Hessian as a matrix.

    g: gradient, H: Hessian, z: signs, D = z ⊙ H z averaged over samples; blocks: lists of the flat indices that share
    an average.
    """

    def __init__(self, theta, lr, betas, eps, k=1.0, weight_decay=0.0, blocks=()):
        self.theta, self.eta, self.betas, self.eps, self.k = theta.clone(), lr, betas, eps, k
        self.weight_decay, self.blocks = weight_decay, blocks
        self.gradients, self.diagonals = [], []

    def step(self, gradient, hessian, probes):
        self.gradients.append(gradient)
        if probes:
            diagonal = sum(z * (hessian @ z) for z in probes) / len(probes)
            averaged = diagonal.clone()
            for block in self.blocks:
                averaged[block] = sum(diagonal[i] for i in block) / len(block)
            self.diagonals.append(averaged)
        beta1, beta2 = self.betas
        for i in range(len(self.theta)):
            t, n = len(self.gradients), len(self.diagonals)
            m = (1 - beta1) * sum(beta1 ** (t - 1 - j) * self.gradients[j][i] for j in range(t)) / (1 - beta1**t)
            v = (1 - beta2) * sum(beta2 ** (n - 1 - j) * self.diagonals[j][i] ** 2 for j in range(n))
            v = math.sqrt(v / (1 - beta2**n)) ** self.k
            self.theta[i] -= self.eta * self.weight_decay * self.theta[i]
            self.theta[i] -= self.eta * m / (v + self.eps)


def flat(tensors):
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def run_both(params, slow, optimizer, steps=5, n_samples=1, update_each=1, loss=coupled):
    """Step `optimizer` and the slow version with the same probes, and compare after each step."""
    shapes = [param.shape for param in params]
    sizes = [param.numel() for param in params]

    def of_flat(x):
        return loss([part.view(shape) for part, shape in zip(x.split(sizes), shapes, strict=True)])

    shadow = torch.Generator()
    shadow.set_state(optimizer.generator.get_state())
    for step in range(steps):
        probes = []
        if step % update_each == 0:
            probes = [random_signs(sum(sizes), torch.device("cpu"), shadow).double() for _ in range(n_samples)]
        slow.step(torch.func.grad(of_flat)(slow.theta), torch.func.hessian(of_flat)(slow.theta), probes)
        optimizer.step(lambda: loss(params))
        torch.testing.assert_close(flat(params), slow.theta, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("own", "options"),
    [
        ({}, {}),
        ({"hessian_power": 0.5}, {"k": 0.5}),
        ({"hessian_power": 0.0}, {"k": 0.0}),
        ({"weight_decay": 0.3}, {"weight_decay": 0.3}),
        ({"n_samples": 3}, {}),
        ({"update_each": 2}, {}),
        (
            {"update_each": 3, "n_samples": 2, "weight_decay": 0.1, "hessian_power": 0.7},
            {"k": 0.7, "weight_decay": 0.1},
        ),
    ],
)
def test_follows_the_papers_equations(own, options):
    params = start((2, 3), (4,), ())
    optimizer = AdaHessian(params, **OPTIONS, **own, generator=torch.Generator().manual_seed(3))
    slow = SlowAdaHessian(flat(params), **OPTIONS, **options)
    run_both(params, slow, optimizer, 5, own.get("n_samples", 1), own.get("update_each", 1))


@settings(max_examples=20)
@given(
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0, 0.999),
    power=st.floats(0, 1),
    decay=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_follows_the_papers_equations_for_all_options(beta1, beta2, power, decay, seed):
    options = {"lr": 0.02, "betas": (beta1, beta2), "eps": 1e-2, "weight_decay": decay}
    params = start((2,), (1, 2), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = AdaHessian(params, hessian_power=power, generator=generator, **options)
    run_both(params, SlowAdaHessian(flat(params), k=power, **options), optimizer, steps=3)


def test_kernels_and_rows_are_averaged_in_blocks_with_their_signs():
    params = start((2, 2, 3), (2, 4), (3,))
    optimizer = AdaHessian(
        params, **OPTIONS, avg_conv_kernel=True, block_size=2, generator=torch.Generator().manual_seed(1)
    )
    # Flat indices: four kernels of three entries, then a row's pairs; the vector stays as it is.
    blocks = [list(range(3 * i, 3 * i + 3)) for i in range(4)] + [[12 + 2 * i, 13 + 2 * i] for i in range(4)]
    run_both(params, SlowAdaHessian(flat(params), **OPTIONS, blocks=blocks), optimizer)


def test_spatial_averages_by_shape():
    kernel = torch.arange(16.0).reshape(2, 1, 2, 4) - 6
    averaged = spatial_average(kernel, avg_conv_kernel=True)
    assert averaged.shape == kernel.shape
    assert torch.equal(averaged[0], torch.full((1, 2, 4), -2.5)) and torch.equal(
        averaged[1], torch.full((1, 2, 4), 5.5)
    )
    volume = torch.randn(2, 3, 2, 2, 2)
    torch.testing.assert_close(spatial_average(volume, 1, True)[1, 2], volume[1, 2].mean().expand(2, 2, 2))
    matrix = torch.tensor([[1.0, 3.0, 5.0, 7.0], [-1.0, 1.0, 0.0, 4.0]])
    assert torch.equal(spatial_average(matrix, 2), torch.tensor([[2.0, 2.0, 6.0, 6.0], [0.0, 0.0, 2.0, 2.0]]))
    assert torch.equal(spatial_average(matrix, 4), matrix.mean(dim=1, keepdim=True).expand(2, 4))
    for kept in (kernel, volume, torch.ones(6), torch.tensor(2.0)):
        assert torch.equal(spatial_average(kept, 2), kept)


@pytest.mark.parametrize("seed", range(3))
def test_one_probe_finds_the_eigenvalues_of_a_diagonal_quadratic(seed):
    curvatures = torch.tensor([1e4, 1.0, -3.0, 1e-2], dtype=torch.float64)
    x = torch.full((4,), 2.0, dtype=torch.float64, requires_grad=True)
    optimizer = AdaHessian([x], lr=1.0, betas=(0.9, 0.5), eps=0, generator=torch.Generator().manual_seed(seed))
    optimizer.step(lambda: (curvatures * x.square()).sum() / 2)
    state = optimizer.state[x]
    torch.testing.assert_close(state["exp_hessian_diag_sq"] / (1 - 0.5), curvatures.square(), rtol=1e-14, atol=0)
    # The step is -g / |λ|: to the minimum where λ > 0, away from the maximum where λ < 0.
    torch.testing.assert_close(x.detach(), torch.tensor([0.0, 0.0, 4.0, 0.0], dtype=torch.float64))


def test_ill_conditioning_along_the_axes_does_not_slow_it_down():
    curvatures = torch.logspace(0, 4, 20, dtype=torch.float64)
    x = torch.ones(20, dtype=torch.float64, requires_grad=True)
    optimizer = AdaHessian([x], lr=0.5, betas=(0.0, 0.999), eps=0)
    for _ in range(30):
        optimizer.step(lambda: (curvatures * x.square()).sum() / 2)
    torch.testing.assert_close(x.detach(), torch.full((20,), 0.5**30, dtype=torch.float64), rtol=1e-9, atol=0)


def backward_and_step(optimizer, params, loss=coupled):
    optimizer.zero_grad()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using backward")
        loss(params).backward(create_graph=True)
    optimizer.step()


@pytest.mark.parametrize("update_each", [1, 2])
def test_backward_with_a_graph_gives_the_same_steps_as_the_closure(update_each):
    paths = []
    for with_closure in (True, False):
        params = start((2, 3), (4,))
        optimizer = AdaHessian(params, **OPTIONS, update_each=update_each, generator=torch.Generator().manual_seed(0))
        for _ in range(4):
            if with_closure:
                loss = optimizer.step(lambda params=params: coupled(params))
                assert not loss.requires_grad
            else:
                backward_and_step(optimizer, params)
            assert all(not param.grad.requires_grad for param in params)
        paths.append(flat(params))
    assert torch.equal(*paths)


def test_a_closure_leaves_the_gradients_and_returns_the_loss_before_the_step():
    params = start((3,))
    expected = coupled(params)
    gradient = torch.autograd.grad(expected, params)[0]
    loss = AdaHessian(params).step(lambda: coupled(params))
    assert loss.item() == expected.item() and torch.equal(params[0].grad, gradient)


@pytest.mark.parametrize("with_closure", [True, False])
def test_no_cycle_keeps_the_graph_alive(with_closure):
    class Marker(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            graphs.append(weakref.ref(ctx))
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 1

    graphs = []
    params = start((3,))
    optimizer = AdaHessian(params)

    def loss(params):
        return coupled([Marker.apply(param) for param in params])

    gc.collect()
    gc.disable()
    try:
        if with_closure:
            optimizer.step(lambda: loss(params))
        else:
            backward_and_step(optimizer, params, loss)
        assert len(graphs) == 1 and graphs[0]() is None
    finally:
        gc.enable()


def test_groups_share_one_product_per_probe_and_have_their_own_options():
    class Counter(torch.autograd.Function):
        """The identity; counts backward passes, of the gradient and of its gradient."""

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            passes.append(1)
            return gradient.clone()

    passes = []
    first, second = start((3,), (2,))
    optimizer = AdaHessian(
        [{"params": [first]}, {"params": [second], "lr": 0.0}], n_samples=2, generator=torch.Generator().manual_seed(0)
    )
    before = first.detach().clone(), second.detach().clone()

    def loss():
        # One call for both parameters: a product for each group would come through it twice per probe.
        joint = Counter.apply(torch.cat([first, second]))
        return (joint**4).sum() + joint.prod()

    optimizer.step(loss)
    # The gradient's pass, and one for each of two probes.
    assert len(passes) == 3
    assert not torch.equal(first.detach(), before[0]) and torch.equal(second.detach(), before[1])


def test_the_diagonal_of_coupled_parameters_has_the_mean_of_the_whole_hessian():
    # x y has a Hessian with zero diagonal and D = (z_x z_y, z_x z_y): exact over the four pairs of signs.
    x, y = start((), ())
    seen = set()
    for seed in range(40):
        gradients = torch.autograd.grad(x * y + x.square(), [x, y], create_graph=True)
        found = parameter_diagonals([x, y], gradients, 1, torch.Generator().manual_seed(seed))
        seen.add(tuple(value.item() for value in found))
    assert seen == {(3.0, 1.0), (1.0, -1.0)}


def test_maximize_goes_up_as_minimising_the_negative_goes_down():
    paths = []
    for maximize in (False, True):
        params = start((4,))
        sign = -1.0 if maximize else 1.0
        optimizer = AdaHessian(params, **OPTIONS, maximize=maximize, generator=torch.Generator().manual_seed(0))
        for _ in range(3):
            optimizer.step(lambda params=params, sign=sign: sign * coupled(params))
        paths.append(flat(params))
    torch.testing.assert_close(*paths, rtol=1e-14, atol=0)


def test_linear_losses_have_no_curvature_and_step_by_eps():
    x, y = start((2,), (2,))
    optimizer = AdaHessian([x, y], lr=0.1, eps=0.5)
    before = x.detach().clone()
    optimizer.step(lambda: 3 * x.sum() + y.square().sum())
    torch.testing.assert_close(x.detach(), before - 0.1 * 3 / 0.5)
    assert torch.equal(optimizer.state[x]["exp_hessian_diag_sq"], torch.zeros(2, dtype=torch.float64))
    # Without any curvature the loss is taken for one whose graph was lost.
    with pytest.raises(ValueError, match="no gradient has a graph that leads to a parameter"):
        AdaHessian([x]).step(lambda: 3 * x.sum())


def test_parameters_without_gradient_are_skipped_and_count_their_own_steps():
    used, idle, frozen = start((2,), (3,), (2,))
    frozen.requires_grad_(False)
    optimizer = AdaHessian([used, idle, frozen], **OPTIONS, generator=torch.Generator().manual_seed(0))
    idle.grad = torch.ones_like(idle)
    for _ in range(3):
        optimizer.step(lambda: coupled([used, frozen]))
    assert idle.grad is None and idle not in optimizer.state and frozen not in optimizer.state
    assert torch.equal(idle.detach(), start((2,), (3,))[1].detach())
    # Its first step has the bias correction of a first step, though the optimizer is at its fourth.
    before = idle.detach().clone()
    optimizer.step(lambda: idle.square().sum())
    torch.testing.assert_close(idle.detach(), before - 0.05 * 2 * before / (2 + 1e-3))
    assert optimizer.state[idle]["step"] == 1 and optimizer.state[used]["step"] == 3
    AdaHessian([start((2,))[0]]).step()


def test_between_estimates_a_new_parameter_waits_for_the_next():
    first, late = start((2,), (2,))
    optimizer = AdaHessian([first], **OPTIONS, update_each=2)
    optimizer.step(lambda: coupled([first]))
    optimizer.add_param_group({"params": [late]})
    before = late.detach().clone()
    optimizer.step(lambda: coupled([first, late]))
    assert torch.equal(late.detach(), before) and optimizer.state[first]["step"] == 2
    optimizer.step(lambda: coupled([first, late]))
    assert not torch.equal(late.detach(), before)
    assert [optimizer.state[param]["estimates"] for param in (first, late)] == [2, 1]


def test_the_graph_is_built_only_in_steps_that_estimate():
    class NotTwice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            graphs.append(torch.is_grad_enabled())
            return gradient.clone()

    graphs = []
    params = start((3,))
    optimizer = AdaHessian(params, update_each=3)
    for _ in range(5):
        optimizer.step(lambda: NotTwice.apply(params[0]).pow(4).sum())
    # An estimate goes through the function a second time, without a graph.
    assert graphs == [True, False, False, False, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_state_and_parameters_keep_dtype_and_layout(dtype):
    weight = torch.ones(3, 4, dtype=dtype).T.requires_grad_()
    assert not weight.is_contiguous()
    optimizer = AdaHessian([weight], lr=0.5, block_size=3)
    optimizer.step(lambda: 2 * weight.square().sum())
    state = optimizer.state[weight]
    assert {state[name].dtype for name in ("exp_avg", "exp_hessian_diag_sq")} == {dtype} == {weight.dtype}
    assert state["exp_avg"].stride() == weight.stride()
    torch.testing.assert_close(weight.detach(), torch.full((4, 3), 0.5, dtype=dtype))


def test_mixed_dtypes_work_side_by_side():
    a, b = torch.ones(2, requires_grad=True), torch.ones(3, dtype=torch.float64, requires_grad=True)
    AdaHessian([a, b], lr=0.5).step(lambda: a.square().sum().double() + b.square().sum())
    torch.testing.assert_close(a.detach(), torch.full((2,), 0.5))
    torch.testing.assert_close(b.detach(), torch.full((3,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("update_each", [1, 3])
def test_state_dict_continues_bitwise(update_each, tmp_path):
    params = start((2, 2), (3,))
    options = {**OPTIONS, "update_each": update_each, "n_samples": 2}
    optimizer = AdaHessian(params, **options, generator=torch.Generator().manual_seed(5))
    for _ in range(4):
        optimizer.step(lambda: coupled(params))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    copied, copied_params = copy.deepcopy((optimizer, params))
    again = [param.detach().clone().requires_grad_() for param in params]
    fresh = AdaHessian(again, generator=torch.Generator())
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(4):
        optimizer.step(lambda: coupled(params))
        fresh.step(lambda: coupled(again))
        copied.step(lambda: coupled(copied_params))
        assert torch.equal(flat(again), flat(params)) and torch.equal(flat(copied_params), flat(params))


def test_state_dict_without_generator_goes_on_from_the_default_one():
    params = start((3,))
    optimizer = AdaHessian(params)
    optimizer.step(lambda: coupled(params))
    saved = copy.deepcopy(optimizer.state_dict())
    again = [params[0].detach().clone().requires_grad_()]
    fresh = AdaHessian(again)
    fresh.load_state_dict(saved)
    torch.manual_seed(0)
    optimizer.step(lambda: coupled(params))
    torch.manual_seed(0)
    fresh.step(lambda: coupled(again))
    assert torch.equal(again[0].detach(), params[0].detach())
    for one, other in ((saved, AdaHessian(again, generator=torch.Generator())), (other_state(), fresh)):
        with pytest.raises(ValueError, match="must both have a generator or both none"):
            other.load_state_dict(one)


def other_state():
    return AdaHessian(start((3,)), generator=torch.Generator()).state_dict()


def test_a_schedule_of_the_rate_is_honoured():
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = AdaHessian([x], lr=0.5, betas=(0.0, 0.999), eps=0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    for expected in (0.5, 0.375):
        optimizer.step(lambda: x.square().sum())
        scheduler.step()
        torch.testing.assert_close(x.detach(), torch.tensor([expected], dtype=torch.float64))


def test_a_step_reads_nothing_on_the_host():
    params = start((2, 2, 3), (2, 4), (3,), dtype=torch.float32)
    optimizer = AdaHessian(
        [{"params": params[:2]}, {"params": params[2:], "maximize": True}],
        weight_decay=0.1,
        n_samples=2,
        avg_conv_kernel=True,
        block_size=2,
        generator=torch.Generator(),
    )
    optimizer.step(lambda: coupled(params))
    with host_reads() as reads:
        optimizer.step(lambda: coupled(params))
        backward_and_step(optimizer, params)
    assert reads == []


def test_compile_works_with_the_backend_that_differentiates_twice():
    paths = []
    for compiled in (False, True):
        params = start((3,))
        optimizer = AdaHessian(params, **OPTIONS, generator=torch.Generator().manual_seed(0))
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for _ in range(3):
            step(lambda params=params: coupled(params))
        paths.append(flat(params))
    assert torch.equal(*paths)
    # Others either refuse or return gradients without a graph; none of it passes for curvature 0.
    for loss in (coupled, lambda params: params[0].pow(4).sum()):
        params = start((3,))
        compiled_loss = torch.compile(loss, backend="aot_eager")
        with pytest.raises((RuntimeError, ValueError), match=r"double backward|no gradient has a graph"):
            AdaHessian(params).step(lambda params=params, loss=compiled_loss: loss(params))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -0.1}, ValueError, "lr must be >= 0"),
        ({"lr": math.nan}, ValueError, "lr must be finite"),
        ({"lr": torch.tensor(0.1)}, TypeError, "lr must be a Python number, got Tensor"),
        ({"eps": -1e-8}, ValueError, "eps must be >= 0"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be >= 0"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] must be < 1"),
        ({"betas": (-0.1, 0.9)}, ValueError, r"betas\[0\] must be in \[0, 1\]"),
        ({"betas": 0.9}, ValueError, "betas must be a pair of numbers, got 0.9"),
        ({"hessian_power": 1.5}, ValueError, r"hessian_power must be in \[0, 1\]"),
        ({"update_each": 0}, ValueError, "update_each must be >= 1"),
        ({"n_samples": 2.0}, TypeError, "n_samples must be a Python int"),
        ({"block_size": 0}, ValueError, "block_size must be >= 1"),
        ({"block_size": 2}, ValueError, r"block_size must divide the columns of params\[0\], got 2 for \(2, 3\)"),
        ({"generator": 7}, TypeError, r"generator must be a torch\.Generator or None"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        AdaHessian([torch.ones(2, 3, requires_grad=True)], **options)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([], ValueError, "empty parameter list"),
        ([{"params": []}], ValueError, "params of a group must hold at least one parameter"),
        ([torch.ones(2, dtype=torch.complex64)], TypeError, r"params\[0\] must have a real floating dtype"),
        ([torch.ones(2), torch.ones(2, dtype=torch.int64)], TypeError, r"params\[1\] must have a real floating dtype"),
        ([torch.eye(2).to_sparse()], TypeError, r"params\[0\] must be dense"),
    ],
)
def test_wrong_parameters_are_named(params, error, message):
    with pytest.raises(error, match=message):
        AdaHessian(params)


def test_a_refused_group_is_not_added():
    first, second = start((2,), (2,))
    optimizer = AdaHessian([first], n_samples=2)
    for options, message in (
        ({"n_samples": 3}, "n_samples must be the same in all groups, got 3 after 2"),
        ({"update_each": 2}, "update_each must be the same in all groups, got 2 after 1"),
        ({"lr": -1.0}, "lr must be >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group({"params": [second], **options})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [second], "lr": 0.5, "block_size": 4})
    optimizer.step(lambda: coupled([first, second]))


@pytest.mark.parametrize(
    ("closure", "error", "message"),
    [
        (lambda x: 1.0, TypeError, r"closure must return the loss as a torch\.Tensor, got float"),
        (lambda x: x.square(), ValueError, r"closure must return one element, got shape \(2,\)"),
        (lambda x: torch.ones(()), ValueError, "closure's loss doesn't depend on a parameter"),
        (lambda x: x.detach().sum(), ValueError, "closure's loss doesn't depend on a parameter"),
        (lambda x: (x.square().sum().backward(), x.sum())[1], ValueError, "closure must not call backward"),
    ],
)
def test_wrong_closures_are_named(closure, error, message):
    x = torch.ones(2, requires_grad=True)
    optimizer = AdaHessian([x])
    with pytest.raises(error, match=message):
        optimizer.step(lambda: closure(x))
    assert torch.equal(x.detach(), torch.ones(2)) and optimizer.steps == 0


def test_a_step_without_graph_or_with_sparse_gradients_is_refused():
    x = torch.ones(2, requires_grad=True)
    optimizer = AdaHessian([x], update_each=2)
    x.square().sum().backward()
    with pytest.raises(ValueError, match=r"no gradient has a graph.*call loss\.backward\(create_graph=True\)"):
        optimizer.step()
    optimizer.step(lambda: x.square().sum())
    optimizer.zero_grad()
    x.square().sum().backward()
    optimizer.step()  # between estimates no graph is needed
    table = torch.nn.Embedding(4, 2, sparse=True)
    with pytest.raises(TypeError, match="AdaHessian needs dense gradients"):
        AdaHessian(table.parameters()).step(lambda: table(torch.tensor([1, 3])).square().sum())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_step_on_cuda_never_waits():
    weight = torch.ones(4, 6, device="cuda", requires_grad=True)
    bias = torch.ones(4, device="cuda", requires_grad=True)
    data = torch.linspace(-1, 1, 18, device="cuda").reshape(3, 6)
    optimizer = AdaHessian([weight, bias], n_samples=2, block_size=3, generator=torch.Generator("cuda").manual_seed(0))

    def closure():
        return torch.tanh(data @ weight.T + bias).square().sum()

    losses = [optimizer.step(closure)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            losses.append(optimizer.step(closure))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert weight.is_cuda and losses[-1] < losses[0]
    with pytest.raises(ValueError, match="generator is on cpu"):
        AdaHessian([weight], generator=torch.Generator())
