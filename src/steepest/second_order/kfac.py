"""K-FAC: natural gradient steps with a Kronecker-factored Fisher matrix, as a torch optimizer.

Sources: Martens & Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", arXiv
1503.05671, sections 3 to 6, block-diagonal; Grosse & Martens, arXiv 1602.01573, for convolutions.

| paper                  | here                            | shape  |
|------------------------|---------------------------------|--------|
| A = E[ā āᵀ]            | `state["input_factor"]`         | (I, I) |
| G = E[g gᵀ]            | `state["gradient_factor"]`      | (O, O) |
| ε                      | `decay`, the most it becomes    | number |
| A⁻¹, G⁻¹, both damped  | `state["input_inverse"]`, `state["gradient_inverse"]` | |
| V, of weight and bias  | `gradient`                      | (O, I) |
| U = G⁻¹ V A⁻¹          | `natural`                       | (O, I) |
| λ                      | `damping`                       | number |

State stands under the layer's weight. I includes 1 for a bias. The papers stack columns; with the rows of (O, I) one
after the other, as torch flattens, the block of the Fisher matrix is `torch.kron(G, A)`.
"""

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch

from steepest.second_order.fisher import LIKELIHOODS, output_scores
from steepest.second_order.kfac_checks import require_group
from steepest.second_order.kfac_factors import renew_inverses, update_averages
from steepest.second_order.layer_recorder import LayerRecorder
from steepest.second_order.seeded_optimizer import SeededOptimizer
from steepest.validation import require_count, require_tensor


