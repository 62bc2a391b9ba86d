"""The check that learners run: `check("newton_step", newton_step)`, on precomputed public cases."""

import json
import warnings
from pathlib import Path

from .cases import Case, decode_cases
from .diagnosis import Diagnosis, Hint, diagnose
from .judging import rule_of
from .observe import observe


class CheckFailed(Exception):
    """A public check failed. The report is printed above it, so IPython shows one line and no traceback."""

    def _render_traceback_(self):
        return [f"CheckFailed: {self}"]


class Grader:
    """Public checks of one assignment.

    Args:
        folder: holds ``exercises.json`` and one ``<exercise>.cases`` for each exercise.
        drivers: module with one driver for each exercise, under the exercise's name.
    """

    def __init__(self, folder: Path, drivers):
        self._folder = folder
        self._drivers = drivers
        self._hints = json.loads((folder / "exercises.json").read_text(encoding="utf-8"))

    def check(self, name: str, solution) -> None:
        """Run the public checks of one exercise and print a report.

        Args:
            name: name of the exercise.
            solution: your function or class.

        Raises:
            LookupError: there is no exercise of that name.
            CheckFailed: at least one case failed; the report says which, and why if the mistake is a known one.
        """
        if name not in self._hints:
            raise LookupError(f"there is no exercise {name!r}; the exercises are {', '.join(self._hints)}")
        if not callable(solution):
            print(f"{name}: pass the function or class itself, got {type(solution).__name__}")
            raise CheckFailed(f"{name}: nothing to check")
        cases = decode_cases((self._folder / f"{name}.cases").read_bytes())
        driver = getattr(self._drivers, name)
        hints = {mistake: Hint(*texts) for mistake, texts in self._hints[name].items()}
        # Warnings would go to stderr, and stock nbgrader scores a cell that writes there as failed.
        with warnings.catch_warnings(record=True) as raised_warnings:
            warnings.simplefilter("always")
            observations = [observe(driver, solution, case.inputs) for case in cases]
        diagnosis = diagnose(cases, observations, hints, rule_of(driver))
        print(report(name, cases, diagnosis))
        for text in sorted({" ".join(str(warning.message).split()) for warning in raised_warnings}):
            print(f"  warning  {text[:300]}")
        if failed := len(cases) - diagnosis.passed:
            raise CheckFailed(f"{name}: {failed} of {len(cases)} public checks failed; the reasons are above.")


def report(name: str, cases: tuple[Case, ...], diagnosis: Diagnosis) -> str:
    """The report as text: a line per case, then a hint, or expected and got of the smallest failing case."""
    lines = [f"{name}: public checks"]
    for result in diagnosis.per_case:
        reasons = "; ".join(violation.message for violation in result.violations)
        lines.append(f"  FAILED  {result.name}: {reasons}" if reasons else f"  passed  {result.name}")
    if diagnosis.hint:
        lines.append(f"  hint    {diagnosis.hint}")
    else:
        detailed = [
            (case.size, case.name, violation.detail)
            for case, result in zip(cases, diagnosis.per_case, strict=True)
            for violation in result.violations
            if violation.detail
        ]
        if detailed:
            _, case_name, detail = min(detailed, key=lambda entry: entry[0])
            lines.append(f"  The smallest failing case is '{case_name}':")
            lines += [f"    {line}" for line in detail.splitlines()]
    count = f"{diagnosis.passed} of {len(cases)}" if diagnosis.passed < len(cases) else f"All {len(cases)}"
    lines.append(f"{count} public checks passed. Hidden checks, on other inputs, follow when it is graded.")
    return "\n".join(lines)
