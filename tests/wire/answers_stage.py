"""Plays the cases: one gateway, an upstream that keeps account of its connections, a strict client.

`Stage.play` plays one case in one `Variant` and says what went wrong, or returns None.  After the
case's request comes another one, the probe: on the same client connection where the answer allows
that, so that a byte too many would be seen, and on whatever upstream connection the gateway takes,
so that it is seen which ones it uses again.

A variant says which lane the request takes and how the upstream's bytes are cut before the gateway
sees them.  They are cut where the gateway reads, behind real sockets: so the cuts are where they
should be, however the kernel joins what was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from enum import Enum
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple, Self, cast

import pytest
import trustme
import uvloop

from aigw.upstreams.connection import UpstreamConnection
from tests.conversation import Gateway, toml
from tests.wire.answers_case import AnswerCase, Ask, Cut, End, Refused, Seen, Stray, Whole
from tests.wire.answers_reader import FIN, OPEN, RST, Head, Malformed, Read, read_answer

PATIENCE_S = 20.0
# Heads over the limit need not be long.
UPSTREAM_HEAD_BYTES = 2048
PROBE = Ask.GET.value.replace(b"/v1/case", b"/v1/probe")
PROBE_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Probe: 1\r\n\r\nprobe"
OWN_LINES = (b"x-aigw-request-id: req_", b"connection: ")
SETTINGS = {"top": f"[limits]\nupstream_head_bytes = {UPSTREAM_HEAD_BYTES}"}


class Lane(Enum):
    """Which way a case's heads take."""

    PARSED = "read by h11, over a new connection"
    KNOWN = "recognised where they can be, over an idle connection"
    GATHERED = "the same, dealt with at the end of a turn"


class Variant(NamedTuple):
    """One way to play a case."""

    lane: Lane
    cut: Callable[[bytes], list[bytes]]
    name: str


def whole(data: bytes) -> list[bytes]:
    return [data]


