"""Conversations over real sockets: a gateway in this process, scripted upstreams, raw clients.

    async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
        client = await gateway.client()
        await client.send(b"GET /v1/models HTTP/1.1\r\n...")
        assert (await client.answer()).status == 200

A script is a coroutine function that gets a `Peer` for each connection that the upstream accepts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

import h11
import orjson
import uvloop

from aigw.config import Settings, load
from aigw.memory import BucketTable, CounterRegion, HeldTable, Memory
from aigw.observe.access_log import AccessLog
from aigw.observe.metrics import Totals, WorkerMetrics
from aigw.policy import compile_policy, load_policy
from aigw.policy.limits import Limits
from aigw.proxy.client import ClientConnection
from aigw.proxy.deadlines import SWEEP_S, Sweeper
from aigw.proxy.lag import Lag
from aigw.proxy.services import Services
from aigw.upstreams.connection import UpstreamConnection
from aigw.upstreams.connector import ConnectFailure

# Open a connection to each member before the first request; see `both_ways` in conftest.py.
WARM = False

T = TypeVar("T")
# As a machine needs that is busy with other things; no test takes a tenth of it otherwise.
PATIENCE_S = 40.0


def converse(conversation: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine on uvloop, with an end to its patience; nothing may be left behind."""

    async def patient() -> T:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with asyncio.timeout(PATIENCE_S):
            result = await conversation
        await asyncio.sleep(0)
        assert not faults, faults
        return result

    return uvloop.run(patient())


