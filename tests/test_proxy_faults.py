"""Conversations that go wrong: hang-ups, silence, lost upstreams, second attempts, the end."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conversation import Clock, Gateway, Peer, Upstream, answering, converse, ok, toml

pytestmark = pytest.mark.usefixtures("both_ways")

KEY = b"X-API-Key: user1\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: gw\r\n" + KEY + b"\r\n"
POST = b"POST /v1/chat HTTP/1.1\r\nHost: gw\r\n" + KEY + b"Content-Length: 5\r\n\r\nhello"


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def silent(peer: Peer) -> None:
    """Take a request and never answer."""
    await peer.request()
    await peer.rest()


# ---- hang-ups ------------------------------------------------------------------------------------

HANG_UPS = {
    "in the head": POST[:30],
    "in the body": POST[:-2],
    "awaiting the answer": POST,
    "having pipelined": POST + GET[:20],
    "having pipelined requests": POST + GET * 3,
    "having pipelined too much": POST + GET * 1000,
}


@pytest.mark.parametrize("name", HANG_UPS)
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_hang_up_cancels_the_upstream(name: str, how: str) -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(HANG_UPS[name])
            while name != "in the head" and not upstream.peers:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.02)
            if how == "fin":
                client.end()
            else:
                client.reset()
            if name != "in the head":
                await upstream.peers[0].over.wait()
            if name == "in the head" and how == "rst":
                await asyncio.sleep(0.02)
                assert gateway.records == []
                return
            while not gateway.records:
                await asyncio.sleep(0.005)
            record = await gateway.record()
            unfinished = how == "fin" and name in ("in the head", "in the body")
            expected = (400, "malformed_request") if unfinished else (499, "client_closed")
            assert (record["status"], record["error"]) == expected

    converse(conversation())


@contextmanager
def full_backlog() -> Iterator[str]:
    """Where connections are left waiting by the kernel."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = [socket.socket() for _ in range(3)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    yield f"http://127.0.0.1:{full.getsockname()[1]}"
    for sock in [full, *fillers]:
        sock.close()


@pytest.mark.parametrize("sent", [POST, POST[:-2]], ids=["the request", "a part of it"])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_hang_up_while_connecting(sent: bytes, how: str) -> None:
    async def conversation() -> None:
        with full_backlog() as url:
            async with Gateway(toml(url, top='[timeouts]\nconnect = "1h"')) as gateway:
                client = await gateway.client()
                await client.send(sent)
                while not gateway.value("requests_in_flight"):
                    await asyncio.sleep(0.005)
                client.end() if how == "fin" else client.reset()
                await gateway.settled()
                record = await gateway.record()
                assert (record["status"], record["error"]) == (499, "client_closed")

    converse(conversation())


UPLOAD = POST.replace(b"Content-Length: 5", b"Content-Length: 100000000")


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_hang_up_while_the_upstream_takes_nothing_of_the_body(begun: bytes, how: str) -> None:
    """The client is not read from then, so nobody tells of its end."""

    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.until(b"\r\n\r\n")
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            deaf.set()
            await peer.send(begun)
            await over.wait()

        deaf, over = asyncio.Event(), asyncio.Event()
        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            with socket.create_connection(("127.0.0.1", gateway.port)) as client:
                client.setblocking(False)
                client.send(UPLOAD)
                await deaf.wait()
                paused = 0
                while paused < 20:  # and not on and off
                    paused = paused + 1 if gateway.services.paused else 0
                    if not paused:
                        client.send(bytes(65536))
                    await asyncio.sleep(0.002)
                if how == "fin":
                    client.shutdown(socket.SHUT_WR)
                else:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                while gateway.services.connections:
                    await asyncio.sleep(0.005)
            record = await gateway.record()
            assert record["error"] == "client_closed"
            assert gateway.services.paused == set()
            over.set()

    converse(conversation())


