"""What K-FAC sees of a model: the inputs of its Linear and Conv2d layers, and the gradients in their outputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from steepest.second_order.kfac_factors import Layer, gradient_rows, input_rows


class LayerRecorder:
    """Forward hooks on the Linear and Conv2d layers of a model, and the Kronecker factors of what they saw.

    A layer is known by its weight, as an optimizer knows it. `refused` says of parameters of such layers why they
    have no Kronecker factors of their own: convolution in groups, and modules that share them. `has_pass` says
    whether the last forward pass of the model had gradients and `factors` wasn't asked for since.

    Args:
        model: the module to watch, once `watch` is called.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._recording = False
        self.has_pass = False
        self._records: dict[torch.Tensor, tuple[torch.Tensor, GradientEdge]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self.names: dict[torch.Tensor, str] = {}
        self.layers: dict[torch.Tensor, Layer] = {}
        self.refused: dict[torch.Tensor, str] = {}
        owners: dict[torch.Tensor, list[str]] = {}
        for name, module in model.named_modules():
            for parameter in module.parameters(recurse=False):
                owners.setdefault(parameter, []).append(repr(name or "model"))
            # A parametrized weight is computed, and no parameter.
            if isinstance(module, Layer) and isinstance(module.weight, torch.nn.Parameter):
                self.names[module.weight], self.layers[module.weight] = name or "model", module
        for weight, layer in self.layers.items():
            if getattr(layer, "groups", 1) > 1:
                self.refused[weight] = f"{self.names[weight]!r} is a Conv2d with groups"
            for parameter in layer.parameters(recurse=False):
                if len(owners[parameter]) > 1:
                    self.refused[parameter] = f"{' and '.join(owners[parameter])} of model share it"

    def watch(self, is_wanted: Callable[[torch.Tensor], bool]) -> None:
        """Record in each forward pass of the model the layers whose weights are wanted."""

        def record(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            if not (self._recording and layer.weight in self.layers and is_wanted(layer.weight)):
                return
            if not output.requires_grad:
                return
            if layer.weight in self._records:
                raise ValueError(
                    f"layer {self.names[layer.weight]!r} was called twice in one forward pass of model, which has no "
                    "single Kronecker factor; leave its parameters out of params"
                )
            inputs = args[0] if args else kwargs["input"]
            # The edge, not the output: a ReLU(inplace=True) after the layer turns the output into its own.
            self._records[layer.weight] = (inputs.detach(), get_gradient_edge(output))

        # A deep copy of the model takes these functions along, and must not disturb what they see of this one.
        def start(module: torch.nn.Module, *_: object) -> None:
            if module is self._model:
                self._records, self._recording = {}, True
                # `functional_call` has other tensors in the weights' places.
                own = any(layer.weight is weight for weight, layer in self.layers.items())
                self.has_pass = own and torch.is_grad_enabled()

        def stop(module: torch.nn.Module, args: tuple[Any, ...], output: object) -> None:
            if module is self._model:
                self._recording = False
                self.has_pass = self.has_pass and output is not None

        # `stop` comes last, for the model may be a layer itself; where the forward pass fails it comes with None.
        self._handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in self.layers.values()]
        self._handles.append(self._model.register_forward_pre_hook(start))
        self._handles.append(self._model.register_forward_hook(stop, always_call=True))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._records, self.has_pass = {}, False

    def factors(
        self, outputs: torch.Tensor, scores: torch.Tensor, with_bias: Callable[[torch.Tensor], bool]
    ) -> dict[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Return A, (I, I), and G, (O, O), of each layer recorded in the last forward pass, and forget it.

        Args:
            outputs: (N, C), made by the last forward pass, whose graph is kept.
            scores: (N, K, C), each a gradient in `outputs` to pull back, as by `output_scores`.
            with_bias: whether A has a row and column for the bias, by weight.
        """
        records, self._records, self.has_pass = self._records, {}, False
        gradient_factors: dict[torch.Tensor, torch.Tensor] = {}
        for k in range(scores.shape[1] if records else 0):
            gradients = torch.autograd.grad(
                outputs,
                [edge for _, edge in records.values()],
                scores[:, k].to(outputs.dtype),
                retain_graph=True,
                allow_unused=True,
            )
            for weight, gradient in zip(records, gradients, strict=True):
                if gradient is not None:
                    rows = gradient_rows(self.layers[weight], gradient.to(weight.dtype))  # (R, O)
                    moment = rows.mT @ rows / len(rows)
                    gradient_factors[weight] = gradient_factors[weight] + moment if k else moment
        found = {}
        for weight, gradient_factor in gradient_factors.items():
            rows = input_rows(self.layers[weight], records[weight][0].to(weight.dtype), with_bias(weight))  # (R, I)
            # Divided by data, not by places: the places' terms add up in a datum's gradient.
            found[weight] = (rows.mT @ rows / len(outputs), gradient_factor)
        return found

    @property
    def recorded(self) -> set[torch.Tensor]:
        """The weights of the layers recorded in the last forward pass."""
        return set(self._records)
