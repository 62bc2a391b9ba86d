"""A case: one set of inputs with what the reference and each misconception show on it; as bytes too."""

from dataclasses import dataclass, field

import torch

from .arrays import DecodeError, decode, encode


@dataclass(frozen=True)
class Case:
    """Inputs, expected observations, and the observations of known mistakes.

    Attributes:
        name: says what is particular about the inputs (``"one pair, D = 4"``).
        inputs: name → value, what the driver gets.
        expected: the reference's observations, computed in float64 and cast to the case's dtype.
        tolerance: largest accepted error, as a share of the largest magnitude in an observation.
        mistaken: misconception → its observations. Missing where it raises, or where rounding makes
            it differ from itself, because it cannot be recognised there.
    """

    name: str
    inputs: dict
    expected: dict
    tolerance: float
    mistaken: dict[str, dict] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of elements in all input tensors; small cases make the clearest examples."""
        return sum(value.numel() for value in self.inputs.values() if isinstance(value, torch.Tensor))


def encode_cases(cases: tuple[Case, ...] | list[Case]) -> bytes:
    """Write cases as bytes that `decode_cases` reads; names may hold any character but ``/``.

    >>> cases = [Case("zero", {"x": 0.0}, {"value": 0.0}, 1e-8, {"plus one": {"value": 1.0}})]
    >>> decode_cases(encode_cases(cases)) == tuple(cases)
    True
    """
    values = {}
    for index, case in enumerate(cases):
        values[f"{index}/name"] = case.name
        values[f"{index}/tolerance"] = case.tolerance
        parts = {"inputs": case.inputs, "expected": case.expected}
        parts |= {f"mistaken/{name}": observations for name, observations in case.mistaken.items()}
        for part, content in parts.items():
            values |= {f"{index}/{part}/{key}": value for key, value in content.items()}
    return encode(values)


def decode_cases(data: bytes) -> tuple[Case, ...]:
    """Read what `encode_cases` wrote.

    Raises:
        DecodeError: malformed data.
    """
    cases: list[Case] = []
    for key, value in decode(data).items():
        index, _, path = key.partition("/")
        if path == "name":
            if index != str(len(cases)):
                raise DecodeError("the cases are not in order")
            name = value
        elif path == "tolerance":
            cases.append(Case(name, {}, {}, value))
        else:
            part, _, rest = path.partition("/")
            target = getattr(cases[-1], part)
            if part == "mistaken":
                misconception, _, rest = rest.partition("/")
                target = target.setdefault(misconception, {})
            target[rest] = value
    return tuple(cases)
