"""What all processes share: one anonymous mapping made before the fork, read and written by words.

Buckets, concurrency, counters, heartbeats, health bits and the compiled policy live here.  Nothing
in this room waits, locks or compares-and-swaps: every word has exactly one writer (`layout.py` says
who), and whatever needs more than one word says how a reader notices that it came between.
What the words mean for a request is decided in `policy`; who is forked and reaped, in `master`.
"""

from __future__ import annotations

from aigw.memory.buckets import Bucket, BucketTable, allot_bucket
from aigw.memory.counters import CounterRegion
from aigw.memory.held import HeldTable
from aigw.memory.mapping import Memory
from aigw.memory.policy_area import PolicyTooLarge
from aigw.memory.rows import RowsExhausted
from aigw.memory.words import WorkerState

__all__ = [
    "Bucket",
    "BucketTable",
    "CounterRegion",
    "HeldTable",
    "Memory",
    "PolicyTooLarge",
    "RowsExhausted",
    "WorkerState",
    "allot_bucket",
]
