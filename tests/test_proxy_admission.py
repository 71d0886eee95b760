"""Conversations about who may pass: keys, credentials, routes, limits, CORS, client addresses."""

from __future__ import annotations

import asyncio
import socket

import orjson
import pytest
from conversation import Answer, Gateway, Peer, Upstream, answering, converse, ok, toml

pytestmark = pytest.mark.usefixtures("both_ways")

NOWHERE = "http://127.0.0.1:1"


def get(*fields: bytes, path: bytes = b"/v1/models", method: bytes = b"GET") -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"%b %b HTTP/1.1\r\nHost: gw\r\n%b\r\n" % (method, path, lines)


KEYS = """
[[keys]]
name = "second"
keys = ["second", "rotated"]
[[keys]]
name = "old"
key = "old"
expires = 2020-01-01
[[keys]]
name = "gone"
key = "gone"
revoked = true
[[keys]]
name = "digested"
key = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
"""


async def echo(peer: Peer) -> None:
    """Answer each request with its own head."""
    while True:
        head, _ = await peer.request()
        await peer.send(ok(head))


# fields, status, error
AUTHENTICATION = [
    ([b"X-API-Key: user1"], 200, None),
    ([b"Authorization: Bearer user1"], 200, None),
    ([b"Authorization: bearer  user1"], 200, None),
    ([b"x-goog-api-key: user1"], 200, None),
    ([b"api-key: user1"], 200, None),
    ([b"X-API-Key: rotated"], 200, None),
    ([b"X-API-Key: test"], 200, None),
    ([b"X-API-Key: user1", b"Authorization: Bearer user1"], 200, None),
    ([b"X-API-Key: second", b"Authorization: Bearer rotated"], 200, None),
    ([b"X-API-Key: user1", b"Authorization: Bearer sk-own"], 200, None),
    ([], 401, "missing_api_key"),
    ([b"X-API-Key:"], 401, "missing_api_key"),
    ([b"Authorization: Basic dXNlcjE="], 401, "missing_api_key"),
    ([b"Authorization: user1"], 401, "missing_api_key"),
    ([b"X-API-Key: User1"], 401, "invalid_api_key"),
    ([b"X-API-Key: user1x"], 401, "invalid_api_key"),
    ([b"X-API-Key: \xff\xfe"], 401, "invalid_api_key"),
    ([b"X-API-Key: " + b"k" * 8000], 401, "invalid_api_key"),
    ([b"X-API-Key: gone"], 401, "invalid_api_key"),
    ([b"X-API-Key: old"], 401, "expired_api_key"),
    ([b"X-API-Key: user1", b"api-key: second"], 401, "ambiguous_api_key"),
    ([b"X-API-Key: user1", b"X-Api-Key: user1"], 400, "malformed_request"),
    ([b"Connection: x-api-key", b"X-API-Key: user1"], 200, None),
    ([b"Connection: authorization"], 401, "missing_api_key"),
]


@pytest.mark.parametrize("case", AUTHENTICATION)
def test_authentication(case: tuple[list[bytes], int, str | None]) -> None:
    fields, status, error = case

    async def conversation() -> None:
        async with Upstream(echo) as upstream, Gateway(toml(upstream, top=KEYS)) as gateway:
            answer = await gateway.ask(get(*fields))
            assert answer.status == status
            if error is None:
                assert b"Authorization: Bearer sk-upstream" in answer.body
            else:
                assert answer.code == error
                assert ("www-authenticate" in answer) == (status == 401)
            assert (await gateway.record())["error"] == error
            assert gateway.value("auth_success_total") == (status == 200)
            if status == 401:
                assert gateway.value("auth_failures_total", error or "") == 1

    converse(conversation())


# fields sent, credential fields that the upstream gets when the client's own pass
PASSING = [
    ([b"X-API-Key: user1", b"Authorization: Bearer sk-own"], [b"Authorization: Bearer sk-own"]),
    ([b"Authorization: Bearer user1", b"x-api-key: sk-own"], [b"x-api-key: sk-own"]),
    ([b"X-API-Key: user1", b"Authorization: Basic eDp5"], [b"Authorization: Basic eDp5"]),
    ([b"X-API-Key: user1", b"api-key: gone-not"], [b"api-key: gone-not"]),
    ([b"X-API-Key: user1", b"Authorization: Bearer aigw-mistyped"], []),
    ([b"X-API-Key: user1", b"Authorization: Bearer user1"], []),
    ([b"X-API-Key: user1"], []),
]


