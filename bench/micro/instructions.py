"""Instructions per call, counted by valgrind's callgrind.

They are those of the process alone, without the kernel's, and repeat to a fraction of a per cent:
what is left of chance are addresses, clock readings and the random part of ids.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.micro.counted import CALLS, Counted

# Valgrind takes fifty times as long; all cases together take about a minute of that.
LIMIT_S = 600
TOTAL = re.compile(r"^totals: (\d+)$", re.MULTILINE)


class Count(NamedTuple):
    case: str
    instructions: int  # per call
    error: str = ""


class CountingError(Exception):
    """Valgrind did not do what it should."""


def can_count() -> bool:
    return shutil.which("valgrind") is not None


def count(names: Sequence[str]) -> list[Count]:
    """The cases' instructions per call. Raises CountingError."""
    with tempfile.TemporaryDirectory() as folder:
        dumps = Path(folder) / "dump"
        lines = run_counted(names, dumps).splitlines()
        counted = [msgspec.json.decode(line, type=Counted) for line in lines]
        made = len(list(dumps.parent.glob("dump.*")))
        if not counted or made != counted[-1].marks:
            raise CountingError(f"callgrind wrote {made} dumps, not one for each mark")
        return [in_dumps(one, dumps) for one in counted]


def run_counted(names: Sequence[str], dumps: Path) -> str:
    """What `counted.py` printed; callgrind's n-th dump is then `dumps`.n."""
    command = ["valgrind", "-q", "--tool=callgrind", "--dump-before=getppid"]
    command += [f"--callgrind-out-file={dumps}", sys.executable, "-m", "bench.micro.counted"]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(
            [*command, *names], env=environment, capture_output=True, text=True, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise CountingError(f"not done after {LIMIT_S} s") from None
    if done.returncode:
        raise CountingError(done.stderr.strip()[-400:])
    return done.stdout


def in_dumps(counted: Counted, dumps: Path) -> Count:
    """The median section of a case, per call."""
    if counted.error:
        return Count(counted.case, 0, counted.error)
    totals = []
    for number in counted.dumps:
        found = TOTAL.search(dumps.with_suffix(f".{number}").read_text(errors="replace"))
        if found is None:
            raise CountingError(f"dump {number} has no total")
        totals.append(int(found[1]))
    return Count(counted.case, round(statistics.median(totals) / CALLS))
