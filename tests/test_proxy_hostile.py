"""Conversations with those who mean no good: what nobody may use up, see, cut or mix up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest
from conversation import Answer, Gateway, Peer, Upstream, answering, converse, ok, toml

from aigw.proxy.client import ClientConnection
from aigw.proxy.exchange import ends_with_done
from aigw.sockets import Places
from aigw.upstreams.connection import UpstreamConnection
from aigw.upstreams.connector import Connector

pytestmark = pytest.mark.usefixtures("both_ways")

KEY = b"X-API-Key: user1\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: gw\r\n" + KEY + b"\r\n"
# More than all buffers on the way to a slow reader hold together, with small windows.
LARGE = 400_000
# What a connection may hold of an answer that nobody takes, or of a body: a mark of 64 KiB, and
# what one read can bring beyond it.
MOST_HELD = 600_000


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines are looked at often, and nobody lingers for long."""
    monkeypatch.setattr("aigw.proxy.deadlines.SWEEP_S", 0.02)
    monkeypatch.setattr("aigw.proxy.client.LINGER_S", 0.1)
    for room in ("deadlines", "client", "exchange"):
        monkeypatch.setattr(f"aigw.proxy.{room}.LOOK_S", 0.05)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's sockets hold as little as a bad network lets them, not what loopback does."""
    for protocol in (ClientConnection, UpstreamConnection):
        narrow(monkeypatch, protocol)


def narrow(
    patch: pytest.MonkeyPatch, protocol: type[ClientConnection] | type[UpstreamConnection]
) -> None:
    made = protocol.connection_made

    def connection_made(self: asyncio.Protocol, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)  # type: ignore[arg-type]

    patch.setattr(protocol, "connection_made", connection_made)


