"""A raw client on one side of a gateway, an upstream on the other that records every byte.

    with spying() as check:
        check(case, WAYS)

One gateway serves all cases, one after the other.  Before a case is judged, everything that the
gateway has written upstream has arrived there: each connection that it opened has been seen, and
each that it has closed has been read to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from random import Random
from typing import NamedTuple, Self, cast

import pytest
import uvloop
from conftest import take_lane
from conversation import Gateway

from aigw.upstreams.connection import UpstreamConnection
from tests.wire.reading import LENIENT, MisreadError, Seen, ends_of, lenient_ends, read_strictly
from tests.wire.requests_case import (
    BY_BODY,
    CLOSED,
    HEALTHY,
    KEY,
    OK,
    SECOND_KEY,
    Case,
    get,
    post,
)

PATIENCE_S = 10.0
# Longer requests are cut into so many pieces instead of into bytes.
MAX_PIECES = 150

POLICY = """
[limits]
head_bytes = "4KiB"
headers = 40
body_bytes = "16KiB"
[log]
access = "off"
[[keys]]
name = "user1"
key = "key-of-user1"
routes = ["/v1", "/own", "/cut/v1"]
[[keys]]
name = "second"
key = "key-of-second"
[[upstreams]]
name = "up"
urls = ["http://127.0.0.1:{port}"]
credentials = ["sk-upstream"]
[[upstreams]]
name = "own"
urls = ["http://127.0.0.1:{port}"]
credentials = "client"
[[routes]]
path = "/v1/closed"
targets = [{{ upstream = "up" }}]
[[routes]]
path = "/v1"
targets = [{{ upstream = "up" }}]
[[routes]]
path = "/own"
targets = [{{ upstream = "own" }}]
[[routes]]
path = "/cut/v1"
strip_prefix = "/cut"
targets = [{{ upstream = "up" }}]
"""

STATUS_OF = {
    OK: 200,
    HEALTHY: 200,
    "malformed_request": 400,
    "missing_api_key": 401,
    "invalid_api_key": 401,
    "ambiguous_api_key": 401,
    "route_not_allowed": 403,
    "unknown_url": 404,
    "request_too_large": 413,
    "uri_too_long": 414,
    "headers_too_large": 431,
    "unsupported_upgrade": 501,
}


class Way(NamedTuple):
    """How the bytes of a case come: in which pieces, and what the gateway has learned before."""

    lane: str  # see `conftest.take_lane`
    cut: str
    is_warm: bool = (
        False  # plain requests have passed on this connection, so their shapes are known
    )


WAYS = (
    Way("parsed", "whole"),
    Way("parsed", "bytes"),
    Way("parsed", "anywhere"),
    Way("recognised", "whole"),
    Way("express", "whole", is_warm=True),
    Way("express", "anywhere", is_warm=True),
    Way("gathered", "whole", is_warm=True),
    Way("gathered", "anywhere", is_warm=True),
)
WARMING = (get(), post(b"hello"))


def pieces(data: bytes, way: Way) -> Iterator[bytes]:
    """Cut the bytes of a case; where, is the same in each run."""
    if way.cut == "whole" or len(data) < 2:
        yield data
        return
    if way.cut == "bytes":
        step = -(-len(data) // MAX_PIECES)
        edges = [*range(0, len(data), step), len(data)]
    else:
        random = Random(zlib.crc32(data) + way.is_warm)
        count = min(3, len(data) - 1)
        edges = sorted({0, len(data), *random.sample(range(1, len(data)), count)})
    for start, end in pairwise(edges):
        yield data[start:end]


class Link(asyncio.Protocol):
    """One connection to the upstream: it answers whatever the strict reader accepts."""

    def __init__(self, spy: Spied):
        self._spy = spy
        self.received = b""
        self.read_to = 0  # up to here it is complete requests
        self.judged_to = 0  # up to here it belongs to earlier cases
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._spy.links[transport.get_extra_info("peername")[1]] = self

    def data_received(self, data: bytes) -> None:
        self.received += data
        try:
            while (read := read_strictly(self.received, self.read_to)) is not None:
                request, self.read_to = read
                self._spy.seen.append(request)
                self._answer(request)
        except MisreadError as why:
            self._spy.misread.append(str(why))
            self.transport.abort()

    def _answer(self, request: Seen) -> None:
        body = b"" if request.line.startswith(b"HEAD ") else request.line
        length = b"Content-Length: %d\r\n\r\n" % len(request.line)
        self.transport.write(b"HTTP/1.1 200 OK\r\n" + length + body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


class Answered(NamedTuple):
    """One answer as the client sees it."""

    word: str
    status: int
    body: bytes
    closes: bool


ANSWER_LINE = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [\x20-\x7e]*")


def read_answer(data: bytes, is_head: bool) -> tuple[Answered | None, int] | None:
    """The first answer (None for an interim one) and where it ends; None: not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    line, *fields = data[:end].split(b"\r\n")
    found = ANSWER_LINE.fullmatch(line)
    assert found is not None, line
    status, at = int(found[1]), end + 4
    if status < 200:
        return None, at
    known = {name.lower(): value for name, _, value in (f.partition(b": ") for f in fields)}
    size = 0 if is_head or status == 204 else int(known[b"content-length"])
    if len(data) < at + size:
        return None
    body = data[at : at + size]
    word = known[b"x-aigw-error"].decode() if b"x-aigw-error" in known else OK
    if word == OK and b'"status":' in body:
        word = HEALTHY
    return Answered(word, status, body, known.get(b"connection") == b"close"), at + size


