"""Short requests whose body comes apart from their head: held, sent in one piece, not kept long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from conversation import Gateway, Peer, Upstream, converse, ok, toml

BODY = b'{"model":"m"}'
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\nX-API-Key: user1\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)


class Reads(list[bytes]):
    """What an upstream was sent, read by read, of all its connections."""

    async def script(self, peer: Peer) -> None:
        data = b""
        while piece := await peer.some():
            self.append(piece)
            data += piece
            if data.endswith(BODY):
                data = b""
                await peer.send(ok(b"done"))


@asynccontextmanager
async def known(
    monkeypatch: pytest.MonkeyPatch, text: str = ""
) -> AsyncIterator[tuple[Gateway, Reads, Peer]]:
    """A gateway that knows the shape of these requests, and a client of it."""
    reads = Reads()
    monkeypatch.setattr("aigw.wire.template.BUILD_PAUSE_S", 0.0)
    async with Upstream(reads.script) as upstream, Gateway(text or toml(upstream)) as gateway:
        client = await gateway.client()
        for _ in range(8):
            await client.send(HEAD + BODY)
            assert (await client.answer()).body == b"done"
        reads.clear()
        gateway.records.clear()
        yield gateway, reads, client


async def is_held(gateway: Gateway) -> None:
    while not any(c.state.name == "HELD" for c in gateway.services.connections):
        await asyncio.sleep(0.001)


def test_head_and_body_go_upstream_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        async with known(monkeypatch) as (gateway, reads, client):
            for pieces in ((HEAD, BODY), (HEAD, BODY[:4], BODY[4:])):
                for piece in pieces[:-1]:
                    await client.send(piece)
                    await is_held(gateway)
                assert gateway.value("requests_in_flight") == 0
                await client.send(pieces[-1])
                assert (await client.answer()).body == b"done"
            assert [read.endswith(BODY) for read in reads] == [True, True]
            await gateway.settled()
            assert [record["bytes_in"] for record in gateway.records] == [len(BODY)] * 2

    converse(conversation())


def test_what_does_not_come_soon_is_sent_on_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        async with known(monkeypatch) as (gateway, reads, client):
            await client.send(HEAD + BODY[:4])
            while not reads:  # the next sweep
                await asyncio.sleep(0.005)
            assert reads[0].endswith(BODY[:4])
            assert gateway.value("requests_in_flight") == 1
            await client.send(BODY[4:])
            assert (await client.answer()).body == b"done"

    converse(conversation())


def test_a_fin_while_held_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        async with known(monkeypatch) as (gateway, _, client):
            await client.send(HEAD + BODY[:4])
            await is_held(gateway)
            client.end()
            answer = await client.answer()
            assert (answer.status, answer.code) == (400, "malformed_request")
            await gateway.settled()
            assert [record["status"] for record in gateway.records] == [400]

    converse(conversation())


def test_a_reset_while_held_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        async with known(monkeypatch) as (gateway, _, client):
            await client.send(HEAD + BODY[:4])
            await is_held(gateway)
            client.reset()
            while not gateway.records:
                await asyncio.sleep(0.005)
            assert [record["error"] for record in gateway.records] == ["client_closed"]
            await gateway.settled()

    converse(conversation())


def test_more_than_the_body_is_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        async with known(monkeypatch) as (gateway, _, client):
            await client.send(HEAD)
            await is_held(gateway)
            await client.send(BODY + HEAD + BODY + HEAD)
            for _ in range(2):
                assert (await client.answer()).body == b"done"
            await client.send(BODY)
            assert (await client.answer()).body == b"done"
            await gateway.settled()
            assert [record["status"] for record in gateway.records] == [200] * 3

    converse(conversation())


def test_a_key_that_is_revoked_while_its_request_is_held_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def conversation() -> None:
        async with (
            Upstream(Reads().script) as other,
            known(monkeypatch) as (gateway, reads, client),
        ):
            await client.send(HEAD)
            await is_held(gateway)
            gateway.publish(toml(other, key="revoked = true"))
            await client.send(BODY)
            answer = await client.answer()
            assert (answer.status, answer.code) == (401, "invalid_api_key")
            assert reads == []

    converse(conversation())


def test_an_unknown_key_is_refused_before_its_body_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def conversation() -> None:
        async with known(monkeypatch) as (gateway, _, client):
            await client.send(HEAD.replace(b"user1", b"nobody"))
            assert (await client.answer()).code == "invalid_api_key"
            assert gateway.value("auth_failures_total", "invalid_api_key") == 1

    converse(conversation())


def test_refusals_leave_the_connection_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown key and an empty bucket, again and again, between good requests."""

    async def conversation() -> None:
        reads = Reads()
        monkeypatch.setattr("aigw.wire.template.BUILD_PAUSE_S", 0.0)
        async with (
            Upstream(reads.script) as upstream,
            Gateway(toml(upstream, key="rps = 0.001\nburst = 12")) as gateway,
        ):
            client = await gateway.client()
            for _ in range(8):
                await client.send(HEAD + BODY)
                assert (await client.answer()).status == 200
            for _ in range(4):
                await client.send(HEAD.replace(b"user1", b"nobody") + BODY)
                refused = await client.answer()
                assert (refused.status, refused.code) == (401, "invalid_api_key")
                assert refused["x-request-id"] == refused["x-aigw-request-id"]
                assert refused["www-authenticate"] == "Bearer"
                await client.send(HEAD + BODY)
                assert (await client.answer()).status == 200
            for _ in range(4):
                await client.send(HEAD + BODY)
                refused = await client.answer()
                assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
                assert 900 < int(refused["retry-after"]) <= 1000
                assert refused["x-ratelimit-remaining-requests"] == "0"
            await gateway.settled()
            assert gateway.value("auth_failures_total", "invalid_api_key") == 4
            assert gateway.value("rate_limited_total", "user1", "rate_limit_exceeded") == 4
            assert gateway.value("accepted_total") == 12
            statuses = [record["status"] for record in gateway.records]
            assert sorted(statuses) == [200] * 12 + [401] * 4 + [429] * 4
            for record in gateway.records:
                if record["status"] == 401:
                    assert (record["key"], record["upstream"], record["attempts"]) == (
                        None,
                        None,
                        0,
                    )
                    assert record["error"] == "invalid_api_key"
                    assert record["ttfb_ms"] is None
                if record["status"] == 429:
                    assert (record["key"], record["upstream"]) == ("user1", "up")

    converse(conversation())


