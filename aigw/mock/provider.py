"""The mock provider on the wire: raw protocols that send prepared answers in time.

The idea: the work of an answer was done when its shape was first asked for; a further request
costs one look at the head, one parse of the JSON and one write. Requests of one connection are
answered one after the other, however they arrive. Timed answers are driven by one timer each.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import time
from collections import deque
from email.utils import formatdate
from typing import Any, cast

import msgspec

from aigw.mock.answers import Answer, answer_for, json_answer
from aigw.mock.recall import Recall
from aigw.mock.request import Request, RequestError, RequestReader
from aigw.mock.shape import MockSettings, Shape, shape_of
from aigw.mock.streams import STAMP

__all__ = ["MockProvider", "MockServer", "MockSettings", "serve"]

LEDGER_TARGET = b"/mock/requests"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ACCEPT_QUEUE = 4096  # a bench connects hundreds at once


class MockProvider:
    """What all connections of a mock share: settings, the ledger, the clock of the date header."""

    def __init__(self, settings: MockSettings | None = None) -> None:
        self.settings = settings or MockSettings()
        self.connections: set[MockConnection] = set()
        self.requests: deque[dict[str, Any]] = deque(maxlen=self.settings.ledger)
        self.recall = Recall()
        self.answered = 0
        # Processes that share a port must not send the same ids.
        self._first = int.from_bytes(os.urandom(6), "big")
        self._date = b""
        self._date_second = 0

    def connection(self) -> MockConnection:
        """The protocol factory."""
        return MockConnection(self)

    def date(self) -> bytes:
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            self._date = formatdate(second, usegmt=True).encode()
        return self._date

    def next_id(self) -> int:
        return self._first + self.answered

    def answer(self, request: Request) -> tuple[Answer, MockSettings]:
        """The answer to that request, and the settings that time it. Raises RequestError."""
        if self.settings.ledger:
            if request.target == LEDGER_TARGET:
                ledger = json_answer(Shape("ledger", self.settings), list(self.requests))
                return ledger, msgspec.structs.replace(self.settings, latency_s=0)
            self.requests.append(ledger_entry(request))
        shape = shape_of(request, self.settings)
        answer = answer_for(shape)
        if not answer.timed and not self.settings.ledger:
            self.recall.keep(request, answer)
        return answer, shape.settings


def ledger_entry(request: Request) -> dict[str, Any]:
    """A request as the ledger tells it; headers in their order and spelling."""
    return {
        "method": request.method.decode("latin-1"),
        "target": request.target.decode("latin-1"),
        "headers": [
            [name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers()
        ],
        "body_sha256": hashlib.sha256(request.body).hexdigest(),
        "body_bytes": len(request.body),
    }


class MockConnection(asyncio.Protocol):
    """One client connection; `_parts` is what is still to be sent of the current answer."""

    def __init__(self, provider: MockProvider) -> None:
        self._provider = provider
        self._reader = RequestReader()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        # per answer
        self._parts: tuple[bytes, ...] = ()
        self._sent = 0
        self._due_s = 0.0
        self._spacing_s = 0.0
        self._stamped = False
        self._closes = False
        self._busy = False
        self._full = False  # the client does not read: hold further parts
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._provider.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._provider.connections.discard(self)
        self._busy = True  # nothing that is still in the reader gets an answer
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._busy and self._reader.empty:
            answer = self._provider.recall.find(data)
            if answer is not None:
                self._transport.write(self._head(answer) + answer.whole)
                return
        self._reader.feed(data)
        if not self._busy:
            self._serve()

    def _serve(self) -> None:
        """Answers what has arrived, until an answer takes time or a request is incomplete."""
        try:
            while not self._busy and (request := self._reader.next()) is not None:
                self._answer(request)
            if not self._busy and self._reader.wants_continue:
                self._transport.write(CONTINUE)
        except RequestError as fault:
            self._refuse(fault)

    def _refuse(self, fault: RequestError) -> None:
        bad = msgspec.structs.replace(self._provider.settings, status=400)
        answer = answer_for(Shape("error", bad, detail=f"Bad request: {fault}"))
        self._transport.write(self._head(answer) + answer.whole)
        self._busy = True
        self._transport.close()

    def _head(self, answer: Answer) -> bytes:
        provider = self._provider
        provider.answered += 1
        return answer.head_format % answer.values(provider.date(), provider.next_id())

    def _answer(self, request: Request) -> None:
        answer, settings = self._provider.answer(request)
        self._closes = request.closes
        head = self._head(answer)
        if request.method == b"HEAD":
            self._transport.write(head)
        elif not answer.timed:
            self._transport.write(head + answer.whole)
        else:
            self._start(head, answer, settings)
            return
        if self._closes:
            self._end()

    def _start(self, head: bytes, answer: Answer, settings: MockSettings) -> None:
        """Begins an answer that takes time: the head goes with the first part."""
        parts = answer.parts
        self._busy = True
        self._sent = 0
        self._parts = (head + parts[0], *parts[1:])
        self._spacing_s = settings.spacing_s
        self._stamped = settings.stamp and len(parts) > 1
        self._due_s = self._loop.time() + settings.latency_s
        if settings.latency_s:
            self._timer = self._loop.call_at(self._due_s, self._send_due)
        else:
            self._send_due()

    def _send_due(self) -> None:
        """Sends the parts that are due, then sleeps until the next one is."""
        self._timer = None
        now_s = self._loop.time()
        while not self._full and self._sent < len(self._parts):
            # libuv's timers have whole milliseconds: half of one is not worth another round
            if self._due_s > now_s + 0.0005:
                self._timer = self._loop.call_at(self._due_s, self._send_due)
                return
            part = self._parts[self._sent]
            if self._stamped:
                part = part.replace(STAMP, b"%019d" % time.monotonic_ns(), 1)
            self._sent += 1
            self._due_s += self._spacing_s
            self._transport.write(part)
        if self._sent == len(self._parts):
            self._parts = ()
            self._end()

    def _end(self) -> None:
        """After an answer: close if that was asked for, else on to the next request."""
        if self._closes:
            self._busy = True
            self._transport.close()
        elif self._busy:
            self._busy = False
            self._serve()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._parts and self._timer is None:
            self._send_due()


class MockServer:
    """A listening mock; `close` also breaks off its connections."""

    def __init__(self, provider: MockProvider, server: asyncio.Server) -> None:
        self.provider = provider
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._server.close()
        for connection in list(self.provider.connections):
            connection.abort()

    async def wait_closed(self) -> None:
        await self._server.wait_closed()

    async def __aenter__(self) -> MockServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()


async def serve(
    settings: MockSettings,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    reuse_port: bool = False,
    tls: ssl.SSLContext | None = None,
) -> MockServer:
    """Starts a mock on the running loop; port 0 takes a free one, which `.port` tells."""
    provider = MockProvider(settings)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        provider.connection,
        host,
        port,
        backlog=ACCEPT_QUEUE,
        reuse_port=reuse_port or None,
        ssl=tls,
    )
    return MockServer(provider, server)
