"""Checks of arguments shared by the second-order methods.

All of them look only at what is known without reading tensor data, so that none waits for a device.
"""

import math

import torch

FLOAT_DTYPES = (torch.float32, torch.float64)


def require_float_tensor(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a dense float32 or float64 tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must have dtype float32 or float64, got {value.dtype}; convert it first")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be dense, got layout {value.layout}; call .to_dense() first")


def require_vector(name: str, value: object) -> None:
    """Raise unless `value` is a non-empty float vector of shape (D,)."""
    require_float_tensor(name, value)
    if value.ndim != 1 or value.numel() == 0:
        raise ValueError(f"{name} must be a non-empty vector of shape (D,), got shape {tuple(value.shape)}")


def require_matching(
    name: str, value: object, shape: tuple[int, ...], like: str, other: torch.Tensor
) -> None:
    """Raise unless `value` is a float tensor of the given shape with the dtype and device of `other`."""
    require_float_tensor(name, value)
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape {shape} to go with {like}, got {tuple(value.shape)}")
    if value.dtype != other.dtype:
        raise TypeError(f"{name} has dtype {value.dtype} but {like} has {other.dtype}; convert one of them")
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device} but {like} is on {other.device}; move one of them")


def require_damping(damping: object) -> None:
    """Raise unless `damping` is a finite number >= 0."""
    if isinstance(damping, bool) or not isinstance(damping, (int, float)):
        raise TypeError(f"damping must be a Python number, got {type(damping).__name__}")
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be finite and >= 0, got {damping}")