@pytest.mark.parametrize("done", [False, True])
def test_a_hang_up_after_done_is_a_complete_request(done: bool) -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: {}\n\r\n"
            )
            if done:
                await peer.send(b"9\r\n\ndata: [D\r\n")
                await asyncio.sleep(0.02)
                await peer.send(b"6\r\nONE]\n\n\r\n")
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(POST)
            await client.until(b"ONE]" if done else b"{}")
            await client.close()
            while not gateway.records:
                await asyncio.sleep(0.005)
            record = await gateway.record()
            expected = (200, None) if done else (499, "client_closed")
            assert (record["status"], record["error"]) == expected
            await upstream.peers[0].over.wait()

    converse(conversation())


def test_pipelining_beyond_a_heads_worth_ends_the_connection() -> None:
    async def conversation() -> None:
        go_on = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await go_on.wait()
            await peer.send(ok())
            await peer.rest()

        async with (
            Upstream(script) as upstream,
            Gateway(toml(upstream, top='[limits]\nhead_bytes = "1KiB"')) as gateway,
        ):
            client = await gateway.client()
            await client.send(POST)
            await client.send(GET * 30)
            await asyncio.sleep(0.05)
            go_on.set()
            answer = await client.answer()
            assert (answer.status, answer["connection"]) == (200, "close")
            assert await client.closed()
            assert len(gateway.records) == 1

    converse(conversation())


# ---- deadlines -----------------------------------------------------------------------------------


async def until_seen(upstream: Upstream, data: bytes, times: int = 1) -> None:
    """Wait until the upstream has seen this so often."""
    while sum(peer.received.count(data) for peer in upstream.peers) < times:
        await asyncio.sleep(0.001)


def test_a_slow_head_is_told_so_and_silence_is_not(clock: Clock) -> None:
    async def conversation() -> None:
        times = '[timeouts]\nhead = "250ms"\nkeep_alive = "500ms"'
        async with Gateway(toml("http://127.0.0.1:1", top=times)) as gateway:
            slow, idle = await gateway.client(), await gateway.client()
            await slow.send(b"GET /v1 HTTP/1.1\r\n")
            deadlines_s = [clock.now_s + 0.25, clock.now_s + 0.5]
            while sorted(c.deadline_s for c in gateway.services.connections) != deadlines_s:
                await asyncio.sleep(0.001)
            clock.forward(gateway, 0.25)
            answer = await slow.answer()
            assert (answer.status, answer.code) == (408, "request_timeout")
            clock.forward(gateway, 0.25)
            assert await idle.rest() == b""
            await gateway.settled()
            assert len(gateway.records) == 1

    converse(conversation())


@pytest.mark.parametrize("drip", [False, True])
def test_a_slow_body(clock: Clock, drip: bool) -> None:
    """Silence, or one byte now and then: below `body_min_rate` once `body` has passed."""

    async def conversation() -> None:
        times = '[timeouts]\nbody = "500ms"\nbody_min_rate = "1KiB"'
        async with Upstream(silent) as upstream, Gateway(toml(upstream, top=times)) as gateway:
            client = await gateway.client()
            await client.send(POST.replace(b"Content-Length: 5", b"Content-Length: 5000"))
            await until_seen(upstream, b"hello")
            for dripped in range(8):  # lateness is looked for once a second
                assert gateway.records == []
                clock.forward(gateway, 0.125)
                if drip and dripped < 7:
                    await client.send(b"~")
                    await until_seen(upstream, b"~", dripped + 1)
            answer = await client.answer()
            assert (answer.status, answer.code) == (408, "request_timeout")
            assert answer["connection"] == "close"

    converse(conversation())


def test_a_slow_but_steady_body_passes(clock: Clock) -> None:
    async def conversation() -> None:
        times = '[timeouts]\nbody = "500ms"\nbody_min_rate = 1'
        async with (
            Upstream(answering(ok())) as upstream,
            Gateway(toml(upstream, top=times)) as gateway,
        ):
            client = await gateway.client()
            await client.send(POST.replace(b"Content-Length: 5", b"Content-Length: 17"))
            for dripped in range(12):
                clock.forward(gateway, 0.375)
                await client.send(b"~")
                await until_seen(upstream, b"~", dripped + 1)
            assert (await client.answer()).status == 200

    converse(conversation())


