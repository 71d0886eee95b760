"""What a connection costs in memory: idle ones after one request, and open streams.

`python -m bench.memory PID --port 8080` opens so many to a running server, reads the PSS of its
process tree before and after, and divides. A warm-up comes first, so that what is allocated once
is not counted. The connections are held by this process, which is not part of the tree; all are
closed at the end, or after `HOLD_S` if the server does not answer. What the kernel keeps for a
socket (some 3 KiB each side) is in nobody's PSS.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple, cast

import uvloop

from bench.cpu import memory
from bench.request import RequestPlan, maker

Kind = Literal["idle", "stream"]
COUNTS: dict[Kind, int] = {"idle": 5000, "stream": 1000}
WARM_UP = 50
AT_ONCE = 64  # connections that are opened together, so that no accept queue overflows
SETTLE_S = 1.5  # until the server has written its log and swept
HOLD_S = 60.0
SPACING_MS = 3_600_000  # of a stream's chunks: the second one never comes
FILES_RESERVED = 64


class Unanswered(Exception):  # noqa: N818 - what happened
    """The server did not answer all."""


class Growth(NamedTuple):
    """By how much the tree's PSS grew with so many connections."""

    connections: int
    before_bytes: int
    after_bytes: int

    @property
    def per_connection_bytes(self) -> float:
        return (self.after_bytes - self.before_bytes) / self.connections


class _Held(asyncio.Protocol):
    """Asks once and stays; `answered` is set when the answer (of a stream: its beginning) came."""

    __slots__ = ("_is_stream", "_request", "_seen", "answered", "transport")

    def __init__(self, request: bytes, is_stream: bool) -> None:
        self._request = request
        self._is_stream = is_stream
        self._seen = b""
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.answered.done():
            return
        self._seen += data
        head, found, body = self._seen.partition(b"\r\n\r\n")
        if found and not head.startswith(b"HTTP/1.1 200"):
            self.answered.set_exception(Unanswered(head.decode(errors="replace")))
            self.answered.exception()  # looked at, should nobody else do so
        elif found and (b"data:" in body if self._is_stream else body.rstrip().endswith(b"}")):
            self.answered.set_result(None)
            self._seen = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(Unanswered("the connection ended"))
            self.answered.exception()  # looked at, should nobody else do so


@asynccontextmanager
async def _held(port: int, request: bytes, is_stream: bool, count: int) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    held: list[_Held] = []
    try:
        while len(held) < count:
            batch = await asyncio.gather(
                *(
                    loop.create_connection(lambda: _Held(request, is_stream), "127.0.0.1", port)
                    for _ in range(min(AT_ONCE, count - len(held)))
                )
            )
            held += [one for _, one in batch]
            await asyncio.gather(*(one.answered for _, one in batch))
        yield
    finally:
        for one in held:
            one.transport.abort()
        await asyncio.sleep(SETTLE_S)


async def _measure(pid: int, port: int, request: bytes, is_stream: bool, count: int) -> Growth:
    async with asyncio.timeout(HOLD_S):
        async with _held(port, request, is_stream, WARM_UP):
            pass
        before = memory(pid).pss_bytes
        async with _held(port, request, is_stream, count):
            await asyncio.sleep(SETTLE_S)
            after = memory(pid).pss_bytes
    return Growth(count, before, after)


def growth(pid: int, plan: RequestPlan, port: int, kind: Kind, count: int = 0) -> Growth:
    """What `count` connections (0: as in `COUNTS`) cost the tree below `pid`.

    `plan` names host, path and key. Raises Unanswered where one is not answered.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count = min(count or COUNTS[kind], most - FILES_RESERVED)
    is_stream = kind == "stream"
    plan = plan._replace(stream=is_stream, chunks=3, spacing_ms=SPACING_MS)
    return uvloop.run(_measure(pid, port, maker(plan)(), is_stream, count))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("pid", type=int, help="root of the server's process tree")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--key", default="sk-gw")
    parser.add_argument("--connections", type=int, default=0)
    parser.add_argument("--only", choices=tuple(COUNTS), help="one kind alone")
    options = parser.parse_args(argv)
    plan = RequestPlan(host=f"127.0.0.1:{options.port}", key=options.key)
    for kind in COUNTS:
        if options.only in (None, kind):
            found = growth(options.pid, plan, options.port, kind, options.connections)
            print(
                f"{kind}: {found.per_connection_bytes / 1024:.2f} KiB each, {found.connections} "
                f"connections: PSS {found.before_bytes / 2**20:.1f} -> "
                f"{found.after_bytes / 2**20:.1f} MiB"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
