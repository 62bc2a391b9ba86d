"""Checks of what AdaHessian is given: parameter groups, closures and gradients, none of them by its values."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from steepest.validation import (
    require_count,
    require_floating,
    require_generator,
    require_nonnegative,
    require_probability,
)

# One Hessian-vector product serves all parameters, so that these can't differ between groups.
SHARED = ("update_each", "n_samples")


def require_group(group: dict[str, Any], first: dict[str, Any], generator: torch.Generator | None) -> None:
    """Raise unless options and parameters of a group are as `AdaHessian` asks and go with the first group."""
    for name in ("lr", "eps", "weight_decay"):
        require_nonnegative(name, group[name])
    if not isinstance(group["betas"], (tuple, list)) or len(group["betas"]) != 2:
        raise ValueError(f"betas must be a pair of numbers, got {group['betas']!r}")
    for i, beta in enumerate(group["betas"]):
        require_probability(f"betas[{i}]", beta)
        if beta == 1:
            raise ValueError(f"betas[{i}] must be < 1: an average with {beta} never takes anything in")
    require_probability("hessian_power", group["hessian_power"])
    for name in ("update_each", "n_samples", "block_size"):
        require_count(name, group[name])
    for name in SHARED:
        if group[name] != first[name]:
            raise ValueError(f"{name} must be the same in all groups, got {group[name]} after {first[name]}")
    if not group["params"]:
        raise ValueError("params of a group must hold at least one parameter")
    for i, param in enumerate(group["params"]):
        require_floating(f"params[{i}]", param)
        require_generator(generator, param.device)
        if param.ndim == 2 and param.shape[1] % group["block_size"] != 0:
            raise ValueError(
                f"block_size must divide the columns of params[{i}], got {group['block_size']} for {tuple(param.shape)}"
            )


def call_without_backward(closure: Callable[[], torch.Tensor], params: list[torch.Tensor]) -> torch.Tensor:
    """Return the closure's loss with its graph; raise unless it can still be differentiated."""
    for param in params:
        param.grad = None
    with torch.enable_grad():
        loss = closure()
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f"closure must return the loss as a torch.Tensor, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"closure must return one element, got shape {tuple(loss.shape)}; sum or average")
    if any(param.grad is not None for param in params):
        raise ValueError("closure must not call backward: return the loss, AdaHessian differentiates it twice")
    if not loss.requires_grad:
        raise ValueError("closure's loss doesn't depend on a parameter, or was computed without a graph")
    return loss


def require_dense(gradients: Iterable[torch.Tensor]) -> None:
    """Raise TypeError if a gradient is sparse."""
    if any(gradient.is_sparse for gradient in gradients):
        raise TypeError("AdaHessian needs dense gradients: sparse ones can't be differentiated again")
