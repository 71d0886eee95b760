"""Named words."""

from __future__ import annotations

from aigw.memory import Memory, WorkerState
from aigw.memory.words import Control, Word, WorkerRow


def fields(row: type) -> list[str]:
    return [name for name, value in vars(row).items() if isinstance(value, Word)]


def test_every_field_has_a_word_of_its_own() -> None:
    memory = Memory.create(3)
    rows = [(memory.control, Control), *((row, WorkerRow) for row in memory.workers)]
    number = 2**62
    expected = {}
    for row, kind in rows:
        for name in fields(kind):
            if name == "used":
                continue
            number += 1
            setattr(row, name, number)
            expected[id(row), name] = number
    assert len(expected) == 5 + 8 * 6
    for row, kind in rows:
        for name in fields(kind):
            if name != "used":
                assert getattr(row, name) == expected[id(row), name]


def test_words_lie_where_the_layout_says() -> None:
    memory = Memory.create(1)
    memory.workers[2].heartbeat_ns = -5
    assert memory.words[memory.layout.workers + 2 * 8 + 3] == -5
    assert max(Control.__dict__[name].offset for name in fields(Control)) < 16
    assert max(WorkerRow.__dict__[name].offset for name in fields(WorkerRow)) < 8


def test_clear_frees_an_index() -> None:
    row = Memory.create(1).workers[0]
    for name in fields(WorkerRow):
        setattr(row, name, 7)
    row.state = WorkerState.DRAINING
    row.clear()
    assert [getattr(row, name) for name in fields(WorkerRow)] == [0] * 6
    assert row.state == WorkerState.FREE
