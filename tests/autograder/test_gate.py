"""The gate: every way that a file can be wrong has its own answer, and nothing of it runs."""

import copy
import json
import os

import nbformat
import pytest

from autograder.gate import MAX_BYTES, NotGradable, admit, grade_id, parse_notebook, read_submission, repair

v4 = nbformat.v4


def managed(name, kind, **more):
    flags = {"grade": False, "solution": False, "locked": True, "task": False, "schema_version": 3}
    return {"nbgrader": {"grade_id": name, **flags, **kind, **more}}


SOLUTION = {"solution": True, "locked": False}
CHECK = {"grade": True, "points": 4}
WRITTEN = {"grade": True, "solution": True, "locked": False, "points": 3}


@pytest.fixture
def release():
    notebook = v4.new_notebook()
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    notebook.cells = [
        v4.new_markdown_cell("Text", id="text"),
        v4.new_markdown_cell("Task", id="task", metadata=managed("statement", {})),
        v4.new_code_cell("raise NotImplementedError", id="square", metadata=managed("square", SOLUTION)),
        v4.new_code_cell("check(square)", id="check-square", metadata=managed("check_square", CHECK)),
        v4.new_markdown_cell("YOUR ANSWER HERE", id="why", metadata=managed("written_why", WRITTEN)),
    ]
    return notebook


@pytest.fixture
def handed_in(release):
    """A good submission, as the dictionary that its JSON holds."""
    notebook = json.loads(nbformat.writes(release))
    notebook["cells"][2]["source"] = ["def square(x):\n", "    return x * x"]
    notebook["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    notebook["cells"][4]["source"] = "Because."
    return notebook


def cells(document, release):
    return {grade_id(cell): cell for cell in admitted(document, release).notebook.cells}


def admitted(document, release):
    return admit(json.dumps(document).encode(), release)


def test_good_submission_passes_unrepaired(handed_in, release):
    result = admitted(handed_in, release)
    assert result.repairs == ()
    assert [cell.source for cell in result.notebook.cells] == [
        "Text",
        "Task",
        "def square(x):\n    return x * x",
        "check(square)",
        "Because.",
    ]
    assert all(cell.get("outputs", []) == [] for cell in result.notebook.cells)
    nbformat.validate(result.notebook)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b'{"cells": [', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "not a Jupyter notebook"),
        (b'{"a": 1}', "not a Jupyter notebook"),
        (b'{"cells": [], "nbformat": 3}', "format 3"),
        (b'{"cells": [], "nbformat": [1]}', "format"),
        (b'{"cells": [], "nbformat": 4}', "none of this assignment's cells"),
        (b'{"cells": [1], "nbformat": 4}', "cell 1 is not"),
        (b'{"cells": [{"cell_type": "code"}], "nbformat": 4}', "cell 1 is not"),
        (b'{"cells": [{"cell_type": "rm", "source": ""}], "nbformat": 4}', "cell 1 is not"),
        (b'{"cells": [{"cell_type": "code", "source": [1]}], "nbformat": 4}', "cell 1 is not"),
        (b'{"cells": [{"cell_type": [], "source": ""}], "nbformat": 4}', "cell 1 is not"),
    ],
)
def test_refuses_what_is_no_notebook(content, reason, release):
    with pytest.raises(NotGradable, match=reason):
        admit(content, release)


@pytest.mark.parametrize(
    "metadata", [None, 3, [], {"nbgrader": 3}, {"nbgrader": {"grade_id": []}}, {"nbgrader": {}}]
)
def test_strange_metadata_of_an_ordinary_cell_is_dropped(metadata, handed_in, release):
    handed_in["cells"][0]["metadata"] = metadata
    handed_in["metadata"] = metadata if metadata is None else {"kernelspec": {"name": "python3"}}
    result = admitted(handed_in, release)
    assert "nbgrader" not in result.notebook.cells[0].metadata
    nbformat.validate(result.notebook)


def test_ids_are_made_unique_and_valid(handed_in, release):
    for cell, bad in zip(handed_in["cells"], ["a", "a", "not an id!", 7, None], strict=True):
        cell["id"] = bad
    notebook = admitted(handed_in, release).notebook
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    nbformat.validate(notebook)


def test_text_that_is_not_unicode_can_be_written(handed_in, release, tmp_path):
    handed_in["cells"][2]["source"] = "x = '\ud800'"
    nbformat.write(admitted(handed_in, release).notebook, tmp_path / "written.ipynb")


def test_deleted_check_is_put_back_in_its_place(handed_in, release):
    del handed_in["cells"][3]
    result = admitted(handed_in, release)
    assert result.repairs == ("deleted cell check_square put back",)
    assert [grade_id(cell) for cell in result.notebook.cells][2:] == ["square", "check_square", "written_why"]
    assert cells(handed_in, release)["check_square"].source == "check(square)"


def test_deleted_solution_does_not_overwrite_one_in_another_cell(handed_in, release):
    handed_in["cells"][2]["metadata"] = {}
    result = admitted(handed_in, release)
    assert result.repairs == ("deleted cell square put back",)
    sources = [cell.source for cell in result.notebook.cells]
    assert "def square(x):\n    return x * x" in sources
    assert "raise NotImplementedError" not in sources


def test_everything_deleted_but_one_cell(handed_in, release):
    handed_in["cells"] = [handed_in["cells"][4]]
    result = admitted(handed_in, release)
    assert {"statement", "square", "check_square", "written_why"} <= {
        grade_id(cell) for cell in result.notebook.cells
    }
    assert len(result.repairs) == 3
    assert cells(handed_in, release)["written_why"].source == "Because."


