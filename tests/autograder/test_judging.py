"""Observations, the judge's layers and messages, and the rules for naming a misconception."""

import math

import numpy as np
import pytest
import torch

from autograder.client.cases import Case, decode_cases, encode_cases
from autograder.client.comparison import show
from autograder.client.diagnosis import Hint, diagnose
from autograder.client.judging import Violation, distance, invariants, judge
from autograder.client.observe import arrange, call, observe, record

X = torch.tensor([1.0, 2.0, 4.0])


def run(solution):
    return observe(lambda function, inputs: call(function, inputs), solution, {"x": X})


CASE = Case("x", {"x": X}, run(lambda x: 2 * x), tolerance=1e-4)


def not_written(x):
    raise NotImplementedError()


def raising(x):
    return [1, 2][5]


def doubling_in_place(x):
    return x.mul_(2)


def changing_the_input_through_data(x):
    x.data[0] = 7.0
    return 2 * X


@pytest.mark.parametrize(
    ("solution", "kind", "words"),
    [
        (not_written, "not_implemented", "not implemented yet"),
        (raising, "raised", "raised IndexError: list index out of range (line"),
        (lambda x: None, "type", "of type None, it must be torch.Tensor; is a return statement missing?"),
        (lambda x: (2 * x).numpy(), "type", "of type numpy.ndarray, it must be torch.Tensor"),
        (lambda x: (2 * x, x), "type", "of type tuple of 2"),
        (lambda x: 2.0, "type", "of type float"),
        (lambda x: 2 * x[:2], "shape", "has shape (2,), it must have shape (3,)"),
        (lambda x: 2 * x[None], "shape", "has shape (1, 3)"),
        (lambda x: 2 * x.double(), "dtype", "is float64, it must be float32: keep the dtype of the inputs"),
        (lambda x: 2 * x + 0j, "dtype", "is complex64"),
        (doubling_in_place, "changed_inputs", "changed its input x in place"),
        (changing_the_input_through_data, "changed_inputs", "changed its input x in place"),
        (lambda x: x * math.nan, "nan", "holds NaN or infinite entries"),
        (lambda x: x / 0, "nan", "holds NaN or infinite entries"),
        (lambda x: 2.1 * x, "value", "is off by 4.8e-02 of its largest entry, accepted is 1e-04"),
    ],
)
def test_each_fault_has_its_own_message(solution, kind, words):
    (violation,) = judge(CASE, run(solution))
    assert violation.kind == kind
    assert words in violation.message


def test_a_wrong_value_and_a_changed_input_are_both_reported():
    def both(x):
        return x.mul_(3)

    assert {violation.kind for violation in judge(CASE, run(both))} == {"changed_inputs", "value"}


@pytest.mark.parametrize(
    "right",
    [
        lambda x: 2 * x,
        lambda x: 2 * x * (1 + 1e-5),
        lambda x: torch.nn.Parameter(2 * x),
        lambda x: (2 * x[:, None].expand(3, 2))[:, 0],
    ],
)
def test_right_results_pass(right):
    assert judge(CASE, run(right)) == ()


def test_expected_and_got_are_shown():
    (violation,) = judge(CASE, run(lambda x: x))
    assert violation.detail == "expected  [2. 4. 8.]\ngot       [1. 2. 4.]"
    assert len(show(torch.randn(100, 100, generator=torch.Generator().manual_seed(0))).splitlines()) <= 8


def test_a_result_of_the_same_values_that_is_the_input_itself_is_not_in_place_damage():
    case = Case("x", {"x": X}, run(lambda x: x.clone()), tolerance=1e-4)
    assert judge(case, run(lambda x: x)) == ()


def test_expected_exceptions():
    def refuses(x):
        raise torch.linalg.LinAlgError("singular")

    case = Case("x", {"x": X}, run(refuses), tolerance=1e-4)
    assert judge(case, run(refuses)) == ()
    assert judge(case, run(lambda x: x))[0].kind == "not_raised"
    (violation,) = judge(case, run(raising))
    assert (violation.kind, "contract asks for a RuntimeError" in violation.message) == ("raised", True)


