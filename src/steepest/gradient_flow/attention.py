"""Multi-head self-attention, the sublayer that the transformer blocks share.

Source: Vaswani et al., "Attention is all you need", arXiv 1706.03762 (2017), section 3.2.

| paper              | here                 | shape          |
|--------------------|----------------------|----------------|
| h                  | `nhead`              | number         |
| d_model, d_k = d_v | `d_model`, d_model / h | numbers      |
| Q, K, V per head   | `query`, `key`, `value` | (B, h, T, d_k) |
| W^Q, W^K, W^V      | `in_proj`            | (3 d_model, d_model) |
| W^O                | `out_proj`           | (d_model, d_model) |
"""

import torch
from torch import nn
from torch.nn import functional as F

from steepest.validation import require_count, require_floating, require_probability


class SelfAttention(nn.Module):
    """softmax(Q Kᵀ / √d_k) V in each of `nhead` heads (Vaswani et al., eq. 1), by torch's fused kernel.

    Args:
        d_model: width of the input and the output.
        nhead: heads; divides `d_model`.
        dropout: probability of dropping an attention weight in training.
        bias: whether the projections have biases.

    Raises:
        TypeError, ValueError: a width isn't an int >= 1, `nhead` doesn't divide `d_model`, `dropout` isn't in
            [0, 1].

    Example:
        A causal position doesn't see later ones:

        >>> attention = SelfAttention(8, 2)
        >>> x = torch.randn(1, 4, 8)
        >>> torch.allclose(attention(x, is_causal=True)[:, :2], attention(x[:, :2], is_causal=True), atol=1e-6)
        True
    """

    def __init__(self, d_model: int, nhead: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        require_count("d_model", d_model)
        require_count("nhead", nhead)
        require_probability("dropout", dropout)
        if d_model % nhead:
            raise ValueError(f"nhead must divide d_model, got d_model={d_model} and nhead={nhead}")
        self.d_model, self.nhead, self.dropout = d_model, nhead, dropout
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)
        # Q, K and V are three maps of d_model to d_model: the fused weight's own fan-out would shrink them.
        for projection in self.in_proj.weight.chunk(3):
            nn.init.xavier_uniform_(projection)
        if bias:
            nn.init.zeros_(self.in_proj.bias)
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, src: torch.Tensor, src_key_padding_mask: torch.Tensor | None = None, is_causal: bool = False
    ) -> torch.Tensor:
        """Attend from every position to those that are neither padding nor, if causal, later.

        Args:
            src: (B, T, d_model).
            src_key_padding_mask: (B, T), bool, True at padding, as torch's layers take it. A sequence that is
                all padding attends to nothing: its heads give 0.
            is_causal: whether position t sees only positions up to t.

        Returns:
            (B, T, d_model).

        Raises:
            TypeError: `src` isn't floating, or the mask isn't bool.
            ValueError: a shape doesn't fit.
        """
        require_floating("src", src)
        if src.ndim != 3 or src.shape[-1] != self.d_model:
            raise ValueError(f"src must have shape (B, T, {self.d_model}), got {tuple(src.shape)}")
        batch, length, _ = src.shape
        heads = self.in_proj(src).view(batch, length, 3, self.nhead, self.d_model // self.nhead)  # (B, T, 3, h, d_k)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, h, T, d_k)
        visible = _visible(src, src_key_padding_mask, is_causal)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=visible,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal and visible is None,
        )  # (B, h, T, d_k)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, self.d_model))


def _visible(src: torch.Tensor, padding: torch.Tensor | None, is_causal: bool) -> torch.Tensor | None:
    """Return the mask (B, 1, 1 or T, T), True where attention may look, or None where the kernel needs none."""
    if padding is None:
        return None
    if not isinstance(padding, torch.Tensor) or padding.dtype != torch.bool:
        kind = padding.dtype if isinstance(padding, torch.Tensor) else type(padding).__name__
        raise TypeError(f"src_key_padding_mask must be a bool tensor, True at padding, got {kind}")
    if padding.shape != src.shape[:2]:
        raise ValueError(
            f"src_key_padding_mask must have shape {tuple(src.shape[:2])} to go with src, got {tuple(padding.shape)}"
        )
    visible = ~padding[:, None, None, :]  # (B, 1, 1, T)
    if is_causal:
        length = src.shape[1]
        visible = visible & torch.ones(length, length, dtype=torch.bool, device=src.device).tril()
    return visible
