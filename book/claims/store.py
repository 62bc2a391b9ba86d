"""The store of measurements: book/measurements/<device>.json, keyed by claim id."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from book.claims.claim import Claim, Value
from book.claims.code import code_hash

MEASUREMENTS = Path(__file__).resolve().parent.parent / "measurements"
PACKAGES = ("numpy", "scikit-learn", "scipy", "torch")
NOT_MEASURED = {"cpu": "not measured yet", "cuda": "not measured on a GPU yet"}
STALE = "measured with an earlier version of the code"


@dataclass(frozen=True)
class Result:
    """What measuring a claim gave: the values, the hash of the code, versions, UTC date, device and seconds."""

    values: dict[str, Value]
    code: str
    versions: dict[str, str]
    date: str
    device: str
    seconds: float


def store_file(device: str, folder: Path | None = None) -> Path:
    """The file that holds the results of a device, in `folder` or book/measurements."""
    return (folder or MEASUREMENTS) / f"{device}.json"


def read_results(device: str, folder: Path | None = None) -> dict[str, Result]:
    """The results of a device by claim id; empty where nothing was measured.

    Raises ValueError, naming the file, if it is not such a store.
    """
    path = store_file(device, folder)
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {claim_id: Result(**entry) for claim_id, entry in entries.items()}
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is not a store of measurements ({error}); restore it from git") from error


def write_results(device: str, results: Mapping[str, Result], folder: Path | None = None) -> None:
    """Replace the store of a device, sorted, in one step: a reader sees the old file or the new one."""
    path = store_file(device, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {claim_id: asdict(result) for claim_id, result in results.items()},
        indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False,
    )  # fmt: skip
    temporary = path.with_suffix(".json.new")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def current_versions() -> dict[str, str]:
    """Versions of Python and of the packages that measurements run on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def is_stale(claim: Claim, result: Result | None) -> bool:
    """Whether a claim has no result, or one that other code made."""
    return result is None or result.code != code_hash(claim.measure)
