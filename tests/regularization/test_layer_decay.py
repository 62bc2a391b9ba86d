"""Layer-wise learning rates on tiny models with the names of timm's, torchvision's and DeiT's."""

import copy
import io

import pytest
import torch
from torch import nn

from steepest.regularization import layer_decay_groups, recipes

WIDTH = 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Linear(WIDTH, WIDTH)
        self.gamma_1 = nn.Parameter(torch.ones(WIDTH))


class TimmViT(nn.Module):
    """Names of timm, DeiT, BEiT and MAE."""

    def __init__(self, depth):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.dist_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, 2)})
        self.blocks = nn.ModuleList([Block() for _ in range(depth)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 2)
        self.head_dist = nn.Linear(WIDTH, 2)


class TorchvisionViT(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.conv_proj = nn.Conv2d(3, WIDTH, 2)
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.encoder.layers = nn.ModuleDict({f"encoder_layer_{i}": Block() for i in range(depth)})
        self.encoder.ln = nn.LayerNorm(WIDTH)
        self.heads = nn.ModuleDict({"head": nn.Linear(WIDTH, 2)})


class ResNet(nn.Module):
    def __init__(self, depths):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        for stage, depth in enumerate(depths, start=1):
            blocks = [
                nn.ModuleDict(
                    {
                        "conv1": nn.Conv2d(WIDTH, WIDTH, 3, bias=False),
                        "bn1": nn.BatchNorm2d(WIDTH),
                        "downsample": nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH)),
                    }
                )
                for _ in range(depth)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(WIDTH, 2)


def settings(model, groups):
    """Return (lr, weight decay) of each parameter by name; each parameter stands in one group."""
    found = [(id(p), (g["lr"], g["weight_decay"])) for g in groups for p in g["params"]]
    assert len(found) == len(dict(found))
    by_id = dict(found)
    return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}


def check_rates(model, expected_layer, depth):
    """Compare with lr · decay^(L + 1 - l) and the rule for weight decay."""
    groups = layer_decay_groups(model, 0.1, weight_decay=0.3, layer_decay=0.5)
    found = settings(model, groups)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        rate, decay = found[name]
        assert rate == pytest.approx(0.1 * 0.5 ** (depth + 1 - expected_layer(name))), name
        embedding = "token" in name or "pos_embed" in name
        assert decay == (0.0 if parameter.ndim == 1 or embedding else 0.3), name
    layers = [group["layer"] for group in groups]
    assert layers == sorted(layers) and layers[0] == 0 and layers[-1] == depth + 1


@pytest.mark.parametrize("depth", [1, 3, 12])
def test_vit_of_timm(depth):
    def layer(name):
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return depth + 1 if name.startswith(("norm", "head")) else 0

    check_rates(TimmViT(depth), layer, depth)


@pytest.mark.parametrize("depth", [1, 11])
def test_vit_of_torchvision(depth):
    def layer(name):
        if "encoder_layer_" in name:
            return int(name.split("encoder_layer_")[1].split(".")[0]) + 1
        return depth + 1 if name.startswith(("encoder.ln", "heads")) else 0

    check_rates(TorchvisionViT(depth), layer, depth)


@pytest.mark.parametrize("depths", [(2, 2, 2, 2), (3, 4, 12, 3)])
def test_resnet_counts_blocks_through_all_stages(depths):
    def layer(name):
        if name.startswith("layer"):
            stage, block = name.removeprefix("layer").split(".")[:2]
            return sum(depths[: int(stage) - 1]) + int(block) + 1
        return sum(depths) + 1 if name.startswith("fc") else 0

    check_rates(ResNet(depths), layer, sum(depths))


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
def test_a_plain_optimizer_steps_by_these_rates_and_a_schedule_keeps_the_ratios(make):
    model = TimmViT(2)
    optimizer = make(layer_decay_groups(model, 1.0, weight_decay=0.0, layer_decay=0.5))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5 if epoch else 1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    # The first step of AdamW is lr · sign(g), that of SGD lr · g: here both are lr.
    for name, layer in (("patch_embed.proj.weight", 0), ("blocks.0.mlp.weight", 1), ("head.weight", 3)):
        moved = before[name] - model.get_parameter(name)
        torch.testing.assert_close(moved, torch.full_like(moved, 0.5 ** (3 - layer)))
    scheduler.step()
    assert settings(model, optimizer.param_groups)["blocks.1.mlp.weight"][0] == pytest.approx(0.25)


