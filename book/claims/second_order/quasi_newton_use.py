"""Claims of the question: what is the difference between BFGS and L-BFGS? What they cost."""

from functools import partial

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.second_order.problems import Loss, rosenbrock
from book.claims.second_order.scaling import fastest, slope
from book.claims.second_order.solvers import DenseInverse, RecentPairs, quasi_newton, run_lbfgs, state_bytes
from book.claims.wording import decimal_bytes, number


def measure_memory(seed: int) -> Values:
    """Bytes of the state of L-BFGS, full of pairs, over D and over m, and of BFGS over D, in float64."""
    generator = torch.Generator().manual_seed(seed)
    sizes, memories = [100, 300, 1000, 3000], [1, 2, 5, 10, 20]

    def limited(size: int, memory: int) -> int:
        start = torch.randn(size, generator=generator, dtype=torch.float64)
        return state_bytes(run_lbfgs(rosenbrock, start, 3 * memory, memory)[1])

    over_size = [limited(size, 10) for size in sizes]
    over_memory = [limited(3000, memory) for memory in memories]
    dense = [DenseInverse(torch.zeros(size, dtype=torch.float64)).matrix.nbytes for size in sizes]
    return {
        "dimensions D": sizes,
        "memories m": memories,
        "bytes of L-BFGS over D, m = 10": over_size,
        "bytes of L-BFGS over m, D = 3000": over_memory,
        "bytes of BFGS over D": dense,
        "exponent in D, L-BFGS": slope(sizes, over_size),
        "exponent in m, L-BFGS": slope(memories, over_memory),
        "exponent in D, BFGS": slope(sizes, dense),
    }


def judge_memory(values: Values) -> Verdict:
    """Holds if L-BFGS grows as m and as D, and BFGS as D²."""
    exponents = [values[f"exponent in {name}"] for name in ("D, L-BFGS", "m, L-BFGS", "D, BFGS")]
    sentence = (
        f"The state of L-BFGS grows as D to the power {number(exponents[0], 3)} and m to the power "
        f"{number(exponents[1], 3)}, that of BFGS as D to the power {number(exponents[2], 3)}: "
        f"at D = {values['dimensions D'][-1]:,} and m = 10, "
        f"{decimal_bytes(values['bytes of L-BFGS over D, m = 10'][-1])} against "
        f"{decimal_bytes(values['bytes of BFGS over D'][-1])} (float64)."
    )
    fits = all(abs(found - expected) < 0.1 for found, expected in zip(exponents, (1, 1, 2), strict=True))
    return Verdict(HOLDS if fits else FAILS, sentence)


def count_steps(kind: type, loss: Loss, start: torch.Tensor) -> int:
    """Steps of BFGS or L-BFGS until no entry of the gradient exceeds 1e-6.

    Raises ArithmeticError if a line search failed before: times would then not be to the same gradient.
    """
    tolerance, steps, largest = 1e-6, 0, float("inf")
    for taken in quasi_newton(loss, start, kind(start), tolerance):
        steps, largest = steps + 1, taken.gradient.abs().max().item()
    if largest > tolerance:
        raise ArithmeticError(f"{kind.__name__} stopped at a gradient of {largest:.1e} after {steps} steps")
    return steps


def measure_crossover(seed: int) -> Values:
    """Time to the same gradient, BFGS against L-BFGS, on a convex function, κ = 1,000; bytes at 10,000 parameters."""
    generator = torch.Generator().manual_seed(seed)
    sizes, ratios, iterations = [10, 30, 100, 300, 600], [], []
    for size in sizes:
        curvatures = torch.logspace(-3, 0, size, dtype=torch.float64)
        start = torch.randn(size, generator=generator, dtype=torch.float64)

        def loss(point: torch.Tensor, curvatures=curvatures) -> torch.Tensor:
            return 0.5 * (curvatures * point) @ point + 0.25 * (point**4).mean()

        iterations.append([count_steps(DenseInverse, loss, start), count_steps(RecentPairs, loss, start)])
        contenders = [partial(count_steps, DenseInverse, loss, start), partial(count_steps, RecentPairs, loss, start)]
        times = fastest(contenders, repeats=max(2, 300 // size))
        ratios.append(times[0] / times[1])
    limit = 10_000
    return {
        "dimensions": sizes,
        "time of BFGS over L-BFGS": ratios,
        "iterations of BFGS": [pair[0] for pair in iterations],
        "iterations of L-BFGS": [pair[1] for pair in iterations],
        "bytes of M at 10,000 parameters, FP32": limit**2 * torch.float32.itemsize,
        "bytes of M at 10,000 parameters, FP64": limit**2 * torch.float64.itemsize,
    }


def judge_crossover(values: Values) -> Verdict:
    """Holds if BFGS is the faster one throughout; with conditions if L-BFGS overtakes it far below 10,000.

    The ratios at both ends are far from 1; only a machine on which D² operations cost no more than the calls of
    the smallest dimension would turn it.
    """
    ratios, sizes = values["time of BFGS over L-BFGS"], values["dimensions"]
    single, double = (values[f"bytes of M at 10,000 parameters, {name}"] for name in ("FP32", "FP64"))
    overtaken = next((size for size, ratio in zip(sizes, ratios, strict=True) if ratio > 1), None)
    where = f"already faster at D = {overtaken}" if overtaken else f"not faster up to D = {sizes[-1]}"
    sentence = (
        f"At 10,000 parameters M takes {decimal_bytes(single)} in FP32 and {decimal_bytes(double)} in FP64. In "
        f"time to the same gradient, BFGS over L-BFGS (m = 10) is {number(ratios[0])} at D = {sizes[0]} "
        f"and {number(ratios[-1])} at D = {sizes[-1]}: L-BFGS is {where}."
    )
    if single > 8e9 or ratios[0] > 1:
        return Verdict(FAILS, sentence)
    return Verdict(HOLDS if overtaken is None else CONDITIONAL, sentence)


CLAIMS = (
    Claim(
        "second_order.3.5", measure_memory, judge_memory, ({"exponent in D, L-BFGS": 2.0}, {"exponent in D, BFGS": 1.0})
    ),
    Claim(
        "second_order.3.6",
        measure_crossover,
        judge_crossover,
        (
            {"time of BFGS over L-BFGS": [0.3, 0.4, 0.5, 0.6, 0.7]},
            {"time of BFGS over L-BFGS": [1.3, 1.4, 1.5, 1.6, 1.7]},
        ),
    ),
)
