"""One client connection of the load generator, as cheap as it can be in Python.

A request is one write, an answer is found complete by its framing, and what was measured is
appended to plain arrays: nothing is computed while the clock runs. All times are CLOCK_MONOTONIC
in nanoseconds, which is the mock's clock too, so that a chunk's stamp tells its delay.
"""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from collections import Counter
from collections.abc import Collection
from typing import Protocol, cast

END_OF_HEAD = b"\r\n\r\n"
STAMP = re.compile(rb"mock_sent_ns=(\d{19}) ")
STAMP_BYTES = 32  # of what STAMP matches, less one: so much is kept where an event was cut in two


class Recorder:
    """What a run has measured."""

    def __init__(self) -> None:
        self.latency_ns = array("q")  # from the scheduled time of sending to the answer's end
        self.first_byte_ns = array("q")  # to the first byte of the body
        self.chunk_delay_ns = array("q")  # from a chunk's stamp to its arrival
        self.late_ns = array("q")  # how late the generator itself was
        self.errors: Counter[str] = Counter()
        self.answers = 0
        self.body_bytes = 0


class Owner(Protocol):
    """Who uses a connection: told when an answer is complete, and when the connection is gone."""

    def answered(self, connection: LoadConnection) -> None: ...
    def lost(self, connection: LoadConnection) -> None: ...


class ChunkedBody:
    """Finds the end of a chunked body, however its bytes are cut. Raises ValueError."""

    __slots__ = ("_last", "_line", "_skip")

    def __init__(self) -> None:
        self._skip = 0
        self._line = b""
        self._last = False

    def feed(self, data: bytes) -> bool:
        """Whether the body has ended."""
        at, size = 0, len(data)
        while at < size:
            if self._skip:
                step = min(self._skip, size - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._line += data[at:]
                return False
            line = (self._line + data[at:end]).rstrip(b"\r")
            self._line = b""
            at = end + 1
            if self._last:
                if not line:
                    return True
                continue
            length = int(line.partition(b";")[0], 16)
            self._skip = length + 2 if length else 0
            self._last = not length
        return False


class LoadConnection(asyncio.Protocol):
    """Sends one request at a time for its owner and records what comes back."""

    __slots__ = (
        "_body_left",
        "_buffer",
        "_chunked",
        "_closes",
        "_expected",
        "_first",
        "_owner",
        "_recorder",
        "_said_done",
        "_status",
        "_stream",
        "_tail",
        "_transport",
        "failed",
        "scheduled_ns",
    )

    def __init__(
        self, owner: Owner, recorder: Recorder, expected: Collection[int], stream: bool
    ) -> None:
        self._owner = owner
        self._recorder = recorder
        self._expected = expected  # a status among them counts as an answer
        self._stream = stream
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.scheduled_ns = 0  # 0: no request is under way
        self.failed = False  # the connection took a request with it
        self._reset()

    def _reset(self) -> None:
        self._buffer = b""  # of the head
        self._status = 0  # 0: the head is not complete
        self._body_left = 0  # -1: until the connection closes
        self._chunked: ChunkedBody | None = None
        self._closes = False
        self._first = True
        self._tail = b""
        self._said_done = False

    @property
    def usable(self) -> bool:
        return not self._closes and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.scheduled_ns and self._status and self._body_left == -1 and exc is None:
            self._complete(time.monotonic_ns())
        elif self.scheduled_ns:
            self._fail("cut" if self._status else "reset")
        self._owner.lost(self)

    def send(self, request: bytes, scheduled_ns: int) -> None:
        self.scheduled_ns = scheduled_ns
        self._transport.write(request)

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if not self.scheduled_ns:
            self._fail("unasked bytes")
            return
        try:
            if not self._status:
                data = self._read_head(data)
            if self._status and self._read_body(data, now_ns):
                self._complete(now_ns)
        except ValueError:
            self._fail("no HTTP")

    def _fail(self, kind: str) -> None:
        self._recorder.errors[kind] += 1
        self.failed = self.scheduled_ns > 0
        self.scheduled_ns = 0
        self._transport.abort()

    def _read_head(self, data: bytes) -> bytes:
        """Takes the head; returns what follows it. Raises ValueError for what is no head."""
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(END_OF_HEAD)
        if end < 0:
            return b""
        head = self._buffer[: end + 2].lower()
        rest = self._buffer[end + 4 :]
        self._buffer = b""
        self._status = int(head[9:12])
        self._closes = b"\r\nconnection: close\r\n" in head
        at = head.find(b"\r\ncontent-length:")
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            self._chunked = ChunkedBody()
        elif at >= 0:
            self._body_left = int(head[at + 17 : head.index(b"\r\n", at + 17)])
        elif self._status in (204, 304):
            self._body_left = 0
        else:
            self._body_left = -1
        return rest

    def _read_body(self, data: bytes, now_ns: int) -> bool:
        """Whether that was the end."""
        recorder = self._recorder
        if data:
            recorder.body_bytes += len(data)
            if self._first:
                self._first = False
                recorder.first_byte_ns.append(now_ns - self.scheduled_ns)
            if self._stream:
                self._read_stamps(data, now_ns)
        if self._chunked is not None:
            return self._chunked.feed(data)
        if self._body_left < 0:
            return False
        self._body_left -= len(data)
        if self._body_left < 0:
            raise ValueError("more than the announced length")
        return self._body_left == 0

    def _read_stamps(self, data: bytes, now_ns: int) -> None:
        seen = self._tail + data
        end = 0
        for match in STAMP.finditer(seen):
            self._recorder.chunk_delay_ns.append(now_ns - int(match[1]))
            end = match.end()
        self._said_done = self._said_done or b"[DONE]" in seen
        self._tail = seen[max(end, len(seen) - STAMP_BYTES) :]

    def _complete(self, now_ns: int) -> None:
        recorder = self._recorder
        if self._status not in self._expected:
            recorder.errors[f"status {self._status}"] += 1
        elif self._stream and not self._said_done:
            recorder.errors["no [DONE]"] += 1
        else:
            recorder.answers += 1
            recorder.latency_ns.append(now_ns - self.scheduled_ns)
        self.scheduled_ns = 0
        closes = self._closes
        self._reset()
        self._closes = closes
        self._owner.answered(self)
