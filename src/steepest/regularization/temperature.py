"""Temperature scaling: one number that makes a trained classifier's probabilities fit.

Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", arXiv 1706.04599 (2017),
section 4.2, equation 9.

| paper                  | here            | shape  |
|------------------------|-----------------|--------|
| z_i                    | rows of `logits` | (N, K) |
| y_i                    | `labels`        | (N,)   |
| T                      | the result      | number |
| NLL                    | mean cross-entropy of z_i / T | number |
"""

import math

import torch

from steepest.second_order import LBFGS
from steepest.validation import require_floating, require_tensor

MAX_ITERATIONS = 200
TOLERANCE = 1e-12
# Near the minimum the loss shows no decrease once the gradient is about the root of float64's rounding, 1.5e-8;
# a search that ends for that has ended well. This leaves a margin.
ROUNDING = 1e-6


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature T > 0 that minimises the cross-entropy of logits / T.

    Fit it on held-out data: on the data that the classifier was trained on it looks more right than it is, and T
    comes out too small. Then use logits / T everywhere; no prediction changes, as T > 0 keeps their order.

    The NLL is convex in β = 1 / T, with derivative mean_i(E_β[z_i] - z_{i, y_i}), where E_β is the mean over the
    classes under softmax(β z_i). So there is one minimum at most, and `steepest.second_order.LBFGS` on log T finds
    it, in float64, from the scale of the logits. For two kinds of data there is none:

    - Each label has its row's largest logit. Then the NLL falls all the way to T = 0.
    - The labels' logits are on average not above the mean of their rows. Then it falls all the way to T = ∞.

    Args:
        logits: (N, K), of any floating dtype, finite.
        labels: (N,), of an integer dtype, in [0, K).

    Returns:
        T. Above 1 the classifier was overconfident, below 1 underconfident.

    Raises:
        TypeError: `logits` isn't a floating tensor or `labels` not an integer one.
        ValueError: shapes or devices don't fit, N is 0, values are out of range, or no T minimises the NLL.
        RuntimeError: the search has not converged.

    Example:
        Logits ±2 that claim 98% but are right 3 times of 4; T makes the claim σ(4 / T) = 3/4:

        >>> logits = torch.tensor([[2.0, -2.0]] * 4)
        >>> temperature = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
        >>> round(temperature, 4)
        3.641
        >>> torch.softmax(logits[0] / temperature, 0)
        tensor([0.7500, 0.2500])
    """
    _require_arguments(logits, labels)
    # Under inference mode autograd records nothing.
    with torch.inference_mode(False), torch.enable_grad():
        scores = logits.detach().to(torch.float64, copy=True)  # (N, K)
        indices = labels.to(torch.int64, copy=True)  # (N,)
        scores -= scores.mean(1, keepdim=True)
        own = scores.gather(1, indices[:, None]).squeeze(1)  # (N,)
        scale = scores.abs().mean()
        _require_minimum(scores, own)

        log_ratio = torch.zeros(1, dtype=torch.float64, device=scores.device, requires_grad=True)
        scores /= scale
        optimizer = LBFGS(
            [log_ratio], max_iter=MAX_ITERATIONS, tolerance_grad=TOLERANCE, tolerance_change=0, history_size=5
        )

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(scores * torch.exp(-log_ratio), indices)
            loss.backward()
            return loss

        optimizer.step(closure)
        closure()
    if not log_ratio.grad.abs().item() <= ROUNDING:
        raise RuntimeError(f"the fit of the temperature has not converged: {optimizer.report.reason}")
    return scale.item() * math.exp(log_ratio.item())


def _require_arguments(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Raise unless shapes, dtypes and values fit; the fit needs the values on the host anyway."""
    require_floating("logits", logits)
    require_tensor("labels", labels)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must hold integer classes, got {labels.dtype}")
    if logits.ndim != 2 or logits.numel() == 0:
        raise ValueError(f"logits must have shape (N, K) and not be empty, got {tuple(logits.shape)}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels must have shape ({len(logits)},), got {tuple(labels.shape)}")
    if labels.device != logits.device:
        raise ValueError(f"labels is on {labels.device} but logits is on {logits.device}; move one of them")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("logits must be finite")
    if not bool(((labels >= 0) & (labels < logits.shape[1])).all()):
        raise ValueError(f"labels must lie in [0, {logits.shape[1]})")


def _require_minimum(scores: torch.Tensor, own: torch.Tensor) -> None:
    """Raise unless the NLL's slope in β is below 0 at β = 0 and above it as β → ∞ (rows are centred)."""
    if not bool((scores.amax(1) > own).any()):
        raise ValueError(
            "no temperature minimises the NLL: each label has its row's largest logit, so that it never rises "
            "towards T = 0; fit on held-out data with some errors"
        )
    if not bool(own.mean() > 0):
        raise ValueError(
            "no temperature minimises the NLL: the labels' logits are on average not above the means of "
            "their rows, so that it never rises towards T = ∞; do labels and logits belong together?"
        )
