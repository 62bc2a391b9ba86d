"""An optimizer that sees all its parameters as one vector, and therefore has one parameter group."""

from typing import Any

import torch

from steepest.second_order.validation import require_float_tensor
from steepest.validation import require_count, require_nonnegative

# Most evaluations in one line search, the default of torch.optim.LBFGS's.
SEARCH_EVALUATIONS = 25


class SingleGroupOptimizer(torch.optim.Optimizer):
    """What `LBFGS` and `NonlinearCG` share: a line search along one direction needs one dtype and device."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one parameter group; called by the constructor.

        Raises:
            TypeError: a parameter is complex, sparse or of another dtype, or dtypes differ.
            ValueError: there is a group already, the group is empty, or devices differ.
        """
        name = type(self).__name__
        if self.param_groups:
            raise ValueError(f"{name} has one parameter group only: pass all parameters in a single list")
        super().add_param_group(param_group)
        parameters = self.param_groups[0]["params"]
        if sum(parameter.numel() for parameter in parameters) == 0:
            raise ValueError(f"{name} got no parameter elements to optimize")
        for i, parameter in enumerate(parameters):
            require_float_tensor(f"params[{i}]", parameter)
            if parameter.dtype != parameters[0].dtype:
                raise TypeError(f"params[{i}] is {parameter.dtype} but params[0] is {parameters[0].dtype}")
            if parameter.device != parameters[0].device:
                raise ValueError(f"params[{i}] is on {parameter.device} but params[0] on {parameters[0].device}")


def checked_max_eval(max_iter: int, max_eval: int | None, tolerance_grad: float, tolerance_change: float) -> int:
    """Return `max_eval` after a check of all four, whose errors name the argument.

    None stands for torch's limit, but enough that a call of one iteration can finish its line search.
    """
    require_count("max_iter", max_iter)
    if max_eval is None:
        max_eval = max(max_iter * 5 // 4, SEARCH_EVALUATIONS)
    require_count("max_eval", max_eval)
    require_nonnegative("tolerance_grad", tolerance_grad)
    require_nonnegative("tolerance_change", tolerance_change)
    return max_eval
