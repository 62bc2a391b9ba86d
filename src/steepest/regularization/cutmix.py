"""CutMix: a box of each image is replaced by the same box of another image.

Source: Yun, Han, Oh, Chun, Choe, Yoo, "CutMix: regularization strategy to train strong classifiers with
localizable features", arXiv 1905.04899 (2019), equations 1 and 2.

| paper                       | here                            | shape        |
|-----------------------------|---------------------------------|--------------|
| x_A, y_A                    | `x`, `target`                   | (B, C, H, W), (B, K) |
| x_B, y_B                    | rows `permutation` of them      |              |
| λ ~ Beta(α, α)              | `lam`, `alpha`                  | scalar       |
| r_x, r_y                    | `center`, as (row, column)      | (2,)         |
| r_w = W sqrt(1 - λ), r_h    | sides of the box before clipping |             |
| 1 - M                       | `box`                           | (H, W)       |
| x̃ = M x_A + (1 - M) x_B     | `inputs` of the result          | (B, C, H, W) |
| ỹ = λ y_A + (1 - λ) y_B     | `target` of the result          | (B, K)       |
"""

import torch

from steepest.regularization.mixing import MixedBatch, mix_targets, prepare_mixing
from steepest.validation import require_count


def cutmix(
    x: torch.Tensor,
    target: torch.Tensor,
    alpha: float = 1.0,
    num_classes: int | None = None,
    *,
    lam: float | torch.Tensor | None = None,
    permutation: torch.Tensor | None = None,
    center: tuple[int, int] | torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    check: bool = False,
) -> MixedBatch:
    """Replace a box of each image by its partner's, and mix the targets by area.

    One box for the batch: half of its height is ⌊H sqrt(1 - λ) / 2⌋ = h, its rows are those from r_y - h up to
    but without r_y + h, and likewise for columns. Its centre is uniform over the pixels, so that it may reach
    out of the image and be clipped. The weight of a sample's own target is therefore not the λ that was drawn
    but 1 minus the share of the box within the image. Nothing is read by the host. Use it in training only.

    Args:
        x: (B, ..., H, W), images of any floating dtype.
        target: classes (B,) of an integer dtype, or class probabilities (B, K) of a floating one.
        alpha: α > 0 of the Beta distribution.
        num_classes: K; needed where `target` holds classes.
        lam: λ in [0, 1] that the box is made from, a number or a tensor with one element, instead of a draw.
        permutation: (B,), int64, the partner of each image, instead of a draw.
        center: row and column of the box's centre, two ints within the image or an int64 tensor (2,), instead of
            a draw.
        generator: source of randomness, on the device of `x`; torch's default if None.
        check: raise ValueError where values of `target` aren't classes or distributions, and where those of tensors
            `lam`, `permutation` and `center` are out of range; the host waits for it.

    Returns:
        A `MixedBatch`, with the recomputed λ. Targets of classes become float32, or float64 where `x` is that.
        The arguments are left unchanged.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes or devices don't fit, `alpha` isn't > 0, `lam` is a number outside [0, 1], `center`
            isn't in the image, or `num_classes` is missing.

    Example:
        The box has 4 × 4 pixels; around the corner pixel, 2 × 2 of them lie in the image:

        >>> x = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> swap = torch.tensor([1, 0])
        >>> mixed = cutmix(x, torch.tensor([0, 1]), num_classes=2, lam=0.0, permutation=swap, center=(0, 0))
        >>> mixed.inputs[0, 0]
        tensor([[1., 1., 0., 0.],
                [1., 1., 0., 0.],
                [0., 0., 0., 0.],
                [0., 0., 0., 0.]])
        >>> mixed.lam
        tensor(0.7500)
    """
    soft, lam, permutation = prepare_mixing(x, target, alpha, num_classes, lam, permutation, generator, check)
    if x.ndim < 3 or 0 in x.shape[-2:]:
        raise ValueError(f"x must be images of shape (B, ..., H, W), not empty, got shape {tuple(x.shape)}")
    height, width = x.shape[-2:]
    row, column = _center(center, height, width, x.device, generator, check)

    side = torch.sqrt(1 - lam)
    rows = _within(height, row, torch.floor(height * side / 2))  # (H,)
    columns = _within(width, column, torch.floor(width * side / 2))  # (W,)
    box = rows[:, None] & columns  # (H, W)
    inputs = torch.where(box, x[permutation], x)  # (B, ..., H, W)
    lam = (1 - box.to(torch.float64).mean()).to(soft.dtype)
    return MixedBatch(inputs, mix_targets(soft, lam, permutation), lam)


def _within(size: int, center: int | torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    """Return which of the places 0, ..., size - 1 lie in [center - half, center + half)."""
    places = torch.arange(size, device=half.device)
    return (places >= center - half) & (places < center + half)


def _center(
    center: tuple[int, int] | torch.Tensor | None,
    height: int,
    width: int,
    device: torch.device,
    generator: torch.Generator | None,
    check: bool,
) -> tuple[int, int] | tuple[torch.Tensor, torch.Tensor]:
    """Return row and column of the centre, drawn uniformly over the pixels unless given."""
    if center is None:
        return tuple(torch.randint(size, (), device=device, generator=generator) for size in (height, width))
    if isinstance(center, torch.Tensor):
        if center.dtype != torch.int64 or center.shape != (2,) or center.device != device:
            raise ValueError(
                f"center must be an int64 tensor of shape (2,) on {device}, got {center.dtype} of shape "
                f"{tuple(center.shape)} on {center.device}"
            )
        row, column = center.unbind()
        if check and not bool((row >= 0) & (row < height) & (column >= 0) & (column < width)):
            raise ValueError(f"center must lie in the image of {height} x {width} pixels")
        return row, column
    if not isinstance(center, tuple) or len(center) != 2:
        raise TypeError(f"center must be a pair of ints or a tensor of shape (2,), got {center!r}")
    for name, place, size in zip(("row", "column"), center, (height, width), strict=True):
        require_count(f"{name} of center", place, 0)
        if place >= size:
            raise ValueError(f"{name} of center must be < {size}, got {place}")
    return center
