"""The exercises, one module a topic, each with `EXERCISES`: a tuple of records."""

from importlib import import_module
from pkgutil import iter_modules

from ..exercise import Exercise


def topics() -> tuple[str, ...]:
    """Topics that have exercises.

    >>> "second_order" in topics()
    True
    """
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def load(topic: str) -> tuple[Exercise, ...]:
    """The exercises of a topic, in the order of its assignment.

    Raises:
        LookupError: the topic has no exercises.

    >>> [exercise.name for exercise in load("second_order")][:2]
    ['newton_step', 'saddle_free_step']
    """
    if topic not in topics():
        raise LookupError(f"there are no exercises for {topic!r}; topics with exercises: {', '.join(topics())}")
    return import_module(f"{__name__}.{topic}").EXERCISES
