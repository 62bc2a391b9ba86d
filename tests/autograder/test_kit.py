"""The kit stands alone: torch and numpy only, no implementation inside, the same bytes every time."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from autograder.exercises import load
from autograder.kit import build_kit, kit_files

ISOLATED = """
import importlib.abc, json, sys
folder, checks = sys.argv[1], sys.argv[2]

class OnlyTorchAndNumpy(importlib.abc.MetaPathFinder):
    refused = {"steepest", "autograder", "solutions", "scipy", "sklearn", "matplotlib", "pytest", "nbgrader",
               "IPython", "jupytext", "pandas", "tests"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.refused:
            raise ModuleNotFoundError(f"{name} is not for learners", name=name)

sys.meta_path.insert(0, OnlyTorchAndNumpy())
sys.path.insert(0, folder)
import torch
import grader
exec(open(checks, encoding="utf-8").read())
assert not OnlyTorchAndNumpy.refused & {name.partition(".")[0] for name in sys.modules}
print("finished")
"""

CHECKS = """
def newton_step(point, gradient, hessian, damping):
    eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype)
    return point - torch.linalg.solve(hessian + damping * eye, gradient)

def uphill(point, gradient, hessian, damping):
    return 2 * point - newton_step(point, gradient, hessian, damping)

def saddle_free_step(point, gradient, hessian, damping, radius):
    values, basis = torch.linalg.eigh(hessian)
    step = -basis @ (basis.T @ gradient / (values.abs() + damping))
    return point + step * (radius / step.norm()).clamp(max=1)

def bfgs_update(hessian, step, change):
    if step @ change <= 0:
        return hessian.clone()
    product = hessian @ step
    return hessian - torch.outer(product, product) / (step @ product) + torch.outer(change, change) / (step @ change)

def lbfgs_direction(gradient, steps, changes):
    pairs = [(s, y) for s, y in zip(steps, changes) if s @ y > 0]
    q, alphas = gradient, []
    for s, y in pairs[::-1]:
        alphas.append(s @ q / (s @ y))
        q = q - alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        q = q * (s @ y) / (y @ y)
    for (s, y), alpha in zip(pairs, alphas[::-1]):
        q = q + (alpha - y @ q / (s @ y)) * s
    return -q

def newton_minimize(gradient, hessian, start, tolerance, max_steps):
    trace = [start.clone()]
    while len(trace) <= max_steps and gradient(trace[-1]).abs().max() > tolerance:
        trace.append(trace[-1] - torch.linalg.solve(hessian(trace[-1]), gradient(trace[-1])))
    return torch.stack(trace)

for name in ("newton_step", "saddle_free_step", "bfgs_update", "lbfgs_direction", "newton_minimize"):
    grader.check(name, globals()[name])
    try:
        grader.check(name, lambda *arguments: None)
    except grader.CheckFailed as error:
        print("refused:", error)
try:
    grader.check("newton_step", uphill)
except grader.CheckFailed:
    print("refused uphill")
"""


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    root = tmp_path_factory.mktemp("kit")
    notebook = root / "second_order.ipynb"
    notebook.write_text('{"cells": []}')
    return build_kit("second_order", notebook, root / "out")


def test_it_works_with_nothing_but_torch_and_numpy(kit, tmp_path):
    with zipfile.ZipFile(kit) as bundle:
        bundle.extractall(tmp_path)
    (tmp_path / "isolated.py").write_text(ISOLATED)
    (tmp_path / "checks.py").write_text(CHECKS)
    command = [sys.executable, "-I", "isolated.py", str(tmp_path / "second_order_kit"), "checks.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.rstrip().endswith("refused uphill\nfinished")
    assert done.stdout.count("refused: ") == 5
    hint = load("second_order")[0].misconceptions[0].hint
    assert f"hint    {hint}" in done.stdout


def test_the_folder_and_the_zip_hold_the_same(kit):
    folder = kit.with_suffix("")
    files = {f"{folder.name}/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*.*")}
    with zipfile.ZipFile(kit) as bundle:
        assert {name: bundle.read(name) for name in bundle.namelist()} == files
    assert {"second_order_kit/second_order.ipynb", "second_order_kit/grader.py"} < set(files)


def test_the_zip_is_reproducible(kit, tmp_path):
    notebook = kit.with_suffix("") / "second_order.ipynb"
    assert build_kit("second_order", notebook, tmp_path).read_bytes() == kit.read_bytes()
    with zipfile.ZipFile(kit) as bundle:
        names = bundle.namelist()
        assert names == sorted(names)
        assert {info.date_time for info in bundle.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_only_relative_imports_and_the_standard_library_torch_and_numpy():
    allowed = sys.stdlib_module_names | {"torch", "numpy", "grader_kit"}
    for path, content in kit_files("second_order").items():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= allowed, path
            if isinstance(node, ast.ImportFrom):
                assert node.level > 0 or node.module.partition(".")[0] in allowed, path


def test_no_implementation_travels_with_it():
    everything = b"\n".join(kit_files("second_order").values())
    bank = Path(sys.modules[load("second_order")[0].sample.__module__].__file__).parent
    for source in bank.glob("*.py"):
        for node in ast.parse(source.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                assert ast.unparse(node).encode() not in everything
                assert f"def {node.name}(".encode() not in everything
    code = b"\n".join(content for path, content in kit_files("second_order").items() if path.suffix == ".py")
    for secret in (b"linalg.solve", b"linalg.inv", b"eigh(", b"torch.outer"):
        assert secret not in code


def test_a_missing_notebook_and_an_unknown_topic(tmp_path):
    with pytest.raises(FileNotFoundError):
        build_kit("second_order", tmp_path / "none.ipynb", tmp_path)
    with pytest.raises(LookupError, match="third_order"):
        build_kit("third_order", tmp_path / "none.ipynb", tmp_path)
