"""The admin listener over real sockets, with a control of the test's own behind it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import h11
import pytest
import uvloop

from aigw.admin import listener
from aigw.admin.listener import (
    Access,
    AdminListener,
    Answer,
    Question,
    Reloaded,
    refusal,
    refuse_unprotected,
)
from aigw.errors import StartError

LOCAL = b"Host: 127.0.0.1:8081\r\n"
Ask = Callable[[bytes], Awaitable[bytes]]


class Desk:
    """A control that notes what it was asked to do."""

    def __init__(self) -> None:
        self.token_digest = b""
        self.why: str | None = None
        self.done = Reloaded(version=2, acknowledged=(0, 1))
        self.calls: list[str] = []

    def access(self) -> Access:
        return Access("admin.example", self.token_digest)

    def metrics(self) -> bytes:
        return b"aigw_connections 0.0\n"

    def unready(self) -> str | None:
        return self.why

    def upstreams(self) -> object:
        return {"upstreams": []}

    async def reload(self) -> Reloaded:
        self.calls.append("reload")
        return self.done

    def stop(self) -> None:
        self.calls.append("stop")


def served(
    desk: Desk, talk: Callable[[Ask], Awaitable[None]], places: list[tuple[str, int]] | None = None
) -> None:
    """Run `talk`, whose `ask` sends bytes on a new connection and returns all that comes back."""

    async def main() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        place = sock.getsockname()
        if places is not None:
            places.append(place)
        admin = AdminListener(desk)
        await admin.start(sock)

        async def ask(sent: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(*place)
            try:
                writer.write(sent)
                return await asyncio.wait_for(reader.read(), 15)
            finally:
                writer.close()
                await writer.wait_closed()

        try:
            await talk(ask)
        finally:
            await admin.close()
            sock.close()

    uvloop.run(main())


def answers(desk: Desk, *requests: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """The answers to requests, each on a connection of its own: status, headers, body."""
    found: list[tuple[int, dict[str, str], bytes]] = []

    async def talk(ask: Ask) -> None:
        found.extend([parsed(await ask(request), request) for request in requests])

    served(desk, talk)
    return found


def parsed(raw: bytes, request: bytes) -> tuple[int, dict[str, str], bytes]:
    client = h11.Connection(h11.CLIENT)
    method = "HEAD" if request.startswith(b"HEAD") else "GET"
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    client.receive_data(b"")
    status, headers, body = 0, {}, b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += event.data
    return status, headers, body


def get(path: str, head: bytes = LOCAL, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\n".encode() + head + b"Connection: close\r\n\r\n"


def test_each_endpoint_answers() -> None:
    desk = Desk()
    metrics, live, ready, upstreams, head = answers(
        desk,
        get("/metrics"),
        get("/health/live"),
        get("/health/ready"),
        get("/upstreams?pretty"),
        get("/metrics", method="HEAD"),
    )
    assert metrics[0] == 200
    assert metrics[2] == b"aigw_connections 0.0\n"
    assert metrics[1]["content-type"].startswith("text/plain; version=0.0.4")
    assert (live[0], live[2]) == (200, b"ok\n")
    assert (ready[0], ready[2]) == (200, b"ok\n")
    assert json.loads(upstreams[2]) == {"upstreams": []}
    assert (head[0], head[1]["content-length"], head[2]) == (200, "21", b"")
    assert desk.calls == []


def test_not_ready_says_why() -> None:
    desk = Desk()
    desk.why = "draining"
    ((status, _, body),) = answers(desk, get("/health/ready"))
    assert (status, body) == (503, b"draining\n")


def test_reload_and_stop() -> None:
    desk = Desk()
    reload, stop = answers(desk, get("/reload", method="POST"), get("/stop", method="POST"))
    assert reload[0] == 200
    assert json.loads(reload[2]) == {"version": 2, "acknowledged": [0, 1], "late": []}
    assert stop[0] == 202
    assert desk.calls == ["reload", "stop"]


def test_a_refused_reload_says_what_is_wrong() -> None:
    desk = Desk()
    desk.done = Reloaded(version=1, problems=("gateway.toml:3: listen.adress: unknown", "more"))
    ((status, _, body),) = answers(desk, get("/reload", method="POST"))
    told = json.loads(body)
    assert status == 400
    assert told["error"]["code"] == "invalid_configuration"
    assert "listen.adress" in told["error"]["message"]
    assert told["problems"] == list(desk.done.problems)


def test_a_control_that_fails_is_an_error_and_not_an_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    desk.metrics = lambda: bytes(1 // 0)  # type: ignore[method-assign]
    failed, live = answers(desk, get("/metrics"), get("/health/live"))
    assert json.loads(failed[2])["error"]["code"] == "internal_error"
    assert (failed[0], live[0]) == (500, 200)
    assert "/metrics failed" in caplog.text


DIGEST = hashlib.sha256(b"s3cret").digest()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/metrics", {"host": "127.0.0.1:8081"}, 401),
        ("GET", "/metrics", {"host": "127.0.0.1", "authorization": "Bearer s3cret"}, None),
        ("GET", "/metrics", {"host": "127.0.0.1", "authorization": "bearer  s3cret "}, None),
        ("GET", "/metrics", {"host": "127.0.0.1", "authorization": "Bearer s3cre"}, 401),
        ("GET", "/metrics", {"host": "127.0.0.1", "authorization": "Basic s3cret"}, 401),
        ("GET", "/metrics", {"host": "127.0.0.1", "authorization": "Bearer s3cret\xe9"}, 401),
        ("POST", "/stop", {"host": "127.0.0.1"}, 401),
        ("GET", "/nowhere", {"host": "127.0.0.1"}, 401),
        ("GET", "/health/live", {"host": "evil.example"}, None),
        ("GET", "/health/ready", {}, None),
        ("POST", "/health/live", {}, 405),
    ],
)
def test_who_has_no_token_sees_health_only(
    method: str, path: str, headers: dict[str, str], status: int | None
) -> None:
    assert status_of(method, path, headers, Access("", DIGEST)) == status


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3:8081", True),
        ("[::1]:8081", True),
        ("[::1]", True),
        ("localhost:8081", True),
        ("LOCALHOST", True),
        ("admin.example:8081", True),
        ("Admin.Example", True),
        ("evil.example", False),
        ("evil.example:8081", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("[::1].evil.example", False),
        ("::1", False),
        ("[localhost", False),
        ("", False),
        (":8081", False),
    ],
)
def test_a_name_rebound_by_a_web_page_is_refused(host: str, allowed: bool) -> None:
    status = status_of("GET", "/metrics", {"host": host}, Access("admin.example", b""))
    assert status == (None if allowed else 403)


def test_an_empty_configured_host_allows_no_empty_host() -> None:
    assert status_of("GET", "/metrics", {"host": ""}, Access("", b"")) == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8081", None),
        ("https://127.0.0.1:8081", None),
        ("http://127.0.0.1", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_a_post_from_another_origin_is_refused(origin: str, status: int | None) -> None:
    headers = {"host": "127.0.0.1:8081", "origin": origin}
    assert status_of("POST", "/reload", headers, Access("", b"")) == status
    assert status_of("GET", "/metrics", headers, Access("", b"")) is None


def test_every_origin_counts() -> None:
    headers = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"null")]
    refused = refusal(Question("POST", "/stop", headers), Access("", b""))
    assert refused is not None
    assert refused.status == 403


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("GET", "/metrics/", 404, None),
        ("POST", "/metrics", 405, "GET, HEAD"),
        ("GET", "/reload", 405, "POST"),
        ("HEAD", "/stop", 405, "POST"),
        ("DELETE", "/upstreams", 405, "GET, HEAD"),
    ],
)
def test_what_does_not_exist(method: str, path: str, status: int, allow: str | None) -> None:
    refused = refusal(Question(method, path, [(b"host", b"localhost")]), Access("", b""))
    assert refused is not None
    assert refused.status == status
    assert dict(refused.headers).get("Allow") == allow


def status_of(method: str, path: str, headers: dict[str, str], access: Access) -> int | None:
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    refused = refusal(Question(method, path, fields), access)
    return None if refused is None else refused.status


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000, 431),
        (b"POST /stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (
            b"POST /stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"
            + b"a" * 99_999,
            413,
        ),
        (
            b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOST /stop HTTP/1.1\r\n"
            b"Host: localhost\r\n\r\n",
            400,
        ),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 403),
        (b"GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
)
def test_bad_http_is_answered_and_closed(sent: bytes, status: int) -> None:
    desk = Desk()
    closing = sent.replace(
        b"Host: localhost\r\n\r\n", b"Host: localhost\r\nConnection: close\r\n\r\n"
    )
    ((answered, headers, body),) = answers(desk, closing)
    assert answered == status
    assert "code" in json.loads(body)["error"]
    assert desk.calls == []
    assert "close" in headers.get("connection", "").lower()


def test_a_malformed_request_after_head_is_answered_with_its_body() -> None:
    desk = Desk()
    raw: list[bytes] = []

    async def talk(ask: Ask) -> None:
        head = b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        raw.append(await ask(head + b"GARBAGE\r\n\r\n"))

    served(desk, talk)
    head, _, body = raw[0].partition(b"HTTP/1.1 400 ")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"error" in body.partition(b"\r\n\r\n")[2]


def test_requests_follow_each_other_on_one_connection() -> None:
    desk = Desk()
    several = (
        b"GET /health/live HTTP/1.1\r\n" + LOCAL + b"\r\n"
        b"POST /reload HTTP/1.1\r\n" + LOCAL + b"Content-Length: 3\r\n\r\nabc" + get("/health/live")
    )

    async def talk(ask: Ask) -> None:
        raw = await ask(several)
        assert raw.count(b"HTTP/1.1 200") == 3

    served(desk, talk)
    assert desk.calls == ["reload"]


def test_a_request_that_dawdles_is_told_and_an_idle_connection_just_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "PATIENCE_S", 0.05)

    async def talk(ask: Ask) -> None:
        assert (await ask(b"GET /metr")).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert await ask(b"") == b""
        half = b"POST /stop HTTP/1.1\r\n" + LOCAL + b"Content-Length: 9\r\n\r\n"
        assert (await ask(half)).startswith(b"HTTP/1.1 408")

    desk = Desk()
    served(desk, talk)
    assert desk.calls == []


def test_who_only_waits_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS", 2)

    async def talk(ask: Ask) -> None:
        first = asyncio.ensure_future(ask(b""))
        second = asyncio.ensure_future(ask(b"GET /metr"))
        await ask(get("/health/live"))  # which may have come before them
        for _ in range(20):
            assert b"HTTP/1.1 200" in await ask(get("/health/live"))
        # The older one was ended to make room for all of them.
        assert await first == b""
        assert not second.done()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

    served(Desk(), talk)


def test_who_does_not_take_its_answer_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS", 2)
    desk = Desk()
    asked = asyncio.Semaphore(0)

    def big() -> bytes:
        asked.release()
        return b"x" * 16_000_000  # more than the kernel takes for somebody who does not read

    desk.metrics = big  # type: ignore[method-assign]

    async def talk(ask: Ask) -> None:
        here = asyncio.get_running_loop()
        idlers = [socket.socket() for _ in range(2)]
        try:
            for idler in idlers:
                idler.setblocking(False)
                await here.sock_connect(idler, place[0])
                await here.sock_sendall(idler, get("/metrics"))
                await asked.acquire()
            assert b"HTTP/1.1 200" in await ask(get("/health/live"))
        finally:
            for idler in idlers:
                idler.close()

    place: list[tuple[str, int]] = []
    served(desk, talk, place)


def test_beyond_the_connections_that_are_busy_others_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS", 2)
    desk = Desk()
    begun, may_end = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> Reloaded:
        begun.release()
        await may_end.wait()
        return desk.done

    desk.reload = slow  # type: ignore[method-assign]

    async def talk(ask: Ask) -> None:
        busy = [asyncio.ensure_future(ask(get("/reload", method="POST"))) for _ in range(2)]
        for _ in busy:
            await begun.acquire()
        assert b"overloaded" in await ask(get("/health/live"))
        may_end.set()
        assert [b"HTTP/1.1 200" in answer for answer in await asyncio.gather(*busy)] == [True] * 2
        assert b"HTTP/1.1 200" in await ask(get("/health/live"))

    served(desk, talk)


def test_a_big_answer_arrives_whole() -> None:
    desk = Desk()
    big = b"x" * 8_000_000
    desk.metrics = lambda: big  # type: ignore[method-assign]
    ((status, _, body),) = answers(desk, get("/metrics"))
    assert (status, body) == (200, big)


def test_an_expecting_client_is_told_to_continue() -> None:
    desk = Desk()
    head = b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"

    async def talk(ask: Ask) -> None:
        raw = await ask(b"POST /reload HTTP/1.1\r\n" + LOCAL + head + b"{}")
        assert b"HTTP/1.1 200" in raw

    served(desk, talk)
    assert desk.calls == ["reload"]


def test_answers_are_not_cached() -> None:
    ((_, headers, _),) = answers(Desk(), get("/upstreams"))
    assert headers["cache-control"] == "no-store"
    assert isinstance(listener.error(404, "a", "b"), Answer)


# --- where it may listen, and who is a web page ---------------------------------------------------


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("0", False),
        ("0x0", False),
        ("::", False),
        ("::ffff:0.0.0.0", False),
    ],
)
def test_what_others_can_reach_needs_a_token_by_whatever_name(host: str, is_local: bool) -> None:
    try:
        family, *_, name = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        sock = socket.create_server((name[0], 0), family=family)
    except OSError:
        pytest.skip("this machine has no such address")
    with sock:
        refuse_unprotected(sock, "token")
        if is_local:
            refuse_unprotected(sock, "")
        else:
            with pytest.raises(StartError, match=r"reachable from outside: set listen.admin_token"):
                refuse_unprotected(sock, "")


def test_a_unix_socket_is_local_and_no_socket_needs_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "admin"))
        refuse_unprotected(sock, "")
    refuse_unprotected(None, "")


# What a web page may make a browser send to a loopback address, its own name having been rebound.
FROM_A_PAGE = [
    # A name of its own, in every place of a request; the status that it gets.
    (b"GET /metrics HTTP/1.1\r\nHost: evil.example:8081\r\n\r\n", 403),
    (b"GET /metrics HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", 403),
    (b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1.nip.example\r\n\r\n", 403),
    (b"GET /metrics HTTP/1.1\r\nHost: localhost.\r\n\r\n", 403),
    (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost\r\n\r\n", 403),
    (b"GET /metrics HTTP/1.1\r\nHost: localhost, evil.example\r\n\r\n", 403),
    (b"GET /metrics HTTP/1.1\r\nHost: localhost evil.example\r\n\r\n", 403),
    (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n\r\n", 400),
    (b"GET http://localhost/metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    (b"GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.0\r\n\r\n", 403),
    (b"POST /stop HTTP/1.1\r\nHost: evil.example:8081\r\nOrigin: http://localhost\r\n\r\n", 403),
    # A form or a fetch to our address from its own.
    (b"POST /stop HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n", 403),
    (b"POST /stop HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n", 403),
    (b"POST /stop HTTP/1.1\r\nHost: localhost:81\r\nOrigin: http://localhost:80\r\n\r\n", 403),
    (
        b"POST /stop HTTP/1.1\r\nHost: localhost\r\norigin: http://localhost.evil.example\r\n\r\n",
        403,
    ),
    (b"POST /stop HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost@evil\r\n\r\n", 403),
    (b"POST /stop?x HTTP/1.1\r\nHost: localhost\r\nOrigin: HTTP://EVIL.EXAMPLE\r\n\r\n", 403),
    # Methods that are not what they seem.
    (b"GET /stop HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    (b"HEAD /stop HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    (b"GET /stop?_method=POST HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    (b"GET /stop HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method-Override: POST\r\n\r\n", 405),
    (b"GET /stop HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method: POST\r\n\r\n", 405),
    (b"post /stop HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    (b"GET /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nPOST", 405),
    (
        b"OPTIONS /stop HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
        b"Access-Control-Request-Method: POST\r\n\r\n",
        405,
    ),
    (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    # A path that is not what it seems.
    (b"POST /health/../stop HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    (b"POST /health/live/../../stop HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"POST //stop HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"POST /%73top HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
]


def test_a_web_page_can_neither_read_nor_do_anything() -> None:
    desk = Desk()
    closing = [
        sent.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") for sent, _ in FROM_A_PAGE
    ]
    for (sent, status), (answered, headers, body) in zip(
        FROM_A_PAGE, answers(desk, *closing), strict=True
    ):
        assert answered == status, sent
        assert not any(name.startswith("access-control-") for name in headers), sent
        assert b"aigw_connections" not in body, sent
    assert desk.calls == []


@pytest.mark.parametrize(
    ("authorization", "fits"),
    [
        (["Bearer s3cret"], True),
        (["Bearer s3crets"], False),
        (["Bearer S3cret"], False),
        (["Bearer"], False),
        (["Bearer "], False),
        ([""], False),
        ([], False),
        (["s3cret"], False),
        (["Bearer " + hashlib.sha256(b"s3cret").hexdigest()], False),
        (["Bearer sha256:" + hashlib.sha256(b"s3cret").hexdigest()], False),
        (["Bearer " + "s" * 10_000], False),
        (["Bearer \xe9\xff"], False),
        (["Bearer wrong", "Bearer s3cret"], False),
    ],
)
def test_only_the_token_itself_fits(authorization: list[str], fits: bool) -> None:
    headers = [(b"host", b"localhost")]
    headers += [(b"authorization", value.encode("latin-1")) for value in authorization]
    refused = refusal(Question("GET", "/metrics", headers), Access("", DIGEST))
    assert (None if refused is None else refused.status) == (None if fits else 401)
