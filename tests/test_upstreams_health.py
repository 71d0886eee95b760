"""Active health checks: the rule as a table, the checks against real servers."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trustme
import uvloop

from aigw.memory import Memory
from aigw.policy.compiled import Health, Member
from aigw.upstreams.connector import TLSSettings
from aigw.upstreams.health import (
    HALF_OPEN,
    HEALTHY,
    OUT,
    Check,
    HealthChecks,
    Standing,
    judged,
)

FAST = Health(path="/up", expect="<500", interval_s=0.01, timeout_s=0.5, rise=2, fall=3)


@pytest.mark.parametrize(
    ("results", "states"),
    [
        # + is a good check, - a bad one; rise = 2, fall = 3; healthy, half-open, out
        ("+++", "hhh"),
        ("--+--+", "hhhhhh"),
        ("---", "hho"),
        ("---+", "hho½"),
        ("---++", "hho½h"),
        ("---+-++", "hho½o½h"),
        ("---++---", "hho½hhho"),
    ],
)
def test_rise_and_fall(results: str, states: str) -> None:
    standing, seen = Standing(), ""
    for result in results:
        standing = judged(standing, result == "+", rise=2, fall=3)
        seen += {HEALTHY: "h", HALF_OPEN: "½", OUT: "o"}[standing.state]
    # A member that is still healthy stays so whatever its streak.
    assert seen == states


def test_one_in_a_row_is_enough_when_so_configured() -> None:
    down = judged(Standing(), False, rise=1, fall=1)
    assert down.state == OUT
    assert judged(down, True, rise=1, fall=1).state == HEALTHY


class Upstream:
    """A server whose answer can be changed; `heads` and `connections` are what it has seen."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.heads: list[bytes] = []
        self.connections = 0
        self.open: dict[Peer, asyncio.Event] = {}
        self.port = 0

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Peer(self), "127.0.0.1", self.port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for peer, lost in list(self.open.items()):
                peer.transport.abort()
                await lost.wait()
            await server.wait_closed()


class Peer(asyncio.Protocol):
    """One connection of the upstream: it answers and closes; without an answer it is silent."""

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.upstream.connections += 1
        self.upstream.open[self] = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.received.endswith(b"\r\n\r\n"):
            self.upstream.heads.append(self.received)
            if self.upstream.answer:
                self.transport.write(self.upstream.answer)
                self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.upstream.open.pop(self).set()


def check_of(
    upstream: Upstream, health: Health = FAST, scheme: str = "http", row: int = 7, ca_pem: str = ""
) -> Check:
    member = Member(
        label=f"127.0.0.1:{upstream.port}",
        scheme=scheme,
        host="127.0.0.1",
        port=upstream.port,
        host_field=f"127.0.0.1:{upstream.port}".encode(),
        base_path=b"/base",
        health_row=row,
    )
    return Check("openai", member, health, TLSSettings(ca_pem=ca_pem))


class Watched:
    """Health checks over a memory of their own."""

    def __init__(self) -> None:
        self.memory = Memory.create(1)
        self.checks = HealthChecks(self.memory.health, lambda: 0.5)

    def out(self, row: int = 7) -> bool:
        return self.memory.health.is_out(row, time.monotonic_ns())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.002)


def run(scenario: Callable[[Watched, Upstream], Awaitable[None]]) -> None:
    async def main() -> None:
        watched, upstream = Watched(), Upstream()
        try:
            async with upstream.running():
                await scenario(watched, upstream)
        finally:
            await watched.checks.close()

    uvloop.run(main())


def test_a_check_is_a_plain_get_without_credential() -> None:
    async def scenario(watched: Watched, upstream: Upstream) -> None:
        watched.checks.update([check_of(upstream)])
        await watched.until(lambda: len(upstream.heads) >= 2)
        assert upstream.heads[0] == (
            b"GET /base/up HTTP/1.1\r\n"
            b"Host: 127.0.0.1:%d\r\n"
            b"User-Agent: aigw-health\r\n"
            b"Accept: */*\r\n"
            b"Connection: close\r\n\r\n" % upstream.port
        )
        assert watched.checks.state(7) == HEALTHY
        assert watched.checks.state(8) is None

    run(scenario)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 599 \r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Broken\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000,
        b"HTTP/1.1 20",
        b"",  # silence
    ],
)
def test_a_bad_answer_takes_a_member_out(answer: bytes) -> None:
    async def scenario(watched: Watched, upstream: Upstream) -> None:
        upstream.answer = answer
        hasty = Health(path="/", expect="<500", interval_s=0.02, timeout_s=0.02, rise=1, fall=2)
        watched.checks.update([check_of(upstream, hasty)])
        await watched.until(watched.out)
        assert upstream.connections >= 2
        assert watched.checks.state(7) == OUT

    run(scenario)


@pytest.mark.parametrize("status", [101, 200, 204, 302, 401, 403, 404, 429])
def test_an_answer_below_500_is_good_by_default(status: int) -> None:
    async def scenario(watched: Watched, upstream: Upstream) -> None:
        upstream.answer = b"HTTP/1.1 %d Any\r\n\r\n" % status
        strict = Health(path="/", expect="<500", interval_s=0.01, timeout_s=0.5, rise=1, fall=1)
        watched.checks.update([check_of(upstream, strict)])
        await watched.until(lambda: upstream.connections >= 3)
        assert watched.checks.state(7) == (OUT if status == 101 else HEALTHY)

    run(scenario)


