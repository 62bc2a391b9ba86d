"""Judge observations: what is wrong with them, and how far two sets of them are apart.

A `Rule` holds two functions. ``violations(case, observations)`` says what is wrong.
``separation(case, first, second)`` says how far two sets of observations are apart, in units of the
case's tolerance; at most 1 means 'the same'. `CLOSENESS` compares with the reference's observations.
`invariants` is for techniques that draw random numbers: two right answers differ there, so each is
checked against properties, and two answers are the same if they break the same properties.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .cases import Case
from .comparison import gap, show

# Observations for people: they are shown and never compared.
DISPLAY_ONLY = frozenset({"message"})
# Last parts of observations' names that `structure` judges.
STRUCTURE = frozenset({"type", "shape", "dtype", "changed_inputs"})


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong.

    Attributes:
        kind: for programs.
        message: for people.
        detail: expected and got, where that helps.
        about: prefix of the result whose values are not worth comparing any more, or None.
    """

    kind: str
    message: str
    detail: str = ""
    about: str | None = None


@dataclass(frozen=True)
class Rule:
    """How observations are judged and compared; see the module's docstring."""

    violations: Callable[[Case, dict], tuple[Violation, ...]]
    separation: Callable[[Case, dict, dict], float]


def distance(case: Case, first: dict, second: dict) -> float:
    """Largest difference between two sets of observations, in units of the case's tolerance.

    Floating-point values: max |a − b| / (tolerance · max(|a|, |b|)), maxima over the observation, or
    max |a − b| / tolerance where both are zero. Everything else, also type, shape, dtype and the
    places of NaN and infinities, must agree: the distance is infinite if it does not.

    >>> case = Case("", {}, {}, tolerance=1e-3)
    >>> round(distance(case, {"value": 1.0}, {"value": 1.01}), 1), distance(case, {"value": 1}, {"value": 2})
    (9.9, inf)
    """
    keys = (first.keys() | second.keys()) - DISPLAY_ONLY
    if not keys <= first.keys() & second.keys():
        return math.inf
    return max((gap(first[key], second[key]) / case.tolerance for key in keys), default=0.0)


def closeness(case: Case, observations: dict) -> tuple[Violation, ...]:
    """Compare with the case's expected observations: `structure` first, then values."""
    found = list(structure(case, observations))
    if case.expected.get("raised") or observations.get("raised"):
        return tuple(found)
    # Where a result has another type, shape or dtype, its value says nothing more.
    broken = {violation.about for violation in found} - {None}
    for key, want in case.expected.items():
        group, _, aspect = key.rpartition(".")
        if key in DISPLAY_ONLY or aspect in STRUCTURE or group in broken:
            continue
        error = gap(observations[key], want)
        if error > case.tolerance:
            found.append(_value_violation(group, aspect, want, observations[key], error, case.tolerance))
    return tuple(found)


def structure(case: Case, observations: dict, ignore: tuple[str, ...] = ()) -> tuple[Violation, ...]:
    """Violations that come before any value: exception, type, shape, dtype, changed inputs, something missing.

    Args:
        case: the case.
        observations: of the submission; anything may be missing from them.
        ignore: aspects not to compare, for rules that judge them in their own way (``("shape",)``).
    """
    expected = case.expected
    if (stop := raised_violation(expected.get("raised"), observations)) or expected.get("raised"):
        return stop
    found, broken = [], set()
    for key, want in expected.items():
        group, _, aspect = key.rpartition(".")
        got = observations.get(key)
        if key in DISPLAY_ONLY or aspect in ignore or (group in broken and aspect != "changed_inputs"):
            continue
        if aspect in STRUCTURE and got != want:
            found.append(_structure_violation(group, aspect, want, got))
        elif type(got) is not type(want):
            message = f"{_label(group)} is missing, too large or of a dtype that cannot be compared"
            found.append(Violation("missing", message, about=group))
        else:
            continue
        if aspect != "changed_inputs":
            broken.add(group)
    return tuple(found)


def raised_violation(expected: str | None, observations: dict) -> tuple[Violation, ...]:
    """Violation for an exception that should not have been raised, or is missing, or is of another kind."""
    raised, message = observations.get("raised"), observations.get("message")
    if raised == expected:
        return ()
    if raised is None:
        return (Violation("not_raised", f"returned a result where the contract asks for a {expected}"),)
    if raised == "NotImplementedError":
        return (Violation("not_implemented", "not implemented yet"),)
    wanted = f" where the contract asks for a {expected}" if expected else ""
    return (Violation("raised", f"raised {message or raised}{wanted}"),)


CLOSENESS = Rule(closeness, distance)


def invariants(check: Callable[[Case, dict], tuple[Violation, ...]]) -> Rule:
    """Rule that judges by properties: `check` returns a violation for each property that is broken.

    `check` is called only where `structure` finds nothing, so it may rely on what the driver records.
    Two sets of observations are the same if they break the same properties (kinds of violations).
    """

    def violations(case, observations):
        return structure(case, observations) or check(case, observations)

    def separation(case, first, second):
        kinds = [{violation.kind for violation in violations(case, each)} for each in (first, second)]
        return 0.0 if kinds[0] == kinds[1] else math.inf

    return Rule(violations, separation)


def judged_by(rule: Rule):
    """Decorator that attaches a rule to a driver; drivers without one are judged by `CLOSENESS`."""

    def attach(driver):
        driver.rule = rule
        return driver

    return attach


def rule_of(driver) -> Rule:
    """The rule attached to a driver."""
    return getattr(driver, "rule", CLOSENESS)


def judge(case: Case, observations: dict, rule: Rule = CLOSENESS) -> tuple[Violation, ...]:
    """What is wrong with the observations of one case; empty if nothing is.

    >>> case = Case("", {}, {"value": 1.0}, tolerance=1e-8)
    >>> judge(case, {"value": 1.0}), judge(case, {"value": 2.0})[0].detail
    ((), 'expected  1.0\\ngot       2.0')
    """
    return rule.violations(case, observations)


def _label(group):
    return f"`{group}`" if group else "the result"


def _structure_violation(group, aspect, want, got):
    what = _label(group)
    if aspect == "changed_inputs":
        return Violation(aspect, f"changed its input {got or '?'} in place; work on a copy")
    if aspect == "type":
        missing = "; is a return statement missing?" if got == "None" else ""
        return Violation(aspect, f"{what} is of type {got}, it must be {want}{missing}", about=group)
    if aspect == "shape":
        return Violation(aspect, f"{what} has shape {got}, it must have shape {want}", about=group)
    return Violation(aspect, f"{what} is {got}, it must be {want}: keep the dtype of the inputs", about=group)


def _value_violation(group, aspect, want, got, error, tolerance):
    what = _label(group) if aspect == "value" else f"`{f'{group}.' if group else ''}{aspect}`"
    detail = f"expected  {show(want)}\ngot       {show(got)}"
    if isinstance(got, torch.Tensor) and got.is_floating_point() and not got.isfinite().all():
        return Violation("nan", f"{what} holds NaN or infinite entries", detail)
    if isinstance(got, float) and not math.isfinite(got):
        return Violation("nan", f"{what} is {got}", detail)
    if math.isfinite(error):
        size = f"off by {error:.1e} of its largest entry, accepted is {tolerance:.0e}"
        return Violation("value", f"{what} is {size}", detail)
    return Violation("value", f"{what} is wrong", detail)
