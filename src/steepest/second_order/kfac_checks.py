"""Checks of the parameter groups that K-FAC is given, none of them by the values of tensors."""

from typing import Any

import torch

from steepest.second_order.layer_recorder import LayerRecorder
from steepest.second_order.validation import require_float_tensor
from steepest.validation import require_count, require_generator, require_nonnegative, require_probability


def require_group(group: dict[str, Any], recorder: LayerRecorder, generator: torch.Generator | None) -> None:
    """Raise unless options and parameters of a group are as `KFAC` asks."""
    for name in ("lr", "damping", "momentum"):
        require_nonnegative(name, group[name])
    require_probability("decay", group["decay"])
    require_count("factor_interval", group["factor_interval"])
    require_count("inverse_interval", group["inverse_interval"])
    for i, parameter in enumerate(group["params"]):
        require_float_tensor(f"params[{i}]", parameter)
        require_generator(generator, parameter.device)
        if parameter in recorder.refused:
            reason = recorder.refused[parameter]
            raise ValueError(
                f"params[{i}] has no Kronecker factors of its own, as {reason}; leave it to another optimizer"
            )
