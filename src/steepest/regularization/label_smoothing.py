"""Label smoothing: a part of each target is spread evenly over all classes.

Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception architecture for computer vision",
arXiv 1512.00567 (2015), section 7.

| paper               | here              | shape  |
|---------------------|-------------------|--------|
| q(k) = δ_{k, y}     | `target`          | (B,) or (B, K) |
| ε                   | `label_smoothing` | number |
| K                   | `num_classes`     | number |
| u(k) = 1 / K        |                   |        |
| q'(k)               | the result        | (B, K) |
"""

import torch

from steepest.regularization.soft_targets import soft_targets
from steepest.validation import require_probability


def smooth_labels(
    target: torch.Tensor, label_smoothing: float, num_classes: int | None = None, check: bool = False
) -> torch.Tensor:
    """Return q' = (1 - ε) q + ε / K over all K classes, the true one included.

    The true class of a hard target gets 1 - ε + ε / K, as in torch and timm; giving ε / (K - 1) to the others
    and 1 - ε to the true class is another convention. Cross-entropy with these targets equals
    ``torch.nn.functional.cross_entropy(logits, target, label_smoothing=ε)``. It is smallest where the
    true logit exceeds the others, all equal, by log((1 - ε) K / ε + 1), a finite gap.

    Args:
        target: classes (B,) of an integer dtype, or class probabilities (B, K) of a floating one.
        label_smoothing: ε in [0, 1].
        num_classes: K; needed where `target` holds classes.
        check: raise ValueError where values of `target` aren't classes or distributions; the host waits for it.

    Returns:
        (B, K), in the default dtype for classes, else in the dtype of `target`, which is left unchanged.

    Raises:
        TypeError: `target` isn't an integer or floating tensor, a number isn't one.
        ValueError: shapes don't fit, `label_smoothing` is outside [0, 1], `num_classes` is missing or < 1.

    Example:
        >>> smooth_labels(torch.tensor([1]), 0.1, num_classes=4)
        tensor([[0.0250, 0.9250, 0.0250, 0.0250]])
    """
    require_probability("label_smoothing", label_smoothing)
    probabilities = soft_targets(target, num_classes, torch.get_default_dtype(), check)  # (B, K)
    return (1 - label_smoothing) * probabilities + label_smoothing / probabilities.shape[1]
