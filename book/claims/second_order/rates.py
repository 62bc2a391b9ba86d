"""Claims of the question: why do second-order methods converge faster? How fast they converge."""

import math
from functools import partial

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.second_order.problems import (
    breast_cancer,
    hessian,
    logistic_loss,
    random_quadratic,
    synthetic_classes,
    value_and_gradient,
)
from book.claims.second_order.scaling import fastest, slope
from book.claims.second_order.solvers import gradient_descent, newton
from book.claims.wording import median, number, spread
from steepest.second_order import newton_step


def measure_rates(seed: int) -> Values:
    """Slopes of the mean loss of SGD over 2,000 runs on x²/2 and |x|, and the factor per step of gradient descent."""
    generator = torch.Generator().manual_seed(seed)
    runs, marks = 2000, [30, 100, 300, 1000, 3000, 10000]
    losses = {"strongly convex": [], "convex": []}
    strong = torch.ones(runs, dtype=torch.float64)
    convex = torch.ones(runs, dtype=torch.float64)
    for k in range(1, marks[-1] + 1):
        noise = torch.randn(2, runs, generator=generator, dtype=torch.float64)
        strong = strong - (strong + noise[0]) / (k + 1)
        convex = convex - (convex.sign() + noise[1]) / math.sqrt(k)
        if k in marks:
            losses["strongly convex"].append((0.5 * strong**2).mean().item())
            losses["convex"].append(convex.abs().mean().item())
    condition = 10.0
    matrix, minimum = random_quadratic(20, condition, generator)
    point = torch.zeros(20, dtype=torch.float64)
    distances = []
    for _ in range(60):
        point = point - 2 / (1 + 1 / condition) * (matrix @ (point - minimum))
        distances.append(float((point - minimum).norm()))
    return {
        "runs": runs,
        "steps": marks[-1],
        "slope of SGD on x²/2, rate 1/k": slope(marks, losses["strongly convex"]),
        "slope of SGD on |x|, rate 1/√k": slope(marks, losses["convex"]),
        "condition number": condition,
        "factor per step of gradient descent": (distances[-1] / distances[-21]) ** (1 / 20),
        "(κ − 1)/(κ + 1)": (condition - 1) / (condition + 1),
    }


def judge_rates(values: Values) -> Verdict:
    """With conditions if each rate appears in its own class and exact gradients converge linearly; else not."""
    strong, convex = values["slope of SGD on x²/2, rate 1/k"], values["slope of SGD on |x|, rate 1/√k"]
    factor, predicted = values["factor per step of gradient descent"], values["(κ − 1)/(κ + 1)"]
    sentence = (
        f"With noisy gradients the mean loss falls as k to the power {number(strong)} on a strongly convex function "
        f"and to the power {number(convex)} on one that is only convex (slopes over {values['steps']:,} steps, "
        f"{values['runs']:,} runs). Without noise gradient descent on a quadratic with condition number "
        f"{number(values['condition number'])} multiplies its error by {number(factor, 3)} a step; "
        f"(κ − 1)/(κ + 1) is {number(predicted, 3)}."
    )
    classes = abs(strong + 1) < 0.1 and abs(convex + 0.5) < 0.1
    return Verdict(CONDITIONAL if classes and abs(factor - predicted) < 0.02 else FAILS, sentence)


def measure_order(seed: int) -> Values:
    """The exponent p of e_{k+1} ~ e_k^p: logistic regression near and far from its minimum, and x⁴."""
    generator = torch.Generator().manual_seed(seed)
    features, labels = breast_cancer()
    loss = logistic_loss(features, labels, penalty=1e-2)
    minimum = torch.zeros(features.shape[1], dtype=torch.float64)
    for _ in range(30):
        minimum = minimum + newton_step(value_and_gradient(loss, minimum)[1], hessian(loss, minimum))

    def errors(direction: torch.Tensor, distance: float, steps: int) -> list[float]:
        point = minimum + distance * direction
        found = [distance]
        for _ in range(steps):
            point = point + newton_step(value_and_gradient(loss, point)[1], hessian(loss, point))
            found.append(float((point - minimum).norm()))
            if not found[-1] < 1e6:
                break
        return found

    offsets = torch.randn(10, len(minimum), generator=generator, dtype=torch.float64)
    directions = offsets / offsets.norm(dim=1, keepdim=True)
    distances = [1e-1, 1e-2, 1e-3, 1e-4]
    orders = [
        slope(distances, [errors(direction, distance, 1)[1] for distance in distances]) for direction in directions
    ]
    digits = [round(-math.log10(error), 1) for error in errors(directions[0], 0.1, 4)]
    far_distance = 10.0
    far = [errors(direction, far_distance, 20)[-1] for direction in directions]
    quartic = [1.0]
    for _ in range(20):
        x = torch.tensor([quartic[-1]], dtype=torch.float64)
        quartic.append(float(x + newton_step(4 * x**3, 12 * x.outer(x))))
    return {
        "starts": len(directions),
        "orders near the minimum": orders,
        "correct digits, step by step, from one start": digits,
        "distance of far starts": far_distance,
        "far starts that do not converge": sum(not error < 1e-6 for error in far),
        "order on x⁴, whose Hessian is singular": slope(quartic[:-1], quartic[1:]),
        "factor per step on x⁴": quartic[-1] / quartic[-2],
    }


