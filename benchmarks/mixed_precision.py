"""Rounding to narrow formats beside gfloat and native casts; a step of DynamicLossScaler beside torch.amp.GradScaler.

Run as ``python benchmarks/mixed_precision.py``. Rounding: 2**18 float32 numbers, half of them drawn over all exponents,
by each contender to the same values, which is checked on the CPU. Scaling: unscale_, step and update of SGD with
learning rate 0 on 200 tensors.

Contenders in rounding: steepest's FloatFormat; on the CPU gfloat, the baseline, on numpy arrays, its own
representation; and the native casts of torch and numpy to the narrow dtype and back, what hardware and libraries do at
best. On a GPU steepest is the baseline. Contenders in scaling: both scalers, torch's the baseline, and the optimizer's
step alone.

Targets: 0.5 of gfloat's time, since emulation should beat emulation; 1.5 of GradScaler's, since plain operators may
cost half as much again as a fused kernel.
"""

from collections.abc import Callable, Iterator

import gfloat
import gfloat.formats
import ml_dtypes
import numpy
import torch
from side_by_side import Table, Target, compared, devices, interleaved, report

from steepest.mixed_precision import BF16, FP8_E4M3, FP8_E5M2, FP16, DynamicLossScaler, FloatFormat

ENTRIES = 2**18
ROUNDS = 21
GRADIENTS = 200
ELEMENTS = (1_000, 4_000, 65_000)
OWN = "steepest"
GFLOAT = "gfloat"
SCALER = "torch.amp.GradScaler"
ROUND_TARGET, SCALER_TARGET = 0.5, 1.5
FORMATS: dict[FloatFormat, tuple[gfloat.FormatInfo, type, torch.dtype]] = {
    FP16: (gfloat.formats.format_info_binary16, numpy.float16, torch.float16),
    BF16: (gfloat.formats.format_info_bfloat16, ml_dtypes.bfloat16, torch.bfloat16),
    FP8_E4M3: (gfloat.formats.format_info_ocp_e4m3, ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn),
    FP8_E5M2: (gfloat.formats.format_info_ocp_e5m2, ml_dtypes.float8_e5m2, torch.float8_e5m2),
}


def numbers() -> torch.Tensor:
    """Return float32 numbers, half of them normal and half with random bits, infinite and NaN among them."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (ENTRIES // 2,), generator=generator).to(torch.int32)
    return torch.cat([torch.randn(ENTRIES // 2, generator=generator), bits.view(torch.float32)])


def rounding(float_format: FloatFormat, device: str) -> Table:
    """Time one format; raises if an emulation differs from the cast that doesn't saturate."""
    info, numpy_dtype, torch_dtype = FORMATS[float_format]
    title = f"round {ENTRIES} entries to {float_format.name}"
    tensor = numbers().to(device)
    contenders: dict[str, Callable[[], object]] = {
        OWN: lambda: float_format.round(tensor),
        "torch cast": lambda: tensor.to(torch_dtype).to(torch.float32),
    }
    if device != "cpu":
        return Table(title, device, ROUNDS, OWN, compared(interleaved(contenders, ROUNDS, device), OWN))
    array = tensor.numpy()
    contenders[GFLOAT] = lambda: gfloat.round_ndarray(info, array)
    contenders["numpy cast"] = lambda: array.astype(numpy_dtype).astype(numpy.float32)
    expected = contenders["numpy cast"]()
    for name in (OWN, GFLOAT):
        numpy.testing.assert_array_equal(numpy.asarray(contenders[name]()), expected, err_msg=name)
    rows = compared(interleaved(contenders, ROUNDS, device), GFLOAT)
    targets = [Target("time", rows[OWN]["ratio"], ROUND_TARGET, "each operator is a pass over the memory of its own")]
    return Table(title, device, ROUNDS, GFLOAT, rows, targets)


def scaling(elements: int, device: str) -> Table:
    """Time a step of each scaler on equal gradients."""
    contenders: dict[str, Callable[[], object]] = {}
    for name, scaler in (
        (OWN, DynamicLossScaler(init_scale=1.0)),
        (SCALER, torch.amp.GradScaler(device, init_scale=1.0)),
    ):
        weights = [torch.zeros(elements, device=device, requires_grad=True) for _ in range(GRADIENTS)]
        optimizer = torch.optim.SGD(weights, lr=0.0, foreach=True)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        scaler.scale(weights[0].sum())

        def step(scaler=scaler, optimizer=optimizer) -> None:
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()

        contenders[name] = step
        contenders["optimizer alone"] = optimizer.step
    rows = compared(interleaved(contenders, ROUNDS, device), SCALER)
    more = rows[OWN]["milliseconds"] - rows[SCALER]["milliseconds"]
    why = (
        f"{1e3 * more / GRADIENTS:.1f} µs more a gradient: torch checks and divides all in one kernel; a plain"
        " reduction costs a call for a small gradient, a second pass over a large one"
    )
    targets = [Target("time of a step", rows[OWN]["ratio"], SCALER_TARGET, why)]
    return Table(f"scaler, {GRADIENTS} gradients of {elements}", device, ROUNDS, SCALER, rows, targets)


def tables() -> Iterator[Table]:
    """Measure all formats and sizes on all devices."""
    with numpy.errstate(all="ignore"):
        for device in devices():
            for float_format in FORMATS:
                yield rounding(float_format, device)
            for elements in ELEMENTS:
                yield scaling(elements, device)


def main() -> None:
    """Measure, print the tables, write the results."""
    report("mixed_precision", tables, ["numpy", "gfloat", "ml_dtypes"])


if __name__ == "__main__":
    main()
