"""The examples in the docstrings of every module give what they say."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import autograder
import book
import steepest

# nbgrader's configuration runs under traitlets only.
UNIMPORTABLE = {"autograder.nbgrader_config", "autograder.__main__"}


def modules_of(package):
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [module.name for module in found if module.name not in UNIMPORTABLE]


@pytest.mark.parametrize("name", [name for package in (steepest, autograder, book) for name in modules_of(package)])
def test_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0