def test_an_upstream_that_does_not_answer(clock: Clock) -> None:
    async def conversation() -> None:
        route = 'timeouts = { first_byte = "250ms" }'
        async with Upstream(silent) as upstream, Gateway(toml(upstream, route=route)) as gateway:
            client = await gateway.client()
            for asked, request in enumerate((POST, GET), 1):
                await client.send(request)
                await until_seen(upstream, b"\r\n\r\n", asked)
                clock.forward(gateway, 0.25)
                answer = await client.answer()
                assert (answer.status, answer.code) == (504, "upstream_timeout")
            await asyncio.gather(*(peer.over.wait() for peer in upstream.peers[:2]))

    converse(conversation())


def test_an_upstream_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigw.proxy.deadlines.LOOK_S", 0.1)

    async def conversation() -> None:
        over = asyncio.Event()

        async def script(peer: Peer) -> None:
            await over.wait()

        times = '[timeouts]\nfirst_byte = "500ms"\nbody = "200ms"'
        async with Upstream(script) as upstream, Gateway(toml(upstream, top=times)) as gateway:
            client = await gateway.client()
            size = 64 * 1024 * 1024
            head = POST.replace(b"Content-Length: 5", b"Content-Length: %d" % size)
            sending = asyncio.create_task(client.send(head + b"x" * (size - 5)))
            answer = await client.answer()
            assert (answer.status, answer.code) == (504, "upstream_timeout")
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            client.reset()
            over.set()

    converse(conversation())


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_an_answer_that_falls_silent_looks_cut(clock: Clock, version: bytes) -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhel")
            await peer.rest()

        async with (
            Upstream(script) as upstream,
            Gateway(toml(upstream, top='[timeouts]\nidle = "250ms"')) as gateway,
        ):
            client = await gateway.client()
            await client.send(POST.replace(b"HTTP/1.1", b"HTTP/" + version))
            answering = asyncio.create_task(client.answer())
            while b"hel" not in client.received:
                await asyncio.sleep(0.001)
            clock.forward(gateway, 0.25)
            answer = await answering
            assert (answer.status, answer.whole) == (200, False)
            record = await gateway.record()
            assert (record["status"], record["error"]) == (200, "upstream_timeout")

    converse(conversation())


async def until_full(gateway: Gateway) -> None:
    """Wait until the gateway has more for its only client than that takes."""
    (connection,) = gateway.services.connections
    while connection.exchange is None or not connection.exchange.client_is_full:
        await asyncio.sleep(0.001)


def test_a_client_that_does_not_read(clock: Clock) -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n")
            while True:
                await peer.send(b"x" * 100_000)

        async with (
            Upstream(script) as upstream,
            Gateway(toml(upstream, top='[timeouts]\nidle = "250ms"')) as gateway,
        ):
            client = await gateway.client()
            await client.send(POST)
            await client.until(b"\r\n\r\n")
            await until_full(gateway)
            while not gateway.records:
                clock.forward(gateway, 0.25)
                await asyncio.sleep(0)
            (record,) = gateway.records
            assert (record["status"], record["error"]) == (499, "client_closed")
            assert record["bytes_out"] < 60_000_000
            client.reset()

    converse(conversation())


def test_a_client_that_reads_slowly_is_served(clock: Clock) -> None:
    size, step = 12_000_000, 500_000

    async def conversation() -> None:
        async with (
            Upstream(answering(ok(b"x" * size))) as upstream,
            Gateway(toml(upstream, top='[timeouts]\nidle = "500ms"')) as gateway,
        ):
            client = await gateway.client()
            while not gateway.services.connections:
                await asyncio.sleep(0.001)
            (connection,) = gateway.services.connections
            # The kernel keeps less than a step: whatever the client takes makes the gateway send.
            # And that has enough for all steps: it hears nothing of the upstream meanwhile.
            for end, size_option in (
                (client.writer.transport, socket.SO_RCVBUF),
                (connection.transport, socket.SO_SNDBUF),
            ):
                sock = end.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, size_option, 65536)
            connection.transport.set_write_buffer_limits(6_000_000, 1_000_000)
            await client.send(POST)
            await client.until(b"\r\n\r\n")
            await until_full(gateway)
            left = size
            for _ in range(8):
                clock.forward(gateway, 0.25)
                await client.exactly(step)
                left -= step
            await client.exactly(left)
            record = await gateway.record()
            assert (record["error"], record["bytes_out"]) == (None, size)

    converse(conversation())


