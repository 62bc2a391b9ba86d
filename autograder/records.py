"""The record of each grading: one JSON file per student and assignment, and the table of a class."""

import json
import os
from dataclasses import asdict, dataclass, field

from autograder.course import Course

GRADED = "graded"
REPAIRED = "graded after repair"
NOT_GRADABLE = "not gradable"
FAILED = "infrastructure failure"


@dataclass(frozen=True)
class Record:
    """What became of one submission.

    Attributes:
        student: the student's id.
        assignment: the topic.
        status: "graded", "graded after repair", "not gradable" or "infrastructure failure".
        reason: what was repaired, or why there is no grade.
        score: points of the automatic checks; None where there is no grade. Never 0 for want of one.
        max_score: points that the automatic checks can give.
        exercises: name → {"score", "max", "passed", "misconceptions", "hint", "problem"}.
        seconds: what took how long.
        round: the grading round.
        key: hash of submission, release, kit, exercise versions and seeds; '' never counts as unchanged.
    """

    student: str
    assignment: str
    status: str
    reason: str = ""
    score: float | None = None
    max_score: float | None = None
    exercises: dict[str, dict] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    round: int = 1
    key: str = ""

    @property
    def has_grade(self) -> bool:
        return self.status in (GRADED, REPAIRED)


def record_of(student: str, topic: str, outcome, repairs: tuple[str, ...] = (), **more) -> Record:
    """The record of a graded notebook.

    Args:
        student: The student's id.
        topic: The assignment.
        outcome: The `autograder.assignment.Outcome`.
        repairs: What the gate had to repair.
        more: Further fields of `Record`.
    """
    exercises = {
        name: {
            "score": verdict.score,
            "max": verdict.points,
            "passed": list(verdict.passed),
            "misconceptions": list(verdict.misconceptions),
            "hint": verdict.hint,
            "problem": verdict.problem,
        }
        for name, verdict in outcome.verdicts.items()
    }
    return Record(
        student,
        topic,
        REPAIRED if repairs else GRADED,
        "; ".join(repairs),
        round(sum(each["score"] for each in exercises.values()), 2),
        sum(each["max"] for each in exercises.values()),
        exercises,
        **more,
    )


def save(course: Course, record: Record) -> None:
    """Write a record; a reader sees the old one or the new one, never half of it."""
    folder = course.records(record.assignment)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.student}.json"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def forget(course: Course, topic: str, student: str) -> None:
    """Remove a student's record, if there is one."""
    (course.records(topic) / f"{student}.json").unlink(missing_ok=True)


def load_records(course: Course, topic: str) -> dict[str, Record]:
    """All records of an assignment by student, in the order of their ids."""
    paths = sorted(course.records(topic).glob("*.json"))
    return {path.stem: Record(**json.loads(path.read_text(encoding="utf-8"))) for path in paths}


def table(records: list[Record]) -> str:
    """The records as a table in plain text, with one column per exercise and what was recognised below each row.

    >>> print(table([Record("blank", "second_order", "not gradable", "there is no second_order.ipynb")]))
    student  status        score
    blank    not gradable      –
      there is no second_order.ipynb
    """
    names = list(dict.fromkeys(name for record in records for name in record.exercises))
    rows, notes = [["student", "status", "score", *names]], [[]]
    for record in records:
        score = "–" if record.score is None else f"{record.score:g}/{record.max_score:g}"
        cells = [record.exercises.get(name, {}) for name in names]
        rows.append(
            [
                record.student,
                record.status,
                score,
                *(f"{c['score']:g}/{c['max']:g}" if c else "–" for c in cells),
            ]
        )
        notes.append([record.reason] if record.reason else [])
        for name, cell in record.exercises.items():
            found = [*cell["misconceptions"], *([cell["problem"]] if cell["problem"] else [])]
            if found:
                notes[-1].append(f"{name}: {'; '.join(found)}")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row, about in zip(rows, notes, strict=True):
        aligned = [
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines += ["  ".join(aligned).rstrip(), *(f"  {note}" for note in about)]
    return "\n".join(lines)
