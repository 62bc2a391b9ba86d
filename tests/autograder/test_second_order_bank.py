"""The bank of second_order: every misconception is told apart, fails and is named; the answers pass."""

import numpy as np
import pytest
import torch

from autograder.client.observe import observe
from autograder.drivers.second_order import convergence_order
from autograder.exercises import load

EXERCISES = load("second_order")
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
each_kind = pytest.mark.parametrize("kind", ["public", "hidden"])


def told_apart(case, names):
    """Pairs of answers that the case keeps a hundred tolerances apart, as a matrix (answers, answers)."""
    answers = [case.expected if name == "reference" else case.mistaken.get(name) for name in names]
    structures = [
        answer and tuple(answer[key] for key in ("raised", "type", "shape", "dtype", "changed_inputs"))
        for answer in answers
    ]
    apart = np.zeros((len(names), len(names)), dtype=bool)
    for structure in set(structures) - {None}:
        here = np.array([found == structure for found in structures])
        there = np.array([found not in (structure, None) for found in structures])
        apart |= here[:, None] & there
        values = np.array([answers[i]["value"].double().numpy().ravel() for i in np.flatnonzero(here)])
        if not values.size:
            continue
        broken = ~np.isfinite(values)
        clean = np.where(broken, 0, values)
        largest = np.maximum(abs(clean).max(axis=1)[:, None], abs(clean).max(axis=1)) + 1e-300
        gap = abs(clean[:, None] - clean).max(axis=2) / largest
        gap[(broken[:, None] != broken).any(axis=2)] = np.inf
        apart[np.ix_(here, here)] = gap >= 100 * case.tolerance
    return apart


@each_exercise
def test_a_thousand_seeds_tell_all_answers_apart_by_a_hundred_tolerances(exercise):
    names = ["reference", *(misconception.name for misconception in exercise.misconceptions)]
    for seed in range(1000):
        cases = exercise.cases(seed, ("public", "hidden")[seed % 2])
        apart = np.any([told_apart(case, names) for case in cases], axis=0)
        assert (apart | np.eye(len(names), dtype=bool)).all(), seed


@each_exercise
@each_kind
def test_every_misconception_fails_and_is_named(exercise, kind):
    for seed in range(50):
        cases = exercise.cases(seed, kind)
        for misconception in exercise.misconceptions:
            seen = [observe(exercise.driver, misconception.implementation, case.inputs) for case in cases]
            diagnosis = exercise.diagnose(cases, seen)
            assert diagnosis.passed < len(cases), (seed, misconception.name)
            assert diagnosis.names == (misconception.name,), (seed, misconception.name)
            assert diagnosis.hint == misconception.hint


@each_exercise
def test_the_bank_is_rich_and_its_hints_are_hints(exercise):
    assert len(exercise.misconceptions) >= 5
    for misconception in exercise.misconceptions:
        assert 40 < len(misconception.hint) < 300
        assert "torch.linalg.solve" not in misconception.hint and "=" not in misconception.hint.replace("<=", "")


@each_exercise
def test_the_record_is_complete(exercise):
    assert exercise.topic == "second_order" and exercise.points > 0 and exercise.minutes > 0
    assert exercise.difficulty in range(1, 6) and exercise.importance in range(1, 6)


def traits(exercise, kind):
    cases = exercise.cases(0, kind)
    tensors = [{k: v for k, v in case.inputs.items() if isinstance(v, torch.Tensor)} for case in cases]
    return {
        "dtypes": {tensor.dtype for group in tensors for tensor in group.values()},
        "shapes": {tuple(tuple(tensor.shape) for tensor in group.values()) for group in tensors},
        "layouts": {case.inputs["layout"] for case in cases},
        "sizes": {tensor.shape[-1] for group in tensors for tensor in group.values()},
    }


@each_exercise
def test_hidden_cases_differ_from_public_ones_in_shape_layout_and_edge(exercise):
    public, hidden = traits(exercise, "public"), traits(exercise, "hidden")
    assert hidden["dtypes"] == {torch.float32, torch.float64}
    assert not public["shapes"] & hidden["shapes"]
    assert "strided" in hidden["layouts"] and "strided" not in public["layouts"]
    assert 1 in hidden["sizes"] and 1 not in public["sizes"]


@each_exercise
@each_kind
def test_an_unwritten_solution_names_nobody(exercise, kind):
    def unwritten(*arguments):
        raise NotImplementedError()

    cases = exercise.cases(3, kind)
    diagnosis = exercise.diagnose(cases, [observe(exercise.driver, unwritten, case.inputs) for case in cases])
    assert (diagnosis.passed, diagnosis.names) == (0, ())
    assert {v.message for result in diagnosis.per_case for v in result.violations} == {"not implemented yet"}


@pytest.mark.parametrize(
    ("handled", "name"),
    [(lambda steps, products: len(steps) > 0, "0 pairs"), (lambda steps, products: (products != 0).all(), "with none")],
)
def test_hidden_cases_ask_for_an_empty_history_and_for_pairs_without_curvature(handled, name):
    exercise = next(each for each in EXERCISES if each.name == "lbfgs_direction")

    def solution(gradient, steps, changes):
        right = exercise.reference(gradient, steps, changes)
        return right if handled(steps, (steps * changes).sum(dim=1)) else torch.full_like(right, torch.nan)

    for seed in range(20):
        cases = exercise.cases(seed, "hidden")
        diagnosis = exercise.diagnose(cases, [observe(exercise.driver, solution, case.inputs) for case in cases])
        assert [name in result.name for result in diagnosis.per_case if result.violations] == [True]


def test_the_newton_loop_reports_linear_convergence():
    exercise = EXERCISES[-1]
    half = next(each for each in exercise.misconceptions if each.name == "half steps")
    case = exercise.cases(0, "public")[0]
    (violation,) = exercise.rule.violations(case, observe(exercise.driver, half.implementation, case.inputs))
    assert violation.message.startswith("row 1 of the trace is the first that is not Newton's")
    assert "the errors shrink with order 1.0" in violation.message


def test_the_reference_converges_quadratically():
    traces = [EXERCISES[-1].cases(seed, "public")[0].expected["value"] for seed in range(30)]
    orders = [order for trace in traces if (order := convergence_order(trace, trace)) is not None]
    assert len(orders) > 20 and min(orders) > 1.5


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda trace: trace[0], "shape"),
        (lambda trace: trace[:, :1], "shape"),
        (lambda trace: trace[:0], "shape"),
        (lambda trace: trace[1:], "start"),
        (lambda trace: trace[:-1], "stop"),
        (lambda trace: torch.cat([trace, trace[-1:]]), "stop"),
        (lambda trace: torch.cat([trace[:2], trace[2:] * 1.01]), "step"),
        (lambda trace: trace * torch.nan, "nan"),
        (lambda trace: trace.float(), "dtype"),
        (lambda trace: list(trace), "type"),
    ],
)
def test_each_fault_of_a_trace_has_its_own_kind(change, kind):
    exercise = EXERCISES[-1]
    case = exercise.cases(0, "public")[0]
    seen = observe(exercise.driver, lambda *arguments: change(exercise.reference(*arguments)), case.inputs)
    (violation,) = exercise.rule.violations(case, seen)
    assert violation.kind == kind
