"""The kit: what a learner needs besides Python, torch and numpy, as a folder and a zip.

It holds observations and hints, and no implementation of a reference or a misconception.
"""

import json
import zipfile
from pathlib import Path, PurePosixPath

from .client.cases import encode_cases
from .exercises import load

# Everybody gets the same public cases; hidden ones are drawn from a secret.
PUBLIC_SEED = 0

GRADER = '''\
"""Checks of this assignment: `import grader`, then `grader.check("{exercise}", {exercise})`.

These are public checks. Hidden checks, on other inputs, decide the grade.
"""

from pathlib import Path

from grader_kit.client.check import CheckFailed, Grader
from grader_kit.drivers import {topic}

__all__ = ["CheckFailed", "check"]

check = Grader(Path(__file__).resolve().parent / "grader_kit" / "cases" / "{topic}", {topic}).check
'''


def kit_files(topic: str) -> dict[PurePosixPath, bytes]:
    """Files of the kit without the notebook: path inside the kit → content.

    Raises:
        LookupError: the topic has no exercises.

    >>> sorted(str(path) for path in kit_files("second_order"))[0]
    'grader.py'
    """
    exercises = load(topic)
    here = Path(__file__).parent
    kit = PurePosixPath("grader_kit")
    sources = [*sorted((here / "client").glob("*.py")), here / "drivers/__init__.py", here / f"drivers/{topic}.py"]
    files = {kit / source.relative_to(here).as_posix(): source.read_bytes() for source in sources}
    files[kit / "__init__.py"] = b'"""Public checks of an assignment; start at `grader.check`."""\n'
    data = kit / "cases" / topic
    for exercise in exercises:
        files[data / f"{exercise.name}.cases"] = encode_cases(exercise.cases(PUBLIC_SEED, "public"))
    hints = {e.name: {name: [hint.text, hint.shared] for name, hint in e.hints.items()} for e in exercises}
    files[data / "exercises.json"] = json.dumps(hints, indent=1, ensure_ascii=False).encode()
    files[PurePosixPath("grader.py")] = GRADER.format(topic=topic, exercise=exercises[0].name).encode()
    return files


def build_kit(topic: str, notebook_path: Path | str, destination: Path | str) -> Path:
    """Write the kit as the folder ``<destination>/<topic>_kit`` and as a zip beside it.

    Args:
        topic: one with exercises.
        notebook_path: the released notebook; it keeps its file name.
        destination: existing or new folder.

    Returns:
        Path of the zip. Its bytes depend only on the notebook and the exercises: entries are sorted,
        their time is that of the format's epoch.

    Raises:
        LookupError: the topic has no exercises.
        FileNotFoundError: there is no such notebook.
    """
    notebook = Path(notebook_path)
    files = kit_files(topic) | {PurePosixPath(notebook.name): notebook.read_bytes()}
    folder = Path(destination) / f"{topic}_kit"
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in sorted(files):
            entry = zipfile.ZipInfo(f"{folder.name}/{path}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, files[path], compress_type=zipfile.ZIP_DEFLATED, compresslevel=9)
    return archive
