"""Misconceptions about regularisation, written into the reference."""

from tests.mutants import mutants_in

DROP_PATH = ("tests/regularization/test_drop_path.py",)
MIXING = ("tests/regularization/test_mixing.py",)
SMOOTHING = ("tests/regularization/test_label_smoothing.py",)
CALIBRATION = ("tests/regularization/test_calibration.py",)
LAYER_DECAY = ("tests/regularization/test_layer_decay.py",)

MUTANTS = [
    *mutants_in(
        "steepest/regularization/drop_path.py",
        DROP_PATH,
        ("DropPath mask per batch", "torch.rand(len(x), ", "torch.rand(1, "),
        (
            "DropPath mask per element",
            "keep = _draw_keep(x, drop_prob, generator).reshape(-1, *[1] * (x.ndim - 1))  # (B, 1, ..., 1)",
            "keep = torch.rand_like(x) >= drop_prob",
        ),
        ("DropPath without scaling", "return 1 / (1 - drop_prob) if", "return 1.0 if"),
        ("DropPath scales by the drop probability", "return 1 / (1 - drop_prob)", "return 1 / drop_prob"),
        (
            "DropPath multiplies by the survival in training, as at test time in the paper",
            "return 1 / (1 - drop_prob)",
            "return 1 - drop_prob",
        ),
        (
            "DropPath in evaluation too",
            "if not training or drop_prob == 0:\n        return x\n",
            "if drop_prob == 0:\n        return x\n",
        ),
        (
            "the residual form drops in evaluation too",
            "if not training or drop_prob == 0:\n        return x + branch(x)\n",
            "if drop_prob == 0:\n        return x + branch(x)\n",
        ),
        ("keep and drop swapped", "return uniforms >= drop_prob", "return uniforms < drop_prob"),
        ("DropPath ignores scale_by_keep", "if scale_by_keep and drop_prob < 1", "if drop_prob < 1"),
        (
            "DropPath divides by zero at p = 1",
            "return 1 / (1 - drop_prob) if scale_by_keep and drop_prob < 1 else 1.0",
            'return (1 / (1 - drop_prob) if drop_prob < 1 else float("inf")) if scale_by_keep else 1.0',
        ),
        (
            "DropPath multiplies by the mask, so that inf stays NaN",
            "return torch.where(keep, x * _scale(drop_prob, scale_by_keep), 0.0)",
            "return x * keep * _scale(drop_prob, scale_by_keep)",
        ),
        ("DropPath mask in the dtype of the input", "dtype=torch.float32", "dtype=x.dtype"),
        (
            "DropPath ignores the generator",
            "uniforms = torch.rand(len(x), dtype=torch.float32, device=x.device, generator=generator)  # (B,)",
            "uniforms = torch.rand(len(x), dtype=torch.float32, device=x.device)  # (B,)",
        ),
        ("the branch runs on dropped samples too", "branch(x.index_select(0, kept))", "branch(x)[kept]"),
        ("skipping forgets the scale", "scaled.to(dtype)", "output.to(dtype)"),
        (
            "the skip connection is dropped with the branch",
            "x.to(dtype, copy=True).index_add_(",
            "torch.zeros_like(x, dtype=dtype).index_add_(",
        ),
        (
            "the branch's output replaces the sample",
            "x.to(dtype, copy=True).index_add_(0, kept, scaled.to(dtype))",
            "x.to(dtype).index_copy(0, kept, scaled.to(dtype))",
        ),
        ("skipping overwrites the block's input", "x.to(dtype, copy=True)", "x.detach().to(dtype)"),
        (
            "skipping with the scale rounded to the dtype first",
            "scaled = output * _scale(drop_prob, scale_by_keep)",
            "scaled = output * output.new_tensor(_scale(drop_prob, scale_by_keep))[None]",
        ),
        ("skipping turns channels_last around", ".index_add_(", ".index_add("),
    ),
    *mutants_in(
        "steepest/regularization/drop_path_rates.py",
        DROP_PATH,
        (
            "the same rate at all depths",
            "return [drop_path_rate * (layer / max(depth - 1, 1)) for layer in range(depth)]",
            "return [drop_path_rate] * depth",
        ),
        ("linspace rule with the index shifted", "(layer / max(depth - 1, 1))", "(layer / depth)"),
        ("paper's rule with the index shifted", "in range(1, depth + 1)", "in range(depth)"),
        (
            "rates fall with depth",
            "return [drop_path_rate * (layer / depth) for layer in range(1, depth + 1)]",
            "return [drop_path_rate * (1 - layer / depth) for layer in range(1, depth + 1)]",
        ),
    ),
    *mutants_in(
        "steepest/regularization/mixup.py",
        MIXING,
        (
            "Mixup with λ and 1 - λ swapped",
            "inputs = torch.lerp(x[permutation], x, weight)",
            "inputs = torch.lerp(x[permutation], x, 1 - weight)",
        ),
        ("Mixup of inputs only", "mix_targets(soft, weight, permutation)", "soft"),
        (
            "Mixup's labels with another permutation",
            "mix_targets(soft, weight, permutation)",
            "mix_targets(soft, weight, permutation.flip(0))",
        ),
        (
            "Mixup's labels with the inverse permutation",
            "mix_targets(soft, weight, permutation)",
            "mix_targets(soft, weight, permutation.argsort())",
        ),
        (
            "Mixup's labels with another λ",
            "mix_targets(soft, weight, permutation)",
            "mix_targets(soft, lam, permutation)",
        ),
        (
            "Mixup overwrites the batch",
            "inputs = torch.lerp(x[permutation], x, weight)",
            "inputs = x.lerp_(x[permutation], 1 - weight)",
        ),
        (
            "Mixup turns channels_last around",
            "inputs = torch.lerp(x[permutation], x, weight)",
            "inputs = torch.lerp(x.contiguous()[permutation], x, weight)",
        ),
    ),
    *mutants_in(
        "steepest/regularization/mixing.py",
        MIXING,
        (
            "labels with λ and 1 - λ swapped",
            "return torch.lerp(soft.index_select(0, permutation), soft, lam.to(soft.dtype))",
            "return torch.lerp(soft, soft.index_select(0, permutation), lam.to(soft.dtype))",
        ),
        (
            "Beta(α, 1) for Beta(α, α)",
            "return (0.5 + 0.5 * cosine * torch.sqrt((1 - w) / (w + (1 - w) * cosine**2))).clamp(0, 1)",
            "return w",
        ),
        ("ν = α instead of 2α degrees of freedom", "w = u ** (1 / alpha)", "w = u ** (2 / alpha)"),
        ("λ uniform whatever α", "w = u ** (1 / alpha)", "w = u"),
        ("λ outside [0, 1] by rounding", ".clamp(0, 1)", ""),
        ("λ from the default generator", "device=device, generator=generator", "device=device"),
        ("partners from the default generator", "device=x.device, generator=generator", "device=x.device"),
        ("partners drawn with repetition", "torch.randperm(len(x), device", "torch.randint(len(x), (len(x),), device"),
        ("given tensors are read unasked", "if check and not bool((lam", "if not bool((lam"),
    ),
    *mutants_in(
        "steepest/regularization/cutmix.py",
        MIXING,
        (
            "CutMix's λ not recomputed after clipping",
            "lam = (1 - box.to(torch.float64).mean()).to(soft.dtype)",
            "lam = lam.to(soft.dtype)",
        ),
        (
            "CutMix's labels get the share of the box",
            "lam = (1 - box.to(torch.float64).mean())",
            "lam = box.to(torch.float64).mean()",
        ),
        ("CutMix's side by 1 - λ", "side = torch.sqrt(1 - lam)", "side = 1 - lam"),
        ("CutMix's side by the root of λ", "side = torch.sqrt(1 - lam)", "side = torch.sqrt(lam)"),
        ("CutMix's box of twice the side", "torch.floor(height * side / 2)", "torch.floor(height * side)"),
        ("CutMix's box rounded", "torch.floor(width * side / 2)", "torch.round(width * side / 2)"),
        ("CutMix's box closed on both sides", "places < center + half", "places <= center + half"),
        (
            "CutMix keeps the box and replaces the rest",
            "inputs = torch.where(box, x[permutation], x)",
            "inputs = torch.where(~box, x[permutation], x)",
        ),
        ("CutMix with rows and columns swapped", "row, column = _center", "column, row = _center"),
        (
            "CutMix overwrites the batch",
            "inputs = torch.where(box, x[permutation], x)",
            "inputs = x.copy_(torch.where(box, x[permutation], x))",
        ),
        (
            "CutMix's labels with another permutation",
            "mix_targets(soft, lam, permutation)",
            "mix_targets(soft, lam, permutation.argsort())",
        ),
        (
            "CutMix's centre in the middle half only",
            "torch.randint(size, (), device",
            "torch.randint(size // 4, size - size // 4, (), device",
        ),
        (
            "CutMix turns channels_last around",
            "inputs = torch.where(box, x[permutation], x)",
            "inputs = torch.where(box, x.contiguous()[permutation], x)",
        ),
    ),
    *mutants_in(
        "steepest/regularization/cutout.py",
        MIXING,
        (
            "Cutout's square kept inside the image",
            "rows, columns = center.unbind(1)\n",
            "rows, columns = center.unbind(1)\n"
            "    rows = rows.clamp(min(length // 2, height - 1), max(height - length + length // 2, 0))\n"
            "    columns = columns.clamp(min(length // 2, width - 1), max(width - length + length // 2, 0))\n",
        ),
        (
            "Cutout draws centres whose square fits",
            "rows = torch.randint(height, (batch,), device=x.device, generator=generator)",
            "rows = torch.randint(length // 2, max(height - length // 2, length // 2 + 1), (batch,), "
            "device=x.device, generator=generator)",
        ),
        (
            "Cutout with one centre for the batch",
            "rows = torch.randint(height, (batch,), device=x.device, generator=generator)",
            "rows = torch.randint(height, (batch,), device=x.device, generator=generator)[:1].expand(batch)",
        ),
        ("Cutout's odd squares one pixel short", "(offsets < length)", "(offsets < length // 2 * 2)"),
        ("Cutout overwrites the batch", "return x.clone().masked_fill_(", "return x.masked_fill_("),
        ("Cutout turns channels_last around", "x.clone().masked_fill_(", "x.masked_fill("),
        ("Cutout in one row of the batch's channels", "[1] * (x.ndim - 3)", "x.shape[1:-2]"),
    ),
    *mutants_in(
        "steepest/regularization/label_smoothing.py",
        SMOOTHING,
        ("smoothing by ε / (K - 1)", "/ probabilities.shape[1]", "/ (probabilities.shape[1] - 1)"),
        (
            "smoothing leaves ε / K out of the true class",
            "return (1 - label_smoothing) * probabilities + label_smoothing / probabilities.shape[1]",
            "return (1 - label_smoothing) * probabilities + label_smoothing / probabilities.shape[1] * "
            "(1 - probabilities)",
        ),
        ("smoothing on the true class too: rows sum to 1 + ε", "(1 - label_smoothing) * p", "p"),
        ("ε and 1 - ε swapped", "(1 - label_smoothing) * p", "label_smoothing * p"),
    ),
    *mutants_in(
        "steepest/regularization/temperature.py",
        CALIBRATION,
        ("temperature multiplied", "torch.exp(-log_ratio)", "torch.exp(log_ratio)"),
        (
            "temperature of unconstrained sign",
            "return scale.item() * math.exp(log_ratio.item())",
            "return scale.item() * log_ratio.item()",
        ),
        ("the scale of the logits forgotten", "return scale.item() * ", "return "),
        ("the caller's logits overwritten", "torch.float64, copy=True)  # (N, K)", "torch.float64)"),
        ("right predictions taken as a minimum", "(scores.amax(1) > own)", "(scores.amax(1) >= own)"),
        ("worse than chance taken as a minimum", "own.mean() > 0", "own.mean() < 1e9"),
        ("loose tolerance", "TOLERANCE = 1e-12", "TOLERANCE = 1e-2"),
        ("an end without convergence returned", "ROUNDING = 1e-6", "ROUNDING = 1e6"),
    ),
    *mutants_in(
        "steepest/regularization/calibration_error.py",
        CALIBRATION,
        (
            "ECE's bins closed on the left",
            "torch.bucketize(confidences, bin_edges[1:-1])",
            "torch.bucketize(confidences, bin_edges[1:-1], right=True)",
        ),
        (
            "confidence 1 in a bin of its own",
            "torch.bucketize(confidences, bin_edges[1:-1])",
            "(confidences * n_bins).long().clamp(max=n_bins - 1)",
        ),
        (
            "ECE without the bins' weights",
            "((right - confidence).abs().sum() / len(labels))",
            "((right - confidence).abs() / counts).nanmean()",
        ),
        ("ECE with signs that cancel", "(right - confidence).abs().sum()", "(right - confidence).sum().abs()"),
        (
            "confidence of the true class",
            "summands = torch",
            "confidences = probabilities.to(dtype).gather(1, labels.long()[:, None]).squeeze(1)\n    summands = torch",
        ),
        ("empty bins as accuracy 0", "accuracy=(right / counts)", "accuracy=(right / counts.clamp(min=1))"),
    ),
    *mutants_in(
        "steepest/regularization/layer_decay.py",
        LAYER_DECAY,
        ("layer-decay exponent reversed", "layer_decay ** (top - layer)", "layer_decay**layer"),
        ("the head's rate decayed", "layer_decay ** (top - layer)", "layer_decay ** (top + 1 - layer)"),
        (
            "lr_scale that no optimizer applies",
            '"lr": lr * layer_decay ** (top - layer),',
            '"lr": lr, "lr_scale": layer_decay ** (top - layer),',
        ),
        (
            "biases and norms decayed",
            'exempt = parameter.ndim <= 1 or parameter in in_norms or name.endswith(".bias")',
            "exempt = False",
        ),
        ("norms with several dimensions decayed", "or parameter in in_norms ", ""),
        ("biases with several dimensions decayed", ' or name.endswith(".bias")', ""),
        ("tokens and position embeddings decayed", " or TOKENS.search(name) is not None", ""),
        ("the model's own exemptions ignored", "exempt = exempt or name in plain or", "exempt = exempt or"),
        (
            "blocks in the order of their names, 10 before 9",
            "sorted({block for block in blocks.values() if block is not None})",
            "sorted({block for block in blocks.values() if block is not None}, key=str)",
        ),
        ("one layer a stage in residual networks", "|layer(\\d+)\\.(\\d+))\\.", "|layer(\\d+)\\.\\d+)\\."),
        ("embedding in the first block's layer", "layers[name] = 0\n", "layers[name] = 1\n"),
        ("frozen parameters in groups", "if not parameter.requires_grad:", "if False:"),
        (
            "unknown names with the head",
            "elif HEAD.match(name):",
            "else:\n            layers[name] = top\n        if False:",
        ),
    ),
    *mutants_in(
        "steepest/regularization/training_recipes.py",
        LAYER_DECAY,
        ("MAE's largest model as in the paper", "layer_decay=0.75, drop_path=0.3)", "layer_decay=0.75, drop_path=0.2)"),
        ("MAE's base rate unscaled", "lr=2e-3,", "lr=5e-4,"),
    ),
]
