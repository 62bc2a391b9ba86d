"""Claims of the question: why don't we use Newton's method in deep learning? What the Hessian costs."""

from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from book.claims.claim import FAILS, HOLDS, Claim, Values, Verdict
from book.claims.second_order.problems import Loss, SmallNetwork, digits, hessian, rosenbrock, value_and_gradient
from book.claims.second_order.scaling import fastest, slope
from book.claims.second_order.solvers import run_lbfgs, truncated_conjugate_gradient
from book.claims.wording import decimal_bytes, median, number, spread
from steepest.second_order import hessian_vector_product


def measure_entries(seed: int) -> Values:
    """Bytes of torch.func.hessian of the chained Rosenbrock function over its dimension, in float32."""
    sizes, bytes_of = [10, 30, 100, 300, 1000, 2000], []
    for size in sizes:
        point = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        bytes_of.append(hessian(rosenbrock, point).nbytes)
    return {
        "dimensions": sizes,
        "bytes of the Hessian": bytes_of,
        "exponent p of bytes ~ D^p": slope(sizes, bytes_of),
        "distinct entries at the largest dimension, by symmetry": sizes[-1] * (sizes[-1] + 1) // 2,
    }


def judge_entries(values: Values) -> Verdict:
    """Holds if the bytes grow with the square of the dimension."""
    exponent = values["exponent p of bytes ~ D^p"]
    sentence = (
        f"The Hessian's bytes in float32 grow as D to the power {number(exponent, 3)}, from "
        f"{decimal_bytes(values['bytes of the Hessian'][0])} at D = {values['dimensions'][0]} to "
        f"{decimal_bytes(values['bytes of the Hessian'][-1])} at D = {values['dimensions'][-1]:,}; of its entries "
        f"{values['distinct entries at the largest dimension, by symmetry']:,} are distinct there, by symmetry."
    )
    return Verdict(HOLDS if abs(exponent - 2) < 0.05 else FAILS, sentence)


def measure_gpt3(seed: int) -> Values:
    """Entries and bytes of the Hessian of 175 billion parameters, counted."""
    parameters = 175 * 10**9
    entries = parameters**2
    return {
        "parameters": parameters,
        "entries": entries,
        "distinct entries": parameters * (parameters + 1) // 2,
        "bytes in FP32": entries * torch.float32.itemsize,
        "bytes of the parameters in FP32": parameters * torch.float32.itemsize,
    }


def judge_gpt3(values: Values) -> Verdict:
    """Holds if the count is 10^22 to the order of magnitude."""
    entries = values["entries"]
    sentence = (
        f"{number(values['parameters'], 3)} parameters give {number(entries, 3)} entries, "
        f"{number(values['distinct entries'], 3)} of them distinct: {number(values['bytes in FP32'])} bytes in "
        f"FP32, where the parameters themselves take {number(values['bytes of the parameters in FP32'])} bytes."
    )
    return Verdict(HOLDS if 1e22 <= entries < 1e23 else FAILS, sentence)


