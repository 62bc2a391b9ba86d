"""The singular values of a network's input-output Jacobian.

Source: Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
networks", arXiv 1312.6120 (2013), section 3 (dynamical isometry); Pennington, Schoenholz, Ganguli, arXiv
1711.04735 (2017).

| paper          | here                      | shape          |
|----------------|---------------------------|----------------|
| x^0            | `x`                       | any, D_in elements |
| x^L            | `fn(x)`                   | any, D_out elements |
| J = ∂x^L/∂x^0  | `jacobian`                | (D_out, D_in)  |
| σ_i            | the returned tensor       | (min(D_out, D_in),) |
"""

from collections.abc import Callable

import torch

from steepest.validation import require_count, require_floating


def jacobian_spectrum(
    fn: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, chunk_size: int | None = None
) -> torch.Tensor:
    """Return the singular values of J = ∂fn/∂x at one input, largest first.

    An error signal g leaves the network's input end as Jᵀg: the singular values say by how much it may grow
    (the largest) and how much of it is lost (the many small ones). The product of the layers' norms bounds only
    the largest, and from far above.

    The Jacobian is formed row by row in reverse mode: D_out D_in numbers, and an SVD of them.

    Args:
        fn: a differentiable function or module of one input. What it draws (dropout) is drawn once.
        x: one input, not a batch: of any shape, float32 or float64. All its entries together are the D_in
            columns; for a batch of one, pass it with its batch dimension.
        chunk_size: rows of the Jacobian computed at a time; all at once by default.

    Returns:
        (min(D_out, D_in),), detached, descending, with dtype and device of the output.

    Raises:
        TypeError: `x` isn't float32 or float64, or `fn` returns no tensor of these dtypes.
        ValueError: `x` or the output is empty, `chunk_size` is below 1.

    Example:
        A linear map's Jacobian is its matrix:

        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[0.0, 3.0], [0.5, 0.0]])
        >>> jacobian_spectrum(layer, torch.ones(2))
        tensor([3.0000, 0.5000])
    """
    _require_svd_dtype("x", x)
    if x.numel() == 0:
        raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}")
    if chunk_size is not None:
        require_count("chunk_size", chunk_size)

    # Under inference mode autograd records nothing.
    with torch.inference_mode(False), torch.enable_grad():
        variable = x.clone().detach().requires_grad_()
        output = fn(variable)
        _require_svd_dtype("the output of fn", output)
        size = output.numel()
        if size == 0:
            raise ValueError(f"the output of fn must not be empty, got shape {tuple(output.shape)}")
        if not output.requires_grad:
            return output.new_zeros(min(size, x.numel()))
        blocks = []
        for rows in torch.eye(size, dtype=output.dtype, device=output.device).split(chunk_size or size):
            (block,) = torch.autograd.grad(
                output,
                variable,
                grad_outputs=rows.view(-1, *output.shape),
                retain_graph=True,
                is_grads_batched=True,
                allow_unused=True,
            )
            if block is None:
                return output.new_zeros(min(size, x.numel()))
            blocks.append(block.reshape(len(rows), x.numel()))
        jacobian = torch.cat(blocks)  # (D_out, D_in)
    return torch.linalg.svdvals(jacobian)


def _require_svd_dtype(name: str, value: object) -> None:
    require_floating(name, value)
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {value.dtype}: there is no SVD below")
