"""More than can be served: who is let in is served in time, everybody else is told so at once."""

from __future__ import annotations

import asyncio

import pytest
from conversation import Answer, Gateway, Peer, Upstream, answering, converse, ok, toml
from open_files import no_file_left

from aigw.proxy.lag import Lag
from aigw.upstreams.member import Member

pytestmark = pytest.mark.usefixtures("both_ways")

KEY = b"X-API-Key: user1\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: gw\r\n" + KEY + b"\r\n"
STREAM = GET.replace(b"models", b"stream")
POST = b"POST /v1/chat HTTP/1.1\r\nHost: gw\r\n" + KEY + b"Content-Length: 5\r\n\r\nhello"
HEALTH = b"GET /health HTTP/1.1\r\nHost: gw\r\n\r\n"


async def asked(client: Peer, request: bytes = GET) -> Answer:
    await client.send(request)
    return await client.answer()


def is_refused(answer: Answer) -> bool:
    assert (answer.status, answer.code) == (503, "overloaded")
    assert (answer["retry-after"], answer["retry-after-ms"]) == ("1", "1000")
    assert "connection" not in answer
    return True


class Late:
    """The sweeper's time as `Lag` sees it; while `on`, a second more passes before each sweep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on, self._ahead_s, self._swept = False, 0.0, Lag.swept
        monkeypatch.setattr("aigw.proxy.deadlines.SWEEP_S", 0.02)
        monkeypatch.setattr(Gateway, "lag", Lag)
        monkeypatch.setattr(Lag, "swept", lambda lag, now_s: self._swept(lag, self._time(now_s)))

    def _time(self, now_s: float) -> float:
        self._ahead_s += 1.0 if self.on else 0.0
        return now_s + self._ahead_s


def test_while_the_loop_is_late_nothing_new_is_admitted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    late, go_on = Late(monkeypatch), asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            if b"/stream" in head:
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
                await go_on.wait()
                await peer.send(b"cd")
            else:
                await peer.send(ok())

    async def conversation() -> None:
        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            client, listener = await gateway.client(), await gateway.client()
            await listener.send(STREAM)
            await listener.until(b"\r\n\r\nab")
            assert (await asked(client)).status == 200  # a warm connection and a known shape
            late.on = True
            while not gateway.services.refusing:
                await asyncio.sleep(0.005)
            seen = b"".join(peer.received for peer in upstream.peers)
            assert is_refused(await asked(client))
            assert is_refused(await asked(client))
            assert is_refused(await asked(await gateway.client()))
            assert (await asked(client, HEALTH)).status == 200
            go_on.set()
            assert await listener.exactly(2) == b"cd"
            assert b"".join(peer.received for peer in upstream.peers) == seen
            late.on = False
            while gateway.services.refusing:
                await asyncio.sleep(0.005)
            assert (await asked(client)).status == 200
            assert (await asked(listener)).status == 200
            await gateway.settled()
            assert [r["error"] for r in gateway.records].count("overloaded") == 3
            assert gateway.value("requests_in_flight") == 0

    converse(conversation())
    said = [line for line in caplog.messages if "overloaded" in line]
    assert said[:1] == ["overloaded: the event loop is late; new requests are answered 503"]
    assert said[1::2] == ["no longer overloaded"] * (len(said) // 2)
    assert len(said) % 2 == 0


def test_a_retired_worker_admits_nothing() -> None:
    async def conversation() -> None:
        async with Upstream(answering(ok())) as upstream, Gateway(toml(upstream)) as gateway:
            gateway.services.retire()
            answer = await gateway.ask(POST)
            assert (answer.status, answer.code) == (503, "shutting_down")
            assert answer["connection"] == "close"
            assert all(peer.received == b"" for peer in upstream.peers)

    converse(conversation())


def test_who_has_retired_does_not_come_back_when_the_lag_ends() -> None:
    async def conversation() -> None:
        async with Gateway(toml("http://127.0.0.1:1")) as gateway:
            services = gateway.services
            services.set_overloaded(True)
            services.retire()
            services.set_overloaded(False)
            assert (await gateway.ask(GET)).code == "shutting_down"
            services.set_overloaded(True)
            assert (await gateway.ask(GET)).code == "shutting_down"

    converse(conversation())


TWO = """
[[keys]]
name = "user1"
key = "user1"
rps = 1000
max_parallel_requests = 50
[[upstreams]]
name = "stalled"
urls = ["http://127.0.0.1:{}"]
credentials = []
pool = {{ max_connections = 3 }}
[[upstreams]]
name = "sound"
urls = ["http://127.0.0.1:{}"]
credentials = []
[[routes]]
path = "/stalled"
targets = [{{ upstream = "stalled" }}]
[[routes]]
path = "/v1"
targets = [{{ upstream = "sound" }}]
"""
STALLED = GET.replace(b"/v1/models", b"/stalled")


def test_a_stalled_upstream_fills_its_own_connections_and_harms_nobody_else() -> None:
    async def stalling(peer: Peer) -> None:
        await peer.rest()

    async def sound(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(ok())

    async def conversation() -> None:
        async with (
            Upstream(stalling) as stalled,
            Upstream(sound) as other,
            Gateway(TWO.format(stalled.port, other.port)) as gateway,
        ):
            waiting = [await gateway.client() for _ in range(3)]
            for client in waiting:
                await client.send(STALLED)
            while sum(GET[:4] in peer.received for peer in stalled.peers) < 3:
                await asyncio.sleep(0.005)
            for _ in range(3):  # they are told at once, and may stay
                client = await gateway.client()
                for _ in range(3):
                    assert is_refused(await asked(client, STALLED))
                    assert (await asked(client)).status == 200
            assert sum(GET[:4] in peer.received for peer in stalled.peers) == 3
            waiting[0].end()  # a place is free
            while gateway.value("requests_in_flight") > 2:
                await asyncio.sleep(0.005)
            await client.send(STALLED)
            while sum(GET[:4] in peer.received for peer in stalled.peers) < 4:
                await asyncio.sleep(0.005)
            for peer in (*waiting[1:], client):
                peer.end()
            await gateway.settled()
            assert [r["error"] for r in gateway.records].count("overloaded") == 9

    converse(conversation())


async def without_idle(member: Member, upstream: Upstream) -> None:
    """Close the idle connections, and their other ends."""
    member.drop_idle()
    for peer in upstream.peers:
        await peer.over.wait()
        await peer.close()
    for _ in range(5):  # the loop closes files in a turn of its own
        await asyncio.sleep(0)


def test_the_want_of_a_file_is_not_the_upstreams_fault() -> None:
    """It is told, harms no member's health, and is over as soon as there are files again."""

    async def conversation() -> None:
        async with Upstream(answering(ok())) as upstream, Gateway(toml(upstream)) as gateway:
            (member,) = gateway.services.groups()[0].members
            await without_idle(member, upstream)
            client = await gateway.client()
            with no_file_left():
                for _ in range(5):
                    assert is_refused(await asked(client))
            assert member.failures_in_row == 0
            assert gateway.value("upstream_failures_total", "up", "connect_no_file") == 0
            assert gateway.value("upstream_attempts_total", "up", "connect_no_file") == 5
            assert (await asked(client)).status == 200

    converse(conversation())


