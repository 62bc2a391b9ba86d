"""Newton-CG: Newton's method whose linear systems conjugate gradients solve, from Hessian-vector products.

Sources: Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), algorithm 7.1 (line-search Newton-CG); Nash,
"A survey of truncated-Newton methods", J. Comp. Appl. Math. 124 (2000); Martens, "Deep learning via Hessian-free
optimization", ICML (2010), section 4.1 for the damping.

| paper         | here                               | shape        |
|---------------|------------------------------------|--------------|
| x_k           | `current.point`                    | (D,)         |
| f_k, ∇f_k     | `current.value`, `.gradient`       | number, (D,) |
| B_k d         | `current.product(d) + damping * d` | (D,)         |
| η_k (7.3)     | `rtol`, at most `forcing`          | number       |
| p_k           | `direction`                        | (D,)         |
| α_k           | `result.step_size`                 | number       |
| λ (Martens)   | `damping`                          | number       |
| ρ (Martens)   | `ratio`                            | number       |
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from steepest.second_order.conjugate_gradient import NEGATIVE_CURVATURE, ConjugateGradientResult, conjugate_gradient
from steepest.second_order.flat_objective import to_host
from steepest.second_order.lbfgs_report import GRADIENT, MAX_ITER, NONFINITE, ROUNDING
from steepest.second_order.line_search import strong_wolfe
from steepest.second_order.validation import require_damping, require_vector
from steepest.validation import require_count, require_nonnegative, require_positive

SEARCH_FAILED = "line search failed along the Newton direction"
# Martens (2010), section 4.1: λ grows by the first factor where the model promised too much, else shrinks.
GROWTH, SHRINKAGE = 3 / 2, 2 / 3


class NewtonCGResult(NamedTuple):
    """What `newton_cg` found.

    Attributes:
        x: (D,), the last iterate; no earlier one had a lower value.
        value: f(x), or inf where f or its gradient isn't finite at `x0`.
        gradient: (D,), the gradient at x.
        iterations: steps taken.
        gradient_evaluations: calls of `fn`, each with one backward pass.
        hessian_vector_products: backward passes through the graph of a gradient.
        negative_curvatures: iterations in which conjugate gradients met negative curvature.
        damping: λ as adapted at the end.
        converged: whether no entry of the gradient is larger than `tolerance_grad`.
        reason: why it ended, a constant of this module or of `lbfgs_report`.
    """

    x: torch.Tensor
    value: float
    gradient: torch.Tensor
    iterations: int
    gradient_evaluations: int
    hessian_vector_products: int
    negative_curvatures: int
    damping: float
    converged: bool
    reason: str


class CurvatureGraph:
    """A function at one point: value, gradient, and the gradient's graph, kept for products H v.

    A product from scratch evaluates function and gradient first. Here that is done once, and each product is
    one backward pass through the same graph.

    Args:
        fn: maps a vector (D,) to a tensor with one element.
        point: (D,).
        direction: (D,), for the slope; without it the slope is 0.
    """

    def __init__(
        self,
        fn: Callable[[torch.Tensor], torch.Tensor],
        point: torch.Tensor,
        direction: torch.Tensor | None = None,
    ) -> None:
        # Under inference mode autograd records nothing, and every function would look constant.
        with torch.inference_mode(False), torch.enable_grad():
            self._variable = point.clone().detach().requires_grad_()
            loss = fn(self._variable)
            if not isinstance(loss, torch.Tensor):
                raise TypeError(f"fn must return a torch.Tensor, got {type(loss).__name__}")
            if loss.numel() != 1:
                raise ValueError(f"fn must return one element, got shape {tuple(loss.shape)}; sum or average it")
            self._gradient = torch.zeros_like(point)
            if loss.requires_grad:
                (self._gradient,) = torch.autograd.grad(
                    loss.sum(), self._variable, create_graph=True, materialize_grads=True
                )
        self.point = self._variable.detach()
        self.gradient = self._gradient.detach()
        self.products = 0
        slope = loss.new_zeros(()) if direction is None else torch.dot(self.gradient, direction)
        norm = torch.linalg.vector_norm(self.gradient)
        self.value, self.slope, lowest, highest, self.gradient_norm = to_host(
            loss.detach(), slope, *torch.aminmax(self.gradient), norm
        )
        self.gradient_max = max(-lowest, highest)
        if not (math.isfinite(self.value) and math.isfinite(self.gradient_max)):
            self.value = math.inf

    def product(self, vector: torch.Tensor) -> torch.Tensor:
        """Return H v (D,) for v (D,) by one backward pass."""
        self.products += 1
        if not self._gradient.requires_grad:
            return torch.zeros_like(vector)
        (product,) = torch.autograd.grad(
            self._gradient, self._variable, grad_outputs=vector, retain_graph=True, materialize_grads=True
        )
        return product


@torch.no_grad()
def newton_cg(
    fn: Callable[[torch.Tensor], torch.Tensor],
    x0: torch.Tensor,
    *,
    maxiter: int | None = None,
    tolerance_grad: float = 1e-5,
    damping: float = 0.0,
    cg_maxiter: int | None = None,
    forcing: float = 0.25,
    callback: Callable[[torch.Tensor], object] | None = None,
) -> NewtonCGResult:
    """Minimise a function of a vector by line-search Newton-CG (Nocedal & Wright, algorithm 7.1).

    Each iteration solves (H + λI) p = -∇f by conjugate gradients, to a residual of min(η, √|∇f|) |∇f|: loosely far
    from a minimum, and ever tighter near it, so that convergence is superlinear. Where they meet negative curvature, p
    is what they have so far, or -∇f if that is nothing: a descent direction in either case. A strong Wolfe search
    along p, from step 1, follows.

    The Hessian isn't formed: its products share one graph of the gradient, that of the point which the line search
    accepted. The host reads once per product and evaluation, and twice more per iteration.

    With λ > 0, λ is adapted after each iteration (Levenberg and Marquardt; Martens 2010, section 4.1). With ρ the
    decrease of f at step 1 over the decrease of the damped quadratic model there, λ is multiplied by 3/2 where
    ρ < 1/4 or the gradient itself has negative curvature, and by 2/3 where ρ > 3/4.

    Args:
        fn: maps a vector (D,) to a tensor with one element; deterministic, and twice differentiable by autograd,
            which functions from `torch.compile` aren't.
        x0: (D,), float32 or float64, the start.
        maxiter: most iterations, 200 D by default as in scipy.
        tolerance_grad: >= 0; it ends where no entry of the gradient is larger.
        damping: λ >= 0 at the start, in the unit of the Hessian; 0 leaves it out for good.
        cg_maxiter: most products in an iteration, 20 D by default as in scipy.
        forcing: η in (0, 1). The book's example is 0.5; along curved valleys 0.25 takes fewer steps and products.
        callback: called with x (D,) after each iteration, a new tensor each time.

    Returns:
        A `NewtonCGResult`, detached. `x0` is left unchanged.

    Raises:
        TypeError: `x0` isn't a float32 or float64 tensor, `fn` returns no tensor, or a number isn't one.
        ValueError: `x0` isn't a vector, `fn` returns more than one element, or a number is out of range.

    Example:
        >>> def rosenbrock(x):
        ...     return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> result = newton_cg(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64))
        >>> result.converged, result.x.round(decimals=4)
        (True, tensor([1., 1.], dtype=torch.float64))
    """
    require_vector("x0", x0)
    maxiter = 200 * x0.numel() if maxiter is None else maxiter
    cg_maxiter = 20 * x0.numel() if cg_maxiter is None else cg_maxiter
    require_count("maxiter", maxiter)
    require_count("cg_maxiter", cg_maxiter)
    require_nonnegative("tolerance_grad", tolerance_grad)
    require_damping(damping)
    require_positive("forcing", forcing)
    if not forcing < 1:
        raise ValueError(f"forcing must be < 1, got {forcing}: at 1 the step 0 would do")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {type(callback).__name__}")

    current = CurvatureGraph(fn, x0)
    iterations, evaluations, products, negative_curvatures = 0, 1, 0, 0
    reason = MAX_ITER if math.isfinite(current.value) else NONFINITE
    while reason == MAX_ITER and current.gradient_max > tolerance_grad and iterations < maxiter:
        inner = _solve(current, damping, forcing, cg_maxiter)
        direction = inner.solution if inner.iterations else -current.gradient
        products += current.products
        negative_curvatures += inner.reason == NEGATIVE_CURVATURE
        (slope,) = to_host(torch.dot(current.gradient, direction))
        # The gradient isn't zero, so a slope of zero has left the range of the dtype.
        if not -math.inf < slope < 0:
            reason = ROUNDING
            break
        trial_values: list[float] = []
        result = strong_wolfe(_along(fn, current.point, direction, trial_values), 1.0, current.value, slope)
        evaluations += result.evaluations
        # Conjugate gradients from 0 end with pᵀB p = -pᵀ∇f, so the model falls by half the slope.
        ratio = (current.value - trial_values[0]) / (-0.5 * slope)
        if ratio < 0.25 or inner.iterations == 0:
            damping *= GROWTH
        elif ratio > 0.75:
            damping *= SHRINKAGE
        if result.payload is None:
            rounding = abs(slope) <= torch.finfo(x0.dtype).eps * abs(current.value)
            reason = ROUNDING if rounding else SEARCH_FAILED
            break
        current = result.payload
        iterations += 1
        if callback is not None:
            callback(current.point)

    converged = reason == MAX_ITER and current.gradient_max <= tolerance_grad
    return NewtonCGResult(
        current.point,
        current.value,
        current.gradient,
        iterations,
        evaluations,
        products,
        negative_curvatures,
        damping,
        converged,
        GRADIENT if converged else reason,
    )


def _solve(current: CurvatureGraph, damping: float, forcing: float, maxiter: int) -> ConjugateGradientResult:
    """Run the inner loop of algorithm 7.1 on (H + λI) p = -∇f."""
    return conjugate_gradient(
        lambda vector: torch.add(current.product(vector), vector, alpha=damping),
        -current.gradient,
        rtol=min(forcing, math.sqrt(current.gradient_norm)),
        maxiter=maxiter,
        true_residual=False,
    )


def _along(
    fn: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor, direction: torch.Tensor, values: list[float]
) -> Callable[[float], tuple[float, float, CurvatureGraph]]:
    """Return φ for `strong_wolfe`, which also appends its values to a list."""

    def evaluate(step_size: float) -> tuple[float, float, CurvatureGraph]:
        trial = CurvatureGraph(fn, torch.add(point, direction, alpha=step_size), direction)
        values.append(trial.value)
        return trial.value, trial.slope, trial

    return evaluate
