"""How many requests are in flight under a limit on parallel requests, over all workers.

Each worker counts its own in its own word, the total is their sum.  Two workers that look at the
same moment may both take the last place: at most (workers - 1) beyond the limit, never for longer
than those requests last.  Who took gives back in `finish`; for a dead worker the master does
(`Memory.reap`).
"""

from __future__ import annotations

from struct import Struct

from aigw.memory.layout import WORD_BYTES
from aigw.memory.mapping import Memory


class HeldTable:
    """The held words, as worker `index` uses them."""

    def __init__(self, memory: Memory, index: int) -> None:
        self._memory = memory
        self._mapping = memory.mapping
        self._words = memory.words
        self._indexes = memory.indexes
        self._base = memory.layout.held
        self._own = memory.layout.held + index
        self._used = -1
        self._read = Struct("").unpack_from

    def total(self, row: int) -> int:
        """Requests in flight over all workers."""
        used = self._memory.used
        if used != self._used:
            self._used = used
            self._read = Struct(f"@{used}q").unpack_from
        return sum(self._read(self._mapping, (self._base + row * self._indexes) * WORD_BYTES))

    def take(self, row: int, limit: int) -> bool:
        """Take one place; False, and nothing changed, when `limit` are in flight."""
        if self.total(row) >= limit:
            return False
        self._words[self._own + row * self._indexes] += 1
        return True

    def give(self, row: int) -> None:
        """Give back one place that `take` granted."""
        self._words[self._own + row * self._indexes] -= 1
