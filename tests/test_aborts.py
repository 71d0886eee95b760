"""A thousand aborts at random moments leave nothing behind, as seen from outside.

Client and upstream break off, by FIN or by RST, in every phase that a request has. Afterwards the
workers must have as many open file descriptors as before, and every gauge and every held place
must be back: /proc and /metrics are looked at, and the shared memory through /proc/PID/mem, so
nothing rests on what the gateway says of itself alone.

The moments come from a seed, which a failure prints.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from aigw.memory.layout import WORD_BYTES, lay_out
from tests.conversation import PATIENCE_S, Peer, Upstream, ok
from tests.running import RunningGateway, running_gateway

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ABORTS = 1000
AT_ONCE = 50
SETTLE_S = 20.0
WORKERS = 2
CONFIG = """
[listen]
address = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin_port}"
workers = 2
[timeouts]
connect = "1s"
[log]
access = "off"
[[keys]]
name = "user1"
key = "user1"
max_parallel_requests = 500
[[upstreams]]
name = "up"
urls = ["http://127.0.0.1:UPSTREAM"]
pool = { keep_alive = "500ms" }
[[upstreams]]
name = "full"
urls = ["http://127.0.0.1:FULL"]
[[upstreams]]
name = "nobody"
urls = ["http://127.0.0.1:NOBODY"]
[[routes]]
path = "/v1"
targets = [{ upstream = "up" }]
[[routes]]
path = "/full"
targets = [{ upstream = "full" }]
[[routes]]
path = "/nobody"
targets = [{ upstream = "nobody" }]
"""

# --- the upstream: what it does is in the request's path ----------------------------------------

CHUNK = b"400\r\n" + b"x" * 1024 + b"\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAN = re.compile(rb"^[A-Z]+ /v1/([a-z-]+)/(fin|rst|-)/([0-9]+) ")


async def give_up(peer: Peer, how: bytes) -> None:
    if how == b"rst":
        peer.reset()
    else:
        await peer.close()


async def serve(peer: Peer) -> None:
    """One connection of the upstream; ends when its script says so, or with the gateway's end."""
    try:
        await play(peer)
    except RuntimeError as fault:  # asyncio's streams resume reading on what uvloop has closed
        assert "the handler is closed" in str(fault)


async def play(peer: Peer) -> None:
    while True:
        head = await peer.until(b"\r\n\r\n")
        plan = PLAN.match(head)
        assert plan is not None, head
        phase, how, delay_ms = plan[1], plan[2], int(plan[3])
        if phase in UPSTREAM_ABORTS:
            await UPSTREAM_ABORTS[phase](peer, head, delay_ms / 1000)
            await give_up(peer, how)
            return
        await take_body(peer, head)
        if phase == b"silence":
            await peer.rest()
            return
        if phase == b"stream":
            await peer.send(HEAD)
            while True:
                await peer.send(CHUNK)
                await asyncio.sleep(0.002)
        await peer.send(ok(b"done"))


async def take_body(peer: Peer, head: bytes) -> None:
    length = re.search(rb"content-length: ([0-9]+)", head.lower())
    await peer.exactly(int(length[1]) if length else 0)


async def after_head(peer: Peer, head: bytes, delay_s: float) -> None:
    await asyncio.sleep(delay_s)


async def in_upload(peer: Peer, head: bytes, delay_s: float) -> None:
    await peer.some()
    await asyncio.sleep(delay_s)


async def before_answer(peer: Peer, head: bytes, delay_s: float) -> None:
    await take_body(peer, head)
    await asyncio.sleep(delay_s)


async def in_answer_head(peer: Peer, head: bytes, delay_s: float) -> None:
    await take_body(peer, head)
    await peer.send(HEAD[:30])
    await asyncio.sleep(delay_s)


async def in_stream(peer: Peer, head: bytes, delay_s: float) -> None:
    await take_body(peer, head)
    await peer.send(HEAD + CHUNK + CHUNK[:700])
    await asyncio.sleep(delay_s)


async def when_idle(peer: Peer, head: bytes, delay_s: float) -> None:
    await take_body(peer, head)
    await peer.send(ok(b"idle"))
    await asyncio.sleep(delay_s)


async def with_the_answer(peer: Peer, head: bytes, delay_s: float) -> None:
    """An answer at once, to a body that is still arriving."""
    await peer.send(ok(b"early"))
    await asyncio.sleep(delay_s)


UPSTREAM_ABORTS: dict[bytes, Callable[[Peer, bytes, float], Awaitable[None]]] = {
    b"after-head": after_head,
    b"in-upload": in_upload,
    b"before-answer": before_answer,
    b"in-answer-head": in_answer_head,
    b"in-stream": in_stream,
    b"when-idle": when_idle,
    b"with-the-answer": with_the_answer,
}


