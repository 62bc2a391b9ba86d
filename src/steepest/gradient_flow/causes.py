"""The causes behind each symptom of gradient flow, what tells them apart, and the remedy of each."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause of a symptom.

    Attributes:
        name: the cause.
        told_by: what tells it from the other causes.
        remedy: what cures this cause.
        supported: whether the history shows what tells it; None if the history can't say.
    """

    name: str
    told_by: str
    remedy: str
    supported: bool | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A symptom that a history shows.

    Attributes:
        symptom: "large norm", "growing norm", "not finite", "norm near zero" or "spikes".
        steps: the recorded steps that show it, oldest first.
        evidence: what was seen.
        causes: likely causes, those that the history supports first.
    """

    symptom: str
    steps: tuple[int, ...]
    evidence: str
    causes: tuple[Cause, ...]

    @property
    def remedy(self) -> str:
        """What cures the likeliest cause."""
        return self.causes[0].remedy


def of_large_norm(at_start: bool, large_updates: bool | None) -> tuple[Cause, ...]:
    """Return the causes of a norm that is large throughout.

    `at_start`: from the very first record on; `large_updates`: beside the weights, None if not known.

    >>> [cause.name for cause in of_large_norm(at_start=True, large_updates=None)]
    ['scale of loss, inputs or initialisation', 'learning rate too high']
    """
    return ordered(
        Cause(
            "learning rate too high",
            "the norm is usual at step 0, where the rate has had no effect, and grows within the first steps; the loss"
            " bounces or rises; updates are a large part of the weights",
            "lower the learning rate, lengthen warmup; clipping limits the damage of a step but leaves the cause",
            not at_start if large_updates is None else large_updates,
        ),
        Cause(
            "scale of loss, inputs or initialisation",
            "the norm is as large at step 0, whatever the rate; it drops by the batch size if the loss is averaged",
            "average the loss over samples and tokens, normalise inputs, initialise for the activation",
            at_start,
        ),
    )


def of_growing_norm(weights_shrank: bool | None) -> tuple[Cause, ...]:
    """Return the causes of a norm that grows; `weights_shrank`: the weights' norm fell meanwhile.

    >>> of_growing_norm(weights_shrank=True)[0].name
    'weight decay on scale-invariant weights'
    """
    return ordered(
        Cause(
            "learning rate or its schedule",
            "the growth follows the rate: it begins when the rate has risen, and a lower peak stops it",
            "lengthen warmup, lower the peak, decay the rate; clip meanwhile",
            None if weights_shrank is None else not weights_shrank,
        ),
        Cause(
            "weight decay on scale-invariant weights",
            "weights before a normalisation shrink, and gradient times weight stays constant, as their gradient goes"
            " with 1 / norm of the weight; decaying the rate does not stop it",
            "lower the weight decay, or take normalised layers out of it",
            weights_shrank,
        ),
    )


def of_not_finite(exploded: bool, loss_is_bad: bool | None, norm_overflowed: bool) -> tuple[Cause, ...]:
    """Return the causes of values that aren't finite, by what the first such record and those before it show.

    >>> of_not_finite(exploded=False, loss_is_bad=False, norm_overflowed=False)[0].name
    'made in the backward pass'
    """
    return ordered(
        Cause(
            "overflow of the norm only",
            "all entries of the gradients are finite, and the sum of their squares isn't",
            "average the loss, lower the loss scale, or take the norm scaled by the largest entry: clipping by an"
            " infinite norm would set every gradient to 0",
            norm_overflowed,
        ),
        Cause(
            "explosion",
            "the norms before grew by orders of magnitude",
            "lower the learning rate and go back to a checkpoint; clipping from the start on keeps the norm from"
            " getting there, but never repairs a step that is NaN already",
            exploded,
        ),
        Cause(
            "made in the forward pass",
            "the loss isn't finite in the same record: log(0), 0/0, overflow of an activation",
            "find the first operator whose output isn't finite; bound its argument; run that part in FP32 or BF16",
            loss_is_bad,
        ),
        Cause(
            "made in the backward pass",
            "the loss is finite: the derivative of a root or a norm at 0, or gradients beyond FP16's range",
            "add a small constant inside the root; scale the loss dynamically and skip the step, or use BF16 or FP32;"
            " clipping cures neither NaN nor infinity",
            None if loss_is_bad is None else not (loss_is_bad or exploded or norm_overflowed),
        ),
    )


def of_norm_near_zero(
    *,
    detached: bool,
    dead: bool | None,
    converged: bool | None,
    saturated: bool | None,
    underflow: bool | None,
    vanishing: bool | None,
) -> tuple[Cause, ...]:
    """Return the causes of gradients near zero, each argument saying whether the history supports it.

    >>> known = dict(detached=False, dead=False, converged=True, saturated=False, underflow=False, vanishing=None)
    >>> of_norm_near_zero(**known)[0].name
    'converged'
    """
    return ordered(
        Cause(
            "detached graph",
            "the gradient is missing, not small: detach, no_grad, a copy through numpy, an unused parameter",
            "follow the loss back to the first tensor without grad_fn",
            detached,
        ),
        Cause(
            "converged",
            "the norm fell together with the loss, in all layers alike",
            "none: stop, or go on to data that teaches more",
            converged,
        ),
        Cause(
            "dead units",
            "units are 0 for every sample, and gradients before them are exactly 0",
            "lower the learning rate, use LeakyReLU or GELU, initialise again; check biases and input scale",
            dead,
        ),
        Cause(
            "saturated loss",
            "the gradient is small from the output layer on and from step 0 on, and the loss stays high: a softmax or"
            " sigmoid of huge logits, or a second one before the loss",
            "pass logits to a loss that takes logits, initialise the output layer smaller",
            saturated,
        ),
        Cause(
            "vanishing gradients",
            "the output layer's gradient is usual and shrinks layer by layer towards the input",
            "initialise for the activation, use ReLU-like activations, skips, normalisation",
            vanishing,
        ),
        Cause(
            "FP16 underflow",
            "entries are exactly 0 or at least 2^-24; in FP32 the same batch has small gradients",
            "scale the loss, or use BF16",
            underflow,
        ),
    )


def of_spikes(returned_at_once: bool | None) -> tuple[Cause, ...]:
    """Return the causes of spikes.

    `returned_at_once`: norm and loss were as before in the next record, None if there is no next record.

    >>> of_spikes(returned_at_once=False)[0].name
    'unstable optimizer'
    """
    return ordered(
        Cause(
            "bad batch",
            "the same batch spikes again at older weights; norm and loss are back in the next step",
            "validate the data: labels, ranges, lengths; clip by norm near the run's own 0.9-quantile",
            returned_at_once,
        ),
        Cause(
            "unstable optimizer",
            "the same batch doesn't spike at older weights; the loss stays up for a while: a rate at the edge of"
            " stability, or Adam's second moment that has gone stale",
            "lower the learning rate or Adam's beta2, lengthen warmup, clip",
            None if returned_at_once is None else not returned_at_once,
        ),
    )


def ordered(*causes: Cause) -> tuple[Cause, ...]:
    """Return the causes, first those that are supported, then those that can't be told, then the others.

    >>> unlikely, likely = Cause("a", "", "", False), Cause("b", "", "", True)
    >>> [cause.name for cause in ordered(unlikely, likely)]
    ['b', 'a']
    """
    return tuple(sorted(causes, key=lambda cause: {True: 0, None: 1, False: 2}[cause.supported]))
