"""Every public name shows itself in an example; that the examples hold is tested for all modules together."""

import pytest

import steepest.second_order


@pytest.mark.parametrize(
    "name", sorted(set(steepest.second_order.__all__) - {"LBFGSReport", "LineSearchResult"})
)
def test_public_names_have_an_example(name):
    assert ">>>" in getattr(steepest.second_order, name).__doc__
