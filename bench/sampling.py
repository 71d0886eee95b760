"""A gateway that notes where its Python code is, many times a second; and what it has noted.

`python -m bench.sampling FOLDER run -c gateway.toml` is `aigw run …`, but each process that it
forks writes its call stack to FOLDER/<pid> after every few milliseconds of its own user time.

The stack is written by faulthandler from within the signal's handler, in C.  A handler in Python
would run at the interpreter's next check, which is at calls and backward jumps, and so would note
those and never what came before them; a profiler that is told of each call makes calls look dear.
The time of C code counts for the Python function that called it.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aigw import cli

# The kernel looks at such timers once in a tick, which is 4 ms on most machines.
INTERVAL_S = 0.004
# The first line of a stack is the function that runs.
STACK = re.compile(r"^(?:Current thread|Stack) .*\n  File \"(.*)\", line (\d+) in (.*)$", re.M)
PACKAGE = Path(cli.__file__).parent
# What the event loop does in C shows as the function that has called it.
EVENT_LOOP = re.compile(r"/(?:asyncio/runners|uvloop/__init__)\.py$")


class Place(NamedTuple):
    """A line of a function, and its room or package."""

    room: str
    function: str
    line: int


def sample_into(folder: Path) -> None:
    """From now on in this process."""
    file = (folder / str(os.getpid())).open("wb")
    kept_open.append(file)
    faulthandler.register(signal.SIGVTALRM, file, all_threads=False)
    signal.setitimer(signal.ITIMER_VIRTUAL, INTERVAL_S, INTERVAL_S)
    # An interpreter that ends gives the signal back, and then the next one would kill it.
    atexit.register(signal.setitimer, signal.ITIMER_VIRTUAL, 0)


kept_open: list[object] = []  # faulthandler knows only the number


def samples(text: str) -> Counter[Place]:
    """How often each place was the one that ran."""
    found_all = STACK.finditer(text)
    return Counter(place_of(found[1], found[3], int(found[2])) for found in found_all)


def place_of(file: str, function: str, line: int) -> Place:
    path = Path(file)
    if EVENT_LOOP.search(file):
        return Place("event loop", "uvloop, in C", 0)
    if path.is_relative_to(PACKAGE):
        inside = path.relative_to(PACKAGE)
        return Place(inside.parts[0].removesuffix(".py"), f"{inside} {function}", line)
    package = path.parent.name or "python"
    return Place(package, f"{package}/{path.name} {function}", line)


def main(argv: Sequence[str] | None = None) -> int:
    folder, *arguments = sys.argv[1:] if argv is None else argv
    os.register_at_fork(after_in_child=lambda: sample_into(Path(folder)))
    return cli.main(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
