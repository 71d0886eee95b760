"""What runs under valgrind: the cases, with a mark before and after each section of calls.

A mark is a call of `getppid`, which nothing else here calls: callgrind is told to write down its
count and to begin anew whenever it enters that function (`--dump-before`).  So no other arrangement
between the two is needed, and what lies outside of the sections does not count.  For each case a
line of JSON says which dumps are its sections; `instructions.py` reads both.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import msgspec

from bench.micro.cases import CASES, Call
from bench.micro.messages import VARIANTS
from bench.micro.running import CaseError, measured

SECTIONS = 3
CALLS = 2 * VARIANTS  # a section


class Counted(msgspec.Struct):
    """One case: the numbers of its dumps, or why there are none."""

    case: str
    dumps: list[int] = []
    error: str = ""
    marks: int = 0  # of this process until now


class Marks:
    """The marks of this process, counted as callgrind numbers its dumps."""

    def __init__(self) -> None:
        self.count = 0

    def set(self) -> int:
        self.count += 1
        os.getppid()
        return self.count

    async def sections(self, call: Call) -> list[int]:
        """Nothing is awaited, so no timer and no log gets between the calls."""
        dumps = []
        self.set()
        for _ in range(SECTIONS):
            for _ in range(CALLS):
                call()
            dumps.append(self.set())
        return dumps


def main(names: Sequence[str]) -> None:
    marks = Marks()
    for case in CASES:
        if case.name not in names:
            continue
        counted = Counted(case.name)
        try:
            counted.dumps = asyncio.run(measured(case, marks.sections))
        except CaseError as error:
            counted.error = str(error)
        counted.marks = marks.count
        print(msgspec.json.encode(counted).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
