"""CPU time and memory of a whole process tree, from /proc (Linux only).

CPU per request is the figure that holds on a noisy, shared machine. A tree's CPU time is the sum
over its living processes of their own time (utime + stime) and of that of the children which they
have waited for (cutime + cstime): so a worker that dies between two readings is not lost. That
clock has ticks of 10 ms; for a living process the total is read to the nanosecond from its own
CPU clock, as clock_getcpuclockid(3) makes it out of a process id.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

PROC = Path("/proc")
CPU_CLOCK_OF_A_PROCESS = 2  # CPUCLOCK_SCHED of linux/posix-timers.h


class CpuTime(msgspec.Struct, frozen=True):
    total_s: float
    user_s: float  # in ticks, so a little more or less than its part of the total

    def since(self, earlier: CpuTime) -> CpuTime:
        return CpuTime(self.total_s - earlier.total_s, self.user_s - earlier.user_s)


class Memory(msgspec.Struct, frozen=True):
    """`pss` shares out what several processes have in common, `rss` counts it for each."""

    rss_bytes: int
    pss_bytes: int


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third one (state) on; None if the process is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the command's name, may contain blanks and brackets.
    return text[text.rindex(")") + 2 :].split()


def tree(root: int) -> list[int]:
    """The process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := stat_fields(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is walked
        found += children.get(pid, [])
    return found


def own_s(pid: int) -> float:
    """What all threads of a living process have run, the ended ones too. OSError if it is gone."""
    return time.clock_gettime(~pid << 3 | CPU_CLOCK_OF_A_PROCESS)


def cpu_time(root: int) -> CpuTime:
    """What the tree has used so far."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    total_s = user_s = 0.0
    for pid in tree(root):
        fields = stat_fields(pid)
        if fields is not None:
            user, _, ended_user, ended_system = (int(n) * tick_s for n in fields[11:15])
            with suppress(OSError):
                total_s += own_s(pid)
            total_s += ended_user + ended_system
            user_s += user + ended_user
    return CpuTime(total_s, user_s)


def memory(root: int) -> Memory:
    """Resident memory of the tree, now."""
    sums = {"Rss:": 0, "Pss:": 0}
    for pid in tree(root):
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:  # gone, or another user's
            continue
        for line in lines:
            name, _, rest = line.partition(" ")
            if name in sums:
                sums[name] += int(rest.split()[0]) * 1024
    return Memory(sums["Rss:"], sums["Pss:"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=__doc__)
    parser.add_argument("pid", type=int)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args(argv)
    before = cpu_time(options.pid)
    time.sleep(options.seconds)
    used = cpu_time(options.pid).since(before)
    now = memory(options.pid)
    print(
        f"{len(tree(options.pid))} processes, {options.seconds:g} s: "
        f"CPU {used.total_s:.3f} s, of it user {used.user_s:.2f} s; "
        f"RSS {now.rss_bytes / 2**20:.1f} MiB, PSS {now.pss_bytes / 2**20:.1f} MiB"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
