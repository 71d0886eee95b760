"""Named words: the control words of the whole gateway and the row of each worker.

A row is a small object over the shared words, a field a `Word` in it: reading an attribute is one
load, assigning one store.  Who may assign which stands in `layout.py`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self, overload


class WordRow:
    """Some neighbouring words of the mapping, named by the subclass."""

    __slots__ = ("_base", "_words")

    def __init__(self, words: memoryview[int], base: int) -> None:
        self._words = words
        self._base = base

    def view(self, word: Word) -> memoryview[int]:
        """That word alone, as a view of length one."""
        start = self._base + word.offset
        return self._words[start : start + 1]


class Word:
    """One field of a `WordRow`: a signed 64-bit number."""

    __slots__ = ("offset",)

    def __init__(self, offset: int) -> None:
        self.offset = offset

    @overload
    def __get__(self, row: None, owner: type[WordRow]) -> Self: ...
    @overload
    def __get__(self, row: WordRow, owner: type[WordRow]) -> int: ...
    def __get__(self, row: WordRow | None, owner: type[WordRow]) -> Self | int:
        if row is None:
            return self
        return row._words[row._base + self.offset]

    def __set__(self, row: WordRow, value: int) -> None:
        row._words[row._base + self.offset] = value


class Control(WordRow):
    """The control words.  Times in ns are CLOCK_MONOTONIC."""

    __slots__ = ()

    draining = Word(0)  # 1 from SIGTERM on: readiness answers 503
    used = Word(1)  # worker indexes below this one were in use at some time
    row_high_water = Word(2)  # rows below this one were in use at some time
    row_generation = Word(3)  # grows with every change of the rows
    policy_version = Word(4)
    policy_published_at_ns = Word(5)


class WorkerState(IntEnum):
    """The life of a worker index: free, starting (set before the fork), serving, draining, free."""

    FREE = 0
    STARTING = 1
    SERVING = 2
    DRAINING = 3


class WorkerRow(WordRow):
    """What a worker tells about itself.  Times in ns are CLOCK_MONOTONIC."""

    __slots__ = ()

    pid = Word(0)
    socket_index = Word(1)
    life = Word(2)  # random, 63 bits: names this owner of the index, whatever its pid
    heartbeat_ns = Word(3)
    acked_version = Word(4)  # it admits nothing under an older policy any more
    state = Word(5)  # a WorkerState

    def clear(self) -> None:
        """Make the index free again.  The state last: with it the index may be taken."""
        for field in ("pid", "socket_index", "life", "heartbeat_ns", "acked_version"):
            setattr(self, field, 0)
        self.state = WorkerState.FREE
