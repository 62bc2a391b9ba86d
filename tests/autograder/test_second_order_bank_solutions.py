"""Right solutions pass however they are written: loops, einsum, NumPy, float64 inside, other layouts.

They share no code with the references: other factorisations, other formulas for the same matrix.
"""

from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch

from autograder.client.observe import observe
from autograder.exercises import load

EXERCISES = {exercise.name: exercise for exercise in load("second_order")}
SOLUTIONS = Path(__file__).parents[2] / "solutions" / "second_order.py"


# --- newton_step
def newton_by_loops_and_inverse(point, gradient, hessian, damping):
    rows = []
    for x, g, h in zip(point, gradient, hessian, strict=True):
        rows.append(x - torch.linalg.inv(h + damping * torch.eye(len(x), dtype=x.dtype)) @ g)
    return torch.stack(rows)


def newton_by_eigenvectors_and_einsum(point, gradient, hessian, damping):
    values, basis = torch.linalg.eigh(hessian)
    return point - torch.einsum("bij,bj,bkj,bk->bi", basis, 1 / (values + damping), basis, gradient)


def newton_by_numpy(point, gradient, hessian, damping):
    damped = hessian.numpy() + damping * np.eye(hessian.shape[-1], dtype=hessian.numpy().dtype)
    return torch.from_numpy(point.numpy() - np.linalg.solve(damped, gradient.numpy()[..., None])[..., 0])


def newton_in_float64_non_contiguous(x, g, h, damping):
    h = h.double() + torch.diag_embed(torch.full(g.shape, damping, dtype=torch.float64))
    step = torch.cholesky_solve(g.double()[..., None], torch.linalg.cholesky(h))
    return (x.double()[..., None] - step).to(x.dtype).expand(*x.shape, 2)[..., 1]


# --- saddle_free_step
def saddle_by_svd(point, gradient, hessian, damping, radius):
    _, sizes, basis = torch.linalg.svd(hessian)  # H = U S Vᵀ has |H| = V S Vᵀ
    absolute = basis.mT @ torch.diag(sizes) @ basis
    step = -torch.linalg.solve(absolute + damping * torch.eye(len(point), dtype=point.dtype), gradient)
    return point + step * min(1.0, radius / max(float(step.norm()), 1e-30))


def saddle_by_loops(point, gradient, hessian, damping, radius):
    values, basis = torch.linalg.eigh(hessian)
    step = torch.zeros_like(point)
    for value, direction in zip(values, basis.T, strict=True):
        step -= (direction @ gradient) / (abs(value) + damping) * direction
    if step.norm() > radius:
        step *= radius / step.norm()
    return point + step


def saddle_by_numpy_in_float64(x, g, h, damping, radius):
    values, basis = np.linalg.eigh(h.double().numpy())
    step = -np.einsum("ij,j,kj,k->i", basis, 1 / (np.abs(values) + damping), basis, g.double().numpy())
    length = np.linalg.norm(step)
    return torch.tensor(x.double().numpy() + step * (radius / length if length > radius else 1), dtype=x.dtype)


# --- bfgs_update
def bfgs_by_loops(hessian, step, gradient_change):
    size, b = len(step), hessian.tolist()
    s, y = step.tolist(), gradient_change.tolist()
    sy = sum(p * q for p, q in zip(s, y, strict=True))
    if sy <= 0:
        return hessian.clone()
    bs = [sum(b[i][j] * s[j] for j in range(size)) for i in range(size)]
    sbs = sum(p * q for p, q in zip(s, bs, strict=True))
    rows = [[b[i][j] - bs[i] * bs[j] / sbs + y[i] * y[j] / sy for j in range(size)] for i in range(size)]
    return torch.tensor(rows, dtype=hessian.dtype)


def bfgs_by_einsum(b, s, y):
    curvature = torch.einsum("i,i->", s, y)
    if curvature <= 0:
        return torch.einsum("ij->ij", b).clone()
    bs = torch.einsum("ij,j->i", b, s)
    return b - torch.einsum("i,j->ij", bs, bs) / torch.einsum("i,i->", s, bs) + y[:, None] * y / curvature


