"""Misconceptions about gradient flow, written into the reference."""

from tests.mutants import mutants_in

ACCUMULATION = ("tests/gradient_flow/test_accumulation.py",)
BLOCKS = ("tests/gradient_flow/test_transformer_blocks.py",)
JACOBIAN = ("tests/gradient_flow/test_jacobian.py",)
GRADIENT_MONITOR = ("tests/gradient_flow/test_gradient_monitor.py",)
DIAGNOSE = ("tests/gradient_flow/test_diagnose.py",)

MUTANTS = [
    *mutants_in(
        "steepest/gradient_flow/accumulation.py",
        ACCUMULATION,
        (
            "loss divided by the number of steps on ragged micro-batches",
            "loss * (number / total)",
            "loss / len(micro_batches)",
        ),
        (
            "mean of means with unequal token counts",
            "_in_float64(count(micro_batch)) for",
            "_in_float64(first_dimension(micro_batch)) for",
        ),
        (
            "shares of integer tensors rounded to float32",
            "return number.to(torch.float64) if isinstance(number, torch.Tensor) else number",
            "return number",
        ),
        ("loss not divided at all", 'if reduction == "mean" else loss / total', 'if reduction == "mean" else loss'),
        (
            "gradients zeroed inside the window, so that only the last micro-batch counts",
            "weighted.backward()",
            "weighted.backward() if i == last else None",
        ),
        ("last partial window dropped", "    if window:\n        yield window\n", ""),
        ("gradients exchanged after every micro-batch", "no_sync is None or i == last", "True"),
        ("gradients never exchanged", "no_sync is None or i == last", "no_sync is None"),
        ("graphs of all micro-batches kept alive", "weighted.backward()", "weighted.backward(retain_graph=True)"),
        (
            "returned loss keeps the graph",
            "mean_loss = weighted.detach() if mean_loss is None else mean_loss + weighted.detach()",
            "mean_loss = weighted if mean_loss is None else mean_loss + weighted",
        ),
    ),
    *mutants_in(
        "steepest/gradient_flow/transformer_blocks.py",
        BLOCKS,
        (
            "Post-LN as LN(x) + f(x)",
            "src = self.norm1(src + self._attend(src, src_key_padding_mask, is_causal))",
            "src = self.norm1(src) + self._attend(src, src_key_padding_mask, is_causal)",
        ),
        (
            "Pre-LN adds the branch to the normalized input",
            "src = src + self._attend(self.norm1(src), src_key_padding_mask, is_causal)",
            "src = self.norm1(src)\n        src = src + self._attend(src, src_key_padding_mask, is_causal)",
        ),
        (
            "one normalization shared by both sublayers",
            "return src + self._feed_forward(self.norm2(src))",
            "return src + self._feed_forward(self.norm1(src))",
        ),
        (
            "skip connection left out",
            "return src + self._feed_forward(self.norm2(src))",
            "return self._feed_forward(self.norm2(src))",
        ),
    ),
    *mutants_in(
        "steepest/gradient_flow/attention.py",
        BLOCKS,
        (
            "padding mask with True where attention may look",
            "visible = ~padding[:, None, None, :]",
            "visible = padding[:, None, None, :]",
        ),
        (
            "causal mask forgotten where there is padding",
            "visible = visible & torch.ones(length, length, dtype=torch.bool, device=src.device).tril()",
            "visible = visible.expand(-1, -1, length, -1)",
        ),
        ("causal mask looks forward", ".tril()", ".triu()"),
        (
            "dropout of attention weights in eval",
            "dropout_p=self.dropout if self.training else 0.0",
            "dropout_p=self.dropout",
        ),
        ("heads not put back beside each other", "mixed.transpose(1, 2).reshape", "mixed.reshape"),
        ("fused projection initialized as one matrix", "self.in_proj.weight.chunk(3)", "[self.in_proj.weight]"),
    ),
    *mutants_in(
        "steepest/gradient_flow/jacobian.py",
        JACOBIAN,
        (
            "eigenvalues for singular values",
            "return torch.linalg.svdvals(jacobian)",
            "return torch.linalg.eigvals(jacobian).abs().sort(descending=True).values",
        ),
        (
            "squared singular values",
            "return torch.linalg.svdvals(jacobian)",
            "return torch.linalg.svdvals(jacobian).square()",
        ),
        ("only the first rows of the Jacobian", "jacobian = torch.cat(blocks)", "jacobian = blocks[0]"),
    ),
    *mutants_in(
        "steepest/gradient_debugging/recorder.py",
        GRADIENT_MONITOR,
        (
            "a monitor that logs at steps 99, 199, ...",
            "return self.step % self.every == 0",
            "return (self.step + 1) % self.every == 0",
        ),
    ),
    *mutants_in(
        "steepest/gradient_flow/gradient_monitor.py",
        GRADIENT_MONITOR,
        ("crashes on a model without gradients", "        if not statistics:\n", "        if False:\n"),
        (
            "NaN invisible to max and min",
            "return math.nan if any(map(math.isnan, values)) else of(values)",
            "return of(values)",
        ),
    ),
    *mutants_in(
        "steepest/gradient_debugging/reductions.py",
        GRADIENT_MONITOR,
        (
            "infinite entries counted with NaN",
            "torch.count_nonzero(tensor.isnan())",
            "torch.count_nonzero(tensor - tensor)",
        ),
    ),
    *mutants_in(
        "steepest/gradient_flow/diagnose.py",
        DIAGNOSE,
        (
            "norm > 100 whatever the loss does",
            "len(large) < 0.9 * len(finite) or _loss_falls(records)",
            "len(large) < 0.9 * len(finite)",
        ),
        ("one large norm is large throughout", "len(large) < 0.9 * len(finite) or", "not large or"),
        ("growth always blamed on the rate", "causes.of_growing_norm(shrunk)", "causes.of_growing_norm(None)"),
        (
            "growth that began after a dip isn't seen",
            "since_low = middles[middles.index(min(middles)) :]",
            "since_low = middles",
        ),
        ("every skip of a loss scaler is a symptom", "(not record.finite and not record.skipped)", "not record.finite"),
        (
            "forward and backward confused",
            "loss_is_bad = None if first.loss is None else not math.isfinite(first.loss)",
            "loss_is_bad = None if first.loss is None else math.isfinite(first.loss)",
        ),
        (
            "near zero judged on the total",
            "if ratio < max(ROUNDING, VANISHED * best)]",
            "if last[-1].total_norm < 1e-7]",
        ),
        (
            "near zero judged without the weights",
            "ratios.setdefault(name, []).append(norm / weight)",
            "ratios.setdefault(name, []).append(norm)",
        ),
        (
            "converged taken for vanished",
            "converged=now < 1e-2 * then and not rose and not dead if losses_known else None",
            "converged=False",
        ),
        ("missing gradients taken for small ones", "detached=bool(detached)", "detached=False"),
        ("divergence taken for a spike", "if math.isfinite(norm) and len(run) <= 3:", "if True:"),
        ("a spike in the last record is not seen", "    spikes += run if len(run) <= 3 else []\n", ""),
        (
            "a skipped step hides the spike before it",
            "for record in (record for record in records if not record.skipped):",
            "for record in records:",
        ),
        (
            "every spike blamed on the data",
            "calm = returned_at_once and not _loss_stays_up(records, spikes) if spikes else None",
            "calm = True",
        ),
    ),
    *mutants_in(
        "steepest/gradient_flow/causes.py",
        DIAGNOSE,
        ("a large norm always blamed on the rate", "not at_start if large_updates is None else large_updates", "True"),
        ("clipping said to cure NaN and infinity", '" clipping cures neither NaN nor infinity"', '" clip"'),
    ),
]
