"""Counters that outlive their process: each worker adds in a region of its own, readers sum up.

A region is an append-only list of entries that describes itself: a head word (length of the key
and number of values), the values, the key in UTF-8 padded to whole words.  The word `end` is
written last, so an entry is there whole or not at all, for a reader beside the writer as for the
successor of a writer that was killed half-way.  An entry never moves: an index may be kept.

Values are counts; what they count stands in the key, whose form is the business of `observe`.
Keys that begin with `gauge:` tell a present state and are zeroed when their worker is reaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aigw.memory.layout import WORD_BYTES

if TYPE_CHECKING:
    from aigw.memory.mapping import Memory

GAUGE = "gauge:"
# The largest histogram that the metrics need has 40 words.
WORDS_PER_KEY = 256

_END, _LOST = 0, 1
# A head word is the key's bytes times this, plus the number of values.
_COUNTS = 1 << 16
_SCRATCH = 8
_FIRST = _SCRATCH + WORDS_PER_KEY


class CounterRegion:
    """The counters of worker `index`; those of the controller with `memory.indexes`.

    Exactly one process may call `allot` and write to `words`; any may iterate over `items`.
    """

    def __init__(self, memory: Memory, index: int) -> None:
        layout = memory.layout
        start = layout.counters + index * layout.counter_words
        self.words = memory.words[start : start + layout.counter_words]
        self._bytes = self.words.cast("B")
        self._entries: dict[str, tuple[int, int]] = {}
        self._known_end = _FIRST

    @property
    def lost(self) -> int:
        """How many keys found no place: what they count is missing."""
        return self.words[_LOST]

    def allot(self, key: str, words: int = 1) -> int:
        """Where in `words` the values of this key begin; the same key is always at one place.

        In a full region that is a scratch block, which nobody reads, and `lost` grows by one.
        """
        if not 1 <= words <= WORDS_PER_KEY:
            raise ValueError(f"{words} words for one key: 1 to {WORDS_PER_KEY} are possible")
        self._learn()
        known = self._entries.get(key)
        if known is None:
            known = self._append(key, words)
        elif known[1] != words:
            raise ValueError(f"counter {key!r} has {known[1]} words, not {words}")
        return known[0]

    def items(self) -> Iterator[tuple[str, list[int]]]:
        """Every key with its values now."""
        self._learn()
        for key, (first, count) in list(self._entries.items()):
            if first != _SCRATCH:
                yield key, self.words[first : first + count].tolist()

    def zero_gauges(self) -> None:
        """Forget the present states of a dead worker."""
        self._learn()
        for key, (first, count) in self._entries.items():
            if key.startswith(GAUGE):
                for word in range(first, first + count):
                    self.words[word] = 0

    def _learn(self) -> None:
        """Take in the entries that were appended since the last look."""
        at, end = self._known_end, self.words[_END]
        while at < end:
            key_bytes, count = divmod(self.words[at], _COUNTS)
            key_at = (at + 1 + count) * WORD_BYTES
            key = bytes(self._bytes[key_at : key_at + key_bytes]).decode()
            self._entries[key] = (at + 1, count)
            at += _entry_words(key_bytes, count)
        self._known_end = at

    def _append(self, key: str, count: int) -> tuple[int, int]:
        encoded = key.encode()
        at = self._known_end
        end = at + _entry_words(len(encoded), count)
        if end > len(self.words):
            self.words[_LOST] += 1
            self._entries[key] = (_SCRATCH, count)
            return self._entries[key]
        # A predecessor killed in here may have left anything behind `end`.
        for word in range(at + 1, at + 1 + count):
            self.words[word] = 0
        key_at = (at + 1 + count) * WORD_BYTES
        self._bytes[key_at : key_at + len(encoded)] = encoded
        self.words[at] = len(encoded) * _COUNTS + count
        self.words[_END] = end
        self._learn()
        return self._entries[key]


def _entry_words(key_bytes: int, count: int) -> int:
    return 1 + count + -(-key_bytes // WORD_BYTES)
