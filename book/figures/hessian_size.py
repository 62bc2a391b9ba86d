"""The memory that a Hessian takes and the time of its factorization, against the number of parameters."""

import math

import numpy as np

from steepest.explore import axis, choice, explore, figure, line, panel, rule, stops, switch, text

FORMATS = {"FP16": 2, "FP32": 4, "FP64": 8}
# Parameter counts as stated by Devlin et al. 2019 (section 3), Radford et al. 2019 (abstract) and
# Brown et al. 2020 (table 2.1).
MODELS = {"BERT-base": 110_000_000, "GPT-2": 1_500_000_000, "GPT-3": 175_000_000_000}
GPU_BYTES = 80e9
HISTORY = 10
OPERATIONS_PER_SECOND = 1e15
DAY = 86_400.0
YEAR = 365.25 * DAY
AGE_OF_UNIVERSE = 13.8e9 * YEAR
COUNTS = {"": 1.0, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
BYTES = {"bytes": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15, "EB": 1e18, "ZB": 1e21, "YB": 1e24}
TIMES = {
    "ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "seconds": 1.0, "hours": 3600.0, "days": DAY, "years": YEAR,
    "thousand years": 1e3 * YEAR, "million years": 1e6 * YEAR, "billion years": 1e9 * YEAR,
}  # fmt: skip


def hessian_bytes(parameters: float, bytes_per_number: int, symmetric: bool = False) -> float:
    """Bytes of a Hessian: D² numbers, or D(D + 1)/2 where each pair of equal entries is stored once."""
    entries = parameters * (parameters + 1) / 2 if symmetric else parameters**2
    return float(entries * bytes_per_number)


def cholesky_seconds(parameters: float) -> float:
    """Seconds of the D³/3 operations of a Cholesky factorization at `OPERATIONS_PER_SECOND`."""
    return parameters**3 / 3 / OPERATIONS_PER_SECOND


def in_words(value: float, units: dict[str, float]) -> str:
    """A positive number in the largest of `units` (name to size, rising) that it reaches.

    >>> in_words(1.21e16, {"bytes": 1, "TB": 1e12, "PB": 1e15})
    '12.1 PB'
    """
    name, size = next(((n, s) for n, s in reversed(units.items()) if value >= s), next(iter(units.items())))
    ratio = value / size
    return f"{ratio:,.0f} {name}" if ratio >= 100 else f"{ratio:.3g} {name}"


def of_size(parameters: int, number: str, symmetric: bool):
    """Memory of a Hessian, of L-BFGS and of a gradient, and the time of one factorization, over D."""
    size = FORMATS[number]
    d = np.logspace(2, 12, 21)
    sizes = np.array(list(MODELS.values()), dtype=float)
    needed, seconds = hessian_bytes(parameters, size, symmetric), cholesky_seconds(parameters)
    gpus = math.ceil(needed / GPU_BYTES)
    fits = "fits on one GPU of 80 GB" if gpus == 1 else f"fills {in_words(gpus, COUNTS).strip()} GPUs of 80 GB"
    name = next((f" ({model})" for model, count in MODELS.items() if count == parameters), "")
    parameter_words = f"{in_words(parameters, COUNTS).strip()} parameters{name}"
    layout = ", each pair of equal entries stored once" if symmetric else ""
    others = {"the gradient": size * parameters, f"L-BFGS with m = {HISTORY}": 2 * HISTORY * size * parameters}
    stored = ["number", "symmetric"]
    parameter_axis = axis("parameters D", domain=(1e2, 1e12), scale="log")
    return figure(
        panel(
            line(d, [hessian_bytes(each, size, symmetric) for each in d], label="Hessian", series=0, depends=stored),
            line(d, 2 * HISTORY * size * d, label="L-BFGS, m = 10", series=1, depends=["number"]),
            line(d, size * d, label="gradient", series=2, depends=["number"]),
            line(sizes, [hessian_bytes(each, size, symmetric) for each in sizes], style="dots", series=3,
                 label="models", depends=stored),
            text(sizes / 1.6, [hessian_bytes(each, size, symmetric) * 2 for each in sizes], list(MODELS),
                 anchor="end", depends=stored),
            rule(y=GPU_BYTES, depends=[]),
            text(1.4e2, 10 * GPU_BYTES, "one GPU, 80 GB", depends=[]),
            rule(x=parameters, depends=["parameters"]),
            line([parameters], [needed], label="D chosen", series=4, style="dots"),
            title="Memory", x=parameter_axis, y=axis("memory", domain=(1e2, 1e26), scale="log", unit="bytes"),
        ),
        panel(
            line(d, cholesky_seconds(d), label="factorization, D³/3", series=5, depends=[]),
            line(sizes, cholesky_seconds(sizes), style="dots", series=3, label="models", depends=[]),
            text(sizes / 1.6, cholesky_seconds(sizes) * 2, list(MODELS), anchor="end", depends=[]),
            rule(y=DAY, depends=[]),
            rule(y=AGE_OF_UNIVERSE, depends=[]),
            text([1.4e2, 1.4e2], [50 * DAY, 50 * AGE_OF_UNIVERSE], ["a day", "age of the universe"], depends=[]),
            rule(x=parameters, depends=["parameters"]),
            line([parameters], [seconds], label="D chosen", series=4, style="dots", depends=["parameters"]),
            title="Time at 10¹⁵ operations a second",
            x=parameter_axis, y=axis("time", domain=(1e-10, 1e22), scale="log", unit="s"),
        ),
        alt=f"{parameter_words}, {number}{layout}: {in_words(needed, BYTES)} for the Hessian, which {fits}; "
        + "; ".join(f"{in_words(value, BYTES)} for {owner}" for owner, value in others.items())
        + f". One factorization takes {in_words(seconds, TIMES)} at 10¹⁵ operations a second.",
    )  # fmt: skip


def size_figure():
    """Bytes of a Hessian, and seconds of its factorization, against the number of parameters."""
    decades = [value * 10**power for power in range(2, 12) for value in (1, 3)] + [10**12]
    counts = sorted({*decades, *MODELS.values()} - {10**8, 10**9, 3 * 10**11})
    return explore(
        of_size,
        parameters=stops(counts, default=MODELS["GPT-3"], label="parameters D"),
        number=choice(list(FORMATS), default="FP32", label="number format"),
        symmetric=switch(False, label="store each pair of equal entries once"),
    )
