"""Claims of the question: what is the difference between BFGS and L-BFGS? Full batches and stochastic gradients."""

from collections.abc import Iterator

import torch
from torch.nn.functional import cross_entropy

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.second_order.problems import SmallNetwork, breast_cancer, digits, logistic_loss, value_and_gradient
from book.claims.second_order.solvers import RecentPairs, run_lbfgs, state_bytes
from book.claims.wording import median, number, percent, spread

PENALTY = 1e-2


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Indices of random mini-batches, drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randint(count, (size,), generator=generator)


def minibatch_excess(kind: str, rate: float, seed: int, lowest: float) -> tuple[float, float]:
    """Excess of the full loss after 500 mini-batches, and the share of pairs with sᵀy ≤ 0.

    `kind`: "plain" takes gradient steps; "different" forms y from the gradients of two successive batches, "same" from
    two gradients of one batch.
    """
    features, labels = breast_cancer()
    point = torch.zeros(features.shape[1], dtype=torch.float64)
    pairs, rejected, before = RecentPairs(point), 0, None
    for batch in batches(len(features), 64, 500, seed):
        loss = logistic_loss(features[batch], labels[batch], PENALTY)
        gradient = value_and_gradient(loss, point)[1]
        found = None
        if kind == "different" and before is not None:
            found = point - before[0], gradient - before[1]
            rejected += not add_if_curved(pairs, *found)
        before = point, gradient
        direction = -gradient if kind == "plain" else pairs.direction(gradient)
        point = point + rate * direction
        if kind == "same":
            change = value_and_gradient(loss, point)[1] - gradient
            rejected += not add_if_curved(pairs, rate * direction, change)
    excess = logistic_loss(features, labels, PENALTY)(point).item() - lowest
    return excess, rejected / 500


def add_if_curved(pairs: RecentPairs, step: torch.Tensor, change: torch.Tensor) -> bool:
    """Add a pair if sᵀy > 0 beyond rounding; whether it was."""
    curved = bool(step @ change > 1e-10 * (step @ step))
    if curved:
        pairs.add(step, change)
    return curved


def measure_batches(seed: int) -> Values:
    """Excess loss of L-BFGS on logistic regression, full batch and mini-batches, at the best of three rates."""
    features, labels = breast_cancer()
    loss = logistic_loss(features, labels, PENALTY)
    start = torch.zeros(features.shape[1], dtype=torch.float64)
    lowest = loss(run_lbfgs(loss, start, 300)[0]).item()
    full, optimizer = run_lbfgs(loss, start, 30)
    values: dict = {
        "full batch: gradient evaluations": optimizer.report.function_evaluations,
        "full batch: excess loss": max(loss(full).item() - lowest, 0.0),
        "mini-batches of 64": 500,
    }
    for kind in ("different", "same", "plain"):
        best: list[tuple[float, float]] = []
        for rate in (0.3, 0.1, 0.03):
            runs = [minibatch_excess(kind, rate, 1000 * seed + run, lowest) for run in range(3)]
            if not best or median([run[0] for run in runs]) < median([run[0] for run in best]):
                best = runs
        values[f"mini-batches, {kind}: excess losses"] = [run[0] for run in best]
        values[f"mini-batches, {kind}: share of sᵀy ≤ 0"] = median([run[1] for run in best])
    return values


def judge_batches(values: Values) -> Verdict:
    """Holds if only the full batch serves; with conditions if pairs from one mini-batch each do much better."""
    full = values["full batch: excess loss"]
    different, same, plain = (values[f"mini-batches, {kind}: excess losses"] for kind in ("different", "same", "plain"))
    sentence = (
        f"Logistic regression on breast-cancer data: with the full batch L-BFGS is within {number(full)} of the "
        f"lowest loss after {values['full batch: gradient evaluations']} gradients. After "
        f"{values['mini-batches of 64']} mini-batches it is off by {spread(different)} with y from two different "
        f"batches, {percent(values['mini-batches, different: share of sᵀy ≤ 0'])} of the pairs having sᵀy ≤ 0; by "
        f"{spread(same)} with both gradients from one batch "
        f"({percent(values['mini-batches, same: share of sᵀy ≤ 0'])}); plain SGD by {spread(plain)}."
    )
    if full > 1e-6:
        return Verdict(FAILS, sentence)
    return Verdict(CONDITIONAL if median(same) < 0.5 * median(different) else HOLDS, sentence)


def measure_first_order(seed: int) -> Values:
    """State bytes of SGD and Adam per parameter byte over D, and test accuracy after mini-batch training on digits."""
    sizes = [1000, 10_000, 100_000]
    makers = {
        "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.3),
        "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    }
    features, classes = digits()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    train, test = order[:1400], order[1400:]
    network = SmallNetwork(64, 32, 10)
    values: dict = {"dimensions": sizes}
    for name, maker in makers.items():
        vectors = []
        for size in sizes:
            parameters = torch.ones(size, requires_grad=True)
            optimizer = maker([parameters])
            parameters.square().sum().backward()
            optimizer.step()
            # Adam's step counter is one number however many parameters there are.
            vectors.append((state_bytes(optimizer) - 4 * (name == "Adam")) / parameters.nbytes)
        values[f"state over D, {name}"] = vectors
        accuracies = []
        for run in range(3):
            point = network.initial(torch.Generator().manual_seed(1000 * seed + run)).requires_grad_()
            optimizer = maker([point])
            for batch in batches(len(train), 64, 500, 1000 * seed + run):
                optimizer.zero_grad()
                cross_entropy(network.logits(point, features[train[batch]]), classes[train[batch]]).backward()
                optimizer.step()
            predicted = network.logits(point, features[test]).argmax(1)
            accuracies.append((predicted == classes[test]).double().mean().item())
        values[f"test accuracies, {name}"] = accuracies
    return values


def judge_first_order(values: Values) -> Verdict:
    """Holds if the state is 0, 1 and 2 vectors of D numbers at every size and mini-batches train the network."""
    names = ("SGD", "SGD with momentum", "Adam")
    states = [values[f"state over D, {name}"] for name in names]
    accuracies = [values[f"test accuracies, {name}"] for name in names]
    parts = [
        f"{name} keeps {number(max(state), 1)} × D numbers and reaches {spread([100 * share for share in reached], 3)}%"
        for name, state, reached in zip(names, states, accuracies, strict=True)
    ]
    sentence = (
        f"At sizes up to D = {values['dimensions'][-1]:,} "
        f"{'; '.join(parts)} of the test digits after 500 mini-batches (median and range)."
    )
    linear = all(abs(ratio - count) < 0.01 for state, count in zip(states, (0, 1, 2), strict=True) for ratio in state)
    return Verdict(HOLDS if linear and min(map(median, accuracies)) > 0.85 else FAILS, sentence)


CLAIMS = (
    Claim(
        "second_order.3.7",
        measure_batches,
        judge_batches,
        ({"full batch: excess loss": 0.01}, {"mini-batches, same: excess losses": [0.01, 0.02, 0.01]}),
    ),
    Claim(
        "second_order.3.8",
        measure_first_order,
        judge_first_order,
        ({"state over D, Adam": [2.0, 20.0, 200.0]}, {"test accuracies, SGD": [0.1, 0.1, 0.1]}),
    ),
)
