"""The access log: one JSON line a request, written beside the traffic and never in its way.

Not here: what the fields of a request mean (`proxy`), counting (`metrics`), the operator's log.

The idea: `append` puts a finished line into a list and returns.  A tenth of a second later all
that has come together is written at once; with nothing to write, nothing runs.  Where to decides
how, and neither way can block the loop:

- A **file** may block on its disk, so a thread writes it (aiofiles), one write a batch.  It is
  opened with O_APPEND, so the batches of several workers do not mix.
- A **pipe, terminal or socket** never blocks in non-blocking mode, so the loop itself writes, at
  2 µs a write; 100 ms of 10,000 requests a second are 75 writes, and from a thread each of them
  would wait for the interpreter's lock (up to 5 ms).  Writes are whole lines of together at most
  PIPE_BUF bytes, which POSIX makes atomic: longer ones of two workers would tear each other.

What cannot be written now is kept up to `BUFFER_BYTES`; beyond that new lines are dropped and
counted, with one warning at the first and one line when it is over.  A stalled reader and a full
disk are the same case; both mend by themselves.
"""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import math
import os
import select
import socket
import stat
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from aiofiles.threadpool import wrap

from aigw.errors import StartError
from aigw.observe.access_line import Clock, Times, Told, lines_of

FLUSH_EVERY_S = 0.1
RETRY_EVERY_S = 1.0
"""After a failed write: a full disk is asked again once a second."""
CLOSE_WITHIN_S = 2.0
"""How long the end of the process may wait for a reader that does not read."""
BUFFER_BYTES = 1 << 20
"""Kept per worker while nothing can be written: some seconds of a slow reader's pause."""
EARLY_BYTES = BUFFER_BYTES // 4
"""A buffer that is so full is written before its time: more than 6,000 requests a second."""
BURST_BYTES = 1 << 16
"""Most that is written to a pipe in one turn of the loop (what a pipe holds): about 50 µs."""
STDOUT = 1

_log = logging.getLogger("aigw")


