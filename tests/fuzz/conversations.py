"""Requests in a row, mutated and cut, through a whole gateway, with a spy for an upstream.

    python -m tests.fuzz.conversations --seconds 60 --seed 1

What the client sends is read by the letter (`meaning.py`) up to the first octet that could be read
in two ways.  The upstream must see whole requests by the letter, each of them one of the client's,
in their order, with its query, method and body, and only those that carry a gateway key: then
nothing was smuggled, split, or made up.  Every request by the letter is answered, or the connection
is closed.
"""

from __future__ import annotations

import asyncio
import re
import sys
from functools import cache
from random import Random
from typing import NamedTuple, cast

import uvloop

from tests.conversation import Gateway, toml
from tests.fuzz.bodies import make_chunks
from tests.fuzz.bulk import Counts, cuts_of, main
from tests.fuzz.heads import CHANGES
from tests.fuzz.meaning import Ambiguous, Message, read_request, read_requests

PATIENCE_S = 10.0  # for an answer that must come; a loaded machine needs it
LOOK_S = 0.02  # for what need not come
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FINAL = re.compile(rb"HTTP/1\.1 [2-5]\d\d ")
KEY_FIELDS = (b"x-api-key", b"authorization", b"api-key", b"x-goog-api-key")
KEYS = [b"X-API-Key: user1", b"Authorization: Bearer user1", b"api-key: user1"]
SMUGGLED = b"GET /v1/smuggled?n=99 HTTP/1.1\r\nHost: a\r\nX-API-Key: user1\r\n\r\n"
LINES = [
    *(b"Content-Length: 0", b"Content-Length: 5", b"Content-Length : 5", b"Content-Length: +5"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"transfer_encoding: chunked"),
    *(b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked, chunked", b"TE: trailers"),
    *(b"Connection: close", b"Connection: content-length", b"Connection: keep-alive, host"),
    *(b"Expect: 100-continue", b"Upgrade: h2c", b"X: a\r\n b", b"X: a\nY: b", b"X: \0", b"Host: b"),
    *(b"X-API-Key: nobody", b"X-HTTP-Method-Override: DELETE", b"Trailer: X-Sum", b"Cookie: a=b"),
]
TARGETS = [b"/v1/x", b"/v1/x?a=b", b"http://gw/v1/x", b"/v1/../v1/x", b"/v2", b"/v1/%2e%2e/x"]


class Seen(NamedTuple):
    """What identifies a request on both sides."""

    query: bytes
    method: bytes
    body: bytes


def make(random: Random) -> bytes:
    """One to four requests in a row, some of them odd."""
    oddity = random.choice((0.0, 0.0, 0.2, 0.6))
    data = b"".join(_request(random, number, oddity) for number in range(random.randrange(1, 5)))
    while random.random() < oddity:
        data = random.choice(CHANGES)(random, data, [])
    if random.random() < 0.1:
        data = data[: random.randrange(len(data) + 1)]
    return data


def _request(random: Random, number: int, oddity: float) -> bytes:
    target = random.choice(TARGETS) if random.random() < 0.2 else b"/v1/x"
    target += b"?n=%d" % number if b"?" not in target else b"&n=%d" % number
    version = b"1.0" if random.random() < 0.05 else b"1.1"
    lines = [b"Host: gw", random.choice(KEYS)]
    if random.random() < oddity:
        lines.insert(random.randrange(3), random.choice(LINES))
    kind = random.randrange(3)
    if kind == 0:
        start, body = b"GET %b HTTP/%b" % (target, version), b""
    else:
        start = b"POST %b HTTP/%b" % (target, version)
        if kind == 1:
            body = random.choice([b"hello", SMUGGLED, b"0\r\n\r\n" + SMUGGLED, b"x" * 3000])
            lines.append(b"Content-Length: %d" % len(body))
        else:
            lines.append(b"Transfer-Encoding: chunked")
            body = make_chunks(random) if random.random() < oddity else _plain_chunks(random)
    return b"\r\n".join([start, *lines, b"", b""]) + body


def _plain_chunks(random: Random) -> bytes:
    chunks = [random.choice([SMUGGLED, b"a", b"0\r\n\r\n"]) for _ in range(random.randrange(4))]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def identity(message: Message) -> Seen:
    method, target, _ = message.head.start
    return Seen(target.partition(b"?")[2], method, message.body)


def has_key(message: Message) -> bool:
    return any(b"user1" in v.split() for name in KEY_FIELDS for v in message.head.values(name))


class Spy(asyncio.Protocol):
    """An upstream that reads by the letter, and answers each whole request."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            while self._data:
                message = read_request(self._data)
                self._data = self._data[message.size :]
                self._stage.seen.append(message)
                self._transport.write(ANSWER)
        except EOFError:
            pass
        except Ambiguous as why:
            self._stage.faults.append(f"the upstream has got {self._data!r}: {why}")
            self._transport.abort()


class Stage:
    """A gateway in this process with its spy, for many conversations."""

    def __init__(self) -> None:
        self.seen: list[Message] = []
        self.faults: list[str] = []
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._runner.run(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, fault: self.faults.append(repr(fault)))
        self._upstream = await loop.create_server(lambda: Spy(self), "127.0.0.1", 0)
        port = self._upstream.sockets[0].getsockname()[1]
        self._gateway = Gateway(toml(f"http://127.0.0.1:{port}"))
        await self._gateway.__aenter__()

    async def _close(self) -> None:
        await self._gateway.__aexit__()
        self._upstream.close()

    def close(self) -> None:
        self._runner.run(self._close())
        self._runner.close()

    def converse(self, pieces: list[bytes]) -> tuple[bytes, bool]:
        """What the client gets, and whether the gateway has closed the connection."""
        return self._runner.run(self._converse(pieces))

    async def _converse(self, pieces: list[bytes]) -> tuple[bytes, bool]:
        self.seen.clear()
        self.faults.clear()
        self._gateway.records.clear()
        # Between conversations the loop stands still, which looks to it like too much work.
        self._gateway.services.refusing = None
        meant, is_odd = read_requests(b"".join(pieces))
        reader, writer = await asyncio.open_connection("127.0.0.1", self._gateway.port)
        got, has_ended = b"", False
        try:
            for piece in pieces:
                if writer.transport.is_closing():
                    break  # reset, and uvloop takes nothing more
                writer.write(piece)
                await asyncio.sleep(0)  # so that it is a read of its own, as a rule
            while not has_ended:
                is_owed = len(FINAL.findall(got)) < len(meant)
                async with asyncio.timeout(PATIENCE_S if is_owed else LOOK_S if is_odd else 0):
                    data = await reader.read(65536)
                got, has_ended = got + data, not data
        except ConnectionError:
            has_ended = True
        except TimeoutError:
            pass
        finally:
            writer.transport.abort()
        await self._gateway.settled()
        return got, has_ended


@cache
def stage() -> Stage:
    return Stage()


def attempt(random: Random, counts: Counts) -> None:
    converse(cuts_of(random, make(random)), counts)


def converse(pieces: list[bytes], counts: Counts) -> None:
    """One conversation; AssertionError where something came of it that must not."""
    meant, is_odd = read_requests(b"".join(pieces))
    on = stage()
    got, has_ended = on.converse(pieces)
    counts["seen upstream"] += len(on.seen)
    counts["answered"] += len(FINAL.findall(got))
    counts["by the letter"] += len(meant)
    counts["closed" if has_ended else "odd, open" if is_odd else "open"] += 1
    assert not on.faults, (on.faults, pieces)
    check(meant, on.seen, pieces)
    answered = len(FINAL.findall(got))
    assert has_ended or answered >= len(meant), (answered, got, pieces)


def check(meant: list[Message], seen: list[Message], pieces: list[bytes]) -> None:
    """Each request upstream is one of the client's, in their order, with a key."""
    left = iter(meant)
    for message in seen:
        origin = next((one for one in left if identity(one) == identity(message)), None)
        assert origin is not None, f"smuggled: {message}\n  of {pieces!r}"
        assert has_key(origin), f"without a key: {message}\n  of {pieces!r}"


if __name__ == "__main__":
    sys.exit(main(attempt, "Requests in a row through a gateway.", "tests.fuzz.conversations"))
