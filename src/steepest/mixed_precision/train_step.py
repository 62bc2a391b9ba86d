"""One training step in mixed precision, in the order that makes it right.

Sources: Micikevicius et al., "Mixed precision training", arXiv 1710.03740 (2018), section 3; for clipping, Pascanu,
Mikolov, Bengio, arXiv 1211.5063 (2013), algorithm 1.

| symbol                             | here                       | shape |
|------------------------------------|----------------------------|-------|
| n_i, N = n_1 + ... + n_k           | samples of a micro-batch, of all |  |
| L_i, mean loss of micro-batch i    | `loss_fn(model(inputs), targets)` | () |
| L = Σ_i (n_i / N) L_i              | `AmpStep.loss`             | ()    |
| S                                  | the scale of `scaler`      | ()    |
| g = (∂ S L / ∂ w) / S              | the parameters' `.grad`    | as w  |
| |g|_2                              | `AmpStep.grad_norm`        | ()    |

Only the forward pass and the loss run under autocast: each backward operator takes the dtype that its forward
chose. g is divided by S before its norm is compared with `max_norm`, which else would mean `max_norm` / S. S changes
once a step, after the last micro-batch, so that all parts of a sum have the same scale.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_map

from steepest.gradient_debugging import clip_grad_norm_, total_norm
from steepest.mixed_precision.loss_scaler import DynamicLossScaler
from steepest.validation import require_floating, require_positive

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class AmpStep(NamedTuple):
    """What a step did: the mean loss (), the gradients' norm () before clipping, whether parameters were updated."""

    loss: torch.Tensor
    grad_norm: torch.Tensor
    stepped: bool