class AccessLog:
    """Where finished lines go.  One per worker, opened after the fork."""

    def __init__(self, destination: str, dropped: Callable[[int], None]) -> None:
        """Open "stdout", a path or "off".  What can't be opened now is tried again at each write.

        `dropped` is told how many lines were just lost.
        """
        self.enabled = destination != "off"
        self._destination = destination
        self._dropped = dropped
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._clock = Clock()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._wake_at: float = 0  # the size of the buffer at which `append` has to see to writing
        self._lost = 0
        self._trouble = ""
        self._reopen = False
        self._closing = False
        self._sink: _Sink | None = None
        if self.enabled:
            self._sink = self._open_or_wait()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write from now on, lines that were appended earlier first."""
        self._loop = loop
        if self._lines:
            self._write_in(FLUSH_EVERY_S)

    def note(self, began_ms: int, times: Times, requests: Iterable[Told]) -> None:
        """Take the lines of requests that began at one Unix time and took the same times."""
        lines = lines_of(self._clock.stamp(began_ms), times, requests)
        size = self._bytes + sum(map(len, lines))
        if size > BUFFER_BYTES or self._sink is None:
            for line in lines:  # as many as there is room for
                self.append(line)
            return
        self._bytes = size
        self._lines += lines
        if size >= self._wake_at:
            self._wake(size)

    def append(self, line: bytes) -> None:
        """Take a line that ends in a newline; 0.1 µs."""
        size = self._bytes + len(line)
        if size > BUFFER_BYTES or self._sink is None:
            if self.enabled:
                self._lose(1)
            return
        self._bytes = size
        self._lines.append(line)
        if size >= self._wake_at:
            self._wake(size)

    def reopen(self) -> None:
        """Close the file and open its path anew, soon: what a rotation asks for.

        Lines that wait go to the new file.  When it cannot be opened the old one stays in use.
        """
        if self._destination != "stdout" and self._sink is not None:
            self._reopen = True
            self._write_in(0)

    async def close(self) -> None:
        """Write what is left, at most for `CLOSE_WITHIN_S`; what remains then is lost, counted."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                if self._writing is not None:
                    await self._writing
                await self._write_out()
        except TimeoutError:
            self._trouble = "it takes no lines"
        self._lose(len(self._lines))
        self._lines.clear()
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def _open_or_wait(self) -> _Sink:
        """A worker that is started again must serve, whatever has become of the log's folder."""
        try:
            return _open(self._destination)
        except StartError as fault:
            _log.warning("%s; trying on", fault)
            return _Unopened(self._destination)

    def _wake(self, size: int) -> None:
        """Write after the usual while, or at once when the buffer fills faster than that."""
        if size >= EARLY_BYTES and not self._trouble:
            self._write_in(0)
            self._wake_at = math.inf
        else:
            if self._timer is None:
                self._write_in(FLUSH_EVERY_S)
            self._wake_at = math.inf if self._trouble else EARLY_BYTES

    def _write_in(self, delay_s: float) -> None:
        """Have the next batch written then; one already being written comes first."""
        if self._loop is None or self._writing is not None or self._closing:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._begin)

    def _begin(self) -> None:
        assert self._loop is not None
        self._timer = None
        self._wake_at = math.inf
        self._writing = self._loop.create_task(self._write_out())
        self._writing.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._writing = None
        self._wake_at = EARLY_BYTES if self._lines else 0
        if not task.cancelled():
            task.result()
        if self._reopen:
            self._write_in(0)
        elif self._lines:
            self._write_in(RETRY_EVERY_S if self._trouble else FLUSH_EVERY_S)

    async def _write_out(self) -> None:
        """Write the lines that are there now; those that came meanwhile are the next batch."""
        if self._reopen:
            await self._open_anew()
        left = len(self._lines)
        try:
            while left and self._sink is not None:
                written = await self._sink.write(self._lines[:left])
                left -= written
                self._bytes -= sum(map(len, self._lines[:written]))
                del self._lines[:written]
        except OSError as fault:
            if not self._trouble:
                _log.warning("access log, %s: %s; trying on", self._destination, fault.strerror)
            self._trouble = fault.strerror or str(fault)
        else:
            self._recover()

    async def _open_anew(self) -> None:
        self._reopen = False
        try:
            sink = await asyncio.to_thread(_open, self._destination)
        except StartError as fault:
            _log.warning("%s; the old one stays in use", fault)
            return
        if self._sink is not None:
            self._sink.close()
        self._sink = sink

    def _lose(self, lines: int) -> None:
        if lines == 0:
            return
        if self._lost == 0:
            trouble = self._trouble or "it takes lines too slowly"
            _log.warning("access log, %s: %s; lines are lost", self._destination, trouble)
        self._lost += lines
        self._dropped(lines)

    def _recover(self) -> None:
        if self._lost:
            _log.warning("access log, %s: %d lines were lost", self._destination, self._lost)
        elif self._trouble:
            _log.warning("access log, %s: written again, nothing was lost", self._destination)
        self._lost = 0
        self._trouble = ""


# --- where lines go ---------------------------------------------------------------------------


class _Sink(Protocol):
    async def write(self, lines: list[bytes]) -> int:
        """Write some of these lines, in order and whole; return how many.  Raises `OSError`."""

    def close(self) -> None: ...


class _Unopened:
    """A destination that could not be opened; each write tries again."""

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._sink: _Sink | None = None

    async def write(self, lines: list[bytes]) -> int:
        if self._sink is None:
            try:
                self._sink = await asyncio.to_thread(_open, self._destination)
            except StartError as fault:
                raise OSError(errno.ENOENT, "it cannot be opened") from fault
        return await self._sink.write(lines)

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()


