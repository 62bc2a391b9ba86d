"""Expected calibration error: how far confidence and accuracy are apart.

Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", arXiv 1706.04599 (2017),
section 2, equation 3.

| paper            | here                          | shape  |
|------------------|-------------------------------|--------|
| p̂_i              | `confidences`, largest probability of a row | (N,) |
| M                | `n_bins`                      | number |
| B_m              | confidences in ((m-1)/M, m/M] |        |
| |B_m|            | `counts`                      | (M,)   |
| acc(B_m)         | `accuracy`                    | (M,)   |
| conf(B_m)        | `confidence`                  | (M,)   |
| ECE              | `ece`                         | scalar |
"""

from typing import NamedTuple

import torch

from steepest.regularization.soft_targets import require_distributions
from steepest.validation import require_count, require_floating, require_tensor


class CalibrationError(NamedTuple):
    """The expected calibration error and the reliability diagram behind it.

    Attributes:
        ece: scalar tensor in [0, 1].
        bin_edges: (M + 1,), from 0 to 1. Bins are open on the left and closed on the right; 0 counts to the first.
        counts: (M,), int64, samples in each bin.
        accuracy: (M,), share of right predictions in each bin; NaN where it is empty.
        confidence: (M,), mean confidence in each bin; NaN where it is empty.
    """

    ece: torch.Tensor
    bin_edges: torch.Tensor
    counts: torch.Tensor
    accuracy: torch.Tensor
    confidence: torch.Tensor


def expected_calibration_error(
    probabilities: torch.Tensor, labels: torch.Tensor, n_bins: int = 15, check: bool = False
) -> CalibrationError:
    """Return ECE = Σ_m |B_m| / N · |acc(B_m) - conf(B_m)| over bins of equal width (equation 3).

    The prediction is the class of the largest probability, and the confidence is that probability. Pass
    probabilities, not logits. The value depends on the number of bins, and is biased upwards for few samples, as
    the difference in a bin isn't zero by chance alone. Nothing is read by the host.

    Args:
        probabilities: (N, K), rows that sum to 1, of any floating dtype.
        labels: (N,), true classes, of an integer dtype.
        n_bins: M >= 1.
        check: raise ValueError where rows of `probabilities` aren't distributions or `labels` lie outside [0, K); the
            host waits for it.

    Returns:
        A `CalibrationError` in float32, or float64 where `probabilities` is that; summed in float64.

    Raises:
        TypeError: `probabilities` isn't a floating tensor, `labels` not an integer one, `n_bins` not an int.
        ValueError: shapes or devices don't fit, N is 0, or `n_bins` < 1.

    Example:
        Four predictions with confidence 0.9, three of which are right:

        >>> probabilities = torch.tensor([[0.9, 0.1]] * 4)
        >>> result = expected_calibration_error(probabilities, torch.tensor([0, 0, 0, 1]), n_bins=5)
        >>> result.ece
        tensor(0.1500)
        >>> result.counts
        tensor([0, 0, 0, 0, 4])
    """
    require_floating("probabilities", probabilities)
    require_tensor("labels", labels)
    require_count("n_bins", n_bins)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must hold integer classes, got {labels.dtype}")
    if probabilities.ndim != 2 or probabilities.numel() == 0:
        raise ValueError(f"probabilities must have shape (N, K), not empty, got {tuple(probabilities.shape)}")
    if labels.shape != probabilities.shape[:1]:
        raise ValueError(f"labels must have shape ({len(probabilities)},), got {tuple(labels.shape)}")
    if labels.device != probabilities.device:
        raise ValueError(f"labels is on {labels.device} but probabilities on {probabilities.device}; move one")
    if check:
        require_distributions("probabilities", probabilities)
        if not bool(((labels >= 0) & (labels < probabilities.shape[1])).all()):
            raise ValueError(f"labels must lie in [0, {probabilities.shape[1]})")

    dtype = torch.promote_types(probabilities.dtype, torch.float32)
    confidences, predictions = probabilities.detach().to(dtype).max(1)  # (N,), (N,)
    # Division rounds correctly, so that a confidence of m / M in this dtype equals its edge.
    bin_edges = torch.arange(n_bins + 1, dtype=dtype, device=labels.device) / n_bins  # (M + 1,)
    bins = torch.bucketize(confidences, bin_edges[1:-1])  # (N,)

    summands = torch.stack([torch.ones_like(confidences), predictions == labels, confidences], 1).double()
    sums = torch.zeros(n_bins, 3, dtype=torch.float64, device=labels.device)
    counts, right, confidence = sums.index_add_(0, bins, summands).unbind(1)  # 3 x (M,)
    return CalibrationError(
        ece=((right - confidence).abs().sum() / len(labels)).to(dtype),
        bin_edges=bin_edges,
        counts=counts.to(torch.int64),
        accuracy=(right / counts).to(dtype),
        confidence=(confidence / counts).to(dtype),
    )
