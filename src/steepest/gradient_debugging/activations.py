"""What the activations of each layer look like in one forward: scale, dead units, saturation.

Sources: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
(2010), section 3, which watches mean and spread of each layer and its saturation; He, Zhang, Ren, Sun,
"Delving deep into rectifiers", arXiv 1502.01852 (2015), for rectifiers.

A layer's scale should stay within the same order of magnitude from first to last: it multiplies from layer to
layer, so that a factor of 0.7 a layer leaves 2e-8 after 50.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from steepest.gradient_debugging.watching import floating_tensors, require_module, watched

# The derivative 1 - tanh(x)^2 is below 0.06 there.
SATURATED = 0.97


@dataclass(frozen=True)
class ActivationStatistics:
    """Statistics of one output of one module. NaN in the output makes mean, std and largest NaN.

    Attributes:
        mean: of all entries.
        std: of all entries (biased: the root of the mean square deviation).
        zeros: share of entries that are exactly 0.
        dead: share of units that are 0 for every sample. A unit is an entry of the last dimension, or a channel
            (dimension 1) where the output has four or more dimensions.
        saturated: share of entries within 1.5% of the range from its ends, |tanh| > 0.97; None unless the module
            is a Tanh or Sigmoid, since sigmoid(x) = (1 + tanh(x / 2)) / 2.
        largest: largest absolute entry.
    """

    mean: float
    std: float
    zeros: float
    dead: float
    saturated: float | None
    largest: float


def activation_statistics(
    model: torch.nn.Module, *inputs: object, modules: Iterable[str | type[torch.nn.Module]] | None = None
) -> dict[str, ActivationStatistics]:
    """Run `model(*inputs)` once and return statistics of the layers' outputs, in order of execution.

    They are computed on the device without gradients, and read by the host all at once at the end. The model
    stays in its mode (train or eval), and its buffers are put back after the forward.

    Args:
        model: any module; what it computes outside of modules, by functions, is not seen.
        inputs: passed to the model.
        modules: which to watch, by path or by type; all without submodules if None.

    Returns:
        By path, with "#2", "#3", ... for the further calls of a module that is called repeatedly. Of a
        structured output the first floating tensor counts; outputs without one, or without entries, are left
        out.

    Raises:
        TypeError: `model` isn't a module, or `modules` isn't a list of paths and types.
        ValueError: a path isn't in the model, or nothing was seen.

    Example:
        The second unit is dead: it is off for both samples.

        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        >>> statistics = activation_statistics(model, torch.tensor([[1.0, 1.0], [-1.0, 2.0]]))
        >>> statistics["1"]
        ActivationStatistics(mean=0.25, std=0.4330126941204071, zeros=0.75, dead=0.5, saturated=None, largest=1.0)
    """
    require_module("model", model)
    rows: dict[str, torch.Tensor] = {}
    calls: dict[str, int] = {}

    def note(name: str, module: torch.nn.Module, output: object) -> None:
        tensor = next(floating_tensors(output), None)
        if tensor is not None and tensor.numel():
            calls[name] = calls.get(name, 0) + 1
            rows[name if calls[name] == 1 else f"{name}#{calls[name]}"] = _row(module, tensor)

    with torch.no_grad(), watched(model) as handles:
        for name, module in _chosen(model, modules).items():
            hook = module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
            handles.enter_context(hook)
        model(*inputs)
    if not rows:
        raise ValueError("none of the watched modules put out a floating tensor in this forward")

    device = next(iter(rows.values())).device
    numbers = torch.stack([row.to(device) for row in rows.values()]).tolist()
    return {
        name: ActivationStatistics(mean, std, zeros, dead, saturated if saturated >= 0 else None, largest)
        for name, (mean, std, zeros, dead, saturated, largest) in zip(rows, numbers, strict=True)
    }


def _row(module: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Return the six statistics (6,) in the order of the dataclass; -1 where saturation has no meaning."""
    x = output.to(torch.promote_types(output.dtype, torch.float32))
    zero = x == 0
    unit = 1 if x.dim() >= 4 else x.dim() - 1
    samples = [dimension for dimension in range(x.dim()) if dimension != unit]
    dead = zero.all(dim=samples) if samples else zero
    mean = x.mean()
    if isinstance(module, torch.nn.Tanh):
        saturated = (x.abs() > SATURATED).to(x.dtype).mean()
    elif isinstance(module, torch.nn.Sigmoid):
        saturated = ((2 * x - 1).abs() > SATURATED).to(x.dtype).mean()
    else:
        saturated = torch.full_like(mean, -1)
    shares = [share.to(x.dtype).mean() for share in (zero, dead)]
    return torch.stack([mean, (x - mean).square().mean().sqrt(), *shares, saturated, x.abs().max()])


def _chosen(
    model: torch.nn.Module, modules: Iterable[str | type[torch.nn.Module]] | None
) -> dict[str, torch.nn.Module]:
    """Return the modules to watch by path."""
    named = dict(model.named_modules())
    if modules is None:
        return {name: module for name, module in named.items() if not list(module.children())}
    chosen = [modules] if isinstance(modules, (str, type)) else list(modules)
    kinds = tuple(kind for kind in chosen if isinstance(kind, type) and issubclass(kind, torch.nn.Module))
    paths = {path for path in chosen if isinstance(path, str)}
    if len(kinds) + sum(isinstance(path, str) for path in chosen) != len(chosen):
        raise TypeError(f"modules must hold paths and module types, got {chosen}")
    if paths - named.keys():
        raise ValueError(f"modules {sorted(paths - named.keys())} are not in the model; it has {list(named)}")
    return {name: module for name, module in named.items() if name in paths or isinstance(module, kinds)}
