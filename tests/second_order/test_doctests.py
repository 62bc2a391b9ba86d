"""The examples in the docstrings give what they say."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import steepest.second_order

MODULES = sorted(module.name for module in pkgutil.iter_modules(steepest.second_order.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"steepest.second_order.{name}")
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


@pytest.mark.parametrize(
    "name", sorted(set(steepest.second_order.__all__) - {"LBFGSReport", "LineSearchResult"})
)
def test_public_names_have_an_example(name):
    assert ">>>" in getattr(steepest.second_order, name).__doc__