def test_a_member_returns_after_rise_good_checks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="aigw")

    async def scenario(watched: Watched, upstream: Upstream) -> None:
        upstream.answer = b"HTTP/1.1 500 Broken\r\n\r\n"
        watched.checks.update([check_of(upstream)])
        await watched.until(watched.out)
        before = upstream.connections
        upstream.answer = b"HTTP/1.1 200 OK\r\n\r\n"
        await watched.until(lambda: not watched.out())
        assert watched.checks.state(7) == HEALTHY
        assert upstream.connections >= before + 2

    run(scenario)
    assert "127.0.0.1" in caplog.text
    assert "is out: status 500, not <500" in caplog.text
    assert "is healthy again" in caplog.text


def test_nobody_listening_takes_a_member_out() -> None:
    async def scenario(watched: Watched, upstream: Upstream) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        dead = Upstream()
        dead.port = port
        connect = Health(path="", expect="<500", interval_s=0.01, timeout_s=0.5, rise=1, fall=2)
        watched.checks.update([check_of(upstream, connect, row=1), check_of(dead, connect, row=2)])
        await watched.until(lambda: watched.out(2) and upstream.connections >= 2)
        assert not watched.out(1)
        assert upstream.heads == []

    run(scenario)


def test_tls_is_checked_with_the_certificate_of_the_upstream() -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca_pem = ca.cert_pem.bytes().decode()
    connect = Health(path="", expect="<500", interval_s=0.01, timeout_s=0.5, rise=1, fall=1)

    async def main() -> None:
        watched, upstream = Watched(), Upstream()
        try:
            async with upstream.running(context):
                watched.checks.update(
                    [
                        check_of(upstream, FAST, "https", 1, ca_pem),
                        check_of(upstream, connect, "https", 2, ca_pem),
                        check_of(
                            upstream, connect, "https", 3, trustme.CA().cert_pem.bytes().decode()
                        ),
                    ]
                )
                await watched.until(lambda: watched.out(3) and len(upstream.heads) >= 3)
                assert not watched.out(1)
                assert not watched.out(2)
                await watched.checks.close()
        finally:
            await watched.checks.close()

    uvloop.run(main())


def test_unchanged_members_keep_their_standing_at_a_reload() -> None:
    async def scenario(watched: Watched, upstream: Upstream) -> None:
        upstream.answer = b"HTTP/1.1 500 Broken\r\n\r\n"
        stubborn = Health(path="/", expect="<500", interval_s=0.01, timeout_s=0.5, rise=99, fall=2)
        watched.checks.update([check_of(upstream, stubborn)])
        await watched.until(watched.out)
        watched.checks.update([check_of(upstream, stubborn), check_of(upstream, FAST, row=8)])
        assert watched.checks.state(7) == OUT
        assert watched.checks.state(8) == HEALTHY
        # The same member with other settings is still out, and is judged by the new ones.
        upstream.answer = b"HTTP/1.1 200 OK\r\n\r\n"
        watched.checks.update([check_of(upstream, FAST)])
        assert watched.checks.state(7) in (OUT, HALF_OPEN)
        assert watched.checks.state(8) is None
        await watched.until(lambda: watched.checks.state(7) == HEALTHY)

    run(scenario)


def test_a_member_that_is_checked_no_more_is_not_out() -> None:
    async def scenario(watched: Watched, upstream: Upstream) -> None:
        upstream.answer = b"HTTP/1.1 500 Broken\r\n\r\n"
        slow = Health(path="/", expect="<500", interval_s=60.0, timeout_s=0.5, rise=1, fall=1)
        watched.checks.update([check_of(upstream, slow)])
        await watched.until(watched.out)
        watched.checks.update([])
        assert not watched.out()
        assert watched.checks.state(7) is None

    run(scenario)


@pytest.mark.parametrize("path", ["", "/up"])
def test_a_check_may_be_ended_at_any_moment(path: str) -> None:
    faults: list[dict[str, object]] = []

    async def scenario(watched: Watched, upstream: Upstream) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        health = Health(path=path, expect="<500", interval_s=9.0, timeout_s=9.0, rise=1, fall=1)
        for turns in range(60):  # of the loop; a whole check has about ten
            watched.checks.update([check_of(upstream, health)])
            for _ in range(turns):
                await asyncio.sleep(0)
            watched.checks.update([])
        async with asyncio.timeout(20):  # nor does one go on until it is late
            await watched.checks.close()

    run(scenario)
    assert faults == []


def test_a_successor_believes_the_bit_in_memory() -> None:
    async def scenario(watched: Watched, upstream: Upstream) -> None:
        upstream.answer = b""  # silence: no check of the successor can end
        patient = Health(path="/", expect="<500", interval_s=9.0, timeout_s=9.0, rise=1, fall=1)
        watched.memory.health.set(7, False, time.monotonic_ns(), 10**10)
        watched.checks.update([check_of(upstream, patient)])
        assert watched.checks.state(7) == OUT

    run(scenario)


def test_a_verdict_outlives_a_check_that_lasts_longer_than_the_interval() -> None:
    async def scenario(watched: Watched, upstream: Upstream) -> None:
        upstream.answer = b"HTTP/1.1 500 Broken\r\n\r\n"
        odd = Health(path="/", expect="<500", interval_s=0.001, timeout_s=5.0, rise=1, fall=1)
        watched.checks.update([check_of(upstream, odd)])
        await watched.until(watched.out)
        assert watched.memory.health.is_out(7, time.monotonic_ns() + 10**10)

    run(scenario)


def test_checks_do_not_march_in_step() -> None:
    async def scenario(watched: Watched, upstream: Upstream) -> None:
        asked: list[float] = []

        def chance() -> float:
            asked.append(0.0)
            return 0.0

        checks = HealthChecks(watched.memory.health, chance)
        try:
            checks.update([check_of(upstream)])
            await watched.until(lambda: upstream.connections >= 3)
        finally:
            await checks.close()
        assert len(asked) >= 2

    run(scenario)
