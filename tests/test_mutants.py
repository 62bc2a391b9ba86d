"""Every mutant can be made, and its tests exist; whether they notice it is for ``python -m tests.mutants``."""

import ast

import pytest

from tests.mutants import ROOT, TOPICS, mutants_of

ALL = [(topic, mutant) for topic in TOPICS for mutant in mutants_of(topic)]


@pytest.mark.parametrize(("topic", "mutant"), ALL, ids=[f"{topic}: {mutant.misconception}" for topic, mutant in ALL])
def test_mutant_can_be_made(topic, mutant):
    ast.parse(mutant.mutated())
    assert mutant.module.startswith("steepest/")
    assert mutant.tests
    assert [test for test in mutant.tests if not (ROOT / test).is_file()] == []


def test_misconceptions_have_names_of_their_own():
    names = [mutant.misconception for _, mutant in ALL]
    assert len(names) == len(set(names))