@pytest.mark.parametrize("case", PASSING)
def test_the_clients_own_credentials_pass_where_told(case: tuple[list[bytes], list[bytes]]) -> None:
    sent, passed = case

    async def conversation() -> None:
        async with (
            Upstream(echo) as upstream,
            Gateway(toml(upstream, top=KEYS, upstream='credentials = "client"')) as gateway,
        ):
            head = (await gateway.ask(get(*sent))).body
            lines = head.split(b"\r\n")[2:-2]
            assert lines == passed
            assert b"user1" not in head

    converse(conversation())


# upstream's lines, credential line that it gets
OWN_CREDENTIALS = [
    ('credentials = ["sk-a"]', b"Authorization: Bearer sk-a"),
    ('dialect = "anthropic"\ncredentials = ["sk-a"]', b"x-api-key: sk-a"),
    ('dialect = "gemini"\ncredentials = ["sk-a"]', b"x-goog-api-key: sk-a"),
    ('dialect = "none"\ncredentials = ["sk-a"]', b"Authorization: Bearer sk-a"),
    ('credentials = ["sk-a"]\ncredential_header = "api-key"', b"api-key: sk-a"),
    ("credentials = []", None),
]


@pytest.mark.parametrize("case", OWN_CREDENTIALS)
def test_the_upstreams_own_credential(case: tuple[str, bytes | None]) -> None:
    lines, expected = case

    async def conversation() -> None:
        async with Upstream(echo) as upstream, Gateway(toml(upstream, upstream=lines)) as gateway:
            fields = [b"X-API-Key: user1", b"Authorization: Bearer sk-client", b"api-key: sk-c2"]
            head = (await gateway.ask(get(*fields))).body
            assert head.split(b"\r\n")[2:-2] == ([expected] if expected else [])

    converse(conversation())


def test_several_credentials_take_turns() -> None:
    async def conversation() -> None:
        async with (
            Upstream(echo) as upstream,
            Gateway(toml(upstream, upstream='credentials = ["sk-a", "sk-b"]')) as gateway,
        ):
            seen = {(await gateway.ask(get(b"X-API-Key: user1"))).body[-10:] for _ in range(4)}
            assert len(seen) == 2

    converse(conversation())


ROUTES = """
[[routes]]
path = "/v1/files"
targets = [{ upstream = "up" }]
[[routes]]
path = "/other"
strip_prefix = "/other"
targets = [{ upstream = "up" }]
"""
# path, status, error or the target that the upstream sees
PATHS = [
    (b"/v1", 200, b"/v1"),
    (b"/v1/", 200, b"/v1/"),
    (b"/v1/a/b?x=/../y", 200, b"/v1/a/b?x=/../y"),
    (b"http://elsewhere/v1/a?b", 200, b"/v1/a?b"),
    (b"/v1/a/../b", 200, b"/v1/a/../b"),
    (b"/v1/a%2Fb", 200, b"/v1/a%2Fb"),
    (b"/other", 200, b"/"),
    (b"/other/a", 200, b"/a"),
    (b"/v10", 404, "unknown_url"),
    (b"/v1x/y", 404, "unknown_url"),
    (b"/", 404, "unknown_url"),
    (b"/V1/a", 404, "unknown_url"),
    (b"/v1/../other/a", 400, "malformed_request"),
    (b"/v1/..", 400, "malformed_request"),
    (b"/v1/../../etc", 400, "malformed_request"),
    (b"/v1/%2e%2e/other/a", 400, "malformed_request"),
    (b"/v1/..%2fother", 400, "malformed_request"),
    (b"/v1/..%5cother", 400, "malformed_request"),
    (b"/v1/..\\other", 400, "malformed_request"),
    (b"/v1/a/../files/x", 400, "malformed_request"),
    (b"/v1/%66iles/x", 400, "malformed_request"),
    (b"/v1//files/x", 400, "malformed_request"),
    (b"/v1/./files/x", 400, "malformed_request"),
]


@pytest.mark.parametrize("case", PATHS)
def test_paths(case: tuple[bytes, int, bytes | str]) -> None:
    path, status, expected = case

    async def conversation() -> None:
        async with Upstream(echo) as upstream:
            text = toml(upstream)
            head, route = text.split("[[routes]]", 1)
            async with Gateway(head + ROUTES + "[[routes]]" + route) as gateway:
                answer = await gateway.ask(get(b"X-API-Key: user1", path=path))
                assert answer.status == status
                if isinstance(expected, bytes):
                    assert answer.body.split(b" ")[1] == expected
                else:
                    assert answer.code == expected

    converse(conversation())


