"""Is this worker overloaded?  It is while its event loop comes late to its sweeps again and again.

Not here: who tells the time (`deadlines.Sweeper`), and what new requests get then (`Services`).

The loop has no queue that could be measured: what waits, waits in the kernel.  But the sweep is
due four times a second, and comes as late as everything else does.  One late sweep says little (a
reload, a suspended machine, a busy neighbour), three of four say that more is asked of the worker
than it can do; then each further request would make all of them later.  Between the two marks the
standing stays as it is, so that it does not change with every sweep.
"""

from __future__ import annotations

from collections import deque

# So late that clients notice; and so little that a request more does no harm.
LATE_S, RECOVERED_S = 0.5, 0.1
# It is overloaded if so many of its last sweeps were late.
LATE_SWEEPS, SWEEPS = 3, 4


class Lag:
    """How late the sweeps of one loop are, which are due every `interval_s`."""

    __slots__ = ("_interval_s", "_last_s", "_was_late", "is_overloaded")

    def __init__(self, interval_s: float) -> None:
        self.is_overloaded = False
        self._interval_s = interval_s
        self._last_s: float | None = None
        self._was_late: deque[bool] = deque(maxlen=SWEEPS)

    def swept(self, now_s: float) -> bool:
        """Note a sweep; has `is_overloaded` changed?"""
        before = self.is_overloaded
        if self._last_s is not None:
            late_s = now_s - self._last_s - self._interval_s
            self._was_late.append(late_s > LATE_S)
            if late_s < RECOVERED_S:
                self.is_overloaded = False
            elif sum(self._was_late) >= LATE_SWEEPS:
                self.is_overloaded = True
        self._last_s = now_s
        return self.is_overloaded is not before