def judge_order(values: Values) -> Verdict:
    """Holds if the order is 2 throughout; with conditions if only near a minimum with a regular Hessian."""
    near, singular = values["orders near the minimum"], values["order on x⁴, whose Hessian is singular"]
    lost = values["far starts that do not converge"]
    digits = " → ".join(number(value) for value in values["correct digits, step by step, from one start"])
    sentence = (
        f"Logistic regression on breast-cancer data: near the minimum the order is {spread(near, 3)}, from one "
        f"start correct digits {digits}; {lost} of {values['starts']} starts at a distance of "
        f"{number(values['distance of far starts'])} do not converge. On x⁴, whose Hessian is singular at the "
        f"minimum, the order is {number(singular, 3)}: each step multiplies the error by "
        f"{number(values['factor per step on x⁴'], 3)}."
    )
    if not 1.75 < median(near) < 2.25:
        return Verdict(FAILS, sentence)
    return Verdict(HOLDS if lost == 0 and singular > 1.75 else CONDITIONAL, sentence)


def measure_speed(seed: int) -> Values:
    """Iterations and time to the same gradient norm, Newton against gradient descent, over the dimension."""
    generator = torch.Generator().manual_seed(seed)
    sizes, iterations, times = [10, 50, 200, 500], [], []
    for size in sizes:
        features, labels = synthetic_classes(size, 1000, generator)
        penalty = 3e-3
        loss = logistic_loss(features, labels, penalty)
        # The logistic loss bends by at most 1/4 in its score.
        curvature = 0.25 * float(torch.linalg.eigvalsh(features.T @ features / len(features))[-1]) + penalty
        start = torch.zeros(size, dtype=torch.float64)
        contenders = [
            partial(newton, loss, start, tolerance=1e-6),
            partial(gradient_descent, loss, start, rate=1 / curvature, tolerance=1e-6),
        ]
        iterations.append([contender() for contender in contenders])
        times.append(fastest(contenders, repeats=2))
    return {
        "dimensions": sizes,
        "iterations of Newton": [pair[0] for pair in iterations],
        "gradient evaluations of gradient descent": [pair[1] for pair in iterations],
        "time of Newton over gradient descent": [pair[0] / pair[1] for pair in times],
    }


def judge_speed(values: Values) -> Verdict:
    """Holds if fewer iterations mean less time throughout, with conditions if only in small dimensions.

    Both ends are far from 1 (about 1/4 and 3); a Hessian three times cheaper in gradients, or one that is sparse,
    would turn it.
    """
    ratios, sizes = values["time of Newton over gradient descent"], values["dimensions"]
    few, many = values["iterations of Newton"], values["gradient evaluations of gradient descent"]
    sentence = (
        f"On logistic regression Newton needs {min(few)} to {max(few)} iterations and gradient descent {min(many)} "
        f"to {max(many)}, but Newton's time over that of gradient descent is {number(ratios[0])} at D = {sizes[0]} "
        f"and {number(ratios[-1])} at D = {sizes[-1]}."
    )
    fewer = all(a < b for a, b in zip(few, many, strict=True))
    if not fewer or min(ratios) > 1:
        return Verdict(FAILS, sentence)
    return Verdict(HOLDS if max(ratios) < 1 else CONDITIONAL, sentence)


CLAIMS = (
    Claim(
        "second_order.1.4",
        measure_rates,
        judge_rates,
        (
            {"slope of SGD on x²/2, rate 1/k": -0.5},
            {"slope of SGD on |x|, rate 1/√k": -1.0},
            {"factor per step of gradient descent": 0.99},
        ),
    ),
    Claim(
        "second_order.1.5",
        measure_order,
        judge_order,
        (
            {"orders near the minimum": [1.0] * 10},
            {"far starts that do not converge": 0, "order on x⁴, whose Hessian is singular": 2.0},
        ),
    ),
    Claim(
        "second_order.1.6",
        measure_speed,
        judge_speed,
        (
            {"time of Newton over gradient descent": [0.2, 0.3, 0.4, 0.5]},
            {"time of Newton over gradient descent": [1.5, 2.0, 4.0, 8.0]},
            {"iterations of Newton": [500, 500, 500, 500], "gradient evaluations of gradient descent": [5, 5, 5, 5]},
        ),
    ),
)
