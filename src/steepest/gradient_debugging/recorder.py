"""One recorder of gradients, behind `TrainingMonitor` and `gradient_flow.GradientMonitor`.

What to record, and judging it against the run's own history, follows Schneider, Dangel, Hennig, "Cockpit: A practical
debugging tool for the training of deep neural networks", arXiv 2102.06604 (2021): gradient norm, update size,
distance in weights, without changing the training.

Everything is reduced on the device, put into one tensor and moved to the host at once, so that a recorded step makes
the host wait once, however many parameters there are, and a step that isn't recorded never.
"""

import math
from collections import deque
from types import TracebackType
from typing import Protocol

import torch
from torch import nn

from steepest.gradient_debugging.dead_units import DeadUnits
from steepest.gradient_debugging.gradient_norms import gradient_norms
from steepest.gradient_debugging.gradient_record import GradientRecord, Numbers
from steepest.gradient_debugging.reductions import OF_ENTRIES, entry_statistics, tensor_norms, transferred
from steepest.validation import require_count, require_floating

Named = list[tuple[str, nn.Parameter]]


class LossScaler(Protocol):
    """What is asked of a loss scaler: `torch.amp.GradScaler` and `mixed_precision.DynamicLossScaler` have it."""

    def is_enabled(self) -> bool:
        """Whether it scales at all."""

    def scale(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return `outputs` times the scale."""


class GradientRecorder:
    """Records norms of gradients, weights and updates, and dead units, of every `every`-th step.

    Call `observe` once an optimizer step: after the backward of the last micro-batch and after `unscale_`, before
    clipping, before the optimizer's step and before `zero_grad`. Before unscaling the norms carry the scale, after
    clipping they are what clipping left of them, after `zero_grad` they are gone. With `track_updates` call
    `after_step` after the optimizer's step.

    Gradients, parameters and the random state are left alone, and no graph is kept alive. With `track_updates` the
    weights of a recorded step are copied and kept until `after_step`.

    Args:
        model: the network. Parameters that require a gradient are recorded, those without one as missing.
        every: record steps 0, every, 2·every, ...
        history_size: records kept; the oldest are dropped.
        entries: record maximum, minimum, mean and the counts of NaN and ±inf of each gradient, too. These have no
            foreach kernel, so a GPU is sent several kernels a parameter.
        track_updates: record how large the update is beside the weights.
        activations: types of activation modules whose dead units are counted, none if empty.
        dead_after: recorded steps in a row without firing that make a unit dead.

    Raises:
        TypeError: `model` isn't a module, or a count isn't an int.
        ValueError: a count is < 1.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> with GradientRecorder(model, every=2) as recorder:
        ...     for step in range(3):
        ...         model.zero_grad()
        ...         (step + model(torch.tensor([3.0, 4.0]))).backward()
        ...         _ = recorder.observe()
        >>> [(record.step, record.norms) for record in recorder.history]
        [(0, (5.0, 1.0)), (2, (5.0, 1.0))]
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 1,
        history_size: int = 500,
        *,
        entries: bool = False,
        track_updates: bool = False,
        activations: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6),
        dead_after: int = 10,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        require_count("every", every)
        require_count("history_size", history_size)
        self.model = model
        self.every = every
        self.entries = entries
        self.track_updates = track_updates
        self.step = 0
        self.history: deque[GradientRecord] = deque(maxlen=history_size)
        self._dead_units = DeadUnits(model, lambda: self.due, activations, dead_after)
        # The weights of the last record until after_step, then the ratios until the next record.
        self._before: tuple[tuple[str, ...], list[torch.Tensor], torch.Tensor] | None = None
        self._ratios: tuple[tuple[str, ...], torch.Tensor] | None = None

    @property
    def due(self) -> bool:
        """Whether the coming call of `observe` records."""
        return self.step % self.every == 0

    @torch.no_grad()
    def observe(
        self, loss: torch.Tensor | float | None = None, scaler: LossScaler | None = None
    ) -> GradientRecord | None:
        """Record this step if it is due.

        Args:
            loss: the loss of the step, without the scaler's scale, one element.
            scaler: the loss scaler, if one is used, after its `unscale_` and before its `update`.

        Returns:
            The record, which is also the last of `history`; None if the step isn't due.

        Raises:
            TypeError: `loss` is neither a tensor nor a number, or a gradient is complex or sparse.
            ValueError: `loss` has more than one element.
        """
        if loss is not None and not isinstance(loss, (torch.Tensor, int, float)):
            raise TypeError(f"loss must be a tensor or a number, got {type(loss).__name__}")
        if isinstance(loss, torch.Tensor) and loss.numel() != 1:
            raise ValueError(f"loss must have one element, got shape {tuple(loss.shape)}; average it")
        due, step = self.due, self.step
        if due:
            self.history.append(self._record(step, loss, scaler))
        self.step += 1
        return self.history[-1] if due else None

    @torch.no_grad()
    def after_step(self) -> None:
        """Measure the update of a recorded step, after the optimizer's step; on other steps do nothing.

        The ratios stay on the device and reach the host with the next record.

        Raises:
            RuntimeError: the recorder was made without `track_updates`.
        """
        if not self.track_updates:
            raise RuntimeError("after_step needs the weights from before the step: pass track_updates=True")
        if self._before is None:
            return
        names, before, norms = self._before
        now = dict(self.model.named_parameters())
        updates = torch._foreach_sub([now[name] for name in names], before)
        self._ratios = names, tensor_norms(updates) / norms
        self._before = None

    def close(self) -> None:
        """Remove the hooks from the model; the history stays."""
        self._dead_units.close()

    def __enter__(self) -> "GradientRecorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, object]:
        """Return what a resumed run needs to go on as if it had never stopped; save it between two steps."""
        return {
            "step": self.step,
            "history": [record.as_dict() for record in self.history],
            "silent": self._dead_units.state_dict(),
            "updated": [] if self._ratios is None else list(self._ratios[0]),
            "ratios": None if self._ratios is None else self._ratios[1],
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state`."""
        self.step = state["step"]
        self.history.clear()
        self.history.extend(GradientRecord.from_dict(record) for record in state["history"])
        self._dead_units.load_state_dict(state["silent"])
        self._ratios = None if state["ratios"] is None else (tuple(state["updated"]), state["ratios"])

    def _record(self, step: int, loss: torch.Tensor | float | None, scaler: LossScaler | None) -> GradientRecord:
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad and p.numel()]
        names = tuple(name for name, _ in named)
        present = [(name, p) for name, p in named if p.grad is not None]
        for name, p in present:
            require_floating(f"the gradient of {name}", p.grad)
        columns = self._columns(named, present)
        device = named[0][1].device if named else torch.device("cpu")
        if isinstance(loss, torch.Tensor):
            columns["loss"] = loss.detach().reshape(1)
        if scaler is not None and scaler.is_enabled():
            # A one that is scaled is the scale; reading it from the scaler would make the host wait again.
            columns["scale"] = scaler.scale(torch.ones(1, device=device))
        dead = self._dead_units.update()
        columns |= {f"dead {name}": share.reshape(1) for name, share in dead.items()}
        values = transferred(columns, device)

        def spread(column: str, owners: tuple[str, ...]) -> Numbers | None:
            if column not in values:
                return None
            if owners == names:
                return tuple(values[column])
            found = dict(zip(owners, values[column], strict=True))
            return tuple(found.get(name) for name in names)

        with_gradient = tuple(name for name, _ in present)
        updated = self._ratios[0] if self._ratios is not None else ()
        self._ratios = None
        return GradientRecord(
            step=step,
            names=names,
            norms=spread("norms", with_gradient) or (None,) * len(names),
            weight_norms=spread("weight_norms", names),
            update_ratios=spread("update_ratios", updated),
            dimensions=tuple(p.dim() for _, p in named),
            **{column: spread(column, with_gradient) for column in OF_ENTRIES},
            loss=values["loss"][0] if "loss" in values else loss,
            scale=values["scale"][0] if "scale" in values else None,
            dead={name: values[f"dead {name}"][0] for name in dead},
        )

    def _columns(self, named: Named, present: Named) -> dict[str, torch.Tensor]:
        """Return the reduced values of all parameters, on device; each column is one tensor (number of parameters,)."""
        columns = {}
        if named:
            weights = [p.detach() for _, p in named]
            columns["weight_norms"] = tensor_norms(weights)
            if self.track_updates:
                names = tuple(name for name, _ in named)
                self._before = names, torch._foreach_mul(weights, 1.0), columns["weight_norms"]
        if present:
            columns["norms"] = gradient_norms(present).norms
            if self.entries:
                columns |= entry_statistics([p.grad for _, p in present])
            else:
                columns["largest"] = gradient_norms(present, math.inf).norms
        if self._ratios is not None:
            columns["update_ratios"] = self._ratios[1]
        return columns