def test_a_base_path_is_put_in_front() -> None:
    async def conversation() -> None:
        async with Upstream(echo) as upstream:
            url = f"http://127.0.0.1:{upstream.port}/openai/"
            async with Gateway(toml(url)) as gateway:
                answer = await gateway.ask(get(b"X-API-Key: user1", path=b"/v1/a?b"))
                assert answer.body.startswith(b"GET /openai/v1/a?b HTTP/1.1\r\n")

    converse(conversation())


def test_a_key_may_be_kept_to_its_routes() -> None:
    async def conversation() -> None:
        async with Upstream(echo) as upstream:
            text = toml(upstream, key='routes = ["/other"]') + ROUTES
            text = text.replace('path = "/v1/files"', 'path = "/files"')
            async with Gateway(text) as gateway:
                refused = await gateway.ask(get(b"X-API-Key: user1"))
                assert (refused.status, refused.code) == (403, "route_not_allowed")
                allowed = await gateway.ask(get(b"X-API-Key: user1", path=b"/other/x"))
                assert allowed.status == 200

    converse(conversation())


def test_attribution_is_taken_and_not_forwarded() -> None:
    async def conversation() -> None:
        async with Upstream(echo) as upstream, Gateway(toml(upstream)) as gateway:
            answer = await gateway.ask(
                get(b"X-API-Key: user1", b"X-User-Id: alice@example.com", b"x-app-id: chat")
            )
            assert b"alice" not in answer.body
            record = await gateway.record()
            assert (record["user"], record["app"]) == ("alice@example.com", "chat")
            for value in (b"", b"a" * 129, b"a b", b"\xc3\xa9"):
                answer = await gateway.ask(get(b"X-API-Key: user1", b"X-User-Id: " + value))
                assert (answer.status, answer.code) == (400, "malformed_request")

    converse(conversation())


