"""Training steps by precision, for the claims about GPUs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from book.claims.on_device import float32_products, random_tensor
from steepest.gradient_flow import PreLNBlock
from steepest.mixed_precision import DynamicLossScaler, train_step_amp


@dataclass(frozen=True)
class Precision:
    """How a step computes: autocast's dtype, FP32 for none, and FP32 products in full or in TF32."""

    name: str
    dtype: torch.dtype
    float32_products: str = "highest"


FP32 = Precision("FP32", torch.float32)
TF32 = Precision("TF32", torch.float32, "high")
FP16 = Precision("FP16", torch.float16)
BF16 = Precision("BF16", torch.bfloat16)


@dataclass(frozen=True)
class Shape:
    """The size of a transformer and of its batch."""

    layers: int
    width: int
    heads: int
    length: int
    batch: int

    def model(self, device: str) -> torch.nn.Module:
        """A stack of Pre-LN blocks, with the same parameters on every device."""
        torch.manual_seed(0)
        blocks = [PreLNBlock(self.width, self.heads, 4 * self.width, dropout=0.0) for _ in range(self.layers)]
        return torch.nn.Sequential(*blocks, torch.nn.LayerNorm(self.width)).to(device)

    def batch_of(self, size: int, device: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets (size, length, width)."""
        inputs = random_tensor(size, self.length, self.width, device=device, seed=seed)
        return inputs, inputs.roll(1, dims=1)


def mlp(width: int, layers: int, device: str) -> torch.nn.Module:
    """Linear layers (width, width) with ReLU between them."""
    torch.manual_seed(0)
    linear = [layer for _ in range(layers) for layer in (torch.nn.Linear(width, width), torch.nn.ReLU())]
    return torch.nn.Sequential(*linear).to(device)


def training_step(
    model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor], precision: Precision
) -> Callable[[], None]:
    """A function that takes one step of Adam on the mean squared error, in a precision."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    scaler = DynamicLossScaler() if precision.dtype == torch.float16 else None
    loss = torch.nn.functional.mse_loss

    def step() -> None:
        with float32_products(precision.float32_products):
            train_step_amp(model, loss, [batch], optimizer, scaler, dtype=precision.dtype, skip_nonfinite=False)

    return step
