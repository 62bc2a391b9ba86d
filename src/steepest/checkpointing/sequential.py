"""Checkpointing a chain of functions segment by segment.

Source: Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", arXiv 1604.06174 (2016),
section 4.1.

| paper            | here                                  |
|------------------|---------------------------------------|
| n layers         | `functions`                           |
| k segments       | `segments`                            |
| segment outputs, kept | the arguments of `checkpoint`    |
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from steepest.checkpointing.checkpoint import checkpoint
from steepest.validation import require_count


def segment_sizes(n_layers: int, segments: int) -> tuple[int, ...]:
    """Return how `torch.utils.checkpoint.checkpoint_sequential` divides a chain: equally, the rest to the last.

    Example:
        >>> segment_sizes(5, 2), segment_sizes(24, 5)
        ((2, 3), (4, 4, 4, 4, 8))
    """
    require_count("n_layers", n_layers)
    require_count("segments", segments)
    if segments > n_layers:
        raise ValueError(f"segments must be at most the number of layers {n_layers}, got {segments}")
    size = n_layers // segments
    return (size,) * (segments - 1) + (n_layers - size * (segments - 1),)


def checkpoint_sequential(
    functions: nn.Sequential | Sequence[Callable],
    segments: int | Sequence[int],
    input: torch.Tensor,
    *,
    preserve_rng_state: bool = True,
) -> torch.Tensor:
    """Apply functions one after the other, keeping for the backward pass only what enters each segment.

    The last segment is stored as without checkpointing: the backward pass begins there, so that its activations
    would be recomputed at once, at the same peak and for more time. A single segment therefore saves nothing.
    Follows `torch.utils.checkpoint.checkpoint_sequential` with ``use_reentrant=False``, down to how a number of
    segments divides the chain: the remainder goes to the last one, where it costs memory. Sizes, as
    `optimal_segments` finds them, put it elsewhere.

    Args:
        functions: a Sequential or a sequence of modules or functions, each of one argument.
        segments: the number of segments, at most the number of functions; or the size of each, in order.
        input: what enters the first function. Need not require a gradient.
        preserve_rng_state: see `checkpoint`.

    Returns:
        The last function's output.

    Raises:
        TypeError: a function isn't callable, or `segments` is neither an int nor a sequence of ints.
        ValueError: there are no functions, or `segments` doesn't divide them.

    Example:
        Of five layers in two segments the first two run again, as the backward pass reaches them:

        >>> calls = []
        >>> def layer(name):
        ...     def run(x):
        ...         calls.append(name)
        ...         return x.sin()
        ...     return run
        >>> x = torch.ones(1, requires_grad=True)
        >>> checkpoint_sequential([layer(name) for name in "ABCDE"], 2, x).backward()
        >>> "".join(calls)
        'ABCDEAB'
    """
    layers = list(functions)
    if not layers:
        raise ValueError("functions must hold at least one function")
    for index, layer in enumerate(layers):
        if not callable(layer):
            raise TypeError(f"functions[{index}] must be callable, got {type(layer).__name__}")
    if isinstance(segments, int):
        sizes = segment_sizes(len(layers), segments)
    else:
        if not isinstance(segments, Sequence) or isinstance(segments, str):
            raise TypeError(f"segments must be an int or a sequence of ints, got {type(segments).__name__}")
        sizes = tuple(segments)
        for index, size in enumerate(sizes):
            require_count(f"segments[{index}]", size)
        if sum(sizes) != len(layers):
            raise ValueError(f"segments must add up to the {len(layers)} functions, got {sizes}")

    start = 0
    for size in sizes[:-1]:
        input = checkpoint(_chain(layers[start : start + size]), input, preserve_rng_state=preserve_rng_state)
        start += size
    return _chain(layers[start:])(input)


def _chain(layers: Sequence[Callable]) -> Callable:
    def run(input: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            input = layer(input)
        return input

    return run
