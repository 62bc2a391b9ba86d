"""What hidden cases say about one exercise: which passed, the score, the misconception and the hint.

Texts made here reach the learner, so they hold counts, names of misconceptions and hints, and never a hidden
input, an expected value or anything that the submission wrote: a solution can put its inputs into an error message.
"""

from dataclasses import dataclass

from autograder.child import InfrastructureFailure

# What failed hidden cases are about where no misconception is named, by the kind of the first violation.
GENERAL_HINTS = {
    "not_implemented": "This exercise still raises NotImplementedError.",
    "raised": "The solution raises an exception on hidden inputs. Try other sizes, values and dtypes.",
    "not_raised": "The contract asks for an exception that the solution does not raise.",
    "type": "The result is not of the type that the contract asks for.",
    "shape": "The result does not have the shape that the contract asks for.",
    "dtype": "The result does not keep the dtype of the inputs.",
    "changed_inputs": "The solution changes its inputs in place. Work on a copy.",
    "nan": "The result holds NaN or infinite entries.",
}
PROBLEM_HINTS = {
    "not defined": "The notebook does not define this name. Does its cell run without an error?",
    "time limit": "The solution did not finish within the time limit. Look for a loop that never ends.",
}


@dataclass(frozen=True)
class Verdict:
    """The judge's finding on one exercise.

    Attributes:
        points: points of the exercise.
        passed: one truth value per hidden case, in order.
        misconceptions: names of the misconceptions recognised.
        hint: what to tell the learner; '' where all passed.
        problem: why not all cases were run; '' where all were.
    """

    points: float
    passed: tuple[bool, ...]
    misconceptions: tuple[str, ...] = ()
    hint: str = ""
    problem: str = ""

    @property
    def score(self) -> float:
        """Share of the hidden cases that passed, times the points, rounded to two decimals.

        >>> Verdict(4, (True, True, False)).score
        2.67
        """
        return round(self.points * sum(self.passed) / len(self.passed), 2)

    @property
    def text(self) -> str:
        """The finding in words.

        >>> Verdict(4, (True, False), hint="Mind the sign.").text
        'Hidden checks: 1 of 2 passed, 2 of 4 points. Mind the sign.'
        """
        count = f"{sum(self.passed)} of {len(self.passed)}"
        parts = [f"Hidden checks: {count} passed, {self.score:g} of {self.points:g} points."]
        if self.problem:
            parts.append(f"Stopped: {self.problem}.")
        return " ".join([*parts, self.hint]).strip()


def reach_verdict(exercise, cases, observations: list[dict], problem: str) -> Verdict:
    """Judge an exercise's observations; cases that were not run count as failed.

    Args:
        exercise: The `Exercise`.
        cases: Its hidden cases.
        observations: One dict per case that was run, in order.
        problem: Why not all were run, or ''.

    Raises:
        InfrastructureFailure: The judge itself failed.
    """
    try:
        diagnosis = exercise.diagnose(cases[: len(observations)], observations)
    except Exception as error:
        raise InfrastructureFailure(
            f"judging {exercise.name} failed: {type(error).__name__}: {error}"
        ) from error
    passed = [not result.violations for result in diagnosis.per_case]
    passed += [False] * (len(cases) - len(passed))
    if all(passed):
        return Verdict(exercise.points, tuple(passed))
    kinds = [violation.kind for result in diagnosis.per_case for violation in result.violations]
    hint = diagnosis.hint or next((GENERAL_HINTS[kind] for kind in kinds if kind in GENERAL_HINTS), "")
    if problem:
        hint = PROBLEM_HINTS.get(problem, "Does the solution exit, crash or use very much memory?")
    return Verdict(exercise.points, tuple(passed), () if problem else diagnosis.names, hint, problem)
