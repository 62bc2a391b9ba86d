"""The first NaN or infinity of a training step, and the layer that it came out of.

A NaN spreads: one step later every weight has it, and the loss tells nothing about its origin. Walking the step
in order of execution and stopping at the first non-finite tensor tells it: parameters, buffers and inputs, then
each module's input and output, the loss, then backwards each gradient.

| place                     | who made it                                                       |
|---------------------------|-------------------------------------------------------------------|
| `parameter`, `buffer`     | an earlier step                                                   |
| `input`                   | the data                                                          |
| `forward output`          | the module itself, since its input was finite                     |
| `forward input`           | code between modules, after the last finite place                 |
| `loss`                    | the loss function                                                 |
| `gradient of output`      | the backward of what used this output: it lies between here and the last finite place |
| `parameter gradient`      | the backward of the module that holds the parameter               |
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from steepest.gradient_debugging.watching import floating_tensors, require_module, watched


@dataclass(frozen=True)
class NonFinite:
    """The first non-finite tensor.

    Attributes:
        place: one of the table above.
        name: path of the module or parameter, or `inputs[i]`; the model itself is "".
        nan: entries that are NaN.
        inf: entries that are infinite.
        entries: all entries.
        last_finite: place and name of what was checked before it, or None.
    """

    place: str
    name: str
    nan: int
    inf: int
    entries: int
    last_finite: tuple[str, str] | None

    def __str__(self) -> str:
        after = f"; last finite: {' '.join(self.last_finite)}" if self.last_finite else ""
        return f"{self.place} {self.name}: {self.nan} NaN and {self.inf} inf of {self.entries} entries{after}"


class _Found(Exception):
    """Ends the step: what comes after the first is not looked at."""


def find_nonfinite(
    model: torch.nn.Module,
    *inputs: object,
    loss_fn: Callable[[object], torch.Tensor] | None = None,
    closure: Callable[[], torch.Tensor | None] | None = None,
) -> NonFinite | None:
    """Run one step and return the first non-finite tensor in it, or None if all are finite.

    The step is either `loss_fn(model(*inputs))` and its backward (only the forward without `loss_fn`), or what
    `closure` does, which calls the model and usually backward, but no optimizer. To see the values of a failed
    step again, keep its batch, and the random state if there is dropout.

    This is for the search after something went wrong: the host waits for every tensor. Hooks are removed, and
    gradients and buffers put back as they were, also if the step raises.

    Args:
        model: any module. Complex tensors are not looked at; infinities on purpose, such as the scores of masked
            positions, are reported like others.
        inputs: passed to the model.
        loss_fn: maps the model's output to a loss with one element.
        closure: the step, if it is more than that; without `inputs` and `loss_fn`.

    Returns:
        The first finding, or None.

    Raises:
        TypeError: `model` isn't a module, or `loss_fn` or `closure` can't be called.
        ValueError: `closure` is given beside `inputs` or `loss_fn`, or the loss has more than one element or
            doesn't depend on anything that requires a gradient.

    Example:
        The square root has an infinite slope at 0, which the forward doesn't show:

        >>> class Root(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x.sqrt()
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.ReLU(), Root())
        >>> x = torch.zeros(3, 1)
        >>> find_nonfinite(model, x) is None
        True
        >>> print(find_nonfinite(model, x, loss_fn=torch.sum))
        gradient of output 1: 0 NaN and 3 inf of 3 entries; last finite: gradient of output 2
    """
    require_module("model", model)
    for name, function in (("loss_fn", loss_fn), ("closure", closure)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function, got {type(function).__name__}")
    if closure is not None and (inputs or loss_fn is not None):
        raise ValueError("closure is the whole step: pass it without inputs and loss_fn")

    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    with watched(model) as handles, torch.inference_mode(False), torch.enable_grad():
        # Autograd refuses to save inference tensors.
        inputs = tuple(v.clone() if isinstance(v, torch.Tensor) and v.is_inference() else v for v in inputs)
        watch = _Watch(handles)
        try:
            for name, parameter in model.named_parameters():
                watch.check("parameter", name, parameter)
            for name, buffer in model.named_buffers():
                watch.check("buffer", name, buffer)
            for i, value in enumerate(inputs):
                watch.check("input", f"inputs[{i}]", value)
            for parameter, _ in gradients:
                parameter.grad = None
            watch.hook(model)
            if closure is None:
                _run(watch, model, inputs, loss_fn)
            else:
                watch.check("loss", "", closure())
        except _Found:
            return watch.found
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
    return watch.found


class _Watch:
    """Checks tensors in turn until one is not finite; `handles` takes its hooks."""

    def __init__(self, handles: ExitStack) -> None:
        self.found: NonFinite | None = None
        self.last_finite: tuple[str, str] | None = None
        self._handles = handles
        self._latest: list[tuple[torch.Tensor, object]] = []

    def check(self, place: str, name: str, value: object) -> None:
        """Raise _Found at the first non-finite tensor in `value`; the host waits for the counts."""
        for tensor in floating_tensors(value):
            # A closure may have caught the exception and gone on.
            if self.found is not None:
                return
            with torch.no_grad():
                nan, inf = torch.stack([tensor.isnan().sum(), tensor.isinf().sum()]).tolist()
            # Masks are kept in buffers, with infinities on purpose.
            if nan or (inf and place != "buffer"):
                self.found = NonFinite(place, name, nan, inf, tensor.numel(), self.last_finite)
                raise _Found
            self.last_finite = (place, name)

    def hook(self, model: torch.nn.Module) -> None:
        """Check what goes through the modules and comes back to the parameters."""
        for name, module in model.named_modules():
            self._handles.enter_context(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            self._handles.enter_context(module.register_forward_hook(self._after(name)))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._hook_gradient("parameter gradient", name, parameter)

    def _before(self, name: str) -> Callable[[torch.nn.Module, tuple, dict], None]:
        return lambda module, args, kwargs: self.check("forward input", name, (args, kwargs))

    def _after(self, name: str) -> Callable[[torch.nn.Module, tuple, object], None]:
        def check(module: torch.nn.Module, args: tuple, output: object) -> None:
            self.check("forward output", name, output)
            # What a module hands on unchanged from its last child has the child's hook.
            before, self._latest = self._latest, []
            for tensor in floating_tensors(output):
                self._latest.append((tensor, tensor.grad_fn))
                if tensor.requires_grad and not any(tensor is old and tensor.grad_fn is node for old, node in before):
                    self._hook_gradient("gradient of output", name, tensor)

        return check

    def _hook_gradient(self, place: str, name: str, tensor: torch.Tensor) -> None:
        # Hooks of tensors, not of modules: those forbid in-place operations on the output.
        self._handles.enter_context(tensor.register_hook(lambda gradient: self.check(place, name, gradient)))


def _run(
    watch: _Watch,
    model: torch.nn.Module,
    inputs: tuple[object, ...],
    loss_fn: Callable[[object], torch.Tensor] | None,
) -> None:
    """Run the forward, and with a loss function the backward."""
    output = model(*inputs)
    if loss_fn is None:
        return
    loss = loss_fn(output)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise ValueError("loss_fn must return a tensor with one element; sum or average it")
    variables = [tensor for tensor in (*model.parameters(), *floating_tensors(inputs)) if tensor.requires_grad]
    if not (variables and loss.requires_grad):
        raise ValueError("the loss depends on nothing that requires a gradient; without loss_fn only the forward runs")
    watch.check("loss", "", loss)
    # Unlike backward() this leaves the gradients of the inputs and of other modules alone.
    torch.autograd.grad(loss, variables, torch.ones_like(loss), allow_unused=True)
