"""The learning rate of the Transformer: linear warmup, then decay with the inverse square root of the step.

Source: Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention is all you need",
arXiv 1706.03762 (2017), section 5.3, equation 3.

| paper        | here           | unit                    |
|--------------|----------------|-------------------------|
| step_num     | `step`         | optimizer updates, from 1 |
| d_model      | `d_model`      | width of the model      |
| warmup_steps | `warmup_steps` | optimizer updates       |
| lrate        | the returned rate | that of Adam there   |
"""

from steepest.validation import require_count, require_positive


def noam_lr(step: int, d_model: int, warmup_steps: int, factor: float = 1.0) -> float:
    """Return factor d_model^-0.5 min(step^-0.5, step warmup_steps^-1.5).

    The two branches meet at step = warmup_steps, where the rate is highest: factor / sqrt(d_model warmup_steps).

    Args:
        step: the update that the rate is for, counted from 1. At 0 the power step^-0.5 doesn't exist.
        d_model: width of the model.
        warmup_steps: updates until the peak.
        factor: multiplies the rate.

    Returns:
        The learning rate.

    Raises:
        TypeError: an argument isn't a Python number, or one of the first three not an int.
        ValueError: a count is below 1, or `factor` isn't > 0 and finite.

    Example:
        The base model's peak, and the rate for LambdaLR, which counts from 0, with `lr=1.0`:

        >>> round(noam_lr(4000, d_model=512, warmup_steps=4000), 7)
        0.0006988
        >>> optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: noam_lr(epoch + 1, 512, 4000))
        >>> rate.get_last_lr() == [noam_lr(1, 512, 4000)]
        True
    """
    require_count("d_model", d_model)
    require_count("warmup_steps", warmup_steps)
    require_positive("factor", factor)
    if step == 0:
        raise ValueError("step must be >= 1, got 0: count updates from 1, with LambdaLR pass epoch + 1")
    require_count("step", step)
    return factor * d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)