def bfgs_through_the_inverse_in_numpy(b, s, y):
    m, s_, y_ = np.linalg.inv(b.double().numpy()), s.double().numpy(), y.double().numpy()
    if s_ @ y_ <= 0:
        return 1 * b
    left = np.eye(len(s_)) - np.outer(s_, y_) / (s_ @ y_)
    return torch.from_numpy(np.linalg.inv(left @ m @ left.T + np.outer(s_, s_) / (s_ @ y_))).to(b.dtype)


def bfgs_transposed(b, s, y):
    return bfgs_by_einsum(b, s, y).T


# --- lbfgs_direction
def lbfgs_by_the_dense_inverse(gradient, steps, gradient_changes):
    pairs = [(s, y) for s, y in zip(steps.double(), gradient_changes.double(), strict=True) if s @ y > 0]
    identity = torch.eye(len(gradient), dtype=torch.float64)
    matrix = identity * (pairs[-1][0] @ pairs[-1][1] / (pairs[-1][1] @ pairs[-1][1])) if pairs else identity
    for s, y in pairs:
        v = identity - torch.outer(y, s) / (s @ y)
        matrix = v.T @ matrix @ v + torch.outer(s, s) / (s @ y)
    return -(matrix @ gradient.double()).to(gradient.dtype)


def lbfgs_by_recursion(gradient, steps, gradient_changes):
    pairs = [(s, y) for s, y in zip(steps, gradient_changes, strict=True) if torch.dot(s, y) > 0]

    def apply(q, count):
        if count == 0:
            return q * (torch.dot(*pairs[-1]) / pairs[-1][1].pow(2).sum()) if pairs else q
        s, y = pairs[count - 1]
        alpha = torch.dot(s, q) / torch.dot(s, y)
        r = apply(q - alpha * y, count - 1)
        return r + s * (alpha - torch.dot(y, r) / torch.dot(s, y))

    return -apply(gradient, len(pairs))


def lbfgs_by_numpy(gradient, steps, gradient_changes):
    q, s, y = gradient.numpy().copy(), steps.numpy(), gradient_changes.numpy()
    keep = np.flatnonzero(np.einsum("md,md->m", s, y) > 0)
    alphas = {}
    for i in keep[::-1]:
        alphas[i] = s[i] @ q / (s[i] @ y[i])
        q -= alphas[i] * y[i]
    if len(keep):
        q *= s[keep[-1]] @ y[keep[-1]] / (y[keep[-1]] @ y[keep[-1]])
    for i in keep:
        q += (alphas[i] - y[i] @ q / (s[i] @ y[i])) * s[i]
    return torch.from_numpy(-q)


# --- newton_minimize
def minimize_with_a_filled_buffer(gradient, hessian, start, tolerance, max_steps):
    trace = torch.zeros(len(start), max_steps + 1, dtype=start.dtype)
    trace[:, 0] = start
    taken = 0
    while taken < max_steps and not bool((gradient(trace[:, taken]).abs() <= tolerance).all()):
        x = trace[:, taken]
        trace[:, taken + 1] = x - torch.linalg.inv(hessian(x)) @ gradient(x)
        taken += 1
    return trace[:, : taken + 1].T


def minimize_by_recursion(gradient, hessian, start, tolerance, max_steps):
    if max_steps == 0 or gradient(start).norm(p=float("inf")) <= tolerance:
        return start[None].clone()
    step = torch.cholesky_solve(gradient(start)[:, None], torch.linalg.cholesky(hessian(start)))[:, 0]
    rest = minimize_by_recursion(gradient, hessian, start - step, tolerance, max_steps - 1)
    return torch.cat([start[None], rest])


def minimize_by_numpy(gradient, hessian, start, tolerance, max_steps):
    x, trace = start.numpy().copy(), [start.numpy().copy()]
    for _ in range(max_steps):
        slope = gradient(torch.from_numpy(x)).numpy()
        if np.max(np.abs(slope)) <= tolerance:
            break
        x -= np.linalg.solve(hessian(torch.from_numpy(x)).numpy(), slope)
        trace.append(x.copy())
    return torch.from_numpy(np.array(trace))


WRITTEN_OTHERWISE = {
    "newton_step": [
        newton_by_loops_and_inverse,
        newton_by_eigenvectors_and_einsum,
        newton_by_numpy,
        newton_in_float64_non_contiguous,
    ],
    "saddle_free_step": [saddle_by_svd, saddle_by_loops, saddle_by_numpy_in_float64],
    "bfgs_update": [bfgs_by_loops, bfgs_by_einsum, bfgs_through_the_inverse_in_numpy, bfgs_transposed],
    "lbfgs_direction": [lbfgs_by_the_dense_inverse, lbfgs_by_recursion, lbfgs_by_numpy],
    "newton_minimize": [minimize_with_a_filled_buffer, minimize_by_recursion, minimize_by_numpy],
}