def measure_inversion(seed: int) -> Values:
    """Time to invert a positive definite matrix through its Cholesky factor, over the dimension, in float64."""
    generator = torch.Generator().manual_seed(seed)
    sizes, times = [256, 512, 1024, 2048], []
    for size in sizes:
        root = torch.randn(size, size, generator=generator, dtype=torch.float64)
        matrix = root @ root.T / size + torch.eye(size, dtype=torch.float64)
        invert = partial(lambda matrix: torch.cholesky_inverse(torch.linalg.cholesky(matrix)), matrix)
        times += fastest([invert], repeats=max(2, 4096 // size))
    return {
        "dimensions": sizes,
        "time over the time at the smallest dimension": [time / times[0] for time in times],
        "exponent p of time ~ D^p": slope(sizes, times),
    }


def judge_inversion(values: Values) -> Verdict:
    """Holds if the exponent is near 3 and clearly above 2.

    Small matrices use the processor worse, which flattens the curve; a device that is idle at the largest dimension
    would turn it.
    """
    exponent, growth = values["exponent p of time ~ D^p"], values["time over the time at the smallest dimension"]
    sentence = (
        f"From D = {values['dimensions'][0]} to D = {values['dimensions'][-1]:,} the time to invert grows "
        f"{number(growth[-1])} times, as D to the power {number(exponent)}; one doubling more would cost about "
        f"{number(2**exponent)} times as much."
    )
    return Verdict(HOLDS if 2.4 < exponent < 3.6 else FAILS, sentence)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        """Run the operation and look at what it returns."""
        result = function(*arguments, **(keywords or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.numel())
        return result


# A Hessian-vector product is charged more than it takes (the measured cost is among the values).
PRODUCT_COST = 3


def curvature_descent(loss: Loss, start: torch.Tensor, budget: int, divergence=None, damping: float = 1e-3) -> float:
    """Hessian-free descent within a budget of gradients; natural gradient where `divergence` is given; the last loss.

    `divergence(point)` is the Kullback-Leibler divergence to the model at `point`; its Hessian there is the
    Fisher matrix. Ten products at most a step, then halving of the step until the loss falls enough.
    """
    point, spent = start, 1
    value, gradient = value_and_gradient(loss, point)
    while spent < budget:
        bent = loss if divergence is None else divergence(point)

        def product(vector: torch.Tensor, bent=bent, point=point) -> torch.Tensor:
            return hessian_vector_product(bent, point, vector) + damping * vector

        step, products = truncated_conjugate_gradient(product, gradient, 10)
        spent += PRODUCT_COST * products
        size, expected = 1.0, float(gradient @ step)
        while True:
            new_value, new_gradient = value_and_gradient(loss, point + size * step)
            spent += 1
            if new_value <= value + 1e-4 * size * expected or spent >= budget:
                break
            size /= 2
        if new_value < value:
            point, value, gradient = point + size * step, new_value, new_gradient
    return value


def measure_way_out(seed: int) -> Values:
    """Losses of four methods on a small network at equal cost, their largest tensors, and the cost of a product."""
    features, classes = (part[:500] for part in digits())
    network = SmallNetwork(64, 16, 10)
    loss = network.loss(features, classes)
    budget, rates = 300, [0.3, 1.0, 2.0, 3.0]

    def divergence(anchor: torch.Tensor) -> Loss:
        reference = torch.softmax(network.logits(anchor, features), 1)
        return lambda point: -(reference * torch.log_softmax(network.logits(point, features), 1)).sum(1).mean()

    def descend(start: torch.Tensor, rate: float) -> float:
        point = start
        for _ in range(budget):
            point = point - rate * value_and_gradient(loss, point)[1]
        return loss(point).item()

    finals = {"gradient descent, best of four rates": [], "L-BFGS": [], "Hessian-free": [], "natural gradient": []}
    for run in range(3):
        start = network.initial(torch.Generator().manual_seed(1000 * seed + run))
        finals["gradient descent, best of four rates"].append(min(descend(start, rate) for rate in rates))
        finals["L-BFGS"].append(loss(run_lbfgs(loss, start, budget)[0]).item())
        finals["Hessian-free"].append(curvature_descent(loss, start, budget))
        finals["natural gradient"].append(curvature_descent(loss, start, budget, divergence))
    with LargestTensor() as seen:
        run_lbfgs(loss, start, 20)
        curvature_descent(loss, start, 20)
        curvature_descent(loss, start, 20, divergence)
    vector = torch.randn(network.parameters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gradient_time, product_time = fastest(
        [lambda: value_and_gradient(loss, start), lambda: hessian_vector_product(loss, start, vector)], repeats=100
    )
    return {
        "parameters D": network.parameters,
        "gradients each method may spend": budget,
        "gradients charged for a Hessian-vector product": PRODUCT_COST,
        **{f"final losses of {name}": values for name, values in finals.items()},
        "largest tensor over D²": seen.elements / network.parameters**2,
        "time of a Hessian-vector product over a gradient": product_time / gradient_time,
    }


def judge_way_out(values: Values) -> Verdict:
    """Holds if all three beat gradient descent at equal cost without anything of the size of D².

    The cost is only equal if a product takes no more gradients than it is charged.
    """
    plain = values["final losses of gradient descent, best of four rates"]
    ways = [f"final losses of {name}" for name in ("L-BFGS", "Hessian-free", "natural gradient")]
    share, cost = values["largest tensor over D²"], values["time of a Hessian-vector product over a gradient"]
    charged = values["gradients charged for a Hessian-vector product"]
    sentence = (
        f"A network of {values['parameters D']:,} parameters on digits, at the cost of "
        f"{values['gradients each method may spend']} gradients, ends at a loss of {spread(values[ways[0]])} with "
        f"L-BFGS, {spread(values[ways[1]])} Hessian-free, {spread(values[ways[2]])} with the natural gradient, and "
        f"{spread(plain)} with gradient descent at its best rate (median and range of {len(plain)} starts). No "
        f"tensor holds more than {number(100 * share)}% of D² numbers, and a Hessian-vector product costs "
        f"{number(cost)} gradients."
    )
    better = all(median(values[way]) < median(plain) for way in ways)
    return Verdict(HOLDS if better and share < 0.1 and cost <= charged else FAILS, sentence)


CLAIMS = (
    Claim("second_order.2.1", measure_entries, judge_entries, ({"exponent p of bytes ~ D^p": 1.0},)),
    Claim("second_order.2.2", measure_gpt3, judge_gpt3, ({"entries": 3 * 10**20}, {"entries": 3 * 10**23})),
    Claim("second_order.2.3", measure_inversion, judge_inversion, ({"exponent p of time ~ D^p": 2.0},)),
    Claim(
        "second_order.2.6",
        measure_way_out,
        judge_way_out,
        (
            {"final losses of L-BFGS": [1.0, 1.0, 1.0]},
            {"largest tensor over D²": 1.0},
            {"time of a Hessian-vector product over a gradient": 4.0},
        ),
    ),
)
