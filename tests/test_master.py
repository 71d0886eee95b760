"""The master with real forks, sockets and signals; the children are stand-ins (`stand_in.py`).

A program's standard error is its log and a proof: every process of it holds that pipe, so the end
of the pipe means that none is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stand_in import REPORT_RETIRE, REPORT_STOP

STAND_IN = Path(__file__).with_name("stand_in.py")
PATIENCE_S = 20.0
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="one worker, no filter elsewhere")


class Program:
    """A running stand-in gateway, and what it has logged so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr
        self.process = process
        self.pid = process.pid
        self.log = ""
        self._stderr = process.stderr

    def expect(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until the log has so many matches; returns what they are (group 1 if there is)."""
        while len(found := re.findall(pattern, self.log)) < times:
            assert self._read(PATIENCE_S), f"ended without {pattern!r}:\n{self.log}"
        return found

    def has_said(self, pattern: str, times: int) -> bool:
        """Are there so many matches by now?"""
        while select.select([self._stderr], [], [], 0)[0] and self._read(PATIENCE_S):
            pass
        return len(re.findall(pattern, self.log)) >= times

    def ends(self) -> int:
        """Wait until no process is left; returns the exit status of the master."""
        while self._read(PATIENCE_S):
            pass
        return self.process.wait(PATIENCE_S)

    def _read(self, patience_s: float) -> bool:
        """Take what comes next; False at the end."""
        if not select.select([self._stderr], [], [], patience_s)[0]:
            raise AssertionError(f"waited in vain:\n{self.log}")
        read = os.read(self._stderr.fileno(), 65536)
        self.log += read.decode()
        return bool(read)

    def address(self) -> tuple[str, int]:
        """Where its first address listens."""
        host, port = self.expect(r"listening on ([\d.]+:\d+)")[0].split(":")
        return host, int(port)

    def worker(self, slot: int) -> int:
        """The pid of the worker that began last on a slot."""
        return int(self.expect(rf"\[(\d+)\] worker {slot} serves")[-1])

    def signal(self, signum: signal.Signals | int) -> None:
        os.kill(self.pid, signum)

    def kill_worker(self, slot: int) -> None:
        """kill -9, and wait for its successor or the note that it is gone."""
        gone = len(re.findall(r"killed by SIGKILL", self.log))
        os.kill(self.worker(slot), signal.SIGKILL)
        self.expect("killed by SIGKILL", gone + 1)

    def connect(self) -> socket.socket:
        """A client that waits: it has not sent its line yet."""
        return socket.create_connection(self.address(), PATIENCE_S)


@contextmanager
def program(
    *, environ: dict[str, str] | None = None, wait: bool = True, **scenario: Any
) -> Iterator[Program]:
    with subprocess.Popen(
        [sys.executable, str(STAND_IN), json.dumps(scenario)],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(STAND_IN.parent.parent)} | (environ or {}),
        start_new_session=True,
    ) as process:
        running = Program(process)
        try:
            if wait:
                running.expect("INFO .* ready\n")
            yield running
        finally:
            # Its own session: whatever a failed test has left of it.
            if process.poll() is None or _is_held(running):
                os.killpg(process.pid, signal.SIGKILL)


def _is_held(running: Program) -> bool:
    """Does some process of the program still live?"""
    stderr = running.process.stderr
    assert stderr
    return not (select.select([stderr], [], [], 0)[0] and os.read(stderr.fileno(), 1 << 20) == b"")


def ask(client: socket.socket) -> tuple[int, int, int]:
    """Send the line; returns slot, memory index and pid of who answers."""
    with client:
        client.sendall(b"who\n")
        slot, index, pid = map(int, client.recv(100, socket.MSG_WAITALL).split())
        return slot, index, pid


def ask_all(running: Program, clients: int = 40) -> set[int]:
    """So many clients at once, all answered; returns the slots that did."""
    waiting = [running.connect() for _ in range(clients)]
    return {ask(client)[0] for client in waiting}


# ---------------------------------------------------------------- start and end


def test_it_starts_serves_and_ends() -> None:
    with program() as running:
        assert ask_all(running) == {0, 1}
        running.signal(signal.SIGTERM)
        assert running.ends() == 0
    assert running.log.count("is done") == 3, "two workers and the controller ended by themselves"
    assert running.log.index("controller is done") > running.log.rindex("worker")
    assert running.log.endswith(" stopped\n")
    with pytest.raises(ConnectionRefusedError):
        running.connect()


@pytest.mark.parametrize("how", [signal.SIGINT, REPORT_STOP])
def test_other_ways_to_stop(how: int) -> None:
    with program() as running:
        if how == REPORT_STOP:
            os.kill(int(running.expect(r"\[(\d+)\] controller begins")[0]), how)
        else:
            os.killpg(running.pid, how)  # as a terminal does: the children must not mind
        assert running.ends() == 0


def test_a_second_start_on_the_port_is_refused() -> None:
    with program() as first:
        host, port = first.address()
        with program(address=[f"{host}:{port}"], wait=False) as second:
            assert second.ends() == 1
        assert second.log == (
            f"aigw: cannot listen on {host}:{port}: already in use,"
            " by another aigw or another program\n"
        )
        assert ask_all(first) == {0, 1}


def test_a_unix_socket_is_shared_and_removed(tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with program(address=[f"unix:{path}", "127.0.0.1:0"]) as running:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert ask(client)[0] in (0, 1)
        running.signal(signal.SIGTERM)
        assert running.ends() == 0
    assert list(tmp_path.iterdir()) == []


def test_what_runs_may_end_and_a_second_signal_does_not_wait() -> None:
    with program() as running, running.connect(), running.connect() as second:
        running.signal(signal.SIGTERM)
        running.expect("hears drain", 2)
        assert ask(second)
        running.signal(signal.SIGTERM)
        assert running.ends() == 1
    assert "ending at once" in running.log


def test_who_does_not_end_in_time_is_killed() -> None:
    scenario = {"timeouts": {"drain_s": 0.2}, "constants": {"DRAIN_MARGIN_S": 0.1}}
    with program(**scenario) as running, running.connect():
        running.signal(signal.SIGTERM)
        assert running.ends() == 0
    assert "did not end: killed" in running.log


def test_draining_begins_after_a_while() -> None:
    with program(timeouts={"drain_delay_s": 0.1}) as running:
        running.signal(signal.SIGTERM)
        running.expect("hears drain")
        assert running.ends() == 0


def test_before_draining_all_is_served() -> None:
    with program(timeouts={"drain_delay_s": 60.0}) as running:
        running.signal(signal.SIGTERM)
        running.expect("stopping")
        assert ask_all(running) == {0, 1}
        running.kill_worker(0)
        running.expect("worker 0 serves", 2)
        assert ask_all(running) == {0, 1}
        running.signal(signal.SIGTERM)
        assert running.ends() == 1
        assert "hears drain" not in running.log


async def _load(address: tuple[str, int], counts: dict[str, int], ending: asyncio.Event) -> None:
    """One client after the other, until the port is closed."""
    while True:
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), PATIENCE_S)
        except ConnectionRefusedError:
            assert ending.is_set()
            return
        try:
            writer.write(b"who\n")
            counts["answered" if await reader.read() else "cut"] += 1
        except ConnectionResetError:
            counts["reset"] += 1
        finally:
            writer.close()


@linux_only
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_resets_nobody(workers: int) -> None:
    counts = {"answered": 0, "cut": 0, "reset": 0}

    async def conversation(running: Program) -> None:
        ending = asyncio.Event()
        clients = [asyncio.create_task(_load(running.address(), counts, ending)) for _ in range(50)]
        while counts["answered"] < 500:
            await asyncio.sleep(0.01)
        ending.set()
        running.signal(signal.SIGTERM)
        await asyncio.gather(*clients)

    with program(workers=workers) as running:
        asyncio.run(conversation(running))
        assert running.ends() == 0
    assert counts["cut"] == counts["reset"] == 0


# ---------------------------------------------------------------- replacing workers


@linux_only
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_loses_nobody_in_its_queue(workers: int) -> None:
    with program(workers=workers) as running:
        os.kill(running.worker(0), signal.SIGSTOP)
        waiting = [running.connect() for _ in range(40)]
        running.kill_worker(0)
        answers = [ask(client) for client in waiting]
        assert {slot for slot, *_ in answers} == set(range(workers))
        running.expect("worker 0 serves", 2)
        assert running.worker(0) in {pid for *_, pid in answers}
        running.expect("controller hears restarted crash")


@linux_only
def test_a_sibling_answers_while_the_successor_has_to_wait() -> None:
    assert any(map(_answers_while_waiting, (0.4, 2.0, 10.0))), "too late each time"


def _answers_while_waiting(backoff_s: float) -> bool:
    """The scenario with so much time to ask; was it enough?"""
    with program(constants={"BACKOFF_FIRST_S": backoff_s}) as running:
        running.kill_worker(0)
        running.expect("worker 0 serves", 2)
        running.kill_worker(0)
        running.expect("worker 1 hears adopt 0")
        answered = ask_all(running)
        in_time = not running.has_said("worker 0 serves", 3)
        assert answered == {1} or not in_time
        running.expect("worker 1 hears release 0")
        assert len(running.expect("worker 0 serves")) == 3
        assert ask_all(running) == {0, 1}
        return in_time


@linux_only
def test_another_sibling_takes_over_from_one_that_dies_too() -> None:
    with program(
        workers=3, constants={"BACKOFF_FIRST_S": 60.0, "BACKOFF_LIMIT_S": 60.0}
    ) as running:
        running.kill_worker(0)
        running.expect("worker 0 serves", 2)
        running.kill_worker(0)
        adopter = int(running.expect(r"worker (\d) hears adopt 0")[0])
        running.kill_worker(adopter)
        running.expect("hears adopt 0", 2)
        running.expect(f"worker {adopter} serves", 2)
        assert ask_all(running) == {1, 2}


@linux_only
def test_a_hanging_worker_is_replaced() -> None:
    with program(constants={"HEARTBEAT_LIMIT_S": 0.5}) as running:
        os.kill(running.worker(0), signal.SIGSTOP)
        waiting = [running.connect() for _ in range(40)]
        assert {ask(client)[0] for client in waiting} == {0, 1}
        running.expect("hangs for")
        running.expect("controller hears restarted stuck")


@linux_only
def test_a_standstill_of_all_is_no_reason_to_kill() -> None:
    constants = {"HEARTBEAT_LIMIT_S": 0.6, "STANDSTILL_S": 0.2}
    with program(constants=constants) as running:
        os.killpg(running.pid, signal.SIGSTOP)
        # Longer than a heartbeat may be stale: what is waited for is the passing of time.
        time.sleep(0.9)
        os.killpg(running.pid, signal.SIGCONT)
        running.expect("stood still")
        running.signal(signal.SIGTERM)
        assert running.ends() == 0
    assert "hangs" not in running.log


@linux_only
def test_a_retired_worker_ends_what_it_has_beside_its_successor() -> None:
    with program() as running:
        with running.connect() as first, running.connect() as second:
            # Whichever of two connections slot 0 has, or none: both must be answered.
            controller = int(running.expect(r"\[(\d+)\] controller begins")[0])
            os.kill(controller, REPORT_RETIRE)
            running.expect("worker 0 hears leave")
            running.expect("worker 0 serves", 2)
            running.expect("controller hears restarted retired")
            assert ask_all(running) == {0, 1}, "the socket is not filtered"
            assert ask(first)
            assert ask(second)
        running.expect("worker 0 .* has left: exit status 0")
        assert "controller hears restarted crash" not in running.log


@linux_only
def test_a_retired_worker_that_does_not_end_is_killed() -> None:
    constants = {"DRAIN_MARGIN_S": 0.2}
    with program(workers=1, timeouts={"drain_s": 0.0}, constants=constants) as running:
        controller = int(running.expect(r"\[(\d+)\] controller begins")[0])
        os.kill(running.worker(0), signal.SIGSTOP)
        os.kill(controller, REPORT_RETIRE)
        running.expect("worker 0 .* did not end in time: killed")
        running.expect("has left: killed by SIGKILL")
        assert ask_all(running) == {0}


def test_workers_that_never_start_end_the_start() -> None:
    with program(broken=True, wait=False, constants={"BACKOFF_FIRST_S": 0.01}) as running:
        assert running.ends() == 1
    # Each in one line, as `.` matches no line break.
    assert re.search(r"CRITICAL .* RuntimeError \(.*stand_in.py:\d+", running.log)
    assert re.search(r"CRITICAL .* ends whenever it is started \(exit status 1\)", running.log)
    assert "Traceback" not in running.log


# ---------------------------------------------------------------- the controller


def test_a_killed_controller_is_started_again() -> None:
    with program() as running:
        os.kill(int(running.expect(r"\[(\d+)\] controller begins")[0]), signal.SIGKILL)
        running.expect("controller begins", 2)
        running.signal(signal.SIGHUP)
        running.expect("controller hears reload")
        running.signal(signal.SIGTERM)
        assert running.ends() == 0
    assert running.log.count(" serves") == 2, "no worker noticed"


def test_signals_for_logs_and_configuration() -> None:
    with program() as running:
        running.signal(signal.SIGUSR1)
        running.expect("worker . hears reopen", 2)
        assert "reload" not in running.log
        running.signal(signal.SIGHUP)
        running.expect("worker . hears reopen", 4)
        running.expect("controller hears reload")


# ---------------------------------------------------------------- the master's own end


@linux_only
def test_a_killed_master_lets_all_drain() -> None:
    with program() as running:
        running.kill_worker(0)  # a later child must not hold an elder's pipe, nor the other way
        running.expect("worker 0 serves", 2)
        os.kill(int(running.expect(r"\[(\d+)\] controller begins")[0]), signal.SIGKILL)
        running.expect("controller begins", 2)
        clients = [running.connect() for _ in range(10)]
        os.kill(running.pid, signal.SIGKILL)
        assert {ask(client)[0] for client in clients} <= {0, 1}
        assert running.ends() == -signal.SIGKILL
    assert running.log.count("is done") == 3


# ---------------------------------------------------------------- systemd


class Supervisor:
    """systemd's end: a listening socket to pass, and the socket for notifications."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.notified = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.notified.settimeout(PATIENCE_S)
        self.path = f"{directory}/notify"
        self.notified.bind(self.path)

    def notification(self) -> dict[str, str]:
        lines = self.notified.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)


