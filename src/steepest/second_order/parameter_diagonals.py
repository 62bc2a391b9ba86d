"""Hutchinson's diagonal of a loss's Hessian for many parameters at once, and its average over blocks.

Source: Yao, Gholami, Shen, Mustafa, Keutzer & Mahoney, "ADAHESSIAN: An Adaptive Second Order Optimizer for Machine
Learning", arXiv 2006.00719 (2020).

| paper                       | here                         | shape  |
|-----------------------------|------------------------------|--------|
| θ, g                        | `params`, `gradients`        | any, per parameter |
| z, H z                      | `probes`, `products`         | as θ   |
| D = E[z ⊙ H z]              | result of `parameter_diagonals` | as θ |
| D^(s)                       | result of `spatial_average`  | as D   |
| b                           | `block_size`, or the entries of a kernel | number |

H z is the gradient of g^T z with z held fixed. Taken over all parameters together it is one backward pass, and has
the second derivatives between parameters in it; taken for each alone it would cost as many passes and estimate the
same diagonal.
"""

from collections.abc import Sequence

import torch

from steepest.second_order.hutchinson import random_signs


def parameter_diagonals(
    params: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    n_samples: int = 1,
    generator: torch.Generator | None = None,
) -> list[torch.Tensor]:
    """Estimate diag H for each parameter from gradients that carry their graph; one backward pass per probe.

    Args:
        params: parameters of any shape and floating dtype.
        gradients: a loss's gradients by them, made with `create_graph=True`. One without graph is a constant: the
            loss is linear in that parameter. The graph is freed.
        n_samples: number of independent probes, whose results are averaged.
        generator: source of the signs, on the device of all parameters; without it torch's default one.

    Returns:
        The estimates, new tensors, each like its parameter; zero where the loss is linear.

    Raises:
        ValueError: no gradient depends on a parameter. The loss may be linear in all of them; far more often the graph
            was lost, and a curvature of zero would pass unnoticed.

    Example:
        >>> x, y = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(3.0, requires_grad=True)
        >>> loss = (x**3).sum() + y**2 + y
        >>> parameter_diagonals([x, y], torch.autograd.grad(loss, [x, y], create_graph=True))
        [tensor([ 6., 12.]), tensor(2.)]
    """
    curved = [i for i, gradient in enumerate(gradients) if gradient.requires_grad]
    sizes = [param.numel() for param in params]
    sums = None
    for sample in range(n_samples):
        signs = random_signs(sum(sizes), params[0].device, generator)
        probes = [part.view(param.shape).to(param) for part, param in zip(signs.split(sizes), params, strict=True)]
        products = [None]
        if curved:
            products = torch.autograd.grad(
                [gradients[i] for i in curved],
                params,
                grad_outputs=[probes[i] for i in curved],
                retain_graph=sample + 1 < n_samples,
                allow_unused=True,
            )
        if all(product is None for product in products):
            raise ValueError(
                "no gradient has a graph that leads to a parameter, and curvature would look like 0: call "
                "loss.backward(create_graph=True), or pass a closure of a loss that isn't linear and not compiled"
            )
        # None stands for a zero: no gradient depends on that parameter.
        products = [probe * 0 if product is None else product for product, probe in zip(products, probes, strict=True)]
        samples = torch._foreach_mul(products, probes)
        sums = samples if sums is None else torch._foreach_add(sums, samples)
    return list(sums if n_samples == 1 else torch._foreach_div(sums, n_samples))


def spatial_average(diagonal: torch.Tensor, block_size: int = 1, avg_conv_kernel: bool = False) -> torch.Tensor:
    """Return D^(s): D with each entry replaced by the mean of its block.

    Entries of a block share one curvature, whose noise falls with the size of the block.

    Args:
        diagonal: D, of any shape.
        block_size: in matrices (rows, columns), a block is so many consecutive entries of a row; divides the columns.
        avg_conv_kernel: whether in weights (out, in, *space) a block is a kernel, all of its space.

    Returns:
        D^(s), in the shape of D; vectors, scalars and what isn't to be averaged as they are.

    Example:
        >>> spatial_average(torch.tensor([[1.0, 3.0, -2.0, 2.0]]), block_size=2)
        tensor([[2., 2., 0., 0.]])
    """
    if diagonal.ndim > 2 and avg_conv_kernel:
        return diagonal.mean(dim=tuple(range(2, diagonal.ndim)), keepdim=True).expand_as(diagonal)
    if diagonal.ndim == 2 and block_size > 1:
        blocks = diagonal.unflatten(1, (-1, block_size))  # (rows, columns / b, b)
        return blocks.mean(dim=2, keepdim=True).expand_as(blocks).flatten(1)
    return diagonal
