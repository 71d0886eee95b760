"""The command: see `bench/micro/__init__.py`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from bench.micro.cases import CASES, Case
from bench.micro.running import CaseError, measured
from bench.micro.timing import time_us


def chosen(names: Sequence[str]) -> list[Case]:
    return [case for case in CASES if not names or case.name in names]


def print_times(cases: Sequence[Case]) -> int:
    """CPU time of each case, as it is measured; 1 if one could not be."""
    status = 0
    print("CPU µs per call (the least of some rounds; compare within one run only)")
    for case in cases:
        try:
            text = f"{asyncio.run(measured(case, time_us)):8.2f}"
        except CaseError as error:
            text, status = f"   fails: {error};", 1
        print(f"{case.name:14}{text}  {case.meaning}", flush=True)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.micro", description="What the hot functions cost, each alone."
    )
    names = [case.name for case in CASES]
    parser.add_argument("case", nargs="*", help=f"default: all ({', '.join(names)})")
    parser.add_argument("--time", action="store_true", help="CPU time instead of instructions")
    options = parser.parse_args(argv)
    if strange := set(options.case) - set(names):
        parser.error(f"no such case: {', '.join(sorted(strange))}")
    return print_times(chosen(options.case))


if __name__ == "__main__":
    raise SystemExit(main())
