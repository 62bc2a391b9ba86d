"""Layer-wise learning rate decay: the nearer to the input, the smaller the steps of fine-tuning.

Sources: Bao, Dong, Piao, Wei, "BEiT: BERT pre-training of image transformers", arXiv 2106.08254 (2021), and its
optim_factory.py; He, Chen, Xie, Li, Dollár, Girshick, "Masked autoencoders are scalable vision learners",
arXiv 2111.06377 (2021), and its util/lr_decay.py: the rate of layer l is lr · decay^(L + 1 - l).

| there                               | here                    |
|-------------------------------------|-------------------------|
| blocks l = 1, ..., L                | layers 1, ..., L        |
| embedding, stem                     | layer 0                 |
| last norm and head                  | layer L + 1             |
| layer_decay                         | `layer_decay`           |
"""

import re
from collections.abc import Callable, Collection
from typing import Any

import torch

from steepest.validation import require_nonnegative, require_positive

# The norms whose weights may have several dimensions; those of the others have one, and are exempt by that.
NORMS = (torch.nn.LayerNorm, torch.nn.RMSNorm)
# What wrappers put before the names of parameters.
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)*")
# Names of vision transformers in timm, DeiT, BEiT, MAE and torchvision, and of residual networks.
EMBEDDING = re.compile(
    r"(?:cls_token|class_token|dist_token|mask_token|reg_token|pos_embed|encoder\.pos_embedding)$"
    r"|(?:patch_embed|conv_proj|norm_pre|conv1|bn1|stem)\."
)
TOKENS = re.compile(r"(?:^|\.)(?:cls_token|class_token|dist_token|mask_token|reg_token|pos_embed(?:ding)?)$")
BLOCK = re.compile(r"(?:blocks\.(\d+)|encoder\.layers\.encoder_layer_(\d+)|layer(\d+)\.(\d+))\.")
HEAD = re.compile(r"(?:norm|fc_norm|encoder\.ln|rel_pos_bias|head|heads|head_dist|fc|classifier)\.")


def layer_decay_groups(
    model: torch.nn.Module,
    lr: float,
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    *,
    no_weight_decay: Collection[str] = (),
    layer_of: Callable[[str], int] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups with the rate lr · layer_decay^(L + 1 - l) for layer l, for any optimizer.

    The rate stands in each group's ``lr``. BEiT and MAE store a factor under ``lr_scale`` instead, which a plain
    optimizer ignores. A schedule that multiplies each group's first rate, as torch's `LambdaLR` does, keeps the
    ratios; one with a fixed lower bound doesn't near its end.

    Layers are known for vision transformers (``patch_embed``, ``cls_token``, ``pos_embed``, ``blocks.N``,
    ``norm``, ``head``; in torchvision ``conv_proj``, ``class_token``, ``encoder.layers.encoder_layer_N``,
    ``heads``) and residual networks (``conv1``, ``bn1``, ``layer1.N`` to ``layer4.N``, ``fc``), whose blocks
    are counted through all stages. For other models pass `layer_of`.

    Weight decay is 0 for norms, biases, other parameters with one dimension, and tokens and position
    embeddings, as in these recipes. Parameters that don't require gradients are left out.

    Args:
        model: its names of parameters tell the layers; ``module.`` and ``_orig_mod.`` before them are skipped.
        lr: learning rate > 0 of the head.
        weight_decay: of all other parameters, >= 0.
        layer_decay: in (0, 1], the ratio of the rates of neighbouring layers.
        no_weight_decay: names of more parameters without weight decay, as timm's ``model.no_weight_decay()``.
        layer_of: maps a parameter's name to its layer >= 0; the largest one, the head's, has the rate `lr`.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and ``layer``, from the input to the head, in each layer
        first those with weight decay.

    Raises:
        TypeError: `model` isn't a module, a number isn't one, or `layer_of` returns no int.
        ValueError: a number is out of range, nothing requires gradients, or a name is unknown.

    Example:
        >>> model = torch.nn.ModuleDict({
        ...     "patch_embed": torch.nn.Linear(4, 3, bias=False),
        ...     "blocks": torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)]),
        ...     "head": torch.nn.Linear(3, 2),
        ... })
        >>> for group in layer_decay_groups(model, lr=1.0, layer_decay=0.5):
        ...     print(group["layer"], group["lr"], group["weight_decay"], len(group["params"]))
        0 0.125 0.05 1
        1 0.25 0.05 1
        1 0.25 0.0 1
        2 0.5 0.05 1
        2 0.5 0.0 1
        3 1.0 0.05 1
        3 1.0 0.0 1
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    require_positive("lr", lr)
    require_nonnegative("weight_decay", weight_decay)
    require_positive("layer_decay", layer_decay)
    if layer_decay > 1:
        raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}")

    names = {WRAPPERS.sub("", name): parameter for name, parameter in model.named_parameters()}
    if layer_of is None:
        layers, top = _layers_by_name(names)
    else:
        layers = {name: _checked(layer_of(name), name) for name in names}
        top = max(layers.values(), default=0)
    in_norms = {
        parameter
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    plain = {WRAPPERS.sub("", name) for name in no_weight_decay}

    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in names.items():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim <= 1 or parameter in in_norms or name.endswith(".bias")
        exempt = exempt or name in plain or TOKENS.search(name) is not None
        layer = layers[name]
        group = {
            "params": [],
            "lr": lr * layer_decay ** (top - layer),
            "weight_decay": 0.0 if exempt else weight_decay,
            "layer": layer,
        }
        groups.setdefault((layer, exempt), group)["params"].append(parameter)
    if not groups:
        raise ValueError("model has no parameters that require gradients")
    return [groups[key] for key in sorted(groups)]


def _layers_by_name(names: Collection[str]) -> tuple[dict[str, int], int]:
    """Return the layer of each name, and the head's, L + 1."""
    # Stage and place in it, as numbers, so that block 10 comes after block 9.
    blocks = {name: _block(name) for name in names}
    order = sorted({block for block in blocks.values() if block is not None})
    places = {block: place for place, block in enumerate(order, start=1)}
    top = len(order) + 1
    layers = {}
    for name, block in blocks.items():
        if block is not None:
            layers[name] = places[block]
        elif EMBEDDING.match(name):
            layers[name] = 0
        elif HEAD.match(name):
            layers[name] = top
        else:
            raise ValueError(
                f"the layer of parameter {name!r} isn't known: names must follow those of vision transformers or "
                "residual networks; pass layer_of for others"
            )
    return layers, top


def _block(name: str) -> tuple[int, ...] | None:
    """Return the numbers of the block that a parameter belongs to."""
    match = BLOCK.match(name)
    return tuple(int(number) for number in match.groups() if number is not None) if match else None


def _checked(layer: int, name: str) -> int:
    """Return what `layer_of` gave for a name if it is a layer."""
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise TypeError(f"layer_of must return an int, got {type(layer).__name__} for {name!r}")
    if layer < 0:
        raise ValueError(f"layer_of must return a layer >= 0, got {layer} for {name!r}")
    return layer
