"""Odd answers through a whole gateway, each followed by a request that has nothing to do with it.

    python -m tests.fuzz.upstreams --seconds 60 --seed 1

An upstream answers one request with whatever `answers.py` makes up, in pieces, and then leaves the
connection open, ends it, or resets it.  The client must get what h11 makes of that answer; or an
answer of the gateway's own; or one that is visibly cut.  And what the next request gets, which may
come on the same connection to the upstream, is its own answer: nothing was left over for it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from functools import cache
from random import Random
from typing import NamedTuple, cast

import uvloop

from tests.conversation import Gateway, toml
from tests.fuzz import answers
from tests.fuzz.bulk import Counts, cuts_of, main

PATIENCE_S = 10.0  # for an end that must come; a loaded machine needs it
LINGER_RST = struct.pack("ii", 1, 0)
OWN_ERROR = b"\r\nx-aigw-error: "
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"


class Script(NamedTuple):
    """How the upstream answers its next request."""

    pieces: list[bytes]
    end: str  # open, fin or rst


def plain(number: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nown-%03d" % number


class Spy(asyncio.Protocol):
    """The upstream; its requests have no bodies."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._stage.connections += 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, self._data = self._data.partition(b"\r\n\r\n")
            if b"/v1/odd" in head:
                self._stage.tasks.append(asyncio.ensure_future(self._play(self._stage.script)))
            else:
                self._transport.write(plain(int(head.split(b" ")[1].rpartition(b"=")[2])))

    async def _play(self, script: Script) -> None:
        for piece in script.pieces:
            if self._transport.is_closing():
                return
            self._transport.write(piece)
            await asyncio.sleep(0)
        if self._transport.is_closing():
            return
        if script.end == "fin":
            self._transport.close()
        elif script.end == "rst":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
            self._transport.abort()


class Stage:
    """A gateway in this process with its upstream, for many answers."""

    def __init__(self) -> None:
        self.script = Script([], "fin")
        self.tasks: list[asyncio.Future[None]] = []
        self.connections = 0
        self.faults: list[str] = []
        self._number = 0
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

    def play(self, script: Script, method: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """What the odd request gets; what two others get after it, and what they should."""
        return self._runner.run(self._play(script, method))

    async def _play(self, script: Script, method: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        self.script = script
        self.faults.clear()
        # Between runs the loop stands still, which looks to it like too much work.
        self._gateway.services.refusing = None
        got = await self._ask(method, b"/v1/odd")
        after = []
        for _ in range(2):
            self._number = (self._number + 1) % 1000
            told = await self._ask(b"GET", b"/v1/own?n=%d" % self._number)
            after.append((told, plain(self._number)[-7:]))
        await asyncio.gather(*self.tasks)
        self.tasks.clear()
        await self._gateway.settled()
        return got, after

    async def _ask(self, method: bytes, target: bytes) -> bytes:
        """All that a client gets that asks and then waits for the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._gateway.port)
        got = b""
        try:
            lines = [method + b" " + target + b" HTTP/1.1", b"Host: gw", b"X-API-Key: user1"]
            writer.write(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
            async with asyncio.timeout(PATIENCE_S):
                while data := await reader.read(65536):
                    got += data
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
        return got


@cache
def stage() -> Stage:
    return Stage()


def ends_by_itself(data: bytes, method: bytes) -> bool:
    """Does h11 find the end of the answer without that of the connection?"""
    return answers.h11_reads(data, method, at_end=False)[0] == "whole"


def attempt(random: Random, counts: Counts) -> None:
    data, method = answers.make(random), random.choice(answers.METHODS)
    ends = ["open", "open", "fin", "rst"] if ends_by_itself(data, method) else ["fin", "rst"]
    end = random.choice(ends)
    if end != "rst" and random.random() < 0.2:
        data += FORGED
    play(Script(cuts_of(random, data), end), method, counts)


def play(script: Script, method: bytes, counts: Counts) -> None:
    """One odd answer and what comes after it; AssertionError where something must not be."""
    on = stage()
    got, after = on.play(script, method)
    assert not on.faults, (on.faults, script)
    data = b"".join(script.pieces)
    meant = answers.h11_reads(data, method)
    told = answers.h11_reads(got, method)
    if OWN_ERROR in got:
        counts["refused"] += 1
    elif told[0] == "whole":
        counts["whole"] += 1
        assert told == meant, (told, meant, got, script)
        # A reset is no end of an answer that its connection's end would have ended.
        assert script.end != "rst" or ends_by_itself(data, method), (got, script)
    else:
        counts["cut"] += 1
    for said, own in after:
        is_refused = OWN_ERROR in said and b"HTTP/1.1 50" in said
        assert said.endswith(own) or is_refused, (said, own, script)
        counts["refused after it" if is_refused else "answered after it"] += 1


if __name__ == "__main__":
    sys.exit(main(attempt, "Odd answers through a gateway.", "tests.fuzz.upstreams"))
