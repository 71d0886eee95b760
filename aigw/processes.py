"""A forked child as its parent sees it, and how it is forked, told, and found ended.

Not here: what children do, and what the master decides about them.

The one idea: a child holds the read end of one pipe, its parent alone the write end.  Lines in it
are commands, and its end means that the parent is gone.  So that no sibling holds a write end too,
whoever is forked closes everything that the caller names, before anything else: descriptors that
close on exec do not close on fork.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from aigw.errors import in_one_line

log = logging.getLogger("aigw")

# What ended within this time of its start has crashed in a row with the one before.
STEADY_S = 30.0
BACKOFF_FIRST_S, BACKOFF_LIMIT_S = 0.25, 30.0


@dataclass(slots=True, eq=False)
class Process:
    """A forked child: the write end of its command pipe, and when it was forked."""

    pid: int
    commands: int
    started_s: float

    def tell(self, line: str) -> None:
        """Send one command.  A full or broken pipe is a child that hangs or ends: not our wait."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self.commands, f"{line}\n".encode())

    def kill(self) -> None:
        """SIGKILL.  It has not been reaped yet, so the pid is still its own."""
        os.kill(self.pid, signal.SIGKILL)

    def end_commands(self) -> None:
        """Let the child see the end of its commands."""
        os.close(self.commands)
        self.commands = -1

    def ends(self) -> list[int]:
        """Our open ends of its pipes."""
        return [self.commands] if self.commands >= 0 else []

    def close(self) -> None:
        """Close our ends, once it has been reaped."""
        for end in self.ends():
            os.close(end)


@dataclass(slots=True, eq=False)
class ControllerProcess(Process):
    """The controller, and what has been read of its report."""

    report: int
    unread: bytes = b""

    def ends(self) -> list[int]:
        """Our open ends of its pipes."""
        return [*Process.ends(self), self.report]


@dataclass(slots=True, eq=False)
class WorkerProcess(Process):
    """A worker: its memory index, its slot, and how far it has come."""

    index: int
    slot: int
    served: bool = False
    retired: bool = False
    stuck: bool = False
    kill_at_s: float = math.inf


@dataclass(slots=True)
class Restarts:
    """When something that ends again and again may be started again."""

    failures: int = 0
    start_at_s: float = 0.0

    def ended(self, lived_s: float, now_s: float) -> None:
        """At once the first time, then after a time that doubles; a long life ends the row."""
        self.failures = 1 if lived_s >= STEADY_S else self.failures + 1
        wait_s = 0.0
        if self.failures > 1:
            doublings = min(self.failures - 2, 16)
            wait_s = min(BACKOFF_FIRST_S * 2.0**doublings, BACKOFF_LIMIT_S)
        self.start_at_s = now_s + wait_s


class SignalPipe:
    """Signals as bytes in a pipe, so that waiting for them and for other pipes is one `poll`."""

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        # Python writes the number only of signals that have a handler.
        self._before = {one: signal.signal(one, lambda *_: None) for one in signals}
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)

    def read(self) -> bytes:
        """The numbers of the signals that came since the last call, in order."""
        try:
            return os.read(self.reader, 4096)
        except BlockingIOError:
            return b""

    def ends(self) -> list[int]:
        """Both ends of the pipe."""
        return [self.reader, self.writer]

    def close(self) -> None:
        """Give the signals back."""
        signal.set_wakeup_fd(-1)
        for one, handler in self._before.items():
            signal.signal(one, handler)
        for end in self.ends():
            os.close(end)


def fork(
    life: Callable[[int], int], foreign: Iterable[int], signals: Sequence[signal.Signals]
) -> tuple[int, int]:
    """Fork a child that lives `life(read end of its commands)`; returns its pid and the write end.

    The child closes `foreign`, ignores `signals` (but SIGCHLD, which it gets back) and ends with
    the status that `life` returns, or 1 and one log line where that raised.  Raises OSError.
    """
    commands, writer = os.pipe()
    os.set_blocking(writer, False)
    # A signal between fork and reset would be written by the child into the parent's pipe.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        pid = os.fork()
        if pid == 0:
            _live(life, commands, [*foreign, writer], signals, mask)
    except OSError:
        os.close(writer)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(commands)
    return pid, writer


def _live(
    life: Callable[[int], int],
    commands: int,
    foreign: Iterable[int],
    signals: Sequence[signal.Signals],
    mask: set[signal.Signals | int],
) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for one in signals:
            signal.signal(one, signal.SIG_DFL if one == signal.SIGCHLD else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for end in foreign:
            os.close(end)
        status = life(commands)
    except BaseException as error:  # noqa: BLE001 - the edge of the process
        log.critical("%s", in_one_line(error))
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        # Not sys.exit(): what the parent has registered for its own end is not ours.
        os._exit(status)


def how_it_ended(status: int) -> str:
    """The status of `waitpid` in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
