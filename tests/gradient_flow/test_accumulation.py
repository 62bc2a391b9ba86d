"""accumulate_gradients gives the gradient of the whole batch, and the counterexamples don't."""

import contextlib
import os
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from steepest.gradient_flow import accumulate_gradients, accumulation_windows
from tests.host_reads import host_reads


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return model


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


def data(size, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 5, dtype=torch.float64, generator=generator)
    return x, torch.randint(3, (size,), generator=generator)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from(["mean", "sum"]))
def test_ragged_micro_batches_give_the_gradient_of_the_whole_batch(sizes, reduction):
    x, y = data(sum(sizes))
    whole = network()
    loss = F.cross_entropy(whole(x), y)
    loss.backward()

    model = network()
    window = list(zip(x.split(sizes), y.split(sizes), strict=True))
    returned = accumulate_gradients(
        window, lambda batch: F.cross_entropy(model(batch[0]), batch[1], reduction=reduction), reduction=reduction
    )
    torch.testing.assert_close(returned, loss.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_padded_tokens_are_weighted_by_the_labels_they_carry(reduction):
    x, y = data(24)
    y[torch.tensor([0, 1, 2, 3, 4, 5, 9, 20])] = -100
    whole = network()
    F.cross_entropy(whole(x), y).backward()

    model = network()
    window = list(zip(x.split(8), y.split(8), strict=True))
    accumulate_gradients(
        window,
        lambda batch: F.cross_entropy(model(batch[0]), batch[1], reduction=reduction),
        count=lambda batch: (batch[1] != -100).sum(),
        reduction=reduction,
    )
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-12, atol=1e-14)


def test_a_micro_batch_without_labels_is_harmless_in_a_sum():
    x, y = data(8)
    y[:4] = -100
    whole, model = network(), network()
    F.cross_entropy(whole(x), y).backward()
    accumulate_gradients(
        list(zip(x.split(4), y.split(4), strict=True)),
        lambda batch: F.cross_entropy(model(batch[0]), batch[1], reduction="sum"),
        count=lambda batch: (batch[1] != -100).sum(),
        reduction="sum",
    )
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-12, atol=1e-14)


def test_gradients_are_added_to_those_that_are_there():
    x, y = data(6)
    model = network()
    F.cross_entropy(model(x), y).backward()
    once = gradients(model)
    accumulate_gradients([(x, y)], lambda batch: F.cross_entropy(model(batch[0]), batch[1]))
    torch.testing.assert_close(gradients(model), [2 * gradient for gradient in once])