UPSTREAM_PHASES = ["refused by nobody", *(phase.decode() for phase in UPSTREAM_ABORTS)]

# --- the clients --------------------------------------------------------------------------------


def request(path: str, body_bytes: int) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: gw\r\nX-API-Key: user1\r\nContent-Length: %d\r\n\r\n%b" % (
        path.encode(),
        body_bytes,
        b"x" * body_bytes,
    )


class Storm:
    """Aborts, one after the other in each of several lanes."""

    def __init__(self, port: int, seed: int):
        self.port = port
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self._left = ABORTS

    async def run(self) -> None:
        await asyncio.gather(*(self._lane() for _ in range(AT_ONCE)))

    async def _lane(self) -> None:
        while self._left > 0:
            self._left -= 1
            if self.random.random() < 0.5:
                phase = self.random.choice(list(CLIENT_ABORTS))
                await self._client_aborts(phase)
            else:
                phase = self.random.choice(UPSTREAM_PHASES)
                await self._upstream_aborts(phase)
            self.done[phase] += 1

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Peer]:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            yield peer
        except (ConnectionError, EOFError):
            pass  # the other side was faster
        finally:
            await peer.close()

    async def _pause(self) -> None:
        """Nothing, a turn of the loop, or some milliseconds."""
        pause_s = self.random.choice([None, 0.0, self.random.random() * 0.01])
        if pause_s is not None:
            await asyncio.sleep(pause_s)

    async def _client_aborts(self, phase: str) -> None:
        async with self.connected() as peer:
            await CLIENT_ABORTS[phase](self, peer)
            await self._pause()
            if self.random.random() < 0.5:
                peer.reset()
            elif self.random.random() < 0.5:
                peer.end()
                await asyncio.wait_for(peer.rest(), PATIENCE_S)

    async def _upstream_aborts(self, phase: str) -> None:
        """The client waits for what it gets: an answer, an error or a cut one, but an end."""
        how, delay_ms = self.random.choice(["fin", "rst"]), self.random.randrange(5)
        path = f"/v1/{phase}/{how}/{delay_ms}" if phase != UPSTREAM_PHASES[0] else "/nobody/x"
        uploads = phase in ("in-upload", "with-the-answer", "after-head")
        body_bytes = self.random.choice([10, 300_000] if uploads else [0, 10, 3000])
        async with self.connected() as peer:
            await peer.send(request(path, body_bytes))
            async with asyncio.timeout(PATIENCE_S):
                answer = await peer.answer()
            assert answer.status in (0, 200, 502), (phase, answer.status)
            assert answer.whole or phase != "when-idle"


# What each of them has done when it breaks off.


async def nothing(storm: Storm, peer: Peer) -> None:
    pass


async def half_a_head(storm: Storm, peer: Peer) -> None:
    whole = request("/v1/plain/-/0", 0)
    await peer.send(whole[: storm.random.randrange(1, len(whole))])


async def half_a_body(storm: Storm, peer: Peer) -> None:
    size = storm.random.choice([10, 3000, 200_000])
    whole = request("/v1/plain/-/0", size)
    await peer.send(whole[: -storm.random.randrange(1, size)])


async def awaiting(storm: Storm, peer: Peer) -> None:
    await peer.send(request("/v1/silence/-/0", storm.random.choice([0, 10, 100_000])))


async def connecting(storm: Storm, peer: Peer) -> None:
    await peer.send(request("/full/x", storm.random.choice([0, 10, 100_000])))


async def first_chunk(peer: Peer) -> None:
    """Or none: a pooled connection that an upstream closed just now makes a 502."""
    if b" 200 OK\r\n" in await peer.until(b"\r\n\r\n"):
        await peer.until(b"400\r\n")


async def streaming(storm: Storm, peer: Peer) -> None:
    await peer.send(request("/v1/stream/-/0", 10))
    await first_chunk(peer)


async def streaming_unread(storm: Storm, peer: Peer) -> None:
    await peer.send(request("/v1/stream/-/0", 10))


async def idle(storm: Storm, peer: Peer) -> None:
    await peer.send(request("/v1/plain/-/0", 10))
    assert (await peer.answer()).whole


async def pipelining(storm: Storm, peer: Peer) -> None:
    await peer.send(request("/v1/stream/-/0", 10) + request("/v1/plain/-/0", 10) * 3)
    await first_chunk(peer)


async def refused(storm: Storm, peer: Peer) -> None:
    await peer.send(request("/v1/plain/-/0", 100_000).replace(b"user1", b"nobody"))


