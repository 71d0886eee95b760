"""The command: see `bench/micro/__init__.py`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.micro.baseline import BASELINE, REGRESSION, Change, compare, read, save, this_build
from bench.micro.cases import CASES, Case
from bench.micro.instructions import CountingError, can_count, count
from bench.micro.running import CaseError, measured
from bench.micro.timing import time_us
from bench.report import table


def print_times(cases: Sequence[Case]) -> int:
    """CPU time of each case, as it is measured; 1 if one could not be."""
    status = 0
    print("CPU µs per call (the least of some rounds; compare within one run only)")
    for case in cases:
        try:
            text = f"{asyncio.run(measured(case, time_us)):8.2f}"
        except CaseError as error:
            text, status = f"   FAILS: {error};", 1
        print(f"{case.name:14}{text}  {case.meaning}", flush=True)
    return status


def print_counts(cases: Sequence[Case], baseline: Path, is_to_save: bool) -> int:
    """Instructions of each case beside the committed ones; 1 for a regression or a failure."""
    build = this_build()
    print(f"instructions per call, {build}", flush=True)
    counts = count([case.name for case in cases])
    committed = read(baseline).builds.get(build, {})
    changes = compare(counts, committed)
    print(changes_table(changes, cases))
    if not committed:
        print(f"{baseline.name} has no counts of this build: nothing to compare with")
    for one in counts:
        if one.error:
            print(f"{one.case} FAILS: {one.error}")
    if is_to_save:
        save(baseline, build, counts)
        changes = compare(counts, {})
    return verdict(changes)


def changes_table(changes: Sequence[Change], cases: Sequence[Case]) -> str:
    titles = {case.name: f"{case.name:13}  {case.meaning}" for case in cases}
    rows: list[Sequence[str]] = [("what a call is", "instructions", "committed", "change", "")]
    for change in changes:
        found, committed, by = change
        rows.append(
            (
                titles[found.case],
                "" if found.error else f"{found.instructions:,}",
                f"{committed:,}" if committed else "",
                f"{by:+.1%}" if by is not None else "",
                change.verdict,
            )
        )
    return table(rows)


def verdict(changes: Sequence[Change]) -> int:
    bad = [change.found.case for change in changes if change.verdict in ("WORSE", "FAILS")]
    if bad:
        print(f"more than {REGRESSION:.0%} worse, or failed: {', '.join(bad)}")
    return 1 if bad else 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.micro", description="What the hot functions cost, each alone."
    )
    names = [case.name for case in CASES]
    parser.add_argument("case", nargs="*", help=f"default: all ({', '.join(names)})")
    parser.add_argument("--time", action="store_true", help="CPU time instead of instructions")
    parser.add_argument("--report", action="store_true", help="status 0, whatever comes out")
    parser.add_argument("--save", action="store_true", help="make these the committed counts")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="the committed counts")
    options = parser.parse_args(argv)
    if strange := set(options.case) - set(names):
        parser.error(f"no such case: {', '.join(sorted(strange))}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 for a regression or a case that fails, or 2 if nothing could be counted."""
    options = arguments(argv)
    cases = [case for case in CASES if not options.case or case.name in options.case]
    try:
        if options.time or not can_count():
            if not options.time:
                print("valgrind is not installed: CPU time instead of instructions")
            status = print_times(cases)
        else:
            status = print_counts(cases, options.baseline, options.save)
    except CountingError as error:
        print(f"nothing counted: {error}", file=sys.stderr)
        status = 2
    return 0 if options.report else status


if __name__ == "__main__":
    raise SystemExit(main())
