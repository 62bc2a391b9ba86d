"""The amounts that `optimal_segments` needs, measured on the layers of a chain.

Source of the symbols: the cost model of `steepest.checkpointing.segments`, after arXiv 1604.06174, section 4.

| symbol | here        | measured as                                                                         |
|--------|-------------|-------------------------------------------------------------------------------------|
| a_i    | `internal`  | live bytes that the forward pass of layer i leaves behind, its output among them    |
| b_i    | `boundary`  | bytes of the tensor that enters layer i                                             |
| w      | `workspace` | how far the backward pass of one layer rises above its a_i, the largest of all layers |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from steepest.checkpointing.forward_state import ForwardState
from steepest.checkpointing.live_memory import LiveMemory
from steepest.validation import require_tensor


@dataclass(frozen=True)
class LayerBytes:
    """What the layers of a chain keep and pass on; ``optimal_segments(n, *astuple)`` fits its arguments.

    Attributes:
        internal: a_i of each layer, bytes.
        boundary: b_i of each layer, bytes.
        workspace: w, bytes.
    """

    internal: tuple[int, ...]
    boundary: tuple[int, ...]
    workspace: int


def layer_bytes(functions: nn.Sequential | Sequence[Callable], input: torch.Tensor) -> LayerBytes:
    """Run each layer once forwards and backwards by itself and return the bytes that it takes.

    Gradients of parameters aren't counted: their ``.grad`` is taken to exist, as it does from the second step on. It
    is left as it was, and so are the random streams. Buffers that a layer updates, such as BatchNorm's, are updated.

    Args:
        functions: the chain, as `checkpoint_sequential` takes it. Each function returns one tensor.
        input: what enters the first, with the batch size of the training step.

    Returns:
        The bytes of each layer.

    Raises:
        TypeError: `input` isn't a tensor, or a function isn't callable or returns something else than a tensor.
        ValueError: there are no functions.

    Example:
        ReLU keeps its output; the linear layer needs its input, which is its boundary, and makes an output:

        >>> layer_bytes([torch.nn.ReLU(), torch.nn.Linear(10, 5)], torch.ones(100, 10))
        LayerBytes(internal=(4000, 2000), boundary=(4000, 4000), workspace=8000)
    """
    require_tensor("input", input)
    layers = list(functions)
    if not layers:
        raise ValueError("functions must hold at least one function")
    internal, boundary, workspace = [], [], 0
    with ForwardState.capture((input,), True).restored(), torch.inference_mode(False), torch.enable_grad():
        for index, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(f"functions[{index}] must be callable, got {type(layer).__name__}")
            # A copy, because a layer may work in place, which autograd forbids on the leaf itself.
            leaf = input.clone().detach()
            entering = leaf.requires_grad_(leaf.is_floating_point() or leaf.is_complex()).clone()
            with LiveMemory() as memory:
                output = layer(entering)
            if not isinstance(output, torch.Tensor):
                raise TypeError(f"functions[{index}] must return a torch.Tensor, got {type(output).__name__}")
            boundary.append(entering.numel() * entering.element_size())
            internal.append(memory.live_bytes())
            if output.requires_grad:
                workspace = max(workspace, _backward_peak(output, memory) - internal[-1])
            input = output.detach()
    return LayerBytes(tuple(internal), tuple(boundary), workspace)


def _backward_peak(output: torch.Tensor, memory: LiveMemory) -> int:
    """Return the peak of the backward pass from a tensor, and leave the gradients of the leaves as they were."""
    before = [(leaf, leaf.grad) for leaf in _leaves(output)]
    for leaf, _ in before:
        leaf.grad = torch.zeros_like(leaf)
    try:
        with memory:
            output.backward(torch.ones_like(output))
    finally:
        for leaf, gradient in before:
            leaf.grad = gradient
    return memory.peak_bytes()


def _leaves(output: torch.Tensor) -> list[torch.Tensor]:
    """Return the leaves whose ``.grad`` a backward pass from a tensor adds to."""
    waiting, seen, leaves = [output.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        waiting.extend(following for following, _ in node.next_functions)
    return leaves
