"""What a step of each second-order method costs, beside its peer's and beside a gradient, measured on a GPU."""

import copy
from collections.abc import Callable

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.on_device import random_tensor, ratio, seconds_of_each
from book.claims.second_order import peers
from book.claims.wording import number
from steepest.second_order import KFAC, LBFGS, AdaHessian, NonlinearCG, hessian_vector_product, newton_cg

FULL = {"width": 1024, "batch": 1024, "rounds": 10}
SMALL = {"width": 8, "batch": 4, "rounds": 1}
ITERATIONS = 10
NEWTON_ITERATIONS = 2
DAMPING = 1e-2
METHODS = ("AdaHessian", "L-BFGS", "nonlinear CG", "Newton-CG", "K-FAC")
# The contender that a peer does the same as, the peer, and the package that has it.
PEERS = (
    ("L-BFGS", "torch's L-BFGS", "torch"),
    ("AdaHessian", "pytorch_optimizer's AdaHessian", "pytorch_optimizer"),
    ("exact K-FAC", "curvlinops' exact K-FAC", "curvlinops"),
    ("nonlinear CG", "torchmin's nonlinear CG", "torchmin"),
    ("Newton-CG", "torchmin's Newton-CG", "torchmin"),
)


class Problem:
    """A network of three layers at its start with a batch, as a closure and as a function of a vector (D,).

    `calls` counts losses evaluated.
    """

    def __init__(self, device: str, width: int, batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        layers = [torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, width), torch.nn.Tanh()]
        self.model = torch.nn.Sequential(*layers, torch.nn.Linear(width, 10)).to(device)
        self.inputs = random_tensor(batch, width, device=device, seed=seed)
        self.labels = torch.arange(batch, device=device) % 10
        self.parameters = list(self.model.parameters())
        self.start = [parameter.detach().clone() for parameter in self.parameters]
        self.flat = torch.cat([parameter.reshape(-1) for parameter in self.start])
        self.shapes = {name: parameter.shape for name, parameter in self.model.named_parameters()}
        self.calls = 0

    def loss(self) -> torch.Tensor:
        """The mean cross-entropy."""
        self.calls += 1
        return torch.nn.functional.cross_entropy(self.model(self.inputs), self.labels)

    def gradient(self) -> torch.Tensor:
        """The loss, with gradients in `.grad`."""
        self.model.zero_grad()
        value = self.loss()
        value.backward()
        return value

    def flat_loss(self, point: torch.Tensor) -> torch.Tensor:
        """The loss at parameters (D,)."""
        self.calls += 1
        parts = point.split([shape.numel() for shape in self.shapes.values()])
        state = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        outputs = torch.func.functional_call(self.model, state, (self.inputs,))
        return torch.nn.functional.cross_entropy(outputs, self.labels)

    def counted(self, work: Callable[[], object]) -> int:
        """Run some work from the start and return how many losses it evaluated."""
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.start)
        self.calls = 0
        work()
        return self.calls


def kfac_steps(problem: Problem, steps: int, **options: object) -> Callable[[], int]:
    """Steps of K-FAC, on a copy of the model, because its hooks would slow the other contenders."""
    model = copy.deepcopy(problem.model)
    optimizer = KFAC(model.parameters(), model, lr=1e-6, damping=DAMPING, **options)

    def work() -> int:
        for _ in range(steps):
            optimizer.zero_grad()
            outputs = model(problem.inputs)
            optimizer.update_factors(outputs)
            torch.nn.functional.cross_entropy(outputs, problem.labels).backward()
            optimizer.step()
        return steps

    return work


def own_contenders(problem: Problem) -> dict[str, Callable[[], int]]:
    """A gradient and our methods; each returns the steps, or evaluations, that the call took.

    L-BFGS and nonlinear CG are counted by evaluation, since a step has as many as its line searches need, Newton-CG by
    evaluations and Hessian-vector products. K-FAC takes ten steps at a time, in which it inverts its factors once.
    """
    adahessian = AdaHessian(problem.parameters, lr=1e-6)
    adam = torch.optim.Adam(problem.parameters, lr=1e-6)

    def minimise(kind: type[torch.optim.Optimizer], **options: object) -> Callable[[], int]:
        return lambda: problem.counted(
            lambda: kind(problem.parameters, max_iter=ITERATIONS, **options).step(problem.gradient)
        )

    def newton() -> int:
        found = newton_cg(problem.flat_loss, problem.flat, maxiter=NEWTON_ITERATIONS, cg_maxiter=ITERATIONS)
        return found.gradient_evaluations + found.hessian_vector_products

    def one(work: Callable[[], object]) -> Callable[[], int]:
        return lambda: (work(), 1)[1]

    return {
        "gradient": one(problem.gradient),
        "Hessian-vector product": one(lambda: hessian_vector_product(problem.flat_loss, problem.flat, problem.flat)),
        "Adam": one(lambda: (problem.gradient(), adam.step())),
        "AdaHessian": one(lambda: adahessian.step(problem.loss)),
        "L-BFGS": minimise(LBFGS),
        "torch's L-BFGS": minimise(torch.optim.LBFGS, line_search_fn="strong_wolfe"),
        "nonlinear CG": minimise(NonlinearCG),
        "Newton-CG": newton,
        "K-FAC": kfac_steps(problem, ITERATIONS, inverse_interval=ITERATIONS),
    }