class Peer:
    """One raw connection, seen from either end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer
        self.received = b""  # all that has come, whatever was made of it
        self._unread = b""
        self.over = asyncio.Event()  # set when an upstream's script has ended

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def some(self) -> bytes:
        """What comes next; empty at the end."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        data = await self.reader.read(65536)
        self.received += data
        return data

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`."""
        data = b""
        while mark not in data:
            more = await self.some()
            if not more:
                raise EOFError(f"ended after {len(data)} bytes, the last {data[-100:]!r}")
            data += more
        end = data.index(mark) + len(mark)
        self._unread = data[end:] + self._unread
        return data[:end]

    async def exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = await self.some()
            if not more:
                raise EOFError(f"ended after {len(data)} bytes, the last {bytes(data[-100:])!r}")
            data += more
        self._unread = bytes(data[size:]) + self._unread
        return bytes(data[:size])

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        data = b""
        while more := await self.some():
            data += more
        return data

    async def request(self) -> tuple[bytes, bytes]:
        """One request as an upstream sees it: its head and its body (decoded if chunked)."""
        head = await self.until(b"\r\n\r\n")
        lower = head.lower()
        if b"\r\ntransfer-encoding: chunked\r\n" in lower:
            return head, await self._chunks()
        if b"\r\ncontent-length: " in lower:
            length = int(lower.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
            return head, await self.exactly(length)
        return head, b""

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int(await self.until(b"\r\n"), 16)
            if size == 0:
                assert await self.until(b"\r\n") == b"\r\n"
                return body
            body += await self.exactly(size)
            assert await self.exactly(2) == b"\r\n"

    async def answer(self, method: bytes = b"GET") -> Answer:
        """One answer as h11 reads it; `whole` is False where it was cut."""
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"x")]))
        connection.send(h11.EndOfMessage())
        answer = Answer()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                try:
                    data = await self.some()
                except ConnectionResetError:
                    answer.reset = True
                    return answer
                try:
                    connection.receive_data(data)
                    if not data:
                        answer.ended = True
                        connection.next_event()
                except h11.RemoteProtocolError:
                    return answer
                if not data:
                    answer.whole = answer.status > 0
                    return answer
            elif isinstance(event, h11.InformationalResponse):
                answer.interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.fields = list(event.headers)
            elif isinstance(event, h11.Data):
                answer.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                answer.whole = True
                self._unread = bytes(connection.trailing_data[0]) + self._unread
                return answer

    async def closed(self) -> bool:
        """True once the other side has ended or reset the connection."""
        try:
            return await self.some() == b""
        except ConnectionResetError:
            return True

    def end(self) -> None:
        """Send FIN, go on reading."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Send RST."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:  # else it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


class Answer:
    """What a client has got."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.interim: list[int] = []
        self.whole = False
        self.ended = False
        self.reset = False

    def __getitem__(self, name: str) -> str:
        """The value of a field; KeyError without it, ValueError if it is repeated."""
        values = [value for key, value in self.fields if key == name.lower().encode()]
        if not values:
            raise KeyError(name)
        (value,) = values
        return value.decode()

    def __contains__(self, name: str) -> bool:
        return any(key == name.lower().encode() for key, _ in self.fields)

    @property
    def code(self) -> str:
        """The word of a gateway-made error, which stands in header and body alike."""
        word = self["x-aigw-error"]
        assert orjson.loads(self.body)["error"]["code"] == word
        return word


Script = Callable[[Peer], Awaitable[None]]


class Upstream:
    """A scripted server; `peers` holds its connections in the order of their arrival."""

    def __init__(self, script: Script):
        self._script = script
        self.peers: list[Peer] = []
        self.faults: list[BaseException] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            await self._script(peer)
        except (EOFError, ConnectionError):
            pass
        except Exception as fault:
            self.faults.append(fault)
        finally:
            peer.over.set()
            await peer.close()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for peer in self.peers:
            await peer.close()
        assert not self.faults, self.faults


def answering(*answers: bytes) -> Script:
    """Answer the first request of every connection with the first answer, and so on."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.request()
            await peer.send(answer)
        await peer.rest()

    return script


def ok(body: bytes = b"ok", fields: bytes = b"") -> bytes:
    """A plain 200."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), fields, body)


def toml(
    *upstreams: Upstream | str, top: str = "", key: str = "", upstream: str = "", route: str = ""
) -> str:
    """A small configuration; the further arguments are lines for its tables."""
    urls = [u if isinstance(u, str) else f"http://127.0.0.1:{u.port}" for u in upstreams]
    credentials = "" if "credentials" in upstream else 'credentials = ["sk-upstream"]'
    listed = ", ".join(f'"{url}"' for url in urls)
    return f"""
{top}
[[keys]]
name = "user1"
key = "user1"
{key}
[[upstreams]]
name = "up"
urls = [{listed}]
{credentials}
{upstream}
[[routes]]
path = "/v1"
targets = [{{ upstream = "up" }}]
{route}
"""


def settings_of(text: str) -> Settings:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.toml"
        file.write_text("" if "[log]" in text else '[log]\naccess = "off"\n')
        file.write_text(text if "[log]" in text else text + '\n[log]\naccess = "off"\n')
        return load(file, os.environ)


class Clock:
    """The time of a gateway in this process, which passes only when it is told to; see `clock` in
    conftest.py.  So nothing is late because the machine is busy, and nobody waits for lateness.

    Eighths of a second are exact.
    """

    def __init__(self) -> None:
        self.now_s = 1024.0

    def __call__(self) -> float:
        return self.now_s

    def forward(self, gateway: Gateway, by_s: float) -> None:
        """Let so much time pass, with the looks that the gateway takes meanwhile."""
        end_s = self.now_s + by_s
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + SWEEP_S)
            gateway.sweep()


class NeverLate(Lag):
    """What a loop is told that is late because the machine is, or stands still between examples."""

    def swept(self, now_s: float) -> bool:
        return False


class Gateway:
    """One worker's proxy in this process, without master, controller and fork."""

    lag: type[Lag] = NeverLate

    def __init__(self, text: str):
        self.memory = Memory.create(1)
        self.memory.used = 1
        self.publish(text)
        self.records: list[dict[str, Any]] = []

    def publish(self, text: str) -> None:
        """What a reload does: the next request finds the new policy."""
        blob = compile_policy(settings_of(text), self.memory, time.monotonic())
        self.memory.policy.publish(blob)

    async def __aenter__(self) -> Self:
        version, blob = self.memory.policy.read()
        policy = load_policy(blob)
        self.metrics = WorkerMetrics(CounterRegion(self.memory, 0))
        self.limits = Limits(BucketTable(self.memory, 0), HeldTable(self.memory, 0))
        log = AccessLog("off", lambda lines: None)
        log.enabled = True
        log.append = self._append  # type: ignore[method-assign]
        self.services = Services(self.memory, 0, self.limits, self.metrics, log)
        self.services.use_policy(version, policy)
        self.sweeper = Sweeper(self.services, lambda now_s: None)
        self.sweeper._lag = self.lag(SWEEP_S)
        self.sweeper.start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(self.services), "127.0.0.1", 0
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._clients: list[Peer] = []
        if WARM:
            await self._warm_up()
        return self

    async def _warm_up(self) -> None:
        """An idle connection to each member that can be reached at once; it counts as unused."""
        for group in self.services.groups():
            for member in group.members:
                with contextlib.suppress(ConnectFailure):
                    now_s = time.monotonic()
                    connection = await member.connector.connect(
                        lambda member=member, now_s=now_s: UpstreamConnection(member, now_s), 0.2
                    )
                    member.give_idle(connection, now_s)

    def _append(self, line: bytes) -> None:
        self.records.append(orjson.loads(line))

    async def client(self) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(peer)
        return peer

    async def ask(self, request: bytes, method: bytes = b"GET") -> Answer:
        """One request on a connection of its own."""
        client = await self.client()
        await client.send(request)
        return await client.answer(method)

    async def record(self) -> dict[str, Any]:
        """The record of the only request so far."""
        await self.settled()
        (record,) = self.records
        return record

    async def settled(self) -> None:
        """Wait until no exchange is running and everything taken has been given back."""
        while self.value("requests_in_flight"):
            await asyncio.sleep(0.005)
        for group in self.services.groups():
            assert all(member.inflight == 0 for member in group.members)
        for key in self.services.policy.keys.values():
            if key.held_row >= 0:
                assert self.limits.held.total(key.held_row) == 0

    def sweep(self) -> None:
        """Look at once for what is late."""
        self.sweeper.stop()
        self.sweeper._sweep()

    def value(self, name: str, *labels: str) -> int:
        """A counter or gauge of this worker."""
        return Totals([CounterRegion(self.memory, 0)]).value(name, *labels)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for client in self._clients:
            await client.close()
        self.sweeper.stop()
        for connection in tuple(self.services.connections):
            connection.abort()
        for group in self.services.groups():
            group.retire()
        await asyncio.sleep(0.01)
        await self.services.log.close()