def test_who_finds_no_file_gives_up_the_idle_connections_to_others() -> None:
    async def conversation() -> None:
        async with (
            Upstream(answering(ok())) as first,
            Upstream(answering(ok(), ok())) as second,
            Gateway(TWO.format(first.port, second.port)) as gateway,
        ):
            groups = gateway.services.groups()
            client = await gateway.client()
            assert (await asked(client)).status == 200
            assert len(groups[1].members[0].idle) == 1
            await without_idle(groups[0].members[0], first)
            with no_file_left():
                assert is_refused(await asked(client, STALLED))
            assert groups[1].members[0].idle == []
            assert (await asked(client, STALLED)).status == 200

    converse(conversation())


def test_a_reload_changes_how_many_connections_there_may_be() -> None:
    async def conversation() -> None:
        text = "[limits]\nconnections = {}"
        async with (
            Upstream(answering(ok(), ok())) as upstream,
            Gateway(toml(upstream, top=text.format(1))) as gateway,
        ):
            friend = await gateway.client()
            assert (await asked(friend)).status == 200
            assert (await (await gateway.client()).answer()).code == "overloaded"
            gateway.publish(toml(upstream, top=text.format(3)))
            assert (await asked(friend)).status == 200
            assert (await gateway.ask(HEALTH)).status == 200

    converse(conversation())


def test_too_many_connections() -> None:
    async def conversation() -> None:
        async with Upstream(answering(ok())) as upstream, Gateway(toml(upstream)) as gateway:
            gateway.services.connection_limit = 1
            first, second = await gateway.client(), await gateway.client()
            await second.send(POST)
            answer = await second.answer()
            assert (answer.status, answer.code) == (503, "overloaded")
            assert answer["retry-after"] == "1"
            assert await second.closed()
            await second.close()
            while len(gateway.services.connections) > 1:
                await asyncio.sleep(0.005)
            await first.send(POST)
            assert (await first.answer()).status == 200

    converse(conversation())
