"""The mock on the wire: pipelining, timing, slow readers, the ledger."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Awaitable, Callable

import h11
import pytest
import uvloop

from aigw.mock.provider import MockServer, MockSettings, serve

CHAT = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    lines = (b"Host: a", *headers, b"Content-Length: %d" % len(body))
    return b"POST %b HTTP/1.1\r\n" % path + b"\r\n".join(lines) + b"\r\n\r\n" + body


class Client:
    """A connection whose answers are parsed by h11."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.left_over = b""

    async def answer(self, method: str = "POST") -> tuple[int, dict[str, str], bytes]:
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(self.left_over) if self.left_over else None
        status, headers, body = 0, {}, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await self.reader.read(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {n.decode(): v.decode() for n, v in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.left_over = connection.trailing_data[0]
                return status, headers, body


def conversation(
    talk: Callable[[Client, MockServer], Awaitable[None]], settings: MockSettings | None = None
) -> None:
    async def main() -> None:
        async with await serve(settings or MockSettings()) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            await talk(Client(reader, writer), server)
            writer.close()
            await asyncio.wait({asyncio.ensure_future(writer.wait_closed())})

    uvloop.run(main())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        client.writer.write(
            post(STREAM, b"x-mock-latency-ms: 20", b"x-mock-spacing-ms: 1", b"x-mock-chunks: 3")
            + post(CHAT)
            + b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"
            + b"HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        status, headers, body = await client.answer()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert body.endswith(b"data: [DONE]\n\n")
        assert json.loads((await client.answer())[2])["object"] == "chat.completion"
        status, _, body = await client.answer()
        assert (status, json.loads(body)["error"]["type"]) == (404, "invalid_request_error")
        status, headers, body = await client.answer("HEAD")
        assert (status, body) == (200, b"") and int(headers["content-length"]) > 0
        assert client.left_over == b""
        assert server.provider.answered == 4

    conversation(talk)


def test_many_requests_on_one_connection() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        ids = set()
        for _ in range(50):
            client.writer.write(post(CHAT))
            status, headers, _ = await client.answer()
            assert status == 200
            ids.add(headers["x-request-id"])
        assert len(ids) == 50

    conversation(talk)


def test_latency_and_spacing() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        started_s = time.monotonic()
        client.writer.write(post(STREAM))
        await client.reader.readuntil(b"data: ")
        first_s = time.monotonic() - started_s
        await client.reader.readuntil(b"[DONE]")
        last_s = time.monotonic() - started_s
        assert 0.095 <= first_s < 2
        assert 0.095 + 11 * 0.01 - 0.005 <= last_s < 5

    conversation(talk, MockSettings(latency_s=0.1, spacing_s=0.01, chunks=10))


def test_stamps_are_sending_times() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        before_ns = time.monotonic_ns()
        client.writer.write(post(STREAM, b"x-mock-stamp: 1", b"x-mock-spacing-ms: 2"))
        _, _, body = await client.answer()
        stamps = [int(digits) for digits in re.findall(rb"mock_sent_ns=(\d{19}) ", body)]
        assert len(stamps) == 20
        assert stamps == sorted(stamps)
        assert before_ns < stamps[0] and stamps[-1] < time.monotonic_ns()

    conversation(talk)


def test_equal_requests_get_equal_bodies() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        bodies = set()
        for _ in range(2):
            client.writer.write(post(STREAM))
            bodies.add((await client.answer())[2])
        assert len(bodies) == 1

    conversation(talk)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until that is so."""
    turn = asyncio.Event()
    while not condition():
        asyncio.get_running_loop().call_soon(turn.set)
        await turn.wait()
        turn.clear()


def test_a_client_that_does_not_read_holds_the_stream() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        size = 16 * 1024 * 1024
        wanted = (b"x-mock-size: %d" % size, b"x-mock-chunks: 200", b"x-mock-stamp: 1")
        client.writer.write(post(STREAM, *wanted))
        answer = bytearray(await client.reader.readuntil(b"data: "))
        (connection,) = server.provider.connections
        await until(lambda: connection._full)
        assert connection._transport.get_write_buffer_size() < size // 4
        assert connection._sent < len(connection._parts)
        while not answer.endswith(b"[DONE]\n\n\r\n0\r\n\r\n"):
            answer += await client.reader.read(1 << 20)
        assert len(answer) > size

    conversation(talk)


@pytest.mark.parametrize(
    "request_bytes",
    [post(CHAT, b"Connection: close"), post(CHAT).replace(b"HTTP/1.1", b"HTTP/1.0")],
)
def test_closing(request_bytes: bytes) -> None:
    async def talk(client: Client, server: MockServer) -> None:
        client.writer.write(post(CHAT) + request_bytes + post(CHAT))
        assert (await client.answer())[0] == 200
        assert (await client.answer())[0] == 200
        assert client.left_over + await client.reader.read() == b""

    conversation(talk)


@pytest.mark.parametrize(
    "request_bytes",
    [b"what?\r\n\r\n", post(CHAT, b"x-mock-chunks: many"), post(CHAT, b"x-mock-status: 100")],
)
def test_nonsense_gets_400_and_the_end(request_bytes: bytes) -> None:
    async def talk(client: Client, server: MockServer) -> None:
        client.writer.write(request_bytes)
        assert (await client.answer())[0] == 400
        assert await client.reader.read() == b""

    conversation(talk)


def test_a_body_that_is_no_json() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        client.writer.write(post(b"{"))
        assert (await client.answer())[0] == 400
        client.writer.write(post(CHAT))
        assert (await client.answer())[0] == 200

    conversation(talk)


def test_a_hang_up_ends_the_stream() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        client.writer.write(post(STREAM, b"x-mock-spacing-ms: 50") + post(CHAT))
        await client.reader.readuntil(b"data: ")
        client.writer.transport.abort()
        await until(lambda: not server.provider.connections)
        assert server.provider.answered == 1

    conversation(talk)


def test_the_ledger_keeps_the_last_requests() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        chunked = (
            b"POST /v1/files HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        for request in (b"GET / HTTP/1.1\r\n\r\n", post(CHAT, b"X-Odd:  Value "), chunked):
            client.writer.write(request)
            await client.answer()
        client.writer.write(b"GET /mock/requests HTTP/1.1\r\n\r\n")
        ledger = json.loads((await client.answer())[2])
        assert ledger == list(server.provider.requests)
        assert [entry["method"] for entry in ledger] == ["POST", "POST"]
        assert ledger[0]["target"] == "/v1/chat/completions"
        assert ["X-Odd", "Value"] in ledger[0]["headers"]
        assert ledger[0]["body_sha256"] == hashlib.sha256(CHAT).hexdigest()
        assert ledger[1]["body_sha256"] == hashlib.sha256(b"abc").hexdigest()
        assert ledger[1]["body_bytes"] == 3

    conversation(talk, MockSettings(ledger=2))


def test_without_a_ledger_its_path_is_unknown() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        client.writer.write(b"GET /mock/requests HTTP/1.1\r\n\r\n")
        assert (await client.answer())[0] == 404

    conversation(talk)


def test_expect_continue() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        whole = post(CHAT, b"Expect: 100-continue")
        client.writer.write(whole[: -len(CHAT)])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(CHAT)
        assert (await client.answer())[0] == 200

    conversation(talk)


def test_latency_is_that_of_a_model() -> None:
    async def talk(client: Client, server: MockServer) -> None:
        models = b"GET /v1/models HTTP/1.1\r\n"
        started_s = time.monotonic()
        client.writer.write(models + b"\r\n")
        assert (await client.answer("GET"))[0] == 200
        assert time.monotonic() - started_s < 5
        client.writer.write(models + b"x-mock-latency-ms: 50\r\n\r\n")
        started_s = time.monotonic()
        assert (await client.answer("GET"))[0] == 200
        assert time.monotonic() - started_s >= 0.045

    conversation(talk, MockSettings(latency_s=9))
