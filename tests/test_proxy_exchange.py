"""Conversations: one request and what both sides see of it."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from conversation import Gateway, Peer, Upstream, answering, converse, ok, toml

pytestmark = pytest.mark.usefixtures("every_way")

KEY = b"X-API-Key: user1\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: gw\r\n" + KEY + b"\r\n"


def post(body: bytes, fields: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST /v1/chat HTTP/%b\r\nHost: gw\r\n%bContent-Length: %d\r\n%b\r\n%b" % (
        version,
        KEY,
        len(body),
        fields,
        body,
    )


def test_a_request_is_spliced_byte_for_byte() -> None:
    async def conversation() -> None:
        seen: list[tuple[bytes, bytes]] = []

        async def script(peer: Peer) -> None:
            seen.append(await peer.request())
            await peer.send(ok(b"answer", b"X-Request-Id: r1\r\n"))
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            body = b'{"model": "gpt-4o-mini",  "x":1.0e0}'
            answer = await gateway.ask(post(body, b"ANTHROPIC-beta: a\r\nCookie: c\r\n"), b"POST")
            assert (answer.status, answer.body) == (200, b"answer")
            assert answer["x-request-id"] == "r1"
            assert "x-aigw-error" not in answer
            host = f"127.0.0.1:{upstream.port}".encode()
            assert seen == [
                (
                    b"POST /v1/chat HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n"
                    b"ANTHROPIC-beta: a\r\nAuthorization: Bearer sk-upstream\r\n\r\n"
                    % (host, len(body)),
                    body,
                )
            ]
            record = await gateway.record()
            assert record["request_id"] == answer["x-aigw-request-id"]
            assert (record["key"], record["user"], record["app"]) == (
                "user1",
                "user1:127.0.0.1",
                "default",
            )
            assert (record["bytes_in"], record["bytes_out"]) == (len(body), 6)
            assert (record["status"], record["error"], record["attempts"]) == (200, None, 1)

    converse(conversation())


def test_a_connection_serves_again_on_both_sides() -> None:
    async def conversation() -> None:
        async with (
            Upstream(answering(ok(b"1"), ok(b"2"), ok(b"3"))) as upstream,
            Gateway(toml(upstream)) as gateway,
        ):
            client = await gateway.client()
            for expected in (b"1", b"2", b"3"):
                await client.send(GET)
                assert (await client.answer()).body == expected
            assert len(upstream.peers) == 1

    converse(conversation())


def test_pipelined_requests_go_one_at_a_time() -> None:
    async def conversation() -> None:
        async with (
            Upstream(answering(ok(b"1"), ok(b"2"), ok(b"3"))) as upstream,
            Gateway(toml(upstream)) as gateway,
        ):
            client = await gateway.client()
            await client.send(GET + post(b"body") + GET)
            assert [(await client.answer()).body for _ in range(3)] == [b"1", b"2", b"3"]
            assert len(upstream.peers) == 1
            await gateway.settled()
            assert len(gateway.records) == 3

    converse(conversation())


def test_a_request_may_come_byte_by_byte() -> None:
    async def conversation() -> None:
        async with Upstream(answering(ok())) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            for octet in b"\r\n" + post(b"hello"):
                await client.send(bytes([octet]))
            assert (await client.answer()).status == 200

    converse(conversation())


def test_a_chunked_request_is_framed_anew() -> None:
    async def conversation() -> None:
        seen: list[tuple[bytes, bytes]] = []

        async def script(peer: Peer) -> None:
            seen.append(await peer.request())
            await peer.send(ok())
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            head = b"POST /v1/chat HTTP/1.1\r\nHost: gw\r\n" + KEY
            request = (
                head
                + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"
            )
            assert (await gateway.ask(request, b"POST")).status == 200
            assert seen[0][1] == b"abcde"
            assert b";x=y" not in upstream.peers[0].received
            assert b"T: 1" not in upstream.peers[0].received

    converse(conversation())


def test_chunks_of_an_answer_pass_as_they_come() -> None:
    """But for their extensions, which are for one hop."""

    async def conversation() -> None:
        go_on = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for number in range(3):
                await peer.send(b"8;n=1\r\ndata: %d\n\r\n" % number)
                await go_on.wait()
                go_on.clear()
            await peer.send(b"0\r\n\r\n")
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(post(b"{}"))
            await client.until(b"\r\n\r\n")
            for number in range(3):
                assert await client.exactly(11) == b"8\r\ndata: %d\n" % number
                assert await client.exactly(2) == b"\r\n"
                go_on.set()
            assert await client.exactly(5) == b"0\r\n\r\n"
            record = await gateway.record()
            assert record["stream"] is True

    converse(conversation())


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_an_answer_that_ends_by_close(version: bytes) -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhel")
            await peer.send(b"lo")

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(post(b"{}", version=version))
            answer = await client.answer()
            assert (answer.body, answer.whole) == (b"hello", True)
            chunked = version == b"1.1"
            assert ("transfer-encoding" in answer) == chunked
            assert answer.ended != chunked
            if chunked:
                await client.send(post(b"{}"))
                assert (await client.answer()).body == b"hello"
                assert len(upstream.peers) == 2

    converse(conversation())


def test_http_1_0_gets_no_chunks() -> None:
    async def conversation() -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        async with (
            Upstream(answering(chunked, ok(b"kept"))) as upstream,
            Gateway(toml(upstream)) as gateway,
        ):
            client = await gateway.client()
            await client.send(post(b"{}", b"Connection: keep-alive\r\n", b"1.0"))
            assert (await client.rest()).endswith(b"\r\n\r\nhi")
            client = await gateway.client()
            await client.send(post(b"{}", b"Connection: keep-alive\r\n", b"1.0"))
            answer = await client.answer()
            assert answer["connection"] == "keep-alive"
            assert answer.body == b"kept"

    converse(conversation())


BODILESS = [
    (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"5"),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", None),
    (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"5"),
]


@pytest.mark.parametrize("case", BODILESS)
def test_answers_without_a_body(case: tuple[bytes, bytes, bytes | None]) -> None:
    """A body that was announced may come nevertheless: then the connection does not serve again."""
    method, sent, length = case

    async def conversation() -> None:
        answers = iter((sent, ok()))

        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(next(answers))

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(method + GET[3:])
            answer = await client.answer(method)
            assert answer.whole
            assert answer.body == b""
            assert dict(answer.fields).get(b"content-length") == length
            await client.send(GET)
            assert (await client.answer()).body == b"ok"
            assert len(upstream.peers) == (1 if b"Content-Length: 0" in sent else 2)

    converse(conversation())


def test_interim_answers_pass_but_for_100() -> None:
    async def conversation() -> None:
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        async with (
            Upstream(answering(interim + ok())) as upstream,
            Gateway(toml(upstream)) as gateway,
        ):
            answer = await gateway.ask(GET)
            assert (answer.interim, answer.status) == ([103], 200)

    converse(conversation())


def test_continue_is_sent_once_admitted() -> None:
    async def conversation() -> None:
        async with Upstream(answering(ok())) as upstream, Gateway(toml(upstream)) as gateway:
            head, body = post(b"hello", b"Expect: 100-continue\r\n").split(b"\r\n\r\n")
            client = await gateway.client()
            await client.send(head + b"\r\n\r\n")
            assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(body)
            assert (await client.answer()).status == 200
            assert b"xpect" not in upstream.peers[0].received

    converse(conversation())


def test_refused_after_expect_nothing_is_read() -> None:
    async def conversation() -> None:
        async with Gateway(toml("http://127.0.0.1:1")) as gateway:
            client = await gateway.client()
            await client.send(
                b"POST /v1/chat HTTP/1.1\r\nHost: gw\r\nContent-Length: 5\r\n"
                b"Expect: 100-continue\r\n\r\n"
            )
            answer = await client.answer()
            assert (answer.interim, answer.status, answer.code) == ([], 401, "missing_api_key")
            assert await client.closed()

    converse(conversation())


def test_an_early_refusal_reaches_a_client_that_is_still_sending() -> None:
    async def conversation() -> None:
        async with Gateway(toml("http://127.0.0.1:1")) as gateway:
            client = await gateway.client()
            size = 700_000
            await client.send(b"POST /v1 HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % size)
            await client.send(b"x" * size)
            answer = await client.answer()
            assert (answer.status, answer["connection"]) == (401, "close")
            assert await client.closed()

    converse(conversation())


def test_an_upstream_may_answer_early() -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.until(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(post(b"x" * 100_000)[:-50_000])
            answer = await client.answer()
            assert (answer.status, answer.body, answer["connection"]) == (413, b"big", "close")
            assert await client.closed()

    converse(conversation())


def test_large_bodies_pass_both_ways_with_slow_readers() -> None:
    size = 8 * 1024 * 1024

    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await asyncio.sleep(0.05)
            _, body = await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            await peer.send(body)
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            body = bytes(range(256)) * (size // 256)
            await client.send(post(body))
            await asyncio.sleep(0.05)
            answer = await client.answer()
            assert answer.body == body
            record = await gateway.record()
            assert (record["bytes_in"], record["bytes_out"]) == (size, size)

    converse(conversation())


CUTS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhel",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\nxx\r\n",
}


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_answer_looks_cut(name: str, version: bytes, reset: bool) -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CUTS[name])
            if reset:
                await asyncio.sleep(0.02)
                peer.reset()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(post(b"{}", version=version))
            answer = await client.answer()
            assert answer.status == 200
            assert not answer.whole
            record = await gateway.record()
            assert (record["status"], record["error"]) == (200, "upstream_truncated")

    converse(conversation())


def test_a_reset_is_no_end_of_an_answer_that_ends_by_close() -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhel")
            await asyncio.sleep(0.02)
            peer.reset()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            for version in (b"1.1", b"1.0"):
                answer = await gateway.ask(post(b"{}", version=version))
                assert not answer.whole
                assert answer.reset == (version == b"1.0")

    converse(conversation())


MALFORMED = {
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "no HTTP": b"hello\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_is_the_upstreams_error(name: str) -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(MALFORMED[name])

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            await client.send(post(b"{}"))
            answer = await client.answer()
            assert (answer.status, answer.code) == (502, "upstream_error")
            await client.send(post(b"{}"))
            assert (await client.answer()).status == 502
            await gateway.settled()

    converse(conversation())


def test_surplus_bytes_end_the_upstream_connection() -> None:
    async def conversation() -> None:
        forged = ok(b"forged")
        async with (
            Upstream(answering(ok(b"1") + forged)) as upstream,
            Gateway(toml(upstream)) as gateway,
        ):
            client = await gateway.client()
            for _ in range(3):
                await client.send(GET)
                assert (await client.answer()).body == b"1"
            assert len(upstream.peers) == 3

    converse(conversation())


def test_an_answer_to_nobody_ends_the_idle_connection() -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(ok(b"1"))
            await asyncio.sleep(0.05)
            await peer.send(ok(b"forged"))
            await peer.rest()

        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client = await gateway.client()
            for _ in range(2):
                await client.send(GET)
                assert (await client.answer()).body == b"1"
                await asyncio.sleep(0.1)
            assert len(upstream.peers) == 2

    converse(conversation())


def test_own_credential_refused_is_not_the_clients_fault() -> None:
    async def conversation() -> None:
        refused = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nnope"
        async with Upstream(answering(refused)) as upstream, Gateway(toml(upstream)) as gateway:
            answer = await gateway.ask(GET)
            assert (answer.status, answer.code) == (502, "upstream_auth_error")
            assert answer["x-should-retry"] == "false"

    converse(conversation())


def test_the_clients_own_credential_refused_passes() -> None:
    async def conversation() -> None:
        body = b'{"error": {"message": "bad key"}}'
        refused = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        text = 'credentials = "client"'
        async with (
            Upstream(answering(refused)) as upstream,
            Gateway(toml(upstream, upstream=text)) as gateway,
        ):
            request = GET.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer sk-client\r\n\r\n")
            answer = await gateway.ask(request)
            assert (answer.status, answer.body) == (401, body)
            assert "x-aigw-error" not in answer
            assert b"Authorization: Bearer sk-client\r\n" in upstream.peers[0].received
            assert b"user1" not in upstream.peers[0].received

    converse(conversation())


def test_errors_of_the_provider_pass_verbatim() -> None:
    async def conversation() -> None:
        body = orjson.dumps({"error": {"message": "slow down", "type": "requests"}})
        sent = b"HTTP/1.1 529 Overloaded\r\nretry-after: 7\r\nContent-Length: %d\r\n\r\n" % len(
            body
        )
        async with Upstream(answering(sent + body)) as upstream, Gateway(toml(upstream)) as gateway:
            answer = await gateway.ask(GET)
            assert (answer.status, answer["retry-after"], answer.body) == (529, "7", body)
            assert "x-aigw-error" not in answer

    converse(conversation())
