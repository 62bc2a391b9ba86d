"""Peak memory and time of training steps by how many blocks are checkpointed, for the claims about GPUs."""

from functools import cache

import torch

from book.claims.checkpointing.networks import Encoder, ResNet, training_step
from book.claims.claim import Values
from book.claims.on_device import float32_products, peak_bytes, ratio, release, seconds_of_each
from book.claims.wording import median

MODES = ("none", "half", "all")
TOO_LARGE = "does not fit"
Number = float | str


@cache
def account(shape: Encoder | ResNet, batches: tuple[int, ...], device: str, rounds: int, seed: int) -> Values:
    """Peak bytes and milliseconds a sample by batch size, with no, half of the and all blocks checkpointed.

    The model is in FP32, its products in TF32 where the GPU has it, trained by Adam. The modes take turns, so that
    their times at the same batch can be compared; the last entry of a list belongs to the largest batch. Kept for the
    life of the process: several claims read the same runs.
    """
    torch.manual_seed(seed)
    model = shape.build(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    blocks = len(model.blocks)
    checkpointed = {"none": 0, "half": blocks // 2, "all": blocks}
    peaks: dict[str, list[Number]] = {mode: [] for mode in MODES}
    samples: dict[str, list[Number]] = {mode: [] for mode in MODES}
    slower: dict[str, list[Number]] = {mode: [] for mode in MODES}
    with float32_products("high"):
        for size in batches:
            data = shape.batch(size, device, seed)
            steps = {mode: training_step(model, data, count, optimizer) for mode, count in checkpointed.items()}
            fitting = {}
            for mode, step in steps.items():
                # A step that ran out of memory can leave some of it behind.
                release(device)
                try:
                    step()
                    peaks[mode].append(peak_bytes(step, device))
                    fitting[mode] = step
                except torch.cuda.OutOfMemoryError:
                    peaks[mode].append(TOO_LARGE)
                    optimizer.zero_grad()
            times = seconds_of_each(fitting, device, rounds)
            for mode in MODES:
                fits = mode in fitting
                samples[mode].append(1000 * median(times[mode]) / size if fits else TOO_LARGE)
                slower[mode].append(ratio(times, mode, "none") if fits and "none" in fitting else TOO_LARGE)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "blocks": blocks,
        "batch sizes": list(batches),
        **{f"peak bytes, {mode} checkpointed": found for mode, found in peaks.items()},
        **{f"milliseconds a sample, {mode} checkpointed": found for mode, found in samples.items()},
        **{f"time over no checkpointing, {mode} checkpointed": slower[mode] for mode in MODES[1:]},
    }


def largest_comparable(values: Values) -> int | None:
    """The place of the largest batch that fits in each of the modes; None if none does."""
    peaks = zip(*(values[f"peak bytes, {mode} checkpointed"] for mode in MODES), strict=True)
    fitting = [place for place, found in enumerate(peaks) if TOO_LARGE not in found]
    return fitting[-1] if fitting else None


def encoder_runs(seed: int) -> Values:
    """An encoder of the size of BERT-base at the batch sizes of the table, and a small one."""
    return account(Encoder(), (8, 24, 64, 96), "cuda", 5, seed)


def resnet_runs(seed: int) -> Values:
    """A network of the size of ResNet-50 on images of 224 pixels."""
    return account(ResNet(), (16, 64), "cuda", 5, seed)


def small_encoder_runs(seed: int) -> Values:
    """The same on the CPU in a moment."""
    return account(Encoder(4, 16, 2, 32, 50), (4, 8), "cpu", 1, seed)


def small_resnet_runs(seed: int) -> Values:
    """The same on the CPU in a moment."""
    return account(ResNet((2, 2), 4, 32), (2, 4), "cpu", 1, seed)
