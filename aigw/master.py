"""The master: forks the children, watches them, and ends them in order.

Not here: what is opened before the first fork (opening), traffic, event loops, threads.  The master
reads no byte of a client and nothing that a client can influence, so that it stays when everything
else falls.

The one idea: after the fork it is a plain loop.  Whatever wakes it (a signal, a report of the
controller, a clock tick) changes a little state, and then `_tend` compares what is with what should
be: each slot has a worker that serves, or waits for its next start while a sibling accepts on its
sockets.  Nothing is remembered about how a state came about, so no order of events is special.

| what happens            | what the master does                                                   |
|-------------------------|------------------------------------------------------------------------|
| SIGTERM, SIGINT, `stop` | readiness off, `drain_delay`, drain the workers, end the controller    |
| the same again          | kill all, exit 1                                                       |
| SIGHUP                  | `reopen` to all, `reload` to the controller                            |
| SIGUSR1                 | `reopen` to all                                                        |
| a worker ends           | reap, free its index, start a successor: at once, then ever later      |
| its heartbeat is stale  | kill it; the rest as above                                             |
| `retire N` is reported  | N leaves its sockets to a successor and ends, or is killed             |
| the controller ends     | start another                                                          |
| it is killed itself     | the children see the end of their pipes and drain                      |
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain
from typing import TYPE_CHECKING

from aigw.controller import ControllerChild, run_controller
from aigw.host import Notifier
from aigw.memory import WorkerState
from aigw.opening import Common, open_common
from aigw.policy import Policy, load_policy
from aigw.processes import (
    ControllerProcess,
    Restarts,
    SignalPipe,
    WorkerProcess,
    fork,
    how_it_ended,
)
from aigw.sockets import close_listeners, drop_new_connections
from aigw.worker import WorkerChild, run_worker

if TYPE_CHECKING:
    from aigw.config import Settings

log = logging.getLogger("aigw")

# A worker tells four times a second that it lives; gunicorn and uvicorn wait 30 s and 5 s.
HEARTBEAT_LIMIT_S = 5.0
# Until its first heartbeat: loading a policy of 10,000 keys takes 20 ms, on a busy machine more.
START_LIMIT_S = 30.0
# A worker that never served and died so early and so often will not serve at all.
HOPELESS_S, HOPELESS_DEATHS = 1.0, 5
# Beyond the time for draining: emptying the accept queues, closing the logs.
DRAIN_MARGIN_S = 2.0
CONTROLLER_END_S = 5.0
# How often the loop looks by itself: when it waits for a child's word, and otherwise.
LOOK_SOON_S, LOOK_S = 0.02, 0.5
# More than this late, the machine or all of aigw stood still: then no heartbeat says anything.
STANDSTILL_S = 2.0

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


def run_master(
    settings: Settings,
    reload: Callable[[], Settings],
    *,
    worker: Callable[[WorkerChild], int] = run_worker,
    controller: Callable[[ControllerChild], int] = run_controller,
) -> int:
    """Serve until told to stop; returns the exit status.

    `reload` reads the settings anew; the controller calls it.  Raises StartError for whatever keeps
    aigw from starting: nothing is forked then, and nothing left behind.
    """
    common = open_common(settings, reload)
    try:
        return Master(common, Notifier(os.environ), worker, controller).run()
    finally:
        common.close()


# ---------------------------------------------------------------- the loop


@dataclass(slots=True)
class Slot:
    """A place for one worker: who serves it, who stands in, and why the next one is started."""

    number: int
    worker: WorkerProcess | None = None
    adopter: WorkerProcess | None = None
    restarts: Restarts = field(default_factory=Restarts)
    restart_reason: str = ""
    ever_served: bool = False


class Phase(IntEnum):
    """How far the end has come."""

    SERVING = 1
    UNREADY = 2  # readiness says no, but all is served: until drain_delay is over
    DRAINING = 3  # workers finish what they have
    ENDING = 4  # the controller finishes what it has


class Hopeless(Exception):  # noqa: N818
    """The workers cannot start."""


class Master:
    """The loop and what it watches."""

    def __init__(
        self,
        common: Common,
        notifier: Notifier,
        run_worker: Callable[[WorkerChild], int],
        run_controller: Callable[[ControllerChild], int],
    ) -> None:
        self._common = common
        self._memory = common.memory
        self._notifier = notifier
        self._run_worker = run_worker
        self._run_controller = run_controller
        self._slots = [Slot(number) for number in range(len(common.listeners))]
        self._workers: dict[int, WorkerProcess] = {}  # by pid
        self._controller: ControllerProcess | None = None
        self._controller_restarts = Restarts()
        # What the controller has to hear, also when there is none at the moment.
        self._for_controller: deque[str] = deque(maxlen=1000)
        self._phase = Phase.SERVING
        self._phase_ends_s = math.inf
        self._ready = False
        self._killed = False
        # The time is read once a round, after the sleep, and a sleep too long is noticed there: so
        # nothing is judged by a time that a standstill has passed unseen.
        self._now_s = self._awake_since_s = time.monotonic()
        self._signals = SignalPipe(SIGNALS)

    def run(self) -> int:
        """Start all, watch, end all; returns the exit status."""
        gc.collect()
        try:
            while not self._ended():
                self._tend()
                for signum in self._wait():
                    self._on_signal(signum)
                self._read_reports()
                self._reap()
        except Hopeless as hopeless:
            log.critical("%s", hopeless)
            self._kill_all()
            return 1
        finally:
            self._signals.close()
        if self._killed:
            return 1
        log.info("stopped")
        return 0

    # ---- waiting

    def _wait(self) -> bytes:
        """Sleep until something happens or it is time to look; returns the signals."""
        look_s = LOOK_SOON_S if self._is_awaiting() else LOOK_S
        poll = select.poll()
        poll.register(self._signals.reader, select.POLLIN)
        if self._controller:
            poll.register(self._controller.report, select.POLLIN)
        poll.poll(look_s * 1000)
        before_s, self._now_s = self._now_s, time.monotonic()
        if self._now_s - before_s > look_s + STANDSTILL_S:
            log.warning("everything stood still for %.1f s", self._now_s - before_s)
            self._awake_since_s = self._now_s
        return self._signals.read()

    def _is_awaiting(self) -> bool:
        """Is a child about to change its state, which it tells by a word in memory only?"""
        return self._phase is not Phase.SERVING or any(
            slot.worker is None or not slot.worker.served or slot.adopter for slot in self._slots
        )

    def _on_signal(self, signum: int) -> None:
        if signum in STOP_SIGNALS:
            if self._phase is Phase.SERVING:
                self._stop()
            else:
                log.warning("second signal: ending at once")
                self._kill_all()
        elif signum == signal.SIGHUP and self._phase is Phase.SERVING:
            self._notifier.reloading()
            self._tell_all("reopen")
            self._tell_controller("reload")
        elif signum in (signal.SIGHUP, signal.SIGUSR1):
            self._tell_all("reopen")

    def _tell_all(self, line: str) -> None:
        for worker in self._workers.values():
            worker.tell(line)
        if self._controller:
            self._controller.tell(line)

    def _tell_controller(self, line: str) -> None:
        self._for_controller.append(line)
        while self._controller and self._for_controller:
            self._controller.tell(self._for_controller.popleft())

    # ---- the controller's reports

    def _read_reports(self) -> None:
        controller = self._controller
        if not controller:
            return
        with contextlib.suppress(BlockingIOError):
            controller.unread += os.read(controller.report, 65536)
        *lines, controller.unread = controller.unread.split(b"\n")
        for line in lines:
            self._on_report(line.decode(errors="replace"))

    def _on_report(self, line: str) -> None:
        match line.split():
            case ["stop"]:
                if self._phase is Phase.SERVING:
                    self._stop()
            case ["reloaded"]:
                log.setLevel(self._policy().log_level.upper())
                self._notifier.ready("reloaded")
            case ["reload-failed"]:
                self._notifier.ready("the reload failed, the old configuration is in force")
            case ["retire", index] if index.isdecimal():
                for worker in self._workers.values():
                    if worker.index == int(index):
                        self._retire(worker)
            case _:
                log.error("the controller reported what nobody knows: %r", line)

    def _retire(self, worker: WorkerProcess) -> None:
        """Let it finish what it has while a successor takes its place."""
        slot = self._slots[worker.slot]
        if worker.retired or slot.worker is not worker or self._phase >= Phase.DRAINING:
            return
        log.info("worker %d (pid %d) leaves its place to a successor", worker.slot, worker.pid)
        worker.retired = True
        worker.kill_at_s = self._now_s + self._policy().drain_s + DRAIN_MARGIN_S
        worker.tell("leave")
        slot.worker, slot.restart_reason = None, "retired"
        self._end_standing_in(worker)

    def _end_standing_in(self, worker: WorkerProcess) -> None:
        for slot in self._slots:
            if slot.adopter is worker:
                slot.adopter = None

    def _policy(self) -> Policy:
        return load_policy(self._memory.policy.read()[1])

    # ---- what should be

    def _tend(self) -> None:
        """Bring what is nearer to what should be."""
        for worker in self._workers.values():
            self._watch(worker)
        if self._phase < Phase.DRAINING:
            for slot in self._slots:
                self._fill(slot)
            self._be_ready()
        if self._phase is not Phase.ENDING and not self._controller:
            self._start_controller()
        if self._now_s >= self._phase_ends_s or (
            self._phase is Phase.DRAINING and not self._workers
        ):
            self._next_phase()

    def _watch(self, worker: WorkerProcess) -> None:
        """See how it stands; kill it when it hangs or had its time."""
        row = self._memory.workers[worker.index]
        if row.state == WorkerState.SERVING and not worker.served:
            worker.served = self._slots[worker.slot].ever_served = True
        if row.state == WorkerState.DRAINING:  # no heartbeat is due any more, but an end
            self._retire(worker)
        else:
            limit_s = HEARTBEAT_LIMIT_S if worker.served else START_LIMIT_S
            silent_s = self._now_s - max(row.heartbeat_ns / 1e9, self._awake_since_s)
            if silent_s > limit_s and not worker.stuck:
                log.error(
                    "worker %d (pid %d) hangs for %.1f s: killed", worker.slot, worker.pid, silent_s
                )
                worker.stuck = True
                worker.kill()
        if self._now_s >= worker.kill_at_s:
            log.warning("worker %d (pid %d) did not end in time: killed", worker.slot, worker.pid)
            worker.kill_at_s = math.inf
            worker.kill()

    def _fill(self, slot: Slot) -> None:
        """A worker for the slot, or somebody who stands in until there is one."""
        if slot.worker is None and self._now_s >= slot.restarts.start_at_s:
            slot.worker = self._start_worker(slot.number)
            if slot.worker and slot.restart_reason:
                self._tell_controller(f"restarted {slot.restart_reason}")
                slot.restart_reason = ""
        if slot.worker is None and slot.adopter is None:
            slot.adopter = self._sibling()
            if slot.adopter:
                slot.adopter.tell(f"adopt {slot.number}")
        elif slot.worker and slot.worker.served and slot.adopter:
            slot.adopter.tell(f"release {slot.number}")
            slot.adopter = None

    def _sibling(self) -> WorkerProcess | None:
        """Who may stand in: the serving worker with the fewest other slots."""
        standing_in = [slot.adopter for slot in self._slots]
        serving = [slot.worker for slot in self._slots if slot.worker and slot.worker.served]
        return min(serving, key=standing_in.count, default=None)

    def _be_ready(self) -> None:
        if not self._ready and all(slot.ever_served for slot in self._slots):
            self._ready = True
            log.info("ready")
            self._notifier.ready("serving")

    # ---- starting

    def _start_worker(self, slot: int) -> WorkerProcess | None:
        """Fork a worker on a free memory index; None where there is none or the fork fails."""
        index = self._free_index()
        if index is None:
            return None  # all spares drain; one of them ends in time or is killed
        memory, common = self._memory, self._common
        memory.used = max(memory.used, index + 1)
        row = memory.workers[index]
        row.socket_index, row.life = slot, int.from_bytes(os.urandom(8)) >> 1
        row.heartbeat_ns, row.acked_version = time.monotonic_ns(), 0
        row.state = WorkerState.STARTING

        def life(commands: int) -> int:
            if common.admin:
                common.admin.close()
            return self._run_worker(
                WorkerChild(memory, index, slot, common.listeners, commands, common.inboxes)
            )

        forked = self._fork(life)
        if forked is None:
            memory.reap(index)
            self._slots[slot].restarts.ended(0, self._now_s)
            return None
        worker = WorkerProcess(*forked, self._now_s, index, slot)
        row.pid = worker.pid
        self._workers[worker.pid] = worker
        log.debug("worker %d started (pid %d, index %d)", slot, worker.pid, index)
        return worker

    def _free_index(self) -> int | None:
        taken = {worker.index for worker in self._workers.values()}
        return next((i for i in range(self._memory.indexes) if i not in taken), None)

    def _start_controller(self) -> None:
        if self._now_s < self._controller_restarts.start_at_s:
            return
        common = self._common
        report, told = os.pipe()
        os.set_blocking(report, False)

        def life(commands: int) -> int:
            close_listeners(common.listeners, remove=False)
            common.inboxes.close()
            listen = common.settings.listen
            return self._run_controller(
                ControllerChild(self._memory, common.admin, listen, commands, told, common.reload)
            )

        forked = self._fork(life, report)
        os.close(told)
        if forked is None:
            os.close(report)
            self._controller_restarts.ended(0, self._now_s)
            return
        self._controller = ControllerProcess(*forked, self._now_s, report)
        log.debug("controller started (pid %d)", self._controller.pid)
        for line in tuple(self._for_controller):
            self._controller.tell(line)
        self._for_controller.clear()

    def _fork(self, life: Callable[[int], int], *foreign: int) -> tuple[int, int] | None:
        """A child that keeps no descriptor of the master; None (and a log line) where fork fails.

        A sibling that held the write end of a pipe would hide its end from the reader.
        """
        # What exists now is shared with the child as long as nobody's collector touches it.
        gc.freeze()
        ends = [
            process.ends() for process in (*self._workers.values(), self._controller) if process
        ]
        try:
            return fork(life, [*foreign, *self._signals.ends(), *chain(*ends)], SIGNALS)
        except OSError as error:
            log.error("no process could be forked: %s", error.strerror)
            return None

    # ---- reaping

    def _reap(self) -> None:
        """Take note of every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            how = how_it_ended(status)
            if self._controller and pid == self._controller.pid:
                self._on_controller_end(self._controller, how)
            elif pid in self._workers:  # as process 1 of a container we reap strangers too
                self._on_worker_end(self._workers.pop(pid), how)

    def _on_worker_end(self, worker: WorkerProcess, how: str) -> None:
        worker.close()
        served = worker.served or self._memory.workers[worker.index].state != WorkerState.STARTING
        self._memory.reap(worker.index)
        self._end_standing_in(worker)
        slot = self._slots[worker.slot]
        if slot.worker is not worker:
            log.info("worker %d (pid %d) has left: %s", worker.slot, worker.pid, how)
            return
        slot.worker = None
        if self._phase >= Phase.DRAINING:
            return
        slot.ever_served |= served
        lived_s = self._now_s - worker.started_s
        slot.restarts.ended(lived_s, self._now_s)
        slot.restart_reason = "stuck" if worker.stuck else "crash"
        log.error("worker %d (pid %d) ended: %s", worker.slot, worker.pid, how)
        if (
            lived_s < HOPELESS_S
            and slot.restarts.failures >= HOPELESS_DEATHS
            and not slot.ever_served
        ):
            raise Hopeless(f"worker {slot.number} ends whenever it is started ({how}): giving up")

    def _on_controller_end(self, controller: ControllerProcess, how: str) -> None:
        self._read_reports()
        controller.close()
        self._controller = None
        if self._phase is Phase.ENDING:
            return
        log.error("the controller (pid %d) ended: %s", controller.pid, how)
        self._controller_restarts.ended(self._now_s - controller.started_s, self._now_s)
        self._notifier.reload_lost()

    # ---- the end

    def _stop(self) -> None:
        policy = self._policy()
        log.info("stopping: draining for at most %g s", policy.drain_delay_s + policy.drain_s)
        self._notifier.stopping()
        self._memory.control.draining = 1
        self._phase = Phase.UNREADY
        self._phase_ends_s = self._now_s + policy.drain_delay_s

    def _next_phase(self) -> None:
        if self._phase is Phase.UNREADY:
            self._phase = Phase.DRAINING
            self._phase_ends_s = self._now_s + self._policy().drain_s + DRAIN_MARGIN_S
            self._drain()
        elif self._phase is Phase.DRAINING:
            for worker in self._workers.values():
                log.warning("worker %d (pid %d) did not end: killed", worker.slot, worker.pid)
                worker.kill()
            self._phase_ends_s = math.inf if self._workers else self._end_controller()
        elif self._controller:
            log.warning("the controller (pid %d) did not end: killed", self._controller.pid)
            self._controller.kill()
            self._phase_ends_s = math.inf

    def _drain(self) -> None:
        """Let nobody new in; the workers hold the sockets until they have emptied the queues."""
        for group in self._common.listeners:
            for listener in group:
                if listener.fileno() >= 0:
                    drop_new_connections(listener)
        for worker in self._workers.values():
            worker.tell("drain")
        close_listeners(self._common.listeners)

    def _end_controller(self) -> float:
        """It may still write down what the workers left; returns until when."""
        self._phase = Phase.ENDING
        if self._controller:
            self._controller.end_commands()
        return self._now_s + CONTROLLER_END_S

    def _kill_all(self) -> None:
        for process in (*self._workers.values(), self._controller):
            if process:
                process.kill()
        self._killed = True

    def _ended(self) -> bool:
        return self._killed or (self._phase is Phase.ENDING and not self._controller)
