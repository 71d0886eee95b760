"""Places under a limit on parallel requests."""

from __future__ import annotations

import time

from processes import run_forked

from aigw.memory import HeldTable, Memory


def table_of(memory: Memory, index: int) -> HeldTable:
    memory.used = index + 1
    return HeldTable(memory, index)


def test_the_limit_counts_over_all_workers() -> None:
    memory = Memory.create(2)
    row = memory.rows.allot("held", "k")
    first, second = table_of(memory, 0), table_of(memory, 5)
    assert first.take(row, 3) and second.take(row, 3) and first.take(row, 3)
    assert not first.take(row, 3) and not second.take(row, 3)
    assert first.total(row) == second.total(row) == 3
    first.give(row)
    assert second.take(row, 3)
    assert second.total(row) == 3


def test_rows_do_not_touch_each_other() -> None:
    memory = Memory.create(2)
    table = table_of(memory, 5)
    for row in range(10):
        for _ in range(row):
            assert table.take(row, 100)
    assert [table.total(row) for row in range(10)] == list(range(10))


def test_a_lowered_limit_takes_nobodys_place() -> None:
    memory = Memory.create(1)
    table = table_of(memory, 0)
    assert all(table.take(0, 5) for _ in range(5))
    assert not table.take(0, 2)
    for _ in range(4):
        table.give(0)
    assert table.take(0, 2)


def test_reaping_gives_back_what_the_dead_worker_held() -> None:
    memory = Memory.create(1)
    rows = [memory.rows.allot("held", str(n)) for n in range(3)]
    dead, alive = table_of(memory, 0), table_of(memory, 1)
    for row in rows:
        assert dead.take(row, 10) and dead.take(row, 10) and alive.take(row, 10)
    memory.reap(0)
    assert [alive.total(row) for row in rows] == [1, 1, 1]


def test_processes_at_once_exceed_the_limit_by_at_most_all_others() -> None:
    """And nothing is left when all have given back."""
    processes, limit = 4, 3
    memory = Memory.create(processes)
    memory.used = processes
    enough, give_up_s = 20_000, time.monotonic() + 20

    def work(index: int) -> bytes:
        table, most, times = HeldTable(memory, index), 0, 0
        while times < enough and time.monotonic() < give_up_s:
            if table.take(9, limit):
                most, times = max(most, table.total(9)), times + 1
                table.give(9)
        return b"%d %d" % (most, times)

    told = [tuple(map(int, part.split())) for part in run_forked(processes, work)]
    assert all(most <= limit + processes - 1 for most, _ in told)
    assert all(times == enough for _, times in told)
    assert HeldTable(memory, 0).total(9) == 0
