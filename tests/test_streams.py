"""Streams: many at once through the real processes, and one chunk under the microscope.

How long a chunk takes is measured by the benches (`bench.compare`, scenario "streams"), not here:
a test on a busy machine can say whether everything arrives, and whether a write waits for anything.
"""

from __future__ import annotations

import asyncio
import re
import time

import uvloop

from aigw.proxy.client import ClientConnection
from aigw.upstreams.connection import UpstreamConnection
from tests.conversation import Gateway, converse, toml
from tests.running import running_gateway, running_mock

CONFIG = """
[listen]
address = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin_port}"
workers = 2
[log]
access = "off"
[[keys]]
name = "user1"
key = "user1"
max_parallel_requests = 200
[[upstreams]]
name = "up"
urls = ["MOCK"]
credentials = ["sk-upstream"]
[[routes]]
path = "/v1"
targets = [{ upstream = "up" }]
"""
STREAMS = 200
CHUNKS = 100
SPACING_MS = 10
BODY = b'{"model": "m", "messages": [], "stream": true}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\nX-API-Key: user1\r\n"
    b"x-mock-chunks: %d\r\nx-mock-spacing-ms: %d\r\nContent-Length: %d\r\n\r\n%b"
    % (CHUNKS, SPACING_MS, len(BODY), BODY)
)
END = b"\r\n0\r\n\r\n"


# --- many at once -------------------------------------------------------------------------------


async def stream(port: int) -> tuple[list[bytes], bytes]:
    """The head's lines and the raw chunks of one stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readuntil(END)
    finally:
        writer.close()
        await writer.wait_closed()
    return head.split(b"\r\n"), body


def test_200_streams_of_100_chunks() -> None:
    """All at once under a limit of as many: none refused, none lost, each byte as it was sent."""

    async def talk(port: int, mock_port: int) -> None:
        async with asyncio.timeout(30):
            _, direct = await stream(mock_port)
            streams = await asyncio.gather(*(stream(port) for _ in range(STREAMS)))
        assert direct.count(b'"delta":{"content"') == CHUNKS
        assert direct.endswith(b"data: [DONE]\n\n" + END)
        for head, body in streams:
            assert head[0] == b"HTTP/1.1 200 OK"
            assert body == direct
        assert (
            len({line for head, _ in streams for line in head if b"x-aigw-request-id" in line})
            == STREAMS
        )

    with running_mock() as mock, running_gateway(CONFIG.replace("MOCK", mock.url)) as gateway:
        uvloop.run(talk(gateway.port, mock.port))
        answered = {
            series: value
            for series, value in gateway.metrics().items()
            if series.startswith("aigw_requests_total")
        }
        assert answered == {
            'aigw_requests_total{code="200",route="/v1",upstream="up"}': float(STREAMS)
        }


# --- one chunk ----------------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and does nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_reading_paused = False
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def abort(self) -> None:
        self.aborted = True

    close = abort

    def taken(self) -> bytes:
        """What has been written since the last look."""
        data = b"".join(self.written)
        self.written.clear()
        return data


def test_each_write_happens_inside_the_callback_that_brought_it() -> None:
    """The loop does not turn between the calls below: whoever needed it would write nothing."""

    async def conversation() -> None:
        async with Gateway(toml("http://127.0.0.1:1")) as gateway:
            client, client_wire = ClientConnection(gateway.services), Wire()
            client.connection_made(client_wire)
            (group,) = gateway.services.groups()
            (member,) = group.members
            upstream = UpstreamConnection(member, time.monotonic())
            upstream_wire = Wire()
            upstream.connection_made(upstream_wire)
            member.give_idle(upstream, time.monotonic())

            client.data_received(REQUEST[: -len(BODY)])
            head = upstream_wire.taken()
            assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:1\r\n")
            for octet in BODY:
                client.data_received(bytes([octet]))
                assert upstream_wire.taken() == bytes([octet])

            upstream.data_received(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            assert re.match(rb"HTTP/1.1 200 OK\r\n.*\r\n\r\n$", client_wire.taken(), re.DOTALL)
            for number in range(CHUNKS):
                chunk = b"11\r\ndata: %09d\n\n\r\n" % number
                upstream.data_received(chunk)
                assert client_wire.written == [chunk]
                client_wire.taken()
            for octet in b"4\r\nabc\n\r\n":  # the edges of a chunk wait for nothing either
                upstream.data_received(bytes([octet]))
            assert client_wire.taken() == b"4\r\nabc\n\r\n"
            upstream.data_received(b"0\r\n\r\n")
            assert client_wire.taken() == b"0\r\n\r\n"
            assert member.idle == [upstream]
            assert member.inflight == 0
            client.connection_lost(None)

    converse(conversation())
