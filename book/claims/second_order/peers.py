"""Steps of other libraries' second-order methods, where these are installed, as `make measure` does.

Nothing else of the book needs them, so they are imported only when a claim about a GPU is measured.
"""

import importlib
import importlib.util
from collections.abc import Callable

import torch

Loss = Callable[[torch.Tensor], torch.Tensor]


def installed(package: str) -> bool:
    """Whether a package can be imported.

    >>> installed("torch"), installed("no_such_package")
    (True, False)
    """
    return importlib.util.find_spec(package) is not None


def adahessian_step(parameters: list[torch.Tensor], loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """A step of pytorch_optimizer's AdaHessian."""
    optimizer = importlib.import_module("pytorch_optimizer").AdaHessian(parameters, lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward(create_graph=True)
        optimizer.step()

    return step


def kfac_step(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, damping: float) -> Callable[[], None]:
    """A gradient, preconditioned by curvlinops' K-FAC with the exact expectation over the classes, all new."""
    linear_operators = importlib.import_module("curvlinops")
    exact = importlib.import_module("curvlinops.kfac").FisherType.TYPE2
    parameters = list(model.parameters())

    def step() -> None:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        factors = linear_operators.KFACLinearOperator(
            model,
            torch.nn.CrossEntropyLoss(),
            parameters,
            [(inputs, labels)],
            check_deterministic=False,
            fisher_type=exact,
            num_per_example_loss_terms=1,
            separate_weight_and_bias=False,
            num_data=len(inputs),
        )
        inverse = linear_operators.KFACInverseLinearOperator(factors, damping=damping, use_heuristic_damping=True)
        directions = inverse @ [parameter.grad for parameter in parameters]
        with torch.no_grad():
            torch._foreach_add_(parameters, list(directions), alpha=-1e-6)

    return step


def minimisation(method: str, loss: Loss, start: torch.Tensor, iterations: int, **options: int) -> Callable[[], None]:
    """Some iterations of torchmin's "cg" or "newton-cg" from a start."""
    minimize = importlib.import_module("torchmin").minimize
    return lambda: minimize(loss, start, method=method, max_iter=iterations, options=options)
