"""Gradient accumulation: the gradient of a large batch, one micro-batch at a time.

The loss of the whole batch is a mean over its N items (samples, or tokens that carry a label). Split into k
micro-batches with n_1 + ... + n_k = N it is

    L = (1/N) Σ_j ℓ_j = Σ_i (n_i / N) L_i,

where L_i is the mean over micro-batch i. Gradients add up in `.grad`, so that a backward pass of each term
gives ∇L with the memory of one micro-batch. Weights 1/k instead of n_i/N are right for equal sizes only.

| symbol | here                    | shape  |
|--------|-------------------------|--------|
| L_i    | `loss_fn(micro_batch)`  | ()     |
| n_i    | `count(micro_batch)`    | number or () |
| N      | `total`                 | number or () |
| L      | the returned tensor     | ()     |
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

from steepest.validation import require_count

Batch = TypeVar("Batch")
Count = int | float | torch.Tensor


def first_dimension(micro_batch: Any) -> int:
    """Return the length of the first dimension of a tensor, or of the first tensor in a tuple, list or dict.

    Raises:
        TypeError: there is no tensor with a dimension at the front.

    Example:
        >>> first_dimension((torch.zeros(8, 3), torch.zeros(8)))
        8
    """
    first = micro_batch
    while not isinstance(first, torch.Tensor):
        if isinstance(first, dict):
            first = list(first.values())
        if not isinstance(first, (tuple, list)) or not first:
            raise TypeError(
                f"can't count the items of a {type(micro_batch).__name__} without a tensor at its front; pass count"
            )
        first = first[0]
    if first.ndim == 0:
        raise TypeError("can't count the items of a micro-batch whose first tensor has no dimension; pass count")
    return first.shape[0]


def accumulate_gradients(
    micro_batches: Sequence[Batch],
    loss_fn: Callable[[Batch], torch.Tensor],
    *,
    count: Callable[[Batch], Count] = first_dimension,
    reduction: str = "mean",
    total: Count | None = None,
    no_sync: Callable[[], AbstractContextManager] | None = None,
) -> torch.Tensor:
    """Add to every `.grad` the gradient of the mean loss over all items of all micro-batches.

    Exact for micro-batches of unequal size and for losses over unequal numbers of tokens: each is weighted by
    the items in it. It is not the gradient of the one large batch where a layer looks across the batch, as
    batch normalization does in training. Zero the gradients before; clip and step once, after.

    Counts that are tensors stay on their device, and nothing waits for it.

    Args:
        micro_batches: the window, at least one micro-batch; whatever `loss_fn` takes.
        loss_fn: maps a micro-batch to its loss, one element, with a graph.
        count: maps a micro-batch to the number of items that its loss is taken over. For tokens with padding:
            `lambda batch: (batch[1] != -100).sum()`.
        reduction: "mean" if `loss_fn` averages over the items, "sum" if it adds them up. Only the sum is
            defined for a micro-batch in which no token carries a label.
        total: N, if it is not the sum of the counts. With data parallelism over R ranks, which averages
            gradients, pass the sum of the counts over all ranks, divided by R.
        no_sync: gives a context in which backward doesn't exchange gradients between ranks, as
            `DistributedDataParallel.no_sync`; entered for all micro-batches but the last.

    Returns:
        The mean loss over all items, one element, detached.

    Raises:
        TypeError: `loss_fn` returns no tensor, or the items of a micro-batch can't be counted.
        ValueError: no micro-batch, an unknown reduction, counts that are negative or add up to 0 (where they
            are numbers), or a loss with several elements or without a graph.

    Example:
        Two micro-batches of two items and one give the gradient of all three:

        >>> weight = torch.zeros((), requires_grad=True)
        >>> window = [torch.tensor([1.0, 2.0]), torch.tensor([6.0])]
        >>> accumulate_gradients(window, lambda x: (weight * x).mean()).item()
        0.0
        >>> weight.grad
        tensor(3.)
    """
    micro_batches = list(micro_batches)
    if not micro_batches:
        raise ValueError("micro_batches is empty: there is no gradient to accumulate")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    # In float64: a quotient of integer tensors is a float32.
    counts = [_in_float64(count(micro_batch)) for micro_batch in micro_batches]
    for i, number in enumerate(counts):
        if not isinstance(number, torch.Tensor) and number < 0:
            raise ValueError(f"micro-batch {i} has a count of {number}; counts must be >= 0")
    if total is None:
        total = sum(counts)
    total = _in_float64(total)
    if not isinstance(total, torch.Tensor) and not total > 0:
        raise ValueError(f"the micro-batches have {total} items in total, so their mean loss is undefined")

    mean_loss = None
    last = len(micro_batches) - 1
    for i, (micro_batch, number) in enumerate(zip(micro_batches, counts, strict=True)):
        # Forward is inside as well: that is where DistributedDataParallel decides whether backward exchanges.
        with nullcontext() if no_sync is None or i == last else no_sync():
            loss = loss_fn(micro_batch)
            _require_loss(loss, i)
            weighted = (loss * (number / total) if reduction == "mean" else loss / total).to(loss.dtype)
            weighted.backward()
        mean_loss = weighted.detach() if mean_loss is None else mean_loss + weighted.detach()
    return mean_loss


def accumulation_windows(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield the batches in lists of `size`; the last list holds what remains, so that no batch is lost.

    A loop that steps when `(i + 1) % size == 0` neither steps with a partial last window nor zeroes it: its
    gradient enters the first step of the next epoch.

    Raises:
        TypeError, ValueError: `size` isn't an int >= 1.

    Example:
        >>> list(accumulation_windows(range(5), 2))
        [[0, 1], [2, 3], [4]]
    """
    require_count("size", size)
    return _windows(batches, size)


def _windows(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    window = []
    for batch in batches:
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def _in_float64(number: Count) -> Count:
    return number.to(torch.float64) if isinstance(number, torch.Tensor) else number


def _require_loss(loss: object, index: int) -> None:
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f"loss_fn must return a torch.Tensor, got {type(loss).__name__} for micro-batch {index}")
    if loss.numel() != 1:
        raise ValueError(
            f"loss_fn must return one element, got shape {tuple(loss.shape)} for micro-batch {index}; sum or average it"
        )
    if not loss.requires_grad:
        raise ValueError(f"loss_fn returned a loss without a graph for micro-batch {index}; is it detached?")
