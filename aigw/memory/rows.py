"""Which row belongs to whom: the allocator of buckets, concurrency places and health words.

A row is found by what it is for (kind and identity), not by when it was made, so a counter survives
reloads, and a restarted controller finds every row again by reading the headers.

**When may a freed row be used again?**  Its words grow for ever and are written by workers, so a
new owner must start from zero words that nobody else writes any more.  `free` therefore only marks
the row with the policy version of that moment, which no longer names it.  It is taken again once
 1. every living worker has acknowledged that version or a later one.  Acknowledged means that it
    admits nothing under an older policy; a worker that is starting or hangs has not, and counts
    until it is reaped;
 2. all its held words are zero: a request admitted under the old policy may still be running and
    will give its place back later.
Then no process writes to the row, and its words are zeroed before its header names the new owner.
(A base taken from the present sums would be the alternative.  It survives a late `c_i += 1`, but a
late `w_i` could lock the new owner out for the difference, so the wait would be needed all the
same.)

One writer: whoever compiles policies.  A crash at any point leaves each row either free or taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Literal

from aigw.errors import StartError
from aigw.memory.layout import ROW_HEADER_WORDS, ROWS, Layout
from aigw.memory.words import Control, WorkerRow, WorkerState

Kind = Literal["bucket", "held", "member"]

# What stands in the state word of a header: free, freed but perhaps still in use, or the kind.
_FREE, _FREED = 0, 1
_KINDS: dict[Kind, int] = {"bucket": 2, "held": 3, "member": 4}
_STATE, _FREED_VERSION, _DIGEST = 0, 1, 2
_DIGEST_WORDS = 4


class RowsExhausted(StartError):  # noqa: N818
    """More keys, routes and members than there are rows; nothing was changed."""


Identity = tuple[int, ...]


class Rows:
    """The allocator.  Rows are numbered from 0 to 65,535."""

    def __init__(
        self, words: memoryview[int], control: Control, workers: Sequence[WorkerRow], layout: Layout
    ) -> None:
        self._words = words
        self._control = control
        self._workers = workers
        self._layout = layout
        self._generation = -1
        self._live: dict[Identity, list[int]] = {}
        self._free: list[int] = []
        self._freed: list[int] = []

    def allot(self, kind: Kind, identity: str) -> int:
        """The row of this identity, the present one or a new one.  RowsExhausted."""
        found = self.find(kind, identity)
        return found[0] if found else self.allot_another(kind, identity)

    def find(self, kind: Kind, identity: str) -> list[int]:
        """All rows of this identity; more than one while a bucket is being replaced."""
        self._look()
        return list(self._live.get(_digest(kind, identity), ()))

    def allot_another(self, kind: Kind, identity: str) -> int:
        """A new row with zero words, whether or not the identity has one.  RowsExhausted."""
        self._look()
        digest = _digest(kind, identity)
        row = self._take()
        header = self._header(row)
        for offset, part in enumerate(digest[1:]):
            self._words[header + _DIGEST + offset] = part
        self._words[header + _STATE] = digest[0]
        self._live.setdefault(digest, []).append(row)
        return row

    def free(self, row: int) -> None:
        """Give up a row that the policy published last does not name (so: publish first)."""
        self._look()
        digest = self._owner(row)
        self._live[digest].remove(row)
        if not self._live[digest]:
            del self._live[digest]
        header = self._header(row)
        self._changed()
        self._words[header + _FREED_VERSION] = self._control.policy_version
        self._words[header + _STATE] = _FREED
        self._freed.append(row)

    def retain(self, rows: Collection[int]) -> None:
        """Give up every row but these, which the policy published last names."""
        kept = frozenset(rows)
        for row in self.live():
            if row not in kept:
                self.free(row)
        self._settle()

    def live(self) -> list[int]:
        """All rows that belong to somebody."""
        self._look()
        return [row for rows in self._live.values() for row in rows]

    def _take(self) -> int:
        """A free row with zero words.  Used ones first: their pages are already there."""
        fresh = self._control.row_high_water
        if not self._free and fresh == ROWS:
            self._settle()
        self._changed()
        if self._free:
            row = self._free.pop()
            self._wipe(row)
            return row
        if fresh == ROWS:
            raise RowsExhausted(
                f"all {ROWS} rows of shared memory are in use ({len(self._freed)} of them until "
                "running requests end): use fewer keys with limits, or fewer routes with limits"
            )
        self._control.row_high_water = fresh + 1
        return fresh

    def _settle(self) -> None:
        """Make free what was freed and is in use no more."""
        acked = [w.acked_version for w in self._workers if w.state != WorkerState.FREE]
        oldest = min(acked, default=self._control.policy_version)
        waiting = []
        for row in self._freed:
            version = self._words[self._header(row) + _FREED_VERSION]
            if version <= oldest and not self._held(row):
                self._changed()
                self._words[self._header(row) + _STATE] = _FREE
                self._free.append(row)
            else:
                waiting.append(row)
        self._freed = waiting

    def _held(self, row: int) -> bool:
        first = self._layout.held + row * self._layout.indexes
        return any(self._words[first : first + self._layout.indexes].tolist())

    def _wipe(self, row: int) -> None:
        layout = self._layout
        for base, count in (
            (layout.buckets, layout.bucket_words),
            (layout.held, layout.indexes),
            (layout.health, 1),
        ):
            for word in range(base + row * count, base + (row + 1) * count):
                self._words[word] = 0

    def _look(self) -> None:
        """Read all headers, if another process was the compiler since (this one then forked)."""
        if self._generation == self._control.row_generation:
            return
        self._generation = self._control.row_generation
        self._live, self._free, self._freed = {}, [], []
        for row in range(self._control.row_high_water):
            header = self._header(row)
            state = self._words[header + _STATE]
            if state == _FREE:
                self._free.append(row)
            elif state == _FREED:
                self._freed.append(row)
            else:
                self._live.setdefault(self._owner(row), []).append(row)
        self._settle()

    def _changed(self) -> None:
        """Before a change, so that a successor looks even if we die in the middle of it."""
        self._generation += 1
        self._control.row_generation = self._generation

    def _owner(self, row: int) -> Identity:
        header = self._header(row)
        digest = self._words[header + _DIGEST : header + _DIGEST + _DIGEST_WORDS].tolist()
        return (self._words[header + _STATE], *digest)

    def _header(self, row: int) -> int:
        return self._layout.row_headers + row * ROW_HEADER_WORDS


def _digest(kind: Kind, identity: str) -> Identity:
    digest = hashlib.sha256(f"{kind}\0{identity}".encode()).digest()
    return (_KINDS[kind], *memoryview(digest).cast("q").tolist())
