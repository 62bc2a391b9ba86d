"""Linear conjugate gradients: A x = b for symmetric positive definite A, from products A d alone.

Sources: Hestenes & Stiefel, "Methods of conjugate gradients for solving linear systems", J. Research NBS 49
(1952); Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), algorithms 5.2 and 5.3, and for the stop at
negative curvature algorithm 7.1.

| book          | here                                | shape |
|---------------|-------------------------------------|-------|
| A d           | `matvec(d)`                         | (D,)  |
| M^-1 r        | `preconditioner(r)`                 | (D,)  |
| x_k           | `solution`                          | (D,)  |
| r_k = A x_k - b | -`residual`: here r = b - A x, as in scipy | (D,) |
| y_k           | `preconditioned`                    | (D,)  |
| p_k           | `direction`                         | (D,)  |
| r_k^T y_k     | `rho`                               | ()    |
| p_k^T A p_k   | `curvature`                         | ()    |
| α_k, β_k      | `rho / curvature`, `rho / previous_rho` | () |
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from steepest.second_order.flat_objective import to_host
from steepest.second_order.validation import require_matching, require_vector
from steepest.validation import require_count, require_nonnegative

TOLERANCE = "tolerance: norm of the residual"
MAX_ITER = "maxiter"
NEGATIVE_CURVATURE = "negative curvature: d^T A d <= 0"
PRECONDITIONER = "r^T M r <= 0: preconditioner not positive definite, or residual below the range of the dtype"
NONFINITE = "non-finite product or residual"
ROUNDING = "rounding: the recurrence meets the tolerance, b - A x doesn't"

Operator = Callable[[torch.Tensor], torch.Tensor] | torch.Tensor


class ConjugateGradientResult(NamedTuple):
    """What `conjugate_gradient` found.

    Attributes:
        solution: (D,), the last iterate x.
        iterations: steps taken; each needed one product with A.
        residual_norm: |b - A x|, computed from `solution` at the end; nan with `true_residual=False`.
        recurrence_norm: the norm of the residual that the recurrence r <- r - α A d carries along. Rounding
            makes it go on falling where |b - A x| no longer does.
        converged: whether the norm of the residual is at most max(rtol |b|, atol), the true one if computed.
        reason: why it ended, one of this module's constants.
        direction: (D,), d with d^T A d <= 0 if that is the reason, else None.
    """

    solution: torch.Tensor
    iterations: int
    residual_norm: float
    recurrence_norm: float
    converged: bool
    reason: str
    direction: torch.Tensor | None


@torch.no_grad()
def conjugate_gradient(
    matvec: Operator,
    b: torch.Tensor,
    x0: torch.Tensor | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    preconditioner: Operator | None = None,
    callback: Callable[[torch.Tensor], object] | None = None,
    true_residual: bool = True,
) -> ConjugateGradientResult:
    """Solve A x = b for symmetric positive definite A (Nocedal & Wright, algorithms 5.2 and 5.3).

    Each step minimises ½ xᵀA x - bᵀx along a direction conjugate to all earlier ones (d_iᵀA d_j = 0), and so
    undoes nothing. In exact arithmetic k distinct eigenvalues take k steps; the work is one product with A a
    step, and the memory a few vectors. Where dᵀA d <= 0 turns up, A isn't positive definite, the quadratic has
    no minimum along d, and the iteration ends there with x as it was (algorithm 7.1).

    Arguments, defaults and stopping rule are those of `scipy.sparse.linalg.cg`, its `M` spelled out. The host
    reads three scalars an iteration, in one transfer. Gradients don't flow through; `torch.compile` breaks the
    graph at each transfer.

    Args:
        matvec: maps d (D,) to A d (D,), or A itself, a dense (D, D) tensor. It is called without autograd,
            once with each direction, which changes afterwards: copy it to keep it. A isn't checked for symmetry.
        b: (D,), float32 or float64.
        x0: (D,), the start; zero by default, which saves a product.
        rtol: relative tolerance, >= 0.
        atol: absolute tolerance, >= 0; it ends where |r| <= max(rtol |b|, atol).
        maxiter: most iterations, 10 D by default.
        preconditioner: maps r (D,) to an approximation of A^-1 r, or that matrix; symmetric positive definite.
        callback: called with a copy of x (D,) after each iteration.
        true_residual: whether to compute b - A x at the end, for one more product.

    Returns:
        A `ConjugateGradientResult`. The inputs are left unchanged.

    Raises:
        TypeError: a tensor, or what an operator returned, isn't float32 or float64 or dtypes differ, or a
            number or a callable isn't one.
        ValueError: shapes or devices don't fit, a tolerance is negative or not finite, or maxiter is < 1.

    Example:
        Three unknowns, but two distinct eigenvalues:

        >>> a = torch.diag(torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64))
        >>> b = torch.tensor([1.0, 2.0, 8.0], dtype=torch.float64)
        >>> result = conjugate_gradient(a, b, rtol=1e-12)
        >>> result.solution.round(decimals=6), result.iterations, result.converged
        (tensor([1., 2., 2.], dtype=torch.float64), 2, True)
    """
    require_vector("b", b)
    b = b.detach()
    if x0 is not None:
        require_matching("x0", x0, tuple(b.shape), "b", b)
    require_nonnegative("rtol", rtol)
    require_nonnegative("atol", atol)
    if maxiter is None:
        maxiter = 10 * b.numel()
    require_count("maxiter", maxiter)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {type(callback).__name__}")
    multiply = _operator("matvec", matvec, b)
    precondition = None if preconditioner is None else _operator("preconditioner", preconditioner, b)

    solution = torch.zeros_like(b) if x0 is None else x0.detach().clone()
    residual = b.clone() if x0 is None else b - multiply(solution)
    b_norm, recurrence_norm = to_host(_norm(b), _norm(residual))
    if b_norm == 0:
        return ConjugateGradientResult(torch.zeros_like(b), 0, 0.0, 0.0, True, TOLERANCE, None)
    target = max(rtol * b_norm, atol)
    direction = previous_rho = negative = None
    iterations, reason = 0, MAX_ITER
    if not math.isfinite(recurrence_norm):
        reason = NONFINITE
    elif recurrence_norm <= target:
        reason = TOLERANCE

    while reason == MAX_ITER and iterations < maxiter:
        preconditioned = residual if precondition is None else precondition(residual)
        rho = torch.dot(residual, preconditioned)
        if direction is None:
            direction = preconditioned.clone()
        else:
            torch.addcmul(preconditioned, direction, rho / previous_rho, out=direction)  # (5.39f)
        product = multiply(direction)
        curvature = torch.dot(direction, product)
        # The residual moves on before the host knows whether the step may be taken: one transfer then tells all.
        step_size = rho / curvature  # (5.39a)
        residual.addcmul_(product, step_size, value=-1)
        host_curvature, host_rho, square = to_host(curvature, rho, torch.dot(residual, residual))
        if math.isfinite(host_rho) and host_rho <= 0:
            reason = PRECONDITIONER
        elif math.isfinite(host_curvature) and host_curvature <= 0:
            reason, negative = NEGATIVE_CURVATURE, direction
        elif not math.isfinite(host_curvature + host_rho + square):
            reason = NONFINITE
        else:
            solution.addcmul_(direction, step_size)
            previous_rho, recurrence_norm = rho, math.sqrt(square)
            iterations += 1
            if callback is not None:
                callback(solution.clone())
            if recurrence_norm <= target:
                reason = TOLERANCE

    residual_norm, converged = math.nan, reason == TOLERANCE
    if true_residual:
        (residual_norm,) = to_host(_norm(b - multiply(solution))) if iterations else (recurrence_norm,)
        if converged and not residual_norm <= target:
            converged, reason = False, ROUNDING
    return ConjugateGradientResult(solution, iterations, residual_norm, recurrence_norm, converged, reason, negative)


def _operator(name: str, operator: Operator, b: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function of a vector (D,) that checks what comes out."""
    if isinstance(operator, torch.Tensor):
        require_matching(name, operator, (b.numel(), b.numel()), "b", b)
        return operator.detach().mv
    if not callable(operator):
        raise TypeError(f"{name} must be a callable or a dense matrix, got {type(operator).__name__}")

    def apply(vector: torch.Tensor) -> torch.Tensor:
        product = operator(vector)
        require_matching(f"{name}(vector)", product, tuple(b.shape), "b", b)
        return product.detach()

    return apply


def _norm(vector: torch.Tensor) -> torch.Tensor:
    """Return |v|, in float64: in float32 the squares of entries below 1e-23 would vanish."""
    return torch.linalg.vector_norm(vector, dtype=torch.float64)
