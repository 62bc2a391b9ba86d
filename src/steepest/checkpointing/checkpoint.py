"""Gradient checkpointing by saved-tensor hooks: a region keeps its inputs and is run again in the backward pass.

Sources: Griewank and Walther, "Algorithm 799: revolve", ACM TOMS 26 (2000); Chen, Xu, Zhang and Guestrin, "Training
deep nets with sublinear memory cost", arXiv 1604.06174 (2016), algorithm 1.

Here a region keeps its graph and its inputs, and only the tensors that autograd would save are computed again. That is
why `torch.autograd.grad`, double backward and parameters that the function closes over work as they do without
checkpointing. `steepest.checkpointing.region` does it. `CheckpointFunction` is the textbooks' other way, which replaces
the graph and pays for it.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.utils.checkpoint
from torch.autograd.graph import saved_tensors_hooks

from steepest.checkpointing.region import Region

Output = TypeVar("Output")


def checkpoint(
    function: Callable[..., Output], /, *args: object, preserve_rng_state: bool = True, **kwargs: object
) -> Output:
    """Return ``function(*args, **kwargs)``, keeping its inputs for the backward pass instead of its activations.

    The backward pass runs the function a second time, up to the last tensor that it needs. Gradients are the same to
    the bit where the function is deterministic given the random streams. The price is one more forward pass of the
    region; the gain is that between the two passes only the inputs of the region stay in memory.

    Restored for the recomputation, and put back after it: the CPU's random stream, those of the current CUDA device
    and of the devices of the arguments, `torch.Generator` arguments, and autocast. Python's and NumPy's streams
    aren't. Where gradients are off (`torch.no_grad`, inference mode) the function just runs.

    What stays to the caller:

    - The function must do the same on both runs. Side effects happen twice: BatchNorm updates its running statistics
      twice, which momentum 1 - sqrt(1 - m) in place of m makes up for, because (1 - m) is then split into two equal
      factors; forward hooks run twice as well. Nested regions run once more for each level.
    - A tensor that the function reaches through a closure stays in memory as long as the function does, so pass
      activations as arguments. In-place changes through ``.data``, which autograd cannot see, and changes of a tensor
      that the function closes over but autograd did not save, go unnoticed and make the gradients wrong.
    - The transforms of `torch.func` and forward-mode differentiation raise an error. Inside `torch.compile` the call
      becomes one of `torch.utils.checkpoint.checkpoint`, which the compiler knows and carries out by itself. It has
      that function's limits: the debugging backend "eager" doesn't restore the random streams, the others do.

    Args:
        function: any callable. The parameters that it closes over (a module's) get their gradients.
        *args: its arguments: tensors, containers of them, anything else; none needs to require a gradient.
        preserve_rng_state: False saves the copies of the random states, for functions that draw no random numbers.
        **kwargs: its keyword arguments.

    Returns:
        What the function returns, of whatever type.

    Raises:
        TypeError: `function` isn't callable, or `preserve_rng_state` isn't a bool.
        RuntimeError: in the forward pass, CUDA is first used inside the function. In the backward pass, an input or
            a leaf that autograd saved was changed in place since, or the recomputation saved other tensors.

    Example:
        The function runs twice, and the second time stops before the final product, whose value nobody needs:

        >>> calls = []
        >>> def region(x):
        ...     calls.append("sin")
        ...     y = x.sin()
        ...     calls.append("square")
        ...     z = y * y
        ...     calls.append("done")
        ...     return z
        >>> x = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> checkpoint(region, x).sum().backward()
        >>> calls
        ['sin', 'square', 'done', 'sin', 'square']
        >>> torch.equal(x.grad, 2 * x.detach().sin() * x.detach().cos())
        True
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    if not isinstance(preserve_rng_state, bool):
        raise TypeError(f"preserve_rng_state must be True or False, got {type(preserve_rng_state).__name__}")
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    if torch.compiler.is_compiling():
        # The compiler traces no hooks; it decides itself what a region recomputes, if it knows that it is one.
        return torch.utils.checkpoint.checkpoint(
            function, *args, use_reentrant=False, preserve_rng_state=preserve_rng_state, **kwargs
        )
    region = Region(function, args, kwargs, preserve_rng_state)
    with saved_tensors_hooks(region.pack, region.unpack):
        output = function(*args, **kwargs)
    region.state.require_cuda_was_captured()
    return output