class KFAC(SeededOptimizer):
    """Steps -lr G⁻¹ V A⁻¹ for the weights and biases of Linear and Conv2d layers; plain gradient for all others.

    The Fisher matrix of a layer is E[āāᵀ ⊗ ggᵀ], with g the gradient in its output. K-FAC takes A ⊗ G for it,
    as if ā and g were independent (Martens & Grosse, section 3), and for Conv2d as if places of an image were
    uncorrelated and alike (Grosse & Martens, section 3). For Linear layers it is exact with one datum, and in
    deep linear networks with squared error. Inverting A and G costs O(I³ + O³) for a block that would take O(I³ O³).

    Training has one line more, `update_factors(outputs)` before `backward`, as in the example. The loss is the mean
    over the N rows of `outputs` of a negative log-likelihood. A is 1/N times a sum over data and places; G is the mean
    over data and places of ggᵀ, with g of each datum's own negative log-likelihood, not divided by N. A loss with
    another scale, such as `mse_loss` (2 / C of "gaussian"), needs another `lr`.

    Other layers' parameters, those of layers without a forward call of their own (as in MultiheadAttention), and a
    bias whose weight isn't in `params` take the plain gradient. A layer is called once in a forward pass of `model`.
    Under `torch.compile` the steps are the same, but what the hooks watch runs uncompiled. Of several processes each
    has the factors of its own data. Copies of the model aren't watched, and pickling it whole needs `remove_hooks`.

    Args:
        params: parameters (float32 or float64) or groups. A layer's factors have the options of its weight's group.
        model: the module whose Linear and Conv2d layers are watched by hooks, until `remove_hooks`.
        lr: step size, in units of the natural gradient step.
        damping: λ >= 0, shared out to both factors by π (section 6.3).
        momentum: factor of the running sum of steps, as in `torch.optim.SGD`.
        decay: of the running averages. The k-th update has weight max(1/k, 1 - decay) (section 5).
        factor_interval: steps from one update of the factors to the next.
        inverse_interval: steps from one inversion to the next.
        maximize: whether to step uphill.
        likelihood: "categorical", outputs being logits, or "gaussian" with unit variance; see `fisher_information`.
        samples: labels drawn for each datum, a backward pass each; None for the exact expectation, C passes.
        generator: source of the labels, on the device of all parameters; its state is part of `state_dict`. Without
            it torch's default one.

    Raises:
        TypeError: a parameter is complex, sparse or of another dtype, or an argument has a wrong type.
        ValueError: an option is out of range; no weight of a Linear or Conv2d is in `params`, or one with groups is, or
            a weight or bias of theirs that another module has too.

    Example:
        The features' scales differ by 100; one step with the exact factors solves the least squares anyway:

        >>> inputs = torch.tensor([[1.0, 0.0], [0.0, 100.0], [1.0, 100.0]])
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = KFAC(model.parameters(), model, lr=1.0, damping=0.0, likelihood="gaussian", samples=None)
        >>> outputs = model(inputs)
        >>> optimizer.update_factors(outputs)
        >>> ((outputs - inputs @ torch.tensor([[3.0], [0.01]]) - 5.0).square().sum(1) / 2).mean().backward()
        >>> optimizer.step()
        >>> torch.allclose(model.weight, torch.tensor([[3.0, 0.01]]), atol=1e-4), round(model.bias.item(), 3)
        (True, 5.0)
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        model: torch.nn.Module,
        lr: float = 0.1,
        damping: float = 1e-2,
        momentum: float = 0.0,
        decay: float = 0.95,
        factor_interval: int = 1,
        inverse_interval: int = 1,
        *,
        maximize: bool = False,
        likelihood: str = "categorical",
        samples: int | None = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
        if samples is not None:
            require_count("samples", samples)
        self.likelihood, self.samples, self.generator = likelihood, samples, generator
        self._recorder = LayerRecorder(model)
        self._group_index: dict[torch.Tensor, int] = {}
        defaults = {
            "lr": lr,
            "damping": damping,
            "momentum": momentum,
            "decay": decay,
            "factor_interval": factor_interval,
            "inverse_interval": inverse_interval,
            "maximize": maximize,
        }
        super().__init__(params, defaults)
        if not any(weight in self._group_index for weight in self._recorder.layers):
            raise ValueError("params must hold the weight of a Linear or Conv2d layer of model, and hold none")
        self._recorder.watch(self._is_due)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, with the constructor's errors; a bias after its weight takes the plain gradient."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            require_group(group, self._recorder, self.generator)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._group_index.update(dict.fromkeys(group["params"], len(self.param_groups) - 1))

    def state_dict(self) -> dict[str, Any]:
        """Return the state, which later steps don't change."""
        packed = super().state_dict()
        return {**packed, "state": {key: dict(entries) for key, entries in packed["state"].items()}}

    def __getstate__(self) -> NoReturn:
        """Refuse copies, which would watch no model."""
        raise TypeError("KFAC can't be copied or pickled: make one for the copy of model, and load the state_dict")

    def remove_hooks(self) -> None:
        """Stop watching the model; the optimizer goes on with the factors that it has."""
        self._recorder.remove()

    @torch.no_grad()
    def update_factors(self, outputs: torch.Tensor, targets: torch.Tensor | None = None) -> None:
        """Bring the running averages up to date; call it between forward and backward pass, or it has no graph.

        Where no layer's update is due it returns at once. The `grad` of the parameters isn't touched.

        Args:
            outputs: (N, C), what the last forward pass returned, or rows made of it (one for each token, say).
            targets: None for labels drawn from the model. With the data's labels it is the `empirical_fisher`.

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: shapes don't fit, `outputs` has no graph or isn't of the last forward pass, or that had none.
        """
        if not any(self._is_due(weight) for weight in self._recorder.layers):
            return
        if not self._recorder.has_pass:
            raise ValueError("update_factors needs a forward pass of model, with gradients, before each call")
        require_tensor("outputs", outputs)
        if not outputs.requires_grad:
            raise ValueError("outputs must have a graph; pass what model returned, not detached")
        # In the parameters' precision, whatever autocast makes of outputs and products.
        precise = outputs.detach().to(self.param_groups[0]["params"][0].dtype)
        scores = output_scores(precise, self.likelihood, targets, self.samples, self.generator)  # (N, K, C)
        recorded = self._recorder.recorded
        known = {weight for weight in self._recorder.layers if "updates" in self.state.get(weight, {})}
        with torch.autocast(outputs.device.type, enabled=False):
            factors = self._recorder.factors(outputs, scores, lambda weight: len(self._parameters_of(weight)) == 2)
        # A layer beside the outputs never leads to them.
        if not factors and recorded and (recorded & known or not known):
            raise ValueError(
                "outputs must come from the last forward pass of model; no layer recorded there led to them"
            )
        for weight, (input_factor, gradient_factor) in factors.items():
            update_averages(self.state[weight], input_factor, gradient_factor, self._group_of(weight)["decay"])

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Take a step from the gradients; return the closure's loss, if there is a closure.

        The host reads device values only when inverses are renewed, once for all layers: whether they exist.

        Raises:
            TypeError: a gradient is sparse.
            ValueError: no layer has factors yet, or a damped factor is singular.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        directions = {p: p.grad for p in self._group_index if p.grad is not None}
        for gradient in directions.values():
            require_tensor("gradient", gradient)
        layered = [weight for weight in self._recorder.layers if weight in directions]
        known = [weight for weight in layered if "updates" in self.state.get(weight, {})]
        if layered and not known:
            raise ValueError("KFAC.step needs factors: call update_factors(outputs) between forward and backward pass")
        whole = [weight for weight in known if all(p in directions for p in self._parameters_of(weight))]
        self._renew_inverses(whole)
        for weight in whole:
            state, parameters = self.state[weight], self._parameters_of(weight)
            gradient = torch.cat([directions[p].reshape(len(weight), -1) for p in parameters], dim=1)  # (O, I)
            with torch.autocast(gradient.device.type, enabled=False):
                natural = state["gradient_inverse"] @ gradient @ state["input_inverse"]  # (O, I)
            for parameter, part in zip(parameters, natural.split([p[0].numel() for p in parameters], 1), strict=True):
                directions[parameter] = part.reshape(parameter.shape)
            state["step"] += 1
        for parameter, direction in directions.items():
            group = self._group_of(parameter)
            if group["momentum"]:
                buffer = self.state[parameter].get("momentum_buffer")
                direction = direction.clone() if buffer is None else direction + group["momentum"] * buffer
                self.state[parameter]["momentum_buffer"] = direction
            parameter.add_(direction, alpha=group["lr"] if group["maximize"] else -group["lr"])
        return loss

    def _parameters_of(self, weight: torch.Tensor) -> list[torch.Tensor]:
        """Return the layer's parameters that its factors cover: the weight, and the bias if it is optimized."""
        bias = self._recorder.layers[weight].bias
        state = self.state.get(weight, {})
        if "updates" in state:
            covered = len(state["input_factor"]) > weight[0].numel()
        else:
            covered = bias is not None and bias.requires_grad and bias in self._group_index
        return [weight, bias] if covered else [weight]

    def _group_of(self, parameter: torch.Tensor) -> dict[str, Any]:
        return self.param_groups[self._group_index[parameter]]

    def _is_due(self, weight: torch.Tensor) -> bool:
        step = self.state.get(weight, {}).get("step", 0)
        return weight in self._group_index and step % self._group_of(weight)["factor_interval"] == 0

    def _renew_inverses(self, weights: list[torch.Tensor]) -> None:
        due = {}
        for weight in weights:
            state, group = self.state[weight], self._group_of(weight)
            if "input_inverse" not in state or state["step"] % group["inverse_interval"] == 0:
                due[self._recorder.names[weight]] = state, group["damping"]
        renew_inverses(due)
