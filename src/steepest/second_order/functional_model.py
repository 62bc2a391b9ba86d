"""A model as a function of one flat parameter vector, the form in which curvature matrices are written."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch

from steepest.second_order.validation import require_float_tensor, require_matching
from steepest.validation import require_tensor

BATCH_NORMS = (
    torch.nn.BatchNorm1d,
    torch.nn.BatchNorm2d,
    torch.nn.BatchNorm3d,
    torch.nn.SyncBatchNorm,
)
Parameters = Mapping[str, torch.Tensor] | torch.Tensor


def flat_function(
    model: torch.nn.Module | Callable[..., torch.Tensor], parameters: Parameters
) -> tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], torch.Tensor]:
    """Return the function (theta, inputs) -> outputs and the point theta, (D,).

    Args:
        model: a module, or a function of (parameters, inputs) that returns a tensor.
        parameters: tensors by name, which theta joins in this order, as of `model.named_parameters()`; a part
            of them will do, and the module's others stay as they are. A function may also take one tensor.

    Returns:
        The function, made for the transforms of `torch.func`, and a detached copy of the parameters, (D,).

    Raises:
        TypeError: `model` isn't callable; a parameter isn't a float32 or float64 tensor, or dtypes differ.
        ValueError: there is no parameter, a name isn't the module's, or devices differ.

    Example:
        >>> fn, theta = flat_function(torch.nn.Linear(2, 1), {"weight": torch.ones(1, 2), "bias": torch.ones(1)})
        >>> fn(theta, torch.tensor([[3.0, 4.0]]))
        tensor([[8.]])
    """
    if not callable(model):
        raise TypeError(f"model must be a module or a function, got {type(model).__name__}")
    is_module = isinstance(model, torch.nn.Module)
    if isinstance(parameters, torch.Tensor) and not is_module:
        tensors = {"parameters": parameters}
    elif isinstance(parameters, Mapping):
        tensors = dict(parameters)
    else:
        kinds = "a mapping of names to tensors" + ("" if is_module else " or a tensor")
        raise TypeError(f"parameters must be {kinds}, got {type(parameters).__name__}")
    if not tensors:
        raise ValueError("parameters must not be empty; pass dict(model.named_parameters())")
    first_name, first = next(iter(tensors.items()))
    own = dict(model.named_parameters()) if is_module else {}
    for name, tensor in tensors.items():
        require_float_tensor(f"parameters[{name!r}]", tensor)
        if is_module and name not in own:
            raise ValueError(f"parameters[{name!r}] is no parameter of model; names are those of named_parameters()")
        shape = tuple(own[name].shape if is_module else tensor.shape)
        require_matching(f"parameters[{name!r}]", tensor, shape, f"parameters[{first_name!r}]", first)
    if sum(tensor.numel() for tensor in tensors.values()) == 0:
        raise ValueError("parameters must have elements")

    def outputs_of(theta: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        if isinstance(parameters, torch.Tensor):
            return model(theta.view(parameters.shape), inputs)
        parts = theta.split([tensor.numel() for tensor in tensors.values()])
        named = {name: part.view(tensors[name].shape) for name, part in zip(tensors, parts, strict=True)}
        return torch.func.functional_call(model, named, (inputs,)) if is_module else model(named, inputs)

    theta = torch.cat([tensor.detach().reshape(-1) for tensor in tensors.values()])  # (D,)
    return outputs_of, theta


@contextlib.contextmanager
def functional_mode(inputs: object) -> Iterator[None]:
    """Leave inference mode, graphs and autocast, whatever the caller is in, for the device of a tensor `inputs`.

    torch.func differentiates without grad mode; autocast would return less than the parameters' precision.
    """
    require_tensor("inputs", inputs)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
        yield


def require_batch(inputs: object) -> torch.Tensor:
    """Return `inputs`, outside of inference mode's reach; raise unless it is a non-empty batch (N, ...)."""
    require_tensor("inputs", inputs)
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError(f"inputs must be a non-empty batch of shape (N, ...), got shape {tuple(inputs.shape)}")
    # Autograd refuses to save inference tensors.
    return inputs.detach().clone() if inputs.is_inference() else inputs.detach()


def require_independent_samples(model: object) -> None:
    """Raise ValueError if `model` has a BatchNorm layer that takes its statistics from the batch."""
    if not isinstance(model, torch.nn.Module):
        return
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and (module.training or module.running_mean is None):
            raise ValueError(
                f"{name or 'model'} is a BatchNorm layer with statistics of the batch, where no sample has a gradient "
                "of its own; call model.eval(), and let it have running statistics"
            )