def test_inputs_are_copied_for_each_run():
    run(doubling_in_place)
    assert torch.equal(X, torch.tensor([1.0, 2.0, 4.0]))


def test_results_too_large_to_carry_are_described_and_judged():
    observations = record(torch.zeros(1).expand(2**26))
    assert observations["shape"] == "(67108864,)" and "value" not in observations
    assert judge(CASE, {"raised": None, "changed_inputs": ""} | observations)[0].kind == "shape"


def test_missing_observations_fail():
    assert [violation.kind for violation in judge(CASE, {"raised": None})] == ["type", "changed_inputs"]
    assert judge(CASE, {})
    seen = run(lambda x: 2 * x)
    del seen["value"]
    assert judge(CASE, seen)[0].message.startswith("the result is missing")


def test_strided_inputs_hold_the_same_values():
    matrix = torch.arange(6.0).reshape(2, 3)
    strided = arrange(matrix, "strided")
    assert torch.equal(strided, matrix) and not strided.is_contiguous()
    assert arrange(strided, "contiguous").is_contiguous()
    assert arrange(torch.zeros(0, 3), "strided").shape == (0, 3)
    with pytest.raises(ValueError, match="layout"):
        arrange(matrix, "diagonal")


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (torch.tensor([1.0, 100.0]), torch.tensor([1.0, 99.0]), 10.0),
        (torch.zeros(2), torch.zeros(2), 0.0),
        (torch.zeros(2), torch.tensor([0.0, 1e-9]), 1000.0),
        (torch.tensor([NAN, 1.0]), torch.tensor([NAN, 1.0]), 0.0),
        (torch.tensor([NAN, 1.0]), torch.tensor([1.0, NAN]), INF),
        (torch.tensor([INF]), torch.tensor([INF]), 0.0),
        (torch.tensor([INF]), torch.tensor([-INF]), INF),
        (torch.tensor([INF, 10.0]), torch.tensor([INF, 9.0]), 100.0),
        (torch.tensor([3e38]), torch.tensor([-3e38]), 2000.0),
        (torch.tensor([1.7e308]).double(), -torch.tensor([1.7e308]).double(), INF),
        (torch.tensor([1.0]), torch.tensor([1.0]).double(), INF),
        (torch.tensor([1.0]), torch.tensor([[1.0]]), INF),
        (torch.tensor([1, 2]), torch.tensor([1, 2]), 0.0),
        (torch.tensor([1000, 2]), torch.tensor([1001, 2]), INF),
        (torch.zeros(0), torch.zeros(0), 0.0),
        (np.array([1.0, 2.0]), np.array([1.0, 1.0]), 500.0),
        (np.array([1, 2]), np.array([1, 2]), 0.0),
        (1.0, 1, INF),
        (1, True, INF),
        ("a", "a", 0.0),
        ("a", "b", INF),
        (None, None, 0.0),
    ],
)
def test_distance(first, second, expected):
    case = Case("", {}, {}, tolerance=1e-3)
    for one, other in ((first, second), (second, first)):
        assert distance(case, {"v": one}, {"v": other}) == pytest.approx(expected, rel=1e-6)


def test_distance_ignores_texts_for_people_and_needs_the_same_names():
    case = Case("", {}, {}, tolerance=1e-3)
    assert distance(case, {"a": 1, "message": "x"}, {"a": 1}) == 0
    assert distance(case, {"a": 1}, {"a": 1, "b": 2}) == INF


def values(*numbers):
    return [{"value": number} for number in numbers]


def bank(expected, **mistaken):
    return [
        Case(f"case {i}", {}, {"value": want}, 1e-6, {name: {"value": row[i]} for name, row in mistaken.items()})
        for i, want in enumerate(expected)
    ]


def hints(*names, shared=None):
    return {name: Hint(f"about {name}", shared) for name in names}


