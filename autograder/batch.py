"""Grading a class: gate, run and judge each submission, enter it into nbgrader, record what became of it."""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat

from autograder.assignment import Assignment, Outcome
from autograder.child import InfrastructureFailure
from autograder.course import ConverterFailed, Course, convert, open_gradebook
from autograder.gate import Admitted, NotGradable, admit, read_submission, read_timestamp
from autograder.records import FAILED, NOT_GRADABLE, Record, forget, load_records, record_of, save


@dataclass(frozen=True)
class Prepared:
    """A submission that ran and was judged; it waits for its entry into the gradebook."""

    record: Record
    admitted: Admitted
    outcome: Outcome
    timestamp: str = ""


def grade_class(
    assignment: Assignment,
    students: list[str] | None = None,
    force: bool = False,
    jobs: int = 2,
    report: Callable[[Record, bool], None] = lambda record, unchanged: None,
) -> dict[str, Record]:
    """Grade what is new or changed in submitted/, and return the records of all submissions asked for.

    Args:
        assignment: The assignment in this round.
        students: Whose submissions; None for all that are there.
        force: Grade again what is unchanged.
        jobs: How many submissions run at the same time. The gradebook has one writer.
        report: Called with each record as it comes, and whether it was taken over unchanged.

    Raises:
        LookupError: A student asked for has no submission.
    """
    course, topic = assignment.course, assignment.topic
    present = course.students(topic)
    if unknown := sorted(set(students or ()) - set(present)):
        raise LookupError(f"no submission of {topic} from: {', '.join(unknown)}")
    known = {} if force else entered_records(course, topic)
    records = {}
    pool = ThreadPoolExecutor(max_workers=jobs)
    try:
        waiting = {
            pool.submit(prepare, assignment, student, known.get(student)): student
            for student in present
            if students is None or student in students
        }
        for future in as_completed(waiting):
            student = waiting[future]
            try:
                record = settle(assignment, student, future.result(), known.get(student))
            except Exception as error:
                # Whatever it is, it must not stop the others, and it is not the learner's fault.
                record = Record(
                    student, topic, FAILED, f"{type(error).__name__}: {error}", round=assignment.round
                )
                save(course, record)
            records[student] = record
            report(record, record is known.get(student))
    finally:
        pool.shutdown(cancel_futures=True)
    return dict(sorted(records.items()))


def entered_records(course: Course, topic: str) -> dict[str, Record]:
    """The records of earlier gradings, but for grades that the gradebook doesn't hold: it may be a new one."""
    with open_gradebook(course) as gradebook:
        entered = {submission.student_id for submission in gradebook.assignment_submissions(topic)}
    records = load_records(course, topic)
    return {name: record for name, record in records.items() if name in entered or not record.has_grade}


def settle(assignment: Assignment, student: str, prepared: Prepared | Record, known: Record | None) -> Record:
    """Enter a prepared submission into the gradebook and save its record; leave a known one as it is."""
    course, topic = assignment.course, assignment.topic
    if prepared is known:
        return known
    if isinstance(prepared, Prepared):
        # If this is killed half way, no record of an earlier grading may vouch for what is left.
        forget(course, topic, student)
        prepared = enter(assignment, prepared)
    else:
        with open_gradebook(course) as gradebook:
            gradebook.update_or_create_student(student)
    save(course, prepared)
    return prepared


def prepare(assignment: Assignment, student: str, known: Record | None) -> Prepared | Record:
    """Everything up to the gradebook. A submission that gets no grade, or is `known`, gives its record at once."""
    course, topic = assignment.course, assignment.topic
    about = {"round": assignment.round}
    try:
        about["key"] = assignment.key(b"no notebook")
        folder = course.submission(topic, student)
        content, timestamp = read_submission(folder, f"{topic}.ipynb"), read_timestamp(folder)
        # The timestamp counts too: it decides whether nbgrader takes the submission for late.
        about["key"] = assignment.key(content + timestamp.encode())
        if known is not None and is_current(course, known, about["key"]):
            return known
        admitted = admit(content, assignment.release)
        outcome = assignment.grade(admitted.notebook)
    except NotGradable as reason:
        record = Record(student, topic, NOT_GRADABLE, refusal(course, topic, student, str(reason)), **about)
        return known if known == record else record
    except InfrastructureFailure as reason:
        return Record(student, topic, FAILED, str(reason), round=assignment.round)
    record = record_of(student, topic, outcome, admitted.repairs, seconds=outcome.seconds, **about)
    return Prepared(record, admitted, outcome, timestamp)


def is_current(course: Course, known: Record, key: str) -> bool:
    """Whether a record still holds: nothing that it depends on changed, and its notebook is there."""
    if known.key != key:
        return False
    return not known.has_grade or course.autograded(known.assignment, known.student).exists()


def refusal(course: Course, topic: str, student: str, reason: str) -> str:
    """The reason, with a warning where the gradebook keeps the grade of an earlier file."""
    if course.autograded(topic, student).exists():
        return f"{reason}; the gradebook still has the grade of an earlier file"
    return reason


def enter(assignment: Assignment, prepared: Prepared) -> Record:
    """Enter a judged submission into the gradebook and autograded/ through nbgrader's Autograde converter."""
    topic, student = assignment.topic, prepared.record.student
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="autograder-admitted-") as staging:
        # nbgrader gets the repaired notebook and nothing else; the file that was handed in stays as it is.
        folder = Path(staging) / student / topic
        folder.mkdir(parents=True)
        nbformat.write(prepared.admitted.notebook, folder / f"{topic}.ipynb")
        if prepared.timestamp:
            (folder / "timestamp.txt").write_text(prepared.timestamp)
        try:
            convert(
                assignment.course,
                "Autograde",
                topic,
                student,
                {
                    "CourseDirectory": {"submitted_directory": staging},
                    "ExecuteOutside": {"outcome": prepared.outcome},
                },
            )
        except ConverterFailed as error:
            return replace(
                prepared.record, status=FAILED, reason=f"nbgrader: {error}", score=None, exercises={}, key=""
            )
    seconds = {**prepared.record.seconds, "gradebook": round(time.monotonic() - started, 3)}
    return replace(prepared.record, seconds=seconds)
