"""The Kronecker factors of a layer's Fisher matrix, and their damped inverses.

Sources: Martens & Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", arXiv
1503.05671, sections 2.1, 3 and 6.3; Grosse & Martens, "A Kronecker-factored approximate Fisher matrix for
convolution layers", arXiv 1602.01573, section 3.

| papers              | here                | shape  |
|---------------------|---------------------|--------|
| ā (⟦A⟧_H for Conv2d) | `input_rows`        | (R, I) |
| g (Ds)              | `gradient_rows`     | (R, O) |
| A (Ω)               | `input_factor`      | (I, I) |
| G (Γ)               | `gradient_factor`   | (O, O) |
| π                   | `pi`                | ()     |
| λ (λ + η in 6.3)     | `damping`           | number |

I counts the weights of one output (for Conv2d those of its patch), plus 1 for a bias: its input is the constant 1.
O counts outputs (channels). R counts the places where the layer acts: N data for a matrix of inputs, N T where the
layer acts at T locations of each datum.
"""

from typing import Any

import torch

from steepest.second_order.natural_gradient import cholesky_factor

Layer = torch.nn.Linear | torch.nn.Conv2d


def input_rows(layer: Layer, inputs: torch.Tensor, with_bias: bool) -> torch.Tensor:
    """Return what each output of the layer is a linear function of, (R, I): its input, or patch, and 1 for a bias.

    Example:
        >>> layer = torch.nn.Conv2d(1, 1, kernel_size=2)
        >>> input_rows(layer, torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]), with_bias=True)
        tensor([[1., 2., 4., 5., 1.],
                [2., 3., 5., 6., 1.]])
    """
    if isinstance(layer, torch.nn.Conv2d):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = torch.nn.functional.pad(inputs, _padding(layer), mode=mode)
        patches = torch.nn.functional.unfold(
            padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride
        )  # (N, C kh kw, T), in the weight's order; of one image without N, (C kh kw, T)
        rows = patches.mT.reshape(-1, patches.shape[-2])  # (N T, C kh kw)
    else:
        rows = inputs.reshape(-1, layer.in_features)
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1) if with_bias else rows


def gradient_rows(layer: Layer, gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient in the layer's outputs as (R, O), in the order of `input_rows`."""
    if isinstance(layer, torch.nn.Conv2d):
        return gradient.flatten(-2).mT.reshape(-1, layer.out_channels)  # (N T, O)
    return gradient.reshape(-1, layer.out_features)


def damped_inverses(
    input_factor: torch.Tensor, gradient_factor: torch.Tensor, damping: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (A + π √λ I)⁻¹, (G + √λ / π I)⁻¹ and whether one of them is singular, as a boolean tensor.

    The product of the damped factors is A ⊗ G + λ I and two cross terms, whose trace norm is smallest for
    π² = (tr A / dim A) / (tr G / dim G) (Martens & Grosse, section 6.3). Where a trace is zero, π is 1.

    Example:
        The traces' ratio is 4, so π = 2; with λ = 1 the factors are 4 + 2 and 1 + 1/2:

        >>> damped_inverses(torch.tensor([[4.0]]), torch.tensor([[1.0]]), damping=1.0)
        (tensor([[0.1667]]), tensor([[0.6667]]), tensor(False))
    """
    input_mean, gradient_mean = input_factor.diagonal().mean(), gradient_factor.diagonal().mean()
    balanced = (input_mean > 0) & (gradient_mean > 0)
    # Roots first: the ratio of the means may leave the range of float32.
    pi = torch.where(balanced, input_mean.sqrt() / gradient_mean.sqrt(), torch.ones_like(input_mean))
    input_damped, gradient_damped = input_factor.clone(), gradient_factor.clone()
    input_damped.diagonal().add_(pi * damping**0.5)
    gradient_damped.diagonal().add_(damping**0.5 / pi)
    input_cholesky, input_singular = cholesky_factor(input_damped)
    gradient_cholesky, gradient_singular = cholesky_factor(gradient_damped)
    for cholesky, singular in ((input_cholesky, input_singular), (gradient_cholesky, gradient_singular)):
        # cholesky_inverse raises at a zero pivot, where the caller is to say which layer it is.
        cholesky.diagonal().masked_fill_(singular, 1.0)
    inverses = torch.cholesky_inverse(input_cholesky), torch.cholesky_inverse(gradient_cholesky)
    return *inverses, input_singular | gradient_singular


def update_averages(
    state: dict[str, Any], input_factor: torch.Tensor, gradient_factor: torch.Tensor, decay: float
) -> None:
    """Bring a layer's running averages up to date: the k-th update has weight max(1/k, 1 - decay).

    So they start as plain means, without a bias towards zero (Martens & Grosse, section 5).
    """
    if "updates" not in state:
        state.update(step=0, updates=0, input_factor=input_factor, gradient_factor=gradient_factor)
    state["updates"] += 1
    share = max(1 / state["updates"], 1 - decay)
    # Not in place: a state_dict taken earlier holds the old tensors.
    state["input_factor"] = state["input_factor"].lerp(input_factor, share)
    state["gradient_factor"] = state["gradient_factor"].lerp(gradient_factor, share)


def renew_inverses(layers: dict[str, tuple[dict[str, Any], float]]) -> None:
    """Renew the inverses in the states of layers, given by name with their damping.

    The host waits once for all of them, to learn whether they exist.

    Raises:
        ValueError: a damped factor is singular or not finite. Then no state is changed.
    """
    inverses = {
        name: damped_inverses(state["input_factor"], state["gradient_factor"], damping)
        for name, (state, damping) in layers.items()
    }
    if inverses and bool(torch.stack([singular for *_, singular in inverses.values()]).any()):
        names = ", ".join(repr(name) for name, (*_, singular) in inverses.items() if singular)
        raise ValueError(
            f"the damped factors of {names} are singular to working precision or not finite; pass a larger damping, "
            "or look for non-finite activations"
        )
    for name, (input_inverse, gradient_inverse, _) in inverses.items():
        layers[name][0].update(input_inverse=input_inverse, gradient_inverse=gradient_inverse)


def _padding(layer: torch.nn.Conv2d) -> list[int]:
    """Return the padding in the order of `torch.nn.functional.pad`: left, right, top, bottom."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    else:
        totals = [2 * p for p in layer.padding]
    # Where the sides can't be equal, torch's convolution has the larger one at the end.
    return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
