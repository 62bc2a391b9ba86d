"""Measure claims: `python -m book.claims.measure`.

Without options it measures the claims that have no result or an out-of-date one and writes the store. With
`--check` it writes nothing: it measures again and compares the verdicts with the stored ones (verdicts, because
timings differ from machine to machine), and fails if one differs.
"""

import argparse
import random
import sys
import time
import traceback
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
    """The claims to measure: those named, or all; of these the stale; of these a random sample."""
    chosen = [claims[name] for name in list(only) or claims]
    if stale:
        chosen = [claim for claim in chosen if is_stale(claim, results.get(claim.id))]
    if sample is not None:
        chosen = random.Random(seed).sample(chosen, min(sample, len(chosen)))
    return chosen


def measure(
    chosen: list[Claim], device: str, folder: Path | None = None, say: Callable[[str], None] = print
) -> list[str]:
    """Measure the chosen claims, saving after each; the ids of those that could not be measured.

    An interruption costs one claim, and so does an error (a GPU too small for one of them): its trace is printed.
    """
    failed = []
    for count, claim in enumerate(chosen, 1):
        say(f"[{count}/{len(chosen)}] {claim.id} …")
        try:
            result = measured(claim)
            verdict = claim.verdict(result.values)
        except Exception:
            traceback.print_exc()
            failed.append(claim.id)
            continue
        write_results(device, {**read_results(device, folder), claim.id: result}, folder)
        say(f"    {verdict.kind} ({result.seconds} s): {verdict.sentence}")
    return failed


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


def available_devices() -> list[str]:
    """The devices that claims can be measured on here.

    >>> available_devices()[0]
    'cpu'
    """
    return [device for device in DEVICES if device == "cpu" or torch.cuda.is_available()]


def all_claims(device: str) -> dict[str, Claim]:
    """The claims of all topics on a device, by id."""
    topics = dict.fromkeys(statement.topic for statement in statements().values())
    return {name: claim for topic in topics for name, claim in load_claims(topic, device).items()}


def run_device(device: str, claims: Mapping[str, Claim], options: argparse.Namespace) -> int:
    """Measure or check the claims of one device as the command line asks; returns the exit status."""
    results = read_results(device)
    selected_by_hand = options.only or options.sample is not None or options.check
    chosen = select(
        claims,
        results,
        only=[name for name in options.only if name in claims],
        stale=options.stale or not selected_by_hand,
        sample=options.sample,
        seed=options.seed,
    )
    if options.check:
        different = check(chosen, results)
        if different:
            print(f"Another verdict than stored ({device}): {', '.join(different)}", file=sys.stderr)
        return int(bool(different))
    # Claims that were dropped from the course leave the store.
    if set(results) - set(claims):
        write_results(device, {name: results[name] for name in results if name in claims})
    failed = measure(chosen, device)
    print(f"{device}: {len(chosen) - len(failed)} measured, {len(claims) - len(chosen)} left as they were.")
    if failed:
        print(f"Not measured ({device}): {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m book.claims.measure", description=__doc__)
    parser.add_argument("--device", choices=DEVICES, help="this device only (the default is each that is here)")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="these claims, stale or not")
    parser.add_argument("--stale", action="store_true", help="only those that are out of date (the default to measure)")
    parser.add_argument("--sample", type=int, metavar="N", help="a random sample of N")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--check", action="store_true", help="compare verdicts instead of writing")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and "cuda" not in available_devices():
        print("No CUDA device here: nothing measured.", file=sys.stderr)
        return 2
    devices = [options.device] if options.device else available_devices()
    claims = {device: all_claims(device) for device in devices}
    known = dict.fromkeys(name for found in claims.values() for name in found)
    unknown = [name for name in options.only if name not in known]
    if unknown:
        parser.error(f"no claim on this device is called {', '.join(unknown)}; known: {', '.join(known)}")
    # A device on which none of the named claims is measured has nothing to do.
    asked = [device for device in devices if not options.only or set(options.only) & set(claims[device])]
    return max([run_device(device, claims[device], options) for device in asked])


if __name__ == "__main__":
    sys.exit(main())