# ---- upstreams that are lost ---------------------------------------------------------------------


async def serve_once(peer: Peer) -> None:
    """Answer one request, take the next one and end without an answer."""
    await peer.request()
    await peer.send(ok(b"first"))
    await peer.request()


@pytest.mark.parametrize(
    "request_bytes",
    [GET, POST.replace(b"POST", b"PUT"), POST.replace(KEY, KEY + b"Idempotency-Key: 1\r\n")],
)
def test_a_lost_reused_connection_is_replaced_once(request_bytes: bytes) -> None:
    async def conversation() -> None:
        async with Upstream(serve_once) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            for _ in range(2):
                await client.send(request_bytes)
                assert (await client.answer()).body == b"first"
            assert len(upstream.peers) == 2
            await gateway.settled()
            assert [record["attempts"] for record in gateway.records] == [1, 2]

    converse(conversation())


def test_a_post_on_a_lost_connection_is_left_to_the_client() -> None:
    async def conversation() -> None:
        async with Upstream(serve_once) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(POST)
            assert (await client.answer()).body == b"first"
            await client.send(POST)
            answer = await client.answer()
            assert (answer.status, answer.code) == (502, "upstream_error")
            assert answer["x-should-retry"] == "true"
            assert len(upstream.peers) == 1
            await client.send(POST)
            assert (await client.answer()).body == b"first"

    converse(conversation())


def test_a_large_put_is_not_held_for_a_second_try() -> None:
    async def conversation() -> None:
        async with (
            Upstream(serve_once) as upstream,
            Gateway(toml(upstream, top='[limits]\ninspect_bytes = "1KiB"')) as gateway,
        ):
            client = await gateway.client()
            await client.send(GET)
            assert (await client.answer()).body == b"first"
            body = b"x" * 5000
            await client.send(
                b"PUT /v1/file HTTP/1.1\r\nHost: gw\r\n%bContent-Length: 5000\r\n\r\n%b"
                % (KEY, body)
            )
            assert (await client.answer()).status == 502

    converse(conversation())


def test_a_connection_that_ends_while_idle_is_not_used() -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(ok())

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            for number in range(1, 4):
                await client.send(POST)
                assert (await client.answer()).status == 200
                await upstream.peers[-1].over.wait()
                await asyncio.sleep(0.02)
                assert len(upstream.peers) == number

    converse(conversation())


def test_a_short_keep_alive_of_the_upstream_is_honoured() -> None:
    async def conversation() -> None:
        async with (
            Upstream(
                answering(ok(b"1", b"Keep-Alive: max=5, timeout=1\r\n"), ok(b"2"))
            ) as upstream,
            Gateway(toml(upstream)) as gateway,
        ):
            client = await gateway.client()
            for _ in range(2):
                await client.send(POST)
                answer = await client.answer()
                assert answer.body == b"1"
                assert "keep-alive" not in answer
            assert len(upstream.peers) == 2

    converse(conversation())


def test_an_idle_connection_ages_and_goes(clock: Clock) -> None:
    async def conversation() -> None:
        pool = 'pool = { keep_alive = "200ms" }'
        async with (
            Upstream(answering(ok())) as upstream,
            Gateway(toml(upstream, upstream=pool)) as gateway,
        ):
            assert (await gateway.ask(GET)).status == 200
            (group,) = gateway.services.groups()
            assert len(group.members[0].idle) == 1
            clock.forward(gateway, 0.25)
            await upstream.peers[0].over.wait()
            assert group.members[0].idle == []

    converse(conversation())