def peer_contenders(problem: Problem) -> dict[str, Callable[[], int]]:
    """The peers of the packages that are installed; each returns what its own counterpart counts, or 1.

    torchmin doesn't tell its Hessian-vector products, so that its Newton-CG counts as one, of as many iterations.
    """
    found: dict[str, Callable[[], int]] = {}
    if peers.installed("pytorch_optimizer"):
        adahessian = peers.adahessian_step(problem.parameters, problem.loss)
        found["pytorch_optimizer's AdaHessian"] = lambda: (adahessian(), 1)[1]
    if peers.installed("curvlinops"):
        kfac = peers.kfac_step(copy.deepcopy(problem.model), problem.inputs, problem.labels, DAMPING)
        found["exact K-FAC"] = kfac_steps(problem, 1, samples=None, decay=0.0)
        found["curvlinops' exact K-FAC"] = lambda: (kfac(), 1)[1]
    if peers.installed("torchmin"):
        cg = peers.minimisation("cg", problem.flat_loss, problem.flat, ITERATIONS)
        newton = peers.minimisation(
            "newton-cg", problem.flat_loss, problem.flat, NEWTON_ITERATIONS, cg_max_iter=ITERATIONS
        )
        found["torchmin's nonlinear CG"] = lambda: problem.counted(cg)
        found["torchmin's Newton-CG"] = lambda: (newton(), 1)[1]
    return found


def time_steps(device: str, width: int, batch: int, rounds: int, seed: int) -> Values:
    """Times over that of one gradient, and our times over those of the peers that are installed."""
    problem = Problem(device, width, batch, seed)
    contenders = {**own_contenders(problem), **peer_contenders(problem)}
    counts: dict[str, int] = {}

    def counting(name: str) -> Callable[[], None]:
        return lambda: counts.__setitem__(name, contenders[name]())

    times = seconds_of_each({name: counting(name) for name in contenders}, device, rounds)
    each = {name: ratio(times, name, "gradient") / counts[name] for name in contenders}
    shown = ("Hessian-vector product", "Adam", *METHODS)
    beside = {}
    for own, peer, _ in PEERS:
        if peer in contenders:
            whole = peer == "torchmin's Newton-CG"
            beside[f"time over {peer}"] = ratio(times, own, peer) if whole else each[own] / each[peer]
    return {
        "parameters D": problem.flat.numel(),
        "batch": batch,
        **{f"gradients a step of {name} takes": each[name] for name in shown},
        **beside,
        "peers that are not installed": [peer for _, peer, package in PEERS if not peers.installed(package)],
    }


def measure_steps(seed: int) -> Values:
    """A network of about two million parameters."""
    return time_steps("cuda", **FULL, seed=seed)


def small_steps(seed: int) -> Values:
    """The same on the CPU in a moment."""
    return time_steps("cpu", **SMALL, seed=seed)


def judge_steps(values: Values) -> Verdict:
    """Holds if no method takes more than five gradients a step or an evaluation, conditional if most don't."""
    costs = {name: values[f"gradients a step of {name} takes"] for name in METHODS}
    product = values["gradients a step of Hessian-vector product takes"]
    beside = [
        f"{number(values[f'time over {peer}'])} of {peer}" for _, peer, _ in PEERS if f"time over {peer}" in values
    ]
    sentence = (
        f"In units of one gradient of {values['parameters D']:,} parameters at batch {values['batch']:,}: a "
        f"Hessian-vector product takes {number(product)}, a step of AdaHessian {number(costs['AdaHessian'])} (Adam "
        f"{number(values['gradients a step of Adam takes'])}), of K-FAC {number(costs['K-FAC'])}; an evaluation of "
        f"L-BFGS {number(costs['L-BFGS'])}, of nonlinear CG {number(costs['nonlinear CG'])}, an evaluation or product "
        f"of Newton-CG {number(costs['Newton-CG'])}. Our times are {', '.join(beside)}."
    )
    cheap = [cost <= 5 for cost in costs.values()]
    return Verdict(HOLDS if all(cheap) else CONDITIONAL if sum(cheap) >= 3 else FAILS, sentence)


def costs(*each: float) -> Values:
    """Contrary costs of the methods."""
    return {f"gradients a step of {name} takes": cost for name, cost in zip(METHODS, each, strict=True)}


CLAIMS = (
    Claim(
        "second_order.2.6",
        measure_steps,
        judge_steps,
        (costs(3.5, 1.2, 1.1, 1.6, 4.0), costs(3.5, 1.2, 1.1, 1.6, 40.0), costs(35.0, 12.0, 11.0, 16.0, 40.0)),
        device="cuda",
        small=small_steps,
    ),
)
