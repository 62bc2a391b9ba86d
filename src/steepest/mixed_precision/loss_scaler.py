"""Dynamic loss scaling: keep FP16 gradients away from zero, and find the factor while training.

Source: Micikevicius et al., "Mixed precision training", arXiv 1710.03740 (2018), section 3.2: scaling the loss scales
all gradients, by the chain rule. The rule that adapts the factor, its names and its defaults are those of
`torch.amp.GradScaler`.

| symbol                               | here                  | shape |
|--------------------------------------|-----------------------|-------|
| S, the scale                         | `_scale`              | ()    |
| S L, what is differentiated          | `scale(loss)`         | any   |
| g = (∂ S L / ∂ w) / S                | `unscale_(optimizer)` | as w  |
| some entry of ∂ S L / ∂ w isn't finite | `found_inf`         | ()    |
| successful steps since S changed     | `_growth_tracker`     | ()    |

After each step, `update` sets S ← `backoff_factor` S if an entry wasn't finite, and S ← `growth_factor` S after
`growth_interval` steps in a row without.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from steepest.mixed_precision.scaled_gradients import any_nonfinite, gradient_groups
from steepest.validation import require_count, require_positive

STATE_KEYS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


@dataclass
class _Progress:
    """What happened to one optimizer since the last `update`."""

    found_inf: torch.Tensor | None = None
    unscaled: bool = False
    stepped: bool = False


class DynamicLossScaler:
    """Scales losses, unscales gradients, skips steps whose gradients overflowed, and adapts the scale.

    It decides as `torch.amp.GradScaler` does, and `state_dict` fits both. There is no `device` argument: the
    scale lives on the device of the first loss. The rule's numbers are attributes instead of methods. Fused optimizers
    are treated as all others are: gradients are unscaled first, and the host reads once whether to step.

    Args:
        init_scale: the first scale. A float16 loss can't be differentiated at the default: its own gradient is the
            scale, and 65536 is more than float16's 65504. Losses belong in float32.
        growth_factor: > 1, multiplies the scale after `growth_interval` steps in a row without overflow.
        backoff_factor: in (0, 1), multiplies the scale after an overflow.
        growth_interval: steps.
        enabled: False makes `step` call the optimizer and everything else do nothing.

    Raises:
        TypeError: an argument isn't a number of the right kind.
        ValueError: an argument is out of range.

    Example:
        >>> weight = torch.tensor([1.0], requires_grad=True)
        >>> optimizer, scaler = torch.optim.SGD([weight], lr=0.1), DynamicLossScaler(init_scale=1024.0)
        >>> for factor in (1.0, float("inf")):
        ...     optimizer.zero_grad()
        ...     scaler.scale(factor * weight.sum()).backward()
        ...     scaler.step(optimizer)
        ...     scaler.update()
        ...     print(weight.item(), scaler.get_scale())
        0.8999999761581421 1024.0
        0.8999999761581421 512.0
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        factors = {"init_scale": init_scale, "growth_factor": growth_factor, "backoff_factor": backoff_factor}
        for name, value in factors.items():
            require_positive(name, value)
        require_count("growth_interval", growth_interval)
        if growth_factor <= 1:
            raise ValueError(f"growth_factor must be > 1, got {growth_factor}")
        if backoff_factor >= 1:
            raise ValueError(f"backoff_factor must be < 1, got {backoff_factor}")
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.growth_interval = growth_interval
        self.skipped_steps = 0
        self._enabled = enabled
        self._initial = (float(init_scale), 0)
        self._scale: torch.Tensor | None = None
        self._growth_tracker: torch.Tensor | None = None
        self._progress: dict[torch.optim.Optimizer, _Progress] = defaultdict(_Progress)

    def is_enabled(self) -> bool:
        """Return whether losses are scaled."""
        return self._enabled

    def scale(self, outputs: torch.Tensor | Iterable[torch.Tensor]) -> torch.Tensor | Sequence[torch.Tensor]:
        """Return the loss, or each of several, times the scale; differentiate that instead of the loss.

        Args:
            outputs: a floating tensor of any shape, or an iterable of such.

        Raises:
            TypeError: `outputs` holds something else.
        """
        if not self._enabled:
            return outputs
        if not isinstance(outputs, torch.Tensor):
            if not isinstance(outputs, Iterable):
                raise TypeError(f"outputs must be a tensor or an iterable of tensors, got {type(outputs).__name__}")
            scaled = [self.scale(output) for output in outputs]
            return tuple(scaled) if isinstance(outputs, tuple) else scaled
        if not (outputs.is_floating_point() or outputs.is_complex()):
            raise TypeError(f"outputs must have a floating dtype, got {outputs.dtype}")
        if self._scale is None:
            scale, tracker = self._initial
            self._scale = torch.full((), scale, dtype=torch.float32, device=outputs.device)
            self._growth_tracker = torch.full((), tracker, dtype=torch.int32, device=outputs.device)
        return outputs * self._scale.to(outputs.device, non_blocking=True)

    @torch.no_grad()
    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, in place, and note if all are finite.

        Call it before anything that looks at gradients, such as clipping; otherwise `step` does it. Once per
        optimizer and step, after all micro-batches. The host reads nothing.

        Raises:
            RuntimeError: it was called already, or `step` was, since the last `update`; or no loss was scaled.
            ValueError: a gradient is float16, which can lose what the scale saved.
        """
        if not self._enabled:
            return
        scale = self._require_scale("unscale_")
        progress = self._progress[optimizer]
        if progress.stepped:
            raise RuntimeError("unscale_() is being called after step().")
        if progress.unscaled:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        inverse = scale.double().reciprocal().float()
        for gradients in gradient_groups(optimizer):
            found_inf = any_nonfinite(gradients).to(scale.device, non_blocking=True)
            progress.found_inf = found_inf if progress.found_inf is None else progress.found_inf | found_inf
            torch._foreach_mul_(gradients, inverse.to(gradients[0].device, non_blocking=True))
        progress.unscaled = True

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Unscale unless done, then call `optimizer.step` unless a gradient wasn't finite.

        The one place where the host waits for the device. Returns what `optimizer.step` returned, None on a
        skip; skips are counted in `skipped_steps`, which isn't part of `state_dict`.

        Raises:
            RuntimeError: it was called already since the last `update`, a closure is passed, no loss was scaled,
                or no parameter has a gradient.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if args or "closure" in kwargs:
            raise RuntimeError("Closure use is not currently supported if the loss scaler is enabled.")
        self._require_scale("step")
        progress = self._progress[optimizer]
        if progress.stepped:
            raise RuntimeError("step() has already been called since the last update().")
        if not progress.unscaled:
            self.unscale_(optimizer)
        if progress.found_inf is None:
            raise RuntimeError("No inf checks were recorded for this optimizer: no parameter of it has a gradient.")
        progress.stepped = True
        if progress.found_inf:
            self.skipped_steps += 1
            return None
        return optimizer.step(**kwargs)

    @torch.no_grad()
    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        """Adapt the scale, once a step after all optimizers have stepped. The host reads nothing.

        Args:
            new_scale: sets the scale to this instead, a number or a tensor with one element.

        Raises:
            RuntimeError: no loss was scaled, or no gradient unscaled since the last `update`.
            ValueError: `new_scale` is a number that isn't finite and > 0, or a tensor of several elements.
        """
        if not self._enabled:
            return
        scale, tracker = self._require_scale("update"), self._growth_tracker
        if isinstance(new_scale, torch.Tensor):
            if new_scale.numel() != 1:
                raise ValueError(f"new_scale must have one element, got shape {tuple(new_scale.shape)}")
            scale.copy_(new_scale.reshape(()))
        elif new_scale is not None:
            require_positive("new_scale", new_scale)
            scale.fill_(new_scale)
        else:
            checks = [progress.found_inf for progress in self._progress.values() if progress.found_inf is not None]
            if not checks:
                raise RuntimeError("No inf checks were recorded prior to update: call step() or unscale_() before.")
            found_inf = torch.stack(checks).any()
            tracker.add_(1)
            grow = tracker == self.growth_interval
            grown = (scale.double() * self.growth_factor).float()
            # The scale never grows to infinity.
            grown = torch.where(grow & grown.isfinite(), grown, scale)
            scale.copy_(torch.where(found_inf, (scale.double() * self.backoff_factor).float(), grown))
            tracker.masked_fill_(found_inf | grow, 0)
        self._progress.clear()

    def get_scale(self) -> float:
        """Return the scale, 1.0 if disabled. The host waits for it."""
        if not self._enabled:
            return 1.0
        return self._initial[0] if self._scale is None else self._scale.item()

    def state_dict(self) -> dict[str, float | int]:
        """Return the scale, its rule and the growth counter as numbers; empty if disabled. Call after `update`."""
        if not self._enabled:
            return {}
        tracker = self._initial[1] if self._growth_tracker is None else self._growth_tracker.item()
        values = (self.get_scale(), self.growth_factor, self.backoff_factor, self.growth_interval, tracker)
        return dict(zip(STATE_KEYS, values, strict=True))

    def load_state_dict(self, state_dict: dict[str, float | int]) -> None:
        """Go on from what `state_dict` returned, here or at `torch.amp.GradScaler`. Does nothing if disabled.

        Raises:
            RuntimeError: `state_dict` is empty, as that of a disabled scaler is.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("The source state dict is empty, possibly because it was saved from a disabled scaler.")
        values = [state_dict[key] for key in STATE_KEYS]
        scale, self.growth_factor, self.backoff_factor, self.growth_interval, tracker = values
        self._initial = (scale, tracker)
        if self._scale is not None:
            self._scale.fill_(scale)
            self._growth_tracker.fill_(tracker)

    def _require_scale(self, caller: str) -> torch.Tensor:
        if self._scale is None:
            raise RuntimeError(f"Attempted {caller} but no loss was scaled: call scale(loss).backward() before.")
        return self._scale
