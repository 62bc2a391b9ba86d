"""What checkpointing saves and costs on an encoder of the size of BERT-base, measured on a GPU."""

from book.claims.checkpointing.gpu_runs import MODES, encoder_runs, largest_comparable, small_encoder_runs
from book.claims.claim import CONDITIONAL, FAILS, HOLDS, Claim, Values, Verdict
from book.claims.wording import number, percent

NOT_COMPARABLE = "No batch fits both with and without checkpointing on this GPU, so that nothing can be compared."


def measure_peak(seed: int) -> Values:
    """The peaks of an encoder."""
    return encoder_runs(seed)


def judge_peak(values: Values) -> Verdict:
    """Holds if both checkpointing half and all blocks saves 50 to 70 percent, conditional if one of them does."""
    place = largest_comparable(values)
    if place is None:
        return Verdict(CONDITIONAL, NOT_COMPARABLE)
    none, half, whole = (values[f"peak bytes, {mode} checkpointed"][place] for mode in ("none", "half", "all"))
    saved = [1 - half / none, 1 - whole / none]
    sentence = (
        f"An encoder of {values['parameters']:,} parameters at batch {values['batch sizes'][place]}: checkpointing "
        f"half of the {values['blocks']} blocks saves {percent(saved[0])} of the peak, weights and optimizer included; "
        f"all blocks {percent(saved[1])}."
    )
    inside = sum(0.5 <= share <= 0.7 for share in saved)
    return Verdict({2: HOLDS, 1: CONDITIONAL, 0: FAILS}[inside], sentence)


def measure_time(seed: int) -> Values:
    """The times of an encoder."""
    return encoder_runs(seed)


def judge_within(values: Values, low: float, high: float, what: str) -> Verdict:
    """Holds if checkpointing half and all blocks costs within a range, conditional if one of them does."""
    place = largest_comparable(values)
    if place is None:
        return Verdict(CONDITIONAL, NOT_COMPARABLE)
    extra = [values[f"time over no checkpointing, {mode} checkpointed"][place] - 1 for mode in ("half", "all")]
    gigabytes = [number(values[f"peak bytes, {mode} checkpointed"][place] / 1e9, 3) for mode in MODES]
    sample = values["milliseconds a sample, none checkpointed"][place]
    sentence = (
        f"{what} at batch {values['batch sizes'][place]}: a step takes {percent(extra[0])} longer with half of the "
        f"{values['blocks']} blocks checkpointed, {percent(extra[1])} longer with all; without any a sample takes "
        f"{number(sample)} ms. The peaks with none, half and all are {', '.join(gigabytes)} GB."
    )
    inside = sum(low <= share <= high for share in extra)
    return Verdict({2: HOLDS, 1: CONDITIONAL, 0: FAILS}[inside], sentence)


def judge_time(values: Values) -> Verdict:
    """The statement's 20 to 30 percent."""
    return judge_within(values, 0.2, 0.3, "An encoder of the size of BERT-base")


def judge_transformer_time(values: Values) -> Verdict:
    """The statement's 20 to 35 percent."""
    return judge_within(values, 0.2, 0.35, "An encoder of the size of BERT-base")


def peaks(half: int, whole: int) -> Values:
    """Contrary peaks, in percent of the peak without checkpointing."""
    return {
        "peak bytes, none checkpointed": [100, 100],
        "peak bytes, half checkpointed": [half, half],
        "peak bytes, all checkpointed": [whole, whole],
    }


def times(half: float, whole: float) -> Values:
    """Contrary times, over the time without checkpointing."""
    return {
        "time over no checkpointing, half checkpointed": [half, half],
        "time over no checkpointing, all checkpointed": [whole, whole],
    }


CLAIMS = (
    Claim(
        "checkpointing.1.6",
        measure_peak,
        judge_peak,
        (peaks(45, 35), peaks(60, 40), peaks(80, 70)),
        device="cuda",
        cost="heavy",
        small=small_encoder_runs,
    ),
    Claim(
        "checkpointing.1.7",
        measure_time,
        judge_time,
        (times(1.21, 1.29), times(1.15, 1.28), times(1.1, 1.4)),
        device="cuda",
        cost="heavy",
        small=small_encoder_runs,
    ),
    Claim(
        "checkpointing.4.2",
        measure_time,
        judge_transformer_time,
        (times(1.21, 1.34), times(1.15, 1.33), times(1.1, 1.4)),
        device="cuda",
        cost="heavy",
        small=small_encoder_runs,
    ),
)
