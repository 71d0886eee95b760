"""CPU time of a process tree: children count, also when they have ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from bench.cpu import cpu_time, main, memory, stat_fields, tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

BURN = """
import os, sys, time
def burn(seconds):
    while sum(os.times()[:2]) < seconds: pass
before = sum(os.times()[:2])
if os.fork() == 0:
    burn(0.2); os._exit(0)          # its time must count after its end
os.wait()
if os.fork() == 0:
    burn(0.3); print("burnt", flush=True); sys.stdin.read(); os._exit(0)
burn(before + 0.1)
os.wait()
"""


def test_living_and_ended_children_count() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        while True:  # its own 0.1 s may not be over
            used = cpu_time(process.pid)
            if used.total_s >= 0.57:
                break
            assert process.poll() is None
            time.sleep(0.01)
        assert used.total_s < 1.2
        assert len(tree(process.pid)) == 2
        held = memory(process.pid)
        assert 2**20 < held.pss_bytes < held.rss_bytes
        process.stdin.close()


def test_own_time_agrees_with_the_kernel() -> None:
    before, times = cpu_time(os.getpid()), os.times()
    end_s = time.process_time() + 0.2
    while time.process_time() < end_s:
        pass
    used = cpu_time(os.getpid()).since(before).total_s
    now = os.times()
    expected = now.user + now.system - times.user - times.system
    assert used == pytest.approx(expected, abs=0.05)
    assert used >= 0.15


def test_a_process_that_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert stat_fields(process.pid) is None
    assert cpu_time(process.pid).total_s == 0


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(os.getpid()), "--seconds", "0.01"]) == 0
    assert "PSS" in capsys.readouterr().out
