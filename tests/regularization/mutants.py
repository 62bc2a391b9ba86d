"""Misconceptions about regularisation, written into the reference."""

from tests.mutants import Mutant

PACKAGE = "steepest/regularization/"
DROP_PATH = ("tests/regularization/test_drop_path.py",)
MIXING = ("tests/regularization/test_mixing.py",)
SMOOTHING = ("tests/regularization/test_label_smoothing.py",)
CALIBRATION = ("tests/regularization/test_calibration.py",)
LAYER_DECAY = ("tests/regularization/test_layer_decay.py",)


def mutant(misconception: str, module: str, before: str, after: str, tests: tuple[str, ...]) -> Mutant:
    """Return a mutant of a module of this topic."""
    return Mutant(misconception, f"{PACKAGE}{module}.py", before, after, tests)


UNIFORMS = "uniforms = torch.rand(len(x), dtype=torch.float32, device=x.device, generator=generator)  # (B,)"
KEEP = "keep = _draw_keep(x, drop_prob, generator).reshape(-1, *[1] * (x.ndim - 1))  # (B, 1, ..., 1)"
LINSPACE = "return [drop_path_rate * (layer / max(depth - 1, 1)) for layer in range(depth)]"
HUANG = "return [drop_path_rate * (layer / depth) for layer in range(1, depth + 1)]"
LERP = "inputs = torch.lerp(x[permutation], x, weight)"
MIX_TARGETS = "return torch.lerp(soft.index_select(0, permutation), soft, lam.to(soft.dtype))"
PASTE = "inputs = torch.where(box, x[permutation], x)"
CUTOUT_ROWS = "rows = torch.randint(height, (batch,), device=x.device, generator=generator)"
SMOOTH = "return (1 - label_smoothing) * probabilities + label_smoothing / probabilities.shape[1]"
EXEMPT = 'exempt = parameter.ndim <= 1 or parameter in in_norms or name.endswith(".bias")'

