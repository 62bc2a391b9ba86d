"""Measure claims: `python -m book.claims.measure`.

Without options it measures the claims that have no result or an out-of-date one and writes the store. With
`--check` it writes nothing: it measures again and compares the verdicts with the stored ones (verdicts, because
timings differ from machine to machine), and fails if one differs.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch

from book.claims.claim import DEVICES, Claim, checked_values, load_claims
from book.claims.code import code_hash
from book.claims.statements import statements
from book.claims.store import Result, current_versions, is_stale, read_results, write_results

# The seed of every stored measurement, so that measuring again gives the same numbers where they are not timings.
SEED = 0
ATTEMPTS = 3


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, as the store says, and put the number of threads back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: str) -> str:
    """The device in general words; no machine is named.

    >>> device_name("cpu")
    'CPU, 1 thread'
    """
    return "CPU, 1 thread" if device == "cpu" else torch.cuda.get_device_name()


def measured(claim: Claim, seed: int = SEED) -> Result:
    """Measure one claim, on one thread."""
    with one_thread():
        start = time.perf_counter()
        values = checked_values(claim.id, claim.measure(seed))
        seconds = time.perf_counter() - start
    today = datetime.now(UTC).date().isoformat()
    return Result(
        values, code_hash(claim.measure), current_versions(), today, device_name(claim.device), round(seconds, 1)
    )


def select(
    claims: Mapping[str, Claim],
    results: Mapping[str, Result],
    *,
    only: Iterable[str] = (),
    stale: bool = False,
    sample: int | None = None,
    seed: int = 0,
) -> list[Claim]:
    """The claims to measure: those named, or all; of these the stale; of these a random sample.

    Raises ValueError for an id in `only` that no claim has.
    """
    only = list(only)
    unknown = [name for name in only if name not in claims]
    if unknown:
        raise ValueError(f"no claim on this device is called {', '.join(unknown)}; known: {', '.join(claims)}")
    chosen = [claims[name] for name in only or claims]
    if stale:
        chosen = [claim for claim in chosen if is_stale(claim, results.get(claim.id))]
    if sample is not None:
        chosen = random.Random(seed).sample(chosen, min(sample, len(chosen)))
    return chosen


def measure(chosen: list[Claim], device: str, folder: Path | None = None, say: Callable[[str], None] = print) -> None:
    """Measure the chosen claims, saving after each, so that an interruption costs one claim."""
    for count, claim in enumerate(chosen, 1):
        say(f"[{count}/{len(chosen)}] {claim.id} …")
        result = measured(claim)
        verdict = claim.verdict(result.values)
        write_results(device, {**read_results(device, folder), claim.id: result}, folder)
        say(f"    {verdict.kind} ({result.seconds} s): {verdict.sentence}")


def check(chosen: list[Claim], results: Mapping[str, Result], say: Callable[[str], None] = print) -> list[str]:
    """Measure again and compare verdicts; the ids whose verdict differs or that have no stored result.

    Other work on the machine can disturb a timing, so a verdict counts as different only if it is so in each of
    ATTEMPTS measurements.
    """
    different = []
    for count, claim in enumerate(chosen, 1):
        stored = results.get(claim.id)
        before = claim.verdict(stored.values).kind if stored else "no stored result"
        for attempt in range(ATTEMPTS):
            now = claim.verdict(measured(claim).values)
            again = ", measured again" if attempt else ""
            say(f"[{count}/{len(chosen)}] {claim.id}: stored {before}; now{again} {now.kind}: {now.sentence}")
            if now.kind == before:
                break
        else:
            different.append(claim.id)
    return different


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m book.claims.measure", description=__doc__)
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="these claims, stale or not")
    parser.add_argument("--stale", action="store_true", help="only those that are out of date (the default to measure)")
    parser.add_argument("--sample", type=int, metavar="N", help="a random sample of N")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--check", action="store_true", help="compare verdicts instead of writing")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device here: nothing measured.", file=sys.stderr)
        return 2
    topics = dict.fromkeys(statement.topic for statement in statements().values())
    claims = {name: claim for topic in topics for name, claim in load_claims(topic, options.device).items()}
    results = read_results(options.device)
    selected_by_hand = options.only or options.sample is not None or options.check
    try:
        chosen = select(
            claims,
            results,
            only=options.only,
            stale=options.stale or not selected_by_hand,
            sample=options.sample,
            seed=options.seed,
        )
    except ValueError as error:
        parser.error(str(error))
    if options.check:
        different = check(chosen, results)
        if different:
            print(f"Another verdict than stored: {', '.join(different)}", file=sys.stderr)
        return int(bool(different))
    # Claims that were dropped from the course leave the store.
    if set(results) - set(claims):
        write_results(options.device, {name: results[name] for name in results if name in claims})
    measure(chosen, options.device)
    print(f"{len(chosen)} measured, {len(claims) - len(chosen)} left as they were.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
