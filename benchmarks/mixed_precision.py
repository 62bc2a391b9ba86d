"""FloatFormat.round beside gfloat's emulation and native casts, DynamicLossScaler beside torch.amp.GradScaler.

Run as ``python benchmarks/mixed_precision.py``. One CPU thread. Rounding: 2**18 float32 numbers, half of them drawn
over all exponents, by each contender to the same values, which is checked; gfloat runs on numpy arrays, its own
representation; the native casts go to the narrow dtype and back, what hardware and libraries do at best. Scaling:
unscale_, step and update of SGD with learning rate 0 on 200 tensors; the optimizer's step is also timed alone.
Contenders take turns in one process; times are of the processor, and ratios are medians over the rounds. With a
CUDA GPU the rows are measured there, too, by the clock and with synchronisation, without gfloat.
Results go to ``benchmarks/results/mixed_precision.json``.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import gfloat
import gfloat.formats
import ml_dtypes
import numpy
import torch
from threadpoolctl import threadpool_limits

from steepest.mixed_precision import BF16, FP8_E4M3, FP8_E5M2, FP16, DynamicLossScaler, FloatFormat

ENTRIES = 2**18
ROUNDS = 21
GRADIENTS = 200
OWN = "steepest"
# Emulation should beat emulation; a scaler of plain operators may cost half as much again as a fused kernel.
ROUND_TARGET, SCALER_TARGET = 0.5, 1.5
RESULTS = Path(__file__).parent / "results" / "mixed_precision.json"
FORMATS: dict[FloatFormat, tuple[gfloat.FormatInfo, type, torch.dtype]] = {
    FP16: (gfloat.formats.format_info_binary16, numpy.float16, torch.float16),
    BF16: (gfloat.formats.format_info_bfloat16, ml_dtypes.bfloat16, torch.bfloat16),
    FP8_E4M3: (gfloat.formats.format_info_ocp_e4m3, ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn),
    FP8_E5M2: (gfloat.formats.format_info_ocp_e5m2, ml_dtypes.float8_e5m2, torch.float8_e5m2),
}


def seconds(run: Callable[[], object], device: str) -> float:
    """Return processor time on the CPU, elapsed time until the device is done elsewhere."""
    if device == "cpu":
        began = time.process_time()
        run()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def interleaved(contenders: dict[str, Callable[[], object]], baseline: str, device: str) -> dict[str, dict[str, float]]:
    """Return each contender's median time and median ratio to the baseline, after a warm-up of each."""
    for run in contenders.values():
        run()
    names, times = list(contenders), {name: [] for name in contenders}
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(seconds(contenders[name], device))
    return {
        name: {
            "time_ratio": statistics.median(a / b for a, b in zip(own, times[baseline], strict=True)),
            "milliseconds": 1e3 * statistics.median(own),
        }
        for name, own in times.items()
    }


def numbers() -> torch.Tensor:
    """Return float32 numbers, half of them normal and half with random bits, infinite and NaN among them."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (ENTRIES // 2,), generator=generator).to(torch.int32)
    return torch.cat([torch.randn(ENTRIES // 2, generator=generator), bits.view(torch.float32)])


def rounding(float_format: FloatFormat, device: str) -> dict[str, dict[str, float]]:
    """Time one format; raises if an emulation differs from the cast that doesn't saturate."""
    info, numpy_dtype, torch_dtype = FORMATS[float_format]
    tensor = numbers().to(device)
    contenders: dict[str, Callable[[], object]] = {
        OWN: lambda: float_format.round(tensor),
        "torch cast": lambda: tensor.to(torch_dtype).to(torch.float32),
    }
    if device != "cpu":
        return interleaved(contenders, OWN, device)
    array = tensor.numpy()
    contenders["gfloat"] = lambda: gfloat.round_ndarray(info, array)
    contenders["numpy cast"] = lambda: array.astype(numpy_dtype).astype(numpy.float32)
    expected = contenders["numpy cast"]()
    for name in (OWN, "gfloat"):
        numpy.testing.assert_array_equal(numpy.asarray(contenders[name]()), expected, err_msg=name)
    return interleaved(contenders, "gfloat", device)


def scaling(elements: int, device: str) -> dict[str, dict[str, float]]:
    """Time a step of each scaler on equal gradients."""
    runs: dict[str, Callable[[], object]] = {}
    for name, scaler in (
        (OWN, DynamicLossScaler(init_scale=1.0)),
        ("torch.amp.GradScaler", torch.amp.GradScaler(device, init_scale=1.0)),
    ):
        weights = [torch.zeros(elements, device=device, requires_grad=True) for _ in range(GRADIENTS)]
        optimizer = torch.optim.SGD(weights, lr=0.0, foreach=True)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        scaler.scale(weights[0].sum())

        def run(scaler=scaler, optimizer=optimizer) -> None:
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()

        runs[name] = run
        runs["optimizer alone"] = optimizer.step
    return interleaved(runs, "torch.amp.GradScaler", device)


def main() -> None:
    """Measure, print a table, write the results."""
    torch.set_num_threads(1)
    results = {}
    with numpy.errstate(all="ignore"):
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            for float_format in FORMATS:
                baseline = "gfloat" if device == "cpu" else None
                results[f"{device}: round to {float_format.name}, {ENTRIES} entries"] = (
                    ROUND_TARGET if baseline else None,
                    rounding(float_format, device),
                )
            for elements in (1_000, 4_000, 65_000):
                results[f"{device}: scaler, {GRADIENTS} gradients of {elements}"] = (
                    SCALER_TARGET,
                    scaling(elements, device),
                )
    for title, (target, rows) in results.items():
        print(f"\n{title}")
        for name, row in rows.items():
            print(f"  {name:22} {row['time_ratio']:>8.3f} {row['milliseconds']:>9.3f} ms")
        if target is not None:
            verdict = "met" if rows[OWN]["time_ratio"] <= target else "missed"
            print(f"  time target {target}: {verdict}")
            if verdict == "missed" and "optimizer alone" in rows:
                more = rows[OWN]["milliseconds"] - rows["torch.amp.GradScaler"]["milliseconds"]
                print(
                    f"  {1e3 * more / GRADIENTS:.1f} µs more a gradient: torch checks and divides all in one kernel;"
                    "\n  a plain reduction costs a call for a small gradient, a second pass over a large one"
                )

    versions = {name: version(name) for name in ("torch", "numpy", "gfloat", "ml_dtypes")}
    report = {
        title: {"target": target, "rounds": ROUNDS, "contenders": rows} for title, (target, rows) in results.items()
    }
    RESULTS.parent.mkdir(exist_ok=True)
    document = {"versions": {"python": platform.python_version(), **versions}, "problems": report}
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