def test_the_next_url_is_tried_when_one_cannot_be_reached() -> None:
    async def conversation() -> None:
        async with Upstream(answering(*[ok()] * 8)) as upstream:
            dead = f"http://127.0.0.1:{free_port()}"
            rule = 'balance = "round_robin"'
            async with Gateway(
                toml(dead, f"http://127.0.0.1:{upstream.port}", upstream=rule)
            ) as gateway:
                for _ in range(8):
                    assert (await gateway.ask(POST)).status == 200
                await gateway.settled()
                attempts = [record["attempts"] for record in gateway.records]
                # After three failures in a row the dead one is left out.
                assert sorted(attempts) == [1, 1, 1, 1, 1, 2, 2, 2]

    converse(conversation())


def test_all_members_out() -> None:
    async def conversation() -> None:
        dead = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        async with Gateway(toml(*dead, key="rps = 100")) as gateway:
            answers = [await gateway.ask(POST) for _ in range(4)]
            assert [answer.status for answer in answers] == [502, 502, 502, 503]
            assert answers[-1].code == "no_healthy_upstream"
            assert 1 <= int(answers[-1]["retry-after"]) <= 5
            assert gateway.value("accepted_total") == 3

    converse(conversation())


def test_an_only_member_is_tried_even_when_it_is_out() -> None:
    async def conversation() -> None:
        async with Gateway(toml(f"http://127.0.0.1:{free_port()}")) as gateway:
            for _ in range(5):
                answer = await gateway.ask(POST)
                assert (answer.status, answer.code) == (502, "upstream_error")

    converse(conversation())


def test_a_connect_timeout() -> None:
    async def conversation() -> None:
        full = socket.socket()
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with Gateway(toml(url, top='[timeouts]\nconnect = "200ms"')) as gateway:
            answer = await gateway.ask(POST)
            assert (answer.status, answer.code) == (504, "upstream_timeout")
        for sock in [full, *fillers]:
            sock.close()

    converse(conversation())


# ---- the end -------------------------------------------------------------------------------------


def test_draining_answers_and_closes() -> None:
    async def conversation() -> None:
        async with Upstream(answering(ok(), ok())) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(POST)
            assert "connection" not in await client.answer()
            gateway.services.draining = True
            await client.send(POST)
            answer = await client.answer()
            assert (answer.status, answer["connection"]) == (200, "close")
            assert await client.closed()

    converse(conversation())


def test_a_fault_in_the_sweep_harms_one_client_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        async with Upstream(silent) as upstream, Gateway(toml(upstream)) as gateway:

            def broken(*_: object) -> None:
                raise RuntimeError("a bug")

            monkeypatch.setattr("aigw.proxy.client.look", broken)
            client, other = await gateway.client(), await gateway.client()
            await client.send(POST)
            while not any(peer.received for peer in upstream.peers):
                await asyncio.sleep(0.005)
            for connection in gateway.services.connections:
                if connection.exchange is not None:
                    connection.deadline_s = 0.0
            assert (await client.answer()).code == "internal_error"
            await other.send(GET.replace(b"/v1/models", b"/health"))
            assert (await other.answer()).status == 200

    converse(conversation())


def test_a_fault_of_our_own_is_told_and_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        async with Upstream(answering(ok())) as upstream, Gateway(toml(upstream)) as gateway:

            def broken(*_: object) -> None:
                raise RuntimeError("a bug")

            with monkeypatch.context() as patch:
                patch.setattr("aigw.proxy.exchange.Exchange._head_for", broken)
                patch.setattr("aigw.proxy.known.KnownRequest.head_for", broken)
                answer = await gateway.ask(POST)
            assert (answer.status, answer.code) == (500, "internal_error")
            with monkeypatch.context() as patch:
                patch.setattr("aigw.proxy.exchange.Exchange._begin_answer", broken)
                answer = await gateway.ask(POST)
            assert (answer.status, answer.code) == (500, "internal_error")
            assert (await gateway.ask(POST)).status == 200
            await gateway.settled()

    converse(conversation())
