"""What the profile reads out of its tools' output, and the sampling itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.profile import calls_in, parts_in, shares
from bench.sampling import PACKAGE, Place, place_of, samples

PERF = """
 5          ,[vdso]
 58         ,_core.cpython-311-x86_64-linux-gnu.so
 182        ,libc.so.6
 60         ,libcrypto.so.3
 167        ,loop.cpython-311-x86_64-linux-gnu.so
 1767       ,python3.11
"""
STRACE = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 88.84    0.400192          51      7768           write
  0.06    0.002550          41        64         8 epoll_ctl
------ ----------- ----------- --------- --------- ----------------
100.00    0.402742          51      7832         8 total
"""
# Burns its time in one function, called by another.
BURN = """
import sys, time
from pathlib import Path
from bench.sampling import sample_into
def burn():
    while time.process_time() < 0.5: sum(range(10_000))
def caller():
    burn()
sample_into(Path(sys.argv[1]))
caller()
"""


def test_object_files_are_put_together_by_part() -> None:
    parts = parts_in(PERF)
    expected = {"interpreter": 1767, "libc": 187, "uvloop": 167, "SHA-256": 60}
    assert parts == expected | {"other extensions": 58}


def test_nothing_sampled() -> None:
    assert not parts_in("Error:\nThe perf.data data has no samples!\n")
    assert not samples("")


def test_calls_with_and_without_errors() -> None:
    assert calls_in(STRACE) == {"write": 7768, "epoll_ctl": 64}


def test_functions_have_rooms() -> None:
    here, loop = PACKAGE / "proxy" / "express.py", "/usr/lib/python3.11/asyncio/runners.py"
    assert place_of(str(here), "send", 7) == Place("proxy", "proxy/express.py send", 7)
    assert place_of(str(PACKAGE / "worker.py"), "run", 7) == Place("worker", "worker.py run", 7)
    assert place_of("/x/aigw/lib/h11/_events.py", "f", 7) == Place("h11", "h11/_events.py f", 7)
    assert place_of(loop, "run", 7) == Place("event loop", "uvloop, in C", 0)


def test_the_function_that_runs_is_sampled(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BURN, str(tmp_path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
    [file] = tmp_path.iterdir()
    found = samples(file.read_text())
    burning = sum(count for place, count in found.items() if place.function.endswith(" burn"))
    assert burning >= 10
    assert burning > found.total() / 2


def test_shares_are_of_the_whole() -> None:
    counts = parts_in(" 3 ,python3.11\n 1 ,libc.so.6\n")
    lines = shares(counts, 40.0, ("part", "share", "µs")).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["interpreter", "75.0%", "30.00"],
        ["libc", "25.0%", "10.00"],
    ]