class Client(asyncio.Protocol):
    """A raw client; `answers` are those that have come since the last `forget`."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.is_head = False
        self.has_ended = False
        self.forget()

    def forget(self) -> None:
        self.left = b""  # what is no complete answer
        self.answers: list[Answered] = []
        self.interim = 0
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.left += data
        while (read := read_answer(self.left, self.is_head)) is not None:
            answer, end = read
            self.left = self.left[end:]
            if answer is None:
                self.interim += 1
            else:
                self.answers.append(answer)
        self._news.set()

    def eof_received(self) -> bool:
        self.has_ended = True
        self._news.set()
        return True  # what is still to be sent may be sent

    def connection_lost(self, exc: Exception | None) -> None:
        self.has_ended = True
        self._news.set()

    async def send(self, cut: Iterable[bytes]) -> None:
        for piece in cut:
            if self.transport.is_closing():
                return
            self.transport.write(piece)
            await asyncio.sleep(0)  # so that each comes by itself

    async def read(self, count: int | None) -> None:
        """Until so many answers are here or the connection has ended."""
        while not self.has_ended and (count is None or len(self.answers) < count):
            self._news.clear()
            await self._news.wait()

    def hang_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.write_eof()


Check = Callable[[Case, Iterable[Way]], None]


@contextlib.contextmanager
def spying() -> Iterator[Check]:
    """The gateway between the two in a loop of its own; what it yields is `Spied.check`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        spied = Spied()
        runner.run(spied.__aenter__())
        try:
            yield lambda case, ways: runner.run(spied.check(case, ways))
        finally:
            runner.run(spied.__aexit__())


