"""What mixed precision does to memory, measured on a GPU: model, optimizer, activations, and the largest batch."""

from collections.abc import Callable

import torch

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.mixed_precision.precisions import BF16, FP16, FP32, Precision, Shape, training_step
from book.claims.on_device import peak_bytes, release
from book.claims.wording import number, percent

FULL = Shape(layers=12, width=768, heads=12, length=256, batch=16)
SMALL = Shape(layers=2, width=16, heads=2, length=8, batch=4)
PRECISIONS = (FP32, FP16, BF16)


def saved_bytes(model: torch.nn.Module, inputs: torch.Tensor, precision: Precision) -> int:
    """Bytes that one forward pass keeps for the backward pass, parameters and inputs left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), inputs]}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    enabled = precision.dtype != torch.float32
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # The output holds the graph, and with it every kept tensor, so that no address is given out twice.
        with torch.autocast(inputs.device.type, dtype=precision.dtype, enabled=enabled):
            output = model(inputs)
        total = sum(kept.values())
        del output
    return total


def account(device: str, shape: Shape, seed: int) -> Values:
    """Bytes of model, Adam's state and activations, and the peak of a step, by precision."""
    values: dict = {"parameters": sum(p.numel() for p in shape.model(device).parameters()), "batch": shape.batch}
    for precision in PRECISIONS:
        release(device)
        model, data = shape.model(device), shape.batch_of(shape.batch, device, seed)
        optimizer = torch.optim.Adam(model.parameters())
        step = training_step(model, data, precision)
        step()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        state = sum(t.nbytes for slots in optimizer.state.values() for t in slots.values())
        del optimizer
        values[f"bytes of the model, {precision.name}"] = sum(p.nbytes for p in model.parameters())
        values[f"bytes of Adam's state, {precision.name}"] = state
        values[f"bytes of activations, {precision.name}"] = saved_bytes(model, data[0], precision)
        values[f"bytes at the peak of a step, {precision.name}"] = peak_bytes(step, device)
        # Else the next precision is measured beside this one's model and state.
        del model, data, step
    return values


def measure_account(seed: int) -> Values:
    """A transformer of the size of BERT-base."""
    return account("cuda", FULL, seed)


def judge_account(values: Values) -> Verdict:
    """Holds if the peak halves; conditional if only the activations come near to that."""
    model, state, activations = (
        values[f"bytes of {part}, FP16"] / values[f"bytes of {part}, FP32"]
        for part in ("the model", "Adam's state", "activations")
    )
    peak = values["bytes at the peak of a step, FP16"] / values["bytes at the peak of a step, FP32"]
    sentence = (
        f"With autocast in FP16, a transformer of {values['parameters']:,} parameters keeps "
        f"{percent(model)} of the bytes of the model, {percent(state)} of those of Adam's state and "
        f"{percent(activations)} of those of the activations; the peak of a step at batch {values['batch']} is "
        f"{percent(peak)}."
    )
    return Verdict(HOLDS if peak <= 0.55 else CONDITIONAL if activations <= 0.75 else FAILS, sentence)


def largest_batch(step_at: Callable[[int], Callable[[], object]], budget: int, device: str) -> int:
    """The largest batch whose step stays within a budget of bytes, by doubling and halving; 0 if none does.

    What counts is the second step: from then on Adam's state is there during the forward pass.
    """

    def fits(size: int) -> bool:
        release(device)
        step = step_at(size)
        try:
            step()
            return peak_bytes(step, device) <= budget
        except torch.cuda.OutOfMemoryError:
            return False

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fill_budget(device: str, shape: Shape, budget: int, seed: int) -> Values:
    """The largest batch that a byte budget holds, by precision."""
    values: dict = {"budget in bytes": budget}
    for precision in PRECISIONS:
        release(device)
        model = shape.model(device)

        def step_at(size: int, model: torch.nn.Module = model, precision: Precision = precision):
            return training_step(model, shape.batch_of(size, device, seed), precision)

        values[f"largest batch, {precision.name}"] = largest_batch(step_at, budget, device)
        del model, step_at
    return values


def measure_largest_batch(seed: int) -> Values:
    """What fits into four gibibytes."""
    return fill_budget("cuda", FULL, 4 * 2**30, seed)


def judge_largest_batch(values: Values) -> Verdict:
    """Holds if the batch grows by half or more, conditional if it grows at all."""
    plain, fp16, bf16 = (values[f"largest batch, {precision.name}"] for precision in PRECISIONS)
    sentence = (
        f"In {values['budget in bytes'] / 2**30:.3g} GiB a step fits with a batch of {plain} in FP32, {fp16} in FP16 "
        f"and {bf16} in BF16: {number(fp16 / max(plain, 1))} times as many samples. Weights and optimizer stay in FP32 "
        "and take their share."
    )
    return Verdict(HOLDS if fp16 >= 1.5 * plain else CONDITIONAL if fp16 > plain else FAILS, sentence)


CLAIMS = (
    Claim(
        "mixed_precision.1.2",
        measure_account,
        judge_account,
        (
            {"bytes at the peak of a step, FP16": 1, "bytes of activations, FP16": 1},
            {"bytes at the peak of a step, FP16": 10**15, "bytes of activations, FP16": 1},
            {"bytes at the peak of a step, FP16": 10**15, "bytes of activations, FP16": 10**15},
        ),
        device="cuda",
        small=lambda seed: account("cpu", SMALL, seed),
    ),
    Claim(
        "mixed_precision.1.5",
        measure_largest_batch,
        judge_largest_batch,
        (
            {"largest batch, FP32": 100, "largest batch, FP16": 190},
            {"largest batch, FP32": 100, "largest batch, FP16": 110},
            {"largest batch, FP32": 100, "largest batch, FP16": 100},
        ),
        device="cuda",
        cost="heavy",
        small=lambda seed: fill_budget("cpu", SMALL, 2 * 2**20, seed),
    ),
)
