"""Misconceptions about gradients, norms, initialisation and normalisation, written into the reference."""

from tests.mutants import mutants_in

NORMS = ("tests/gradient_debugging/test_gradient_norms.py",)
CLIPPING = ("tests/gradient_debugging/test_clipping.py",)
NONFINITE = ("tests/gradient_debugging/test_nonfinite.py",)
ACTIVATIONS = ("tests/gradient_debugging/test_activations.py",)
INITIALISATION = ("tests/gradient_debugging/test_initialisation.py",)
SCHEDULES = ("tests/gradient_debugging/test_schedules.py",)
NORMALISATION = ("tests/gradient_debugging/test_normalisation.py",)
RECORDER = ("tests/gradient_debugging/test_recorder.py", "tests/gradient_debugging/test_recorder_over_steps.py")
ALERTS = ("tests/gradient_debugging/test_alerts.py",)
MONITOR = ("tests/gradient_debugging/test_training_monitor.py",)
SINKS = ("tests/gradient_debugging/test_sinks.py",)

MUTANTS = [
    *mutants_in(
        "steepest/gradient_debugging/grouped_norms.py",
        NORMS,
        ("sum of norms for the norm of all", "else torch.linalg.vector_norm(norms, order)", "else norms.sum()"),
        (
            "the norm of norms in another order than theirs",
            "else torch.linalg.vector_norm(norms, order)",
            "else torch.linalg.vector_norm(norms)",
        ),
        ("16-bit norms in 16 bits", "return torch.promote_types(dtype, torch.float32)", "return dtype"),
        (
            "NaN hidden from the total",
            "return norms[0] if len(norms) == 1",
            "return norms[0].nan_to_num(0.0, math.inf) if len(norms) == 1",
        ),
        ("scaled norms divide zero by zero", "torch.where((largest > 0) & largest.isfinite(), largest, 1)", "largest"),
        ("scaled norms forget to multiply back", "return scale * torch.linalg", "return torch.linalg"),
        ("largest entry without its sign turned", "torch.maximum(-lowest, highest)", "highest"),
        (
            "layers scaled, their total overflows",
            "return scaled_norm(norms, order, norms.dtype) if scaled else",
            "return",
        ),
        (
            "one read of the host for each gradient",
            "group_norms = packed_norms(tensors, order) if pack else norms_of(tensors, order, foreach, scaled)",
            "group_norms = [torch.tensor(norm.item()) for norm in norms_of(tensors, order, foreach, scaled)]",
        ),
        (
            "small gradients left out of the total",
            "return norms + norms_of(large, order) if large else norms",
            "return norms_of(large, order) if large else norms",
        ),
    ),
    *mutants_in(
        "steepest/gradient_debugging/gradient_norms.py",
        NORMS,
        (
            "groups of dtypes change the order of the layers",
            "in_order = [next(group_norms[kind(gradient)]) for gradient in gradients]",
            "in_order = [norm for group in norms for norm in group]",
        ),
        (
            "layers sorted by the size of their norm, depth lost",
            "return GradientNorms(names, torch.stack(norms[0]))",
            "return GradientNorms(names, torch.stack(norms[0]).sort(descending=True).values)",
        ),
        (
            "measuring after zero_grad goes unnoticed",
            "    if not with_gradient:\n        raise",
            "    if False:\n        raise",
        ),
        (
            "a missing gradient counted as a norm of its weight",
            "(name, parameter.grad) for name, parameter in named if parameter.grad is not None",
            "(name, parameter if parameter.grad is None else parameter.grad) for name, parameter in named",
        ),
        ("counts of entries taken for norms", "if not order > 0:", "if not order >= 0:"),
        (
            "non-finite totals pass error_if_nonfinite, since nan > max is False",
            "if not math.isfinite(value):",
            "if value > 1e38:",
        ),
    ),
    *mutants_in(
        "steepest/gradient_debugging/clipping.py",
        CLIPPING,
        (
            "per-tensor for global clipping",
            "torch._foreach_mul_(group, factor)",
            "torch._foreach_mul_(group, [(max_norm / (g.norm() + EPSILON)).clamp(max=1) for g in group])",
        ),
        (
            "coefficient not capped at 1, small gradients grow",
            "(max_norm / (norm + EPSILON)).clamp(max=1)",
            "max_norm / (norm + EPSILON)",
        ),
        ("coefficient without the 1e-6", "(norm + EPSILON)", "norm"),
        (
            "coefficient inverted",
            "(max_norm / (norm + EPSILON)).clamp(max=1)",
            "((norm + EPSILON) / max_norm).clamp(max=1)",
        ),
        (
            "measuring after clipping: the clipped norm returned",
            "                gradient.mul_(factor)\n    return norm",
            "                gradient.mul_(factor)\n    return norm * coefficient",
        ),
        ("infinite norms poison the gradients", 'if nonfinite == "keep":', 'if nonfinite == "propagate":'),
        (
            "NaN norms slip through the test for inf",
            "torch.where(norm < math.inf, coefficient, 1)",
            "torch.where(norm == math.inf, 1, coefficient)",
        ),
        (
            "raises after the gradients are touched",
            "    if error_if_nonfinite:\n        require_finite_norm(norm, order)\n",
            "    for gradient in gradients:\n"
            "        gradient.mul_(0.5)\n"
            "    if error_if_nonfinite:\n"
            "        require_finite_norm(norm, order)\n",
        ),
        (
            "the host asks whether there is anything to clip",
            "    for group in groups.values():\n        dtype",
            "    if norm <= max_norm:\n        return norm\n    for group in groups.values():\n        dtype",
        ),
        (
            "rebinds the gradients",
            "gradient.copy_(gradient.to(factor.dtype).mul_(factor))",
            "gradient = gradient * factor",
        ),
        (
            "value clipping by the norm, which keeps the direction",
            "            torch._foreach_clamp_min_(group, -clip_value)\n"
            "            torch._foreach_clamp_max_(group, clip_value)",
            "            clip_grad_norm_(parameters, clip_value)",
        ),
        ("value clipping from above only", "            torch._foreach_clamp_min_(group, -clip_value)\n", ""),
        (
            "an exhausted generator clips nothing, silently",
            "    if not parameters:\n        raise",
            "    if False:\n        raise",
        ),
    ),
    *mutants_in(
        "steepest/gradient_debugging/nonfinite.py",
        NONFINITE,
        ("infinities not looked for", 'if nan or (inf and place != "buffer"):', "if nan:"),
        ("masks in buffers reported", 'if nan or (inf and place != "buffer"):', "if nan or inf:"),
        ("the last non-finite tensor for the first", "                raise _Found\n", "                return\n"),
        (
            "only the forward searched",
            "    torch.autograd.grad(loss, variables, torch.ones_like(loss), allow_unused=True)\n",
            "",
        ),
        (
            "parameters not looked at first",
            '                watch.check("parameter", name, parameter)\n',
            "                pass\n",
        ),
        ("inputs not looked at", 'watch.check("input", f"inputs[{i}]", value)', "pass"),
        (
            "code between modules blamed on the next module",
            "self._handles.enter_context(module.register_forward_pre_hook(self._before(name), with_kwargs=True))",
            "pass",
        ),
        (
            "hooks of tensors stay",
            "self._handles.enter_context(tensor.register_hook(lambda gradient: self.check(place, name, gradient)))",
            "tensor.register_hook(lambda gradient: self.check(place, name, gradient))",
        ),
        (
            "hooks of modules stay",
            "self._handles.enter_context(module.register_forward_hook(self._after(name)))",
            "module.register_forward_hook(self._after(name))",
        ),
        (
            "the search overwrites the gradients",
            "                parameter.grad = gradient\n",
            "                pass\n",
        ),
        (
            "a module that hands on its child's output blamed",
            "if tensor.requires_grad and not any(tensor is old and tensor.grad_fn is node for old, node in before):",
            "if tensor.requires_grad:",
        ),
    ),
    *mutants_in(
        "steepest/gradient_debugging/watching.py",
        NONFINITE,
        ("the search moves running averages", "            setattr(module, name, buffer)\n", "            pass\n"),
        (
            "buffers restored by writing, which spoils the backward of an earlier forward",
            "            setattr(module, name, copies[id(buffer)])\n",
            "            pass\n",
        ),
        (
            "structured outputs not looked into",
            "    elif isinstance(value, (tuple, list)):",
            "    elif isinstance(value, list):",
        ),
    ),
    *mutants_in(
        "steepest/gradient_debugging/activations.py",
        ACTIVATIONS,
        ("std given as a variance", "(x - mean).square().mean().sqrt()", "(x - mean).square().mean()"),
        ("a unit that is off for one sample is dead", "zero.all(dim=samples)", "zero.any(dim=samples)"),
        ("dead pixels for dead channels", "unit = 1 if x.dim() >= 4 else x.dim() - 1", "unit = x.dim() - 1"),
        ("sigmoid's saturation by the bound of tanh", "(2 * x - 1).abs() > SATURATED", "x.abs() > SATURATED"),
        ("largest entry without its sign", "x.abs().max()", "x.max()"),
        (
            "one read of the host for each layer",
            "_row(module, tensor)\n\n    with",
            "torch.tensor(_row(module, tensor).tolist())\n\n    with",
        ),
        (
            "a shared module's last call overwrites the first",
            'rows[name if calls[name] == 1 else f"{name}#{calls[name]}"]',
            "rows[name]",
        ),
        (
            "activations summed in 16 bits",
            "x = output.to(torch.promote_types(output.dtype, torch.float32))",
            "x = output",
        ),
    ),
    *mutants_in(
        "steepest/gradient_debugging/initialisation.py",
        INITIALISATION,
        (
            "a std where a variance is meant: Xavier's bound from the variance",
            "std = gain * math.sqrt(2.0 / (fan_in + fan_out))",
            "std = gain * 2.0 / (fan_in + fan_out)",
        ),
        ("a variance where the std is meant: He", "std = gain / math.sqrt(fan_in if", "std = gain**2 / (fan_in if"),
        ("Xavier's bound for its std", "tensor.uniform_(-bound, bound", "tensor.uniform_(-std, std"),
        ("He for tanh", '"tanh": 5 / 3', '"tanh": math.sqrt(2)'),
        ("Xavier for ReLU", '"relu": math.sqrt(2)', '"relu": 1.0'),
        ("leaky slope ignored", "return math.sqrt(2.0 / (1 + a**2))", "return math.sqrt(2.0)"),
        (
            "fan_in and fan_out swapped",
            "return tensor.shape[1] * kernel_size, tensor.shape[0] * kernel_size",
            "return tensor.shape[0] * kernel_size, tensor.shape[1] * kernel_size",
        ),
        ("fans without the kernel", "kernel_size = math.prod(tensor.shape[2:])", "kernel_size = 1"),
        ("Xavier with fan_in alone", "2.0 / (fan_in + fan_out)", "1.0 / fan_in"),
        ("the generator ignored", "tensor.normal_(0, std, generator=generator)", "tensor.normal_(0, std)"),
    ),
    *mutants_in(
        "steepest/gradient_debugging/schedules.py",
        SCHEDULES,
        (
            "warmup off by one",
            "min(step**-0.5, step * warmup_steps**-1.5)",
            "min((step + 1) ** -0.5, (step + 1) * warmup_steps**-1.5)",
        ),
        (
            "warmup starts at 0",
            "min(step**-0.5, step * warmup_steps**-1.5)",
            "min(step**-0.5, (step - 1) * warmup_steps**-1.5)",
        ),
        ("warmup without decay", "min(step**-0.5, step *", "min(warmup_steps**-0.5, step *"),
        ("the higher branch", "* min(step", "* max(step"),
        (
            "step 0 left to Python's ZeroDivisionError",
            "    if step == 0:\n        raise",
            "    if False:\n        raise",
        ),
        ("width to the power of +1/2", "d_model**-0.5", "d_model**0.5"),
    ),
    *mutants_in(
        "steepest/gradient_debugging/normalisation.py",
        NORMALISATION,
        (
            "group norm over the wrong axes: groups of every G-th channel",
            "reshape(samples, num_groups, channels // num_groups, *space)",
            "reshape(samples, channels // num_groups, num_groups, *space).transpose(1, 2)",
        ),
        ("group norm for each channel alone", "list(range(2, x.dim()))", "list(range(3, x.dim())) or [2]"),
        ("group norm over the batch", "list(range(2, x.dim()))", "[0, *range(2, x.dim())]"),
        ("batch norm for each pixel", "[axis for axis in range(x.dim()) if axis != 1]", "[0]"),
        ("batch norm over channels", "[axis for axis in range(x.dim()) if axis != 1]", "list(range(x.dim()))"),
        ("layer norm over the last axis only", "list(range(-len(shape), 0))", "[-1]"),
        ("running variance biased", "unbiased = variance * (count / (count - 1))", "unbiased = variance"),
        (
            "the batch divided by its unbiased variance",
            "return mean, (x - mean).square().mean(axes, keepdim=True)",
            "return mean, x.var(axes, keepdim=True)",
        ),
        (
            "variance by mean of squares, which cancels",
            "return mean, (x - mean).square().mean(axes, keepdim=True)",
            "return mean, x.square().mean(axes, keepdim=True) - mean.square()",
        ),
        (
            "momentum for the old average",
            "running_mean.lerp_(mean.flatten().to(running_mean.dtype), momentum)",
            "running_mean.lerp_(mean.flatten().to(running_mean.dtype), 1 - momentum)",
        ),
        (
            "the batch's statistics in evaluation",
            "mean, variance = (_in_at_least_float32(average).view(per_channel) for average in "
            "(running_mean, running_var))",
            "mean, variance = _mean_and_variance(x, [axis for axis in range(x.dim()) if axis != 1])",
        ),
        (
            "eps added to a running variance in 16 bits",
            "(_in_at_least_float32(average).view(per_channel)",
            "(average.view(per_channel)",
        ),
        (
            "mean and variance taken for constants in the backward",
            "    mean = x.mean(axes, keepdim=True)\n",
            "    x = x.detach()\n    mean = x.mean(axes, keepdim=True)\n",
        ),
        ("half precision statistics", "return x.to(torch.promote_types(x.dtype, torch.float32))", "return x"),
        (
            "epsilon added to the standard deviation",
            "((x - mean) * torch.rsqrt(variance + eps)).reshape(input.shape)",
            "((x - mean) / (variance.sqrt() + eps)).reshape(input.shape)",
        ),
        ("one value per channel normalised to zero", "if count <= 1:", "if count < 1:"),
        ("weight ignored", "        normalised = normalised * weight.reshape(shape)\n", "        pass\n"),
    ),
    *mutants_in(
        "steepest/gradient_debugging/reductions.py",
        RECORDER,
        (
            "the host waits once a column",
            "flat = torch.cat([column.to(device, torch.float64) for column in columns.values()]).tolist()",
            "flat = [value for column in columns.values() for value in column.tolist()]",
        ),
        (
            "16-bit gradients summed in 16 bits",
            "accumulator = torch.promote_types(dtype, torch.float32)",
            "accumulator = dtype",
        ),
    ),
    *mutants_in(
        "steepest/gradient_debugging/gradient_record.py",
        RECORDER,
        (
            "NaN hidden by infinity in the total",
            "return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)",
            "return math.hypot(*norms)",
        ),
        ("total as the sum of norms", "else math.hypot(*norms)", "else sum(norms)"),
    ),
    *mutants_in(
        "steepest/gradient_debugging/gradient_record.py",
        ALERTS,
        (
            "an infinite norm of finite entries taken for infinite entries",
            "norm == math.inf and (largest is None or largest == math.inf)",
            "norm == math.inf",
        ),
        (
            "records skipped steps as numbers",
            "return self.scale is not None and not self.finite",
            "return self.scale is not None and math.isnan(self.total_norm)",
        ),
        (
            "NaN invisible to comparisons",
            "norm is not None and math.isnan(norm)",
            "norm is not None and norm > math.inf",
        ),
        ("biases judged by themselves", "if value is not None and dimension >= 2", "if value is not None"),
    ),
    *mutants_in(
        "steepest/gradient_debugging/recorder.py",
        RECORDER,
        (
            "update ratio without the learning rate",
            "updates = torch._foreach_sub([now[name] for name in names], before)",
            "updates = [now[name].grad for name in names]",
        ),
        (
            "update beside the weights after the step",
            "self._ratios = names, tensor_norms(updates) / norms",
            "self._ratios = names, tensor_norms(updates) / tensor_norms([now[name] for name in names])",
        ),
        (
            "weights aliased, not copied",
            "self._before = names, torch._foreach_mul(weights, 1.0), columns",
            "self._before = names, weights, columns",
        ),
        (
            "a monitor that keeps the graph alive",
            'columns["loss"] = loss.detach().reshape(1)',
            'self.loss = loss\n            columns["loss"] = loss.detach().reshape(1)',
        ),
        (
            "a monitor that steps twice",
            "self.step += 1\n        return self.history[-1] if due else None",
            "self.step += 1 + due\n        return self.history[-1] if due else None",
        ),
        ("history without end", "deque(maxlen=history_size)", "deque()"),
        (
            "measuring zeroes the gradients",
            "        return self.history[-1] if due else None",
            "        self.model.zero_grad()\n        return self.history[-1] if due else None",
        ),
        (
            "the ratio of an old update goes on for ever",
            "        self._ratios = None\n        return GradientRecord(",
            "        return GradientRecord(",
        ),
        ("the scale of a disabled scaler", "if scaler is not None and scaler.is_enabled():", "if scaler is not None:"),
    ),
    *mutants_in(
        "steepest/gradient_debugging/dead_units.py",
        RECORDER,
        (
            "hooks that keep activations alive",
            "fired = output.detach() != 0",
            "module.kept = output\n            fired = output.detach() != 0",
        ),
        (
            "validation forwards count as firing",
            "module.training and torch.is_grad_enabled() and self._due()",
            "torch.is_grad_enabled() and self._due()",
        ),
        (
            "hooks work on steps that aren't recorded",
            "module.training and torch.is_grad_enabled() and self._due()",
            "module.training and torch.is_grad_enabled()",
        ),
        ("a unit is dead if it is off for one sample", "fired.any(dim=samples)", "fired.all(dim=samples)"),
        (
            "only the last micro-batch counts",
            "fired if before is None or before.shape != fired.shape else before | fired",
            "fired",
        ),
        (
            "as many units in every forward taken for granted",
            "silent is None or silent.shape != fired.shape",
            "silent is None",
        ),
        ("hooks compiled into the graph, anew at every step", "        @torch.compiler.disable\n", ""),
        ("no sample taken for silence", "self._due() and output.numel()", "self._due()"),
        ("a unit that fires stays dead", "torch.where(fired, 0, waited + 1)", "torch.where(fired, waited, waited + 1)"),
        ("hooks stay after close", "            handle.remove()\n", "            pass\n"),
    ),
    *mutants_in(
        "steepest/gradient_debugging/running_thresholds.py",
        ALERTS,
        (
            "a weight near 0 makes all others vanish",
            "best = min(max(relative.values()), 1.0)",
            "best = max(relative.values())",
        ),
        (
            "vanishing judged on the total, not per layer",
            "relative[name] = self._norms[name].quantile(0.5) / weight",
            'relative[name] = self._norms["total"].quantile(0.5) / weight',
        ),
        (
            "vanishing judged without the weights",
            "relative[name] = self._norms[name].quantile(0.5) / weight",
            "relative[name] = self._norms[name].quantile(0.5)",
        ),
        (
            "looking at the largest norms only",
            'return {**record.of_weights(record.norms), "total": record.total_norm}',
            "return dict(sorted(record.of_weights(record.norms).items(), key=lambda item: "
            '-item[1])[:1]) | {"total": record.total_norm}',
        ),
        ("converged gradients said to vanish", "and not moves and not fell_with_loss", "and not moves"),
        ("spikes by the mean of a loss near zero", "max(8 * (high - median), 0.1 * level)", "8 * (high - median)"),
        (
            "one factor for calm and for noisy runs",
            "median * max(factor, min(high / median, 1e20) ** 4)",
            "median * factor",
        ),
        ("updates of skipped steps count", "if not self._was_skipped:", "if True:"),
    ),
    *mutants_in(
        "steepest/gradient_debugging/running_quantile.py",
        ALERTS,
        ("the newest value leaves the window", "oldest = self._arrivals.popleft()", "oldest = self._arrivals.pop()"),
        (
            "quantiles without interpolation",
            "return low if low == high else low + (position - below) * (high - low)",
            "return low",
        ),
    ),
    *mutants_in(
        "steepest/gradient_debugging/alerts.py",
        ALERTS,
        (
            "norm > 100 without an isfinite test",
            "if not math.isfinite(norm) or len(record.missing)",
            "if len(record.missing)",
        ),
        ("skips alarm at once", "if self._skips >= self.patience:", "if self._skips >= 1:"),
        (
            "skips add up over the run",
            "self._skips = self._skips + 1 if record.skipped else 0",
            "self._skips += record.skipped",
        ),
        ("a falling scale isn't noticed", "if record.scale <= max(self._scales) / 2**self.patience:", "if False:"),
        ("clipping said to cure NaN", ". Clipping doesn't cure it", "; clip"),
    ),
    *mutants_in(
        "steepest/gradient_debugging/running_thresholds.py",
        ("tests/gradient_debugging/test_alerts.py", "tests/gradient_debugging/test_training_monitor.py"),
        (
            "judged against a history that holds the value itself",
            "alerts += self._loss_spike(record) + self._gradient_spike(record)\n        self._take_in(record)\n",
            "self._take_in(record)\n        alerts += self._loss_spike(record) + self._gradient_spike(record)\n",
        ),
    ),
    *mutants_in(
        "steepest/gradient_debugging/training_monitor.py",
        MONITOR,
        (
            "an alert at every step as long as it holds",
            "new = [alert for alert in found if (alert.kind, alert.subject) not in self._holding]",
            "new = found",
        ),
        (
            "an alert is raised once in a run",
            "self._holding = {(kind, subject) for kind, subject in self._holding if kind in lasting}",
            "pass",
        ),
        (
            "an alert each time that the worst layer changes",
            "self._holding = {(kind, subject) for kind, subject in self._holding if kind in lasting}",
            "self._holding = set()",
        ),
        ("the policy starts anew when a run resumes", '        self.policy.load_state_dict(state["policy"])\n', ""),
    ),
    *mutants_in(
        "steepest/gradient_debugging/sinks.py",
        SINKS,
        ("NaN written as JSON that isn't", "json.dumps(_written(line), allow_nan=False)", "json.dumps(line)"),
        (
            "a resumed run overwrites its file",
            'self.path.open("a", encoding="utf-8")',
            'self.path.open("w", encoding="utf-8")',
        ),
    ),
]
