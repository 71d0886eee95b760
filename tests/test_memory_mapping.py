"""The mapping: shared through a fork, cheap while untouched, refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import run_forked

from aigw.memory import CounterRegion, Memory, WorkerState, mapping


def test_children_share_it() -> None:
    memory = Memory.create(2)

    def work(index: int) -> bytes:
        memory.workers[index].pid = os.getpid()
        memory.workers[index].state = WorkerState.SERVING
        return b"%d" % os.getpid()

    pids = [int(told) for told in run_forked(4, work)]
    assert [row.pid for row in memory.workers] == [*pids, 0, 0]
    assert memory.workers[3].state == WorkerState.SERVING


def test_works_without_the_flag_that_macos_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "MAP_NORESERVE", 0)
    memory = Memory.create(2)
    memory.words[-1] = 5
    assert memory.floats[-1] > 0
    assert memory.bytes[-8:].tobytes().strip(b"\0") == b"\5"


def test_used_only_grows() -> None:
    memory = Memory.create(2)
    assert memory.used == 0
    memory.used = 3
    memory.used = 1
    assert memory.used == 3


def test_reaping_frees_the_index_and_keeps_what_counts_for_ever() -> None:
    memory = Memory.create(1)
    region = CounterRegion(memory, 1)
    region.words[region.allot("requests")] = 5
    region.words[region.allot("gauge:connections")] = 3
    memory.workers[1].pid = 12345
    memory.workers[1].state = WorkerState.DRAINING
    memory.reap(1)
    assert memory.workers[1].pid == 0
    assert memory.workers[1].state == WorkerState.FREE
    assert dict(region.items()) == {"requests": [5], "gauge:connections": [0]}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_untouched_pages_cost_nothing() -> None:
    before = resident_kib()
    memories = [Memory.create(8) for _ in range(4)]
    assert resident_kib() - before < 4096
    assert len(memories) == 4


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is not enforced elsewhere")
def test_too_little_address_space_is_one_clear_line() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"
        "from aigw.errors import StartError; from aigw.memory import Memory\n"
        "try: Memory.create(64)\n"
        "except StartError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("cannot map ")
    assert out.stdout.count("\n") == 1
    assert "ulimit -v" in out.stdout
