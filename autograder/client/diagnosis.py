"""Name the misconception behind a set of observations."""

from dataclasses import dataclass

from .cases import Case
from .judging import CLOSENESS, Rule, Violation, judge


@dataclass(frozen=True)
class Hint:
    """What to tell a learner; `shared` is what all misconceptions of one family have in common."""

    text: str
    shared: str | None = None


@dataclass(frozen=True)
class CaseResult:
    """Outcome of one case: its violations and the misconceptions that give the same observations."""

    name: str
    violations: tuple[Violation, ...]
    reproduced: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """Outcome of a set of cases.

    Attributes:
        names: misconceptions recognised; empty where all cases pass or none is recognised.
        hint: text for the learner, None where `names` is empty.
        per_case: one result per case, in order.
    """

    names: tuple[str, ...]
    hint: str | None
    per_case: tuple[CaseResult, ...]

    @property
    def passed(self) -> int:
        """Number of cases without violations."""
        return sum(not result.violations for result in self.per_case)


def diagnose(
    cases: list[Case] | tuple[Case, ...], observations: list[dict], hints: dict[str, Hint], rule: Rule = CLOSENESS
) -> Diagnosis:
    """Judge a set of cases and name the misconception behind the failures.

    A misconception is a candidate where it reproduces the observations on every case that tells it
    from the reference, and at least one does. If a candidate explains every failing case, only such
    candidates are named; otherwise all are, because several mistakes may have been made together.

    Args:
        cases: the cases.
        observations: the submission's observations, one set per case.
        hints: misconception → hint, for each misconception that may be named.
        rule: how to judge and compare.
    """
    violations = [judge(case, seen, rule) for case, seen in zip(cases, observations, strict=True)]
    failing = {index for index, found in enumerate(violations) if found}
    candidates, complete, reproduced = [], [], [[] for _ in cases]
    for name in hints if failing else ():
        known = [index for index, case in enumerate(cases) if name in case.mistaken]
        telling = {i for i in known if rule.separation(cases[i], cases[i].mistaken[name], cases[i].expected) > 1}
        same = {i for i in telling if rule.separation(cases[i], observations[i], cases[i].mistaken[name]) <= 1}
        for index in same:
            reproduced[index].append(name)
        if telling and same == telling:
            candidates.append(name)
            if failing & set(known) <= telling:
                complete.append(name)
    names = tuple(complete or candidates)
    results = zip(cases, violations, reproduced, strict=True)
    return Diagnosis(
        names,
        _hint([hints[name] for name in names]),
        tuple(CaseResult(case.name, found, tuple(who)) for case, found, who in results),
    )


def _hint(hints):
    if len(hints) < 2:
        return hints[0].text if hints else None
    if hints[0].shared and all(hint.shared == hints[0].shared for hint in hints):
        return hints[0].shared
    numbered = " ".join(f"({number}) {hint.text}" for number, hint in enumerate(hints, 1))
    return f"More than one known mistake fits your results. {numbered}"