MUTANTS = [
    mutant("DropPath mask per batch", "drop_path", "torch.rand(len(x), ", "torch.rand(1, ", DROP_PATH),
    mutant("DropPath mask per element", "drop_path", KEEP, "keep = torch.rand_like(x) >= drop_prob", DROP_PATH),
    mutant("DropPath without scaling", "drop_path", "return 1 / (1 - drop_prob) if", "return 1.0 if", DROP_PATH),
    mutant(
        "DropPath scales by the drop probability",
        "drop_path",
        "return 1 / (1 - drop_prob)",
        "return 1 / drop_prob",
        DROP_PATH,
    ),
    mutant(
        "DropPath multiplies by the survival in training, as at test time in the paper",
        "drop_path",
        "return 1 / (1 - drop_prob)",
        "return 1 - drop_prob",
        DROP_PATH,
    ),
    mutant(
        "DropPath in evaluation too",
        "drop_path",
        "if not training or drop_prob == 0:\n        return x\n",
        "if drop_prob == 0:\n        return x\n",
        DROP_PATH,
    ),
    mutant(
        "the residual form drops in evaluation too",
        "drop_path",
        "if not training or drop_prob == 0:\n        return x + branch(x)\n",
        "if drop_prob == 0:\n        return x + branch(x)\n",
        DROP_PATH,
    ),
    mutant(
        "keep and drop swapped", "drop_path", "return uniforms >= drop_prob", "return uniforms < drop_prob", DROP_PATH
    ),
    mutant(
        "DropPath ignores scale_by_keep",
        "drop_path",
        "if scale_by_keep and drop_prob < 1",
        "if drop_prob < 1",
        DROP_PATH,
    ),
    mutant(
        "DropPath divides by zero at p = 1",
        "drop_path",
        "return 1 / (1 - drop_prob) if scale_by_keep and drop_prob < 1 else 1.0",
        'return (1 / (1 - drop_prob) if drop_prob < 1 else float("inf")) if scale_by_keep else 1.0',
        DROP_PATH,
    ),
    mutant(
        "DropPath multiplies by the mask, so that inf stays NaN",
        "drop_path",
        "return torch.where(keep, x * _scale(drop_prob, scale_by_keep), 0.0)",
        "return x * keep * _scale(drop_prob, scale_by_keep)",
        DROP_PATH,
    ),
    mutant("DropPath mask in the dtype of the input", "drop_path", "dtype=torch.float32", "dtype=x.dtype", DROP_PATH),
    mutant(
        "DropPath ignores the generator",
        "drop_path",
        UNIFORMS,
        UNIFORMS.replace(", generator=generator", ""),
        DROP_PATH,
    ),
    mutant(
        "the branch runs on dropped samples too",
        "drop_path",
        "branch(x.index_select(0, kept))",
        "branch(x)[kept]",
        DROP_PATH,
    ),
    mutant("skipping forgets the scale", "drop_path", "scaled.to(dtype)", "output.to(dtype)", DROP_PATH),
    mutant(
        "the skip connection is dropped with the branch",
        "drop_path",
        "x.to(dtype, copy=True).index_add_(",
        "torch.zeros_like(x, dtype=dtype).index_add_(",
        DROP_PATH,
    ),
    mutant(
        "the branch's output replaces the sample",
        "drop_path",
        "x.to(dtype, copy=True).index_add_(0, kept, scaled.to(dtype))",
        "x.to(dtype).index_copy(0, kept, scaled.to(dtype))",
        DROP_PATH,
    ),
    mutant("the same rate at all depths", "drop_path_rates", LINSPACE, "return [drop_path_rate] * depth", DROP_PATH),
    mutant(
        "linspace rule with the index shifted",
        "drop_path_rates",
        "(layer / max(depth - 1, 1))",
        "(layer / depth)",
        DROP_PATH,
    ),
    mutant(
        "paper's rule with the index shifted", "drop_path_rates", "in range(1, depth + 1)", "in range(depth)", DROP_PATH
    ),
    mutant(
        "rates fall with depth",
        "drop_path_rates",
        HUANG,
        HUANG.replace("layer / depth", "1 - layer / depth"),
        DROP_PATH,
    ),
    mutant("Mixup with λ and 1 - λ swapped", "mixup", LERP, LERP.replace("weight", "1 - weight"), MIXING),
    mutant("Mixup of inputs only", "mixup", "mix_targets(soft, weight, permutation)", "soft", MIXING),
    mutant(
        "Mixup's labels with another permutation",
        "mixup",
        "mix_targets(soft, weight, permutation)",
        "mix_targets(soft, weight, permutation.flip(0))",
        MIXING,
    ),
    mutant(
        "Mixup's labels with the inverse permutation",
        "mixup",
        "mix_targets(soft, weight, permutation)",
        "mix_targets(soft, weight, permutation.argsort())",
        MIXING,
    ),
    mutant(
        "Mixup's labels with another λ",
        "mixup",
        "mix_targets(soft, weight, permutation)",
        "mix_targets(soft, lam, permutation)",
        MIXING,
    ),
    mutant(
        "Mixup overwrites the batch",
        "mixup",
        LERP,
        "inputs = x.lerp_(x[permutation], 1 - weight)",
        MIXING,
    ),
    mutant(
        "labels with λ and 1 - λ swapped",
        "mixing",
        MIX_TARGETS,
        "return torch.lerp(soft, soft.index_select(0, permutation), lam.to(soft.dtype))",
        MIXING,
    ),
    mutant(
        "Beta(α, 1) for Beta(α, α)",
        "mixing",
        "return (0.5 + 0.5 * cosine * torch.sqrt((1 - w) / (w + (1 - w) * cosine**2))).clamp(0, 1)",
        "return w",
        MIXING,
    ),
    mutant("ν = α instead of 2α degrees of freedom", "mixing", "w = u ** (1 / alpha)", "w = u ** (2 / alpha)", MIXING),
    mutant("λ uniform whatever α", "mixing", "w = u ** (1 / alpha)", "w = u", MIXING),
    mutant("λ outside [0, 1] by rounding", "mixing", ".clamp(0, 1)", "", MIXING),
    mutant("λ from the default generator", "mixing", "device=device, generator=generator", "device=device", MIXING),
    mutant(
        "partners from the default generator",
        "mixing",
        "device=x.device, generator=generator",
        "device=x.device",
        MIXING,
    ),
    mutant(
        "partners drawn with repetition",
        "mixing",
        "torch.randperm(len(x), device",
        "torch.randint(len(x), (len(x),), device",
        MIXING,
    ),
    mutant(
        "CutMix's λ not recomputed after clipping",
        "cutmix",
        "lam = (1 - box.to(torch.float64).mean()).to(soft.dtype)",
        "lam = lam.to(soft.dtype)",
        MIXING,
    ),
    mutant(
        "CutMix's labels get the share of the box",
        "cutmix",
        "lam = (1 - box.to(torch.float64).mean())",
        "lam = box.to(torch.float64).mean()",
        MIXING,
    ),
    mutant("CutMix's side by 1 - λ", "cutmix", "side = torch.sqrt(1 - lam)", "side = 1 - lam", MIXING),
    mutant("CutMix's side by the root of λ", "cutmix", "side = torch.sqrt(1 - lam)", "side = torch.sqrt(lam)", MIXING),
    mutant(
        "CutMix's box of twice the side",
        "cutmix",
        "torch.floor(height * side / 2)",
        "torch.floor(height * side)",
        MIXING,
    ),
    mutant("CutMix's box rounded", "cutmix", "torch.floor(width * side / 2)", "torch.round(width * side / 2)", MIXING),
    mutant("CutMix's box closed on both sides", "cutmix", "places < center + half", "places <= center + half", MIXING),
    mutant("CutMix keeps the box and replaces the rest", "cutmix", PASTE, PASTE.replace("box, ", "~box, "), MIXING),
    mutant("CutMix with rows and columns swapped", "cutmix", "row, column = _center", "column, row = _center", MIXING),
    mutant(
        "CutMix overwrites the batch",
        "cutmix",
        PASTE,
        "inputs = x.copy_(torch.where(box, x[permutation], x))",
        MIXING,
    ),
    mutant(
        "CutMix's labels with another permutation",
        "cutmix",
        "mix_targets(soft, lam, permutation)",
        "mix_targets(soft, lam, permutation.argsort())",
        MIXING,
    ),
    mutant(
        "CutMix's centre in the middle half only",
        "cutmix",
        "torch.randint(size, (), device",
        "torch.randint(size // 4, size - size // 4, (), device",
        MIXING,
    ),
    mutant(
        "Cutout's square kept inside the image",
        "cutout",
        "rows, columns = center.unbind(1)\n",
        "rows, columns = center.unbind(1)\n"
        "    rows = rows.clamp(min(length // 2, height - 1), max(height - length + length // 2, 0))\n"
        "    columns = columns.clamp(min(length // 2, width - 1), max(width - length + length // 2, 0))\n",
        MIXING,
    ),
    mutant(
        "Cutout draws centres whose square fits",
        "cutout",
        CUTOUT_ROWS,
        CUTOUT_ROWS.replace("randint(height,", "randint(length // 2, max(height - length // 2, length // 2 + 1),"),
        MIXING,
    ),
    mutant(
        "Cutout with one centre for the batch", "cutout", CUTOUT_ROWS, f"{CUTOUT_ROWS[:-1]})[:1].expand(batch)", MIXING
    ),
    mutant(
        "Cutout's odd squares one pixel short", "cutout", "(offsets < length)", "(offsets < length // 2 * 2)", MIXING
    ),
    mutant("Cutout overwrites the batch", "cutout", "return x.clone().masked_fill_(", "return x.masked_fill_(", MIXING),
    mutant("given tensors are read unasked", "mixing", "if check and not bool((lam", "if not bool((lam", MIXING),
    mutant("Mixup turns channels_last around", "mixup", LERP, LERP.replace("x[p", "x.contiguous()[p"), MIXING),
    mutant("CutMix turns channels_last around", "cutmix", PASTE, PASTE.replace("x[p", "x.contiguous()[p"), MIXING),
    mutant("Cutout turns channels_last around", "cutout", "x.clone().masked_fill_(", "x.masked_fill(", MIXING),
    mutant(
        "skipping overwrites the block's input",
        "drop_path",
        "x.to(dtype, copy=True)",
        "x.detach().to(dtype)",
        DROP_PATH,
    ),
    mutant(
        "skipping with the scale rounded to the dtype first",
        "drop_path",
        "scaled = output * _scale(drop_prob, scale_by_keep)",
        "scaled = output * output.new_tensor(_scale(drop_prob, scale_by_keep))[None]",
        DROP_PATH,
    ),
    mutant("skipping turns channels_last around", "drop_path", ".index_add_(", ".index_add(", DROP_PATH),
    mutant("Cutout in one row of the batch's channels", "cutout", "[1] * (x.ndim - 3)", "x.shape[1:-2]", MIXING),
    mutant(
        "smoothing by ε / (K - 1)",
        "label_smoothing",
        "/ probabilities.shape[1]",
        "/ (probabilities.shape[1] - 1)",
        SMOOTHING,
    ),
    mutant(
        "smoothing leaves ε / K out of the true class",
        "label_smoothing",
        SMOOTH,
        "return (1 - label_smoothing) * probabilities + label_smoothing / probabilities.shape[1] * (1 - probabilities)",
        SMOOTHING,
    ),
    mutant(
        "smoothing on the true class too: rows sum to 1 + ε",
        "label_smoothing",
        "(1 - label_smoothing) * p",
        "p",
        SMOOTHING,
    ),
    mutant("ε and 1 - ε swapped", "label_smoothing", "(1 - label_smoothing) * p", "label_smoothing * p", SMOOTHING),
    mutant("temperature multiplied", "temperature", "torch.exp(-log_ratio)", "torch.exp(log_ratio)", CALIBRATION),
    mutant(
        "temperature of unconstrained sign",
        "temperature",
        "return scale.item() * math.exp(log_ratio.item())",
        "return scale.item() * log_ratio.item()",
        CALIBRATION,
    ),
    mutant("the scale of the logits forgotten", "temperature", "return scale.item() * ", "return ", CALIBRATION),
    mutant(
        "the caller's logits overwritten",
        "temperature",
        "torch.float64, copy=True)  # (N, K)",
        "torch.float64)",
        CALIBRATION,
    ),
    mutant(
        "right predictions taken as a minimum",
        "temperature",
        "(scores.amax(1) > own)",
        "(scores.amax(1) >= own)",
        CALIBRATION,
    ),
    mutant("worse than chance taken as a minimum", "temperature", "own.mean() > 0", "own.mean() < 1e9", CALIBRATION),
    mutant("loose tolerance", "temperature", "TOLERANCE = 1e-12", "TOLERANCE = 1e-2", CALIBRATION),
    mutant("an end without convergence returned", "temperature", "ROUNDING = 1e-6", "ROUNDING = 1e6", CALIBRATION),
    mutant(
        "ECE's bins closed on the left",
        "calibration_error",
        "torch.bucketize(confidences, bin_edges[1:-1])",
        "torch.bucketize(confidences, bin_edges[1:-1], right=True)",
        CALIBRATION,
    ),
    mutant(
        "confidence 1 in a bin of its own",
        "calibration_error",
        "torch.bucketize(confidences, bin_edges[1:-1])",
        "(confidences * n_bins).long().clamp(max=n_bins - 1)",
        CALIBRATION,
    ),
    mutant(
        "ECE without the bins' weights",
        "calibration_error",
        "((right - confidence).abs().sum() / len(labels))",
        "((right - confidence).abs() / counts).nanmean()",
        CALIBRATION,
    ),
    mutant(
        "ECE with signs that cancel",
        "calibration_error",
        "(right - confidence).abs().sum()",
        "(right - confidence).sum().abs()",
        CALIBRATION,
    ),
    mutant(
        "confidence of the true class",
        "calibration_error",
        "summands = torch",
        "confidences = probabilities.to(dtype).gather(1, labels.long()[:, None]).squeeze(1)\n    summands = torch",
        CALIBRATION,
    ),
    mutant(
        "empty bins as accuracy 0",
        "calibration_error",
        "accuracy=(right / counts)",
        "accuracy=(right / counts.clamp(min=1))",
        CALIBRATION,
    ),
    mutant(
        "layer-decay exponent reversed",
        "layer_decay",
        "layer_decay ** (top - layer)",
        "layer_decay**layer",
        LAYER_DECAY,
    ),
    mutant(
        "the head's rate decayed",
        "layer_decay",
        "layer_decay ** (top - layer)",
        "layer_decay ** (top + 1 - layer)",
        LAYER_DECAY,
    ),
    mutant(
        "lr_scale that no optimizer applies",
        "layer_decay",
        '"lr": lr * layer_decay ** (top - layer),',
        '"lr": lr, "lr_scale": layer_decay ** (top - layer),',
        LAYER_DECAY,
    ),
    mutant("biases and norms decayed", "layer_decay", EXEMPT, "exempt = False", LAYER_DECAY),
    mutant("norms with several dimensions decayed", "layer_decay", "or parameter in in_norms ", "", LAYER_DECAY),
    mutant("biases with several dimensions decayed", "layer_decay", ' or name.endswith(".bias")', "", LAYER_DECAY),
    mutant(
        "tokens and position embeddings decayed", "layer_decay", " or TOKENS.search(name) is not None", "", LAYER_DECAY
    ),
    mutant(
        "the model's own exemptions ignored",
        "layer_decay",
        "exempt = exempt or name in plain or",
        "exempt = exempt or",
        LAYER_DECAY,
    ),
    mutant(
        "blocks in the order of their names, 10 before 9",
        "layer_decay",
        "sorted({block for block in blocks.values() if block is not None})",
        "sorted({block for block in blocks.values() if block is not None}, key=str)",
        LAYER_DECAY,
    ),
    mutant(
        "one layer a stage in residual networks",
        "layer_decay",
        "|layer(\\d+)\\.(\\d+))\\.",
        "|layer(\\d+)\\.\\d+)\\.",
        LAYER_DECAY,
    ),
    mutant(
        "embedding in the first block's layer", "layer_decay", "layers[name] = 0\n", "layers[name] = 1\n", LAYER_DECAY
    ),
    mutant("frozen parameters in groups", "layer_decay", "if not parameter.requires_grad:", "if False:", LAYER_DECAY),
    mutant(
        "unknown names with the head",
        "layer_decay",
        "elif HEAD.match(name):",
        "else:\n            layers[name] = top\n        if False:",
        LAYER_DECAY,
    ),
    mutant(
        "MAE's largest model as in the paper",
        "training_recipes",
        "layer_decay=0.75, drop_path=0.3)",
        "layer_decay=0.75, drop_path=0.2)",
        LAYER_DECAY,
    ),
    mutant("MAE's base rate unscaled", "training_recipes", "lr=2e-3,", "lr=5e-4,", LAYER_DECAY),
]
