"""Cutout: a square of each image is set to zero.

Source: DeVries & Taylor, "Improved regularization of convolutional neural networks with Cutout",
arXiv 1708.04552 (2017), section 3.2.
"""

import torch

from steepest.validation import require_count, require_generator, require_tensor


def cutout(
    x: torch.Tensor,
    length: int,
    *,
    center: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Set a square of each image to zero, with a centre of its own, uniform over the pixels.

    The square may reach out of the image. The paper found this to matter: some images stay almost whole, and the
    squares don't favour the middle. Labels stay as they are. Apply it after normalisation, where zero is the mean
    of the training set; else it is black. Nothing is read by the host. Use it in training only.

    Args:
        x: (B, ..., H, W), images of any dtype.
        length: side of the square in pixels, >= 0. Its first row is ``length // 2`` above the centre's.
        center: (B, 2), int64, row and column of each centre, instead of a draw.
        generator: source of randomness, on the device of `x`; torch's default if None.

    Returns:
        A copy of `x` with the squares at zero in all channels.

    Raises:
        TypeError: `x` or `center` isn't a tensor, `length` isn't an int, `generator` isn't one.
        ValueError: shapes or devices don't fit, `length` is negative.

    Example:
        >>> cutout(torch.ones(1, 4, 5), 3, center=torch.tensor([[2, 0]]))
        tensor([[[1., 1., 1., 1., 1.],
                 [0., 0., 1., 1., 1.],
                 [0., 0., 1., 1., 1.],
                 [0., 0., 1., 1., 1.]]])
    """
    require_tensor("x", x)
    if x.ndim < 3 or 0 in x.shape[-2:]:
        raise ValueError(f"x must be images of shape (B, ..., H, W), not empty, got shape {tuple(x.shape)}")
    require_count("length", length, 0)
    require_generator(generator, x.device)
    batch, height, width = len(x), *x.shape[-2:]
    if center is None:
        rows = torch.randint(height, (batch,), device=x.device, generator=generator)
        columns = torch.randint(width, (batch,), device=x.device, generator=generator)
    else:
        require_tensor("center", center)
        if center.dtype != torch.int64 or center.shape != (batch, 2) or center.device != x.device:
            raise ValueError(
                f"center must be int64 of shape ({batch}, 2) on {x.device}, got {center.dtype} of shape "
                f"{tuple(center.shape)} on {center.device}"
            )
        rows, columns = center.unbind(1)
    in_rows = _within(height, rows, length)  # (B, H)
    in_columns = _within(width, columns, length)  # (B, W)
    square = in_rows[:, :, None] & in_columns[:, None, :]  # (B, H, W)
    return x.clone().masked_fill_(square.reshape(batch, *[1] * (x.ndim - 3), height, width), 0)


def _within(size: int, centers: torch.Tensor, length: int) -> torch.Tensor:
    """Return for each centre which of the places 0, ..., size - 1 lie in its interval of `length` places."""
    offsets = torch.arange(size, device=centers.device) - centers[:, None] + length // 2  # (B, size)
    return (offsets >= 0) & (offsets < length)