def test_notifications(tmp_path: Path) -> None:
    with ExitStack() as stack:
        supervisor = Supervisor(stack, tmp_path)
        environ = {"NOTIFY_SOCKET": supervisor.path}
        running = stack.enter_context(program(environ=environ))
        assert supervisor.notification()["READY"] == "1"
        before_us = time.monotonic_ns() // 1000
        running.signal(signal.SIGHUP)
        reloading = supervisor.notification()
        assert reloading["RELOADING"] == "1"
        assert before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert supervisor.notification()["READY"] == "1"
        running.signal(signal.SIGTERM)
        assert supervisor.notification()["STOPPING"] == "1"
        assert running.ends() == 0


PASS_AT_3 = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@contextmanager
def activated(listener: socket.socket) -> Iterator[Program]:
    """The stand-in gateway with the socket as systemd passes it."""
    fd = os.dup(listener.fileno())
    arguments = [str(fd), str(STAND_IN), json.dumps({"address": ["192.0.2.1:1"]})]
    with subprocess.Popen(
        [sys.executable, "-c", PASS_AT_3, *arguments],
        stderr=subprocess.PIPE,
        pass_fds=[fd],
        env=os.environ | {"PYTHONPATH": str(STAND_IN.parent.parent)},
        start_new_session=True,
    ) as process:
        os.close(fd)
        running = Program(process)
        try:
            running.expect("INFO .* ready\n")
            yield running
        finally:
            if process.poll() is None or _is_held(running):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_socket_of_systemd_outlives_the_gateway() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        for _ in range(2):
            early = socket.create_connection(listener.getsockname(), PATIENCE_S)
            with activated(listener) as running:
                assert ask(early)
                assert ask_all(running) <= {0, 1}
                running.signal(signal.SIGTERM)
                assert running.ends() == 0
