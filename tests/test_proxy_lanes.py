"""Where the fast lanes and sudden ends once differed from the story: each fault keeps its test."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

import pytest
from conversation import Gateway, Peer, Upstream, converse, ok, toml

from aigw.upstreams.connection import UpstreamConnection

GET = b"GET /v1/models HTTP/1.1\r\nHost: gw\r\nX-API-Key: user1\r\n\r\n"
LARGE = GET.replace(b"\r\n\r\n", b"\r\nX-Large: 1\r\n\r\n")


async def serve(peer: Peer) -> None:
    """A small answer, or a large one on demand."""
    while True:
        head, _ = await peer.request()
        await peer.send(ok(b"x" * (50_000 if b"X-Large" in head else 10)))


def test_an_answer_that_fills_the_client_leaves_no_paused_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def conversation() -> None:
        async with Upstream(serve) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            for request in (GET, LARGE):
                for _ in range(8):  # until the shape is known
                    await client.send(request)
                    assert (await client.answer()).whole
            loop = asyncio.get_running_loop()
            deaf = socket.socket()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            await loop.sock_connect(deaf, ("127.0.0.1", gateway.port))
            served = len(gateway.records)
            member = gateway.services.groups()[0].members[0]
            while not any(c._is_full for c in gateway.services.connections):
                await loop.sock_sendall(deaf, LARGE)
                served += 1
                while len(gateway.records) < served:
                    await asyncio.sleep(0.001)
            assert all(connection.transport.is_reading() for connection in member.idle)
            await client.send(GET)
            assert (await client.answer()).whole
            deaf.close()

    monkeypatch.setattr("aigw.wire.template.BUILD_PAUSE_S", 0.0)
    converse(conversation())


@pytest.mark.parametrize("rule", ["round_robin", "least_inflight"])
@pytest.mark.usefixtures("every_way")
def test_two_members_share_on_every_lane(rule: str) -> None:
    async def conversation() -> None:
        async with Upstream(serve) as first, Upstream(serve) as second:
            text = toml(first, second, upstream=f'balance = "{rule}"')
            async with Gateway(text) as gateway:
                client = await gateway.client()
                for _ in range(20):
                    await client.send(GET)
                    assert (await client.answer()).status == 200
                await gateway.settled()
                members = [record["member"] for record in gateway.records]
                assert {members.count(member) for member in members} == {10}

    converse(conversation())


def test_a_removed_members_gauges_do_not_stand_still() -> None:
    async def conversation() -> None:
        async with (
            Upstream(serve) as first,
            Upstream(serve) as second,
            Gateway(toml(first)) as gateway,
        ):
            labels = ("upstream_connections", "up", f"127.0.0.1:{first.port}", "idle")
            gateway.metrics.words[gateway.metrics.gauge(*labels)] = 6
            gateway.publish(toml(second))
            assert (await gateway.ask(GET)).status == 200
            assert gateway.value(*labels) == 0

    converse(conversation())


def test_until_it_is_complete_an_answer_that_ends_by_close_would_end_by_reset() -> None:
    """Also if the process dies: the kernel sends RST then, not a FIN that looks like the end."""

    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhel")
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
            await client.until(b"hel")
            (connection,) = gateway.services.connections
            sock = connection.transport.get_extra_info("socket")
            linger = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
            assert struct.unpack("ii", linger) == (1, 0)

    converse(conversation())


def test_draining_closes_only_what_has_been_idle_for_a_while() -> None:
    async def conversation() -> None:
        async with Upstream(serve) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(GET)
            assert (await client.answer()).whole
            (connection,) = gateway.services.connections
            connection.close_if_idle(gateway.services.clock_s - 1.0)
            await client.send(GET)
            assert (await client.answer()).whole
            connection.close_if_idle(gateway.services.clock_s + 1.0)
            assert await client.closed()

    converse(conversation())


@pytest.mark.usefixtures("both_ways")
def test_a_connection_with_unsent_bytes_of_its_request_serves_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The upstream has answered early and may never read the rest."""

    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.until(b"\r\n\r\n")
            cast(asyncio.ReadTransport, peer.writer.transport).pause_reading()
            await peer.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
            await asyncio.sleep(1)

        async with Upstream(script) as upstream:
            for listener in upstream._server.sockets:  # what it accepts has the same buffer
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            async with Gateway(toml(upstream)) as gateway:
                client = await gateway.client()
                await client.send(
                    b"POST /v1/c HTTP/1.1\r\nHost: gw\r\nX-API-Key: user1\r\n"
                    b"Content-Length: 60000\r\n\r\n" + b"z" * 60_000
                )
                assert (await client.answer()).status == 413
                assert gateway.services.groups()[0].members[0].idle == []

    made = UpstreamConnection.connection_made

    def with_small_buffer(self: UpstreamConnection, transport: asyncio.BaseTransport) -> None:
        made(self, transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)

    monkeypatch.setattr(UpstreamConnection, "connection_made", with_small_buffer)
    converse(conversation())


@pytest.mark.usefixtures("both_ways")
def test_an_upload_that_breaks_off_abandons_its_attempt() -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(
                b"POST /v1/files HTTP/1.1\r\nHost: gw\r\nX-API-Key: user1\r\n"
                b"Content-Length: 100000\r\n\r\nabc"
            )
            while not upstream.peers:
                await asyncio.sleep(0.005)
            client.end()
            assert (await client.answer()).code == "malformed_request"
            await gateway.settled()
            assert gateway.value("upstream_attempts_total", "up", "malformed_request") == 1
            assert gateway.records[0]["attempts"] == 1

    converse(conversation())
