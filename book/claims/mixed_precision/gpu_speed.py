"""What tensor cores give: matrix products and training steps in four precisions, measured on a GPU."""

from functools import partial

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.mixed_precision.precisions import BF16, FP16, FP32, TF32, Shape, mlp, training_step
from book.claims.on_device import float32_products, random_tensor, ratio, release, seconds_of_each
from book.claims.wording import median, number

PRECISIONS = (FP32, TF32, FP16, BF16)
# What the statement says of an H100, in TFLOPS.
STATED_FP16, STATED_FP32 = 989, 67
FULL_STEPS = Shape(layers=12, width=768, heads=12, length=256, batch=32)
SMALL_STEPS = Shape(layers=1, width=16, heads=2, length=4, batch=2)


def multiply_matrices(device: str, size: int, rounds: int, seed: int) -> Values:
    """The speed of square matrix products by precision, and of casts to 16 and 8 bits."""
    a, b = (random_tensor(size, size, device=device, seed=seed + i) for i in range(2))

    def product(dtype: torch.dtype, products: str):
        left, right = a.to(dtype), b.to(dtype)

        def multiply() -> None:
            with float32_products(products):
                torch.mm(left, right)

        return multiply

    contenders = {precision.name: product(precision.dtype, precision.float32_products) for precision in PRECISIONS}
    times = seconds_of_each(contenders, device, rounds)
    casts = {
        name: partial(a.to, dtype)
        for name, dtype in (("FP16", torch.float16), ("E4M3", torch.float8_e4m3fn), ("E5M2", torch.float8_e5m2))
    }
    cast_times = seconds_of_each(casts, device, rounds)
    tera = 2 * size**3 / 1e12
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "matrix size": size,
        **{f"TFLOPS in {name}": tera / median(seconds) for name, seconds in times.items()},
        **{f"entries cast to {name} in a second": size**2 / median(taken) for name, taken in cast_times.items()},
    }


def measure_products(seed: int) -> Values:
    """Products of matrices large enough to fill a GPU."""
    return multiply_matrices("cuda", 8192, 10, seed)


def judge_products(values: Values) -> Verdict:
    """Holds on an H100 that reaches nine tenths of both figures; conditional where FP16 is at least twice as fast."""
    fp32, tf32, fp16, bf16 = (values[f"TFLOPS in {precision.name}"] for precision in PRECISIONS)
    cast = values["entries cast to FP16 in a second"] / values["entries cast to E4M3 in a second"]
    sentence = (
        f"{values['device']}, products of matrices of {values['matrix size']:,} rows: {number(fp32)} TFLOPS in FP32, "
        f"{number(tf32)} in TF32, {number(fp16)} in FP16, {number(bf16)} in BF16. FP16 is {number(fp16 / fp32)} times "
        f"FP32, the stated figures give {number(STATED_FP16 / STATED_FP32)}; TF32 uses tensor cores too. Casting to "
        f"FP8 E4M3 takes {number(cast)} times as long as to FP16."
    )
    stated = "H100" in values["device"] and fp16 >= 0.9 * STATED_FP16 and fp32 >= 0.9 * STATED_FP32
    return Verdict(HOLDS if stated else CONDITIONAL if fp16 >= 2 * fp32 else FAILS, sentence)


def time_steps(device: str, widths: list[int], batch: int, shape: Shape, rounds: int, seed: int) -> Values:
    """The time of a step in FP32 over that in other precisions, for networks of growing width and a transformer."""
    faster: dict[str, list[float]] = {precision.name: [] for precision in PRECISIONS[1:]}
    works = []
    for width in widths:
        data = (random_tensor(batch, width, device=device, seed=seed),) * 2
        works.append((partial(mlp, width, 4, device), data))
    works.append((partial(shape.model, device), shape.batch_of(shape.batch, device, seed)))
    for make, data in works:
        release(device)
        steps = {precision.name: training_step(make(), data, precision) for precision in PRECISIONS}
        times = seconds_of_each(steps, device, rounds)
        for name, found in faster.items():
            found.append(ratio(times, FP32.name, name))
        # Else the next networks are built beside these and their optimizers' states.
        del steps
    return {
        "widths": widths,
        "rows in a batch": batch,
        "transformer": f"{shape.layers} layers of {shape.width}, batch {shape.batch}, length {shape.length}",
        **{f"times faster in {name}, by width": found[:-1] for name, found in faster.items()},
        **{f"times faster in {name}, transformer": found[-1] for name, found in faster.items()},
    }


def measure_steps(seed: int) -> Values:
    """Steps of networks from small to large."""
    return time_steps("cuda", [64, 256, 1024, 4096], 4096, FULL_STEPS, 7, seed)


def judge_steps(values: Values) -> Verdict:
    """Holds if FP16 is 2 to 4 times as fast everywhere, conditional if somewhere."""
    wide = values["times faster in FP16, by width"]
    transformer = values["times faster in FP16, transformer"]
    all_of_them = [*wide, transformer]
    inside = [2 <= gain <= 4 for gain in all_of_them]
    sentence = (
        f"A training step in FP16 is {number(wide[0])} times as fast as in FP32 at width {values['widths'][0]:,} and "
        f"{number(wide[-1])} times at width {values['widths'][-1]:,}; for a transformer ({values['transformer']}) "
        f"{number(transformer)} times, against {number(values['times faster in BF16, transformer'])} in BF16 and "
        f"{number(values['times faster in TF32, transformer'])} in TF32."
    )
    return Verdict(HOLDS if all(inside) else CONDITIONAL if max(all_of_them) >= 2 else FAILS, sentence)


CLAIMS = (
    Claim(
        "mixed_precision.1.3",
        measure_steps,
        judge_steps,
        (
            {"times faster in FP16, by width": [2.5, 3.0, 3.5, 3.9], "times faster in FP16, transformer": 3.0},
            {"times faster in FP16, by width": [0.8, 1.0, 1.2, 1.5], "times faster in FP16, transformer": 1.1},
            {"times faster in FP16, by width": [0.8, 1.0, 2.0, 5.0], "times faster in FP16, transformer": 2.5},
        ),
        device="cuda",
        cost="heavy",
        small=lambda seed: time_steps("cpu", [8, 16], 4, SMALL_STEPS, 1, seed),
    ),
    Claim(
        "mixed_precision.1.4",
        measure_products,
        judge_products,
        (
            {"device": "H100", "TFLOPS in FP16": 950.0, "TFLOPS in FP32": 66.0},
            {"TFLOPS in FP16": 20.0, "TFLOPS in FP32": 19.0},
            {"device": "H100", "TFLOPS in FP16": 700.0, "TFLOPS in FP32": 50.0},
        ),
        device="cuda",
        small=lambda seed: multiply_matrices("cpu", 16, 1, seed),
    ),
)
