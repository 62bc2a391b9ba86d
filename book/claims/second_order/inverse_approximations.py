"""Claims of the question: what is the difference between BFGS and L-BFGS? How both approximate the inverse Hessian."""

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.second_order.problems import random_quadratic, rosenbrock, value_and_gradient
from book.claims.second_order.solvers import DenseInverse, quasi_newton, run_lbfgs
from book.claims.wording import number, percent, spread
from steepest.second_order import bfgs_inverse_update, lbfgs_direction


def measure_approach(seed: int) -> Values:
    """‖M − H⁻¹‖ relative to ‖H⁻¹‖ over BFGS steps with exact search on quadratics, float64."""
    size, condition = 10, 100.0
    halfway, last, start_errors = [], [], []
    for run in range(5):
        generator = torch.Generator().manual_seed(1000 * seed + run)
        matrix, minimum = random_quadratic(size, condition, generator)
        point = torch.randn(size, generator=generator, dtype=torch.float64)
        inverse, approximation = torch.linalg.inv(matrix), torch.eye(size, dtype=torch.float64)
        errors = [float((approximation - inverse).norm() / inverse.norm())]
        for _ in range(size):
            gradient = matrix @ (point - minimum)
            direction = -approximation @ gradient
            step = -(gradient @ direction) / (direction @ matrix @ direction) * direction
            approximation = bfgs_inverse_update(approximation, step, matrix @ step)
            point = point + step
            errors.append(float((approximation - inverse).norm() / inverse.norm()))
        start_errors.append(errors[0])
        halfway.append(errors[size // 2])
        last.append(errors[-1])
    return {
        "dimension D": size,
        "condition number": condition,
        "relative errors of M at the start": start_errors,
        "relative errors after D/2 steps": halfway,
        "relative errors after D steps": last,
    }


def judge_approach(values: Values) -> Verdict:
    """Holds if M has become the inverse Hessian after D steps; with conditions if it only came closer."""
    last, first = values["relative errors after D steps"], values["relative errors of M at the start"]
    sentence = (
        f"On quadratics of dimension {values['dimension D']}, with exact line search, the relative distance from M "
        f"to H⁻¹ is {spread(first)} at the start, {spread(values['relative errors after D/2 steps'])} after half "
        f"of D steps and {spread(last)} after D (median and range of {len(last)})."
    )
    if max(last) < 1e-5:
        return Verdict(HOLDS, sentence)
    return Verdict(CONDITIONAL if max(last) < 0.5 * min(first) else FAILS, sentence)


def measure_positive_definite(seed: int) -> Values:
    """BFGS with strong Wolfe search on Rosenbrock-10: eigenvalues of M, and sᵀy of its steps and of shorter ones."""
    generator = torch.Generator().manual_seed(seed)
    size, starts = 10, 20
    smallest, cosines, gradients, lost = [], [], [], 0
    for _ in range(starts):
        point = 2 * torch.randn(size, generator=generator, dtype=torch.float64)
        approximation = DenseInverse(point)
        for taken in quasi_newton(rosenbrock, point, approximation, 1e-6):
            smallest.append(torch.linalg.eigvalsh(approximation.matrix)[0].item())
            cosines.append(float(taken.step @ taken.change / (taken.step.norm() * taken.change.norm())))
            before = taken.gradient - taken.change
            shorter = value_and_gradient(rosenbrock, point + 0.1 * taken.step)[1]
            lost += bool(taken.step @ (shorter - before) <= 0)
            point = point + taken.step
        gradients.append(taken.gradient.abs().max().item())
    return {
        "dimension": size,
        "starts": starts,
        "steps": len(smallest),
        "smallest eigenvalue of M over all steps": min(smallest),
        "smallest cosine of s and y over all steps": min(cosines),
        "largest gradient entry at the end": max(gradients),
        "steps that would have sᵀy ≤ 0 at a tenth of their length": lost,
    }


def judge_positive_definite(values: Values) -> Verdict:
    """Holds if the searched steps keep M positive definite and reach a stationary point."""
    smallest = values["smallest eigenvalue of M over all steps"]
    cosine = values["smallest cosine of s and y over all steps"]
    lost = values["steps that would have sᵀy ≤ 0 at a tenth of their length"]
    sentence = (
        f"On the Rosenbrock function of dimension {values['dimension']}, {values['starts']} starts and "
        f"{values['steps']} steps with strong Wolfe search: the smallest eigenvalue of M is {number(smallest)}, "
        f"the smallest cosine of s and y {number(cosine)}, and the gradient falls to "
        f"{number(values['largest gradient entry at the end'])}. At a tenth of the length that the search found, "
        f"{lost} of the steps would have sᵀy ≤ 0."
    )
    reached = values["largest gradient entry at the end"] < 1e-5
    return Verdict(HOLDS if smallest > 0 and cosine > 0 and reached else FAILS, sentence)


def measure_formula(seed: int) -> Values:
    """The update against what it must satisfy: My = s, symmetry, and the inverse of the direct update of B = M⁻¹."""
    generator = torch.Generator().manual_seed(seed)
    size, updates = 20, 20
    secant = symmetry = inverse = 0.0
    for _ in range(updates):
        matrix, _ = random_quadratic(size, 100.0, generator)
        step = torch.randn(size, generator=generator, dtype=torch.float64)
        change = random_quadratic(size, 100.0, generator)[0] @ step
        new = bfgs_inverse_update(matrix, step, change)
        direct = torch.linalg.inv(matrix)
        image = direct @ step
        direct = direct - image.outer(image) / (step @ image) + change.outer(change) / (change @ step)
        secant = max(secant, float((new @ change - step).norm() / step.norm()))
        symmetry = max(symmetry, float((new - new.T).norm() / new.norm()))
        inverse = max(inverse, float((new @ direct - torch.eye(size, dtype=torch.float64)).norm()))
    return {
        "dimension": size,
        "updates": updates,
        "largest relative error of My = s": secant,
        "largest relative asymmetry": symmetry,
        "largest distance from MB to the identity, B the direct update": inverse,
    }


def judge_formula(values: Values) -> Verdict:
    """Holds if the formula satisfies the secant equation, is symmetric and inverts the direct update, to rounding."""
    secant, symmetry = values["largest relative error of My = s"], values["largest relative asymmetry"]
    inverse = values["largest distance from MB to the identity, B the direct update"]
    sentence = (
        f"Over {values['updates']} random updates of dimension {values['dimension']} the secant equation My = s "
        f"holds to {number(secant)}, symmetry to {number(symmetry)}, and the result is the inverse of the direct "
        f"BFGS update to {number(inverse)} (float64)."
    )
    return Verdict(HOLDS if secant < 1e-9 and symmetry < 1e-9 and inverse < 1e-6 else FAILS, sentence)


def measure_pairs(seed: int) -> Values:
    """What L-BFGS stores, and how its direction changes when the steps change under the same gradient differences."""
    generator = torch.Generator().manual_seed(seed)
    size, memory = 200, 5
    changes = torch.randn(memory, size, generator=generator, dtype=torch.float64)
    gradient = torch.randn(size, generator=generator, dtype=torch.float64)
    directions = []
    for _ in range(2):
        # A positive multiple of y plus something orthogonal to it gives sᵀy > 0 for any length.
        other = torch.randn(memory, size, generator=generator, dtype=torch.float64)
        along = (other * changes).sum(1, keepdim=True) / (changes * changes).sum(1, keepdim=True)
        directions.append(lbfgs_direction(gradient, other - along * changes + changes, changes))
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    _, optimizer = run_lbfgs(rosenbrock, start, 60, memory)
    state = optimizer.state_dict()["state"][0]
    shapes = [list(value.shape) for value in state.values() if isinstance(value, torch.Tensor) and size in value.shape]
    return {
        "parameters D": size,
        "memory m": memory,
        "steps taken": state["iterations"],
        "shapes of the stored vectors": [" × ".join(map(str, shape)) for shape in shapes],
        "stored numbers over mD": sum(rows * columns for rows, columns in shapes) / (memory * size),
        "relative change of the direction with other steps": float(
            (directions[0] - directions[1]).norm() / directions[0].norm()
        ),
    }


def judge_pairs(values: Values) -> Verdict:
    """Does not hold if the steps are stored too and matter to the direction."""
    stored, changed = values["stored numbers over mD"], values["relative change of the direction with other steps"]
    sentence = (
        f"After {values['steps taken']} steps with m = {values['memory m']} and D = {values['parameters D']}, "
        f"L-BFGS holds {number(stored)} times mD numbers ({' and '.join(values['shapes of the stored vectors'])}), "
        "the steps s beside the gradient differences y. Other steps with the same differences change the "
        f"direction by {percent(changed)} of its length."
    )
    return Verdict(FAILS if stored > 1.5 and changed > 0.01 else HOLDS, sentence)


CLAIMS = (
    Claim(
        "second_order.3.1",
        measure_approach,
        judge_approach,
        (
            {"relative errors after D steps": [0.1] * 5, "relative errors of M at the start": [1.0] * 5},
            {"relative errors after D steps": [1.0] * 5},
        ),
    ),
    Claim(
        "second_order.3.2",
        measure_positive_definite,
        judge_positive_definite,
        (
            {"smallest eigenvalue of M over all steps": -0.1},
            {"smallest cosine of s and y over all steps": -0.1},
            {"largest gradient entry at the end": 1.0},
        ),
    ),
    Claim(
        "second_order.3.3",
        measure_formula,
        judge_formula,
        (
            {"largest relative error of My = s": 0.1},
            {"largest distance from MB to the identity, B the direct update": 1.0},
        ),
    ),
    Claim("second_order.3.4", measure_pairs, judge_pairs, ({"stored numbers over mD": 1.0},)),
)
