"""Which members of an upstream are out: checked once by the controller, seen by all workers.

One word a row: the time until which the member is out, 0 when it is up.  So a verdict carries its
own expiry and there is nothing to tear: when the controller dies, members come back by themselves.
"""

from __future__ import annotations

# A verdict older than so many intervals is ignored: the checker is gone or hangs.
TRUSTED_INTERVALS = 3


class HealthTable:
    """The health words of all rows of kind `member`.  Times are CLOCK_MONOTONIC in ns."""

    def __init__(self, words: memoryview[int], base: int) -> None:
        self._words = words
        self._base = base

    def set(self, row: int, up: bool, now_ns: int, interval_ns: int) -> None:
        """The controller's verdict; it says it anew after every check."""
        self._words[self._base + row] = 0 if up else now_ns + TRUSTED_INTERVALS * interval_ns

    def is_out(self, row: int, now_ns: int) -> bool:
        """Whether a fresh verdict says that the member is out."""
        return now_ns < self._words[self._base + row]
