"""A course root: where things lie, nbgrader's configuration and converters on it, and its secrets."""

import glob
import hashlib
import hmac
import io
import logging
import os
import secrets
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CONFIGURATION = "nbgrader_config.py"


@dataclass(frozen=True)
class Course:
    """The folders of one nbgrader course root.

    >>> Course(Path("/course")).released("second_order").as_posix()
    '/course/release/second_order/second_order.ipynb'
    """

    root: Path = PACKAGE

    def source(self, topic: str) -> Path:
        return self.root / "source" / topic / f"{topic}.ipynb"

    def released(self, topic: str) -> Path:
        return self.root / "release" / topic / f"{topic}.ipynb"

    def kit(self, topic: str) -> Path:
        """The kit as a folder; `autograder.kit.build_kit` writes a zip of the same name beside it."""
        return self.root / "kits" / f"{topic}_kit"

    def stamp(self, topic: str) -> Path:
        return self.root / "kits" / f"{topic}.stamp"

    def submission(self, topic: str, student: str) -> Path:
        return self.root / "submitted" / student / topic

    def autograded(self, topic: str, student: str) -> Path:
        return self.root / "autograded" / student / topic / f"{topic}.ipynb"

    def records(self, topic: str) -> Path:
        return self.root / "records" / topic

    def students(self, topic: str) -> list[str]:
        """The students with a folder for this assignment in submitted/."""
        return sorted(path.parent.name for path in (self.root / "submitted").glob(f"*/{topic}"))

    def nbgrader_config(self):
        """The course's nbgrader configuration (traitlets Config): its own file, else this package's."""
        from traitlets.config import PyFileConfigLoader

        folder = self.root if (self.root / CONFIGURATION).exists() else PACKAGE
        config = PyFileConfigLoader(CONFIGURATION, path=str(folder)).load_config()
        config.CourseDirectory.root = str(self.root)
        return config


def put_environment_first() -> None:
    """Put this Python's own folder first on PATH: nbgrader starts `alembic` from there for a new gradebook."""
    folder = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
        os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")


class ConverterFailed(Exception):
    """An nbgrader converter failed; the message holds what it logged."""


def convert(
    course: Course, converter_name: str, topic: str, student: str | None = None, settings: dict | None = None
) -> None:
    """Run an nbgrader converter by its class name on one assignment, overwriting what it made before.

    Args:
        course: The course root to work on.
        converter_name: "GenerateAssignment", "Autograde" or "GenerateFeedback".
        topic: The assignment's name.
        student: Whose submission; None for all.
        settings: Class name → traits, for this run only, e.g. {"CourseDirectory": {"submitted_directory": …}}.

    Raises:
        ConverterFailed: nbgrader reported an error.
    """
    from nbgrader import converters
    from nbgrader.coursedir import CourseDirectory
    from sqlalchemy.exc import SAWarning

    put_environment_first()
    config = course.nbgrader_config()
    which = {"assignment_id": topic, "student_id": "*" if student is None else glob.escape(student)}
    config.CourseDirectory.update(which)
    for class_name, traits in (settings or {}).items():
        config[class_name].update(traits)
    log = logging.getLogger(f"autograder.{converter_name}")
    log.setLevel(logging.WARNING)
    log.propagate = False
    messages = io.StringIO()
    handler = logging.StreamHandler(messages)
    log.addHandler(handler)
    converter = getattr(converters, converter_name)(
        coursedir=CourseDirectory(config=config, log=log), config=config
    )
    converter.log, converter.force = log, True
    try:
        with warnings.catch_warnings():
            # nbgrader 0.9.6 has SQLAlchemy warn about its own way of adding a submission, at every submission.
            warnings.simplefilter("ignore", SAWarning)
            converter.start()
    except (converters.NbGraderException, SystemExit) as error:
        raise ConverterFailed(messages.getvalue().strip() or str(error)) from error
    finally:
        log.removeHandler(handler)


def export(course: Course, topic: str, target: Path) -> None:
    """Write an assignment's grades with nbgrader's export app and the plugin that the course's configuration names."""
    from nbgrader.apps import ExportApp
    from nbgrader.coursedir import CourseDirectory

    config = course.nbgrader_config()
    config.ExportPlugin.update({"to": str(target), "assignment": [topic]})
    app = ExportApp(config=config)
    app.coursedir = CourseDirectory(parent=app)
    app.init_plugin()
    with open_gradebook(course) as gradebook:
        app.plugin_inst.export(gradebook)


def open_gradebook(course: Course):
    """The course's nbgrader Gradebook, a context manager; created where there is none."""
    from nbgrader.api import Gradebook
    from nbgrader.coursedir import CourseDirectory

    put_environment_first()
    directory = CourseDirectory(config=course.nbgrader_config())
    return Gradebook(directory.db_url, directory.course_id)


def assignment_secret(course: Course, topic: str) -> bytes:
    """The assignment's secret, 32 random bytes, created on first use and readable by its owner only."""
    path = course.root / f".secret_{topic}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return bytes.fromhex(path.read_text())
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return bytes.fromhex(path.read_text())


def hidden_seed(secret: bytes, topic: str, grading_round: int, exercise: str, version: str) -> int:
    """The seed of an exercise's hidden cases: the same for all submissions of a round, unknown without the secret.

    >>> first, second = (hidden_seed(b"secret", "second_order", n, "newton_step", "v1") for n in (1, 2))
    >>> first == second
    False
    """
    message = f"{topic}/{grading_round}/{exercise}/{version}".encode()
    return int.from_bytes(hmac.digest(secret, message, hashlib.sha256)[:7], "big")
