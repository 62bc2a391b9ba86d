"""A fingerprint of the code that some other code uses.

Pages and claims are computed by modules of this project. What they computed is out of date exactly when one
of those modules changed, so both are keyed on a hash over the modules that they import, and the ones that
those import in turn. Imports are read from the source, so that nothing is run.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
ROOTS = {"steepest": PROJECT / "src", "book": PROJECT}


def module_file(module: str) -> Path | None:
    """The file of one of this project's modules, or None for any other name."""
    root = ROOTS.get(module.partition(".")[0])
    if root is None:
        return None
    path = root.joinpath(*module.split("."))
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


def imported_modules(source: str, package: str = "") -> Iterator[str]:
    """Names of this project's modules that `source` imports; `package` resolves relative imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, node.module] if node.module else parts)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if module_file(name))


@cache
def _direct_imports(module: str, modified: int) -> frozenset[str]:
    path = module_file(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    # Importing a.b.c runs a and a.b as well.
    parents = {module.rsplit(".", count)[0] for count in range(1, module.count(".") + 1)}
    return frozenset(imported_modules(path.read_text(encoding="utf-8"), package)) | parents


def used_modules(source: str, package: str = "") -> list[str]:
    """All of this project's modules that running `source` loads, sorted.

    >>> "steepest" in used_modules("from steepest.second_order import newton_step")
    True
    >>> used_modules("import math")
    []
    """
    found: set[str] = set()
    waiting = list(imported_modules(source, package))
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        waiting.extend(_direct_imports(module, module_file(module).stat().st_mtime_ns))
    return sorted(found)


def fingerprint(source: str, package: str = "") -> str:
    """SHA-256, in hexadecimal, over the text of every module that `source` uses (not over `source` itself)."""
    digest = hashlib.sha256()
    for module in used_modules(source, package):
        digest.update(module.encode())
        digest.update(module_file(module).read_bytes())
    return digest.hexdigest()
