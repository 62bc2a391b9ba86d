"""Misconceptions about gradient flow, written into the reference."""

from tests.mutants import Mutant

ACCUMULATION = ("tests/gradient_flow/test_accumulation.py",)
BLOCKS = ("tests/gradient_flow/test_transformer_blocks.py",)
JACOBIAN = ("tests/gradient_flow/test_jacobian.py",)

MUTANTS = [
    Mutant(
        "loss divided by the number of steps on ragged micro-batches",
        "steepest/gradient_flow/accumulation.py",
        "loss * (number / total)",
        "loss / len(micro_batches)",
        ACCUMULATION,
    ),
    Mutant(
        "mean of means with unequal token counts",
        "steepest/gradient_flow/accumulation.py",
        "counts = [count(micro_batch) for micro_batch in micro_batches]",
        "counts = [first_dimension(micro_batch) for micro_batch in micro_batches]",
        ACCUMULATION,
    ),
    Mutant(
        "loss not divided at all",
        "steepest/gradient_flow/accumulation.py",
        'if reduction == "mean" else loss / total',
        'if reduction == "mean" else loss',
        ACCUMULATION,
    ),
    Mutant(
        "gradients zeroed inside the window, so that only the last micro-batch counts",
        "steepest/gradient_flow/accumulation.py",
        "weighted.backward()",
        "weighted.backward() if i == last else None",
        ACCUMULATION,
    ),
    Mutant(
        "last partial window dropped",
        "steepest/gradient_flow/accumulation.py",
        "    if window:\n        yield window\n",
        "",
        ACCUMULATION,
    ),
    Mutant(
        "gradients exchanged after every micro-batch",
        "steepest/gradient_flow/accumulation.py",
        "no_sync is None or i == last",
        "True",
        ACCUMULATION,
    ),
    Mutant(
        "gradients never exchanged",
        "steepest/gradient_flow/accumulation.py",
        "no_sync is None or i == last",
        "no_sync is None",
        ACCUMULATION,
    ),
    Mutant(
        "graphs of all micro-batches kept alive",
        "steepest/gradient_flow/accumulation.py",
        "weighted.backward()",
        "weighted.backward(retain_graph=True)",
        ACCUMULATION,
    ),
    Mutant(
        "returned loss keeps the graph",
        "steepest/gradient_flow/accumulation.py",
        "mean_loss = weighted.detach() if mean_loss is None else mean_loss + weighted.detach()",
        "mean_loss = weighted if mean_loss is None else mean_loss + weighted",
        ACCUMULATION,
    ),
    Mutant(
        "Post-LN as LN(x) + f(x)",
        "steepest/gradient_flow/transformer_blocks.py",
        "src = self.norm1(src + self._attend(src, src_key_padding_mask, is_causal))",
        "src = self.norm1(src) + self._attend(src, src_key_padding_mask, is_causal)",
        BLOCKS,
    ),
    Mutant(
        "Pre-LN adds the branch to the normalized input",
        "steepest/gradient_flow/transformer_blocks.py",
        "src = src + self._attend(self.norm1(src), src_key_padding_mask, is_causal)",
        "src = self.norm1(src)\n        src = src + self._attend(src, src_key_padding_mask, is_causal)",
        BLOCKS,
    ),
    Mutant(
        "one normalization shared by both sublayers",
        "steepest/gradient_flow/transformer_blocks.py",
        "return src + self._feed_forward(self.norm2(src))",
        "return src + self._feed_forward(self.norm1(src))",
        BLOCKS,
    ),
    Mutant(
        "skip connection left out",
        "steepest/gradient_flow/transformer_blocks.py",
        "return src + self._feed_forward(self.norm2(src))",
        "return self._feed_forward(self.norm2(src))",
        BLOCKS,
    ),
    Mutant(
        "padding mask with True where attention may look",
        "steepest/gradient_flow/attention.py",
        "visible = ~padding[:, None, None, :]",
        "visible = padding[:, None, None, :]",
        BLOCKS,
    ),
    Mutant(
        "causal mask forgotten where there is padding",
        "steepest/gradient_flow/attention.py",
        "visible = visible & torch.ones(length, length, dtype=torch.bool, device=src.device).tril()",
        "visible = visible.expand(-1, -1, length, -1)",
        BLOCKS,
    ),
    Mutant(
        "causal mask looks forward",
        "steepest/gradient_flow/attention.py",
        ".tril()",
        ".triu()",
        BLOCKS,
    ),
    Mutant(
        "dropout of attention weights in eval",
        "steepest/gradient_flow/attention.py",
        "dropout_p=self.dropout if self.training else 0.0",
        "dropout_p=self.dropout",
        BLOCKS,
    ),
    Mutant(
        "heads not put back beside each other",
        "steepest/gradient_flow/attention.py",
        "mixed.transpose(1, 2).reshape",
        "mixed.reshape",
        BLOCKS,
    ),
    Mutant(
        "fused projection initialized as one matrix",
        "steepest/gradient_flow/attention.py",
        "self.in_proj.weight.chunk(3)",
        "[self.in_proj.weight]",
        BLOCKS,
    ),
    Mutant(
        "eigenvalues for singular values",
        "steepest/gradient_flow/jacobian.py",
        "return torch.linalg.svdvals(jacobian)",
        "return torch.linalg.eigvals(jacobian).abs().sort(descending=True).values",
        JACOBIAN,
    ),
    Mutant(
        "squared singular values",
        "steepest/gradient_flow/jacobian.py",
        "return torch.linalg.svdvals(jacobian)",
        "return torch.linalg.svdvals(jacobian).square()",
        JACOBIAN,
    ),
    Mutant(
        "only the first rows of the Jacobian",
        "steepest/gradient_flow/jacobian.py",
        "jacobian = torch.cat(blocks)",
        "jacobian = blocks[0]",
        JACOBIAN,
    ),
]