def assert_passes(exercise, solution, seeds):
    for seed in range(seeds):
        for kind in ("public", "hidden"):
            cases = exercise.cases(seed, kind)
            diagnosis = exercise.diagnose(cases, [observe(exercise.driver, solution, case.inputs) for case in cases])
            failed = [(result.name, result.violations) for result in diagnosis.per_case if result.violations]
            assert (failed, diagnosis.names) == ([], ()), (seed, kind)


@pytest.mark.parametrize(
    ("name", "solution"),
    [(name, solution) for name, solutions in WRITTEN_OTHERWISE.items() for solution in solutions],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_right_solutions_pass_and_are_never_named(name, solution):
    assert_passes(EXERCISES[name], solution, seeds=50)


@pytest.fixture(scope="module")
def notebook():
    return jupytext.read(SOLUTIONS)


@pytest.fixture(scope="module")
def solved(notebook):
    """Namespace after the cells with solutions."""
    namespace = {"torch": torch}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.metadata.nbgrader.solution:
            exec(compile(cell.source, cell.metadata.nbgrader.grade_id, "exec"), namespace)
    return namespace


@pytest.mark.parametrize("name", EXERCISES)
def test_the_published_solutions_pass(name, solved):
    assert_passes(EXERCISES[name], solved[name], seeds=20)


def test_the_notebook_has_every_exercise_once_with_its_points(notebook):
    marks = [cell.metadata.nbgrader for cell in notebook.cells]
    ids = [mark.grade_id for mark in marks]
    assert len(set(ids)) == len(ids)
    points = {mark.grade_id: mark.points for mark in marks if mark.grade}
    assert points.pop("written_large_network") == 4
    assert points == {f"check_{name}": exercise.points for name, exercise in EXERCISES.items()}
    order = [i for i in ids if i in EXERCISES or i.startswith("check_")]
    assert order == [each for name in EXERCISES for each in (name, f"check_{name}")]
    assert "28 points" in notebook.cells[0].source and sum(points.values()) + 4 == 28


def test_lead_ins_state_what_the_record_says(notebook):
    sources = {cell.metadata.nbgrader.grade_id: cell.source for cell in notebook.cells}
    for name, e in EXERCISES.items():
        line = f"*Difficulty {e.difficulty} · importance {e.importance} · {e.minutes} minutes · {e.points} points"
        assert line in " ".join(sources[f"about_{name}"].split())
        assert f"`{name}(" in sources[f"about_{name}"]
        assert sources[f"check_{name}"] == f'grader.check("{name}", {name})'


def test_solution_cells_are_wholly_cleared_on_release(notebook):
    for cell in notebook.cells:
        mark, lines = cell.metadata.nbgrader, cell.source.splitlines()
        assert mark.schema_version == 3 and mark.task is False
        assert ("### BEGIN SOLUTION" in cell.source) == mark.solution
        if mark.solution and cell.cell_type == "code":
            assert lines[0].startswith(f"def {mark.grade_id}(") and lines[1].strip().startswith('"""')
            assert (lines[2].strip(), lines[-1].strip()) == ("### BEGIN SOLUTION", "### END SOLUTION")
        if mark.solution and cell.cell_type == "markdown":
            assert (lines[0], lines[-1]) == ("### BEGIN SOLUTION", "### END SOLUTION") and "Rubric" in cell.source


@pytest.mark.parametrize(
    ("missing", "advice"),
    [("torch", "pip install torch"), ("numpy", "pip install numpy"), ("grader", "grader.py and the folder grader_kit")],
)
def test_the_import_cell_says_what_is_missing(notebook, missing, advice, monkeypatch):
    (cell,) = [cell for cell in notebook.cells if cell.metadata.nbgrader.grade_id == "imports"]
    real = __import__

    def without(name, *rest):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return object() if name == "grader" else real(name, *rest)

    monkeypatch.setattr("builtins.__import__", without)
    with pytest.raises(ImportError, match=f"The module {missing} is missing") as caught:
        exec(cell.source, {})
    assert advice in str(caught.value)
