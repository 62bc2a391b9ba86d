"""The record's machinery: reproducible draws, redraws, float64 and casting, versions, faulty records."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from autograder.client.observe import call, observe
from autograder.exercise import Exercise, ExerciseError, Misconception
from autograder.exercises import load, topics


def sample(generator, kind):
    for dtype in (torch.float64, torch.float32):
        x = torch.from_numpy(generator.normal(size=4)).to(dtype)
        yield f"{kind} {dtype}", {"x": x}


BASE = Exercise(
    name="double",
    topic="test",
    points=2,
    difficulty=1,
    importance=1,
    minutes=5,
    sample=sample,
    driver=lambda solution, inputs: call(solution, inputs),
    reference=lambda x: 2 * x,
    misconceptions=(
        Misconception("squared", lambda x: x * x, "squares"),
        Misconception("halved", lambda x: x / 2, "halves"),
    ),
)


def with_(**changes):
    return dataclasses.replace(BASE, **changes)


def same(first, second):
    return all(
        torch.equal(one.inputs["x"], other.inputs["x"]) and torch.equal(one.expected["value"], other.expected["value"])
        for one, other in zip(first, second, strict=True)
    )


def test_the_same_seed_gives_the_same_cases_whatever_the_global_state():
    torch.manual_seed(1)
    first = BASE.cases(7, "hidden")
    torch.manual_seed(2)
    np.random.seed(3)
    assert same(first, BASE.cases(7, "hidden"))


@pytest.mark.parametrize("other", [(8, "hidden"), (7, "public"), (-7, "hidden"), (2**70, "hidden")])
def test_seed_and_kind_change_the_cases(other):
    assert not same(BASE.cases(7, "hidden"), BASE.cases(*other))


def test_name_topic_and_version_change_the_cases():
    first = BASE.cases(7, "hidden")
    for changed in (with_(name="twice"), with_(topic="other"), with_(minutes=6)):
        assert not same(first, changed.cases(7, "hidden"))


def test_the_kind_is_checked():
    with pytest.raises(ValueError, match="public"):
        BASE.cases(0, "secret")


def test_expected_values_are_computed_in_float64_and_cast():
    seen = []

    def third(x):
        seen.append(x.dtype)
        return x / 3 * 3 - x + x

    for case in with_(reference=third).cases(0, "public"):
        exact = (case.inputs["x"].double() / 3 * 3 - case.inputs["x"].double() + case.inputs["x"].double()).to(
            case.inputs["x"].dtype
        )
        assert torch.equal(case.expected["value"], exact)
        assert case.expected["dtype"] == str(case.inputs["x"].dtype).removeprefix("torch.")
    assert {torch.float64, torch.float32} == set(seen)


def test_tolerance_follows_the_lowest_precision():
    assert [case.tolerance for case in BASE.cases(0, "public")] == [1e-9, 2e-4]


def test_without_float64_the_rounding_of_the_inputs_dtype_is_kept():
    third = with_(float64=False, reference=lambda x: x / 3)
    case = third.cases(0, "public")[1]
    assert torch.equal(case.expected["value"], case.inputs["x"] / 3)


def test_a_set_that_cannot_tell_two_answers_apart_is_drawn_again():
    draws = []

    def often_zero(generator, kind):
        draws.append(generator.integers(3))
        yield "x", {"x": torch.full((2,), float(draws[-1] == 0), dtype=torch.float64)}

    for seed in range(20):
        draws.clear()
        (case,) = with_(sample=often_zero).cases(seed, "hidden")
        assert case.inputs["x"].all() and draws[-1] == 0 and 0 not in draws[:-1]


def test_a_set_that_tells_them_apart_by_too_little_is_drawn_again():
    def close_to_two(generator, kind):
        # x² and 2x differ by 2e-8 · x at x = 2 + 2e-8: twenty tolerances, where a hundred are asked for.
        yield "x", {"x": torch.tensor([2 + 4e-8], dtype=torch.float64)}

    with pytest.raises(ExerciseError, match=r"cannot tell apart \[\('reference', 'squared'\)\]"):
        with_(sample=close_to_two).cases(0, "hidden")


def test_two_misconceptions_that_are_the_same_make_a_faulty_record():
    twin = Misconception("squared too", lambda x: x**2, "squares")
    with pytest.raises(ExerciseError, match="'squared', 'squared too'"):
        with_(misconceptions=(*BASE.misconceptions, twin)).cases(0, "hidden")


def test_a_misconception_that_always_raises_cannot_be_named():
    broken = Misconception("broken", lambda x: [][1], "raises")
    with pytest.raises(ExerciseError, match="broken"):
        with_(misconceptions=(broken,)).cases(0, "hidden")


def test_a_reference_that_rounding_moves_makes_a_faulty_record():
    with pytest.raises(ExerciseError, match="reference"):
        with_(reference=lambda x: (x + 1e12) - 1e12).cases(0, "hidden")


def test_a_misconception_that_rounding_moves_is_left_out_of_that_case():
    unstable = Misconception("unstable", lambda x: (x + 1e8) - 1e8 + x**3, "rounds")
    double, single = with_(misconceptions=(unstable,)).cases(0, "hidden")
    assert "unstable" in double.mistaken and "unstable" not in single.mistaken


def test_in_place_damage_by_an_implementation_does_not_reach_the_case():
    vandal = Misconception("vandal", lambda x: x.zero_(), "zeroes")
    for case in with_(misconceptions=(vandal,)).cases(0, "hidden"):
        assert case.inputs["x"].all()
        assert case.mistaken["vandal"]["changed_inputs"] == "x"


def test_names_of_misconceptions_differ_and_families_have_hints():
    with pytest.raises(ExerciseError, match="differ"):
        with_(misconceptions=BASE.misconceptions[:1] * 2)
    with pytest.raises(ExerciseError, match="scale"):
        with_(misconceptions=(Misconception("a", abs, "b", "scale"),))


def test_the_version_follows_content():
    assert BASE.version == with_().version
    hint = dataclasses.replace(BASE.misconceptions[0], hint="squares!")
    changed = [with_(points=3), with_(name="twice"), with_(misconceptions=(hint,)), with_(float64=False)]
    assert len({BASE.version, *(record.version for record in changed)}) == 5


def test_the_version_follows_the_reference_code_that_an_exercise_calls(monkeypatch):
    import inspect

    from steepest.second_order import newton

    before = load("second_order")[0].version
    real = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda thing: real(thing) + "#" * (thing is newton))
    fresh = dataclasses.replace(load("second_order")[0])
    assert fresh.version != before


def test_a_topic_without_exercises():
    assert "second_order" in topics()
    with pytest.raises(LookupError, match="second_order"):
        load("third_order")


def test_observe_reports_the_closest_builtin_exception():
    class OwnError(ValueError):
        pass

    def solution(x):
        raise OwnError("x" * 1000)

    seen = observe(BASE.driver, solution, {"x": torch.zeros(1)})
    assert seen["raised"] == "ValueError"
    assert seen["message"].startswith("OwnError: xxx") and len(seen["message"]) < 400


def test_separation_is_at_least_one_hundred_tolerances():
    for seed in range(50):
        cases = BASE.cases(seed, "public")
        for name in ("squared", "halved"):
            gaps = [
                (case.mistaken[name]["value"] - case.expected["value"]).abs().max().item() / case.tolerance
                for case in cases
            ]
            assert max(gaps) > 0 and not any(math.isnan(gap) for gap in gaps)
