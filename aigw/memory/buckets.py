"""The token bucket that all workers share without a lock, without compare-and-swap.

With rate r, burst b, start level s and time t since the row's epoch; worker i alone writes

    c_i = requests that it has admitted, ever
    w_i = the largest overflow that it has seen

and everybody computes, from `C = sum(c)`, `W = max(w)` and `lack = b - s`,

    x     = r*t - lack - C        what would be above the brim if nothing ever ran over
    W     = max(W, x)             what did run over, ever (the Skorokhod reflection)
    level = b + (x - W)           admit if it is at least 1, then write w_i = W, then c_i += 1

Sums and maxima only grow, so no update is ever lost, and a neighbour's words read a moment too
early are a moment's error that the next reading repairs.  In any window at most (workers - 1)
requests are admitted beyond burst + rate * window.  What must stay true:

 - the time is read before the words, so that a late reader sees less refill, not more;
 - all c are read before all w, and w_i is written before c_i.  A neighbour's c_i without its w_i
   would be a request paid from an overflow that still counts as level;
 - one word is one load or store (aligned, native format), and stores become visible in the order
   of the program, as on x86-64.  On ARM promise twice the bound until it is tested there.

`b + (x - W)`, not `(b + x) - W`: a full bucket is then exactly b, however large x has grown.
Times are CLOCK_MONOTONIC in seconds.  Doubles do: at 1e5 requests/s and three years of uptime a
token is still resolved to 1/500, and a count is exact up to 2**53.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from struct import Struct

import msgspec

from aigw.memory.layout import BUCKET_HEAD_WORDS, WORD_BYTES
from aigw.memory.mapping import Memory
from aigw.memory.words import Control

INFINITE = math.inf
# The words at the head of a row.  A rate of 0: the row was never finished by its compiler.
_RATE, _BURST, _EPOCH, _LACK = 0, 1, 2, 3

# The words of a row: epoch, C + lack, the largest w.
_Sums = tuple[float, float, float]


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """One limit: the row of its words, its rate and its capacity (at least 1)."""

    row: int
    rate_per_s: float
    burst: float


def allot_bucket(
    memory: Memory, identity: str, rate_per_s: float, burst: float, now_s: float
) -> Bucket:
    """The bucket of this identity: the present one if rate and burst are the same, else a new one.

    A new one starts full, or, where it replaces others of the same identity, at the lowest of
    their levels if that is less.  Changing the rate in place would count it from the epoch on: a
    key whose limit was lowered would be locked out for its uptime.  The old row stays as it is for
    workers that have not switched yet, which is why a reload may admit one old burst too many.
    Only the compiler may call it.  RowsExhausted, ValueError.
    """
    if not (rate_per_s > 0 and burst >= 1 and math.isfinite(rate_per_s + burst)):
        raise ValueError(f"no bucket has rate {rate_per_s}/s and burst {burst}")
    level = burst
    table = BucketTable(memory, 0)
    for row in memory.rows.find("bucket", identity):
        head = _head(memory, row)
        old = Bucket(row, memory.floats[head + _RATE], memory.floats[head + _BURST])
        if (old.rate_per_s, old.burst) == (rate_per_s, burst):
            return old
        if old.rate_per_s:
            level = min(level, table.level_of(old, now_s))
    row = memory.rows.allot_another("bucket", identity)
    head = _head(memory, row)
    memory.floats[head + _BURST] = burst
    memory.floats[head + _EPOCH] = now_s
    memory.floats[head + _LACK] = burst - level
    memory.floats[head + _RATE] = rate_per_s
    return Bucket(row, rate_per_s, burst)


class BucketTable:
    """The buckets, as worker `index` uses them."""

    def __init__(self, memory: Memory, index: int) -> None:
        layout = memory.layout
        self._indexes = memory.indexes
        self._used = memory.words[layout.control + Control.used.offset :]
        # A row as it is read: from its epoch on.
        self._rows = memory.bytes[(layout.buckets + _EPOCH) * WORD_BYTES :]
        self._row_bytes = layout.bucket_words * WORD_BYTES
        # This worker's own words, by row.
        own_c = layout.buckets + BUCKET_HEAD_WORDS + index
        own_w = own_c + memory.indexes
        self._own_place = 2 + index  # of its c in what is unpacked
        self._own_c = memory.floats[own_c : layout.held : layout.bucket_words]
        self._own_w = memory.floats[own_w : layout.held : layout.bucket_words]
        self._columns = 0
        self.tightest: Bucket | None = None
        self.level = 0.0
        self._widen()

    def admit(self, buckets: Sequence[Bucket], now_s: float) -> Bucket | None:
        """Take one token from each bucket, or none at all.

        None: admitted.  Else the bucket that refuses, of several the one with the longest wait.
        `now_s` was read before the call; no bucket may stand twice in `buckets`.

        A w may be written although another bucket then refuses: it is what did run over anyway.

        Afterwards `tightest` is the bucket with the lowest level, or the one that refuses, and
        `level` its level: what a client is told costs no second reading.
        """
        lowest = INFINITE
        for bucket in buckets:
            epoch_s, spent, overflow = self._read(bucket.row)
            x = (now_s - epoch_s) * bucket.rate_per_s - spent
            overflow = max(overflow, x)
            level = bucket.burst + (x - overflow)
            if level < 1.0:
                self.tightest = max(buckets, key=lambda bucket: self.wait_s(bucket, now_s))
                self.level = self.level_of(self.tightest, now_s)
                return self.tightest
            if level < lowest:
                lowest, self.tightest = level, bucket
            self._own_w[bucket.row] = overflow
        for bucket in buckets:
            self._own_c[bucket.row] += 1.0
        self.level = lowest - 1.0
        return None

    def taker(self, bucket: Bucket) -> Callable[[float], float]:
        """`admit` for one bucket, as a function of the time: a test holds one to the other.

        It returns the level that is left; below 0: nothing was taken, and the level is 1 more.

        Reading is the price of an admission.  So here a row is read by one `unpack`, in the order
        of its words, and summed up by hand for up to four workers; and what is the same each time
        is bound once (`python -m bench.micro bucket`).
        """
        row, rate_per_s, burst = bucket.row, bucket.rate_per_s, bucket.burst
        rows, at, used = self._rows, row * self._row_bytes, self._used
        own_c, own_w, own_place = self._own_c, self._own_w, self._own_place
        columns, unpack = self._columns, self._unpack

        def take(now_s: float) -> float:
            nonlocal columns, unpack
            if used[0] > columns:
                self._widen()
                columns, unpack = self._columns, self._unpack
            words = unpack(rows, at)
            if columns == 2:
                epoch_s, lack, c0, c1, overflow, w1 = words
                x = (now_s - epoch_s) * rate_per_s - (c0 + c1 + lack)
                if w1 > overflow:
                    overflow = w1
            elif columns == 4:
                epoch_s, lack, c0, c1, c2, c3, overflow, w1, w2, w3 = words
                x = (now_s - epoch_s) * rate_per_s - (c0 + c1 + c2 + c3 + lack)
                if w1 > overflow:
                    overflow = w1
                if w2 > overflow:
                    overflow = w2
                if w3 > overflow:
                    overflow = w3
            else:
                end = 2 + columns
                x = (now_s - words[0]) * rate_per_s - (sum(words[2:end]) + words[1])
                overflow = max(words[end:])
            if x > overflow:
                overflow = x
            level: float = burst + (x - overflow) - 1.0
            if level >= 0.0:
                own_w[row] = overflow
                own_c[row] = words[own_place] + 1.0
            return level

        return take

    def level_of(self, bucket: Bucket, now_s: float) -> float:
        """Tokens in the bucket, at most its burst; below 0 after an overshoot."""
        return _level(bucket, self._read(bucket.row), now_s)

    def wait_s(self, bucket: Bucket, now_s: float) -> float:
        """How long until the bucket admits a request if nobody else takes from it; 0.0: now.

        Honest to the last bit: what is rounded off is added until the formula itself says yes.
        """
        sums = self._read(bucket.row)
        missing = 1.0 - _level(bucket, sums, now_s)
        if missing <= 0.0:
            return 0.0
        wait_s = missing / bucket.rate_per_s
        step_s = math.ulp(now_s + wait_s)
        while _level(bucket, sums, now_s + wait_s) < 1.0:
            wait_s += step_s
            step_s *= 2.0
        return wait_s

    def _read(self, row: int) -> _Sums:
        if self._used[0] > self._columns:
            self._widen()
        words = self._unpack(self._rows, row * self._row_bytes)
        first_w = 2 + self._columns
        return words[0], sum(words[2:first_w]) + words[1], max(words[first_w:])

    def _widen(self) -> None:
        """Read as many columns as there are workers: 2, 4, or exactly so many.

        Columns that nobody has used yet are 0 and change nothing; one's own is always read.
        """
        used = max(self._used[0], self._own_place - 1)
        self._columns = 2 if used <= 2 else 4 if used <= 4 else used
        skipped = (self._indexes - self._columns) * WORD_BYTES
        self._unpack = Struct(f"@{2 + self._columns}d{skipped}x{self._columns}d").unpack_from


def _level(bucket: Bucket, sums: _Sums, now_s: float) -> float:
    """The formula."""
    epoch_s, spent, overflow = sums
    x = (now_s - epoch_s) * bucket.rate_per_s - spent
    return bucket.burst + (x - max(overflow, x))


def _head(memory: Memory, row: int) -> int:
    return memory.layout.buckets + row * memory.layout.bucket_words
