"""AdaHessian: Adam with an estimate of the Hessian's diagonal in the place of the gradient.

Source: Yao, Gholami, Shen, Mustafa, Keutzer & Mahoney, "ADAHESSIAN: An Adaptive Second Order Optimizer for Machine
Learning", arXiv 2006.00719 (2020), algorithm 1.

| paper                       | here                          | shape              |
|-----------------------------|-------------------------------|--------------------|
| θ_t, g_t                    | `params`, `gradients`         | any, per parameter |
| D = E[z ⊙ H z]              | `diagonals`                   | as θ               |
| D^(s), averaged in blocks   | `averaged`                    | as θ               |
| b                           | `block_size`                  | number             |
| Σ of m_t before 1 - β_1^t   | state `exp_avg`               | as θ               |
| Σ of v_t before 1 - β_2^t   | state `exp_hessian_diag_sq`   | as θ               |
| η, k                        | `lr`, `hessian_power`         | number             |

    m_t = (1 - β_1) Σ_i β_1^{t-i} g_i / (1 - β_1^t)
    v_t = sqrt((1 - β_2) Σ_i β_2^{t-i} D_i^(s) ⊙ D_i^(s) / (1 - β_2^t))^k
    θ_{t+1} = θ_t - η m_t / (v_t + ε)

A second moment has no sign, so that the step goes downhill along directions of negative curvature too. Noise of one
probe enters D squared: it makes v too large and the step short, never the reverse on average.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from steepest.second_order.adahessian_checks import call_without_backward, require_dense, require_group
from steepest.second_order.parameter_diagonals import parameter_diagonals, spatial_average
from steepest.second_order.seeded_optimizer import SeededOptimizer


class AdaHessian(SeededOptimizer):
    """Adam with Hutchinson's estimate of diag H in place of the gradient in the second moment (Yao et al. 2020).

    An estimate costs one Hessian-vector product per probe, shared by all parameters of all groups. It needs the
    gradient with its graph, which can be had in two ways:

    - `step(closure)`, where the closure returns the loss and, unlike other closures of torch, does not call
      `backward`: the step differentiates it, and leaves the gradients in `.grad`. Prefer this one. The graph is
      built only in steps that estimate, and no tensor refers to itself.
    - `loss.backward(create_graph=True)` and then `step()`, as with other implementations: for clipped or accumulated
      gradients. Each `.grad` then refers to a graph that refers to its parameter, a cycle that keeps the whole graph
      in memory (torch warns of it); `step()` breaks it by detaching the gradients.

    Argument names, order and defaults are timm's. Three things differ: D is averaged in blocks with its signs, as in
    the paper (timm and the authors' code average absolute values, which biases D upwards); kernels of any number of
    dimensions are averaged; and v_t averages over estimates instead of steps, with 1 - β_2^(estimates) as correction,
    so that nothing but v_t needs to be stored between estimates.

    Where curvature vanishes but the gradient doesn't, the step is lr m_t / ε: losses with linear directions need a
    larger `eps` or a smaller `hessian_power`. Under `torch.compile` only backends without aot_autograd differentiate
    twice ("eager" does, the default doesn't): leave both the step and the model uncompiled.

    Args:
        params: parameters or parameter groups; dense, of real floating dtypes.
        lr: η.
        betas: β_1 and β_2, in [0, 1).
        eps: ε, added to v_t.
        weight_decay: decoupled: each step multiplies the parameters by 1 - lr * weight_decay first.
        hessian_power: k in [0, 1]; 1 is Newton's scaling on a diagonal Hessian, 0 gradient descent with momentum.
        update_each: steps from one estimate to the next. A parameter whose first gradient comes in between waits
            for the next one. Like `n_samples` one number for all groups.
        n_samples: probes per estimate.
        avg_conv_kernel: whether D is averaged over the space of each kernel, that is over all dimensions of a weight
            after the first two, where it has more than two.
        block_size: b: in matrices, D is averaged over blocks of so many consecutive entries of a row; it must divide
            the number of columns. Vectors are never averaged.
        maximize: ascend instead of descend.
        generator: source of the probes, on the device of all parameters; its state is part of `state_dict`. Without
            it torch's default one.

    Raises:
        TypeError: a parameter is complex, integer or sparse, or an option isn't a number.
        ValueError: no parameter, an option is out of range, a shared one differs between groups, or `block_size`
            doesn't divide a matrix's columns.

    Example:
        On a quadratic with diagonal Hessian one probe finds it exactly, and the first step of lr 1 is Newton's:

        >>> point = torch.tensor([3.0, -2.0], requires_grad=True)
        >>> optimizer = AdaHessian([point], lr=1.0)
        >>> curvature = torch.tensor([1000.0, 0.5])
        >>> optimizer.step(lambda: (curvature * point.square()).sum() / 2)
        tensor(4501.)
        >>> torch.allclose(point, torch.zeros(2), atol=1e-6)
        True
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        hessian_power: float = 1.0,
        update_each: int = 1,
        n_samples: int = 1,
        avg_conv_kernel: bool = False,
        block_size: int = 1,
        *,
        maximize: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.generator = generator
        self.steps = 0
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "hessian_power": hessian_power,
            "update_each": update_each,
            "n_samples": n_samples,
            "avg_conv_kernel": avg_conv_kernel,
            "block_size": block_size,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; its options are checked as the constructor's are, and raise the same."""
        super().add_param_group(param_group)
        try:
            require_group(self.param_groups[-1], self.param_groups[0], self.generator)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state dict with `steps` and the generator's state; as in torch, tensors are not copied."""
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state dict, and set the generator to the state in it.

        Raises:
            ValueError: only one of the state dict and this optimizer has a generator, or the state dict is another
                optimizer's.
        """
        super().load_state_dict(state_dict)
        self.steps = state_dict["steps"]

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies take along: torch's own would leave out the generator."""
        return {**super().__getstate__(), "generator": self.generator, "steps": self.steps}

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Take one step; parameters without gradient are skipped.

        Args:
            closure: returns the loss, one element, without calling backward. Without it, the gradients are those of
                `loss.backward(create_graph=True)`.

        Returns:
            The closure's loss, detached; None without closure.

        Raises:
            TypeError: the closure returns no tensor, or a gradient is sparse.
            ValueError: the closure's loss has more than one element or no graph, or the closure called backward; or
                no gradient has a graph that leads to a parameter, in a step that estimates.
        """
        estimating = self.steps % self.param_groups[0]["update_each"] == 0
        params = [param for group in self.param_groups for param in group["params"] if param.requires_grad]
        loss = None
        if closure is None:
            gradients = [param.grad for param in params]
        else:
            loss = call_without_backward(closure, params)
            gradients = torch.autograd.grad(loss, params, create_graph=estimating, allow_unused=True)
            loss = loss.detach()
        found = {param: gradient for param, gradient in zip(params, gradients, strict=True) if gradient is not None}
        for param in params:
            param.grad = found[param].detach() if param in found else None
        require_dense(found.values())
        diagonals = None
        if estimating and found:
            n_samples = self.param_groups[0]["n_samples"]
            estimates = parameter_diagonals(list(found), list(found.values()), n_samples, self.generator)
            diagonals = dict(zip(found, estimates, strict=True))
        for group in self.param_groups:
            self._update(group, found, diagonals)
        self.steps += 1
        return loss

    def _update(
        self,
        group: dict[str, Any],
        gradients: dict[torch.Tensor, torch.Tensor],
        diagonals: dict[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """Apply the three equations at the top of this module to a group."""
        params = [
            param for param in group["params"] if param in gradients and (diagonals is not None or param in self.state)
        ]
        if not params:
            return
        for param in params:
            state = self.state[param]
            if not state:
                state.update(step=0, estimates=0)
                state.update(exp_avg=torch.zeros_like(param), exp_hessian_diag_sq=torch.zeros_like(param))
            state["step"] += 1
            state["estimates"] += diagonals is not None
        states = [self.state[param] for param in params]
        averages = [state["exp_avg"] for state in states]
        squares = [state["exp_hessian_diag_sq"] for state in states]

        lr, (beta1, beta2), power = group["lr"], group["betas"], group["hessian_power"] / 2
        ascents = [gradients[param] for param in params]
        torch._foreach_lerp_(averages, torch._foreach_neg(ascents) if group["maximize"] else ascents, 1 - beta1)
        if diagonals is not None:
            averaged = [
                spatial_average(diagonals[param], group["block_size"], group["avg_conv_kernel"]) for param in params
            ]
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, averaged, averaged, 1 - beta2)
        # With c = (1 - β_2^n)^(k/2), v_t + ε = (s^(k/2) + c ε) / c: corrected without passing over s once more.
        corrections = [(1 - beta2 ** state["estimates"]) ** power for state in states]
        denominators = torch._foreach_pow(squares, power)
        torch._foreach_add_(denominators, [correction * group["eps"] for correction in corrections])
        if group["weight_decay"] != 0:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        step_sizes = [
            -lr * correction / (1 - beta1 ** state["step"])
            for correction, state in zip(corrections, states, strict=True)
        ]
        torch._foreach_addcdiv_(params, averages, denominators, step_sizes)