class _File:
    """A regular file, or a device like one, written by a thread."""

    def __init__(self, fd: int) -> None:
        self._file = io.FileIO(fd, "wb")
        self._in_thread = wrap(self._file)
        self._broken_line = False

    async def write(self, lines: list[bytes]) -> int:
        """All of them, as a rule.

        Where the disk took only a part, or nothing, the file may end within a line, ours or
        that of another worker: the next write begins with a newline, to stand by itself.
        """
        lead = b"\n" if self._broken_line else b""
        self._broken_line = True
        written = await self._in_thread.write(lead + b"".join(lines)) - len(lead)
        for index, line in enumerate(lines):
            if written < len(line):
                if index == 0:
                    raise OSError(errno.ENOSPC, "less than a line was taken")
                return index
            written -= len(line)
        self._broken_line = False
        return len(lines)

    def close(self) -> None:
        self._file.close()


class _Stream:
    """A pipe, terminal or socket in non-blocking mode, written by the loop."""

    def __init__(self, fd: int, send: Callable[[bytes], int], closed: Callable[[], None]) -> None:
        self._fd = fd
        self._send = send
        self.close = closed
        self._rest = b""

    async def write(self, lines: list[bytes]) -> int:
        await asyncio.sleep(0)
        written = self._write_some(lines)
        while self._rest or not written:
            await self._writable()
            written += self._write_some(lines[written:])
        return written

    def _write_some(self, lines: list[bytes]) -> int:
        """Groups of lines until the reader is behind or the burst is full; how many lines."""
        written = total = 0
        try:
            self._write_rest()
            while written < len(lines) and total < BURST_BYTES:
                end = _group_end(lines, written)
                group = b"".join(lines[written:end])
                total += len(group)
                # A pipe takes all or nothing; a terminal or socket may take a part.
                self._rest = group[self._send(group) :]
                written = end
                self._write_rest()
        except OSError as fault:
            # After a success a fault can wait: the next call meets it again.
            if not written and not isinstance(fault, BlockingIOError):
                raise
        return written

    def _write_rest(self) -> None:
        while self._rest:
            self._rest = self._rest[self._send(self._rest) :]

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._fd)


def _group_end(lines: list[bytes], start: int) -> int:
    """Where the group of lines from `start` ends that fits into one atomic write."""
    size = len(lines[start])
    for end in range(start + 1, len(lines)):
        size += len(lines[end])
        if size > select.PIPE_BUF:
            return end
    return len(lines)


def check_destination(destination: str) -> None:
    """Raise `StartError` if the log could not be opened: for the master, before it forks."""
    if destination != "off":
        _open(destination).close()


def _open(destination: str) -> _Sink:
    """Open "stdout" or a path for appending; a file is made if it is not there."""
    try:
        if destination == "stdout":
            return _open_stdout()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        fd = os.open(destination, flags, 0o640)
        if _streams(fd):
            return _stream(fd)
        os.set_blocking(fd, True)  # without the flag, opening a FIFO would wait for its reader
        return _File(fd)
    except OSError as fault:
        raise StartError(f"log.access: cannot open {destination}: {fault.strerror}") from fault


def _streams(fd: int) -> bool:
    return stat.S_ISFIFO(os.fstat(fd).st_mode) or os.isatty(fd)


def _stream(fd: int) -> _Stream:
    return _Stream(fd, partial(os.write, fd), partial(os.close, fd))


def _open_stdout() -> _Sink:
    """Standard output, in the mode that its kind needs, without changing it for others.

    The non-blocking flag belongs to the open file description, which other processes share (a
    shell, our own master): so a pipe or terminal is opened a second time, and a socket, for
    which that is impossible (systemd's journal), is asked not to block at each call.  Where the
    second opening is not allowed (a container's pipe that belongs to another user) the flag is
    set on the shared description after all.
    """
    fd = STDOUT
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        sock = socket.socket(fileno=os.dup(fd))
        return _Stream(sock.fileno(), lambda data: sock.send(data, socket.MSG_DONTWAIT), sock.close)
    if not _streams(fd):
        return _File(os.dup(fd))
    path = os.ttyname(fd) if os.isatty(fd) else f"/proc/self/fd/{fd}"
    try:
        return _stream(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        shared = os.dup(fd)
        os.set_blocking(shared, False)
        return _stream(shared)