class Spied:
    """The gateway between the two."""

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}
        self.seen: list[Seen] = []
        self.misread: list[str] = []
        self._made: dict[int, UpstreamConnection] = {}
        self._patch = pytest.MonkeyPatch()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self), "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self._own_name = b"\r\nHost: 127.0.0.1:%d\r\n" % port
        made = UpstreamConnection.connection_made

        def connection_made(connection: UpstreamConnection, transport: asyncio.Transport) -> None:
            self._made[transport.get_extra_info("sockname")[1]] = connection
            made(connection, transport)

        self._patch.setattr(UpstreamConnection, "connection_made", connection_made)
        self.gateway = Gateway(POLICY.format(port=port))
        await self.gateway.__aenter__()
        self.gateway.sweeper.stop()  # nothing is late, however busy the machine is
        with pytest.MonkeyPatch.context() as patch:
            take_lane("express", patch)
            for request in WARMING:  # from now on they are recognised
                await self.gateway.ask(request)
        self._forget()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.gateway.__aexit__()
        self._patch.undo()
        self._server.close()
        for link in self.links.values():
            link.transport.abort()

    # ---- one case --------------------------------------------------------------------------------

    async def check(self, case: Case, ways: Iterable[Way]) -> None:
        """AssertionError, or TimeoutError, where something else happens than the case says."""
        for way in ways:
            try:
                await self._check(case, way)
            except (AssertionError, TimeoutError) as error:
                error.add_note(f"{way}\nsent {case.sent!r}")
                raise

    async def _check(self, case: Case, way: Way) -> None:
        with pytest.MonkeyPatch.context() as patch:
            take_lane(way.lane, patch)
            async with asyncio.timeout(PATIENCE_S):
                client = await self._converse(case, way)
                await self._all_has_arrived()
        try:
            self._judge(case, client)
        finally:
            self._forget()

    async def _converse(self, case: Case, way: Way) -> Client:
        loop = asyncio.get_running_loop()
        port = self.gateway.port
        transport, client = await loop.create_connection(Client, "127.0.0.1", port)
        try:
            if way.is_warm:
                await self._warm(client)
            client.is_head = case.is_head
            await client.send(pieces(case.sent, way))
            if case.hangs_up:
                await client.read(len(case.answers) - 1)
                client.hang_up()
            await client.read(len(case.answers))
            if not (client.answers and client.answers[-1].closes):
                client.hang_up()
            await client.read(None)
        finally:
            transport.close()
        return client

    async def _warm(self, client: Client) -> None:
        """Plain requests, which are recognised from the second time on."""
        words, express = self.gateway.metrics.words, self.gateway.services.express_sent
        before = words[express]
        for count, request in enumerate(WARMING, 1):
            await client.send([request])
            await client.read(count)
        assert words[express] > before  # the first may have had no idle connection
        self._forget()
        client.forget()

    async def _all_has_arrived(self) -> None:
        words, in_flight = self.gateway.metrics.words, self.gateway.services.in_flight
        while words[in_flight]:
            await asyncio.sleep(0)
        for port, connection in self._made.items():
            while port not in self.links:
                await asyncio.sleep(0)
            if connection.is_closed or connection.transport.is_closing():
                await self.links[port].ended.wait()
        self.gateway.services.ledger.settle()

    # ---- the verdict -----------------------------------------------------------------------------

    def _judge(self, case: Case, client: Client) -> None:
        got = [answer.word for answer in client.answers]
        told = f"{got}, {self.seen}, {client.left!r}"
        assert client.left == b"", told
        assert [answer.status for answer in client.answers] == [STATUS_OF.get(w) for w in got], told
        closes = bool(got) and client.answers[-1].closes
        expected = list(case.answers)
        if case.ends == BY_BODY and closes:
            expected = expected[: len(got)]
        elif case.may_begin and case.hangs_up and not got:
            expected = []  # the FIN came while the gateway was connecting: nobody waits any more
        assert got == expected, told
        if got and case.ends != BY_BODY:
            assert closes is (case.ends == CLOSED), told
        assert client.interim == 0 or b"100-continue" in case.sent.lower()
        unfinished = self._judge_upstream()
        assert len(unfinished) <= case.may_begin, unfinished
        count = got.count(OK)
        assert self.seen == list(case.upstream[:count]), self.seen
        if not case.is_head:
            bodies = [answer.body for answer in client.answers if answer.word == OK]
            assert bodies == [request.line for request in self.seen], told
        self._judge_records(max(len(got), case.hangs_up and case.may_begin), count)

    def _judge_upstream(self) -> list[bytes]:
        """Every reader finds the same requests, none has a gateway key; returns unfinished ones."""
        assert not self.misread, self.misread
        unfinished = []
        for link in self.links.values():
            data = link.received[link.judged_to :]
            if not data:
                continue
            ends = ends_of(data)
            for kind, habits in LENIENT.items():
                assert lenient_ends(data, habits) == ends, kind
            rest = data[ends[-1] if ends else 0 :]
            if rest:
                assert link.ended.is_set(), rest
                unfinished.append(rest)
        heads = [one.partition(b"\r\n\r\n")[0] for one in unfinished]
        for head in [*heads, *(request.head for request in self.seen)]:
            assert KEY not in head
            assert SECOND_KEY not in head
        self.seen = [
            Seen(request.head.replace(self._own_name, b"\r\nHost: upstream\r\n"), request.body)
            for request in self.seen
        ]
        return unfinished

    def _judge_records(self, answers: int, from_upstream: int) -> None:
        """One record for each answer, or for who has hung up; those from upstream name the key."""
        records = self.gateway.records
        assert len(records) == answers, records
        served = [record for record in records if record["status"] == 200 and record["upstream"]]
        assert len(served) == from_upstream
        assert all(record["key"] for record in served)

    def _forget(self) -> None:
        """What is here belongs to no later case."""
        self.gateway.services.ledger.settle()
        self.seen = []
        self.misread = []
        self.gateway.records.clear()
        for port in [port for port, link in self.links.items() if link.ended.is_set()]:
            del self.links[port]
            self._made.pop(port, None)
        for link in self.links.values():
            link.judged_to = len(link.received)
