"""What a step of each second-order method costs, beside its peer's and beside a gradient, measured on a GPU."""

import copy
import importlib.util
from collections.abc import Callable

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.on_device import random_tensor, ratio, seconds_of_each
from book.claims.wording import number
from steepest.second_order import KFAC, LBFGS, AdaHessian, NonlinearCG, hessian_vector_product, newton_cg

FULL = {"width": 1024, "batch": 1024, "rounds": 10}
SMALL = {"width": 8, "batch": 4, "rounds": 1}
ITERATIONS = 10
METHODS = ("AdaHessian", "L-BFGS", "nonlinear CG", "Newton-CG", "K-FAC")
PEER = "pytorch_optimizer's AdaHessian"


def peer_step(parameters: list[torch.Tensor], loss: Callable[[], torch.Tensor]) -> dict[str, Callable[[], None]]:
    """A step of another AdaHessian by its name; empty where its package isn't installed (`make measure` does)."""
    if importlib.util.find_spec("pytorch_optimizer") is None:
        return {}
    optimizer = importlib.import_module("pytorch_optimizer").AdaHessian(parameters, lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward(create_graph=True)
        optimizer.step()

    return {PEER: step}


def time_steps(device: str, width: int, batch: int, rounds: int, seed: int) -> Values:
    """Times over that of one gradient of a network of three layers, at its start; and the width of its largest tensor.

    L-BFGS and nonlinear CG are counted by evaluation, since a step has as many as its line searches need, Newton-CG by
    evaluations and Hessian-vector products. K-FAC takes ten steps at a time, in which it inverts its factors once.
    """
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, width), torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(width, 10)).to(device)
    inputs = random_tensor(batch, width, device=device, seed=seed)
    labels = torch.arange(batch, device=device) % 10
    start = [parameter.detach().clone() for parameter in model.parameters()]
    parameters = list(model.parameters())

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(inputs), labels)

    def gradient() -> torch.Tensor:
        model.zero_grad()
        value = loss()
        value.backward()
        return value

    def again() -> None:
        with torch.no_grad():
            torch._foreach_copy_(parameters, start)

    flat = torch.cat([parameter.reshape(-1) for parameter in start])
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def flat_loss(point: torch.Tensor) -> torch.Tensor:
        parts = point.split([shape.numel() for shape in shapes.values()])
        state = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return torch.nn.functional.cross_entropy(torch.func.functional_call(model, state, (inputs,)), labels)

    # Gradients, or steps of K-FAC, in one call of a contender; 1 if it isn't here.
    evaluations = {}

    def minimise(name: str, kind: type[torch.optim.Optimizer], **options) -> None:
        again()
        count = 0

        def closure() -> torch.Tensor:
            nonlocal count
            count += 1
            return gradient()

        kind(parameters, max_iter=ITERATIONS, **options).step(closure)
        evaluations[name] = count

    def minimise_by_products() -> None:
        found = newton_cg(flat_loss, flat, maxiter=2, cg_maxiter=ITERATIONS)
        evaluations["Newton-CG"] = found.gradient_evaluations + found.hessian_vector_products

    adahessian = AdaHessian(parameters, lr=1e-6)
    adam = torch.optim.Adam(parameters, lr=1e-6)
    # A copy, because K-FAC's hooks would slow the other contenders.
    hooked = copy.deepcopy(model)
    kfac = KFAC(hooked.parameters(), hooked, lr=1e-6, inverse_interval=ITERATIONS)

    def kfac_steps() -> None:
        for _ in range(ITERATIONS):
            kfac.zero_grad()
            outputs = hooked(inputs)
            kfac.update_factors(outputs)
            torch.nn.functional.cross_entropy(outputs, labels).backward()
            kfac.step()
        evaluations["K-FAC"] = ITERATIONS

    contenders = {
        "gradient": gradient,
        "Hessian-vector product": lambda: hessian_vector_product(flat_loss, flat, flat),
        "Adam": lambda: (gradient(), adam.step()),
        "AdaHessian": lambda: adahessian.step(loss),
        **peer_step(parameters, loss),
        "L-BFGS": lambda: minimise("L-BFGS", LBFGS),
        "torch's L-BFGS": lambda: minimise("torch's L-BFGS", torch.optim.LBFGS, line_search_fn="strong_wolfe"),
        "nonlinear CG": lambda: minimise("nonlinear CG", NonlinearCG),
        "Newton-CG": minimise_by_products,
        "K-FAC": kfac_steps,
    }
    times = seconds_of_each(contenders, device, rounds)
    in_gradients = {name: ratio(times, name, "gradient") / evaluations.get(name, 1) for name in contenders}
    return {
        "parameters D": flat.numel(),
        "batch": batch,
        **{f"gradients a step of {name} takes": cost for name, cost in in_gradients.items() if name != "gradient"},
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
    peer = values["gradients a step of torch's L-BFGS takes"]
    other = f"gradients a step of {PEER} takes"
    beside = f"{PEER} {number(values[other])}, Adam" if other in values else "Adam"
    sentence = (
        f"In units of one gradient of {values['parameters D']:,} parameters at batch {values['batch']:,}: a "
        f"Hessian-vector product takes {number(product)}, a step of AdaHessian {number(costs['AdaHessian'])} ({beside} "
        f"{number(values['gradients a step of Adam takes'])}), of K-FAC {number(costs['K-FAC'])}; an evaluation of "
        f"L-BFGS {number(costs['L-BFGS'])} (torch's {number(peer)}), of nonlinear CG {number(costs['nonlinear CG'])}, "
        f"an evaluation or product of Newton-CG {number(costs['Newton-CG'])}."
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
