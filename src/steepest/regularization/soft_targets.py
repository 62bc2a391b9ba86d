"""Targets as class probabilities, which all methods that soften or mix labels work on."""

import torch

from steepest.validation import require_count, require_tensor

INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def soft_targets(
    target: torch.Tensor, num_classes: int | None, dtype: torch.dtype, check: bool = False
) -> torch.Tensor:
    """Return one row of class probabilities for each sample.

    Args:
        target: class indices (B,), of an integer dtype, or class probabilities (B, K), of a floating one.
        num_classes: number K of classes; may be None for probabilities.
        dtype: of the result where `target` holds indices; probabilities keep theirs.
        check: whether to look at the values too, for which the host waits.

    Returns:
        (B, K): the one-hot rows of the indices, or `target` itself.

    Raises:
        TypeError: `target` isn't an integer or floating tensor, or `num_classes` isn't an int.
        ValueError: shapes don't fit, `num_classes` is missing or < 1; with `check`, an index is outside
            [0, K), or a row isn't a distribution.

    Example:
        >>> soft_targets(torch.tensor([2, 0]), 3, torch.float32)
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    require_tensor("target", target)
    if num_classes is not None:
        require_count("num_classes", num_classes)
    if target.is_floating_point():
        if target.ndim != 2 or target.shape[1] == 0 or num_classes not in (None, target.shape[1]):
            expected = "(B, K), K >= 1" if num_classes is None else f"(B, {num_classes})"
            raise ValueError(f"target of probabilities must have shape {expected}, got {tuple(target.shape)}")
        if check:
            require_distributions("target", target)
        return target
    if target.dtype not in INTEGER_DTYPES:
        raise TypeError(f"target must hold integer classes or floating probabilities, got {target.dtype}")
    if target.ndim != 1:
        raise ValueError(f"target of classes must have shape (B,), got {tuple(target.shape)}")
    if num_classes is None:
        raise ValueError("num_classes must be given where target holds classes")
    if check and not bool(((target >= 0) & (target < num_classes)).all()):
        raise ValueError(f"target must lie in [0, {num_classes}), got a class outside")
    one_hot = torch.zeros(len(target), num_classes, dtype=dtype, device=target.device)
    return one_hot.scatter_(1, target.to(torch.int64)[:, None], 1.0)


def require_distributions(name: str, probabilities: torch.Tensor) -> None:
    """Raise ValueError unless all rows (N, K) are >= 0 and sum to 1; the host waits for the values.

    Rounding each entry moves the sum by half an epsilon of the dtype at most, whatever K; the bound leaves room for
    how the rows were normalised, too, and for rows that were in float32 once.

    Example:
        >>> require_distributions("target", torch.tensor([[0.5, 0.25]]))
        Traceback (most recent call last):
        ValueError: target must hold rows >= 0 that sum to 1
    """
    tolerance = max(2 * torch.finfo(probabilities.dtype).eps, 1e-5)
    sums = probabilities.sum(1, dtype=torch.float64)
    if not bool((probabilities >= 0).all() & ((sums - 1).abs() <= tolerance).all()):
        raise ValueError(f"{name} must hold rows >= 0 that sum to 1")