def test_the_groups_survive_saving_and_loading():
    model = TimmViT(1)
    optimizer = torch.optim.AdamW(layer_decay_groups(model, 1e-3))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    other = torch.optim.AdamW(layer_decay_groups(copy.deepcopy(model), 1.0))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    rates = [[group["lr"] for group in both.param_groups] for both in (optimizer, other)]
    assert rates[0] == rates[1]


def test_norms_with_several_dimensions_and_named_parameters_are_not_decayed():
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.ModuleDict({"norm": nn.LayerNorm((2, 3)), "fc": nn.Linear(3, 3)})])
    model.blocks[0].table = nn.Parameter(torch.ones(3, 3))
    model.blocks[0].scale = nn.ParameterDict({"bias": nn.Parameter(torch.ones(1, 3))})
    found = settings(model, layer_decay_groups(model, 1.0, no_weight_decay={"blocks.0.table"}))
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert decayed == {"blocks.0.fc.weight"} and found["blocks.0.fc.weight"] == (0.75, 0.05)


def test_frozen_parameters_are_left_out_but_their_layers_count():
    model = TimmViT(3)
    model.blocks[0].requires_grad_(False)
    found = settings(model, layer_decay_groups(model, 1.0, layer_decay=0.5))
    assert not any(name.startswith("blocks.0") for name in found)
    assert found["blocks.1.mlp.weight"][0] == 0.25 and found["patch_embed.proj.weight"][0] == 0.0625


def test_shared_parameters_come_once():
    model = TimmViT(1)
    model.head_dist.weight = model.head.weight
    groups = layer_decay_groups(model, 1.0)
    assert sum(p is model.head.weight for group in groups for p in group["params"]) == 1
    torch.optim.AdamW(groups)


def test_wrappers_before_the_names_are_skipped():
    model = TimmViT(2)
    wrapped = nn.Module()
    wrapped.module = nn.Module()
    wrapped.module._orig_mod = model
    plain = settings(model, layer_decay_groups(model, 1.0, no_weight_decay=["blocks.0.mlp.weight"]))
    names = ["module._orig_mod.blocks.0.mlp.weight"]
    found = settings(model, layer_decay_groups(wrapped, 1.0, no_weight_decay=names))
    assert found == plain and found["blocks.0.mlp.weight"][1] == 0


def test_another_naming_is_told_by_a_function():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    found = settings(
        model, layer_decay_groups(model, 1.0, layer_decay=0.1, layer_of=lambda name: int(name.split(".")[0]))
    )
    assert [found[f"{i}.weight"][0] for i in range(3)] == pytest.approx([0.01, 0.1, 1.0])
    assert found["2.bias"] == (1.0, 0.0)