def test_other_refusals() -> None:
    async def conversation() -> None:
        limits = '[limits]\nbody_bytes = 10\nheaders = 5\nhead_bytes = "1KiB"\n'
        async with Gateway(toml(NOWHERE, top=limits)) as gateway:
            key = b"X-API-Key: user1"
            cases = [
                (get(key, b"Content-Length: 11", method=b"POST"), 413, "request_too_large"),
                (
                    get(key, b"Upgrade: websocket", b"Connection: upgrade"),
                    501,
                    "unsupported_upgrade",
                ),
                (get(key, *[b"X: 1"] * 4), 431, "headers_too_large"),
                (get(key, b"X: " + b"x" * 1200), 431, "headers_too_large"),
                (get(key, path=b"/" + b"x" * 1200), 414, "uri_too_long"),
                (b"x" * 1200, 414, "uri_too_long"),
                (get(key, method=b"TRACE"), 400, "malformed_request"),
                (b"GET / HTTP/1.1\nHost: gw\n\n", 400, "malformed_request"),
                (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed_request"),
                (
                    get(key, b"Transfer-Encoding: chunked", method=b"POST") + b"b\r\n" + b"x" * 11,
                    413,
                    "request_too_large",
                ),
                (
                    get(key, b"Transfer-Encoding: chunked", method=b"POST") + b"xyz\r\n",
                    400,
                    "malformed_request",
                ),
            ]
            for number, (request, status, error) in enumerate(cases, 1):
                answer = await gateway.ask(request, b"POST")
                assert (answer.status, answer.code) == (status, error), request
                assert answer["x-request-id"] == answer["x-aigw-request-id"]
                await gateway.settled()
                assert len(gateway.records) == number
                assert (gateway.records[-1]["status"], gateway.records[-1]["error"]) == (
                    status,
                    error,
                )
            assert (
                "10"
                in orjson.loads((await gateway.ask(cases[0][0], b"POST")).body)["error"]["message"]
            )

    converse(conversation())


def test_an_unfinished_head_is_told_so() -> None:
    async def conversation() -> None:
        async with Gateway(toml(NOWHERE)) as gateway:
            client = await gateway.client()
            await client.send(b"GET /v1 HTTP/1.1\r\nHos")
            client.end()
            answer = await client.answer()
            assert (answer.status, answer.code) == (400, "malformed_request")
            client = await gateway.client()
            client.end()
            assert await client.rest() == b""
            await gateway.settled()
            assert len(gateway.records) == 1

    converse(conversation())


def test_health_is_answered_to_everybody() -> None:
    async def conversation() -> None:
        async with Gateway(toml(NOWHERE)) as gateway:
            assert (await gateway.ask(get(path=b"/health"))).status == 200
            head = await gateway.ask(get(path=b"/health", method=b"HEAD"), b"HEAD")
            assert (head.status, head.body) == (200, b"")
            assert (await gateway.ask(get(path=b"/health", method=b"POST"))).status == 401
            gateway.memory.control.draining = 1
            assert (await gateway.ask(get(path=b"/health"))).status == 503

    converse(conversation())


# ---- limits ------------------------------------------------------------------------------------


async def ask(gateway: Gateway, path: bytes = b"/v1/models") -> Answer:
    return await gateway.ask(get(b"X-API-Key: user1", path=path))


def test_the_bucket_refuses_and_tells_the_truth() -> None:
    async def conversation() -> None:
        async with (
            Upstream(echo) as upstream,
            Gateway(toml(upstream, key="rps = 4\nburst = 2")) as gateway,
        ):
            first = await ask(gateway)
            assert first["x-aigw-ratelimit-limit-requests"] == "2"
            assert first["x-aigw-ratelimit-remaining-requests"] == "1"
            assert first["x-aigw-ratelimit-reset-requests"].endswith("ms")
            assert (await ask(gateway)).status == 200
            refused = await ask(gateway)
            assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
            assert refused["retry-after"] == "1"
            assert refused["x-ratelimit-limit-requests"] == "2"
            assert refused["x-ratelimit-remaining-requests"] == "0"
            assert "x-should-retry" not in refused
            assert gateway.value("rate_limited_total", "user1", "rate_limit_exceeded") == 1
            assert gateway.value("accepted_total") == 2
            await asyncio.sleep(int(refused["retry-after-ms"]) / 1000)
            assert (await ask(gateway)).status == 200
            requests = sum(peer.received.count(b"GET /") for peer in upstream.peers)
            assert requests == 3

    converse(conversation())


def test_a_route_has_a_bucket_of_its_own_for_each_key() -> None:
    async def conversation() -> None:
        async with Upstream(echo) as upstream:
            text = toml(upstream, top=KEYS, key="rpm = 100", route="rpm = 1")
            async with Gateway(text + ROUTES.replace("/v1/files", "/files")) as gateway:
                assert (await ask(gateway)).status == 200
                refused = await ask(gateway)
                assert (refused.status, refused["x-ratelimit-limit-requests"]) == (429, "1")
                assert int(refused["retry-after"]) in (59, 60)
                allowed = await ask(gateway, b"/files/x")
                assert allowed["x-aigw-ratelimit-limit-requests"] == "100"
                # The refused request has taken nothing from the key's own bucket.
                assert allowed["x-aigw-ratelimit-remaining-requests"] == "98"
                assert (await gateway.ask(get(b"X-API-Key: second"))).status == 200

    converse(conversation())


def test_concurrency_is_limited_and_given_back() -> None:
    async def conversation() -> None:
        go_on = asyncio.Event()

        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await go_on.wait()
                await peer.send(ok())

        async with (
            Upstream(script) as upstream,
            Gateway(toml(upstream, key="max_parallel_requests = 2\nrps = 100")) as gateway,
        ):
            clients = [await gateway.client() for _ in range(2)]
            for client in clients:
                await client.send(get(b"X-API-Key: user1"))
            while len(upstream.peers) < 2:
                await asyncio.sleep(0.005)
            refused = await ask(gateway)
            assert (refused.status, refused.code) == (429, "concurrency_limit_exceeded")
            assert refused["retry-after"] == "1"
            go_on.set()
            for client in clients:
                answer = await client.answer()
                assert answer["x-aigw-ratelimit-remaining-requests"] >= "98"
            assert (await ask(gateway)).status == 200
            await gateway.settled()

    converse(conversation())


def test_an_upstreams_connections_are_limited() -> None:
    async def conversation() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.rest()

        async with (
            Upstream(script) as upstream,
            Gateway(toml(upstream, upstream="pool = { max_connections = 1 }")) as gateway,
        ):
            client = await gateway.client()
            await client.send(get(b"X-API-Key: user1"))
            while not upstream.peers:
                await asyncio.sleep(0.005)
            refused = await ask(gateway)
            assert (refused.status, refused.code) == (503, "overloaded")
            assert refused["retry-after"] == "1"
            await client.close()
            await gateway.settled()

    converse(conversation())


def test_a_new_policy_holds_from_the_next_request_on() -> None:
    async def conversation() -> None:
        async with Upstream(echo) as upstream, Gateway(toml(upstream, key="rpm = 2")) as gateway:
            client = await gateway.client()
            request = get(b"X-API-Key: user1")
            for _ in range(2):
                await client.send(request)
                assert (await client.answer()).status == 200
            gateway.publish(toml(upstream, key="rpm = 5"))
            await client.send(request)
            answer = await client.answer()
            # The new bucket starts at the level of the old one: nothing is given away.
            assert answer.status == 429
            assert answer["x-ratelimit-limit-requests"] == "5"
            gateway.publish(toml(upstream, key="revoked = true"))
            await client.send(request)
            assert (await client.answer()).code == "invalid_api_key"
            assert len(upstream.peers) == 1

    converse(conversation())


# ---- browsers ----------------------------------------------------------------------------------


def test_cors() -> None:
    async def conversation() -> None:
        sent = ok(b"x", b"Access-Control-Allow-Origin: *\r\nVary: Accept\r\n")
        route = 'cors_origins = ["https://app.example"]'
        async with (
            Upstream(answering(sent, sent)) as upstream,
            Gateway(toml(upstream, route=route)) as gateway,
        ):
            preflight = [
                b"Access-Control-Request-Method: POST",
                b"Access-Control-Request-Headers: authorization",
            ]
            allowed = b"Origin: https://app.example"
            answer = await gateway.ask(get(allowed, *preflight, method=b"OPTIONS"), b"OPTIONS")
            assert answer.status == 204
            assert answer["access-control-allow-origin"] == "https://app.example"
            assert answer["access-control-allow-headers"] == "authorization"
            answer = await gateway.ask(
                get(b"Origin: https://evil.example", *preflight, method=b"OPTIONS"), b"OPTIONS"
            )
            assert answer.status == 204
            assert "access-control-allow-origin" not in answer
            answer = await gateway.ask(get(allowed, b"X-API-Key: user1"))
            assert answer["access-control-allow-origin"] == "https://app.example"
            answer = await gateway.ask(get(allowed))
            assert (answer.code, answer["access-control-allow-origin"]) == (
                "missing_api_key",
                "https://app.example",
            )
            answer = await gateway.ask(get(b"X-API-Key: user1", b"Origin: https://evil.example"))
            assert "access-control-allow-origin" not in answer
            # A preflight to a route without CORS is a request like any other.
        async with Gateway(toml(NOWHERE)) as gateway:
            answer = await gateway.ask(get(allowed, *preflight, method=b"OPTIONS"), b"OPTIONS")
            assert answer.status == 401

    converse(conversation())


# ---- proxies in front --------------------------------------------------------------------------


def test_a_trusted_proxy_names_the_client() -> None:
    async def conversation() -> None:
        forwarded = b"X-Forwarded-For: 9.9.9.9, 203.0.113.7"
        for trusted, expected in (("127.0.0.0/8", "203.0.113.7"), ("10.0.0.0/8", "127.0.0.1")):
            listen = f'[listen]\ntrusted_proxies = ["{trusted}"]'
            async with (
                Upstream(echo) as upstream,
                Gateway(toml(upstream, top=listen)) as gateway,
            ):
                answer = await gateway.ask(get(b"X-API-Key: user1", forwarded))
                assert b"203.0.113.7" not in answer.body
                record = await gateway.record()
                assert (record["client_ip"], record["user"]) == (expected, f"user1:{expected}")

    converse(conversation())


def test_the_proxy_protocol() -> None:
    async def conversation() -> None:
        listen = '[listen]\nproxy_protocol = true\ntrusted_proxies = ["127.0.0.0/8"]'
        v2 = bytes.fromhex("0d0a0d0a000d0a515549540a21110000")[:14] + b"\x00\x0c"
        v2 += socket.inet_aton("203.0.113.8") + socket.inet_aton("127.0.0.1") + b"\x30\x39\x1f\x90"
        v1 = b"PROXY TCP4 203.0.113.8 127.0.0.1 12345 8080\r\n"
        async with Upstream(echo) as upstream, Gateway(toml(upstream, top=listen)) as gateway:
            for preface in (v1, v2):
                client = await gateway.client()
                request = preface + get(b"X-API-Key: user1")
                await client.send(request[:20])
                await client.send(request[20:])
                assert (await client.answer()).status == 200
                await client.send(get(b"X-API-Key: user1"))
                assert (await client.answer()).status == 200
            assert {record["client_ip"] for record in gateway.records} == {"203.0.113.8"}
            client = await gateway.client()
            await client.send(get(b"X-API-Key: user1"))
            assert await client.closed()
            await gateway.settled()
            assert gateway.records[-1]["error"] == "malformed_request"

    converse(conversation())
