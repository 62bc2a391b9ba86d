"""Executes pages with this checkout's code, and again when the code that they use has changed.

The execution cache recognises a page by its code cells and its kernelspec; it does not see the modules that
the cells import. So the fingerprint of those modules is written into the kernelspec's display name (which
nothing shows), and a page whose fingerprint changed is read again.
"""

import os
import re
from pathlib import Path

import yaml
from myst_nb.core.read import is_myst_markdown_notebook
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from book.fingerprint import PROJECT, fingerprint

CODE_CELL = re.compile(r"^```+\{code-cell\}[^\n]*\n(.*?)^```+\s*$", re.MULTILINE | re.DOTALL)
CELL_OPTIONS = re.compile(r"\A(---\n.*?\n---\n|(?::[^\n]*\n)+)", re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def page_fingerprint(text: str) -> str:
    """Fingerprint of the project's modules that the code cells of a page (MyST Markdown) use."""
    cells = (CELL_OPTIONS.sub("", cell) for cell in CODE_CELL.findall(text))
    return fingerprint("\n".join(line for cell in cells for line in cell.splitlines() if line[:1] not in "%!"))


def key_on_used_modules(app: Sphinx, docname: str, source: list[str]) -> None:
    """Write the fingerprint into the front matter of a notebook page (event `source-read`)."""
    text = source[0]
    if not is_myst_markdown_notebook(text):
        return
    front_matter = FRONT_MATTER.match(text)
    metadata = yaml.safe_load(front_matter[1])
    key = page_fingerprint(text)
    metadata["kernelspec"] = {"name": "python3", "display_name": f"python3 {key}"}
    # The body keeps its line numbers, so that warnings name the right line.
    lines = front_matter[0].count("\n")
    header = yaml.safe_dump(metadata, default_flow_style=True, width=float("inf")).strip()
    source[0] = f"---\n{header}\n" + "\n" * (lines - 3) + "---\n" + text[front_matter.end() :]
    app.env.metadata[docname]["used_code"] = key


def find_outdated(app: Sphinx, env: BuildEnvironment, added: set, changed: set, removed: set) -> list[str]:
    """Pages whose used modules changed since they were read (event `env-get-outdated`)."""
    return [
        docname
        for docname in env.found_docs - removed
        if (known := env.metadata[docname].get("used_code"))
        and known != page_fingerprint(Path(env.doc2path(docname)).read_text(encoding="utf-8"))
    ]


def prepare_kernels(app: Sphinx, config) -> None:
    """Set what the kernels inherit: this checkout first on the path, static figures, one thread."""
    paths = [str(PROJECT), str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.environ["STEEPEST_STATIC"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def setup(app: Sphinx) -> dict:
    """Register the extension."""
    app.connect("config-inited", prepare_kernels)
    app.connect("source-read", key_on_used_modules)
    app.connect("env-get-outdated", find_outdated)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
