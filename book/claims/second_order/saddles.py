"""Claims of the question: why don't we use Newton's method in deep learning? Losses that are not convex."""

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.second_order.problems import SmallNetwork, digits, hessian, value_and_gradient
from book.claims.wording import number, percent, spread
from steepest.second_order import newton_step, saddle_free_newton_step


def saddle(point: torch.Tensor) -> torch.Tensor:
    """x² − y² + y⁴/4: a saddle at the origin, where the loss is 0, and minima of −1 at (0, ±√2)."""
    x, y = point
    return x**2 - y**2 + y**4 / 4


def measure_saddle(seed: int) -> Values:
    """Where Newton, |H|-Newton and gradient descent end, from (0.8, 0.4) and from random starts in a square."""
    generator = torch.Generator().manual_seed(seed)
    starts = [torch.tensor([0.8, 0.4]).double()]
    starts += [2.4 * torch.rand(2, generator=generator, dtype=torch.float64) - 1.2 for _ in range(30)]
    rules = {
        "Newton": lambda point, gradient: newton_step(gradient, hessian(saddle, point)),
        "|H|-Newton": lambda point, gradient: saddle_free_newton_step(gradient, hessian(saddle, point)),
        "gradient descent": lambda point, gradient: -0.2 * gradient,
    }
    values: dict = {"random starts": len(starts) - 1, "half side of the square": 1.2}
    for name, rule in rules.items():
        ends, smallest = [], []
        for point in starts:
            for _ in range(200):
                gradient = value_and_gradient(saddle, point)[1]
                if gradient.norm() < 1e-6:
                    break
                point = point + rule(point, gradient)
            ends.append(saddle(point).item())
            smallest.append(torch.linalg.eigvalsh(hessian(saddle, point))[0].item())
        values[f"loss where {name} ends, from (0.8, 0.4)"] = round(ends[0], 9)
        values[f"smallest eigenvalue there, {name}"] = smallest[0]
        share = sum(eigenvalue < 0 for eigenvalue in smallest[1:]) / len(smallest[1:])
        values[f"share of random starts that end in the saddle, {name}"] = share
    return values


def judge_saddle(values: Values) -> Verdict:
    """Holds if Newton ends in the saddle and the other two in a minimum."""
    names = ("Newton", "|H|-Newton", "gradient descent")
    ends = [values[f"loss where {name} ends, from (0.8, 0.4)"] for name in names]
    shares = [values[f"share of random starts that end in the saddle, {name}"] for name in names]
    bent = values["smallest eigenvalue there, Newton"]
    sentence = (
        f"On x² − y² + y⁴/4 from (0.8, 0.4) Newton ends at a loss of {number(ends[0])} with a Hessian eigenvalue "
        f"of {number(bent)}, |H|-Newton at {number(ends[1])}, gradient descent at {number(ends[2])}. Of "
        f"{values['random starts']} random starts {percent(shares[0])}, {percent(shares[1])} and "
        f"{percent(shares[2])} end in the saddle."
    )
    drawn = bent < 0 and shares[0] > 0.05
    return Verdict(HOLDS if drawn and max(ends[1:]) < -0.99 and max(shares[1:]) < shares[0] else FAILS, sentence)


def measure_indefinite(seed: int) -> Values:
    """Eigenvalues of the Hessian of a small network on digits at random starts, and Newton's step there."""
    features, classes = (part[:300] for part in digits())
    network = SmallNetwork(64, 4, 10)
    loss = network.loss(features, classes)
    # Pixels that are always blank make exact zero eigenvalues; the damping keeps the step defined.
    damping = 1e-6
    shares, smallest, largest, uphill, raised = [], [], [], 0, 0
    for start in range(5):
        point = network.initial(torch.Generator().manual_seed(1000 * seed + start))
        matrix = hessian(loss, point)
        matrix = (matrix + matrix.T) / 2
        eigenvalues = torch.linalg.eigvalsh(matrix)
        value, gradient = value_and_gradient(loss, point)
        step = newton_step(gradient, matrix, damping)
        uphill += bool(gradient @ step > 0)
        raised += not loss(point + step).item() < value
        shares.append((eigenvalues < -1e-9).double().mean().item())
        smallest.append(eigenvalues[0].item())
        largest.append(eigenvalues[-1].item())
    return {
        "parameters": network.parameters,
        "starts": len(shares),
        "damping": damping,
        "shares of negative eigenvalues": shares,
        "smallest eigenvalues": smallest,
        "largest eigenvalues": largest,
        "starts with an uphill Newton step": uphill,
        "starts where the full Newton step raises the loss": raised,
    }


def judge_indefinite(values: Values) -> Verdict:
    """Holds if every start has negative curvature, with conditions if only some have."""
    smallest, shares = values["smallest eigenvalues"], values["shares of negative eigenvalues"]
    sentence = (
        f"A network of {values['parameters']} parameters on digits, at {values['starts']} random starts: "
        f"{spread([100 * share for share in shares])} percent of the Hessian's eigenvalues are negative (median "
        f"and range), the smallest {spread(smallest)} against a largest of "
        f"{spread(values['largest eigenvalues'])}. Newton's full step raises the loss at "
        f"{values['starts where the full Newton step raises the loss']} of the starts, and at "
        f"{values['starts with an uphill Newton step']} its direction leads uphill from the first."
    )
    negative = sum(value < -1e-3 for value in smallest)
    if negative == 0:
        return Verdict(FAILS, sentence)
    return Verdict(HOLDS if negative == len(smallest) else CONDITIONAL, sentence)


CLAIMS = (
    Claim(
        "second_order.2.4",
        measure_saddle,
        judge_saddle,
        (
            {"smallest eigenvalue there, Newton": 2.0},
            {"loss where |H|-Newton ends, from (0.8, 0.4)": 0.0},
        ),
    ),
    Claim(
        "second_order.2.5",
        measure_indefinite,
        judge_indefinite,
        ({"smallest eigenvalues": [0.1, 0.2, 0.1, 0.1, 0.1]}, {"smallest eigenvalues": [-0.1, 0.2, 0.1, 0.1, 0.1]}),
    ),
)
