"""Forked children: their pipe, their signals, their end, and when to start the next."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from aigw.processes import (
    BACKOFF_FIRST_S,
    BACKOFF_LIMIT_S,
    STEADY_S,
    Process,
    Restarts,
    SignalPipe,
    fork,
    how_it_ended,
)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)


@pytest.fixture
def signals() -> Iterator[SignalPipe]:
    pipe = SignalPipe(SIGNALS)
    yield pipe
    pipe.close()


def child(signals: SignalPipe, life: Callable[[int], int], *foreign: int) -> Process:
    return Process(*fork(life, [*signals.ends(), *foreign], SIGNALS), time.monotonic())


def end_of(process: Process) -> str:
    pid, status = os.waitpid(process.pid, 0)
    assert pid == process.pid
    process.close()
    return how_it_ended(status)


def until_end(commands: int) -> int:
    signal.alarm(20)  # so that a failed test leaves nobody behind
    while os.read(commands, 100):
        pass
    return 7


def test_signals_come_as_bytes_in_order(signals: SignalPipe) -> None:
    assert signals.read() == b""
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert select.select([signals.reader], [], [], 5)[0]
    assert sorted(signals.read()) == [signal.SIGUSR1, signal.SIGTERM]


def test_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    SignalPipe(SIGNALS).close()
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_child_hears_commands_and_their_end(signals: SignalPipe) -> None:
    heard, says = os.pipe()

    def life(commands: int) -> int:
        while line := os.read(commands, 100):
            os.write(says, line)
        return 7

    process = child(signals, life, heard)
    os.close(says)
    process.tell("adopt 1")
    assert os.read(heard, 100) == b"adopt 1\n"
    process.end_commands()
    assert end_of(process) == "exit status 7"
    os.close(heard)


def test_siblings_do_not_hold_each_others_pipes(signals: SignalPipe) -> None:
    first = child(signals, until_end)
    second = child(signals, until_end, *first.ends())
    first.end_commands()
    assert end_of(first) == "exit status 7"
    second.end_commands()
    assert end_of(second) == "exit status 7"


def test_children_ignore_the_masters_signals(signals: SignalPipe) -> None:
    process = child(signals, until_end)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGUSR1)
    process.end_commands()
    assert end_of(process) == "exit status 7"
    assert signal.SIGTERM not in signals.read(), "the child has not written into our pipe"


def test_a_hanging_or_dead_child_does_not_hold_us_up(signals: SignalPipe) -> None:
    process = child(signals, lambda _: signal.alarm(20) or signal.pause() or 0)
    for _ in range(10_000):
        process.tell("reopen")
    process.kill()
    process.tell("reopen")
    assert end_of(process) == "killed by SIGKILL"


def test_what_a_child_raises_is_one_line(
    signals: SignalPipe, capfd: pytest.CaptureFixture[str]
) -> None:
    def life(commands: int) -> int:
        logging.getLogger("aigw").addHandler(logging.StreamHandler())
        raise ValueError("sk-not-for-logs\nor so")

    assert end_of(child(signals, life)) == "exit status 1"
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("ValueError (")
    assert "test_processes.py:" in line
    assert "sk-not-for-logs" not in line


def test_even_an_exit_ends_only_the_child(signals: SignalPipe) -> None:
    def life(commands: int) -> int:
        raise SystemExit(3)

    assert end_of(child(signals, life)) == "exit status 1"


def test_restarts_come_ever_later() -> None:
    restarts, waits = Restarts(), []
    for _ in range(12):
        restarts.ended(lived_s=1, now_s=100)
        waits.append(restarts.start_at_s - 100)
    assert waits[:5] == [0, *(BACKOFF_FIRST_S * 2**n for n in range(4))]
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_LIMIT_S


def test_a_long_life_ends_the_row() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.ended(lived_s=1, now_s=100)
    restarts.ended(lived_s=STEADY_S, now_s=100)
    assert restarts == Restarts(failures=1, start_at_s=100)