def train_step_amp(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, torch.Tensor], torch.Tensor],
    micro_batches: Iterable[tuple[Any, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    scaler: DynamicLossScaler | None = None,
    *,
    dtype: torch.dtype,
    max_norm: float | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    skip_nonfinite: bool = True,
) -> AmpStep:
    """Clear gradients, run forward and backward on each micro-batch, unscale, clip, step, and update the scale.

    The gradient is that of the mean over all samples, whatever the sizes of the micro-batches. Where a gradient isn't
    finite, the step is skipped: with a scaler by its decision, without one by the norm. For this decision the host
    waits once; otherwise it reads nothing. The gradients, as stepped with, are left in `.grad`.

    Args:
        model: its parameters are float32 and stay so; autocast converts what its operators want.
        loss_fn: maps output and targets to the *mean* loss over the samples, one element. It gets 16-bit outputs
            as float32, so that no loss is summed in 16 bits.
        micro_batches: pairs (inputs, targets) on the model's device; `inputs` is the model's one argument, and
            targets have shape (n_i, ...). An iterator is read to its end first.
        optimizer: steps the model's parameters; may have further ones.
        scaler: needed for float16, whose gradients underflow without. bfloat16 has the range of float32 and does
            without.
        dtype: torch.float16 or torch.bfloat16 for autocast; torch.float32 turns autocast off.
        max_norm: if given, the gradients are scaled down to at most this 2-norm.
        scheduler: stepped after the optimizer, and only if that was: a skip would use up warm-up for nothing.
        skip_nonfinite: False steps whatever the norm is if there is no scaler, and the host never waits. A
            NaN then reaches the parameters; look at `grad_norm`.

    Returns:
        The step's loss and norm as tensors on the device, and whether parameters were updated.

    Raises:
        TypeError: `micro_batches` doesn't hold pairs, `scaler` is another kind (torch's doesn't count skips),
            `loss_fn` returns no tensor, or a gradient is complex or sparse.
        ValueError: no micro-batch, or an empty one; a loss of more than one element; `dtype` isn't one of the three, or
            is float16 without a scaler; `max_norm` isn't > 0; no parameter of `optimizer` has got a gradient.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), DynamicLossScaler(init_scale=1024.0)
        >>> inputs, targets = torch.ones(8, 4), torch.zeros(8, 1)
        >>> batches = [(inputs[:6], targets[:6]), (inputs[6:], targets[6:])]
        >>> loss_fn = torch.nn.MSELoss()
        >>> train_step_amp(model, loss_fn, batches, optimizer, scaler, dtype=torch.float16, max_norm=1.0).stepped
        True
        >>> overflowing = [(torch.full((8, 4), 6e4), targets)]
        >>> train_step_amp(model, loss_fn, overflowing, optimizer, scaler, dtype=torch.float16).stepped
        False
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be torch.float16, torch.bfloat16 or torch.float32, got {dtype}")
    if dtype == torch.float16 and scaler is None:
        raise ValueError(
            "float16 gradients underflow: pass a scaler (with enabled=False to see what happens), or use bfloat16"
        )
    if max_norm is not None:
        require_positive("max_norm", max_norm)
    scaler = DynamicLossScaler(enabled=False) if scaler is None else scaler
    if not isinstance(scaler, DynamicLossScaler):
        raise TypeError(f"scaler must be a DynamicLossScaler or None, got {type(scaler).__name__}")
    micro_batches = list(micro_batches)
    sizes = _sizes(micro_batches)
    device_type = micro_batches[0][1].device.type

    optimizer.zero_grad()
    total = 0
    for (inputs, targets), size in zip(micro_batches, sizes, strict=True):
        with torch.autocast(device_type, dtype=dtype, enabled=dtype != torch.float32):
            # Autocast widens what torch's losses get, but a loss written by hand would be summed in 16 bits.
            loss = loss_fn(tree_map(_widened, model(inputs)), targets)
            share = _one_element(loss) * (size / sum(sizes))
        scaler.scale(share).backward()
        total = total + share.detach()

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        raise ValueError("no parameter of optimizer has a gradient: does it hold the model's parameters?")
    # What is refused is refused before unscaling, or the scaler would be left in the middle of a step.
    for i, gradient in enumerate(gradients):
        require_floating(f"gradients[{i}]", gradient)
    scaler.unscale_(optimizer)
    # `scaled`, so that finite gradients whose squares overflow don't look infinite.
    if max_norm is None:
        grad_norm = total_norm(gradients, scaled=True)
    else:
        grad_norm = clip_grad_norm_(parameters, max_norm, scaled=True)

    if scaler.is_enabled():
        skipped_before = scaler.skipped_steps
        scaler.step(optimizer)
        stepped = scaler.skipped_steps == skipped_before
    else:
        stepped = not skip_nonfinite or bool(grad_norm.isfinite())
        if stepped:
            optimizer.step()
    scaler.update()
    if stepped and scheduler is not None:
        scheduler.step()
    return AmpStep(total, grad_norm, stepped)


def _sizes(micro_batches: list[tuple[Any, torch.Tensor]]) -> list[int]:
    """Return the number of samples of each micro-batch."""
    sizes = []
    for pair in micro_batches:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[1], torch.Tensor):
            raise TypeError("micro_batches must be a sequence of pairs (inputs, targets); wrap a single pair in a list")
        sizes.append(pair[1].shape[0] if pair[1].dim() else 0)
    if not sizes or min(sizes) == 0:
        raise ValueError(f"micro_batches must hold pairs with targets of shape (n, ...), n >= 1; got n in {sizes}")
    return sizes


def _widened(output: Any) -> Any:
    """Return tensors of a 16-bit floating dtype as float32, and anything else as it is."""
    narrow = isinstance(output, torch.Tensor) and output.dtype in (torch.float16, torch.bfloat16)
    return output.float() if narrow else output


def _one_element(loss: torch.Tensor) -> torch.Tensor:
    """Return the loss with shape ()."""
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f"loss_fn must return a torch.Tensor, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"loss_fn must return the mean loss, one element, got shape {tuple(loss.shape)}")
    return loss.reshape(())
