"""Claims of the question: why do second-order methods converge faster? What the steps are."""

import math

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.second_order.problems import hessian, random_quadratic, value_and_gradient
from book.claims.second_order.scaling import slope
from book.claims.wording import number
from steepest.second_order import newton_step


def measure_what_the_step_sees(seed: int) -> Values:
    """Steps of torch.optim.SGD and of Newton at one point of two losses: equal gradients there, other curvature."""
    generator = torch.Generator().manual_seed(seed)
    size = 10
    first, minimum = random_quadratic(size, 100.0, generator)
    second, _ = random_quadratic(size, 100.0, generator)
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    gradient = first @ (start - minimum)
    steps = {"SGD": [], "Newton": []}
    for matrix in (first, second):

        def loss(point, matrix=matrix):
            offset = point - start
            return gradient @ offset + 0.5 * offset @ matrix @ offset

        moved = start.clone().requires_grad_()
        loss(moved).backward()
        torch.optim.SGD([moved], lr=0.1).step()
        steps["SGD"].append(moved.detach() - start)
        steps["Newton"].append(newton_step(value_and_gradient(loss, start)[1], hessian(loss, start)))
    values = {"dimension": size}
    for name, (one, other) in steps.items():
        values[f"change of the {name} step when only the Hessian changes"] = float((one - other).norm() / one.norm())
        cosine = torch.nn.functional.cosine_similarity(one, minimum - start, dim=0)
        values[f"angle of the {name} step to the minimum, degrees"] = math.degrees(math.acos(min(1.0, cosine.item())))
    return values


def judge_what_the_step_sees(values: Values) -> Verdict:
    """Holds if SGD's step is blind to a change of the Hessian and Newton's is not."""
    sgd = values["change of the SGD step when only the Hessian changes"]
    newton_change = values["change of the Newton step when only the Hessian changes"]
    angles = [values[f"angle of the {name} step to the minimum, degrees"] for name in ("SGD", "Newton")]
    sentence = (
        f"Another Hessian with the same gradient changes the SGD step by {number(sgd)} times its length and the "
        f"Newton step by {number(newton_change)} times. On a rotated quadratic of dimension {values['dimension']} "
        f"the SGD step points {number(angles[0])}° away from the minimum, the Newton step "
        f"{number(round(angles[1], 2))}°."
    )
    return Verdict(HOLDS if sgd < 1e-6 and newton_change > 0.01 else FAILS, sentence)


def measure_one_step(seed: int) -> Values:
    """Distance to the minimum after one Newton step, relative to the start, on random quadratics in float64."""
    generator = torch.Generator().manual_seed(seed)
    sizes, repeats, condition = [2, 10, 50], 20, 100.0
    worst = 0.0
    for size in sizes:
        for _ in range(repeats):
            matrix, minimum = random_quadratic(size, condition, generator)
            start = torch.randn(size, generator=generator, dtype=torch.float64)
            end = start + newton_step(matrix @ (start - minimum), matrix)
            worst = max(worst, float((end - minimum).norm() / (start - minimum).norm()))
    return {
        "dimensions": sizes,
        "quadratics per dimension": repeats,
        "condition number": condition,
        "largest relative error after one step": worst,
    }


def judge_one_step(values: Values) -> Verdict:
    """Holds if one step reaches the minimum to rounding."""
    error = values["largest relative error after one step"]
    sentence = (
        f"On {values['quadratics per dimension']} random quadratics in each of the dimensions "
        f"{', '.join(map(str, values['dimensions']))}, with condition number "
        f"{number(values['condition number'], 3)}, one step leaves at most {number(error)} of the distance to the "
        "minimum (float64)."
    )
    return Verdict(HOLDS if error < 1e-10 else FAILS, sentence)


def measure_adaptation(seed: int) -> Values:
    """Newton's step along each eigendirection of a Hessian with eigenvalues from 1e-3 to 1e3, and one negative."""
    generator = torch.Generator().manual_seed(seed)
    size = 13
    eigenvalues = torch.logspace(-3, 3, size, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    equal_slopes = torch.ones(size, dtype=torch.float64)
    step = rotation.T @ newton_step(rotation @ equal_slopes, (rotation * eigenvalues) @ rotation.T)
    eigenvalues[0] = -1.0
    indefinite = (rotation * eigenvalues) @ rotation.T
    uphill = rotation.T @ newton_step(rotation @ equal_slopes, indefinite)
    # The loss along the first eigendirection alone: its slope is 1 and its curvature -1.
    change = float(uphill[0] - 0.5 * uphill[0] ** 2)
    return {
        "largest over smallest curvature": 1e6,
        "exponent p of step ~ curvature^p at equal slopes": slope(
            torch.logspace(-3, 3, size, dtype=torch.float64).tolist(), step.abs().tolist()
        ),
        "change of the loss along a direction of negative curvature": change,
    }


def judge_adaptation(values: Values) -> Verdict:
    """Holds if steps shrink as one over the curvature; with conditions if negative curvature sends the step uphill."""
    exponent = values["exponent p of step ~ curvature^p at equal slopes"]
    change = values["change of the loss along a direction of negative curvature"]
    sentence = (
        f"At equal slopes the step along an eigendirection goes as the curvature to the power {number(exponent, 3)}, "
        f"over curvatures that differ by a factor of {number(values['largest over smallest curvature'])}; along a "
        f"direction of negative curvature the step changes the loss by {change:+.2f}, that is "
        f"{'uphill, so the curvature must be positive' if change > 0 else 'downhill'}."
    )
    if abs(exponent + 1) > 0.05:
        return Verdict(FAILS, sentence)
    return Verdict(CONDITIONAL if change > 0 else HOLDS, sentence)


CLAIMS = (
    Claim(
        "second_order.1.1",
        measure_what_the_step_sees,
        judge_what_the_step_sees,
        (
            {"change of the SGD step when only the Hessian changes": 0.5},
            {"change of the Newton step when only the Hessian changes": 0.0},
        ),
    ),
    Claim("second_order.1.2", measure_one_step, judge_one_step, ({"largest relative error after one step": 1e-3},)),
    Claim(
        "second_order.1.3",
        measure_adaptation,
        judge_adaptation,
        (
            {"exponent p of step ~ curvature^p at equal slopes": 0.0},
            {"change of the loss along a direction of negative curvature": -0.5},
        ),
    ),
)
