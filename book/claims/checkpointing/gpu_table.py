"""The table for BERT-base, row by row, measured on a GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from book.claims.checkpointing.gpu_encoder import NOT_COMPARABLE
from book.claims.checkpointing.gpu_runs import TOO_LARGE, encoder_runs, small_encoder_runs
from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.wording import number, percent

# A figure of another card and another program is met if it is within this factor.
NEAR = 1.25


@dataclass(frozen=True)
class Row:
    """A row of the stated table: blocks checkpointed, batch, peak in GB, seconds a step."""

    mode: str
    batch: int
    gigabytes: float
    seconds: float

    @property
    def milliseconds_a_sample(self) -> float:
        """The time of a sample, which batches of different sizes can be compared by."""
        return 1000 * self.seconds / self.batch

    @property
    def gigabytes_a_sample(self) -> float:
        """The memory of a sample: what is left beside weights, gradients and Adam's state of 110 million parameters."""
        return (self.gigabytes - 16 * 0.110) / self.batch


TABLE = {
    "checkpointing.4.4": Row("none", 24, 15.2, 0.42),
    "checkpointing.4.5": Row("half", 64, 14.8, 0.53),
    "checkpointing.4.6": Row("all", 96, 14.1, 0.68),
}
NONE, HALF, ALL = TABLE.values()


def measure_row(seed: int) -> Values:
    """The encoder at the table's batch sizes."""
    return encoder_runs(seed)


def judge_row(row: Row, values: Values) -> Verdict:
    """Holds if memory and time are both near the row's, conditional if one is or the batch does not fit."""
    sizes = values["batch sizes"]
    place = sizes.index(row.batch) if row.batch in sizes else len(sizes) - 1
    peak = values[f"peak bytes, {row.mode} checkpointed"][place]
    sample = values[f"milliseconds a sample, {row.mode} checkpointed"][place]
    plain = values["milliseconds a sample, none checkpointed"][place]
    stated = f"The table's row is {row.gigabytes} GB and {number(row.milliseconds_a_sample)} ms a sample."
    if peak == TOO_LARGE:
        return Verdict(CONDITIONAL, f"A batch of {sizes[place]} does not fit into this GPU's memory. {stated}")
    near = [
        1 / NEAR <= measured / claimed <= NEAR
        for measured, claimed in ((peak / 1e9, row.gigabytes), (sample, row.milliseconds_a_sample))
    ]
    beside = "" if row.mode == "none" or plain == TOO_LARGE else f", without checkpointing {number(plain)} ms"
    sentence = (
        f"At batch {sizes[place]}, {row.mode} of {values['blocks']} blocks checkpointed, length 512: "
        f"{number(peak / 1e9, 3)} GB at the peak and {number(sample)} ms a sample{beside}. {stated}"
    )
    return Verdict({2: HOLDS, 1: CONDITIONAL, 0: FAILS}[sum(near)], sentence)


def judge_memory_per_sample(values: Values) -> Verdict:
    """Holds if memory a sample falls by the table's shares within five points, conditional if it falls by a half."""
    state = 16 * values["parameters"]
    sizes = values["batch sizes"]
    per_sample = {}
    for mode in ("none", "half", "all"):
        fitting = [
            (peak - state) / size
            for peak, size in zip(values[f"peak bytes, {mode} checkpointed"], sizes, strict=True)
            if peak != TOO_LARGE
        ]
        per_sample[mode] = fitting[-1] if fitting else None
    if None in per_sample.values():
        return Verdict(CONDITIONAL, NOT_COMPARABLE)
    stated = [1 - row.gigabytes_a_sample / NONE.gigabytes_a_sample for row in (HALF, ALL)]
    saved = [1 - per_sample[mode] / per_sample["none"] for mode in ("half", "all")]
    sentence = (
        f"Without the {number(state / 1e9, 3)} GB of weights, gradients and Adam's state, a sample takes "
        f"{percent(saved[0])} less with half of the blocks checkpointed and {percent(saved[1])} less with all; the "
        f"table gives {percent(stated[0])} and {percent(stated[1])}."
    )
    as_stated = all(abs(own - other) <= 0.05 for own, other in zip(saved, stated, strict=True))
    return Verdict(HOLDS if as_stated else CONDITIONAL if saved[1] >= 0.5 else FAILS, sentence)


def rows(mode: str, gigabytes: float, milliseconds: float) -> Values:
    """Contrary values of a row."""
    return {
        f"peak bytes, {mode} checkpointed": [gigabytes * 1e9] * 2,
        f"milliseconds a sample, {mode} checkpointed": [milliseconds] * 2,
    }


def memory(half: float, whole: float) -> Values:
    """Contrary peaks of a model without parameters, a sample taking 1 GB without checkpointing."""
    return {
        "parameters": 0,
        "batch sizes": [1, 1],
        "peak bytes, none checkpointed": [1e9, 1e9],
        "peak bytes, half checkpointed": [half * 1e9] * 2,
        "peak bytes, all checkpointed": [whole * 1e9] * 2,
    }


def row_claim(name: str, row: Row) -> Claim:
    """The claim of a row."""
    stated = row.milliseconds_a_sample
    judge: Callable[[Values], Verdict] = partial(judge_row, row)
    contrary = (
        rows(row.mode, row.gigabytes, stated),
        rows(row.mode, row.gigabytes, 3 * stated),
        rows(row.mode, 3 * row.gigabytes, 3 * stated),
    )
    return Claim(name, measure_row, judge, contrary, device="cuda", cost="heavy", small=small_encoder_runs)


CLAIMS = (
    *(row_claim(name, row) for name, row in TABLE.items()),
    Claim(
        "checkpointing.4.7",
        measure_row,
        judge_memory_per_sample,
        (memory(0.36, 0.23), memory(0.5, 0.3), memory(0.9, 0.8)),
        device="cuda",
        cost="heavy",
        small=small_encoder_runs,
    ),
)
