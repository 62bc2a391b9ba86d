"""The table of symptoms, causes and remedies of gradient flow, recognised from a recorded history.

One symptom has several causes, and most remedies cure only one of them. So each finding lists the causes with what
tells them apart, those first that the history itself supports.

| symptom                       | the usual remedy           | what it overlooks                                   |
|-------------------------------|----------------------------|-----------------------------------------------------|
| total norm > 100 throughout   | lower rate, clip           | a summed loss and large inputs do it from step 0 on |
| norm grows over time          | warmup, decay              | weight decay that shrinks scale-invariant weights   |
| NaN or infinity               | FP32 (clipping: never)     | where it was made: forward or backward              |
| norm near 0                   | initialisation, skips      | converged, saturated, dead, underflow, detached     |
| spikes                        | data checks, clip          | an optimizer that is unstable by itself             |

A large or a growing norm is no symptom in a run whose loss falls: what the constant 100 means depends on the
model's size and on the loss's reduction.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from steepest.gradient_debugging import GradientRecord, RunningQuantile, spike_threshold
from steepest.gradient_flow import causes
from steepest.gradient_flow.causes import Finding

LARGE = 100.0
LARGE_UPDATE = 0.1
GROWTH = 10.0
SPIKE = 10.0
# FP32's spacing beside 1: a gradient that is smaller beside its weight changes it at no rate up to 1.
ROUNDING = 2.0**-23
# A layer's relative gradient beside the largest of all layers.
VANISHED = 1e-5
# Skips of a loss scaler in a row that are no search for a scale any more.
PATIENCE = 4


def diagnose(history: Iterable[GradientRecord]) -> list[Finding]:
    """Return the symptoms that a history shows, each with likely causes, how to tell them apart, and remedies.

    Args:
        history: records, oldest first, as in `GradientMonitor.history` and `TrainingMonitor.history`. The more of a
            record is there (loss, weights, dead units), the more causes can be told apart.

    Returns:
        Findings in the order of the table above; none for a healthy history. A run that has converged is reported as
        "norm near zero" with that cause.

    Raises:
        TypeError: `history` holds something other than records.

    Example:
        >>> norms = [1.0, 1.2, 0.9] * 10 + [80.0] + [1.1, 1.0, 0.9]
        >>> history = [GradientRecord(step, names=("w",), norms=(norm,)) for step, norm in enumerate(norms)]
        >>> [finding] = diagnose(history)
        >>> finding.symptom, finding.steps, finding.causes[0].name
        ('spikes', (30,), 'bad batch')
    """
    records = list(history)
    for record in records:
        if not isinstance(record, GradientRecord):
            raise TypeError(f"history must hold GradientRecords, got {type(record).__name__}")
    if not records:
        return []
    searches = (_large, _growing, _not_finite, _near_zero, _spikes)
    return [finding for search in searches if (finding := search(records)) is not None]


def _large(records: Sequence[GradientRecord]) -> Finding | None:
    # NaN > 100 is False: only finite norms are compared, the others have their own row.
    finite = [record for record in records if math.isfinite(record.total_norm)]
    large = [record for record in finite if record.total_norm > LARGE]
    if len(finite) < 5 or len(large) < 0.9 * len(finite) or _loss_falls(records):
        return None
    at_start = math.isfinite(records[0].total_norm) and records[0].total_norm > LARGE
    middle = median(record.total_norm for record in finite)
    # Beside a weight of 0 every update is infinite, and none is NaN.
    updates = [r for record in finite for r in record.of_weights(record.update_ratios).values() if math.isfinite(r)]
    large_updates = median(updates) > LARGE_UPDATE if updates else None
    evidence = f"the total norm is above {LARGE:g} in {len(large)} of {len(finite)} records, {middle:.3g} in the median"
    return Finding("large norm", _steps(large), evidence, causes.of_large_norm(at_start, large_updates))


def _growing(records: Sequence[GradientRecord]) -> Finding | None:
    finite = [record for record in records if math.isfinite(record.total_norm)]
    if len(finite) < 4:
        return None
    middles = [median(record.total_norm for record in quarter) for quarter in _quarters(finite)]
    # From its low on: norms often fall at first, when the worst of the initialisation is unlearnt.
    since_low = middles[middles.index(min(middles)) :]
    if not all(before < after for before, after in pairwise(since_low)) or middles[3] <= GROWTH * min(middles):
        return None
    weights = [math.hypot(*record.of_weights(record.weight_norms).values()) for record in finite]
    shrunk = weights[-1] < 0.7 * weights[0] if weights[0] > 0 else None
    if _loss_falls(records) and not shrunk:
        return None
    evidence = f"by quarters of the history the total norm's median is {', '.join(f'{m:.3g}' for m in middles)}"
    return Finding("growing norm", _steps(finite[-len(finite) // 4 :]), evidence, causes.of_growing_norm(shrunk))


def _not_finite(records: Sequence[GradientRecord]) -> Finding | None:
    bad, skips = [], []
    for record in records:
        skips = [*skips, record] if record.skipped else []
        loss_is_bad = record.loss is not None and not math.isfinite(record.loss)
        if loss_is_bad or record.overflowed_layers or (not record.finite and not record.skipped):
            bad.append(record)
        elif len(skips) >= PATIENCE:
            bad += skips if len(skips) == PATIENCE else [record]
    if not bad:
        return None
    bad = sorted({record.step: record for record in bad}.values(), key=lambda record: record.step)
    first = bad[0]
    before = [record.total_norm for record in records if record.step < first.step and record.finite]
    # Of an explosion the norms before tell: infinite or far above where they came from.
    exploded = bool(before) and before[-1] > GROWTH * median(before[: max(1, len(before) // 2)])
    loss_is_bad = None if first.loss is None else not math.isfinite(first.loss)
    layers = [*first.nan_layers, *first.inf_layers, *first.overflowed_layers]
    where = f"; nearest the output: {layers[-1]}" if layers else ""
    evidence = f"{len(bad)} records, first at step {first.step}, in {len(layers)} parameters{where}"
    found = causes.of_not_finite(exploded, loss_is_bad, first.finite and bool(first.overflowed_layers))
    return Finding("not finite", _steps(bad), evidence, found)


def _near_zero(records: Sequence[GradientRecord]) -> Finding | None:
    finite = [record for record in records if math.isfinite(record.total_norm)]
    if not finite:
        return None
    # Of few records only what is missing can be told.
    first, *_, last = _quarters(finite) if len(finite) >= 4 else (finite, finite)
    detached = {name for name in last[-1].names if all(name in record.missing for record in finite)}
    relative = _relative_norms(last) if len(finite) >= 4 else {}
    best = max(relative.values(), default=0.0)
    small = [name for name, ratio in relative.items() if ratio < max(ROUNDING, VANISHED * best)]
    then, now = max(record.total_norm for record in first), median(record.total_norm for record in last)
    # Beside weights that explode every gradient looks small.
    if not detached and (not small or now > GROWTH * then):
        return None
    losses = [[record.loss for record in quarter] for quarter in (first, last)]
    losses_known = None not in losses[0] + losses[1]
    rose = losses_known and median(losses[1]) > median(losses[0])
    shares = [share for record in last for share in record.dead.values()]
    dead = max(shares) > 0.5 if shares else None
    entries = [most for record in last for most in record.largest or () if most is not None]
    # FP16 has no number between 0 and 2^-24.
    underflow = 0.0 in entries and all(most == 0 or most >= 2.0**-24 for most in entries)
    found = causes.of_norm_near_zero(
        detached=bool(detached),
        dead=dead,
        converged=now < 1e-2 * then and not rose and not dead if losses_known else None,
        saturated=then < VANISHED and not _loss_falls(finite) if losses_known else None,
        underflow=underflow and not dead if entries else None,
        vanishing=_shrinks_with_depth(list(relative.values())) if now >= VANISHED else None,
    )
    least = min(relative.values(), default=0.0)
    evidence = f"the gradient is tiny beside {len(small)} of {len(relative)} weights, {least:.1e} of them at the least"
    if detached:
        evidence += f"; {len(detached)} parameters never get one, such as {min(detached)}"
    return Finding("norm near zero", _steps(last), evidence, found)


def _spikes(records: Sequence[GradientRecord]) -> Finding | None:
    usual, spikes, run = RunningQuantile(), [], []
    returned_at_once = True
    for record in (record for record in records if not record.skipped):
        norm = record.total_norm
        if math.isfinite(norm) and len(usual) >= 10 and norm > spike_threshold(usual, SPIKE):
            run.append(record)
        else:
            # What doesn't come back is growth or divergence.
            if math.isfinite(norm) and len(run) <= 3:
                returned_at_once &= len(run) <= 1
                spikes += run
            run = []
        usual.append(norm)
    calm = returned_at_once and not _loss_stays_up(records, spikes) if spikes else None
    # Whether the last records come back isn't known yet.
    spikes += run if len(run) <= 3 else []
    if not spikes:
        return None
    evidence = f"{len(spikes)} spikes, the largest a norm of {max(record.total_norm for record in spikes):.3g}"
    return Finding("spikes", _steps(spikes), evidence, causes.of_spikes(calm))


def _steps(records: Sequence[GradientRecord]) -> tuple[int, ...]:
    return tuple(record.step for record in records)


def _quarters(records: Sequence[GradientRecord]) -> list[Sequence[GradientRecord]]:
    edges = [len(records) * i // 4 for i in range(5)]
    return [records[start:stop] for start, stop in pairwise(edges)]


def _loss_falls(records: Sequence[GradientRecord]) -> bool:
    """Whether the last quarter's median loss lies below three quarters of the first quarter's losses."""
    losses = [record.loss for record in records if record.loss is not None]
    if len(losses) < 4 or not all(map(math.isfinite, losses)):
        return False
    quarter = len(losses) // 4
    return median(losses[-quarter:]) < sorted(losses[:quarter])[quarter // 4]


def _loss_stays_up(records: Sequence[GradientRecord], spikes: Sequence[GradientRecord]) -> bool:
    """Whether after some spike the next losses' median is above the greatest of as many before it."""
    places = {record.step: place for place, record in enumerate(records)}
    for spike in spikes:
        place = places[spike.step]
        before = [record.loss for record in records[max(0, place - 5) : place] if record.loss is not None]
        after = [record.loss for record in records[place + 1 : place + 6] if record.loss is not None]
        if before and after and median(after) > max(before):
            return True
    return False


def _relative_norms(records: Sequence[GradientRecord]) -> dict[str, float]:
    """Return the median of ‖gradient‖ / ‖weight‖ of each weight, in the order of depth; unknown weights count as 1."""
    ratios: dict[str, list[float]] = {}
    for record in records:
        weights = record.of_weights(record.weight_norms)
        for name, norm in record.of_weights(record.norms).items():
            weight = weights.get(name, 1.0)
            if weight > 0:
                ratios.setdefault(name, []).append(norm / weight)
    return {name: median(values) for name, values in ratios.items()}


def _shrinks_with_depth(relative: Sequence[float]) -> bool:
    """Whether gradients get smaller towards the input, in most layers."""
    falling = [before <= after for before, after in pairwise(relative)]
    return bool(falling) and relative[0] < 1e-2 * relative[-1] and sum(falling) > 0.6 * len(falling)