def at_random(data: bytes) -> list[bytes]:
    """Some cuts, and the same ones each time for the same bytes."""
    random = Random(data)
    places = {random.randint(0, len(data)) for _ in range(1 + len(data) // 12)}
    edges = sorted(places | {0, len(data)})
    return [data[start:end] for start, end in pairwise(edges)] or [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    """Long data, which are long to exceed a limit, in somewhat longer pieces."""
    size = 1 + len(data) // 2048
    return [data[at : at + size] for at in range(0, len(data), size)] or [data]


VARIANTS = (
    Variant(Lane.PARSED, byte_by_byte, "parsed, byte by byte"),
    Variant(Lane.KNOWN, whole, "whole, and learned"),
    Variant(Lane.KNOWN, whole, "whole, and recognised"),
    Variant(Lane.GATHERED, whole, "whole, and gathered"),
    Variant(Lane.GATHERED, at_random, "cut at random"),
)


class Wrong(Exception):  # noqa: N818  what it says of a case
    """What went wrong."""


class Spied(asyncio.Protocol):
    """One connection of the upstream: answers each request as it is told, and notes how it went."""

    def __init__(self, upstream: SpyUpstream):
        self.upstream = upstream
        self.received = b""
        self.unread = b""
        self.cases = self.probes = 0
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # The kernel's view: to write and end now, in one order, whatever the loop holds back.
        self.socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.unread += data
        while (end := self.unread.find(b"\r\n\r\n")) >= 0:
            head, self.unread = self.unread[:end], self.unread[end + 4 :]
            if b" /v1/probe " in head:
                self.probes += 1
                self.send(PROBE_ANSWER)
            else:
                self.cases += 1
                self.unread = b""  # its body, as much as is here
                self.upstream.play(self)

    def send(self, data: bytes) -> None:
        if self.upstream.is_tls:
            self.transport.write(data)
        elif data:
            assert self.socket.send(data) == len(data)

    def end(self, how: End) -> None:
        with contextlib.suppress(OSError):  # the gateway may have been faster
            if how is End.FIN or how is End.TLS_EOF:
                self.socket.shutdown(socket.SHUT_WR)
            elif how is End.RST or how is End.TLS_RST:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.transport.abort()
                self.socket.close()
            elif how is End.NOTIFY:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.socket.close()
        self.lost.set()


class SpyUpstream:
    """Plays the present case to whoever asks for it."""

    def __init__(self, tls: ssl.SSLContext | None):
        self.tls = tls
        self.is_tls = tls is not None
        self.case: AnswerCase | None = None
        self.connections: list[Spied] = []
        self.ending: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(self._connected, "127.0.0.1", 0, ssl=self.tls)
        scheme = "https" if self.is_tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    def _connected(self) -> Spied:
        self.connections.append(Spied(self))
        return self.connections[-1]

    def play(self, connection: Spied) -> None:
        assert self.case is not None
        connection.send(self.case.sends)
        if self.case.when is None:
            self.end(connection)

    def end(self, connection: Spied) -> None:
        assert self.case is not None
        is_now = self.case.when is Stray.BETWEEN
        if self.is_tls and not is_now:  # what was written passes two buffers of the loop's first
            self.ending.append(asyncio.create_task(self._end_soon(connection, self.case.ends)))
        else:
            connection.end(self.case.ends)

    async def _end_soon(self, connection: Spied, how: End) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        connection.end(how)

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await asyncio.gather(*self.ending)
        for connection in self.connections:
            connection.transport.abort()


class Client(asyncio.Protocol):
    """Keeps what it gets until it is read, and how it ended."""

    def __init__(self) -> None:
        self.octets = b""
        self.end = OPEN
        self.news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.octets += data
        self.news.set()

    def eof_received(self) -> bool:
        self.end = FIN
        self.news.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self.end == OPEN:
            self.end = RST if exc is not None else FIN
        self.news.set()

    async def read(self, asks: Ask) -> Read:
        """The next answer, once it is whole or cut."""
        while True:
            read = read_answer(self.octets, self.end, asks.method, asks.is_old)
            if read.state != "open":
                self.octets = self.octets[read.size :]
                return read
            self.news.clear()
            await self.news.wait()

    async def ended(self) -> None:
        while self.end == OPEN:
            self.news.clear()
            await self.news.wait()


class Stage:
    """One gateway and one upstream, for any number of cases."""

    def __init__(self, upstream: SpyUpstream, gateway: Gateway):
        self.upstream, self.gateway = upstream, gateway
        self.cut: Callable[[bytes], list[bytes]] = whole
        self.client: Client | None = None

    async def play(self, case: AnswerCase, variant: Variant) -> str | None:
        """What went wrong, or None."""
        self.upstream.case = case
        self.upstream.connections = [c for c in self.upstream.connections if not c.lost.is_set()]
        try:
            async with asyncio.timeout(PATIENCE_S):
                with lane(variant.lane):
                    client = await self._prepare(variant.lane)
                    self.cut = variant.cut
                    await self._play(case, client)
        except (Malformed, Wrong) as wrong:
            self.clear()
            return f"{case.id} ({variant.name}): {wrong}"
        except TimeoutError:
            seen = (self.client.octets, self.client.end) if self.client is not None else None
            self.clear()
            return f"{case.id} ({variant.name}): it does not come to an end: {seen}"
        finally:
            self.cut = whole
        return None

    def clear(self) -> None:
        """Leave no connection that remembers anything."""
        if self.client is not None:
            self.client.transport.abort()
            self.client = None
        for member in self.gateway.services.groups()[0].members:
            while member.idle:
                member.idle.pop().drop()

    async def _prepare(self, lane: Lane) -> Client:
        """New connections on both sides; or a client that is known, and an idle connection."""
        if lane is Lane.PARSED:
            self.clear()
        client = self.client
        if client is None or client.end != OPEN:
            client = await self._connect()
        (member,) = self.gateway.services.groups()[0].members
        if lane is not Lane.PARSED and not member.idle:
            client.transport.write(PROBE)
            await self._read_probe(client)
        for connection in self.upstream.connections:
            connection.cases = connection.probes = 0
        return client

    async def _connect(self) -> Client:
        if self.client is not None:
            self.client.transport.abort()
        loop = asyncio.get_running_loop()
        _, self.client = await loop.create_connection(Client, "127.0.0.1", self.gateway.port)
        return self.client

    async def _play(self, case: AnswerCase, client: Client) -> None:
        client.transport.write(case.asks.value)
        read = await client.read(case.asks)
        check_seen(case, read)
        if not await self._may_ask_again(case, read, client):
            client = await self._connect()
        if case.when is not None:
            await self._stray(case, client)
        elif not case.reuse:
            await self._dropped()
        if case.when is not Stray.BETWEEN:
            client.transport.write(PROBE)
        await self._read_probe(client)
        self._check_reuse(case)
        self._check_record(case)

    async def _may_ask_again(self, case: AnswerCase, read: Read, client: Client) -> bool:
        """Is the client's connection still good, as the answer says?"""
        if read.state == "whole" and not read.ends_connection and client.end == OPEN:
            if case.asks is Ask.OLD:
                raise Wrong("HTTP/1.0 without keep-alive, and the connection stays")
            return True
        if case.asks not in (Ask.UPLOAD, Ask.CHUNKS):
            await client.ended()
        if read.state == "whole" and client.octets:
            raise Wrong(f"bytes behind the answer: {client.octets!r}")
        return False

    async def _stray(self, case: AnswerCase, client: Client) -> None:
        (connection,) = [c for c in self.upstream.connections if c.cases]
        if case.when is Stray.BETWEEN:  # both are there when the gateway looks, this one first
            fd = os.dup(client.transport.get_extra_info("socket").fileno())
            os.write(fd, PROBE)
            os.close(fd)
        connection.send(case.stray)
        self.upstream.end(connection)
        if case.when is Stray.IDLE:
            await self._dropped()

    async def _dropped(self) -> None:
        """The gateway must not keep a connection that it will not use again."""
        for connection in [c for c in self.upstream.connections if c.cases]:
            await connection.lost.wait()

    async def _read_probe(self, client: Client) -> None:
        read = await client.read(Ask.GET)
        if read.state != "whole" or not read.head or read.head.the(b"x-probe") != b"1":
            raise Wrong(f"the next request is answered with {read}, {client.octets!r}")
        services = self.gateway.services
        while services.metrics.words[services.in_flight]:
            await asyncio.sleep(0)
        if any(member.inflight for member in services.groups()[0].members):
            raise Wrong("a member's load was not given back")

    def _check_reuse(self, case: AnswerCase) -> None:
        asked = [c for c in self.upstream.connections if c.cases]
        probed = [c for c in self.upstream.connections if c.probes]
        if case.reuse and not all(c in asked for c in probed):
            raise Wrong("the upstream connection was not used again")
        if not case.reuse and any(c in asked for c in probed):
            raise Wrong("the upstream connection was used again")

    def _check_record(self, case: AnswerCase) -> None:
        """What was refused or cut is on record as that."""
        code = {Refused: "upstream_error", Cut: "upstream_truncated"}.get(type(case.sees))
        if code is not None and self.gateway.records[-2]["error"] != code:
            raise Wrong(f"on record as {self.gateway.records[-2]}")


def check_seen(case: AnswerCase, read: Read) -> None:
    """Raises `Wrong` if the client did not get what it should."""
    sees: Seen = case.sees
    interim = sees.interim[: len(read.interim)] if isinstance(sees, Refused) else sees.interim
    if read.interim != interim:
        raise Wrong(f"interim answers: {read.interim!r}")
    if isinstance(sees, Refused):
        code = read.head.the(b"x-aigw-error") if read.head is not None else None
        if read.state != "whole" or code != b"upstream_error":
            raise Wrong(f"not refused: {read}")
        return
    if read.head is not None:
        read.head.the(b"x-aigw-request-id")
    if read.head is None or without_own_lines(read.head) != sees.head:
        raise Wrong(f"the head is {read}")
    if read.state != ("whole" if isinstance(sees, Whole) else "cut"):
        raise Wrong(f"{read.state}, where it should be {sees}: {read}")
    if isinstance(sees, Cut) and not sees.sent:
        if not sees.body.startswith(read.body):
            raise Wrong(f"the body is {read.body!r}")
    elif read.body != sees.body:
        raise Wrong(f"the body is {read.body!r}")


def without_own_lines(head: Head) -> bytes:
    lines = head.octets.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(OWN_LINES))


@contextlib.contextmanager
def lane(which: Lane) -> Iterator[None]:
    """Learn nothing and recognise nothing; or learn each plain head at its first sight."""
    with pytest.MonkeyPatch.context() as patch:
        if which is Lane.PARSED:
            never: Callable[..., None] = lambda *_: None  # noqa: E731
            patch.setattr("aigw.proxy.known.KnownRequests.find", never)
            patch.setattr("aigw.upstreams.known.KnownAnswers.find", never)
        else:
            patch.setattr("aigw.wire.template.SEEN_BEFORE", 1)
            patch.setattr("aigw.wire.template.BUILD_PAUSE_S", 0.0)
        if which is Lane.GATHERED:
            patch.setattr("aigw.proxy.express.GATHER_FROM", 0)
        yield


@contextlib.asynccontextmanager
async def stage(is_tls: bool) -> AsyncIterator[Stage]:
    """All that cases need; the cuts are made while it stands."""
    authority = trustme.CA() if is_tls else None
    context = None
    with contextlib.ExitStack() as stack:
        settings = dict(SETTINGS)
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            path = stack.enter_context(authority.cert_pem.tempfile())
            settings["upstream"] = f'ca = "{path}"'
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        async with (
            SpyUpstream(context) as upstream,
            Gateway(toml(upstream.url, **settings)) as gateway,
        ):
            made = Stage(upstream, gateway)
            patch.setattr(UpstreamConnection, "data_received", _cutting(made))
            yield made


def _cutting(made: Stage) -> Callable[[UpstreamConnection, bytes], None]:
    received = UpstreamConnection.data_received

    def data_received(self: UpstreamConnection, data: bytes) -> None:
        for piece in made.cut(data):
            if self.is_closed or self.transport.is_closing():
                return
            received(self, piece)

    return data_received


class Theatre:
    """A loop of its own with the stages that were asked for, until `close`."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._stages: dict[bool, Stage] = {}
        self._stack = contextlib.AsyncExitStack()

    def wrongs(self, case: AnswerCase) -> list[str]:
        """What goes wrong with a case, over all its variants."""
        return [wrong for variant in VARIANTS if (wrong := self.run(self._play(case, variant)))]

    @property
    def express_requests(self) -> int:
        """How many requests have taken the express lane so far."""
        gateways = [stage.gateway for stage in self._stages.values()]
        return sum(g.services.metrics.words[g.services.express_sent] for g in gateways)

    def run(self, coroutine: Coroutine[Any, Any, str | None]) -> str | None:
        return self._runner.run(coroutine)

    async def _play(self, case: AnswerCase, variant: Variant) -> str | None:
        is_tls = case.ends.is_tls
        if is_tls not in self._stages:
            self._stages[is_tls] = await self._stack.enter_async_context(stage(is_tls))
        return await self._stages[is_tls].play(case, variant)

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()
