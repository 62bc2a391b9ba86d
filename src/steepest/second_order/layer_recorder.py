"""What K-FAC sees of a model: the inputs of its Linear and Conv2d layers, and the gradients in their outputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from steepest.second_order.kfac_factors import Layer, gradient_rows, input_rows


class LayerRecorder:
    """Forward hooks on the Linear and Conv2d layers of a model, and the Kronecker factors of what they saw.

    A layer is known by its weight, as an optimizer knows it.

    Args:
        model: the module to watch, once `watch` is called.

    Raises:
        ValueError: two layers share a weight.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._recording = False
        self._records: dict[torch.Tensor, tuple[torch.Tensor, GradientEdge]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self.names: dict[torch.Tensor, str] = {}
        self.layers: dict[torch.Tensor, Layer] = {}
        for name, layer in model.named_modules():
            # A parametrized weight is computed, and no parameter.
            if not (isinstance(layer, Layer) and isinstance(layer.weight, torch.nn.Parameter)):
                continue
            if layer.weight in self.layers:
                raise ValueError(f"layers {self.names[layer.weight]!r} and {name!r} of model share their weight")
            self.names[layer.weight], self.layers[layer.weight] = name, layer

    def watch(self, is_wanted: Callable[[torch.Tensor], bool]) -> None:
        """Record in each forward pass of the model the layers whose weights are wanted."""

        def record(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            # `functional_call` has other tensors in the weight's place.
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

        def start(*_: object) -> None:
            self._records, self._recording = {}, True

        def stop(*_: object) -> None:
            self._recording = False

        # `stop` comes last, for the model may be a layer itself, and comes also where the forward pass fails.
        self._handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in self.layers.values()]
        self._handles.append(self._model.register_forward_pre_hook(start))
        self._handles.append(self._model.register_forward_hook(stop, always_call=True))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._records = {}

    def factors(
        self, outputs: torch.Tensor, scores: torch.Tensor, with_bias: Callable[[torch.Tensor], bool]
    ) -> dict[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Return A, (I, I), and G, (O, O), of each layer recorded in the last forward pass, and forget it.

        Args:
            outputs: (N, C), made by the last forward pass, whose graph is kept.
            scores: (N, K, C), each a gradient in `outputs` to pull back, as by `output_scores`.
            with_bias: whether A has a row and column for the bias, by weight.
        """
        records, self._records = self._records, {}
        gradient_factors: dict[torch.Tensor, torch.Tensor] = {}
        for k in range(scores.shape[1]):
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
    def has_records(self) -> bool:
        """Whether a forward pass was recorded since the factors were last asked for."""
        return bool(self._records)
