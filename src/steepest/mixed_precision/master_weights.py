"""An FP32 master copy of low-precision parameters.

Source: Micikevicius et al., "Mixed precision training", arXiv 1710.03740 (2018), section 3.1 and figure 1.

| paper                            | here              | shape |
|----------------------------------|-------------------|-------|
| weights (FP16)                   | the model's       | any   |
| master weights (FP32)            | `parameters()`    | same  |
| weight gradients (FP16)          | the model's `.grad` | same |
| weight gradients, FP32, unscaled | the masters' `.grad` | same |

An update smaller than half the spacing at a weight is lost when the sum is rounded: in bfloat16, 1 - 0.001 is 1,
however often it is repeated. The masters collect such updates, and the model gets their rounded sum.
"""

from collections.abc import Iterable

import torch

from steepest.validation import require_positive, require_tensor

MODEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class MasterWeights:
    """FP32 copies of a model's parameters for the optimizer to step.

    A training step: backward fills the model's gradients, `model_grads_to_master_grads` copies them up, the
    optimizer steps the masters, `master_params_to_model_params` rounds these into the model.

    Args:
        parameters: the model's parameters, float16, bfloat16 or float32, on any devices. Each gets a master of its own.

    Raises:
        TypeError: `parameters` is a single tensor, or one of them is no dense tensor or has another dtype.
        ValueError: there are no parameters, or one is given twice.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
        >>> masters = MasterWeights([weight])
        >>> optimizer = torch.optim.SGD(masters.parameters(), lr=1e-3)
        >>> for _ in range(1000):
        ...     weight.grad = torch.ones_like(weight)
        ...     masters.model_grads_to_master_grads()
        ...     optimizer.step()
        ...     masters.master_params_to_model_params()
        >>> abs(weight.item()) < 1e-4
        True
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        if isinstance(parameters, torch.Tensor):
            raise TypeError("parameters must be an iterable of tensors, got a single one; wrap it in a list")
        self._model = list(parameters)
        if not self._model:
            raise ValueError("parameters is empty: pass model.parameters()")
        for i, parameter in enumerate(self._model):
            require_tensor(f"parameters[{i}]", parameter)
            if parameter.dtype not in MODEL_DTYPES:
                raise TypeError(f"parameters[{i}] must be float16, bfloat16 or float32, got {parameter.dtype}")
        if len({id(parameter) for parameter in self._model}) < len(self._model):
            raise ValueError("parameters holds the same tensor twice: a shared weight has one master")
        self._masters = [
            torch.nn.Parameter(parameter.detach().to(torch.float32, copy=True), requires_grad=parameter.requires_grad)
            for parameter in self._model
        ]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the masters in the order of the model's parameters, for the optimizer."""
        return list(self._masters)

    @torch.no_grad()
    def model_grads_to_master_grads(self, scale: float | torch.Tensor | None = None) -> None:
        """Overwrite the masters' gradients by the model's, converted to float32, then divided by `scale`.

        The division comes after the conversion: small quotients would be zero in float16. Where the model has no
        gradient, the master has none.

        Args:
            scale: the factor of a constant loss scale, as a number or a tensor with one element. With a loss scaler
                leave it out and call `scaler.unscale_` for the masters' optimizer, which also looks for infinities.

        Raises:
            TypeError: a gradient is sparse.
            ValueError: `scale` is a number that isn't finite and > 0, or a tensor of several elements.
        """
        if isinstance(scale, torch.Tensor):
            if scale.numel() != 1:
                raise ValueError(f"scale must have one element, got shape {tuple(scale.shape)}")
            scale = scale.reshape(())
        elif scale is not None:
            require_positive("scale", scale)
        sources, targets = [], []
        for i, (parameter, master) in enumerate(zip(self._model, self._masters, strict=True)):
            if parameter.grad is None:
                master.grad = None
                continue
            require_tensor(f"the gradient of parameters[{i}]", parameter.grad)
            if master.grad is None:
                master.grad = torch.empty_like(master)
            sources.append(parameter.grad)
            targets.append(master.grad)
        if sources:
            torch._foreach_copy_(targets, sources)
            if scale is not None:
                torch._foreach_div_(targets, scale)

    @torch.no_grad()
    def master_params_to_model_params(self) -> None:
        """Round the masters into the model's parameters; call it after each step of the optimizer."""
        torch._foreach_copy_(self._model, self._masters)

    def zero_grad(self) -> None:
        """Set the gradients of model and masters to None."""
        for parameter in (*self._model, *self._masters):
            parameter.grad = None

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """Return copies of the masters: saving the model alone would lose what rounding hides."""
        return {"masters": [master.detach().clone() for master in self._masters]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, list[torch.Tensor]]) -> None:
        """Take over the masters that `state_dict` returned and round them into the model.

        Raises:
            ValueError: number or shapes of the masters differ.
        """
        saved = state_dict["masters"]
        own_shapes = [tuple(master.shape) for master in self._masters]
        if [tuple(master.shape) for master in saved] != own_shapes:
            raise ValueError(f"state_dict must hold masters of shapes {own_shapes}, in this order")
        torch._foreach_copy_(self._masters, list(saved))
        self.master_params_to_model_params()
