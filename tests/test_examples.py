"""Every public name of the reference shows itself in an example; that the examples hold is tested in test_doctests."""

import importlib
import pkgutil
from dataclasses import is_dataclass

import pytest

import steepest

PACKAGES = [module.name for module in pkgutil.iter_modules(steepest.__path__) if module.ispkg]
TOPICS = [name for name in PACKAGES if name != "explore"]


def is_record(value):
    """Whether a name is what functions return or ask for: shown in the examples of what makes or takes it."""
    if not isinstance(value, type):
        return False
    return issubclass(value, tuple) or is_dataclass(value) or getattr(value, "_is_protocol", False)


def public_names():
    for topic in TOPICS:
        package = importlib.import_module(f"steepest.{topic}")
        for name in sorted(package.__all__):
            value = getattr(package, name)
            if callable(value) and not is_record(value):
                yield pytest.param(value, id=f"{topic}.{name}")


def test_every_topic_is_here():
    assert len(TOPICS) == 6


@pytest.mark.parametrize("value", public_names())
def test_public_names_have_an_example(value):
    assert ">>>" in (value.__doc__ or "")
