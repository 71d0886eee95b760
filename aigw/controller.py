"""The controller process: health checks, admin listener and reload.

It may crash and be started again without the data plane noticing: what is in force stands in shared
memory, so a successor takes the present policy from there (never a fresh reading of the file, which
may have changed meanwhile) and goes on.  It keeps no request waiting and knows no client.

A reload has one order, in which nothing is dropped or forgotten: read, check and compile beside the
loop; publish; wait until each worker has acknowledged that it admits nothing under the old policy;
ask the master to replace those who have not; only then give up the rows that the new policy no
longer names.  Until `publish`, any fault leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvloop

from aigw.admin import status
from aigw.admin.listener import Access, AdminListener, Reloaded, refuse_unprotected
from aigw.config import ConfigError
from aigw.errors import StartError, in_one_line
from aigw.memory import CounterRegion, WorkerState
from aigw.memory.policy_area import ACKNOWLEDGE_S
from aigw.observe.metrics import Regions, WorkerMetrics
from aigw.policy import Policy, compile_policy, load_policy, retain_rows
from aigw.upstreams.connector import prepare_tls
from aigw.upstreams.health import HealthChecks, checks_of

if TYPE_CHECKING:
    from aigw.config import Listen, Settings
    from aigw.memory import Memory

LOOK_S = 0.02
# Of [listen], by option and field: bound or forked at the start.
FIXED = (
    ("address", "address"),
    ("admin", "admin"),
    ("workers", "workers"),
    ("backlog", "backlog"),
    ("send_buffer", "send_buffer_bytes"),
    ("receive_buffer", "receive_buffer_bytes"),
)

log = logging.getLogger("aigw")


@dataclass(frozen=True, slots=True)
class ControllerChild:
    """What the controller inherits through the fork.

    `listen` is what the master has bound: a reload can't change its address, admin and workers,
    nor where the workers write their access log.
    `reload` reads the configuration anew and raises `ConfigError`.  `commands` is the read end of
    the master's pipe: lines `reload`, `reopen` and `restarted <reason>` (a worker was replaced: it
    is counted here, since the master has no words of its own), and its end means exit.  `report`
    is the write end of the pipe to the master: lines `reloaded`, `reload-failed`, `stop` and
    `retire <worker>`.
    """

    memory: Memory
    admin: socket.socket | None
    listen: Listen
    commands: int
    report: int
    reload: Callable[[], Settings]


def run_controller(child: ControllerChild) -> int:
    """Control until the master's pipe ends; returns the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Controller(child).run())
    return 0


