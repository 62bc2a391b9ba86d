"""Checks of arguments that every topic shares.

All of them look only at what the host knows: types, shapes, dtypes, layouts and Python numbers, never at the
values of tensors, so that none waits for a device.
"""

import math

import torch


def require_tensor(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a dense tensor.

    >>> require_tensor("x", [1.0])
    Traceback (most recent call last):
    TypeError: x must be a torch.Tensor, got list
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be dense, got layout {value.layout}; call .to_dense() first")


def require_floating(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a dense tensor of a real floating dtype.

    >>> require_floating("x", torch.arange(3))
    Traceback (most recent call last):
    TypeError: x must have a real floating dtype, got torch.int64; convert it first
    """
    require_tensor(name, value)
    if not value.is_floating_point():
        raise TypeError(f"{name} must have a real floating dtype, got {value.dtype}; convert it first")


def require_number(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a Python int or float, ValueError unless it is finite.

    >>> require_number("scale", float("nan"))
    Traceback (most recent call last):
    ValueError: scale must be finite, got nan
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a Python number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def require_positive(name: str, value: object) -> None:
    """Raise unless `value` is a finite Python number > 0.

    >>> require_positive("temperature", 0)
    Traceback (most recent call last):
    ValueError: temperature must be > 0, got 0
    """
    require_number(name, value)
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")


def require_nonnegative(name: str, value: object) -> None:
    """Raise unless `value` is a finite Python number >= 0.

    >>> require_nonnegative("damping", -1.0)
    Traceback (most recent call last):
    ValueError: damping must be >= 0, got -1.0
    """
    require_number(name, value)
    if not value >= 0:
        raise ValueError(f"{name} must be >= 0, got {value}")


def require_probability(name: str, value: object) -> None:
    """Raise unless `value` is a Python number in [0, 1].

    >>> require_probability("drop_prob", 1.5)
    Traceback (most recent call last):
    ValueError: drop_prob must be in [0, 1], got 1.5
    """
    require_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def require_count(name: str, value: object, minimum: int = 1) -> None:
    """Raise unless `value` is a Python int >= `minimum`.

    >>> require_count("segments", 0)
    Traceback (most recent call last):
    ValueError: segments must be >= 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a Python int, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {value}")


def require_generator(generator: object, device: torch.device) -> None:
    """Raise unless `generator` is None or a torch.Generator on `device`.

    >>> require_generator(0, torch.device("cpu"))
    Traceback (most recent call last):
    TypeError: generator must be a torch.Generator or None, got int
    """
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    # A generator made for "cuda" names no index, and stands for the current device.
    if generator.device.type != device.type or (
        None not in (generator.device.index, device.index) and generator.device.index != device.index
    ):
        raise ValueError(f"generator is on {generator.device} but the tensor on {device}; make it there")
