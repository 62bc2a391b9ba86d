"""Stochastic depth (DropPath): residual branches are switched off at random, per sample.

Source: Huang, Sun, Liu, Sedra, Weinberger, "Deep networks with stochastic depth", arXiv 1603.09382 (2016),
equations 2 and 5. The paper draws one b_l for the whole mini-batch and rescales at test time; the form here,
one b_l for each sample and rescaled in training, is the one of timm.

| paper             | here                                          | shape    |
|-------------------|-----------------------------------------------|----------|
| H_{l-1}           | `x` of `drop_path_residual`                   | (B, ...) |
| f_l(H_{l-1})      | `x` of `drop_path`, `branch(x)`               | (B, ...) |
| b_l               | `keep`                                        | (B,)     |
| p_l, the survival | 1 - `drop_prob`: p below is the drop's        | number   |
"""

from collections.abc import Callable

import torch

from steepest.validation import require_floating, require_generator, require_probability


def drop_path(
    x: torch.Tensor,
    drop_prob: float = 0.0,
    training: bool = False,
    scale_by_keep: bool = True,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Set whole samples of a residual branch to zero with probability p, and divide the others by 1 - p.

    The division keeps the expectation, E[b / (1 - p)] = 1, so that evaluation needs no change (Huang et al.
    instead leave training unscaled and multiply by 1 - p at test time, their equation 5). Apply it to the branch
    only, before the sum with the skip: x + drop_path(f(x)).

    The uniforms behind the mask are float32 whatever the dtype of `x`. In bfloat16 they lie on a grid so coarse
    that the share of kept samples differs visibly from 1 - p. Dropped samples are zero whatever they held, inf
    and NaN included. Nothing is read by the host.

    Args:
        x: (B, ...), the output of the branch, of any floating dtype.
        drop_prob: probability p in [0, 1] to drop a sample. With 1 all are zero.
        training: without it `x` itself is returned.
        scale_by_keep: whether kept samples are divided by 1 - p.
        generator: source of randomness, on the device of `x`; torch's default if None.

    Returns:
        Shape, dtype and device of `x`.

    Raises:
        TypeError: `x` isn't a floating tensor, `drop_prob` isn't a number, `generator` isn't one.
        ValueError: `x` has no batch dimension, `drop_prob` is outside [0, 1], `generator` is on another device.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> drop_path(torch.ones(4, 2), 0.5, training=True, generator=generator)
        tensor([[0., 0.],
                [2., 2.],
                [0., 0.],
                [0., 0.]])
    """
    _require_arguments(x, drop_prob, generator)
    if not training or drop_prob == 0:
        return x
    keep = _draw_keep(x, drop_prob, generator).reshape(-1, *[1] * (x.ndim - 1))  # (B, 1, ..., 1)
    return torch.where(keep, x * _scale(drop_prob, scale_by_keep), 0.0)


def drop_path_residual(
    branch: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    drop_prob: float = 0.0,
    training: bool = False,
    scale_by_keep: bool = True,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return x + drop_path(branch(x)), but run the branch on the kept samples only (equation 2).

    A mask throws away what the branch has computed for the dropped samples; here it isn't computed, forward or
    backward. For this the host has to read which samples were kept, once a call, and `torch.compile` breaks its
    graph there. With the same state of the generator, and a branch that acts on each sample by itself and draws
    nothing, the values are those of x + drop_path(branch(x)) up to rounding. BatchNorm makes a branch that doesn't: its
    statistics would come from the kept samples alone, and in training it refuses to see too few.

    Where no sample is kept the branch runs on an empty batch, so that its parameters get gradients of zero, as
    after a mask, instead of none.

    Args:
        branch: maps (N, ...) to the same shape for each N, 0 included.
        x: (B, ...), input of the block, of any floating dtype.
        drop_prob: see `drop_path`.
        training: without it, x + branch(x) is returned.
        scale_by_keep: see `drop_path`.
        generator: see `drop_path`.

    Returns:
        The block's output, shape and device of `x`, with the dtype of the sum.

    Raises:
        TypeError: see `drop_path`.
        ValueError: see `drop_path`; or `branch` changes the shape.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> def branch(samples):
        ...     print("samples:", len(samples))
        ...     return 10 * samples
        >>> drop_path_residual(branch, torch.ones(4, 2), 0.5, training=True, generator=generator)
        samples: 1
        tensor([[ 1.,  1.],
                [21., 21.],
                [ 1.,  1.],
                [ 1.,  1.]])
    """
    _require_arguments(x, drop_prob, generator)
    if not training or drop_prob == 0:
        return x + branch(x)
    kept = _draw_keep(x, drop_prob, generator).nonzero().squeeze(1)  # (N,)
    output = branch(x.index_select(0, kept))  # (N, ...)
    if output.shape != (len(kept), *x.shape[1:]):
        raise ValueError(
            f"branch must keep the shape of its input, got {tuple(output.shape)} from {(len(kept), *x.shape[1:])}"
        )
    dtype = torch.promote_types(x.dtype, output.dtype)
    # Not by the alpha of index_add_: kernels may round it to 16 bits, and all samples would be off the same way.
    scaled = output * _scale(drop_prob, scale_by_keep)
    return x.to(dtype, copy=True).index_add_(0, kept, scaled.to(dtype))


class DropPath(torch.nn.Module):
    """`drop_path` as a layer: active in training mode, the identity in evaluation mode.

    Args:
        drop_prob: probability in [0, 1] to drop a sample.
        scale_by_keep: whether kept samples are divided by 1 - drop_prob.

    Raises:
        TypeError: `drop_prob` isn't a number.
        ValueError: `drop_prob` is outside [0, 1].

    Example:
        >>> layer = DropPath(0.2)
        >>> layer
        DropPath(drop_prob=0.2)
        >>> x = torch.randn(4, 3)
        >>> layer.eval()(x) is x
        True
    """

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        require_probability("drop_prob", drop_prob)
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return `drop_path` of the branch's output (B, ...)."""
        return drop_path(x, self.drop_prob, self.training, self.scale_by_keep, generator)

    def residual(
        self,
        branch: Callable[[torch.Tensor], torch.Tensor],
        x: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Return `drop_path_residual`: the block's output x + drop_path(branch(x)), dropped samples skipped."""
        return drop_path_residual(branch, x, self.drop_prob, self.training, self.scale_by_keep, generator)

    def extra_repr(self) -> str:
        """Return what stands between the brackets of the layer's representation."""
        return f"drop_prob={self.drop_prob}" + ("" if self.scale_by_keep else ", scale_by_keep=False")


def _require_arguments(x: torch.Tensor, drop_prob: float, generator: torch.Generator | None) -> None:
    """Raise unless the arguments that both functions share fit."""
    require_floating("x", x)
    if x.ndim == 0:
        raise ValueError("x must have a batch dimension first, got a scalar")
    require_probability("drop_prob", drop_prob)
    require_generator(generator, x.device)


def _draw_keep(x: torch.Tensor, drop_prob: float, generator: torch.Generator | None) -> torch.Tensor:
    """Return a boolean for each sample, true with probability 1 - p."""
    uniforms = torch.rand(len(x), dtype=torch.float32, device=x.device, generator=generator)  # (B,)
    return uniforms >= drop_prob


def _scale(drop_prob: float, scale_by_keep: bool) -> float:
    """Return 1 / (1 - p); with p = 1 no sample is left to scale, and 0 times infinity would be NaN."""
    return 1 / (1 - drop_prob) if scale_by_keep and drop_prob < 1 else 1.0