class SlowReader:
    """A client that reads when it is told to, in pieces so small that the gateway is always ahead
    and stops reading from the upstream until its buffer is nearly empty again."""

    def __init__(self, gateway: Gateway):
        self.gateway = gateway
        self.got = 0

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.setblocking(False)
        await self.loop.sock_connect(self.sock, ("127.0.0.1", self.gateway.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def some(self) -> bytes:
        data = await self.loop.sock_recv(self.sock, 2048)
        self.got += len(data)
        return data

    async def until_recorded(self) -> None:
        """Read until the gateway has all of the answer; the end of it is still in its buffer."""
        while not self.gateway.records:
            await self.some()

    async def rest(self) -> None:
        while await self.some():
            pass


async def most_held(gateway: Gateway, for_s: float) -> int:
    """The most that the gateway held for any one peer, looked at again and again."""
    most, end_s = 0, time.monotonic() + for_s
    while time.monotonic() < end_s:
        await asyncio.sleep(0.005)
        for client in gateway.services.connections:
            transports = [client.transport]
            if client.exchange is not None and client.exchange.connection is not None:
                transports.append(client.exchange.connection.transport)
            most = max(most, *(transport.get_write_buffer_size() for transport in transports))
    return most


# ---- memory that nobody may use up ---------------------------------------------------------------


@pytest.mark.usefixtures("small_windows")
def test_refusals_that_nobody_reads_do_not_pile_up() -> None:
    async def conversation() -> None:
        async with (
            Gateway(toml("http://127.0.0.1:1")) as gateway,
            SlowReader(gateway) as client,
        ):
            held = sent = 0
            while len(gateway.records) == sent < 5000:  # until it takes no more
                await client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n" * 200)
                sent, seen = sent + 200, -1
                (connection,) = gateway.services.connections
                while seen < len(gateway.records) or not (connection._is_full or seen == sent):
                    seen = len(gateway.records)
                    held = max(held, await most_held(gateway, 0.03))
            assert len(gateway.records) > 100
            assert held < MOST_HELD

    converse(conversation())


@pytest.mark.usefixtures("small_windows")
def test_the_answer_to_a_pipelined_request_waits_for_its_reader() -> None:
    """The buffer is still full with the first answer when the second one begins."""

    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            for size in (LARGE, 20 * LARGE):
                await peer.request()
                await peer.send(ok(bytes(size)))

        async with (
            Upstream(script) as upstream,
            Gateway(toml(upstream)) as gateway,
            SlowReader(gateway) as client,
        ):
            await client.send(GET * 2)
            await client.until_recorded()
            assert await most_held(gateway, 0.25) < MOST_HELD

    converse(conversation())


@pytest.mark.usefixtures("small_windows")
def test_an_upload_waits_for_an_upstream_that_its_first_write_has_filled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = UpstreamConnection.begin

    def begin_narrow(self: UpstreamConnection, *serving: Any) -> None:
        self.transport.set_write_buffer_limits(high=8192)  # less than the first read brings
        begin(self, *serving)

    monkeypatch.setattr(UpstreamConnection, "begin", begin_narrow)

    async def conversation() -> None:
        enough = asyncio.Event()

        async def script(peer: Peer) -> None:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await enough.wait()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            for listening in upstream._server.sockets:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client = await gateway.client()
            head = b"POST /v1/c HTTP/1.1\r\nHost: g\r\n%bContent-Length: %d\r\n\r\n"
            sending = asyncio.create_task(client.send(head % (KEY, 40 * LARGE) + bytes(40 * LARGE)))
            assert 0 < await most_held(gateway, 0.25) < MOST_HELD
            enough.set()
            client.reset()
            await asyncio.gather(sending, return_exceptions=True)

    converse(conversation())


@pytest.mark.usefixtures("hasty")
def test_strangers_beyond_the_limit_are_told_so_and_starve_nobody() -> None:
    async def conversation() -> None:
        async with (
            Upstream(answering(*[ok()] * 4)) as upstream,
            Gateway(toml(upstream, top="[limits]\nconnections = 5")) as gateway,
        ):
            gateway.services.places = Places(5, 3)
            friend = await gateway.client()
            assert (await asked(friend)).status == 200
            for _ in range(4):
                await gateway.client()
            refused = [await gateway.client() for _ in range(3)]
            for stranger in refused:
                answer = await stranger.answer()
                assert (answer.status, answer.code) == (503, "overloaded")
                assert (answer["connection"], answer["retry-after"]) == ("close", "1")
            cut = await gateway.client()
            assert await cut.closed()
            assert cut.received == b""
            assert len(gateway.services.connections) == 5 + 3
            assert (await asked(friend)).status == 200
            for stranger in refused:
                assert await stranger.closed()
            while len(gateway.services.connections) > 5:
                await asyncio.sleep(0.005)
            assert (await (await gateway.client()).answer()).code == "overloaded"
            assert (await asked(friend)).status == 200

    converse(conversation())


async def asked(client: Peer) -> Answer:
    await client.send(GET)
    return await client.answer()


def test_looking_for_done_costs_no_more_for_a_long_piece() -> None:
    """Whether a stream was heard to its end is asked at a hang-up, of whatever was relayed last."""
    started_s = time.thread_time()
    assert not ends_with_done(b"", b"\r\n" + b"a" * 100_000)
    assert time.thread_time() - started_s < 0.1


# ---- time that nobody may use up -----------------------------------------------------------------


@pytest.mark.usefixtures("hasty")
def test_bytes_of_the_request_are_no_bytes_of_the_answer() -> None:
    """`timeouts.idle` is the longest silence of the upstream, whatever the client is sending."""

    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.until(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
            await peer.rest()

        async with (
            Upstream(script) as upstream,
            Gateway(toml(upstream, top='[timeouts]\nidle = "200ms"')) as gateway,
        ):
            client = await gateway.client()
            await client.send(
                b"POST /v1/c HTTP/1.1\r\nHost: g\r\nContent-Length: 5000\r\n%b\r\n" % KEY
            )
            while not gateway.records:
                await client.send(b"x")
                await asyncio.sleep(0.02)
            assert (await gateway.record())["error"] == "upstream_timeout"

    converse(conversation())


@pytest.mark.usefixtures("clock")  # as long as a lingering connection would stay
def test_who_ends_inside_a_body_is_not_lingered_for() -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(
                b"POST /v1/c HTTP/1.1\r\nHost: g\r\nContent-Length: 500\r\n%b\r\nxx" % KEY
            )
            while not upstream.peers:
                await asyncio.sleep(0.005)
            client.end()
            assert (await client.answer()).code == "malformed_request"
            while gateway.services.connections:
                await asyncio.sleep(0.005)

    converse(conversation())


# ---- answers that are taken slowly ---------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
# request, answer: each ends the client's connection in another way
TAKEN_SLOWLY = {
    "kept alive": (GET, ok(bytes(LARGE))),
    "closed after it": (GET.replace(KEY, KEY + b"Connection: close\r\n"), ok(bytes(LARGE))),
    "HTTP/1.0": (GET.replace(b"/1.1", b"/1.0"), ok(bytes(LARGE))),
    "ended by its close": (GET.replace(b"/1.1", b"/1.0"), CHUNKED % (LARGE, bytes(LARGE))),
}


@contextlib.asynccontextmanager
async def paused_reader(name: str, top: str) -> AsyncIterator[SlowReader]:
    """A client that has stopped reading when only the gateway still had something for it."""
    request, answer = TAKEN_SLOWLY[name]
    async with (
        Upstream(answering(answer)) as upstream,
        Gateway(toml(upstream, top=top)) as gateway,
        SlowReader(gateway) as client,
    ):
        await client.send(request)
        await client.until_recorded()
        (connection,) = gateway.services.connections
        assert connection.transport.get_write_buffer_size() > 0
        yield client


@pytest.mark.usefixtures("small_windows", "hasty")
@pytest.mark.parametrize("name", TAKEN_SLOWLY)
def test_a_slow_reader_gets_all_of_a_complete_answer(name: str) -> None:
    """Neither the linger time nor `timeouts.keep_alive` begins before the answer is taken."""

    async def conversation() -> None:
        async with paused_reader(name, '[timeouts]\nkeep_alive = "100ms"') as client:
            await asyncio.sleep(0.25)
            await client.rest()
            assert client.got > LARGE

    converse(conversation())


@pytest.mark.usefixtures("small_windows", "hasty")
@pytest.mark.parametrize("name", TAKEN_SLOWLY)
def test_who_takes_nothing_sees_the_answer_cut(name: str) -> None:
    """After `timeouts.idle`, and by a reset: a FIN would look like the end of some answers."""

    async def conversation() -> None:
        times = '[timeouts]\nidle = "100ms"\nkeep_alive = "100ms"'
        async with paused_reader(name, times) as client:
            while client.gateway.services.connections:
                await asyncio.sleep(0.01)
            with pytest.raises(ConnectionResetError):
                await client.rest()
            assert client.got < LARGE

    converse(conversation())


# ---- secrets that must not go upstream -----------------------------------------------------------


async def seen_upstream(request: bytes, **lines: str) -> tuple[Answer, bytes]:
    """The answer to a request, and what an upstream has received of it."""
    async with Upstream(answering(ok())) as upstream, Gateway(toml(upstream, **lines)) as gateway:
        answer = await gateway.ask(request)
        return answer, b"".join(peer.received for peer in upstream.peers)


IN_DISGUISE = [
    b"Authorization: user1\r\n",
    b"Authorization: aigw-secret\r\n",
    b"Authorization: Bearer\tuser1\r\n",
    b"Authorization: Token user1\r\n",
    b"api-key: Bearer user1\r\n",
    b"x-goog-api-key: Bearer aigw-secret\r\n",
]


@pytest.mark.parametrize("line", IN_DISGUISE)
def test_a_gateway_key_in_disguise_does_not_go_upstream(line: bytes) -> None:
    async def conversation() -> None:
        answer, seen = await seen_upstream(
            GET.replace(KEY, KEY + line), upstream='credentials = "client"'
        )
        assert answer.status == 200
        assert b"user1" not in seen
        assert b"aigw-" not in seen

    converse(conversation())


def test_the_field_of_the_gateways_credential_is_the_gateways_alone() -> None:
    async def conversation() -> None:
        answer, seen = await seen_upstream(
            GET.replace(KEY, KEY + b"X-Upstream-Token: mallory\r\n"),
            upstream='credential_header = "X-Upstream-Token"',
        )
        assert answer.status == 200
        assert seen.lower().count(b"\r\nx-upstream-token: sk-upstream\r\n") == 1
        assert b"mallory" not in seen

    converse(conversation())


def policy(
    upstream: Upstream,
    *,
    keys: tuple[str, ...] = ("user1",),
    credentials: str = '["sk-upstream"]',
    names: tuple[str, ...] = ("up",),
) -> str:
    """Upstreams in that order; `own` gets the client's credential under a path of its own."""
    text = "".join(f'[[keys]]\nname = "{key}"\nkey = "{key}"\n' for key in keys)
    for name in names:
        of_it = '"client"' if name == "own" else credentials
        path = "/own" if name == "own" else "/v1"
        text += (
            f'[[upstreams]]\nname = "{name}"\nurls = ["http://127.0.0.1:{upstream.port}"]\n'
            f"credentials = {of_it}\n"
            f'[[routes]]\npath = "{path}"\ntargets = [{{ upstream = "{name}" }}]\n'
        )
    return text


# policy before, policy after: what differs; and the secret that would go to the wrong upstream
RELOADED = {
    "a key was deleted": (
        {"credentials": '"client"'},
        {"keys": ("second",), "credentials": '"client"'},
        b"user1",
    ),
    "upstreams changed places": ({}, {"names": ("own", "up")}, b"sk-clients-own"),
    "an upstream went": ({"names": ("own", "up")}, {"names": ("own",)}, b"sk-clients-own"),
}


@pytest.mark.parametrize("name", RELOADED)
def test_a_reload_while_connecting_changes_nothing_of_the_request(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, secret = RELOADED[name]
    connect = Connector.connect

    async def conversation() -> None:
        may_connect, connects = asyncio.Event(), asyncio.Event()

        async def slowly(self, factory, timeout_s):  # type: ignore[no-untyped-def]
            connects.set()
            await may_connect.wait()
            return await connect(self, factory, timeout_s)

        async with (
            Upstream(answering(ok())) as upstream,
            Gateway(policy(upstream, **before)) as gateway,
        ):
            monkeypatch.setattr(Connector, "connect", slowly)
            for group in gateway.services.groups():
                for member in group.members:
                    while member.idle:
                        member.idle.pop().drop()
            client = await gateway.client()
            await client.send(
                GET.replace(KEY, KEY + b"Authorization: Bearer sk-clients-own\r\n"),
            )
            await connects.wait()
            gateway.publish(policy(upstream, **after))
            gateway.services.follow_policy()  # as the sweeper does
            may_connect.set()
            assert (await client.answer()).status == 200
            assert secret not in upstream.peers[-1].received

    converse(conversation())


# ---- requests and answers that must not be mixed up ----------------------------------------------


def test_what_follows_a_refused_body_is_not_a_request() -> None:
    async def conversation() -> None:
        async with (
            Upstream(answering(ok())) as upstream,
            Gateway(toml(upstream, top='[limits]\nbody_bytes = "8"')) as gateway,
        ):
            client = await gateway.client()
            await client.send(
                b"POST /v1/chat HTTP/1.1\r\nHost: gw\r\n%bTransfer-Encoding: chunked\r\n\r\n"
                b"10\r\n0123456789abcdef\r\n0\r\n\r\n"
                b"POST /v1/x HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n" % (KEY, len(GET))
            )
            answer = await client.answer()
            assert (answer.code, answer["connection"]) == ("request_too_large", "close")
            await client.send(GET)  # the body of /v1/x
            assert await client.closed()
            assert [
                peer.received for peer in upstream.peers if b"/v1/models" in peer.received
            ] == []
            assert len(gateway.records) == 1

    converse(conversation())


def test_what_one_client_pipelined_is_nobody_elses_request() -> None:
    async def conversation() -> None:
        async def echo(peer: Peer) -> None:
            while True:
                head, _ = await peer.request()
                await peer.send(ok(head.split(b" ")[1]))

        def get(path: bytes) -> bytes:
            return GET.replace(b"/v1/models", path)

        async with Upstream(echo) as upstream, Gateway(toml(upstream)) as gateway:
            first, second = await gateway.client(), await gateway.client()
            await first.send(get(b"/v1/a") + get(b"/v1/b"))
            assert [(await first.answer()).body for _ in range(2)] == [b"/v1/a", b"/v1/b"]
            for _ in range(2):
                await second.send(get(b"/v1/a"))
                assert (await second.answer()).body == b"/v1/a"
            assert len(gateway.records) == 4

    converse(conversation())


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_204_that_announces_a_body_ends_its_connection(framing: bytes) -> None:
    """The body may be on its way, and would be taken for the next answer."""

    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 204 No Content\r\n" + framing + b"\r\n\r\n")
            await peer.request()
            raise AssertionError("a second request over the same connection")

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            assert [(await gateway.ask(GET)).status for _ in range(2)] == [204, 204]
            assert len(upstream.peers) == 2

    converse(conversation())


def test_dot_segments_do_not_leave_the_base_path() -> None:
    async def conversation() -> None:
        async with Upstream(answering(ok())) as upstream:
            base = f"http://127.0.0.1:{upstream.port}/tenant-a"
            async with Gateway(toml(base, route='strip_prefix = "/v1"')) as gateway:
                answer = await gateway.ask(GET.replace(b"/v1/models", b"/v1/../v1/admin"))
                assert (answer.status, answer.code) == (400, "malformed_request")
                assert all(peer.received == b"" for peer in upstream.peers)

    converse(conversation())


def test_a_key_that_the_upstream_does_not_see_makes_nothing_idempotent() -> None:
    """`Connection` takes the `Idempotency-Key` away, so a second attempt could execute twice."""

    async def conversation() -> None:
        seen: list[bytes] = []

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(ok())
            seen.append((await peer.request())[0])  # and end without an answer

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            assert (await asked(client)).status == 200
            await client.send(
                b"POST /v1/c HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\nIdempotency-Key: k\r\n"
                b"Connection: Idempotency-Key\r\n%b\r\nhi" % KEY
            )
            answer = await client.answer()
            assert (answer.status, answer["x-should-retry"]) == (502, "true")
            (head,) = seen
            assert b"idempotency" not in head.lower()
            assert len(upstream.peers) == 1

    converse(conversation())


def test_done_is_found_in_a_stream_with_crlf() -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n10\r\ndata: [DONE]\r\n\r\n\r\n"
            )
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(GET)
            await client.until(b"[DONE]\r\n\r\n")
            client.end()
            assert await client.closed() or await client.closed()
            assert (await gateway.record())["error"] is None

    converse(conversation())
