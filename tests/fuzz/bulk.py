"""What all fuzzers share: tries in bulk by a seed, the command line, what is said at the end.

A fuzzer is a function that makes one input of a `Random`, tries it, counts what it was, and raises
AssertionError where something is wrong.  Each try has a `Random` of its own, made of the seed and
the number of the try: `--seed 1 --from 123456 --count 1` tries that one again.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

# Longer inputs are not cut into single bytes: they would take up most of the time.
MOST_SINGLE_BYTES = 400

HANGS_S = 60.0  # after the time is over, for one try on a loaded machine

Counts = Counter[str]
Try = Callable[[Random, Counts], None]


class FoundError(Exception):
    """A try that failed; the text says which, with what, and how."""


@dataclass
class Bounds:
    """How much to try: so many, or for so long, whichever comes first."""

    seed: int = 1
    first: int = 0
    count: int | None = None
    seconds: float | None = None
    counts: Counts = field(default_factory=Counter)


def run(attempt: Try, bounds: Bounds) -> Counts:
    """Try until the bounds are reached.  Raises `FoundError` at the first finding."""
    end_s = float("inf") if bounds.seconds is None else time.monotonic() + bounds.seconds
    number, counts = bounds.first, bounds.counts
    while (bounds.count is None or number < bounds.first + bounds.count) and (
        time.monotonic() < end_s
    ):
        try:
            attempt(Random(f"{bounds.seed} {number}"), counts)
        except Exception as fault:
            again = f"--seed {bounds.seed} --from {number} --count 1"
            raise FoundError(f"{again}: {type(fault).__name__}: {fault}") from fault
        counts["tries"] += 1
        number += 1
    return counts


def main(attempt: Try, about: str, name: str) -> int:
    """The command line of a fuzzer; the exit status is 1 where something was found."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=about)
    parser.add_argument("--count", type=int, help="tries")
    parser.add_argument("--seconds", type=float, help="default: 60, where there is no --count")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="first", type=int, default=0, help="number of the first try")
    given = parser.parse_args()
    seconds = 60.0 if given.seconds is None and given.count is None else given.seconds
    bounds = Bounds(given.seed, given.first, given.count, seconds)
    if seconds is not None:  # a try that hangs is a finding, too
        faulthandler.dump_traceback_later(seconds + HANGS_S, exit=True)
    began_s = time.monotonic()
    try:
        run(attempt, bounds)
    except FoundError as found:
        print(f"{name}: {found}", file=sys.stderr)
        return 1
    tries = bounds.counts.pop("tries", 0)
    rate = tries / max(time.monotonic() - began_s, 0.001)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(bounds.counts.items()))
    print(f"{name}: {tries:,} tries, {rate:,.0f}/s, nothing found: {kinds}")
    return 0


def cuts_of(random: Random, data: bytes) -> list[bytes]:
    """The same bytes in pieces: whole, in two, anyhow, or byte by byte; none is empty."""
    kind = random.randrange(4)
    if kind == 0 or len(data) < 2:
        return [data] if data else []
    if kind == 1 and len(data) <= MOST_SINGLE_BYTES:
        return [data[at : at + 1] for at in range(len(data))]
    number = 1 if kind == 2 else random.randrange(1, 12)
    edges = sorted({0, len(data), *(random.randrange(1, len(data)) for _ in range(number))})
    return [data[a:b] for a, b in pairwise(edges)]
