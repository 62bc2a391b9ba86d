"""Gradient checkpointing as an autograd Function, the way textbooks show it, also called reentrant.

Source: Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", arXiv 1604.06174 (2016),
algorithm 1. The forward pass runs the function without recording a graph. The backward pass detaches the inputs,
runs the function again with gradients on, and calls backward on the little graph that this makes: a backward pass
inside a backward pass, hence reentrant.

| symbol               | here                            |
|----------------------|---------------------------------|
| the region f         | `function`                      |
| its inputs x         | `args`; tensors in `ctx.saved_tensors`, all else in `ctx.rest` |
| ∂L/∂f(x)             | `output_gradients`              |
| ∂L/∂x                | `.grad` of the detached inputs  |
"""

from collections.abc import Callable

import torch
from torch.autograd.function import FunctionCtx

from steepest.checkpointing.forward_state import ForwardState


class CheckpointFunction(torch.autograd.Function):
    """``CheckpointFunction.apply(function, preserve_rng_state, *args)`` keeps only `args` for the backward pass.

    Random streams (CPU, CUDA, `torch.Generator` arguments) and autocast are restored for the recomputation as
    `checkpoint` does. The output is a tensor or a tuple of tensors and other objects.

    It works with `loss.backward()` and tensor arguments that require gradients. Because the node replaces the graph
    of the region, much else doesn't; each point is shown in the tests, and `checkpoint` has none of these limits:

    - Unless some argument is a tensor that requires a gradient, autograd sees nothing to differentiate: the
      parameters that the function closes over silently get *no gradient*.
    - Tensors inside lists or dicts aren't seen, and get none either; nor do those that are returned in one.
    - A parameter changed in place before the backward pass goes unnoticed and makes the gradients wrong.
    - `torch.autograd.grad` and `backward(inputs=...)` raise an error: the inner backward pass adds to the ``.grad``
      of all leaves, which these calls must not touch.
    - ``create_graph=True`` raises an error: the inner backward pass records no graph, so that second derivatives would
      silently lack the region's part.
    - No keyword arguments. Always runs the whole function, also what no gradient needs.
    - A function that makes no output requiring a gradient raises an error in the backward pass.
    - Nested regions give the right gradients, and run once more for each level.
    - `torch.compile` breaks its graph here.
    - A backward hook of a parameter used in several regions fires once for each, with a part of the gradient.

    Args:
        function: callable of `args`.
        preserve_rng_state: False for functions that draw no random numbers.
        *args: tensors and other objects; the gradients of the others are None.

    Raises:
        TypeError: `function` isn't callable, or `preserve_rng_state` isn't a bool.
        RuntimeError: in the backward pass, see above; also if an input was changed in place.

    Example:
        >>> x = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> weight = torch.tensor(3.0, requires_grad=True)
        >>> CheckpointFunction.apply(lambda x: weight * x**2, True, x).sum().backward()
        >>> x.grad, weight.grad
        (tensor([0., 6.]), tensor(1.))

        Without an input that requires a gradient the output has none, and neither has the weight:

        >>> CheckpointFunction.apply(lambda x: weight * x**2, True, x.detach()).requires_grad
        False
    """

    @staticmethod
    def forward(ctx: FunctionCtx, function: Callable, preserve_rng_state: bool, *args: object) -> object:
        if not callable(function):
            raise TypeError(f"function must be callable, got {type(function).__name__}")
        if not isinstance(preserve_rng_state, bool):
            raise TypeError(
                f"preserve_rng_state must be True or False, got {type(preserve_rng_state).__name__}; "
                "it comes before the arguments of the function"
            )
        ctx.function = function
        ctx.state = ForwardState.capture(args, preserve_rng_state)
        ctx.places = [place for place, argument in enumerate(args) if isinstance(argument, torch.Tensor)]
        ctx.rest = [None if isinstance(argument, torch.Tensor) else argument for argument in args]
        tensors = [args[place] for place in ctx.places]
        # Through autograd and not as attributes of ctx, so that they are freed after the backward pass. What was
        # changed by the function itself autograd cannot notice, because it saves when the function has returned.
        ctx.save_for_backward(*tensors)
        ctx.versions = [_version(tensor) for tensor in tensors]
        with torch.no_grad():
            output = function(*args)
        ctx.state.require_cuda_was_captured()
        return output

    @staticmethod
    def backward(ctx: FunctionCtx, *output_gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if not torch.autograd._is_checkpoint_valid():
            raise RuntimeError(
                "CheckpointFunction works with backward() only, not with torch.autograd.grad or backward(inputs=...); "
                "use steepest.checkpointing.checkpoint"
            )
        if torch.is_grad_enabled():
            raise RuntimeError(
                "CheckpointFunction can't be differentiated twice, so it refuses create_graph=True; "
                "use steepest.checkpointing.checkpoint"
            )
        args = list(ctx.rest)
        for place, tensor, version in zip(ctx.places, ctx.saved_tensors, ctx.versions, strict=True):
            if _version(tensor) != version:
                raise RuntimeError(
                    f"argument {place} of the checkpointed function was changed in place after the forward pass began; "
                    "change a copy"
                )
            # Detached, so that the inner backward pass ends here and leaves its result in .grad.
            args[place] = tensor.detach().requires_grad_(tensor.requires_grad)
        with ctx.state.restored(), torch.enable_grad():
            outputs = ctx.function(*args)
        if not isinstance(outputs, tuple):
            outputs = (outputs,)
        pairs = [
            (output, gradient)
            for output, gradient in zip(outputs, output_gradients, strict=True)
            if isinstance(output, torch.Tensor) and output.requires_grad
        ]
        if not pairs:
            raise RuntimeError(
                "no output of the checkpointed function requires a gradient when it is recomputed; "
                "call the function without checkpointing"
            )
        torch.autograd.backward(*zip(*pairs, strict=True))
        gradients = [argument.grad if isinstance(argument, torch.Tensor) else None for argument in args]
        return None, None, *gradients


def _version(tensor: torch.Tensor) -> int | None:
    """Return how often the tensor was changed in place; inference tensors don't count it."""
    return None if tensor.is_inference() else tensor._version
