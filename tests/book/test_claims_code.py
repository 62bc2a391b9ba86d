"""The hash over the code that a measurement used: what changes it and what does not."""

import os
from textwrap import dedent

import pytest

from book import fingerprint
from book.claims.code import code_files, code_hash, significant, used_code


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages, `evidence` (claims) and `method` (what they measure); returns a function that edits a file."""
    monkeypatch.setattr(fingerprint, "ROOTS", {"evidence": tmp_path, "method": tmp_path})
    files = {
        "method/__init__.py": "from method.first import first\nfrom .second import double\n",
        "method/first.py": "from method.base import base\ndef first(x):\n    return base(x) + 1\n",
        "method/second.py": "def double(x):\n    return 2 * x\n",
        "method/base.py": "def base(x):\n    return x\n",
        "evidence/__init__.py": "",
        "evidence/tools.py": "def tool(x):\n    return x\n\ndef idle(x):\n    return 0\n",
        "evidence/claims.py": dedent("""
            import math
            from method import first
            from evidence.tools import idle, tool
            LIMIT = 3

            def helper(x):
                return tool(x) + LIMIT

            def measured(seed):
                '''Measure.'''
                return helper(first(seed))  # why

            def other(seed):
                from method import double
                return double(seed)
        """),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def edit(name, old, new):
        path = tmp_path / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        # Two edits within one tick of the file system's clock would look like one.
        edit.time += 1
        os.utime(path, (edit.time, edit.time))

    edit.time = 1_000_000_000
    return edit


def function(name):
    def stand_in():
        pass

    stand_in.__module__, stand_in.__qualname__ = "evidence.claims", name
    return stand_in


def test_the_code_used_is_found_by_name_here_and_by_module_there(packages):
    assert set(used_code(function("measured"))) == {
        "evidence.claims:measured", "evidence.claims:helper", "evidence.claims:LIMIT", "evidence.tools:tool",
        "method.first", "method.base",
    }  # fmt: skip
    assert set(used_code(function("other"))) == {"evidence.claims:other", "method.second"}
    assert {path.name for path in code_files(function("other"))} == {"claims.py", "second.py"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("evidence/claims.py", "first(seed)", "first(seed + 1)"),
        ("evidence/claims.py", "LIMIT = 3", "LIMIT = 4"),
        ("evidence/tools.py", "return x", "return -x"),
        ("method/first.py", "+ 1", "+ 2"),
        ("method/base.py", "return x", "return x + x"),
    ],
)
def test_the_hash_changes_with_the_code_used(packages, name, old, new):
    before = code_hash(function("measured"))
    packages(name, old, new)
    assert code_hash(function("measured")) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("evidence/claims.py", "return double(seed)", "return double(seed) + 1"),
        ("evidence/claims.py", "import math", "import math, cmath"),
        ("evidence/claims.py", "# why", "# because"),
        ("evidence/claims.py", "'''Measure.'''", "'''Measure it.\n\n    Well.\n    '''"),
        ("evidence/tools.py", "return 0", "return 1"),
        ("method/second.py", "2 * x", "3 * x"),
        ("method/first.py", "def first", "\n\ndef first"),
        ("method/__init__.py", "from .second import double\n", ""),
    ],
)
def test_the_hash_stays_when_other_code_or_only_words_change(packages, name, old, new):
    before = code_hash(function("measured"))
    packages(name, old, new)
    assert code_hash(function("measured")) == before


def test_code_that_cannot_be_found_is_an_error():
    with pytest.raises(ValueError, match="top-level function"):
        code_hash(lambda seed: {})


def test_what_counts_as_code():
    source = 'x = "# no comment"  # a comment\n\nclass C:\n    """Words."""\n\n    y = """text"""\n'
    assert significant(source) == 'x = "# no comment"\nclass C:\n    y = """text"""'
