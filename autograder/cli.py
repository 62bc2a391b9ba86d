"""The command line: `autograder release|sample|grade|feedback|export|table <topic>`."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

# Heavy modules (torch, nbgrader) are imported by the subcommands that need them: `table` and --help start at once.
from autograder.course import ConverterFailed, Course, convert, export
from autograder.records import FAILED, Record, load_records, table


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand and return the exit code: 0, 1 for an infrastructure failure, 2 for a wrong request."""
    options = parser().parse_args(arguments)
    course = Course(options.course.resolve()) if options.course else Course()
    try:
        return options.run(course, options)
    except (FileNotFoundError, LookupError) as error:
        print(f"autograder: {error.args[-1] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2
    except ConverterFailed as error:
        print(f"autograder: nbgrader reported:\n{error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("topic", help="the assignment, e.g. second_order")
    common.add_argument(
        "--course", type=Path, metavar="DIR", help="the course root; the autograder's own folder if not given"
    )
    top = argparse.ArgumentParser(
        prog="autograder", description="Release assignments, grade a class, show the grades."
    )
    subcommands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(run, name, text, **more):
        subcommand = subcommands.add_parser(name, parents=[common], help=text, description=text, **more)
        subcommand.set_defaults(run=run)
        return subcommand

    each = add(
        run_release,
        "release",
        "make the source notebook, the learners' notebook and the kit from the solution file",
    )
    each.add_argument("--force", action="store_true", help="make them even if nothing has changed")
    add(run_sample, "sample", "write the bundled sample class into submitted/")
    each = add(run_grade, "grade", "grade new and changed submissions")
    each.add_argument(
        "--student", action="append", metavar="ID", help="only this student; may be given several times"
    )
    each.add_argument("--force", action="store_true", help="grade unchanged submissions again")
    each.add_argument(
        "--jobs",
        type=positive(int),
        default=2,
        metavar="N",
        help="submissions run at the same time (default: 2)",
    )
    each.add_argument(
        "--round",
        type=positive(int),
        default=1,
        metavar="N",
        help="grading round; each has its own hidden cases (default: 1)",
    )
    each.add_argument(
        "--cell-limit",
        type=positive(float),
        default=10.0,
        metavar="SECONDS",
        help="time for one cell or one hidden case (default: 10)",
    )
    each.add_argument(
        "--total-limit",
        type=positive(float),
        default=180.0,
        metavar="SECONDS",
        help="time for one submission (default: 180)",
    )
    each.add_argument("--json", action="store_true", help="print the records as JSON instead of a table")
    add(run_feedback, "feedback", "make the learners' feedback pages (nbgrader generate_feedback)")
    each = add(run_export, "export", "write the grades as CSV (nbgrader export)")
    each.add_argument(
        "--to", type=Path, metavar="FILE", help="where to (default: grades.csv in the course root)"
    )
    each = add(run_table, "table", "show the last grades")
    each.add_argument("--json", action="store_true", help="print the records as JSON instead of a table")
    return top


def positive(kind):
    """An argparse type: a number of this kind over 0."""

    def parse(text):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be more than 0, got {text}")
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def run_release(course: Course, options) -> int:
    from autograder.release import ReleaseError, release

    try:
        made = release(course, options.topic, force=options.force)
    except ReleaseError as error:
        print(f"autograder: {error}", file=sys.stderr)
        return 2
    print(
        f"{options.topic}: {'released' if made else 'unchanged'}; kit: {course.kit(options.topic).with_suffix('.zip')}"
    )
    return 0


def run_sample(course: Course, options) -> int:
    from autograder.sample import write_sample

    written = write_sample(course, options.topic)
    print(
        f"{options.topic}: {len(written)} sample submissions, {sum(written.values())} of them new or changed"
    )
    return 0


def run_grade(course: Course, options) -> int:
    from autograder.assignment import Assignment, NotReleased
    from autograder.batch import grade_class
    from autograder.child import Limits

    started = time.monotonic()
    try:
        limits = Limits(cell=options.cell_limit, total=options.total_limit)
        assignment = Assignment(course, options.topic, limits, options.round)
    except NotReleased as error:
        print(f"autograder: {error}", file=sys.stderr)
        return 2
    total = len(options.student or course.students(options.topic))
    records = grade_class(assignment, options.student, options.force, options.jobs, progress(total))
    show(records, options.json)
    print(f"{len(records)} submissions in {time.monotonic() - started:.1f} s", file=sys.stderr)
    return 1 if any(record.status == FAILED for record in records.values()) else 0


def progress(total: int):
    """A function that prints one line per record to stderr."""
    count = 0

    def report(record: Record, unchanged: bool) -> None:
        nonlocal count
        count += 1
        score = "" if record.score is None else f", {record.score:g}/{record.max_score:g}"
        reason = f" ({record.reason})" if record.reason else ""
        status = "unchanged" if unchanged else record.status
        print(f"[{count}/{total}] {record.student}: {status}{reason}{score}", file=sys.stderr, flush=True)

    return report


def run_feedback(course: Course, options) -> int:
    convert(course, "GenerateFeedback", options.topic)
    print(f"feedback in {course.root / 'feedback'}")
    return 0


def run_export(course: Course, options) -> int:
    # nbgrader would write a table without rows, or make a new gradebook.
    if not course.released(options.topic).exists():
        raise LookupError(f"{options.topic} is not released in {course.root}")
    target = (options.to or course.root / "grades.csv").resolve()
    export(course, options.topic, target)
    print(f"grades in {target}")
    return 0


def run_table(course: Course, options) -> int:
    records = load_records(course, options.topic)
    if not records:
        raise LookupError(f"nothing of {options.topic} has been graded in {course.root}")
    show(records, options.json)
    return 0


def show(records: dict[str, Record], as_json: bool) -> None:
    """Print records as a table, or as JSON."""
    if as_json:
        print(json.dumps({student: asdict(record) for student, record in records.items()}, indent=1))
    else:
        print(table(list(records.values())))
