"""The code that a measurement used, and a hash over it.

A result is out of date when the code that made it changed. That code is the measuring function, whatever
it uses of its own package (name by name, so that another claim in the same file does not count), and every
module of the other project packages that it imports, whole, with what those import in turn. Imports through
a package's `__init__` are followed to the module that defines the name. All is read from the source by
`ast`. Comments, docstrings and blank lines do not count.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from book.fingerprint import module_file


def used_code(function: Callable) -> dict[str, str]:
    """The code that `function` uses: label ("module:name" or "module") to its text.

    Raises ValueError if the function is not a top-level function of one of the project's modules.
    """
    module, name = function.__module__, function.__qualname__
    if module_file(module) is None or name not in _bindings(module):
        raise ValueError(f"{module}:{name} must be a top-level function of the project, so that its code can be found")
    package = module.partition(".")[0]
    found: dict[str, str] = {}
    waiting: list[tuple[str, str | None]] = [(module, name)]
    while waiting:
        module, name = waiting.pop()
        binding = _bindings(module).get(name)
        if name is not None and isinstance(binding, ast.Import | ast.ImportFrom):
            waiting.extend(_targets(binding, module, only=name))
            continue
        whole = name is None or binding is None or module.partition(".")[0] != package
        label = module if whole else f"{module}:{name}"
        if label in found:
            continue
        node = _tree(module) if whole else binding
        found[label] = _text(module, node)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                waiting.extend(_targets(inner, module))
            elif not whole and isinstance(inner, ast.Name) and inner.id in _bindings(module):
                waiting.append((module, inner.id))
    return found


def code_hash(function: Callable) -> str:
    """SHA-256, in hexadecimal, over all code that `function` uses."""
    digest = hashlib.sha256()
    for label, text in sorted(used_code(function).items()):
        digest.update(f"{label}\n{text}\n".encode())
    return digest.hexdigest()


def code_files(function: Callable) -> set[Path]:
    """The files of the code that `function` uses."""
    return {module_file(label.partition(":")[0]) for label in used_code(function)}


def significant(source: str) -> str:
    """The source without comments, docstrings and blank lines.

    >>> significant('def f(x):\\n    "Twice x."\\n    return 2 * x  # why\\n')
    'def f(x):\\n    return 2 * x'
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            if not isinstance(node, ast.Module) and docstring.lineno == node.lineno:
                continue
            for row in range(docstring.lineno, docstring.end_lineno + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


@lru_cache(maxsize=256)
def _parsed(path: Path, modified: int) -> tuple[str, ast.Module]:
    source = path.read_text(encoding="utf-8")
    return source, ast.parse(source)


def _source_and_tree(module: str) -> tuple[str, ast.Module]:
    path = module_file(module)
    return _parsed(path, path.stat().st_mtime_ns)


def _tree(module: str) -> ast.Module:
    return _source_and_tree(module)[1]


def _text(module: str, node: ast.AST) -> str:
    source = _source_and_tree(module)[0]
    if isinstance(node, ast.Module):
        return significant(source)
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    return significant("\n".join(source.splitlines()[first - 1 : node.end_lineno]) + "\n")


def _bindings(module: str) -> dict[str, ast.stmt]:
    """Names bound at the top level of a module, each with the statement that binds it."""
    found: dict[str, ast.stmt] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        else:
            names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        found.update(dict.fromkeys(names, node))
    return found


def _targets(
    node: ast.Import | ast.ImportFrom, module: str, only: str | None = None
) -> Iterator[tuple[str, str | None]]:
    """What an import statement of `module` leads to, as (module, name or None for the whole module)."""
    for alias in node.names:
        if only is not None and only != (alias.asname or alias.name.partition(".")[0]):
            continue
        if isinstance(node, ast.Import):
            if module_file(alias.name):
                yield alias.name, None
            continue
        base = node.module or ""
        if node.level:
            is_package = module_file(module).name == "__init__.py"
            parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
            base = ".".join([*parents, node.module] if node.module else parents)
        if module_file(f"{base}.{alias.name}"):
            yield f"{base}.{alias.name}", None
        elif module_file(base):
            yield base, None if alias.name == "*" else alias.name
