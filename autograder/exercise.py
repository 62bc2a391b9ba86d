"""The exercise record: everything that is known about one exercise, declared once.

The checks that learners run, the hidden checks, hints, points and the grader's own tests are derived
from it. A solution may be a function, a class, an optimizer or an autograd Function: the driver
knows how to run it, the rule (see `autograder.client.judging`) knows how to judge what happened.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from types import MappingProxyType

import numpy as np
import torch

from .client.cases import Case
from .client.diagnosis import Diagnosis, Hint, diagnose
from .client.judging import Rule, rule_of
from .client.observe import observe

# Largest accepted error as a share of the largest entry, by the lowest precision among the inputs:
# 10^2 to 10^4 units in the last place leave room for another order of operations on systems of
# condition number up to about 100, and none for a wrong formula.
TOLERANCES: Mapping[torch.dtype, float] = MappingProxyType(
    {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 4e-2, torch.float16: 5e-3}
)
# A set of cases must hold, for every two answers, one case where they are this many tolerances apart.
SEPARATION = 100.0
MAX_DRAWS = 100


class ExerciseError(RuntimeError):
    """The record is at fault: its sampler does not give cases that tell the answers apart."""


@dataclass(frozen=True)
class Misconception:
    """A wrong implementation that learners really write, and what a good tutor would say to it.

    Attributes:
        name: short, in words; shown to instructors.
        implementation: takes the solution's place in the driver.
        hint: says what is wrong and why it matters, without giving the answer away.
        family: key into the exercise's `families`, for mistakes that can be hard to tell apart.
    """

    name: str
    implementation: Callable
    hint: str
    family: str | None = None


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        name: name of the function or class to write, and of the check.
        topic: one of the six topics.
        points: points of the check.
        difficulty: 1 (a line or two) to 5 (an evening).
        importance: 1 (nice to know) to 5 (the chapter hangs on it).
        minutes: time that a learner should plan.
        sample: ``sample(generator, kind)`` yields ``(case name, inputs)``; kind is "public" or
            "hidden". All randomness comes from the NumPy generator.
        driver: ``driver(solution, inputs) -> observations``; its rule is attached by `judged_by`.
        reference: the right implementation, with the contract of the exercise.
        misconceptions: the bank.
        families: family → hint that says what its misconceptions share.
        float64: compute observations in float64 and cast them. False where rounding is the lesson.
    """

    name: str
    topic: str
    points: int
    difficulty: int
    importance: int
    minutes: int
    sample: Callable[[np.random.Generator, str], Iterator[tuple[str, dict]]]
    driver: Callable
    reference: Callable
    misconceptions: tuple[Misconception, ...]
    families: Mapping[str, str] = field(default_factory=dict)
    float64: bool = True

    def __post_init__(self):
        names = [misconception.name for misconception in self.misconceptions]
        if len(set(names)) < len(names) or any("/" in name for name in names):
            raise ExerciseError(f"{self.name}: names of misconceptions must differ and not hold '/'")
        if missing := {m.family for m in self.misconceptions if m.family} - set(self.families):
            raise ExerciseError(f"{self.name}: families without a shared hint: {sorted(missing)}")

    @property
    def rule(self) -> Rule:
        """The rule that judges this exercise."""
        return rule_of(self.driver)

    @cached_property
    def hints(self) -> dict[str, Hint]:
        """Misconception → hint."""
        return {m.name: Hint(m.hint, self.families.get(m.family)) for m in self.misconceptions}

    @cached_property
    def version(self) -> str:
        """Hash of the record and of the modules that its functions come from, and what these use of steepest."""
        functions = [self.sample, self.driver, self.reference, *(m.implementation for m in self.misconceptions)]
        sources = sorted({source for function in functions for source in _sources(function)})
        about = [self.name, self.topic, self.points, self.difficulty, self.importance, self.minutes, self.float64]
        hints = [[name, hint.text, hint.shared] for name, hint in self.hints.items()]
        return hashlib.sha256(json.dumps([about, hints, sources]).encode()).hexdigest()[:16]

    def cases(self, seed: int, kind: str) -> list[Case]:
        """Draw a set of cases that tells the reference and all misconceptions from one another.

        Args:
            seed: any integer; the same seed, kind and version give the same cases on every machine.
            kind: ``"public"`` or ``"hidden"``.

        Returns:
            The cases. For each two of the reference and the misconceptions there is a case where
            they are at least `SEPARATION` tolerances apart.

        Raises:
            ValueError: unknown kind.
            ExerciseError: no such set in `MAX_DRAWS` draws, or the reference fails its own cases.
        """
        if kind not in ("public", "hidden"):
            raise ValueError(f"kind is 'public' or 'hidden', got {kind!r}")
        for draw in range(MAX_DRAWS):
            key = json.dumps([self.topic, self.name, self.version, seed, kind, draw]).encode()
            generator = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(key).digest(), "big")))
            cases = [self._case(name, inputs) for name, inputs in self.sample(generator, kind)]
            if all(cases) and not (alike := self._inseparable(cases)):
                return cases
        reason = f"cannot tell apart {alike}" if all(cases) else "the reference fails them"
        raise ExerciseError(f"{self.name}: no usable cases in {MAX_DRAWS} draws for seed {seed} ({kind}): {reason}")

    def diagnose(self, cases: list[Case], observations: list[dict]) -> Diagnosis:
        """Judge one submission's observations on `cases` and name its misconception."""
        return diagnose(cases, observations, self.hints, self.rule)

    def _case(self, name, inputs) -> Case | None:
        """The case for `inputs`; None where rounding alone moves the reference, or it fails its own judge."""
        precision = _lowest_precision(inputs)
        tolerance = TOLERANCES[precision]
        expected = self._observations(Case(name, inputs, {}, tolerance), self.reference, precision)
        if expected is None:
            return None
        case = Case(name, inputs, expected, tolerance)
        mistaken = {}
        for misconception in self.misconceptions:
            seen = self._observations(case, misconception.implementation, precision)
            # An exception's kind alone names nobody: any bug may raise it.
            if seen is not None and not seen.get("raised"):
                mistaken[misconception.name] = seen
        return None if self.rule.violations(case, expected) else replace(case, mistaken=mistaken)

    def _observations(self, case, implementation, precision) -> dict | None:
        """Observations in float64, cast; None if those at the case's own precision are not the same."""
        native = observe(self.driver, implementation, case.inputs)
        if self.float64 and precision != torch.float64:
            wide = observe(self.driver, implementation, _upcast(case.inputs))
            if native.keys() != wide.keys():
                return None
            cast = {key: _cast(wide[key], value) for key, value in native.items()}
            # Half a tolerance, so that the learner's own rounding has the other half.
            if self.rule.separation(case, native, cast) > 0.5:
                return None
            native = cast
        return {key: value for key, value in native.items() if key != "message"}

    def _inseparable(self, cases) -> list[tuple[str, str]]:
        """Pairs of answers that no case keeps `SEPARATION` tolerances apart."""
        answers = [{"reference": case.expected} | case.mistaken for case in cases]
        return [
            (one, other)
            for one, other in combinations(["reference", *self.hints], 2)
            if not any(
                one in seen and other in seen and self.rule.separation(case, seen[one], seen[other]) >= SEPARATION
                for case, seen in zip(cases, answers, strict=True)
            )
        ]


def _lowest_precision(inputs) -> torch.dtype:
    present = {v.dtype for v in inputs.values() if isinstance(v, torch.Tensor) and v.dtype in TOLERANCES}
    return max(present, key=TOLERANCES.__getitem__, default=torch.float64)


def _is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _upcast(inputs):
    return {key: value.double() if _is_float(value) else value for key, value in inputs.items()}


def _cast(wide, native):
    """The float64 result in the type of the native one; observed dtypes stay those of the native run."""
    if _is_float(wide) and _is_float(native):
        return wide.to(native.dtype)
    if isinstance(wide, str) and isinstance(native, str) and wide == "float64":
        return native
    return wide


def _sources(function) -> Iterator[str]:
    """Sources of the module of `function` and of those of the steepest names that the module imports."""
    module = inspect.getmodule(function)
    imported = {inspect.getmodule(value) for value in vars(module).values() if callable(value)}
    for each in {module} | {found for found in imported if found and found.__name__.startswith("steepest.")}:
        yield inspect.getsource(each)
