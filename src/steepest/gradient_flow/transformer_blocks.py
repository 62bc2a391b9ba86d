"""Transformer blocks that normalize before a sublayer (Pre-LN) or after the sum (Post-LN).

Sources: Vaswani et al., "Attention is all you need", arXiv 1706.03762 (2017), section 3.1 (Post-LN); Xiong et
al., "On layer normalization in the transformer architecture", arXiv 2002.04745 (2020), table 1 (both).

| paper                         | here                             |
|-------------------------------|----------------------------------|
| x_l                           | `src`                            |
| Post-LN: LN(x + F(x))         | `PostLNBlock`                    |
| Pre-LN: x + F(LN(x))          | `PreLNBlock`                     |
| FFN(x) = max(0, x W_1) W_2    | `linear1`, `activation`, `linear2` |
| d_ff                          | `dim_feedforward`                |

In a Pre-LN stack the sum x_L is a plain sum of the input and all branches, so that ∂x_L/∂x_l = I + ... has an
identity in it; in a Post-LN stack every block's Jacobian is multiplied by that of a normalization. In return,
the Pre-LN sum grows with depth and needs a last normalization before the head.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from steepest.gradient_flow.attention import SelfAttention
from steepest.validation import require_count, require_positive, require_probability


class _Block(nn.Module):
    """Two sublayers, each with a normalization of its own; the subclasses say where it stands."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Callable[[torch.Tensor], torch.Tensor] = F.relu,
        layer_norm_eps: float = 1e-5,
        bias: bool = True,
    ) -> None:
        super().__init__()
        require_count("dim_feedforward", dim_feedforward)
        require_probability("dropout", dropout)
        require_positive("layer_norm_eps", layer_norm_eps)
        if not callable(activation):
            raise TypeError(f"activation must be callable, as torch.nn.functional.relu, got {activation!r}")
        self.self_attn = SelfAttention(d_model, nhead, dropout, bias)
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias=bias)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias=bias)
        self.norm1 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        self.norm2 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        self.activation = activation
        self.dropout = dropout

    def _attend(self, x: torch.Tensor, padding: torch.Tensor | None, is_causal: bool) -> torch.Tensor:
        return self._drop(self.self_attn(x, padding, is_causal))

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._drop(self.linear2(self._drop(self.activation(self.linear1(x)))))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training)


class PreLNBlock(_Block):
    """x ← x + Attention(LN(x)), then x ← x + FFN(LN(x)).

    Arguments are those of `torch.nn.TransformerEncoderLayer` with `batch_first=True, norm_first=True`, which
    computes the same. A stack of these blocks needs a `LayerNorm` at its end.

    Args:
        d_model: width of input and output.
        nhead: attention heads; divides `d_model`.
        dim_feedforward: width of the hidden layer.
        dropout: probability, applied to attention weights, the hidden layer and both branches in training.
        activation: the nonlinearity of the hidden layer.
        layer_norm_eps: added to the variance in the normalizations.
        bias: whether linear layers and normalizations have biases.

    Raises:
        TypeError, ValueError: a width isn't an int >= 1, `nhead` doesn't divide `d_model`, `dropout` isn't in
            [0, 1], `layer_norm_eps` isn't > 0, or `activation` can't be called.

    Example:
        >>> stack = torch.nn.Sequential(PreLNBlock(8, 2, 16), PreLNBlock(8, 2, 16), torch.nn.LayerNorm(8))
        >>> stack(torch.randn(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def forward(
        self, src: torch.Tensor, src_key_padding_mask: torch.Tensor | None = None, is_causal: bool = False
    ) -> torch.Tensor:
        """Map (B, T, d_model) to (B, T, d_model); masks as for `SelfAttention`."""
        src = src + self._attend(self.norm1(src), src_key_padding_mask, is_causal)
        return src + self._feed_forward(self.norm2(src))


class PostLNBlock(_Block):
    """x ← LN(x + Attention(x)), then x ← LN(x + FFN(x)), the original transformer's order.

    Arguments are those of `PreLNBlock`; the same as `torch.nn.TransformerEncoderLayer` with `batch_first=True`.
    At initialization the gradients of the last blocks are large (Xiong et al., theorem 1), so that training
    needs a warmup of the learning rate.

    Example:
        Every position leaves the block with mean 0 and variance 1:

        >>> out = PostLNBlock(8, 2, 16)(torch.randn(3, 5, 8))
        >>> torch.allclose(out.var(-1, correction=0), torch.ones(3, 5), atol=1e-3)
        True
    """

    def forward(
        self, src: torch.Tensor, src_key_padding_mask: torch.Tensor | None = None, is_causal: bool = False
    ) -> torch.Tensor:
        """Map (B, T, d_model) to (B, T, d_model); masks as for `SelfAttention`."""
        src = self.norm1(src + self._attend(src, src_key_padding_mask, is_causal))
        return self.norm2(src + self._feed_forward(src))
