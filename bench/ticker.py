"""A clock for the open loop: wakes the event loop at a fixed rate, to within some 50 µs.

libuv's timers have whole milliseconds, which would add up to one to each measured latency. So on
Linux the kernel's timerfd wakes the loop (by ctypes: `os.timerfd_create` came with Python 3.13);
elsewhere the milliseconds must do, and the results show them as the generator's lateness.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable

CLOCK_MONOTONIC = 1
ABSOLUTE = 1  # TFD_TIMER_ABSTIME
NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
COARSE_S = 0.001


class Ticker:
    """Calls `tick` at `first_ns` (CLOCK_MONOTONIC) and every `interval_ns` then, until closed."""

    def __init__(self, first_ns: int, interval_ns: int, tick: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._tick = tick
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        if sys.platform == "linux":
            self._fd = timer_fd(first_ns, interval_ns)
            self._loop.add_reader(self._fd, self._read)
        else:
            self._sleep()

    def _read(self) -> None:
        os.read(self._fd, 8)
        self._tick()

    def _sleep(self) -> None:
        self._timer = self._loop.call_later(COARSE_S, self._sleep)
        self._tick()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._timer is not None:
            self._timer.cancel()


class _TimerSpec(ctypes.Structure):
    """struct itimerspec: interval and first expiry, each as seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")]


def timer_fd(first_ns: int, interval_ns: int) -> int:
    """A file descriptor that becomes readable at these times (timerfd_create(2)). OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.timerfd_create(CLOCK_MONOTONIC, NONBLOCK_CLOEXEC)
    spec = _TimerSpec(*divmod(interval_ns, 10**9), *divmod(first_ns, 10**9))
    if fd < 0 or libc.timerfd_settime(fd, ABSOLUTE, ctypes.byref(spec), None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return fd