def test_counts_as_tensors_are_not_read():
    x, y = data(6)
    model = network()
    with host_reads() as reads:
        returned = accumulate_gradients(
            [(x[:4], y[:4]), (x[4:], y[4:])],
            lambda batch: F.cross_entropy(model(batch[0]), batch[1]),
            count=lambda batch: (batch[1] != -100).sum(),
        )
    assert reads == []
    assert returned.shape == () and not returned.requires_grad


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_counts_as_tensors_are_as_exact_as_numbers(dtype, reduction):
    # None of the shares 3/22, 7/22, 12/22 is a float32.
    x, y = data(22)
    whole = network()
    loss = F.cross_entropy(whole(x), y)
    loss.backward()
    model = network()
    returned = accumulate_gradients(
        list(zip(x.split([3, 7, 12]), y.split([3, 7, 12]), strict=True)),
        lambda batch: F.cross_entropy(model(batch[0]), batch[1], reduction=reduction),
        count=lambda batch: torch.tensor(len(batch[1]), dtype=dtype),
        reduction=reduction,
    )
    torch.testing.assert_close(returned, loss.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_loss_keeps_its_dtype(dtype, reduction, as_tensor):
    weight = torch.ones((), dtype=dtype, requires_grad=True)
    count = (lambda x: torch.tensor(len(x))) if as_tensor else len
    window = [torch.ones(3, dtype=dtype), torch.ones(1, dtype=dtype)]
    loss = accumulate_gradients(window, lambda x: getattr(weight * x, reduction)(), count=count, reduction=reduction)
    assert loss.dtype == dtype and loss.item() == weight.grad.item() == 1


def test_the_graph_of_a_micro_batch_is_gone_before_the_next_forward():
    alive = []
    weight = torch.ones(3, requires_grad=True)

    def loss_fn(batch):
        # Freed saved tensors are what accumulation is for: a second backward through them must fail.
        for loss in alive:
            with pytest.raises(RuntimeError, match="second time"):
                loss.backward()
        alive.append((weight * batch).exp().mean())
        return alive[-1]

    accumulate_gradients([torch.ones(3), torch.zeros(3), torch.ones(3)], loss_fn)
    assert len(alive) == 3


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_gradients_are_exchanged_with_the_last_micro_batch_only(micro_batches):
    log = []

    @contextlib.contextmanager
    def no_sync():
        log.append("enter")
        yield
        log.append("exit")

    weight = torch.ones(2, requires_grad=True)
    weight.register_hook(lambda gradient: log.append("backward"))

    def loss_fn(batch):
        log.append("forward")
        return (weight * batch).mean()

    accumulate_gradients([torch.ones(2)] * micro_batches, loss_fn, no_sync=no_sync)
    assert log == ["enter", "forward", "backward", "exit"] * (micro_batches - 1) + ["forward", "backward"]


def _train_on_rank(rank, folder):
    """One of two ranks, with 3 and 5 samples in micro-batches of at most 2; saves its gradients."""
    # Not every machine can resolve its own name.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    x, y = data(8)
    own = slice(0, 3) if rank == 0 else slice(3, 8)
    model = nn.parallel.DistributedDataParallel(network())
    accumulate_gradients(
        list(zip(x[own].split(2), y[own].split(2), strict=True)),
        lambda batch: F.cross_entropy(model(batch[0]), batch[1]),
        total=8 / 2,
        no_sync=model.no_sync,
    )
    torch.save(gradients(model), f"{folder}/gradients_{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_ranks_with_unequal_data_give_the_gradient_of_all_of_it(tmp_path):
    torch.multiprocessing.spawn(_train_on_rank, args=(str(tmp_path),), nprocs=2)
    whole = network()
    x, y = data(8)
    F.cross_entropy(whole(x), y).backward()
    for rank in range(2):
        own = torch.load(tmp_path / f"gradients_{rank}.pt", weights_only=True)
        torch.testing.assert_close(own, gradients(whole), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.zeros(4, 2), 4),
        ((torch.zeros(3, 2), torch.zeros(9)), 3),
        ([torch.zeros(5)], 5),
        ({"input_ids": torch.zeros(6, 2), "labels": torch.zeros(9)}, 6),
        (((torch.zeros(2, 7), torch.zeros(1)), torch.zeros(9)), 2),
    ],
)
def test_items_are_counted_by_the_first_dimension(batch, expected):
    weight = torch.zeros((), requires_grad=True)
    window = [batch, batch]
    # A mean loss of 1 per item in a window of equal halves: any other count than `expected` twice shifts the total.
    returned = accumulate_gradients(window, lambda _: weight + 1, total=expected)
    assert returned.item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([], lambda x: x.sum()), {}, ValueError, "micro_batches is empty"),
        (([torch.ones(2)], lambda x: x.sum()), {"reduction": "none"}, ValueError, "reduction must be 'mean' or 'sum'"),
        (([torch.ones(2)], lambda x: 1.0), {}, TypeError, "loss_fn must return a torch.Tensor, got float"),
        (([torch.ones(2)], lambda x: x.requires_grad_()), {}, ValueError, r"one element, got shape \(2,\)"),
        (([torch.ones(2)], lambda x: x.sum()), {}, ValueError, "without a graph for micro-batch 0"),
        (([torch.ones(0, 2)], lambda x: x.sum()), {}, ValueError, "0 items in total"),
        (([torch.ones(2)], lambda x: x.sum()), {"count": lambda x: -1}, ValueError, "micro-batch 0 has a count of -1"),
        (([torch.ones(2)], lambda x: x.sum()), {"total": 0}, ValueError, "0 items in total"),
        ((["text"], lambda x: x), {}, TypeError, "can't count the items of a str"),
        (([()], lambda x: x), {}, TypeError, "can't count the items of a tuple"),
        (([torch.tensor(1.0)], lambda x: x), {}, TypeError, "has no dimension; pass count"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        accumulate_gradients(*arguments, **options)


@given(st.integers(0, 20), st.integers(1, 6))
def test_windows_hold_every_batch_once_in_order(count, size):
    windows = list(accumulation_windows(iter(range(count)), size))
    assert [batch for window in windows for batch in window] == list(range(count))
    assert all(len(window) == size for window in windows[:-1])
    assert all(1 <= len(window) <= size for window in windows)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_a_wrong_window_size_is_named_at_once(size, error):
    with pytest.raises(error, match="size must be"):
        accumulation_windows([1, 2], size)


@pytest.mark.gpu
def test_no_host_read_on_cuda():
    model = network().cuda()
    x, y = (tensor.cuda() for tensor in data(8))
    window = list(zip(x.split(3), y.split(3), strict=True))
    torch.cuda.set_sync_debug_mode("error")
    try:
        accumulate_gradients(
            window,
            lambda batch: F.cross_entropy(model(batch[0]), batch[1]),
            count=lambda batch: (batch[1] != -100).sum(),
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    whole = network().cuda()
    F.cross_entropy(whole(x), y).backward()
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-10, atol=1e-12)
