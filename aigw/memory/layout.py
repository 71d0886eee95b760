"""Where everything lies in the shared mapping, and who may write it.

Sizes and offsets only: the mapping itself is made in `mapping.py`, the meaning of the words stands
in the file of each region.  The idea: everything is an aligned 8-byte word in native format, so
that a load or a store is one instruction and can't tear, and **every word has one writer**.

| region      | what                                       | its only writer                      |
|-------------|--------------------------------------------|--------------------------------------|
| control     | draining, used                             | master                               |
|             | high water and generation of the rows      | the compiler (see below)             |
| workers     | pid, socket_index, life                    | master                               |
|             | heartbeat_ns, acked_version, state         | the worker; the master while none is |
| row headers | state, freed version, digest of identity   | the compiler                         |
| bucket rows | rate, burst, epoch, lack                   | the compiler, before others see it   |
|             | `c_i`, `w_i`                               | worker i                             |
| held        | requests in flight of worker i             | worker i; the master at reaping      |
| health      | out until                                  | controller                           |
| policy A, B | version, length, checksum, bytes           | the compiler                         |
| counters    | one region for each index                  | that worker; the master at reaping   |
|             | the last region                            | controller                           |

The compiler is whoever compiles policies: the master before the fork, afterwards the controller.
A worker index changes hands only after `waitpid` has reaped its owner, a row only when no worker
can touch it any more (`rows.py`), so "one writer" holds through time too.

The mapping is some hundred MiB of address space; a page that nobody touched costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

WORD_BYTES = 8
# The largest page in use (macOS on ARM): regions start on it, so no two share a page.
PAGE_BYTES = 16 * 1024

# Precedents: nginx's limit_req_zone of 10 MB holds 160,000 states; 10,000 keys with three rows
# each and a whole generation of successors during a reload fit in here.
ROWS = 65_536
# 10,000 keys compile to 1-2 MiB, a certificate bundle to 0.3 MiB.
POLICY_BYTES = 32 * 1024 * 1024
# 524,288 words: some 12,000 histograms of 40 words.
COUNTER_BYTES = 4 * 1024 * 1024

CONTROL_WORDS = 16
# One cache line each: a heartbeat must not slow down a neighbour's.
WORKER_WORDS = 8
ROW_HEADER_WORDS = 8
# rate, burst, epoch, lack; the `c` of all indexes and then the `w` of all follow.
BUCKET_HEAD_WORDS = 4
# version, length, checksum, one spare.
POLICY_HEAD_WORDS = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets of the regions, in words from the start; `size_bytes` is the whole."""

    indexes: int
    control: int
    workers: int
    row_headers: int
    buckets: int
    bucket_words: int
    held: int
    health: int
    policies: tuple[int, int]
    counters: int
    counter_words: int
    size_bytes: int


def lay_out(workers: int) -> Layout:
    """The layout for so many worker slots: twice as many memory indexes and two more.

    The spares let a successor start while the one that it replaces still runs or hangs.
    """
    indexes = 2 * workers + 2
    bucket_words = BUCKET_HEAD_WORDS + 2 * indexes
    counter_words = COUNTER_BYTES // WORD_BYTES
    policy_words = POLICY_HEAD_WORDS + POLICY_BYTES // WORD_BYTES
    sizes = (
        CONTROL_WORDS,
        WORKER_WORDS * indexes,
        ROW_HEADER_WORDS * ROWS,
        bucket_words * ROWS,
        indexes * ROWS,
        ROWS,
        policy_words,
        policy_words,
        counter_words * (indexes + 1),
    )
    page_words = PAGE_BYTES // WORD_BYTES
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // page_words) * page_words)
    return Layout(
        indexes=indexes,
        control=starts[0],
        workers=starts[1],
        row_headers=starts[2],
        buckets=starts[3],
        bucket_words=bucket_words,
        held=starts[4],
        health=starts[5],
        policies=(starts[6], starts[7]),
        counters=starts[8],
        counter_words=counter_words,
        size_bytes=starts[9] * WORD_BYTES,
    )
