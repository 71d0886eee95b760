"""The micro bench: its cases fit the code, its counts are read and compared."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.micro import __main__ as command
from bench.micro import gateway, instructions, timing
from bench.micro.baseline import Baseline, compare, read, save
from bench.micro.cases import CASES, Call, Case
from bench.micro.counted import CALLS, SECTIONS, Counted, Marks
from bench.micro.instructions import Count, CountingError
from bench.micro.running import CaseError, measured


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "WARM_UP_PAUSE_S", 0)
    monkeypatch.setattr(timing, "LOG_PAUSE_S", 0)
    monkeypatch.setattr(timing, "CALLS", 10)


async def call_once(call: Call) -> None:
    call()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_is_what_it_says(case: Case) -> None:
    asyncio.run(measured(case, call_once))


def test_a_case_that_does_not_fit_any_more() -> None:
    async def gone(gateway: object) -> Call:
        raise ImportError("no such function")

    with pytest.raises(CaseError, match="no such function"):
        asyncio.run(measured(Case("gone", gone, ""), call_once))
    wrong = CASES[0]._replace(answer=b"HTTP/1.1 429 ")
    with pytest.raises(CaseError, match="200"):
        asyncio.run(measured(wrong, call_once))


def test_sections_lie_between_marks() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    marks = Marks()
    first = asyncio.run(marks.sections(call))
    second = asyncio.run(marks.sections(call))
    assert calls == 2 * SECTIONS * CALLS
    # The dump before each case's first section holds what came before.
    assert (first, second) == ([2, 3, 4], [6, 7, 8])


def test_the_median_section_counts(tmp_path: Path) -> None:
    for number, total in ((2, 900), (3, 100), (4, 200)):
        (tmp_path / f"dump.{number}").write_text(f"events: Ir\n\ntotals: {total * CALLS}\n")
    counted = Counted("plain", [2, 3, 4])
    assert instructions.in_dumps(counted, tmp_path / "dump") == Count("plain", 200)
    (tmp_path / "dump.3").write_text("cut off")
    with pytest.raises(CountingError):
        instructions.in_dumps(counted, tmp_path / "dump")


def test_changes_are_judged() -> None:
    counts = [
        Count("a", 1031),
        Count("b", 1029),
        Count("c", 900),
        Count("d", 5),
        Count("e", 0, "x"),
    ]
    changes = compare(counts, {"a": 1000, "b": 1000, "c": 1000, "e": 1})
    assert [change.verdict for change in changes] == ["WORSE", "", "better", "", "FAILS"]
    assert command.verdict(changes) == 1
    assert command.verdict(changes[1:4]) == 0


def test_saving_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "micro.json"
    save(file, "one", [Count("a", 1), Count("b", 2)])
    save(file, "two", [Count("a", 3)])
    save(file, "one", [Count("b", 4), Count("c", 0, "fails")])
    assert read(file) == Baseline({"one": {"a": 1, "b": 4}, "two": {"a": 3}})


def test_without_valgrind_time_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "can_count", lambda: False)
    assert command.main(["metrics"]) == 0
    first, second, row = capsys.readouterr().out.splitlines()
    assert "valgrind is not installed" in first
    assert second.startswith("CPU µs per call")
    assert row.startswith("metrics ")


def test_a_report_is_never_a_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(names: object) -> list[Count]:
        return [Count("metrics", 0, "gone")]

    monkeypatch.setattr(command, "can_count", lambda: True)
    monkeypatch.setattr(command, "count", fails)
    assert command.main(["metrics"]) == 1
    assert command.main(["metrics", "--report"]) == 0


def test_no_such_case(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["metric"])
    assert "no such case: metric" in capsys.readouterr().err
