"""The load generator: it counts right, omits nothing, and names what went wrong."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from aigw.mock.provider import MockServer, MockSettings, serve
from bench.client import ChunkedBody
from bench.load import LoadError, LoadPlan, main, run_load
from bench.report import LoadResult
from bench.request import RequestPlan

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def against_mock(plan: Callable[[int], LoadPlan], settings: MockSettings) -> LoadResult:
    async def talk() -> LoadResult:
        async with await serve(settings) as server:
            result = await run_load(plan(server.port))
            counted(server, result)
            return result

    return uvloop.run(talk())


def counted(server: MockServer, result: LoadResult) -> None:
    assert server.provider.answered == result.answers + sum(result.errors.values())


def test_closed_loop_sends_so_many_requests() -> None:
    result = against_mock(
        lambda port: LoadPlan(host="127.0.0.1", port=port, connections=7, requests=100),
        MockSettings(),
    )
    assert (result.answers, result.errors) == (100, {})
    assert result.latency is not None and result.latency.count == 100
    assert result.late is None


def test_closed_loop_ends_in_time() -> None:
    result = against_mock(
        lambda port: LoadPlan(host="127.0.0.1", port=port, connections=3, seconds=0.3),
        MockSettings(latency_s=0.01),
    )
    assert 0.3 <= result.seconds < 5
    assert 3 <= result.answers <= 3 * 31
    assert result.latency is not None and result.latency.p50 >= 9_000


def test_open_loop_keeps_its_rate_while_answers_are_slow() -> None:
    result = against_mock(
        lambda port: LoadPlan(host="127.0.0.1", port=port, connections=100, rate=200, seconds=0.5),
        MockSettings(latency_s=0.2),
    )
    assert (result.answers, result.errors) == (100, {})
    # 200 ms for the last answer; one connection after the other would have taken 20 s
    assert 0.65 <= result.seconds < 10
    assert result.latency is not None and 199_000 <= result.latency.p50 < 3_000_000
    assert result.late is not None and result.late.count == 100


def test_streams_are_counted_chunk_by_chunk() -> None:
    request = RequestPlan(stream=True, chunks=30, spacing_ms=2, vary="ids")
    result = against_mock(
        lambda port: LoadPlan(
            host="127.0.0.1", port=port, request=request, connections=4, requests=12
        ),
        MockSettings(),
    )
    assert (result.answers, result.errors) == (12, {})
    assert result.chunk_delay is not None and result.chunk_delay.count == 12 * 30
    assert result.first_byte is not None and result.latency is not None
    assert result.first_byte.p50 < result.latency.p50
    assert result.latency.p50 >= 55_000


def test_another_status_is_an_error_unless_expected() -> None:
    plan = LoadPlan(host="127.0.0.1", port=0, connections=2, requests=10)

    def expecting(status: int) -> LoadResult:
        return against_mock(
            lambda port: LoadPlan(
                host=plan.host, port=port, connections=2, requests=10, expect=(status,)
            ),
            MockSettings(status=429),
        )

    assert expecting(200).errors == {"status 429": 10}
    assert expecting(429).answers == 10


# --- a server that misbehaves


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def against(behave: Behaviour, **plan: float) -> LoadResult:
    """A run against a server that does this on each connection."""

    async def talk() -> LoadResult:
        tasks: set[asyncio.Task[None]] = set()

        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await behave(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        base = LoadPlan(host="127.0.0.1", port=port, connections=4, seconds=0.5, grace_s=0.3)
        try:
            values = {name: getattr(base, name) for name in base.__struct_fields__}
            return await run_load(LoadPlan(**{**values, **plan}))  # type: ignore[arg-type]
        finally:
            server.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    return uvloop.run(talk())


async def read_request(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.rpartition(b"content-length:")[2]))


def test_open_loop_shows_a_stall() -> None:
    """A server that answers nobody for 0.3 s, at 0.1 s: the requests due meanwhile waited."""
    started_s: list[float] = []

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            started_s.append(time.monotonic())
            passed_s = started_s[-1] - started_s[0]
            if passed_s > 0.1:
                await asyncio.sleep(max(0.0, 0.4 - passed_s))
            writer.write(OK)

    result = against(stall, rate=500, seconds=0.8)
    assert (result.answers, result.errors) == (400, {})
    assert result.latency is not None
    # About 150 of 400 requests were due during the stall: their waits go from 300 ms down to 0.
    assert result.latency.max >= 250_000
    assert result.latency.p90 >= 150_000
    assert result.latency.p50 < 250_000


def test_requests_never_answered_count_with_their_age() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    result = against(silence, rate=100, seconds=0.3)
    assert (result.answers, result.errors) == (0, {"unanswered": 30})
    assert result.latency is not None and result.latency.count == 30
    assert 550_000 <= result.latency.max < 6_000_000
    result = against(silence, seconds=0.2)
    assert result.errors == {"unanswered": 4}


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(OK[:-1])
    await writer.drain()


async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 what\r\n\r\n")
    await reader.read()


async def too_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(OK + b"more")
    await reader.read()


@pytest.mark.parametrize(
    "behave, kind",
    [(hang_up, "reset"), (cut, "cut"), (nonsense, "no HTTP"), (too_much, "no HTTP")],
)
def test_kinds_of_errors(behave: Behaviour, kind: str) -> None:
    result = against(behave, requests=20)
    assert (result.answers, result.errors) == (0, {kind: 20})


async def close_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(OK.replace(b"Content-Length: 2", b"Connection: close"))
    await writer.drain()
    writer.write_eof()
    await reader.read()


def test_answers_that_end_with_the_connection() -> None:
    assert against(close_each, requests=20).answers == 20
    assert against(close_each, rate=100, seconds=0.2).answers == 20


def test_nobody_listens() -> None:
    with pytest.raises(LoadError):
        uvloop.run(run_load(LoadPlan(host="127.0.0.1", port=1, connections=2)))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "result.json"
    assert main(["--url", "http://127.0.0.1:1/", "--json", str(target)]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err

    async def talk() -> int:
        async with await serve(MockSettings()) as server:
            command = ["--url", f"http://127.0.0.1:{server.port}/v1/chat/completions"]
            command += ["--requests", "50", "--warmup", "0", "--json", str(target)]
            return await asyncio.to_thread(main, command)

    assert uvloop.run(talk()) == 0
    assert "50 answers" in capsys.readouterr().out
    assert json.loads(target.read_bytes())["answers"] == 50


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_end_of_a_chunked_body(size: int) -> None:
    body = b"5\r\nhello\r\nB;x=y\r\n0\r\n\r\n world\r\n0\r\nTrailer: t\r\n\r\n"
    found = ChunkedBody()
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    assert [found.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
