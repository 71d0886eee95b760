"""Rows: stable by identity, found again by a successor, used again only when nobody can write."""

from __future__ import annotations

import random

import pytest
from crashing import CrashingWords, Fuse, every_crash
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw.errors import StartError
from aigw.memory import BucketTable, HeldTable, Memory, RowsExhausted, WorkerState, allot_bucket
from aigw.memory.layout import ROWS
from aigw.memory.rows import Rows


def restarted(memory: Memory) -> Rows:
    """What a new controller has: an allocator that knows nothing but the shared words."""
    return Rows(memory.words, memory.control, memory.workers, memory.layout)


def serve(memory: Memory, index: int, acked_version: int) -> None:
    memory.used = max(memory.used, index + 1)
    memory.workers[index].acked_version = acked_version
    memory.workers[index].state = WorkerState.SERVING


def allot_until_seen(memory: Memory, row: int) -> bool:
    """Whether the row is given out again, when its turn comes."""
    memory.rows.retain(memory.rows.live())
    return memory.rows.allot_another("held", "somebody") == row


def test_stable_by_kind_and_identity() -> None:
    memory = Memory.create(1)
    rows = memory.rows
    first = rows.allot("bucket", "user1")
    assert first == rows.allot("bucket", "user1")
    others = {rows.allot("held", "user1"), rows.allot("bucket", "user2"), rows.allot("member", "")}
    assert len({first, *others}) == 4
    assert rows.find("bucket", "nobody") == []
    assert sorted(rows.live()) == sorted({first, *others})


def test_found_again_by_a_restarted_controller() -> None:
    memory = Memory.create(1)
    names = [f"key{n}" for n in range(50)]
    before = {name: memory.rows.allot("held", name) for name in names}
    memory.policy.publish(b"")
    memory.rows.free(before["key7"])
    again = restarted(memory)
    assert {name: again.allot("held", name) for name in names if name != "key7"} == {
        name: row for name, row in before.items() if name != "key7"
    }
    assert again.find("held", "key7") == []


def test_a_fork_of_long_ago_notices_what_a_controller_did_since() -> None:
    """The master's own allocator is as old as the start; each controller is forked with it."""
    memory = Memory.create(1)
    memory.rows.allot("held", "at the start")
    controller = restarted(memory)
    row = controller.allot("held", "later")
    assert memory.rows.find("held", "later") == [row]
    assert memory.rows.allot("held", "even later") not in (0, row)


def test_retain_gives_up_the_rest() -> None:
    memory = Memory.create(1)
    kept, dropped = memory.rows.allot("held", "kept"), memory.rows.allot("held", "dropped")
    memory.policy.publish(b"")
    memory.rows.retain([kept])
    assert memory.rows.live() == [kept]
    assert allot_until_seen(memory, dropped)


def test_a_freed_row_waits_for_every_living_worker() -> None:
    memory = Memory.create(2)
    serve(memory, 0, acked_version=1)
    serve(memory, 1, acked_version=1)
    memory.policy.publish(b"1")
    row = memory.rows.allot("held", "k")
    assert memory.policy.publish(b"2") == 2
    memory.rows.free(row)
    assert not allot_until_seen(memory, row)
    serve(memory, 0, acked_version=2)
    assert not allot_until_seen(memory, row)
    memory.workers[2].state = WorkerState.STARTING  # it may just be loading version 1
    serve(memory, 1, acked_version=2)
    assert not allot_until_seen(memory, row)
    memory.reap(2)
    assert allot_until_seen(memory, row)


def test_a_freed_row_waits_until_the_hanging_worker_is_reaped() -> None:
    memory = Memory.create(2)
    serve(memory, 0, acked_version=1)
    row = memory.rows.allot("held", "k")
    memory.policy.publish(b"1")
    memory.policy.publish(b"2")
    memory.rows.free(row)
    assert not allot_until_seen(memory, row)
    memory.reap(0)
    assert allot_until_seen(memory, row)


def test_a_freed_row_waits_for_requests_of_the_old_policy() -> None:
    memory = Memory.create(2)
    serve(memory, 0, acked_version=1)
    held = HeldTable(memory, 0)
    row = memory.rows.allot("held", "k")
    assert held.take(row, 1)
    memory.policy.publish(b"1")
    memory.rows.free(row)
    assert not allot_until_seen(memory, row)
    held.give(row)
    assert allot_until_seen(memory, row)
    assert held.total(row) == 0