def test_without_decay_all_layers_have_the_same_rate():
    assert {group["lr"] for group in layer_decay_groups(TimmViT(4), 0.2, layer_decay=1.0)} == {0.2}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": [nn.Linear(1, 1)]}, TypeError, "model must be a torch.nn.Module"),
        ({"model": nn.Sequential(nn.Linear(1, 1))}, ValueError, "the layer of parameter '0.weight' isn't known"),
        ({"model": nn.ReLU()}, ValueError, "model has no parameters"),
        ({"model": nn.ReLU(), "layer_of": len}, ValueError, "model has no parameters"),
        ({"model": TimmViT(1).requires_grad_(False)}, ValueError, "model has no parameters"),
        ({"lr": 0.0}, ValueError, "lr must be > 0"),
        ({"lr": torch.tensor(0.1)}, TypeError, "lr must be a Python number"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be >= 0"),
        ({"layer_decay": 0}, ValueError, "layer_decay must be > 0"),
        ({"layer_decay": 1.3}, ValueError, r"layer_decay must be in \(0, 1\]"),
        ({"layer_of": lambda name: 0.5}, TypeError, "layer_of must return an int, got float for 'cls_token'"),
        ({"layer_of": lambda name: -1}, ValueError, "layer_of must return a layer >= 0"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        layer_decay_groups(**{"model": TimmViT(1), "lr": 0.1, **change})


def test_recipes_are_data_with_sources_that_cannot_change():
    for recipe in recipes.values():
        assert recipe.source and all(": " in source for source in recipe.source)
        assert 0 <= recipe.warmup_epochs < recipe.epochs and 0 <= recipe.drop_path <= 1
        assert recipe.layer_decay is None or 0 < recipe.layer_decay < 1
    for size in ("tiny", "small", "base"):
        # The path that get_started.md gives for each size.
        settings = f"microsoft/Swin-Transformer: configs/swin/swin_{size}_patch4_window7_224.yaml"
        assert settings in recipes[f"swin_{size}"].source
    with pytest.raises(AttributeError):
        recipes["deit_base"].lr = 1.0
    with pytest.raises(TypeError):
        recipes["deit_base"] = recipes["swin_base"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # facebookresearch/deit, main.py: --lr 5e-4 for 512 samples; 2 nodes of 8 GPUs with 64 each.
        ("deit_base", (300, 5, 5e-4 * 1024 / 512, 0.05, None, 0.1, 0.8, 1.0)),
        # microsoft/Swin-Transformer, configs: BASE_LR 5e-4 for 512 samples.
        ("swin_tiny", (300, 20, 5e-4 * 1024 / 512, 0.05, None, 0.2, 0.8, 1.0)),
        ("swin_small", (300, 20, 5e-4 * 1024 / 512, 0.05, None, 0.3, 0.8, 1.0)),
        ("swin_base", (300, 20, 5e-4 * 1024 / 512, 0.05, None, 0.5, 0.8, 1.0)),
        # facebookresearch/ConvNeXt, TRAINING.md.
        ("convnext_tiny", (300, 20, 4e-3, 0.05, None, 0.1, 0.8, 1.0)),
        ("convnext_small", (300, 20, 4e-3, 0.05, None, 0.4, 0.8, 1.0)),
        ("convnext_base", (300, 20, 4e-3, 0.05, None, 0.5, 0.8, 1.0)),
        ("convnext_large", (300, 20, 4e-3, 0.05, None, 0.5, 0.8, 1.0)),
        ("convnext_base_finetune_from_22k", (30, 0, 5e-5, 1e-8, 0.8, 0.2, 0, 0)),
        # microsoft/unilm, beit/get_started_for_image_classification.md, without intermediate fine-tuning.
        ("beit_base_finetune", (100, 20, 4e-3, 0.05, 0.65, 0.1, 0.8, 1.0)),
        ("beit_large_finetune", (50, 5, 1e-3, 0.05, 0.75, 0.2, 0.8, 1.0)),
        # facebookresearch/mae, FINETUNE.md: --blr for 256 samples.
        ("mae_base_finetune", (100, 5, 5e-4 * 1024 / 256, 0.05, 0.65, 0.1, 0.8, 1.0)),
        ("mae_large_finetune", (50, 5, 1e-3 * 1024 / 256, 0.05, 0.75, 0.2, 0.8, 1.0)),
        ("mae_huge_finetune", (50, 5, 1e-3 * 1024 / 256, 0.05, 0.75, 0.3, 0.8, 1.0)),
    ],
)
def test_recipes_hold_the_numbers_of_their_sources(name, values):
    recipe = recipes[name]
    fields = ("epochs", "warmup_epochs", "lr", "weight_decay", "layer_decay", "drop_path", "mixup", "cutmix")
    assert tuple(getattr(recipe, field) for field in fields) == pytest.approx(values)
    assert (recipe.label_smoothing, recipe.random_erasing, recipe.rand_augment) == (0.1, 0.25, (9, 0.5))


def test_the_recipes_tested_are_all():
    cases = test_recipes_hold_the_numbers_of_their_sources.pytestmark[0].args[1]
    assert {name for name, _ in cases} == set(recipes)