def test_a_mistake_is_named_where_it_reproduces_every_telling_case():
    cases = bank([1.0, 2.0, 3.0], doubled=[2.0, 4.0, 3.0])
    diagnosis = diagnose(cases, values(2.0, 4.0, 3.0), hints("doubled"))
    assert (diagnosis.names, diagnosis.hint, diagnosis.passed) == (("doubled",), "about doubled", 1)
    assert [result.reproduced for result in diagnosis.per_case] == [("doubled",), ("doubled",), ()]


@pytest.mark.parametrize("seen", [(2.0, 4.1, 3.0), (1.0, 4.0, 3.0), (5.0, 5.0, 5.0)])
def test_a_mistake_is_not_named_where_one_telling_case_differs(seen):
    diagnosis = diagnose(bank([1.0, 2.0, 3.0], doubled=[2.0, 4.0, 3.0]), values(*seen), hints("doubled"))
    assert diagnosis.names == () and diagnosis.hint is None


def test_right_answers_name_nobody_even_if_a_mistake_is_never_told_apart():
    diagnosis = diagnose(bank([1.0], same=[1.0]), values(1.0), hints("same"))
    assert (diagnosis.names, diagnosis.passed) == ((), 1)


def test_a_mistake_that_no_case_tells_apart_is_not_named_for_other_failures():
    assert diagnose(bank([1.0, 2.0], same=[1.0, 2.0]), values(1.0, 5.0), hints("same")).names == ()


def test_the_mistake_that_explains_all_failures_is_preferred():
    cases = bank([1.0, 2.0], small=[1.0, 4.0], large=[7.0, 4.0])
    assert diagnose(cases, values(7.0, 4.0), hints("small", "large")).names == ("large",)
    assert diagnose(cases, values(1.0, 4.0), hints("small", "large")).names == ("small",)


def test_two_mistakes_made_together_are_both_named():
    cases = bank([1.0, 2.0], first=[5.0, 2.0], second=[1.0, 6.0])
    diagnosis = diagnose(cases, values(5.0, 6.0), hints("first", "second"))
    assert diagnosis.names == ("first", "second")
    assert "(1) about first (2) about second" in diagnosis.hint


def test_mistakes_of_one_family_share_a_hint():
    cases = bank([1.0, 2.0], first=[5.0, 2.0], second=[1.0, 6.0])
    diagnosis = diagnose(cases, values(5.0, 6.0), hints("first", "second", shared="both are about scale"))
    assert diagnosis.hint == "both are about scale"


def test_a_case_on_which_a_mistake_is_not_recorded_does_not_speak_against_it():
    cases = bank([1.0, 2.0], doubled=[2.0, 4.0])
    cases[1].mistaken.clear()
    assert diagnose(cases, values(2.0, 99.0), hints("doubled")).names == ("doubled",)


def test_invariants_compare_which_properties_are_broken():
    def check(case, seen):
        broken = {"negative": seen["value"] < 0, "odd": seen["value"] % 2 == 1}
        return tuple(Violation(kind, kind) for kind, found in broken.items() if found)

    rule = invariants(check)
    case = Case("", {}, {"value": 2}, 1e-6, {"odd": {"value": 3}, "negative": {"value": -4}})
    assert diagnose([case], [{"value": 8}], hints("odd", "negative"), rule).passed == 1
    assert diagnose([case], [{"value": 9}], hints("odd", "negative"), rule).names == ("odd",)
    assert diagnose([case], [{"value": -2}], hints("odd", "negative"), rule).names == ("negative",)
    assert diagnose([case], [{"value": -3}], hints("odd", "negative"), rule).names == ()


def test_cases_survive_as_bytes():
    negated = Case("x", {"x": X, "layout": "strided"}, run(torch.neg), 1e-4)
    cases = [*bank([1.0, 2.0], doubled=[2.0, 4.0]), negated]
    back = decode_cases(encode_cases(cases))
    assert [case.name for case in back] == [case.name for case in cases]
    assert back[0] == cases[0] and back[2].size == 3
    assert torch.equal(back[2].expected["value"], -X) and back[2].inputs["layout"] == "strided"
