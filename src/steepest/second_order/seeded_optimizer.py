"""An optimizer that draws random numbers, and whose state dict therefore says where its generator stands."""

from typing import Any

import torch


class SeededOptimizer(torch.optim.Optimizer):
    """What `AdaHessian` and `KFAC` share: `generator`, None for torch's default one, goes along with the state."""

    generator: torch.Generator | None

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state dict with the generator's state, None without generator."""
        generator_state = None if self.generator is None else self.generator.get_state()
        return {**super().state_dict(), "generator_state": generator_state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state dict, and set the generator to the state in it.

        Raises:
            ValueError: only one of the state dict and this optimizer has a generator, or the state dict is another
                optimizer's.
        """
        if "generator_state" not in state_dict:
            raise ValueError(f"state_dict must be one of {type(self).__name__}'s: it lacks 'generator_state'")
        generator_state = state_dict["generator_state"]
        if (generator_state is None) != (self.generator is None):
            raise ValueError(
                "state_dict and optimizer must both have a generator or both none, to draw the same numbers"
            )
        super().load_state_dict(state_dict)
        if self.generator is not None:
            # A state is kept in main memory, whatever `torch.load` was asked to map it to.
            self.generator.set_state(generator_state.cpu())