CLIENT_ABORTS: dict[str, Callable[[Storm, Peer], Awaitable[None]]] = {
    "nothing": nothing,
    "half a head": half_a_head,
    "half a body": half_a_body,
    "awaiting": awaiting,
    "connecting": connecting,
    "streaming": streaming,
    "streaming unread": streaming_unread,
    "idle": idle,
    "pipelining": pipelining,
    "refused": refused,
}

# --- what is looked at --------------------------------------------------------------------------

GAUGES = re.compile(r"aigw_(requests_in_flight|connections|upstream_connections)\b")


def held_words(pid: int) -> dict[int, int]:
    """The words of held places that are not 0, by their place in the table, as a worker maps them.

    The mapping is the only shared anonymous one of that size.
    """
    layout = lay_out(WORKERS)
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in maps if line.split()[1].endswith("s")]
    sizes = {int(start, 16): int(end, 16) - int(start, 16) for start, end in ranges}
    (start,) = (start for start, size in sizes.items() if size >= layout.size_bytes)
    count = 1024 * layout.indexes  # rows are given out from the first on
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        memory.seek(start + layout.held * WORD_BYTES)
        words = struct.unpack(f"@{count}q", memory.read(count * WORD_BYTES))
    return {place: word for place, word in enumerate(words) if word}


State = dict[str, Any]


def state(gateway: RunningGateway) -> State:
    """All that must be as before."""
    children = gateway.children()
    seen: State = {
        series: value for series, value in gateway.metrics().items() if GAUGES.match(series)
    }
    for pid in children:
        files = Counter(kind_of_file(link) for link in Path(f"/proc/{pid}/fd").iterdir())
        seen[f"files of {pid}"] = dict(files)
        seen[f"held as {pid} sees it"] = held_words(pid)
    return seen


def kind_of_file(link: Path) -> str:
    """`socket:[123]` is a socket, whichever."""
    try:
        return re.sub(r"\[?[0-9]+\]?", "", str(link.readlink()))
    except FileNotFoundError:  # closed just now
        return "gone"


def difference(before: State, after: State) -> State:
    names = before.keys() | after.keys()
    return {n: (before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)}


@asynccontextmanager
async def full_port() -> AsyncIterator[int]:
    """A listener whose queue is full: who connects to it waits (Linux drops the SYN)."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for client in waiting:
                client.close()


def test_a_thousand_aborts_leave_nothing_behind() -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")

    async def main() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            nobody = unused.getsockname()[1]
            async with Upstream(serve) as upstream, full_port() as full:
                ports = {"UPSTREAM": upstream.port, "FULL": full, "NOBODY": nobody}
                config = CONFIG
                for name, port in ports.items():
                    config = config.replace(name, str(port))
                with running_gateway(config) as gateway:
                    await weather(gateway, seed)

    uvloop.run(main())


async def weather(gateway: RunningGateway, seed: int) -> None:
    """Calm, one request that shows that calm can be told from its opposite, a storm, calm."""
    storm = Storm(gateway.port, seed)
    async with storm.connected() as peer:
        await streaming(storm, peer)
        running = await settled(gateway, is_busy)
        assert running["aigw_requests_in_flight"] == running["aigw_connections"] == 1.0
        held = [value for what, value in running.items() if what.startswith("held")]
        assert len(held) == WORKERS + 1
        assert all(len(words) == 1 and 1 in words.values() for words in held)
    before = await settled(gateway, is_calm)
    assert is_calm(before)
    children = gateway.children()
    started_s = time.monotonic()
    async with asyncio.timeout(40):
        await storm.run()
    took_s = time.monotonic() - started_s
    print(f"{sum(storm.done.values())} aborts in {took_s:.1f} s: {dict(storm.done)}")
    assert set(storm.done) == {*CLIENT_ABORTS, *UPSTREAM_PHASES}
    after = await settled(gateway, lambda seen: seen == before)
    assert not difference(before, after)
    assert gateway.children() == children  # nobody died


def is_busy(seen: State) -> bool:
    """One connection to the upstream is in use (the gauge is set four times a second)."""
    in_use = [value for what, value in seen.items() if 'state="in_use"' in what]
    return sorted(in_use) == [0, 0, 1]


def is_calm(seen: State) -> bool:
    """No gauge but 0, no place held."""
    return not any(value for what, value in seen.items() if not what.startswith("files"))


async def settled(gateway: RunningGateway, is_so: Callable[[State], bool]) -> State:
    """The state once that is so; at the latest after `SETTLE_S`."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + SETTLE_S
    while True:
        seen = await asyncio.to_thread(state, gateway)
        if is_so(seen) or loop.time() > deadline_s:
            return seen
        await asyncio.sleep(0.1)
