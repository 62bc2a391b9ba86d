"""Random problems with known conditioning, from a NumPy generator; the form of all cases of this topic."""

import numpy as np
import torch


def vectors(generator: np.random.Generator, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Vectors (..., D) of float64 with independent normal entries, moved away from 0.

    Entries are at least 0.2 · scale from 0, so that no wrong sign can hide.
    """
    normal = generator.normal(size=shape)
    return torch.from_numpy(scale * np.sign(normal) * (0.2 + np.abs(normal)))


def symmetric(generator: np.random.Generator, eigenvalues: np.ndarray) -> torch.Tensor:
    """Symmetric matrices (..., D, D) of float64 with the given eigenvalues (..., D), in random directions."""
    size = eigenvalues.shape[-1]
    basis, _ = np.linalg.qr(generator.normal(size=(*eigenvalues.shape, size)))
    matrix = (basis * eigenvalues[..., None, :]) @ np.swapaxes(basis, -1, -2)
    return torch.from_numpy((matrix + np.swapaxes(matrix, -1, -2)) / 2)


def positive(generator: np.random.Generator, *shape: int, condition: float = 10.0) -> np.ndarray:
    """Eigenvalues (..., D) between 1 and `condition`, evenly spread in the logarithm."""
    return condition ** generator.uniform(size=shape)


def case(what: str, inputs: dict, dtype: str = "float64", layout: str = "contiguous") -> tuple[str, dict]:
    """Name and inputs of a case: tensors cast to `dtype`, the layout among the inputs for the driver."""
    cast = {
        name: value.to(getattr(torch, dtype)) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
    suffix = ", non-contiguous" if layout == "strided" else ""
    return f"{what}, {dtype}{suffix}", cast | {"layout": layout}
