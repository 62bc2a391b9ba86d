"""Misconceptions about mixed precision, written into the reference."""

from tests.mutants import Mutant

FORMAT = ("tests/mixed_precision/test_float_format_rounding.py", "tests/mixed_precision/test_float_format.py")
SCALER = ("tests/mixed_precision/test_loss_scaler.py",)
MASTERS = ("tests/mixed_precision/test_master_weights.py",)
STEP = ("tests/mixed_precision/test_train_step.py",)
REPORT = ("tests/mixed_precision/test_autocast_report.py",)


def of_format(misconception: str, before: str, after: str) -> Mutant:
    return Mutant(misconception, "steepest/mixed_precision/float_format.py", before, after, FORMAT)


def of_scaler(misconception: str, before: str, after: str) -> Mutant:
    return Mutant(misconception, "steepest/mixed_precision/loss_scaler.py", before, after, SCALER)


def of_gradients(misconception: str, before: str, after: str) -> Mutant:
    return Mutant(misconception, "steepest/mixed_precision/scaled_gradients.py", before, after, SCALER)


def of_masters(misconception: str, before: str, after: str) -> Mutant:
    return Mutant(misconception, "steepest/mixed_precision/master_weights.py", before, after, MASTERS)


def of_step(misconception: str, before: str, after: str) -> Mutant:
    return Mutant(misconception, "steepest/mixed_precision/train_step.py", before, after, STEP)


def of_report(misconception: str, before: str, after: str) -> Mutant:
    return Mutant(misconception, "steepest/mixed_precision/autocast_report.py", before, after, REPORT)


ROUNDING = "magnitude.add_(shift).sub_(shift)"

