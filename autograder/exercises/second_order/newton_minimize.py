"""newton_minimize(gradient, hessian, start, tolerance, max_steps): Newton's method, with its trace.

gradient and hessian are functions of x (D,); returns the iterates (K + 1, D) from the start to the
first with max |gradient| <= tolerance, or to the one after max_steps steps.
"""

import math

import torch

from steepest.second_order import newton_step

from ...drivers import second_order as drivers
from ...exercise import Exercise, Misconception
from .sampling import case, vectors

# Any loop that converges linearly is stopped here, well after Newton's is done.
ENOUGH_STEPS = 6


def reference(gradient, hessian, start, tolerance, max_steps):
    """A loop over the book's step."""
    return _loop()(gradient, hessian, start, tolerance, max_steps)


def _book_step(x, gradient, hessian, first):
    return x + newton_step(gradient(x), hessian(x))


def _loop(step=_book_step, converged=None, do_while=False, keep=lambda trace: trace):
    """A Newton loop; the defaults are right.

    `step` takes the point, both functions and the start; `converged` takes the points so far, the
    gradient's function and the tolerance.
    """
    converged = converged or (lambda trace, gradient, tolerance: gradient(trace[-1]).abs().max() <= tolerance)

    def implementation(gradient, hessian, start, tolerance, max_steps):
        trace = [start.clone()]
        for taken in range(max_steps):
            if not (do_while and taken == 0) and converged(trace, gradient, tolerance):
                break
            trace.append(step(trace[-1], gradient, hessian, trace[0]))
        return torch.stack(keep(trace))

    return implementation


def sample(generator, kind):
    """Smooth convex problems. The tolerance lies between two gradients of Newton's path, far from both."""
    plans = {
        "public": [  # problem, D, distance of the start, smallest relative gradient, dtype, layout
            ("logistic", 2, 3.0, 1e-7, "float64", "contiguous"),
            ("logistic", 3, 2.0, 1e-3, "float32", "contiguous"),
            ("logistic", 2, 1.0, None, "float64", "contiguous"),
        ],
        "hidden": [
            ("logistic", 5, 2.0, 1e-7, "float64", "strided"),
            ("exponential", 4, 1.0, 1e-3, "float32", "strided"),
            ("exponential", 1, 1.0, None, "float64", "contiguous"),
        ],
    }
    for problem, size, spread, smallest, dtype, layout in plans[kind]:
        rows = torch.from_numpy(generator.normal(size=(3 * size + 2, size)))
        inputs = {
            "problem": problem,
            "rows": rows,
            "targets": torch.from_numpy(generator.uniform(0.1, 0.9, size=len(rows))),
            "ridge": 0.3,
            "start": vectors(generator, size, scale=spread),
            "max_steps": ENOUGH_STEPS,
        }
        # From too far away Newton may swing to and fro; come closer until it does not.
        while (found := _tolerance(inputs, smallest)) is None:
            inputs["start"] = 0.7 * inputs["start"]
        tolerance, steps = found
        reached = f"{steps} steps" if steps else "start within the tolerance"
        yield case(f"{problem}, D = {size}, {reached}", inputs | {"tolerance": tolerance}, dtype, layout)
    limited = inputs | {"tolerance": 0.0, "max_steps": 2}
    yield case(f"{problem}, D = {size}, stopped after 2 steps", limited)


def _tolerance(inputs, smallest):
    """A tolerance and the number of Newton steps to it; None if it would be a close call, or needs too many."""
    gradient, hessian = drivers.objective(inputs)
    path = reference(gradient, hessian, inputs["start"], 0.0, ENOUGH_STEPS)
    norms = [gradient(x).abs().max().item() for x in path]
    if smallest is None:
        return 2 * norms[0], 0
    steps = max(k for k, norm in enumerate(norms) if norm > smallest * norms[0])
    if not 0 < steps < ENOUGH_STEPS - 1 or norms[steps] > min(norms[:steps]) / 4:
        return None
    return math.sqrt(norms[steps] * min(norms[:steps])), steps


def _in_place(gradient, hessian, start, tolerance, max_steps):
    x = start.clone()
    trace = [x]
    while len(trace) <= max_steps and gradient(x).abs().max() > tolerance:
        x -= torch.linalg.solve(hessian(x), gradient(x))
        trace.append(x)
    return torch.stack(trace)


def _small_step(trace, gradient, tolerance):
    return len(trace) > 1 and (trace[-1] - trace[-2]).abs().max() <= tolerance


MISCONCEPTIONS = (
    Misconception(
        "Hessian of the start",
        _loop(lambda x, g, h, start: x - torch.linalg.solve(h(start), g(x))),
        "Every step uses the Hessian of the start, so the error shrinks by a constant factor. The digits double only "
        "if the curvature is that of the current point.",
        "linear",
    ),
    Misconception(
        "diagonal of the Hessian",
        _loop(lambda x, g, h, start: x - g(x) / h(x).diagonal()),
        "You divide by the Hessian's diagonal. Without the other entries the model is wrong to first order, and the "
        "convergence is linear.",
        "linear",
    ),
    Misconception(
        "half steps",
        _loop(lambda x, g, h, start: x - 0.5 * torch.linalg.solve(h(x), g(x))),
        "Each step is shortened by a learning rate. Near the minimum the full step squares the error; half a step "
        "only halves it.",
        "linear",
    ),
    Misconception(
        "gradient descent",
        _loop(lambda x, g, h, start: x - g(x) / h(x).trace()),
        "You walk along the gradient with one step size for all directions. Newton solves a system with the Hessian.",
        "linear",
    ),
    Misconception(
        "uphill step",
        _loop(lambda x, g, h, start: x + torch.linalg.solve(h(x), g(x))),
        "The error doubles with every step: you walk away from the minimum. Check the sign of the step.",
    ),
    Misconception(
        "one tensor for all rows",
        _in_place,
        "All rows of your trace are the same: the list holds one tensor many times, and each in-place step changes "
        "all of them. Keep a copy of each iterate.",
        "trace",
    ),
    Misconception(
        "start missing",
        _loop(keep=lambda trace: trace[1:] or trace),
        "The trace begins after the first step. Row 0 must be the start.",
        "trace",
    ),
    Misconception(
        "last iterate missing",
        _loop(keep=lambda trace: trace[:-1] or trace),
        "The last iterate is not in the trace: it is recorded before the step and the loop ends after it.",
        "trace",
    ),
    Misconception(
        "stops on small steps",
        _loop(converged=_small_step),
        "You stop when the step is small. The contract asks for the gradient, which costs no further step to know.",
        "stopping",
    ),
    Misconception(
        "steps before it tests",
        _loop(do_while=True),
        "A step is taken even where the start already meets the tolerance. Test before you step.",
        "stopping",
    ),
    Misconception(
        "tolerance ignored",
        _loop(converged=lambda trace, gradient, tolerance: False),
        "The loop always takes max_steps steps. Once the gradient is small enough it must stop.",
        "stopping",
    ),
)

NEWTON_MINIMIZE = Exercise(
    name="newton_minimize",
    topic="second_order",
    points=6,
    difficulty=3,
    importance=5,
    minutes=30,
    sample=sample,
    driver=drivers.newton_minimize,
    reference=reference,
    misconceptions=MISCONCEPTIONS,
    families={
        "linear": "Your errors shrink by a constant factor: linear convergence. Print log e_{k+1} / log e_k and look "
        "at what in your step is not Newton's.",
        "trace": "The iterates are right, the trace is not. It holds the start, then a copy of every iterate.",
        "stopping": "The steps are right, their number is not. Read the stopping rule again: what is tested, and when?",
    },
)