def test_duplicates_lose_their_names_and_keep_their_text(handed_in, release):
    twin = copy.deepcopy(handed_in["cells"][2])
    twin["source"] = "def square(x):\n    return x"
    handed_in["cells"].insert(2, twin)
    handed_in["cells"].append(copy.deepcopy(handed_in["cells"][4]))
    result = admitted(handed_in, release)
    assert sorted(result.repairs) == [
        "duplicate of check_square made an ordinary cell",
        "duplicate of square made an ordinary cell",
    ]
    names = [grade_id(cell) for cell in result.notebook.cells]
    assert names == [None, "statement", None, "square", None, "written_why", "check_square"]
    assert result.notebook.cells[2].source == "def square(x):\n    return x"


@pytest.mark.parametrize("points", [400, 0, "4", None, [4], -1])
def test_points_are_restored(points, handed_in, release):
    handed_in["cells"][3]["metadata"]["nbgrader"]["points"] = points
    result = admitted(handed_in, release)
    assert result.repairs == ("points of check_square restored",)
    assert cells(handed_in, release)["check_square"].metadata.nbgrader.points == 4


@pytest.mark.parametrize(
    ("key", "value"), [("grade", False), ("solution", True), ("locked", False), ("task", True)]
)
def test_settings_are_restored(key, value, handed_in, release):
    handed_in["cells"][3]["metadata"]["nbgrader"][key] = value
    result = admitted(handed_in, release)
    assert result.repairs == ("settings of check_square restored",)
    assert cells(handed_in, release)["check_square"].metadata == release.cells[3].metadata


def test_locked_text_is_restored_and_other_text_is_not(handed_in, release):
    handed_in["cells"][3]["source"] = "pass"
    handed_in["cells"][1]["source"] = "An easier task"
    assert set(admitted(handed_in, release).repairs) == {
        "text of check_square restored",
        "text of statement restored",
    }
    assert cells(handed_in, release)["check_square"].source == "check(square)"
    assert cells(handed_in, release)["written_why"].source == "Because."


@pytest.mark.parametrize(
    ("position", "name", "other"), [(2, "square", "markdown"), (4, "written_why", "code")]
)
def test_cell_types_are_restored(position, name, other, handed_in, release):
    handed_in["cells"][position]["cell_type"] = other
    result = admitted(handed_in, release)
    assert result.repairs == (f"type of {name} restored",)
    assert cells(handed_in, release)[name].cell_type == release.cells[position].cell_type
    nbformat.validate(result.notebook)


def test_unknown_graded_cell_becomes_ordinary(handed_in, release):
    handed_in["cells"][0]["metadata"] = managed("check_bonus", CHECK, points=1000)
    result = admitted(handed_in, release)
    assert result.repairs == ("unknown graded cell 'check_bonus' made an ordinary cell",)
    assert "nbgrader" not in result.notebook.cells[0].metadata


@pytest.mark.parametrize("kernel", [{}, None, {"name": "ir"}, "python3"])
def test_another_kernel_is_reset(kernel, handed_in, release):
    handed_in["metadata"] = {"kernelspec": kernel, "widgets": {}}
    result = admitted(handed_in, release)
    assert result.repairs == ("kernel reset to Python 3",)
    assert result.notebook.metadata == release.metadata


def test_display_name_of_the_kernel_is_no_repair(handed_in, release):
    handed_in["metadata"]["kernelspec"]["display_name"] = "Python 3.12 (venv)"
    assert admitted(handed_in, release).repairs == ()


def test_neither_argument_is_changed(handed_in, release):
    handed_in["cells"][3]["metadata"]["nbgrader"]["points"] = 1
    submitted, before = parse_notebook(json.dumps(handed_in).encode()), copy.deepcopy(release)
    original = copy.deepcopy(submitted)
    repair(submitted, release)
    assert submitted == original
    assert release == before


def test_reads_a_plain_file(tmp_path):
    (tmp_path / "a.ipynb").write_bytes(b"content")
    assert read_submission(tmp_path, "a.ipynb") == b"content"


def test_missing_notebook_names_what_is_there(tmp_path):
    (tmp_path / "copy of a.ipynb").touch()
    with pytest.raises(NotGradable, match=r"there is no a\.ipynb \(found copy of a\.ipynb\)"):
        read_submission(tmp_path, "a.ipynb")


def test_symlinks_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("{}")
    folder = tmp_path / "handed-in"
    folder.mkdir()
    (folder / "a.ipynb").symlink_to(secret)
    with pytest.raises(NotGradable, match="a symlink"):
        read_submission(folder, "a.ipynb")
    (tmp_path / "link").symlink_to(folder)
    (folder / "b.ipynb").touch()
    with pytest.raises(NotGradable, match="folder is a symlink"):
        read_submission(tmp_path / "link", "b.ipynb")


def test_folders_and_pipes_are_refused(tmp_path):
    (tmp_path / "a.ipynb").mkdir()
    os.mkfifo(tmp_path / "b.ipynb")
    for name in ("a.ipynb", "b.ipynb"):
        with pytest.raises(NotGradable, match="not a plain file"):
            read_submission(tmp_path, name)


def test_size_limit(tmp_path):
    (tmp_path / "a.ipynb").write_bytes(b" " * MAX_BYTES)
    assert len(read_submission(tmp_path, "a.ipynb")) == MAX_BYTES
    (tmp_path / "a.ipynb").write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(NotGradable, match="larger than 10 MiB"):
        read_submission(tmp_path, "a.ipynb")
