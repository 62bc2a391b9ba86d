"""How the exercises on second-order methods are run, and how the Newton loop is judged."""

import math

import torch

from ..client.judging import Rule, Violation, distance, judged_by, show, structure
from ..client.observe import arrange, call


def newton_step(solution, inputs):
    """One call; see `_call_with_layout`."""
    return _call_with_layout(solution, inputs, "point", "gradient", "hessian", "damping")


def saddle_free_step(solution, inputs):
    """One call; see `_call_with_layout`."""
    return _call_with_layout(solution, inputs, "point", "gradient", "hessian", "damping", "radius")


def bfgs_update(solution, inputs):
    """One call; see `_call_with_layout`."""
    return _call_with_layout(solution, inputs, "hessian", "step", "gradient_change")


def lbfgs_direction(solution, inputs):
    """One call; see `_call_with_layout`."""
    return _call_with_layout(solution, inputs, "gradient", "steps", "gradient_changes")


def _call_with_layout(solution, inputs, *names):
    """Call with the named inputs, tensors in the memory layout that ``inputs["layout"]`` names."""
    layout = inputs["layout"]
    values = {name: inputs[name] for name in names}
    return call(solution, {k: arrange(v, layout) if isinstance(v, torch.Tensor) else v for k, v in values.items()})


def objective(inputs):
    """Gradient and Hessian, as functions of x (D,), of f(x) = Σ_i φ_i(a_i·x) + ridge/2 ‖x‖².

    ``inputs["rows"]`` (n, D) holds the a_i, ``inputs["targets"]`` (n,) the t_i, and ``inputs["problem"]``
    names φ: ``"logistic"`` for φ_i(u) = log(1 + exp(u)) − t_i u, ``"exponential"`` for φ_i(u) = exp(u) − t_i u.
    """
    rows, targets, ridge = inputs["rows"], inputs["targets"], inputs["ridge"]
    logistic = inputs["problem"] == "logistic"
    slope = torch.sigmoid if logistic else torch.exp
    ridge_matrix = ridge * torch.eye(rows.shape[1], dtype=rows.dtype)

    def gradient(x):  # (D,) -> (D,)
        return rows.mT @ (slope(rows @ x) - targets) + ridge * x

    def hessian(x):  # (D,) -> (D, D)
        value = slope(rows @ x)
        curvature = value * (1 - value) if logistic else value
        return rows.mT @ (curvature[:, None] * rows) + ridge_matrix

    return gradient, hessian


def newton_minimize_rule(case, observations):
    """Judge the trace of a Newton loop in layers: type and shape, start, each step, order, stopping rule."""
    if found := structure(case, observations, ignore=("shape",)):
        return found
    got, want = observations["value"], case.expected["value"]
    if got.ndim != 2 or got.shape[1] != want.shape[1] or len(got) == 0:
        return (Violation("shape", f"the trace has shape {tuple(got.shape)}, it must be (K + 1, {want.shape[1]})"),)
    if not got.isfinite().all():
        return (Violation("nan", "the trace holds NaN or infinite entries", f"got       {show(got)}"),)
    common = min(len(got), len(want))
    errors = (got[:common].double() - want[:common].double()).abs().amax(dim=1)
    wrong = (errors > case.tolerance * want.abs().max().item()).nonzero().flatten().tolist()
    if wrong:
        row = wrong[0]
        detail = f"expected  {show(want[row])}\ngot       {show(got[row])}"
        if row == 0:
            return (Violation("start", "row 0 of the trace is not the start", detail),)
        message = f"row {row} of the trace is the first that is not Newton's"
        if (order := convergence_order(got, want)) is not None and order < 1.5:
            message += f"; the errors shrink with order {order:.1f}, Newton's near the minimum with order 2"
        return (Violation("step", message, detail),)
    if len(got) != len(want):
        word = "early" if len(got) < len(want) else "late"
        message = f"stops too {word}: {len(got) - 1} steps, the stopping rule asks for {len(want) - 1}"
        return (Violation("stop", message),)
    return ()


def convergence_order(trace, reference):
    """Exponent p of e_{k+1} ≈ C e_k^p: log(e_{k+1}/e_k) / log(e_k/e_{k−1}) where it is last well defined.

    e_k is the largest component of |x_k − x*|, with x* the last row of the reference's trace (K + 1, D).
    None if fewer than three errors in a row fall and stand clear of the error of x* and of rounding.
    """
    if len(reference) < 3:
        return None
    minimum, scale = reference[-1].double(), max(1.0, reference[-1].abs().max().item())
    # Newton's last step squares the error: x* is off by about the square of that step.
    own_error = (reference[-1] - reference[-2]).abs().max().item() ** 2 / scale
    floor = max(10 * own_error, 1e3 * torch.finfo(trace.dtype).eps * scale)
    errors = (trace.double() - minimum).abs().amax(dim=1).tolist()
    orders = [
        math.log(c / b) / math.log(b / a)
        for a, b, c in zip(errors, errors[1:], errors[2:], strict=False)
        if a > b > c > floor
    ]
    return orders[-1] if orders else None


@judged_by(Rule(newton_minimize_rule, distance))
def newton_minimize(solution, inputs):
    """Run the loop on `objective`; the solution gets its gradient and Hessian as functions."""
    layout = inputs["layout"]
    gradient, hessian = objective(inputs | {"rows": arrange(inputs["rows"], layout)})
    arguments = {"gradient": gradient, "hessian": hessian, "start": arrange(inputs["start"], layout)}
    return call(solution, arguments | {"tolerance": inputs["tolerance"], "max_steps": inputs["max_steps"]})
