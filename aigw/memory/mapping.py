"""The mapping itself, and `Memory`: the one object that stands for all that is shared.

Made once by the master before it forks; children inherit the pages and this object with them.
"""

from __future__ import annotations

import mmap
import sys
from typing import Self

from aigw.errors import StartError
from aigw.memory.counters import CounterRegion
from aigw.memory.health import HealthTable
from aigw.memory.layout import WORKER_WORDS, Layout, lay_out
from aigw.memory.policy_area import PolicyArea
from aigw.memory.rows import Rows
from aigw.memory.words import Control, WorkerRow

# Python names this flag from 3.13 on.  Without it a kernel that refuses to overcommit would count
# the whole mapping, untouched as it is, against its limit.  macOS has no such flag nor need.
MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def map_shared(size_bytes: int) -> mmap.mmap:
    """So many zero bytes that all children will share.  StartError when there is no room."""
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    try:
        return mmap.mmap(-1, size_bytes, flags=flags)
    except OSError as error:
        mebibytes = size_bytes // (1024 * 1024)
        raise StartError(
            f"cannot map {mebibytes} MiB of shared memory: {error.strerror}; "
            "fewer workers need less, or raise the limit of address space (ulimit -v)"
        ) from error


class Memory:
    """All shared tables.

    `words` and `floats` are the whole mapping as signed 64-bit numbers and as doubles; only this
    room looks at them.  Worker indexes run from 0 to `indexes` - 1; index `indexes` has nothing
    but a counter region, the controller's.
    """

    def __init__(self, layout: Layout, mapping: mmap.mmap) -> None:
        self.layout = layout
        self.mapping = mapping
        self.bytes = memoryview(mapping)
        self.words: memoryview[int] = self.bytes.cast("q")
        self.floats: memoryview[float] = self.bytes.cast("d")
        self.indexes = layout.indexes
        self.control = Control(self.words, layout.control)
        self.workers = tuple(
            WorkerRow(self.words, layout.workers + index * WORKER_WORDS)
            for index in range(layout.indexes)
        )
        self.policy = PolicyArea(self.bytes, self.control, layout)
        self.rows = Rows(self.words, self.control, self.workers, layout)
        self.health = HealthTable(self.words, layout.health)

    @classmethod
    def create(cls, workers: int) -> Self:
        """Map the memory for so many worker slots.  StartError when the system refuses it."""
        layout = lay_out(workers)
        return cls(layout, map_shared(layout.size_bytes))

    @property
    def used(self) -> int:
        """Worker indexes below this one were in use at some time; nobody reads beyond it."""
        return self.control.used

    @used.setter
    def used(self, count: int) -> None:
        """The master raises it before it forks the first worker with index `count` - 1."""
        self.control.used = max(count, self.control.used)

    def reap(self, index: int) -> None:
        """Give back what a dead worker still held, and make its index free.

        Only after `waitpid`: until then the words are the worker's.  Its counters and its bucket
        words stay, for they count for ever.
        """
        first = self.layout.held + index
        stop = self.layout.held + self.control.row_high_water * self.indexes
        for word in range(first, stop, self.indexes):
            if self.words[word]:
                self.words[word] = 0
        CounterRegion(self, index).zero_gauges()
        self.workers[index].clear()
