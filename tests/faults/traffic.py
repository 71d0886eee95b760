"""Numbered requests and the upstreams that count them: so that what is lost or doubled shows.

Each request carries a number of its own in `X-Number`; the ledger knows which were given out, and
how often each of them has arrived at any of its upstreams.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from aigw.mock.provider import MockProvider, MockServer, MockSettings
from aigw.mock.recall import Recall
from aigw.mock.request import Request
from tests.conversation import Answer, Peer
from tests.faults.outcome import Outcome
from tests.gateway_process import CHAT, LOOK_S, Load, ServerProcess, request

NUMBER = b"x-number"
WORKER = re.compile(rb"(?i)\r\nx-aigw-request-id: (\S+)\S{8}\r\n")
ERRORS = (502, 503, 504)  # what a gateway answers in the upstream's place
BACKLOG = 4096
# In a closed loop; streams beside them; answers after which all is warm.
CLIENTS, STREAMS, WARM = 30, 10, 300


class Size(NamedTuple):
    """How long a fault takes: by hand, or in .ci/run."""

    reloads_s: float
    streams_s: float
    connections: int
    streams: int
    flaps: int


LONG = Size(reloads_s=8.0, streams_s=10.0, connections=10_000, streams=2_000, flaps=12)
SHORT = Size(reloads_s=3.0, streams_s=4.0, connections=1_000, streams=200, flaps=4)


class Ledger:
    """The numbers given out, and those that have arrived."""

    def __init__(self) -> None:
        self.arrived: Counter[bytes] = Counter()
        self._numbers = itertools.count(1)
        self.asked = 0

    def number(self) -> str:
        self.asked = next(self._numbers)
        return str(self.asked)

    @property
    def duplicated(self) -> int:
        return sum(times > 1 for times in self.arrived.values())

    async def upstream(self, port: int = 0) -> MockServer:
        """The mock provider, counting; use it as a context."""
        provider = CountingProvider(self)
        server = await asyncio.get_running_loop().create_server(
            provider.connection, "127.0.0.1", port, backlog=BACKLOG
        )
        return MockServer(provider, server)


class Forgetful(Recall):
    """So that each request is looked at."""

    def find(self, data: bytes) -> None:
        return None


class CountingProvider(MockProvider):
    """Notes the number of each request."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(MockSettings())
        self.recall = Forgetful()
        self._ledger = ledger

    def answer(self, request: Request):  # type: ignore[no-untyped-def]
        number = request.header(NUMBER)
        if number is not None:
            self._ledger.arrived[bytes(number)] += 1
        return super().answer(request)


class Traffic(Load):
    """Numbered requests in a closed loop; knows who answered, when, and whose connections fell."""

    def __init__(
        self,
        server: ServerProcess,
        ledger: Ledger,
        target: str = "/v1/models",
        key: str = "user1",
        body: object = None,
        **fields: str,
    ) -> None:
        super().__init__(server)
        self._ledger = ledger
        self._template = request(target, key, body, X_Number="NUMBER", **fields)
        self.at: dict[Peer, str] = {}  # the worker of each connection
        self.fell_at: Counter[str] = Counter()
        self.first_s: dict[str, float] = {}  # by worker
        self.last_s: dict[int, float] = {}  # by status

    def next_request(self) -> bytes:
        return self._template.replace(b"NUMBER", self._ledger.number().encode())

    def heard(self, peer: Peer, answer: Answer) -> None:
        super().heard(peer, answer)
        now_s = time.monotonic()
        self.at[peer] = worker = answer["x-aigw-request-id"][:-8]
        self.first_s.setdefault(worker, now_s)
        self.last_s[answer.status] = now_s

    def fell(self, peer: Peer, how: str) -> None:
        super().fell(peer, how)
        self.fell_at[self.at.pop(peer, "")] += 1

    async def until(self, holds: Callable[[], object], patience_s: float = 20.0) -> None:
        """Wait for something to come of it."""
        async with asyncio.timeout(patience_s):
            while not holds():
                await asyncio.sleep(LOOK_S)


class Streams:
    """Streamed answers that run beside; each must come to its `[DONE]`."""

    def __init__(
        self,
        server: ServerProcess,
        ledger: Ledger,
        count: int,
        lasting_s: float,
        spacing_ms: int = 20,
        key: str = "user1",
    ) -> None:
        chunks = int(lasting_s * 1000 / spacing_ms)
        self._server = server
        self._count = count
        self._data = [
            request(
                "/v1/chat/completions",
                key,
                CHAT | {"stream": True},
                X_Number=ledger.number(),
                x_mock_chunks=str(chunks),
                x_mock_spacing_ms=str(spacing_ms),
            )
            for _ in range(count)
        ]
        self._peers: list[Peer] = []
        self._answers: list[asyncio.Task[Answer]] = []
        self.cut = 0
        self.lost = 0
        self.whole = 0
        self.fell_at: Counter[str] = Counter()

    async def begin(self) -> None:
        """Ask; returns when all of them have begun."""
        for data in self._data:
            peer = Peer(*await asyncio.open_connection(*self._server.address))
            await peer.send(data)
            self._peers.append(peer)
            self._answers.append(asyncio.create_task(peer.answer()))
        waiting = self._peers
        while waiting := [peer for peer in waiting if b"data: " not in peer.received]:
            ended = [a.result() for a in self._answers if a.done() and a.result().status != 200]
            assert not ended, [(answer.status, answer.body) for answer in ended]
            await asyncio.sleep(LOOK_S)

    def running_at(self, worker: str) -> int:
        return sum(self._worker_of(peer) == worker for peer in self._peers)

    @staticmethod
    def _worker_of(peer: Peer) -> str:
        found = WORKER.search(peer.received)
        return found[1].decode() if found else ""

    async def end(self) -> None:
        """Wait for all of them and see how they ended."""
        for peer, answer in zip(self._peers, await asyncio.gather(*self._answers), strict=True):
            if answer.whole and answer.body.endswith(b"data: [DONE]\n\n"):
                self.whole += 1
            else:
                self.fell_at[self._worker_of(peer)] += 1
                self.cut += answer.status > 0
                self.lost += answer.status == 0
            await peer.close()


async def busy(server: ServerProcess, ledger: Ledger, streams_s: float) -> tuple[Traffic, Streams]:
    """Requests in a closed loop, all warm, and streams that last so long, all begun."""
    traffic = Traffic(server, ledger)
    await traffic.run(CLIENTS, least=WARM)
    streams = Streams(server, ledger, STREAMS, streams_s)
    await streams.begin()
    return traffic, streams


async def outcome_of(ledger: Ledger, *loads: Traffic, streams: Streams | None = None) -> Outcome:
    """Let all of it end; what came of it."""
    for load in loads:
        await load.end()
    fell, cut = sum(len(load.lost) for load in loads), sum(load.cut for load in loads)
    outcome = Outcome(asked=ledger.asked, lost=fell - cut, cut=cut)
    if streams is not None:
        await streams.end()
        outcome.lost += streams.lost
        outcome.cut += streams.cut
    outcome.told = sum(load.statuses[status] for load in loads for status in ERRORS)
    outcome.duplicated = ledger.duplicated
    for load in loads:
        odd = set(load.statuses) - {200, 401, *ERRORS}
        outcome.expect(not odd, f"answers of status {odd}")
    return outcome


async def waiting(server: ServerProcess, ledger: Ledger, key: str) -> asyncio.Task[Answer]:
    """A request on a connection of its own, and its answer to come."""
    client = await server.client()
    await client.send(request(key=key, X_Number=ledger.number()))
    return asyncio.create_task(client.answer())
