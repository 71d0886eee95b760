"""A gateway of stand-ins, as a program: `run_master` with a worker that answers by its name.

Called with a JSON object: `address`, `workers`, `timeouts`, and what else `main` reads.  The
worker answers each line on a connection with `slot index pid` and closes; the controller logs what
it hears, answers `reload`, and reports what the test asks for by two signals.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import uvloop

from aigw import master, processes
from aigw.config import Limits, Listen, Settings, Timeouts
from aigw.controller import ControllerChild
from aigw.errors import StartError
from aigw.memory import WorkerState
from aigw.sockets import Accepting
from aigw.worker import WorkerChild

log = logging.getLogger("aigw")

REPORT_RETIRE, REPORT_STOP = signal.SIGUSR2, signal.SIGWINCH


class Answerer(asyncio.Protocol):
    """Answers a line and closes."""

    def __init__(self, worker: StandInWorker) -> None:
        self.worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.worker.open.add(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.worker.name)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.open.discard(self)
        if not self.worker.open:
            self.worker.emptied.set()


class StandInWorker:
    """Does with the master's lines, the sockets and the memory what a worker must do."""

    def __init__(self, child: WorkerChild) -> None:
        self.child = child
        self.open: set[Answerer] = set()
        self.ending = asyncio.Event()
        self.emptied = asyncio.Event()
        self.leaving = False
        self.name = f"{child.socket_index} {child.index} {os.getpid()}\n".encode()
        self.accepting = Accepting(child.listeners, lambda: Answerer(self))

    async def run(self) -> None:
        child, row = self.child, self.child.memory.workers[self.child.index]
        await self.accepting.adopt(child.socket_index)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(child.commands, "rb", 0)
        )
        obeying = asyncio.create_task(self.obey(reader))
        row.heartbeat_ns, row.state = time.monotonic_ns(), WorkerState.SERVING
        log.info("worker %d serves, index %d", child.socket_index, child.index)
        while not self.ending.is_set():
            row.heartbeat_ns = time.monotonic_ns()
            await asyncio.wait([asyncio.create_task(self.ending.wait())], timeout=0.05)
        row.state = WorkerState.DRAINING
        if self.leaving:
            self.accepting.leave()
        else:
            await self.accepting.drain()
        while self.open:
            self.emptied.clear()
            await self.emptied.wait()
        obeying.cancel()
        log.info("worker %d is done", child.socket_index)

    async def obey(self, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            log.info("worker %d hears %s", self.child.socket_index, line.decode().strip())
            match line.split():
                case [b"adopt", slot]:
                    await self.accepting.adopt(int(slot))
                case [b"release", slot]:
                    self.accepting.release(int(slot))
                case [b"leave"]:
                    self.leaving = True
                    self.ending.set()
                case [b"drain"]:
                    self.ending.set()
        self.ending.set()


def stand_in_worker(child: WorkerChild) -> int:
    async def run() -> None:
        await StandInWorker(child).run()

    uvloop.run(run())
    return 0


def broken_worker(child: WorkerChild) -> int:
    raise RuntimeError("cannot\nserve")


def stand_in_controller(child: ControllerChild) -> int:
    for signum, line in ((REPORT_RETIRE, b"retire 0\n"), (REPORT_STOP, b"stop\n")):
        signal.signal(signum, lambda *_, line=line: os.write(child.report, line))
    log.info("controller begins")
    with os.fdopen(child.commands) as commands:
        for line in commands:
            log.info("controller hears %s", line.strip())
            if line == "reload\n":
                os.write(child.report, b"reloaded\n")
    log.info("controller is done")
    return 0


def main(scenario: dict[str, Any]) -> int:
    for name, value in scenario.get("constants", {}).items():
        holder = master if hasattr(master, name) else processes
        setattr(holder, name, value)
    worker: Callable[[WorkerChild], int] = stand_in_worker
    if scenario.get("broken"):
        worker = broken_worker
    settings = Settings(
        listen=Listen(
            address=tuple(scenario.get("address", ["127.0.0.1:0"])),
            admin=scenario.get("admin", ""),
            workers=scenario.get("workers", 2),
        ),
        timeouts=Timeouts(**scenario.get("timeouts", {})),
        limits=Limits(**scenario.get("limits", {})),
    )
    try:
        return master.run_master(
            settings, lambda: settings, worker=worker, controller=stand_in_controller
        )
    except StartError as error:
        print(f"aigw: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
