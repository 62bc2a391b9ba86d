"""A claim: a statement, the function that measures it, and the verdict as a function of what was measured."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

Value = int | float | str | list
Values = Mapping[str, Value]

HOLDS = "holds"
CONDITIONAL = "holds with conditions"
FAILS = "does not hold"
KINDS = (HOLDS, CONDITIONAL, FAILS)
DEVICES = ("cpu", "cuda")
COSTS = ("light", "heavy")
LONGEST_LIST = 20


@dataclass(frozen=True)
class Verdict:
    """What the measured values say about a statement.

    `kind` is one of KINDS; `sentence` is built from the values by formatting.

    >>> Verdict("holds", "The slope is 2.00.").kind
    'holds'
    """

    kind: str
    sentence: str

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"a verdict is one of {', '.join(KINDS)}, not {self.kind!r}")


@dataclass(frozen=True)
class Claim:
    """One statement, measured.

    `measure(seed)` returns named values: finite numbers, strings and short lists of them, nothing typed in.
    `verdict(values)` sees nothing but those values, so that other measurements would turn it. `contrary` is
    that proof: each of its entries, laid over measured values, must give a verdict of another kind.
    A `heavy` claim takes more than about twenty seconds.

    A claim about a GPU has `small`, which measures the same by the same code at a size that a CPU manages, so that
    the code is tested where there is no GPU. Its values are never stored.

    Raises ValueError for an unknown device or cost, when `contrary` is empty, or when a claim on "cuda" lacks `small`.

    >>> Claim("t.1.1", lambda seed: {"slope": 2.0}, lambda v: Verdict("holds", "…"), ({"slope": 1.0},)).device
    'cpu'
    """

    id: str
    measure: Callable[[int], Values]
    verdict: Callable[[Values], Verdict]
    contrary: tuple[Values, ...]
    device: str = "cpu"
    cost: str = "light"
    small: Callable[[int], Values] | None = None

    def __post_init__(self):
        if self.device not in DEVICES:
            raise ValueError(f"claim {self.id}: device is one of {', '.join(DEVICES)}, not {self.device!r}")
        if self.cost not in COSTS:
            raise ValueError(f"claim {self.id}: cost is one of {', '.join(COSTS)}, not {self.cost!r}")
        if self.device != "cpu" and self.small is None:
            raise ValueError(f"claim {self.id}: give small, the same measurement at a size that a CPU manages")
        if not self.contrary:
            raise ValueError(f"claim {self.id}: give contrary values, which must turn its verdict")


def checked_values(claim_id: str, values: Values) -> dict[str, Value]:
    """The values as the store keeps them: floats at six significant digits.

    Raises ValueError, naming the value, for anything that JSON or a reader could not take in: tensors,
    non-finite numbers (put divergence in words or counts), lists of more than twenty entries.

    >>> checked_values("t.1.1", {"slope": 2.00000049, "sizes": [10, 20]})
    {'slope': 2.0, 'sizes': [10, 20]}
    """
    return {name: _checked(f"claim {claim_id}, value {name!r}", value) for name, value in values.items()}


def _checked(where: str, value: Value) -> Value:
    if isinstance(value, list):
        if len(value) > LONGEST_LIST:
            raise ValueError(f"{where}: a list of {len(value)} entries; at most {LONGEST_LIST} can be read")
        return [_checked(where, entry) for entry in value]
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"{where} is {value}; say non-finite results in words or count them")
        return float(f"{value:.6g}")
    if isinstance(value, int | str):
        return value
    raise ValueError(f"{where} is a {type(value).__name__}; use numbers, strings or lists of them")


def load_claims(topic: str, device: str = "cpu") -> dict[str, Claim]:
    """The claims of a topic on a device by id, from the `CLAIMS` of `book/claims/<topic>`; empty without any.

    A statement may be measured on each device, with another verdict on each.

    Raises ValueError if two claims on a device share an id or one belongs to another topic.

    >>> "second_order.1.2" in load_claims("second_order")
    True
    >>> load_claims("regularization")
    {}
    """
    folder = Path(__file__).parent
    if not (folder / f"{topic}.py").is_file() and not (folder / topic / "__init__.py").is_file():
        return {}
    claims = importlib.import_module(f"book.claims.{topic}").CLAIMS
    return registry(topic, [claim for claim in claims if claim.device == device])


def registry(topic: str, claims: Iterable[Claim]) -> dict[str, Claim]:
    """Claims of one device by id; see `load_claims`."""
    found: dict[str, Claim] = {}
    for claim in claims:
        if claim.id in found:
            raise ValueError(f"two claims have the id {claim.id}")
        if not claim.id.startswith(f"{topic}."):
            raise ValueError(f"claim {claim.id} does not belong to the topic {topic}")
        found[claim.id] = claim
    return found
