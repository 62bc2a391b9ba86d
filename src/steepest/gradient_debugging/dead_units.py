"""Units that never fire: counted by forward hooks, on the device, without waiting for it."""

from collections.abc import Callable

import torch
from torch import nn

from steepest.validation import require_count


class DeadUnits:
    """Watches the outputs of activation modules and counts the units that have been zero for long.

    A rectified unit whose input is negative for every sample has no gradient and can't come back by itself. A unit is
    counted as dead when it has been zero for all samples of `after` recorded steps in a row. A unit is an entry of the
    last dimension, or a channel (dimension 1) where the output has four or more dimensions.

    Only forwards in training mode with gradients enabled count, so that validation between two steps doesn't.
    `torch.nn.functional.relu` has no module to hook and isn't seen. Where the number of units varies from forward to
    forward, as the positions of a one-dimensional convolution do, it counts anew with each change. torch.compile
    leaves its graph for the hooks.

    Args:
        model: the network; every submodule of a type in `kinds` is watched.
        due: tells whether the coming step is recorded; on other steps the hooks do nothing.
        kinds: types of activation modules that output zero when off.
        after: recorded steps in a row without firing that make a unit dead.

    Raises:
        TypeError: `after` isn't an int.
        ValueError: `after` < 1.

    Example:
        >>> relu = torch.nn.ReLU()
        >>> units = DeadUnits(torch.nn.Sequential(relu), due=lambda: True, after=1)
        >>> _ = relu(torch.tensor([[1.0, -1.0, -2.0, 3.0]]))
        >>> units.update(), units.close()
        ({'0': tensor(0.5000)}, None)
    """

    def __init__(
        self,
        model: nn.Module,
        due: Callable[[], bool],
        kinds: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6),
        after: int = 10,
    ) -> None:
        require_count("after", after)
        self.after = after
        self._due = due
        self._fired: dict[str, torch.Tensor] = {}
        self._silent: dict[str, torch.Tensor] = {}
        self._handles = [
            module.register_forward_hook(self._hook(name))
            for name, module in model.named_modules()
            if isinstance(module, kinds)
        ]

    def update(self) -> dict[str, torch.Tensor]:
        """Take in the forwards since the last call; return the share of dead units of each module seen, on device."""
        for name, fired in self._fired.items():
            silent = self._silent.get(name)
            if silent is None or silent.shape != fired.shape:
                silent = torch.zeros_like(fired, dtype=torch.int64)
            waited = silent.to(fired.device)
            self._silent[name] = torch.where(fired, 0, waited + 1)
        self._fired.clear()
        return {name: (silent >= self.after).float().mean() for name, silent in self._silent.items()}

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._fired.clear()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return for how many recorded steps each unit has been silent, by module."""
        return dict(self._silent)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from `state`."""
        self._silent = dict(state)

    def _hook(self, name: str) -> Callable[[nn.Module, tuple, torch.Tensor], None]:
        # Compiled, the number of the step would be a constant of the graph, which is compiled anew at every step.
        @torch.compiler.disable
        def note(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            if not (module.training and torch.is_grad_enabled() and self._due() and output.numel()):
                return
            unit = 1 if output.dim() >= 4 else output.dim() - 1
            samples = [dimension for dimension in range(output.dim()) if dimension != unit]
            fired = output.detach() != 0  # NaN counts as fired: it is reported elsewhere
            if samples:
                fired = fired.any(dim=samples)
            # The module may run several times a step: micro-batches, shared modules, recomputation.
            before = self._fired.get(name)
            self._fired[name] = fired if before is None or before.shape != fired.shape else before | fired

        return note
