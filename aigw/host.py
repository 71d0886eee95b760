"""What the surroundings grant and want to know: CPUs, and systemd's notifications.

Not here: sockets that systemd passes (sockets), and what to do with any of it (master).
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath
from typing import Literal

# Beyond 8 processes a gateway is rarely the bottleneck; the precedents (nginx's "auto", Envoy's
# concurrency) take all CPUs and are told by their users to take less.
AUTO_WORKERS_MOST = 8


def worker_count(wanted: int | Literal["auto"], root: Path = Path("/")) -> int:
    """How many workers: as configured, or one for each CPU that we may use, at most 8.

    A container's CPU quota counts as CPUs, rounded up.  Off Linux, where one socket can't be
    balanced over processes, "auto" is 1.  `root` is where /proc and /sys are.
    """
    if wanted != "auto":
        return wanted
    if sys.platform != "linux":
        return 1
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(math.ceil(min(cpus, cpu_quota(root))), AUTO_WORKERS_MOST))


def cpu_quota(root: Path) -> float:
    """CPUs that the control groups above us grant, infinite without a limit (cgroups(7))."""
    return min((_quota(group) for group in _cgroups(root)), default=math.inf)


def _cgroups(root: Path) -> Iterator[Path]:
    """Our control group and those above it, of version 1 and 2.

    In a container the path may be the host's; then it is the mount itself that limits us.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        below = PurePosixPath(path.lstrip("/"))
        for group in (below, *below.parents):
            yield root / "sys/fs/cgroup" / controllers / group


def _quota(group: Path) -> float:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join((group / name).read_text() for name in names).split()
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
    return math.inf


class Notifier:
    """Tells systemd how it stands (sd_notify(3), Type=notify-reload); silent without systemd."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        # Taken out: what is said for us is said by the master alone.
        self._path = environ.pop("NOTIFY_SOCKET", "")
        self._reloading = False

    def ready(self, status: str) -> None:
        """Started, or done with reloading."""
        self._reloading = False
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` must follow."""
        self._reloading = True
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reload_lost(self) -> None:
        """Who reloads has died: systemd must not wait for it."""
        if self._reloading:
            self.ready("the reload was interrupted")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1\nSTATUS=draining")

    def _send(self, text: str) -> None:
        if not self._path:
            return
        name = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        # A supervisor that does not listen must not hold us up.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.setblocking(False)
            to.sendto(text.encode(), name)
