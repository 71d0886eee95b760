"""Clients that are slow on purpose, or send little in very many pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle

import pytest
from conversation import Answer, Clock, Gateway, Peer, Upstream, answering, converse, ok, toml

pytestmark = pytest.mark.usefixtures("both_ways")

KEY = b"X-API-Key: user1\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: gw\r\n" + KEY + b"\r\n"
POST = b"POST /v1/chat HTTP/1.1\r\nHost: gw\r\n" + KEY
PUT = POST.replace(b"POST", b"PUT") + b"Content-Length: 500\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigw.proxy.client.LINGER_S", 0.1)


@asynccontextmanager
async def dripping(
    clock: Clock, gateway: Gateway, client: Peer, pieces: list[bytes]
) -> AsyncIterator[None]:
    """One piece a second, again and again: never silent for long."""

    async def drip() -> None:
        for piece in cycle(pieces):
            await client.send(piece)
            await asyncio.sleep(0.001)  # it arrives
            clock.forward(gateway, 1.0)

    task = asyncio.create_task(drip())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def is_too_slow(answer: Answer) -> bool:
    assert (answer.status, answer.code) == (408, "request_timeout")
    assert answer["connection"] == "close"
    return True


HEAD_S, KEEP_ALIVE_S, BODY_S = 10.0, 75.0, 60.0  # the defaults of [timeouts]
SOME_S = 20.0  # for the looks in between, and for what is on its way


# ---- heads ---------------------------------------------------------------------------------------

# What comes first, how long nothing comes after the answer to it, what then comes byte by byte.
HEADS = {
    "the first": (b"", 0.0, GET[:-2] + b"x: y\r\n" * 9999),
    "one field": (b"", 0.0, GET[:-2] + b"x: " + b"y" * 9999),
    "after an answer": (GET, 9.0, GET[:-2] + b"x: y\r\n" * 9999),
    "begun behind a request": (GET + GET[:9], 0.0, b"x" * 9999),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_complete_in_time_or_refused(clock: Clock, name: str) -> None:
    first, idle_s, rest = HEADS[name]

    async def conversation() -> None:
        async with (
            Upstream(answering(ok())) as upstream,
            Gateway(toml(upstream)) as gateway,
        ):
            client = await gateway.client()
            await client.send(first[:5])
            await asyncio.sleep(0.001)
            await client.send(first[5:])
            if first:
                assert (await client.answer()).status == 200
            clock.forward(gateway, idle_s)
            began_s = clock.now_s
            async with dripping(clock, gateway, client, bytewise(rest)):
                assert is_too_slow(await client.answer())
            assert HEAD_S - 1.0 < clock.now_s - began_s < HEAD_S + SOME_S

    converse(conversation())


@pytest.mark.parametrize(
    ("pieces", "within_s"), [([b"\r", b"\n"], HEAD_S), ([b"\r\n"], KEEP_ALIVE_S)]
)
def test_empty_lines_keep_no_connection(clock: Clock, pieces: list[bytes], within_s: float) -> None:
    """However they are cut: half of one is the beginning of a head."""

    async def conversation() -> None:
        async with Gateway(toml("http://127.0.0.1:1")) as gateway:
            client, began_s = await gateway.client(), clock.now_s
            async with dripping(clock, gateway, client, pieces):
                await client.closed()
            assert clock.now_s - began_s < within_s + SOME_S

    converse(conversation())


# ---- bodies --------------------------------------------------------------------------------------

# A head, and a body that is never silent and comes to less than 1 KiB a second.
BODIES = {
    "bytes": (POST + b"Content-Length: 50000\r\n\r\n", b"x" * 9999),
    "the rest of a short body": (POST + b"Content-Length: 50000\r\n\r\n" + bytes(40), b"x" * 9999),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "one extension": (CHUNKED, b"1;" + b"x" * 3000),
    "a trailer": (CHUNKED + b"0\r\nx: ", b"y" * 3000),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_comes_on_or_is_refused(clock: Clock, name: str) -> None:
    head, body = BODIES[name]

    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(head)
            began_s = clock.now_s
            async with dripping(clock, gateway, client, bytewise(body)):
                assert is_too_slow(await client.answer())
            assert clock.now_s - began_s < BODY_S + SOME_S
            await gateway.settled()
            assert [record["error"] for record in gateway.records] == ["request_timeout"]

    converse(conversation())


# ---- very many pieces ----------------------------------------------------------------------------

CHUNKS = 100_000
TINY = b"1\r\nx\r\n" * CHUNKS + b"0\r\n\r\n"


async def asks_meanwhile(gateway: Gateway, until: asyncio.Task[None]) -> int:
    """Another client's answers until the task is done."""
    client, answers = await gateway.client(), 0
    while not until.done():
        await client.send(GET)
        assert (await client.answer()).status == 200
        answers += 1
    return answers


def test_a_body_of_tiny_chunks_holds_nobody_up() -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            while True:
                _, body = await peer.request()
                await peer.send(ok(b"%d" % len(body)))

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()

            async def upload() -> None:
                await client.send(CHUNKED + TINY)
                assert (await client.answer()).body == b"%d" % CHUNKS

            assert await asks_meanwhile(gateway, asyncio.create_task(upload())) > 8

    converse(conversation())


def test_an_answer_of_tiny_chunks_holds_nobody_up() -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            while True:
                head, _ = await peer.request()
                if b"/tiny" in head:
                    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + TINY)
                else:
                    await peer.send(ok())

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()

            async def download() -> None:
                await client.send(GET.replace(b"/models", b"/tiny"))
                await client.until(b"\r\n\r\n")
                assert await client.exactly(len(TINY)) == TINY

            assert await asks_meanwhile(gateway, asyncio.create_task(download())) > 8

    converse(conversation())


def test_a_body_of_tiny_pieces_is_not_kept_for_a_second_try_beyond_its_limit() -> None:
    """Each piece takes memory beside its octets."""

    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(ok())

        top = '[limits]\ninspect_bytes = "1KiB"'
        async with Upstream(script) as upstream, Gateway(toml(upstream, top=top)) as gateway:
            client = await gateway.client()
            await client.send(GET)
            assert (await client.answer()).status == 200
            await client.send(PUT)
            (connection,) = gateway.services.connections
            for sent in range(1, 30):
                await client.send(b"~")
                while sum(peer.received.count(b"~") for peer in upstream.peers) < sent:
                    await asyncio.sleep(0.001)
                assert connection.exchange is not None
                assert sent > 5 or connection.exchange.replay is not None
            assert connection.exchange.replay is None
            client.reset()

    converse(conversation())