def test_a_lane_keeps_nothing_of_a_request_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        async with known(monkeypatch) as (gateway, _, client):
            replayable = HEAD.replace(b"\r\n\r\n", b"\r\nIdempotency-Key: k\r\n\r\n")
            for _ in range(8):
                await client.send(replayable + BODY)
                assert (await client.answer()).body == b"done"
            (connection,) = gateway.services.connections
            lane = connection._lane
            assert lane is not None
            assert lane.known.max_repeated_bytes > 0  # it was kept, as long as it was under way
            assert (lane.held, lane.sent) == (b"", None)

    converse(conversation())


def test_a_shape_is_used_on_the_lane_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the shape that is used most would be the first to be forgotten."""

    async def conversation() -> None:
        async with known(monkeypatch) as (gateway, _, client):
            (connection,) = gateway.services.connections
            assert connection._lane is not None
            before = connection._lane.known.hits
            for _ in range(5):
                await client.send(HEAD + BODY)
                assert (await client.answer()).body == b"done"
            assert connection._lane.known.hits == before + 5

    converse(conversation())


def test_a_held_requests_time_begins_with_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        async with known(monkeypatch) as (gateway, reads, client):
            await client.send(HEAD + BODY[:4])
            while not reads:
                await asyncio.sleep(0.005)
            (connection,) = gateway.services.connections
            assert connection.exchange is not None
            assert connection.exchange.started_s < gateway.services.clock_s
            await client.send(BODY[4:])
            assert (await client.answer()).body == b"done"

    converse(conversation())


def test_behind_a_trusted_proxy_each_request_says_whose_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def conversation() -> None:
        reads = Reads()
        monkeypatch.setattr("aigw.wire.template.BUILD_PAUSE_S", 0.0)
        async with Upstream(reads.script) as upstream:
            text = toml(upstream).replace("[listen]", '[listen]\ntrusted_proxies = ["127.0.0.1"]')
            if "trusted_proxies" not in text:
                text = '[listen]\ntrusted_proxies = ["127.0.0.1"]\n' + text
            async with Gateway(text) as gateway:
                client = await gateway.client()
                said = [b"10.0.0.%d" % (number % 3) for number in range(12)]
                for ip in said:
                    forwarded = b"X-Forwarded-For: %b\r\n\r\n" % ip
                    await client.send(HEAD.replace(b"\r\n\r\n", b"\r\n" + forwarded) + BODY)
                    assert (await client.answer()).status == 200
                await gateway.settled()
                found = [record["client_ip"] for record in gateway.records]
                assert found == [ip.decode() for ip in said]
                users = [record["user"] for record in gateway.records]
                assert users == [f"user1:{ip.decode()}" for ip in said]
                gateway.records.clear()
                gateway.publish(toml(upstream))  # nobody is trusted any more
                for _ in range(8):
                    await client.send(HEAD.replace(b"\r\n\r\n", b"\r\n" + forwarded) + BODY)
                    assert (await client.answer()).status == 200
                await gateway.settled()
                assert {record["client_ip"] for record in gateway.records} == {"127.0.0.1"}

    converse(conversation())
