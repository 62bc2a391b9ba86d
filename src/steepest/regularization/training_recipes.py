"""What well-known recipes for vision models combine, as data.

Each number stands in the files named under `source`, in options of a command or in defaults of its script;
what those files don't say is None. The papers may differ: MAE's FINETUNE.md says that its numbers do.

`recipes` holds them by name; those without ``finetune`` in it train from scratch:

>>> recipes["mae_large_finetune"].layer_decay, recipes["mae_large_finetune"].drop_path
(0.75, 0.2)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained or fine-tuned on ImageNet-1K at 224 × 224, with AdamW and a cosine schedule.

    Attributes:
        paper: the paper's arXiv number.
        source: the repository's files that hold the numbers.
        epochs: length of the training.
        warmup_epochs: part of it in which the learning rate rises linearly.
        batch_size: samples in an optimizer step, over all devices and accumulation steps.
        lr: peak learning rate at that batch size; the head's, where there is layer decay.
        weight_decay: see `layer_decay_groups` for what is exempt.
        layer_decay: ratio of the learning rates of neighbouring layers, None where all have the same.
        drop_path: drop probability of the last block, see `drop_path_rates`.
        mixup: α of Mixup, 0 without it. Where both are on, each batch gets one of the two.
        cutmix: α of CutMix, 0 without it.
        label_smoothing: ε, see `smooth_labels`.
        random_erasing: probability to erase a box of an image.
        rand_augment: RandAugment's magnitude and the standard deviation of its noise.
        dropout: probability of dropout.
        repeated_augmentation: whether a batch holds several augmented copies of an image.
    """

    paper: str
    source: tuple[str, ...]
    epochs: int
    warmup_epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    layer_decay: float | None
    drop_path: float
    mixup: float
    cutmix: float
    label_smoothing: float = 0.1
    random_erasing: float = 0.25
    rand_augment: tuple[int, float] = (9, 0.5)
    dropout: float | None = None
    repeated_augmentation: bool | None = None


_DEIT_B = Recipe(
    paper="2012.12877",
    source=("facebookresearch/deit: main.py", "facebookresearch/deit: run_with_submitit.py"),
    epochs=300,
    warmup_epochs=5,
    batch_size=1024,  # 64 on each of 2 * 8 GPUs
    lr=1e-3,  # 5e-4 * 1024 / 512
    weight_decay=0.05,
    layer_decay=None,
    drop_path=0.1,
    mixup=0.8,
    cutmix=1.0,
    dropout=0.0,
    repeated_augmentation=True,
)
_SWIN_B = Recipe(
    paper="2103.14030",
    source=(
        "microsoft/Swin-Transformer: config.py",
        "microsoft/Swin-Transformer: get_started.md",
        "microsoft/Swin-Transformer: main.py",
        "microsoft/Swin-Transformer: configs/swin/swin_base_patch4_window7_224.yaml",
    ),
    epochs=300,
    warmup_epochs=20,
    batch_size=1024,  # 64 on each of 8 GPUs, accumulated twice
    lr=1e-3,  # 5e-4 * 1024 / 512
    weight_decay=0.05,
    layer_decay=None,
    drop_path=0.5,
    mixup=0.8,
    cutmix=1.0,
    dropout=0.0,
)
_CONVNEXT_B = Recipe(
    paper="2201.03545",
    source=("facebookresearch/ConvNeXt: TRAINING.md", "facebookresearch/ConvNeXt: main.py"),
    epochs=300,
    warmup_epochs=20,
    batch_size=4096,
    lr=4e-3,
    weight_decay=0.05,
    layer_decay=None,
    drop_path=0.5,
    mixup=0.8,
    cutmix=1.0,
)
_BEIT_B = Recipe(
    paper="2106.08254",
    source=(
        "microsoft/unilm: beit/get_started_for_image_classification.md",
        "microsoft/unilm: beit/run_class_finetuning.py",
    ),
    epochs=100,
    warmup_epochs=20,
    batch_size=1024,  # 128 on each of 8 GPUs
    lr=4e-3,
    weight_decay=0.05,
    layer_decay=0.65,
    drop_path=0.1,
    mixup=0.8,
    cutmix=1.0,
    dropout=0.0,
)
_MAE_B = Recipe(
    paper="2111.06377",
    source=("facebookresearch/mae: FINETUNE.md", "facebookresearch/mae: main_finetune.py"),
    epochs=100,
    warmup_epochs=5,
    batch_size=1024,
    lr=2e-3,  # 5e-4 * 1024 / 256
    weight_decay=0.05,
    layer_decay=0.65,
    drop_path=0.1,
    mixup=0.8,
    cutmix=1.0,
)


def _swin_source(file: str) -> tuple[str, ...]:
    """Return Swin's sources with another model's file of settings."""
    return (*_SWIN_B.source[:-1], f"microsoft/Swin-Transformer: configs/swin/{file}")


recipes: Mapping[str, Recipe] = MappingProxyType(
    {
        "deit_base": _DEIT_B,
        "swin_tiny": replace(_SWIN_B, drop_path=0.2, source=_swin_source("swin_tiny_patch4_window7_224.yaml")),
        "swin_small": replace(_SWIN_B, drop_path=0.3, source=_swin_source("swin_small_patch4_window7_224.yaml")),
        "swin_base": _SWIN_B,
        "convnext_tiny": replace(_CONVNEXT_B, drop_path=0.1),
        "convnext_small": replace(_CONVNEXT_B, drop_path=0.4),
        "convnext_base": _CONVNEXT_B,
        "convnext_large": _CONVNEXT_B,
        "convnext_base_finetune_from_22k": replace(
            _CONVNEXT_B,
            epochs=30,
            warmup_epochs=0,
            batch_size=512,
            lr=5e-5,
            weight_decay=1e-8,
            layer_decay=0.8,
            drop_path=0.2,
            mixup=0.0,
            cutmix=0.0,
        ),
        "beit_base_finetune": _BEIT_B,
        "beit_large_finetune": replace(_BEIT_B, epochs=50, warmup_epochs=5, lr=1e-3, layer_decay=0.75, drop_path=0.2),
        "mae_base_finetune": _MAE_B,
        "mae_large_finetune": replace(_MAE_B, epochs=50, lr=4e-3, layer_decay=0.75, drop_path=0.2),
        "mae_huge_finetune": replace(_MAE_B, epochs=50, lr=4e-3, layer_decay=0.75, drop_path=0.3),
    }
)
