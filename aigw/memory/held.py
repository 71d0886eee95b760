"""How many requests are in flight under a limit on parallel requests, over all workers.

Each worker counts its own in its own word, the total is their sum.  Two workers that look at the
same moment may both take the last place: at most (workers - 1) beyond the limit, never for longer
than those requests last.  Who took gives back in `finish`; for a dead worker the master does
(`Memory.reap`).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from aigw.memory.layout import WORD_BYTES
from aigw.memory.mapping import Memory
from aigw.memory.words import Control


class HeldTable:
    """The held words, as worker `index` uses them."""

    def __init__(self, memory: Memory, index: int) -> None:
        layout = memory.layout
        self._index = index
        self._used = memory.words[layout.control + Control.used.offset :]
        self._rows = memory.bytes[layout.held * WORD_BYTES :]
        self._row_bytes = memory.indexes * WORD_BYTES
        # This worker's own word, by row.
        self._own = memory.words[layout.held + index : layout.health : memory.indexes]
        self._columns = 0
        self._widen()

    def total(self, row: int) -> int:
        """Requests in flight over all workers."""
        if self._used[0] > self._columns:
            self._widen()
        return sum(self._unpack(self._rows, row * self._row_bytes))

    def take(self, row: int, limit: int) -> bool:
        """Take one place; False, and nothing changed, when `limit` are in flight."""
        if self._used[0] > self._columns:
            self._widen()
        held = self._unpack(self._rows, row * self._row_bytes)
        if sum(held) >= limit:
            return False
        self._own[row] = held[self._index] + 1
        return True

    def give(self, row: int) -> None:
        """Give back one place that `take` granted."""
        self._own[row] -= 1

    def taker(self, row: int, limit: int) -> tuple[Callable[[], bool], Callable[[], None]]:
        """`take` and `give` for one row and limit, with what is the same each time bound once."""
        rows, at, used = self._rows, row * self._row_bytes, self._used
        own, index = self._own, self._index
        columns, unpack = self._columns, self._unpack

        def take() -> bool:
            nonlocal columns, unpack
            if used[0] > columns:
                self._widen()
                columns, unpack = self._columns, self._unpack
            held = unpack(rows, at)
            if sum(held) >= limit:
                return False
            own[row] = held[index] + 1
            return True

        def give() -> None:
            own[row] -= 1

        return take, give

    def _widen(self) -> None:
        self._columns = max(self._used[0], self._index + 1)  # one's own is always read
        self._unpack = Struct(f"@{self._columns}q").unpack_from
