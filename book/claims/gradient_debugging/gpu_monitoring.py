"""What looking at gradients costs beside a training step, measured on a GPU."""

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.on_device import random_tensor, ratio, seconds_of_each
from book.claims.wording import number, percent
from steepest.gradient_debugging import TrainingMonitor, clip_grad_norm_, gradient_norms
from steepest.gradient_flow import PreLNBlock

FULL = {"layers": 12, "width": 768, "length": 128, "batch": 16}
SMALL = {"layers": 2, "width": 16, "length": 4, "batch": 2}
UNREACHED = 1e9


def time_looking(device: str, layers: int, width: int, length: int, batch: int, rounds: int, seed: int) -> Values:
    """The time of norms, clipping and monitoring over that of forward, backward and Adam's step of a transformer."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(*(PreLNBlock(width, 4, 4 * width, dropout=0.0) for _ in range(layers))).to(device)
    inputs = random_tensor(batch, length, width, device=device, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    monitor = TrainingMonitor(model, track_updates=False)
    parameters = list(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()

    step()
    times = seconds_of_each(
        {
            "step": step,
            "item": lambda: [parameter.grad.norm().item() for parameter in parameters],
            "norms": lambda: gradient_norms(model).norms.tolist(),
            "clip": lambda: clip_grad_norm_(parameters, UNREACHED),
            "torch's clip": lambda: torch.nn.utils.clip_grad_norm_(parameters, UNREACHED, foreach=True),
            "monitor": monitor.observe,
        },
        device,
        rounds,
    )
    monitor.close()
    return {
        "parameter tensors": len(parameters),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "norms by .item(), over a step": ratio(times, "item", "step"),
        "norms by one transfer, over a step": ratio(times, "norms", "step"),
        "norms by .item(), over one transfer": ratio(times, "item", "norms"),
        "clipping, over a step": ratio(times, "clip", "step"),
        "clipping, over torch's": ratio(times, "clip", "torch's clip"),
        "monitor, over a step": ratio(times, "monitor", "step"),
    }


def measure_looking(seed: int) -> Values:
    """A transformer of the size of BERT-base's encoder."""
    return time_looking("cuda", **FULL, rounds=10, seed=seed)


def small_looking(seed: int) -> Values:
    """The same on the CPU in a moment."""
    return time_looking("cpu", **SMALL, rounds=1, seed=seed)


def judge_norms(values: Values) -> Verdict:
    """Holds if one .item() a parameter costs at most a twentieth of a step, conditional if one transfer does."""
    by_item, at_once = values["norms by .item(), over a step"], values["norms by one transfer, over a step"]
    sentence = (
        f"Norms of {values['parameter tensors']} gradients by .item() take {percent(by_item)} of a training step, by "
        f"foreach kernels and one transfer {percent(at_once)}: {number(values['norms by .item(), over one transfer'])} "
        "times as long."
    )
    return Verdict(HOLDS if by_item <= 0.05 else CONDITIONAL if at_once <= 0.05 else FAILS, sentence)


def judge_monitor(values: Values) -> Verdict:
    """Holds if monitoring every step costs at most a twentieth of it, conditional if every tenth step does."""
    share, clipping, beside = (
        values[name] for name in ("monitor, over a step", "clipping, over a step", "clipping, over torch's")
    )
    sentence = (
        f"Recording the norms of {values['parameters']:,} parameters and counting non-finite gradients takes "
        f"{percent(share)} of a training step; clipping takes {percent(clipping)}, {number(beside)} "
        "times what torch's takes."
    )
    return Verdict(HOLDS if share <= 0.05 else CONDITIONAL if share <= 0.5 else FAILS, sentence)


CLAIMS = (
    Claim(
        "gradient_debugging.2.1",
        measure_looking,
        judge_norms,
        (
            {"norms by .item(), over a step": 0.03, "norms by one transfer, over a step": 0.01},
            {"norms by .item(), over a step": 0.3, "norms by one transfer, over a step": 0.02},
            {"norms by .item(), over a step": 0.3, "norms by one transfer, over a step": 0.2},
        ),
        device="cuda",
        small=small_looking,
    ),
    Claim(
        "gradient_debugging.5.1",
        measure_looking,
        judge_monitor,
        ({"monitor, over a step": 0.02}, {"monitor, over a step": 0.2}, {"monitor, over a step": 2.0}),
        device="cuda",
        small=small_looking,
    ),
)