MUTANTS = [
    of_format(
        "truncation for rounding",
        f"return {ROUNDING}",
        "spacing = binade.div_(2.0**source_mantissa)\n        return magnitude.div_(spacing).floor_().mul_(spacing)",
    ),
    of_format(
        "round half up for half to even",
        f"return {ROUNDING}",
        "spacing = binade.div_(2.0**source_mantissa)\n"
        "        return magnitude.div_(spacing).add_(0.5).floor_().mul_(spacing)",
    ),
    of_format(
        "subnormals flushed to zero",
        f"return {ROUNDING}",
        f"rounded = {ROUNDING}\n        return rounded.masked_fill_(rounded < self.smallest_normal, 0)",
    ),
    of_format(
        "subnormals without end: the exponent has no lower limit",
        ".view(source.dtype).clamp_(min=self.smallest_normal)",
        ".view(source.dtype).clamp_(min=2.0**-126)",
    ),
    of_format("formats of other names differ", 'field(default="", compare=False)', 'field(default="")'),
    of_format("exponent bias off by one", "2 ** (self.exponent_bits - 1) - 1\n", "2 ** (self.exponent_bits - 1)\n"),
    of_format(
        "E4M3 with infinities and maximum 240",
        'FloatFormat(4, 3, has_infinity=False, name="FP8_E4M3")',
        'FloatFormat(4, 3, name="FP8_E4M3")',
    ),
    of_format("E4M3 overflows to infinity", "torch.inf if self.has_infinity else torch.nan", "torch.inf"),
    of_format(
        "E4M3 uses its NaN pattern as a number: maximum 480",
        "return (2 - 2 * self.epsilon)",
        "return (2 - self.epsilon)",
    ),
    of_format(
        "E4M3 gives up its whole topmost binade",
        "(2 - 2 * self.epsilon) * 2.0 ** (2**self.exponent_bits - 1 - self.bias)",
        "(2 - self.epsilon) * 2.0 ** (2**self.exponent_bits - 2 - self.bias)",
    ),
    of_format("overflow from the maximum on", "magnitude > self.max, beyond", "magnitude >= self.max, beyond"),
    of_format(
        "overflow decided before rounding",
        "magnitude = self._rounded_magnitude(source)\n        return magnitude.masked_fill_(magnitude > self.max",
        "magnitude = self._rounded_magnitude(source)\n        return magnitude.masked_fill_(source.abs() > self.max",
    ),
    of_format("saturation always", "self.max if saturate else", "self.max if True else"),
    of_format("the sign of zero lost", ".copysign_(source)", ".mul_(source.sign())"),
    of_format(
        "float64 rounded by way of float32",
        "return tensor.detach().float() if tensor.dtype in NARROW else tensor.detach()",
        "return tensor.detach().float().to(torch.promote_types(tensor.dtype, torch.float32))",
    ),
    of_format(
        "float32 arithmetic for 8 exponent bits",
        "and (self.exponent_bits == 8 or self.mantissa_bits == 23)",
        "and self.mantissa_bits == 23",
    ),
    of_format(
        "float32 arithmetic for 23 mantissa bits",
        "and (self.exponent_bits == 8 or self.mantissa_bits == 23)",
        "and self.exponent_bits == 8",
    ),
    of_format(
        "the result stays attached to the input's memory",
        "magnitude = source.abs().clamp_(max=overflowing)",
        "magnitude = source.abs_().clamp_(max=overflowing)",
    ),
    of_format(
        "epsilon as the rounding error, half the spacing",
        "return 2.0**-self.mantissa_bits",
        "return 2.0**-(self.mantissa_bits + 1)",
    ),
    of_format(
        "subnormal patterns with an implicit one",
        "magnitude < self.smallest_normal, subnormal",
        "magnitude < 0, subnormal",
    ),
    of_format(
        "the quiet NaN without its bit is infinity", "infinity + (1 << (self.mantissa_bits - 1))", "infinity + 0"
    ),
    of_format(
        "subnormals decoded with an implicit one",
        "torch.where(exponent == 0, subnormal",
        "torch.where(exponent == -1, subnormal",
    ),
    of_format(
        "decoding in the default dtype",
        "mantissa.double() * self.smallest_subnormal",
        "mantissa * self.smallest_subnormal",
    ),
    of_format(
        "bands: zero and subnormal mixed up",
        "(magnitude < self.smallest_normal) & ~zero",
        "magnitude < self.smallest_normal",
    ),
    of_format(
        "bands: the largest numbers counted as overflow",
        "overflow = magnitude > self.max",
        "overflow = magnitude >= self.max",
    ),
    of_format(
        "bands: overflow counted as normal, too",
        "(magnitude >= self.smallest_normal) & ~overflow",
        "magnitude >= self.smallest_normal",
    ),
    of_format(
        "bands: NaN not told",
        "zero, nan = magnitude == 0, magnitude.isnan()",
        "zero, nan = magnitude == 0, magnitude.isinf()",
    ),
    of_scaler("scale not reduced after an overflow", "scale.double() * self.backoff_factor", "scale.double() * 1.0"),
    of_scaler(
        "scale raised on a skipped step",
        "torch.where(found_inf, (scale.double() * self.backoff_factor).float(), grown)",
        "grown",
    ),
    of_scaler(
        "growth counter not reset by an overflow",
        "tracker.masked_fill_(found_inf | grow, 0)",
        "tracker.masked_fill_(grow, 0)",
    ),
    of_scaler(
        "growth counter not reset by growth",
        "tracker.masked_fill_(found_inf | grow, 0)",
        "tracker.masked_fill_(found_inf, 0)",
    ),
    of_scaler(
        "growth one step late", "grow = tracker == self.growth_interval", "grow = tracker > self.growth_interval"
    ),
    of_scaler("growth to infinity", "grow & grown.isfinite()", "grow"),
    of_scaler(
        "growth in single precision", "(scale.double() * self.growth_factor).float()", "scale * self.growth_factor"
    ),
    of_scaler("step taken despite an overflow", "        if progress.found_inf:\n", "        if False:\n"),
    of_scaler(
        "overflow: gradients zeroed and the step taken",
        "            self.skipped_steps += 1\n            return None\n",
        "            self.skipped_steps += 1\n"
        "            for group in optimizer.param_groups:\n"
        "                torch._foreach_zero_([parameter.grad for parameter in group['params']])\n",
    ),
    of_scaler("step forgets to unscale", "        if not progress.unscaled:\n", "        if False:\n"),
    of_scaler("unscaled twice", "        if progress.unscaled:\n", "        if False:\n"),
    of_scaler(
        "stepped twice",
        '        if progress.stepped:\n            raise RuntimeError("step()',
        '        if False:\n            raise RuntimeError("step()',
    ),
    of_scaler(
        "unscaling by rebinding a name",
        "torch._foreach_mul_(gradients, inverse.to",
        "gradients = torch._foreach_mul(gradients, inverse.to",
    ),
    of_scaler("gradients multiplied by the scale for divided", "scale.double().reciprocal().float()", "scale.clone()"),
    of_scaler(
        "finiteness of the last group only",
        "found_inf if progress.found_inf is None else progress.found_inf | found_inf",
        "found_inf",
    ),
    of_scaler(
        "one optimizer's overflow doesn't count for the scale", "torch.stack(checks).any()", "torch.stack(checks).all()"
    ),
    of_scaler("checks kept after update", "        self._progress.clear()\n", "        pass\n"),
    of_scaler("the counter isn't loaded", "            self._growth_tracker.fill_(tracker)\n", ""),
    of_scaler("the scale isn't loaded", "            self._scale.fill_(scale)\n", ""),
    of_scaler("a disabled scaler scales", "        if not self._enabled:\n            return outputs\n", ""),
    of_gradients(
        "overflow found by the norm, which is infinite for large finite gradients",
        "        extremes = [extreme for gradient in nonempty for extreme in torch.aminmax(gradient)]\n",
        "        extremes = torch._foreach_norm(nonempty, 2)\n",
    ),
    of_gradients(
        "only NaN counts as overflow", "~torch.stack(extremes).isfinite().all()", "torch.stack(extremes).isnan().any()"
    ),
    of_gradients(
        "only infinity counts as overflow",
        "~torch.stack(extremes).isfinite().all()",
        "torch.stack(extremes).isinf().any()",
    ),
    of_gradients(
        "only one entry's overflow noticed: all must be bad",
        "~torch.stack(extremes).isfinite().all()",
        "~torch.stack(extremes).isfinite().any()",
    ),
    of_gradients("float16 gradients unscaled", "if gradient.dtype == torch.float16:", "if False:"),
    of_masters("no FP32 master copy", "parameter.detach().to(torch.float32, copy=True)", "parameter.detach().clone()"),
    of_masters("a float32 parameter is its own master", "torch.float32, copy=True", "torch.float32"),
    of_masters("masters never copied down", "torch._foreach_copy_(self._model, self._masters)", "return"),
    of_masters(
        "gradients added up over steps",
        "torch._foreach_copy_(targets, sources)",
        "torch._foreach_add_(targets, sources)",
    ),
    of_masters(
        "stale gradients kept",
        "                master.grad = None\n                continue",
        "                continue",
    ),
    of_masters(
        "divided before converting",
        "torch._foreach_copy_(targets, sources)\n",
        "torch._foreach_copy_(targets, sources if scale is None else torch._foreach_div(sources, scale))\n"
        "            return\n",
    ),
    of_masters(
        "gradients of the masters multiplied by the scale for divided",
        "torch._foreach_div_(targets, scale)",
        "torch._foreach_mul_(targets, scale)",
    ),
    of_masters(
        "state_dict of the rounded values",
        "[master.detach().clone() for master in self._masters]",
        "[p.detach().float() for p in self._model]",
    ),
    of_masters(
        "state_dict shares memory with the masters",
        "[master.detach().clone() for master in self._masters]",
        "[master.detach() for master in self._masters]",
    ),
    of_masters(
        "loading leaves the model as it was",
        "list(saved))\n        self.master_params_to_model_params()",
        "list(saved))",
    ),
    of_masters("frozen parameters trained", "requires_grad=parameter.requires_grad", "requires_grad=True"),
    of_step(
        "clip before unscale",
        "    scaler.unscale_(optimizer)\n",
        "    scaler.unscale_(optimizer) if max_norm is None else None\n",
    ),
    of_step(
        "scale updated per micro-batch",
        "        total = total + share.detach()\n",
        "        total = total + share.detach()\n"
        "        scaler._growth_tracker is None or scaler._growth_tracker.add_(1)\n",
    ),
    of_step("scale never updated", "    scaler.update()\n", ""),
    of_step(
        "gradients refused after unscaling, which leaves the scaler in the middle of a step",
        '    for i, gradient in enumerate(gradients):\n        require_floating(f"gradients[{i}]", gradient)\n',
        "",
    ),
    of_step("gradients not cleared", "    optimizer.zero_grad()\n", ""),
    of_step("micro-batches weighted equally", "size / sum(sizes)", "1 / len(sizes)"),
    of_step("micro-batches summed", "* (size / sum(sizes))", "* 1.0"),
    of_step(
        "backward under autocast",
        "        scaler.scale(share).backward()\n",
        "            scaler.scale(share).backward()\n",
    ),
    of_step("no autocast", "enabled=dtype != torch.float32", "enabled=False"),
    of_step("autocast for float32", "enabled=dtype != torch.float32", "enabled=True"),
    of_step(
        "model.half() taken for autocast",
        "    optimizer.zero_grad()\n",
        "    optimizer.zero_grad()\n    model.to(dtype)\n",
    ),
    of_step("loss reduced in 16 bits", "tree_map(_widened, model(inputs))", "model(inputs)"),
    of_step(
        "loss scaled without a scaler's knowledge",
        "scaler.scale(share).backward()",
        "(scaler.scale(share) * 65536).backward()",
    ),
    of_step(
        "a scaler for bfloat16, too",
        "    scaler = DynamicLossScaler(enabled=False) if",
        "    scaler = DynamicLossScaler() if",
    ),
    of_step("float16 without a scaler allowed", "if dtype == torch.float16 and scaler is None:", "if False:"),
    of_step(
        "non-finite gradients stepped with",
        "stepped = not skip_nonfinite or bool(grad_norm.isfinite())",
        "stepped = True",
    ),
    of_step(
        "skipping can't be turned off",
        "stepped = not skip_nonfinite or bool(grad_norm.isfinite())",
        "stepped = bool(grad_norm.isfinite())",
    ),
    of_step(
        "scheduler stepped on a skip", "    if stepped and scheduler is not None:", "    if scheduler is not None:"
    ),
    of_step("scheduler forgotten", "        scheduler.step()\n", "        pass\n"),
    of_step("a skip reported as a step", "stepped = scaler.skipped_steps == skipped_before", "stepped = True"),
    of_step("large finite gradients clipped to zero", "max_norm, scaled=True)", 'max_norm, nonfinite="propagate")'),
    of_step(
        "the norm after clipping is reported",
        "    return AmpStep(total, grad_norm, stepped)",
        "    return AmpStep(total, total_norm(gradients), stepped)",
    ),
    of_step("the last micro-batch's loss is reported", "total = total + share.detach()", "total = share.detach()"),
    of_step(
        "the host waits for the loss",
        "total = total + share.detach()",
        "total = total + torch.tensor(share.item(), dtype=share.dtype)",
    ),
    of_report("observed before autocast's conversions", "with recorder, torch.autocast(", "with torch.autocast("),
    of_report("views counted", "if not is_view and any", "if any"),
    of_report("keyword arguments left out", "buffers, inputs, kwargs)", "buffers, inputs)"),
    of_report("hidden views counted", "is_view or operator is torch.ops.aten._unsafe_view.default", "is_view"),
    of_report(
        "nodes watched after the report",
        'self._handles.append(node.register_prehook(lambda gradients: setattr(self, "path", path)))',
        'node.register_prehook(lambda gradients: setattr(self, "path", path))',
    ),
    of_report(
        "integers counted",
        "if not is_view and any(dtype.is_floating_point or dtype.is_complex for dtype in taken + given)",
        "if not is_view",
    ),
    of_report("running statistics move", "{name: buffer.clone() for", "{name: buffer for"),
    of_report("random state moves", "with torch.random.fork_rng(devices=cuda_devices), recorder", "with recorder"),
    of_report("the caller's operators go to the module called next", "                self._own((args, kwargs))\n", ""),
    of_report("a module's nodes aren't its own", "            self._own(output)\n", ""),
    of_report("the path isn't restored", "            self.path = callers.pop()\n", "            callers.pop()\n"),
    of_report(
        "the report's backward under autocast",
        "            with recorder:\n",
        "            with recorder, torch.autocast(device_type, dtype=dtype):\n",
    ),
    of_report("inputs shared with the caller", "leaf.detach().clone().requires_grad_(leaf.requires_grad)", "leaf"),
    of_report("hooks left", "                handle.remove()\n", "                pass\n"),
    of_report("float32 under autocast", "enabled=dtype != torch.float32", "enabled=True"),
    of_report("the last output's dtype for the first's", "given[0] if given else None", "given[-1] if given else None"),
]
