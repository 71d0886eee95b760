"""The memory bench against the mock: it holds what it opened, and says when it is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from bench import memory
from bench.cpu import Memory
from bench.memory import Growth, Unanswered, growth
from bench.request import RequestPlan


@pytest.fixture(scope="module")
def mock() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "aigw.mock", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.terminate()


@cache
def port_of(mock: subprocess.Popen[str]) -> int:
    assert mock.stdout is not None
    return int(mock.stdout.readline().rpartition(":")[2])


@pytest.mark.parametrize("kind", memory.COUNTS)
def test_the_memory_is_read_while_all_are_held(
    kind: memory.Kind, mock: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = []

    def read(pid: int) -> Memory:
        links = (link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir())
        sockets.append(sum(str(link).startswith("socket:") for link in links))
        return Memory(0, 1000 * sockets[-1])

    monkeypatch.setattr(memory, "SETTLE_S", 0.05)
    monkeypatch.setattr(memory, "WARM_UP", 2)
    monkeypatch.setattr(memory, "memory", read)
    found = growth(mock.pid, RequestPlan(), port_of(mock), kind, 70)
    assert sockets[1] - sockets[0] == 70
    assert found.per_connection_bytes == 1000


def test_a_refusal_is_no_figure(
    mock: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SETTLE_S", 0.01)
    with pytest.raises(Unanswered, match="404"):
        growth(os.getpid(), RequestPlan(path="/nowhere"), port_of(mock), "idle", 5)


def test_growth_is_shared_out() -> None:
    assert Growth(10, 1000, 3000).per_connection_bytes == 200
