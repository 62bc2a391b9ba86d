"""The networks whose checkpointing is measured: an encoder like BERT-base's and a bottleneck ResNet like ResNet-50's.

Sources: Devlin et al., "BERT", arXiv 1810.04805 (2018), section 3; He et al., "Deep residual learning for image
recognition", arXiv 1512.03385 (2015), table 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from book.claims.on_device import random_tensor
from steepest.checkpointing import checkpoint
from steepest.gradient_flow import PostLNBlock


def run_blocks(blocks: nn.ModuleList, x: torch.Tensor, checkpointed: int) -> torch.Tensor:
    """Apply the blocks, the first `checkpointed` of them with checkpointing."""
    for i, block in enumerate(blocks):
        x = checkpoint(block, x) if i < checkpointed else block(x)
    return x


@dataclass(frozen=True)
class Encoder:
    """The size of a Post-LN transformer encoder with token embeddings and two classes."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    length: int = 512
    vocabulary: int = 30522

    def build(self, device: str) -> nn.Module:
        """The model on a device."""
        return _EncoderModel(self).to(device)

    def batch(self, size: int, device: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random tokens (size, length) and labels (size,)."""
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(self.vocabulary, (size, self.length), generator=generator)
        return tokens.to(device), torch.arange(size, device=device) % 2


class _EncoderModel(nn.Module):
    def __init__(self, shape: Encoder) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Parameter(torch.zeros(shape.length, shape.width))
        self.blocks = nn.ModuleList(
            PostLNBlock(shape.width, shape.heads, 4 * shape.width, activation=nn.functional.gelu)
            for _ in range(shape.layers)
        )
        self.head = nn.Linear(shape.width, 2)

    def forward(self, tokens: torch.Tensor, checkpointed: int) -> torch.Tensor:
        hidden = run_blocks(self.blocks, self.tokens(tokens) + self.positions, checkpointed)
        return self.head(hidden[:, 0])


@dataclass(frozen=True)
class ResNet:
    """The size of a bottleneck ResNet for images: blocks in each stage, width of the first, side of the image."""

    stages: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    side: int = 224

    def build(self, device: str) -> nn.Module:
        """The model on a device."""
        return _ResNetModel(self).to(device)

    def batch(self, size: int, device: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random images (size, 3, side, side) and labels (size,)."""
        images = random_tensor(size, 3, self.side, self.side, device=device, seed=seed)
        return images, torch.arange(size, device=device) % 10


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _convolution(inputs, width, 1),
            nn.ReLU(),
            _convolution(width, width, 3, stride),
            nn.ReLU(),
            _convolution(width, 4 * width, 1),
        )
        same = inputs == 4 * width and stride == 1
        self.skip = nn.Identity() if same else _convolution(inputs, 4 * width, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.branch(x) + self.skip(x)).relu()


class _ResNetModel(nn.Module):
    def __init__(self, shape: ResNet) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, shape.width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        blocks, inputs = [], shape.width
        for stage, count in enumerate(shape.stages):
            width = shape.width * 2**stage
            for i in range(count):
                blocks.append(_Bottleneck(inputs, width, 2 if i == 0 and stage > 0 else 1))
                inputs = 4 * width
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(inputs, 10)

    def forward(self, images: torch.Tensor, checkpointed: int) -> torch.Tensor:
        hidden = run_blocks(self.blocks, self.stem(images), checkpointed)
        return self.head(hidden.mean((2, 3)))


def training_step(
    model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], checkpointed: int, optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """A function that takes one step on the cross-entropy, with the first blocks checkpointed."""
    inputs, labels = batch

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs, checkpointed), labels).backward()
        optimizer.step()

    return step