def test_a_row_is_clean_for_its_next_owner() -> None:
    memory = Memory.create(2)
    memory.used = 6
    bucket = allot_bucket(memory, "old", 1000.0, 1000.0, 0.0)
    for index in range(6):
        table = BucketTable(memory, index)
        for _ in range(50):
            table.admit((bucket,), 1e6)
    memory.health.set(bucket.row, up=False, now_ns=10, interval_ns=10)
    memory.policy.publish(b"")
    memory.rows.free(bucket.row)
    memory.rows.retain([])
    successor = allot_bucket(memory, "new", 2.0, 7.0, 2e6)
    assert successor.row == bucket.row
    assert BucketTable(memory, 5).level_of(successor, 2e6) == 7.0
    assert BucketTable(memory, 5).level_of(successor, 3e6) == 7.0
    assert not memory.health.is_out(successor.row, 11)


def test_full_is_a_clear_word_and_freed_rows_come_back() -> None:
    memory = Memory.create(1)
    for number in range(ROWS):
        memory.rows.allot_another("held", str(number))
    with pytest.raises(RowsExhausted, match=f"all {ROWS} rows") as caught:
        memory.rows.allot("held", "one more")
    assert isinstance(caught.value, StartError)
    assert memory.rows.allot("held", "77") == 77
    memory.rows.free(77)
    assert memory.rows.allot("held", "one more") == 77
    with pytest.raises(RowsExhausted):
        memory.rows.allot("held", "another")
    assert len(restarted(memory).live()) == ROWS


def test_a_compiler_killed_at_any_store_leaves_rows_free_or_taken() -> None:
    """Old rows stay as they were; a half-made one is free, and clean when it is given out."""
    memory = Memory.create(1)

    def act(fuse: Fuse) -> None:
        nonlocal memory
        memory = Memory.create(1)
        memory.rows.allot("held", "kept")
        dropped = memory.rows.allot("held", "dropped")
        memory.words[memory.layout.health + dropped] = 99
        words = CrashingWords(memory.words, fuse)
        rows = Rows(words, memory.control, memory.workers, memory.layout)  # type: ignore[arg-type]
        rows.allot("member", "new")
        rows.free(dropped)
        rows.retain(rows.live())
        rows.allot("member", "newer")

    crashes = 0
    for _ in every_crash(act):
        crashes += 1
        rows = restarted(memory)
        live = rows.live()
        assert rows.find("held", "kept") == [0]
        assert len(set(live)) == len(live)
        assert memory.rows.live() == live  # the mirror from before the crash looks again
        fresh = rows.allot("member", "fresh")
        assert fresh not in live
        assert memory.words[memory.layout.health + fresh] == 0
        rows.retain([])
        rows.retain([])
        assert rows.allot("member", "last") in (0, 1, 2, 3)
    assert crashes > 10


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 80))
def test_no_row_ever_has_two_owners(seed: int, steps: int) -> None:
    """Random policies, late acknowledgements, running requests, restarts of the controller."""
    dice = random.Random(seed)
    memory = Memory.create(1)
    rows = memory.rows
    workers: dict[int, dict[str, int]] = {}  # by index, what the policy that it uses names
    versions: dict[int, dict[str, int]] = {0: {}}
    running: list[tuple[HeldTable, int, str]] = []
    for index in range(2):
        serve(memory, index, 0)
        workers[index] = {}
    for _ in range(steps):
        action = dice.randrange(5)
        index = dice.randrange(2)
        if action == 0:
            names = [name for name in "abcdef" if dice.random() < 0.5]
            policy = {name: rows.allot("held", name) for name in names}
            versions[memory.policy.publish(b"")] = policy
            rows.retain(policy.values())
        elif action == 1:
            workers[index] = versions[memory.policy.version]
            memory.workers[index].acked_version = memory.policy.version
        elif action == 2 and workers[index]:
            name, row = dice.choice(sorted(workers[index].items()))
            table = HeldTable(memory, index)
            assert table.take(row, 1000)
            running.append((table, row, name))
        elif action == 3 and running:
            table, row, _ = running.pop(dice.randrange(len(running)))
            table.give(row)
        else:
            rows = restarted(memory)
        in_use = {(row, name) for policy in workers.values() for name, row in policy.items()}
        in_use |= {(row, name) for _, row, name in running}
        in_use |= {(row, name) for name, row in versions[memory.policy.version].items()}
        assert len(in_use) == len({row for row, _ in in_use})
