"""One worker process: an event loop that does nothing but proxy.

It follows the policy that the controller publishes, tells the others that it is alive, obeys the
master's pipe, and ends by draining: nobody who was let in is turned away.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvloop

from aigw.errors import Code
from aigw.memory import BucketTable, CounterRegion, HeldTable, WorkerState
from aigw.observe.access_log import AccessLog
from aigw.observe.metrics import WorkerMetrics
from aigw.policy import load_policy
from aigw.policy.limits import Limits
from aigw.proxy import accounting
from aigw.proxy.client import ClientConnection
from aigw.proxy.deadlines import Sweeper
from aigw.proxy.refusal import Refusal
from aigw.proxy.services import Services
from aigw.sharing import Inboxes, Sharing
from aigw.sockets import Accepting, Places, own_files, places

if TYPE_CHECKING:
    from aigw.memory import Memory

logger = logging.getLogger("aigw")

# A client with an idle connection may be about to send on it: while draining, such connections are
# answered with `Connection: close` for so long before they are closed.
IDLE_GRACE_S = 1.0
DRAIN_LOOK_S = 0.02
# What serving makes is freed by reference counts; the collector is for the few cycles of slow paths
# (tasks, exceptions).  At 700 new objects, its default, it would run with every hundred new
# connections; looking through 20,000 takes 0.4 ms (measured 2026-11-23).
GC_THRESHOLDS = (20_000, 20, 20)
# The gauge `upstream_state`.
MEMBER_HEALTHY, MEMBER_OUT = 0, 2


@dataclass(frozen=True, slots=True)
class WorkerChild:
    """What a worker inherits through the fork.

    `listeners` holds, by socket index, the listening sockets of each slot; the worker accepts on
    `listeners[socket_index]` and adopts others when told to.  `commands` is the read end of the
    master's pipe: lines, and its end means drain.  Through `inboxes` siblings share connections.
    """

    memory: Memory
    index: int
    socket_index: int
    listeners: list[list[socket.socket]]
    commands: int
    inboxes: Inboxes


def run_worker(child: WorkerChild) -> int:
    """Serve until told to drain; returns the exit status."""
    uvloop.run(Worker(child).serve())
    return 0


class Worker:
    """The composition of one worker."""

    def __init__(self, child: WorkerChild):
        self.child = child
        self.memory = child.memory
        self.row = child.memory.workers[child.index]
        self.metrics = WorkerMetrics(CounterRegion(child.memory, child.index))
        self._line = b""
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        version, blob = self.memory.policy.read()
        policy = load_policy(blob)
        limits = Limits(
            BucketTable(self.memory, self.child.index), HeldTable(self.memory, self.child.index)
        )
        self.log = AccessLog(policy.access_log, self._count_dropped)
        self.log.start(asyncio.get_running_loop())
        self.services = services = Services(
            self.memory, self.child.index, limits, self.metrics, self.log
        )
        services.places = self._places()
        services.use_policy(version, policy)
        self.row.acked_version = version
        slot = self.child.socket_index
        sharing = Sharing(self.child.inboxes, slot, lambda: len(services.connections))
        self.accepting = Accepting(
            self.child.listeners, lambda: ClientConnection(services), sharing
        )
        services.tell_siblings = self.accepting.tell_siblings
        self.sweeper = Sweeper(services, self._chores)
        self.stop = asyncio.Event()
        await self.accepting.adopt(slot)
        os.set_blocking(self.child.commands, False)
        services.loop.add_reader(self.child.commands, self._read_commands)
        self._chores(time.monotonic())
        self.sweeper.start()
        gc.freeze()  # what exists now stays
        gc.set_threshold(*GC_THRESHOLDS)
        self.row.state = WorkerState.SERVING
        await self.stop.wait()
        await self._drain()

    def _places(self) -> Places:
        """How many connections the open files allow."""
        listeners = self.child.listeners
        soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return places(soft_limit, own_files(len(listeners), len(listeners[0])))

    # ---- the master's pipe ---------------------------------------------------------------------

    def _read_commands(self) -> None:
        try:
            data = os.read(self.child.commands, 4096)
        except BlockingIOError:
            return
        if not data:
            self.services.loop.remove_reader(self.child.commands)
            self.stop.set()
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._obey(line.decode())

    def _obey(self, line: str) -> None:
        word, _, argument = line.partition(" ")
        if word == "drain":
            self.stop.set()
        elif word == "leave":
            self.services.retire()
            self.stop.set()
        elif word == "reopen":
            self.log.reopen()
        elif word == "adopt":
            task = self.services.loop.create_task(self.accepting.adopt(int(argument)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif word == "release":
            self.accepting.release(int(argument))

    # ---- at every sweep ------------------------------------------------------------------------

    def _chores(self, now_s: float) -> None:
        """Tell the others how it stands here, and follow the policy."""
        row, services = self.row, self.services
        row.heartbeat_ns = time.monotonic_ns()
        services.follow_policy()
        row.acked_version = services.policy_version
        if services.retired and not self.stop.is_set():
            logger.warning("a worker missed a policy and leaves its place to a successor")
            self.stop.set()
        self._set_gauges(now_s)

    def _set_gauges(self, now_s: float) -> None:
        metrics, services = self.metrics, self.services
        words, gauge = metrics.words, metrics.gauge
        words[gauge("connections")] = len(services.connections)
        for group in services.groups():
            name = group.settings.name
            for member in group.members:
                words[gauge("upstream_connections", name, member.label, "idle")] = len(member.idle)
                words[gauge("upstream_connections", name, member.label, "in_use")] = member.inflight
                out = member.out_until_s > now_s or services.is_member_out(member.health_row)
                state = MEMBER_OUT if out else MEMBER_HEALTHY
                words[gauge("upstream_state", name, member.label)] = state

    def _count_dropped(self, lines: int) -> None:
        metrics = self.metrics
        metrics.words[metrics.counter("log_lines_dropped_total")] += lines

    # ---- the end -------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Answer everybody who was let in, then end.

        A retired worker leaves its sockets to its successor; otherwise they are emptied first.
        """
        services, policy = self.services, self.services.policy
        self.row.state = WorkerState.DRAINING
        services.draining = True
        if services.retired:
            self.accepting.leave()
        else:  # the master has waited for `drain_delay`
            await self.accepting.drain()
        started_s = time.monotonic()
        while services.connections:
            elapsed_s = time.monotonic() - started_s
            if elapsed_s >= policy.drain_s:
                self._cut_off()
                break
            if elapsed_s >= IDLE_GRACE_S:
                for client in tuple(services.connections):
                    client.close_if_idle(services.clock_s - IDLE_GRACE_S)
            await asyncio.sleep(DRAIN_LOOK_S)
        self.sweeper.stop()
        for group in services.groups():
            group.retire()
        await self.log.close()

    def _cut_off(self) -> None:
        """The time for draining is over: end visibly what is still running."""
        logger.warning("drain time is over: %d connections cut", len(self.services.connections))
        for client in tuple(self.services.connections):
            client.take_up_held()
            if client.exchange is not None:
                if client.exchange.attempts:
                    accounting.attempt_abandoned(client.exchange, "shutting_down")
                client.exchange.fail(Refusal(Code.SHUTTING_DOWN, "The gateway shuts down.", 1.0))
            client.abort()
