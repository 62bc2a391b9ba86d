"""What a step of each second-order method costs, beside its peer's and beside a gradient, measured on a GPU."""

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.on_device import random_tensor, ratio, seconds_of_each
from book.claims.wording import number
from steepest.second_order import KFAC, LBFGS, AdaHessian, NonlinearCG, hessian_vector_product

FULL = {"width": 1024, "batch": 1024, "rounds": 10}
SMALL = {"width": 8, "batch": 4, "rounds": 1}
ITERATIONS = 10


def time_steps(device: str, width: int, batch: int, rounds: int, seed: int) -> Values:
    """Times over that of one gradient of a network of three layers, at its start; and the width of its largest tensor.

    L-BFGS and nonlinear CG are counted by evaluation, since a step has as many as its line searches need.
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

    adahessian = AdaHessian(parameters, lr=1e-6)
    adam = torch.optim.Adam(parameters, lr=1e-6)
    kfac = KFAC(parameters, model, lr=1e-6, inverse_interval=10)

    def kfac_step() -> None:
        model.zero_grad()
        outputs = model(inputs)
        kfac.update_factors(outputs)
        torch.nn.functional.cross_entropy(outputs, labels).backward()
        kfac.step()

    contenders = {
        "gradient": gradient,
        "Hessian-vector product": lambda: hessian_vector_product(flat_loss, flat, flat),
        "Adam": lambda: (gradient(), adam.step()),
        "AdaHessian": lambda: adahessian.step(loss),
        "L-BFGS": lambda: minimise("L-BFGS", LBFGS),
        "torch's L-BFGS": lambda: minimise("torch's L-BFGS", torch.optim.LBFGS, line_search_fn="strong_wolfe"),
        "nonlinear CG": lambda: minimise("nonlinear CG", NonlinearCG),
        "K-FAC": kfac_step,
    }
    times = seconds_of_each(contenders, device, rounds)
    kfac.remove_hooks()
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
    names = ("AdaHessian", "L-BFGS", "nonlinear CG", "K-FAC")
    costs = {name: values[f"gradients a step of {name} takes"] for name in names}
    product = values["gradients a step of Hessian-vector product takes"]
    peer = values["gradients a step of torch's L-BFGS takes"]
    sentence = (
        f"In units of one gradient of {values['parameters D']:,} parameters at batch {values['batch']:,}: a "
        f"Hessian-vector product takes {number(product)}, a step of AdaHessian {number(costs['AdaHessian'])} (of Adam "
        f"{number(values['gradients a step of Adam takes'])}), of K-FAC {number(costs['K-FAC'])}; an evaluation of "
        f"L-BFGS {number(costs['L-BFGS'])} (torch's {number(peer)}), of nonlinear CG {number(costs['nonlinear CG'])}."
    )
    cheap = [cost <= 5 for cost in costs.values()]
    return Verdict(HOLDS if all(cheap) else CONDITIONAL if sum(cheap) >= 2 else FAILS, sentence)


def costs(*each: float) -> Values:
    """Contrary costs of the four methods."""
    names = ("AdaHessian", "L-BFGS", "nonlinear CG", "K-FAC")
    return {f"gradients a step of {name} takes": cost for name, cost in zip(names, each, strict=True)}


CLAIMS = (
    Claim(
        "second_order.2.6",
        measure_steps,
        judge_steps,
        (costs(3.5, 1.2, 1.1, 4.0), costs(3.5, 1.2, 1.1, 40.0), costs(35.0, 12.0, 11.0, 40.0)),
        device="cuda",
        small=small_steps,
    ),
)
