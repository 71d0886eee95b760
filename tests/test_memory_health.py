"""Verdicts of the health checks."""

from __future__ import annotations

from aigw.memory import Memory

SECOND_NS = 10**9


def test_out_until_the_next_verdict() -> None:
    memory = Memory.create(1)
    row = memory.rows.allot("member", "openai http://127.0.0.1:1")
    assert not memory.health.is_out(row, 0)
    memory.health.set(row, up=False, now_ns=100 * SECOND_NS, interval_ns=5 * SECOND_NS)
    assert memory.health.is_out(row, 100 * SECOND_NS)
    assert not memory.health.is_out(row + 1, 100 * SECOND_NS)
    memory.health.set(row, up=True, now_ns=103 * SECOND_NS, interval_ns=5 * SECOND_NS)
    assert not memory.health.is_out(row, 103 * SECOND_NS)


def test_a_verdict_older_than_three_intervals_is_ignored() -> None:
    memory = Memory.create(1)
    memory.health.set(0, up=False, now_ns=100 * SECOND_NS, interval_ns=5 * SECOND_NS)
    assert memory.health.is_out(0, 115 * SECOND_NS - 1)
    assert not memory.health.is_out(0, 115 * SECOND_NS)