class Controller:
    """The admin listener's `Control`, and the master's counterpart."""

    def __init__(self, child: ControllerChild) -> None:
        self._child = child
        self._memory = child.memory
        self._policy = load_policy(child.memory.policy.read()[1])
        self._metrics = WorkerMetrics(CounterRegion(child.memory, child.memory.indexes))
        self._regions = Regions(child.memory)
        self._checks = HealthChecks(child.memory.health, random.random)
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[Reloaded]] = set()

    async def run(self) -> None:
        """Check, answer and obey until the pipe ends."""
        # A predecessor may have died between publishing and giving up rows.
        retain_rows(self._memory, self._policy)
        self._checks.update(checks_of(self._policy))
        listener = AdminListener(self)
        try:
            if self._child.admin is not None:
                await listener.start(self._child.admin)
            await self._obey()
        finally:
            for task in self._reloads:
                task.cancel()
            await asyncio.gather(*self._reloads, return_exceptions=True)
            await listener.close()
            await self._checks.close()

    # --- the master's commands -----------------------------------------------------------------

    async def _obey(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._child.commands, "rb", 0)
        )
        try:
            async for line in reader:
                self._command(line.decode().split())
        finally:
            transport.close()

    def _command(self, words: list[str]) -> None:
        match words:
            case ["reload"]:
                task = asyncio.create_task(self.reload())
                self._reloads.add(task)
                task.add_done_callback(self._reloads.discard)
            case ["restarted", reason]:
                self._count("worker_restarts_total", reason)
            case ["reopen"]:
                pass  # meant for those who write access logs
            case _:
                log.error("unknown command from the master: %s", " ".join(words))

    def _report(self, line: str) -> None:
        try:
            os.write(self._child.report, f"{line}\n".encode())
        except OSError as error:  # the master is gone: the end of `commands` tells us next
            log.warning("no report to the master: %s", error)

    def _count(self, name: str, *labels: str) -> None:
        self._metrics.words[self._metrics.counter(name, *labels)] += 1

    # --- what the admin listener asks ----------------------------------------------------------

    def access(self) -> Access:
        """Who may ask, by the policy in force."""
        host = self._policy.admin.rpartition(":")[0].strip("[]")
        return Access(host, self._policy.admin_token_digest)

    def metrics(self) -> bytes:
        """The metrics of all processes."""
        totals = self._regions.totals()
        return status.scrape(self._memory, self._policy, totals, self._checks.state)

    def unready(self) -> str | None:
        """Why no new traffic should come here; None if it should."""
        return status.unready(self._memory)

    def upstreams(self) -> object:
        """All upstreams and their members."""
        totals = self._regions.totals()
        return status.upstreams(self._memory, self._policy, totals, self._checks.state)

    def stop(self) -> None:
        """End aigw as SIGTERM does."""
        log.info("asked to stop")
        self._report("stop")

    async def reload(self) -> Reloaded:
        """Put the file as it is now in force; one reload at a time."""
        async with self._reloading:
            done = await self._reload()
        self._count("reloads_total", "failed" if done.problems else "ok")
        self._report("reload-failed" if done.problems else "reloaded")
        return done

    # --- reload --------------------------------------------------------------------------------

    async def _reload(self) -> Reloaded:
        try:
            blob, policy = await asyncio.to_thread(self._made_anew)
            version = self._memory.policy.publish(blob)
        except (StartError, OSError) as fault:
            problems = _problems(fault)
        except Exception as fault:  # noqa: BLE001 - the edge of a task
            log.error("the reload failed: %s", in_one_line(fault))
            problems = ("internal error; the log says more",)
        else:
            return await self._put_in_force(version, policy)
        for problem in problems:
            log.error("nothing reloaded: %s", problem)
        await asyncio.to_thread(retain_rows, self._memory, self._policy)
        return Reloaded(self._memory.policy.version, problems)

    def _made_anew(self) -> tuple[bytes, Policy]:
        """Read, check and compile; a second's work at 10,000 keys, hence in a thread."""
        if self._memory.control.draining:
            raise StartError("aigw is draining")
        settings = self._child.reload()
        _refuse_what_is_fixed(self._child.listen, self._policy.access_log, settings)
        refuse_unprotected(self._child.admin, settings.listen.admin_token)
        blob = compile_policy(settings, self._memory, time.monotonic())
        policy = load_policy(blob)
        prepare_tls(policy.upstreams)
        return blob, policy

    async def _put_in_force(self, version: int, policy: Policy) -> Reloaded:
        self._policy = policy
        log.setLevel(policy.log_level.upper())
        self._checks.update(checks_of(policy))
        asked = self._living()
        late = await self._wait_for(version, asked)
        for index in late:
            log.warning("worker %d has not taken policy %d: it is replaced", index, version)
            self._report(f"retire {index}")
        await asyncio.to_thread(retain_rows, self._memory, policy)
        log.info(
            "policy %d in force: %d keys, %d routes, %d upstreams",
            *(version, len(policy.keys), len(policy.routes), len(policy.upstreams)),
        )
        acknowledged = tuple(index for index in asked if index not in late)
        return Reloaded(version, (), acknowledged, late)

    def _living(self) -> dict[int, int]:
        """The lives of the workers, by index, that may admit requests under an older policy."""
        return {
            index: self._memory.workers[index].life
            for index in range(self._memory.used)
            if self._memory.workers[index].state in (WorkerState.STARTING, WorkerState.SERVING)
        }

    async def _wait_for(self, version: int, asked: dict[int, int]) -> tuple[int, ...]:
        """Who has not acknowledged in time; one that ended or began to drain need not."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ACKNOWLEDGE_S
        while True:
            living = self._living()
            late = tuple(
                index
                for index, life in asked.items()
                if living.get(index) == life and self._memory.workers[index].acked_version < version
            )
            if not late or loop.time() >= until:
                return late
            await asyncio.sleep(LOOK_S)


def _problems(fault: StartError | OSError) -> tuple[str, ...]:
    if isinstance(fault, ConfigError):
        return tuple(map(str, fault.problems))
    return (str(fault),)


def _refuse_what_is_fixed(bound: Listen, access_log: str, wanted: Settings) -> None:
    fixed = [
        (f"listen.{option}", getattr(bound, field), getattr(wanted.listen, field))
        for option, field in FIXED
    ]
    for option, old, new in (*fixed, ("log.access", access_log, wanted.log.access)):
        if old != new:
            raise StartError(
                f"{option}: was {_shown(old)}, is now {_shown(new)}: this needs a restart"
            )


def _shown(value: str | int | tuple[str, ...]) -> str:
    return repr(", ".join(value) if isinstance(value, tuple) else value)
