"""What a page or a claim was computed with is recognised by the text of the modules it uses, and by nothing else."""

import pytest

from book import fingerprint as module
from book.extensions.execution import page_fingerprint
from book.fingerprint import fingerprint, used_modules


@pytest.fixture
def project(tmp_path, monkeypatch):
    package = tmp_path / "steepest"
    files = {
        "__init__.py": "",
        "alone.py": "VALUE = 1\n",
        "deep/__init__.py": "from .outer import f\n",
        "deep/outer.py": "from . import inner\nfrom steepest.deep.inner import g\nf = g\n",
        "deep/inner.py": "def g():\n    import steepest.lazy\n",
        "lazy.py": "",
    }
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "ROOTS", {"steepest": tmp_path})
    return package


def test_imports_are_followed_through_packages_relative_names_and_functions(project):
    assert used_modules("from steepest.deep import f") == [
        "steepest",
        "steepest.deep",
        "steepest.deep.inner",
        "steepest.deep.outer",
        "steepest.lazy",
    ]


def test_only_names_of_this_project_count(project):
    assert used_modules("import torch, os.path\nfrom numpy import linalg\nfrom steepest_like import x") == []


@pytest.mark.parametrize("changed", ["deep/inner.py", "lazy.py", "deep/__init__.py", "__init__.py"])
def test_a_change_in_any_used_module_changes_the_fingerprint(project, changed):
    source = "from steepest.deep import f\n"
    before = fingerprint(source)
    (project / changed).write_text((project / changed).read_text() + "\nCHANGED = True\n")
    assert fingerprint(source) != before


def test_a_change_in_an_unrelated_module_does_not(project):
    source = "from steepest.deep import f\n"
    before = fingerprint(source)
    (project / "alone.py").write_text("VALUE = 2\n")
    assert fingerprint(source) == before


PAGE = """---
file_format: mystnb
kernelspec:
  name: python3
---

# Title

```{{code-cell}} ipython3
:tags: [hide-input]
%matplotlib inline
from steepest.{name} import x
```

Text that names `import steepest.lazy`, which is not code.
"""


def test_a_page_is_keyed_on_what_its_code_cells_import(project):
    before = page_fingerprint(PAGE.format(name="alone"))
    assert before != page_fingerprint(PAGE.format(name="deep"))
    (project / "lazy.py").write_text("CHANGED = True\n")
    assert page_fingerprint(PAGE.format(name="alone")) == before
    (project / "alone.py").write_text("VALUE = 3\n")
    assert page_fingerprint(PAGE.format(name="alone")) != before
