"""Grades as CSV, with a status: a submission without a grade has an empty score there, never a 0.

nbgrader's own plugin writes 0.0 for a student without a submission, also where the submission was refused or
grading failed. This one has the same columns, then `status` and `reason`.
"""

import csv
from pathlib import Path

from nbgrader.api import MissingEntry
from nbgrader.plugins import ExportPlugin

from autograder.course import Course
from autograder.records import Record, load_records

COLUMNS = (
    "assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email",
    "raw_score", "late_submission_penalty", "score", "max_score", "status", "reason",
)  # fmt: skip


class GradeExport(ExportPlugin):
    """nbgrader's CSV columns, with a status and the reason for it."""

    def export(self, gradebook):
        """Write the grades of the gradebook to `self.to` (default: grades.csv)."""
        course = Course(Path(self.parent.coursedir.root))
        with open(self.to or "grades.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for assignment in gradebook.assignments:
                if self.assignment and assignment.name not in self.assignment:
                    continue
                records = load_records(course, assignment.name)
                for student in gradebook.students:
                    if not self.student or student.id in map(str, self.student):
                        writer.writerow(grade_row(gradebook, assignment, student, records.get(student.id)))


def grade_row(gradebook, assignment, student, record: Record | None) -> dict:
    """One student's row; empty scores where there is no grade."""
    row = {
        "assignment": assignment.name,
        "duedate": assignment.duedate,
        "student_id": student.id,
        "last_name": student.last_name,
        "first_name": student.first_name,
        "email": student.email,
        "max_score": assignment.max_score,
        "status": record.status if record else "no submission",
        "reason": record.reason if record else "",
    }
    if record is not None and not record.has_grade:
        return row
    try:
        submission = gradebook.find_submission(assignment.name, student.id)
    except MissingEntry:
        return row
    if record is None:
        row["status"] = "graded by nbgrader"
    penalty = submission.late_submission_penalty
    row |= {
        "timestamp": submission.timestamp,
        "raw_score": submission.score,
        "late_submission_penalty": penalty,
    }
    row["score"] = max(0.0, submission.score - penalty)
    if submission.needs_manual_grade:
        row["reason"] = "; ".join(filter(None, [row["reason"], "part of it waits for grading by hand"]))
    return row
