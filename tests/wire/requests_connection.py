"""What is said of the connection (RFC 9110, 7.6.1, 7.8, 10.1.1; RFC 9112, 9): options, upgrades,
expectations, and requests that wait behind others."""

from __future__ import annotations

from tests.wire.requests_case import (
    BY_BODY,
    CHUNKED,
    CLOSED,
    HIDDEN,
    KEPT,
    MALFORMED,
    OK,
    Case,
    broken,
    chunked,
    get,
    passes,
    post,
    refused,
    seen,
    seen_chunked,
    seen_get,
    seen_post,
)

POST = b"POST /v1/c HTTP/1.1"
OWN = b"GET /own/m HTTP/1.1"


def optioned(*options: bytes, line: bytes = b"GET /v1/m HTTP/1.1") -> bytes:
    """A request with a line of Connection for each of these."""
    return get(*(b"Connection: " + option for option in options), line=line)


OPTIONS = [
    passes("keep-alive", "9112 9.3", optioned(b"keep-alive") * 2, seen_get(), seen_get()),
    passes("close", "9112 9.6", optioned(b"close") + HIDDEN, seen_get(), ends=CLOSED),
    passes("Close", "9110 7.6.1", optioned(b"Close") + HIDDEN, seen_get(), ends=CLOSED),
    passes(
        "close in a list", "9110 7.6.1", optioned(b"a,,close") + HIDDEN, seen_get(), ends=CLOSED
    ),
    passes(
        "close in a second line",
        "9110 5.3",
        optioned(b"keep-alive", b"close") + HIDDEN,
        seen_get(),
        ends=CLOSED,
    ),
    passes(
        "close before keep-alive",
        "9112 9.3",
        optioned(b"close, keep-alive") + HIDDEN,
        seen_get(),
        ends=CLOSED,
    ),
    passes(
        "close in HTTP/1.0",
        "9112 9.3",
        optioned(b"keep-alive, close", line=b"GET /v1/m HTTP/1.0") + HIDDEN,
        seen_get(),
        ends=CLOSED,
    ),
    passes("closed is not close", "9110 7.6.1", optioned(b"closed"), seen_get()),
    passes("an empty option", "9110 5.6.1", optioned(b""), seen_get()),
    passes("commas alone", "9110 5.6.1", optioned(b", ,"), seen_get()),
    passes("an option that is no token", "9110 7.6.1", optioned(b'"close"'), seen_get()),
    passes(
        "Proxy-Connection decides nothing",
        "9112 C.2.2",
        get(b"Proxy-Connection: close"),
        seen_get(),
    ),
    passes(
        "Keep-Alive decides nothing", "9112 C.2.2", get(b"Keep-Alive: timeout=1, max=1"), seen_get()
    ),
    passes("TE", "9110 10.1.4", get(b"TE: trailers, chunked", b"Connection: TE"), seen_get()),
    passes(
        "Trailer",
        "9110 6.6.2",
        chunked(b"0\r\nX-Sum: 1\r\n\r\n", b"Trailer: X-Sum"),
        seen_chunked(b""),
    ),
    passes(
        "a field that it names", "9110 7.6.1", get(b"Connection: X-Hop", b"x-hop: 1"), seen_get()
    ),
    passes(
        "many fields that it names",
        "9110 7.6.1",
        get(b"X-A: 1", b"Connection: x-a, X-B", b"X-B: 1", b"X-C: 1"),
        seen_get(b"X-C: 1"),
    ),
    passes(
        "a field that it names later",
        "9110 7.6.1",
        get(b"Connection: close", b"Connection: x-a", b"X-A: 1"),
        seen_get(),
        ends=CLOSED,
    ),
]

NAMED = [
    passes(
        "it names Content-Length",
        "9110 7.6.1",
        get(b"Connection: content-length", b"Content-Length: 5", line=POST) + b"hello",
        seen_post(b"hello"),
    ),
    passes(
        "it names Transfer-Encoding",
        "9110 7.6.1",
        chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Connection: Transfer-Encoding"),
        seen_chunked(b"hello"),
    ),
    passes("it names Host", "9110 7.6.1", optioned(b"Host"), seen_get()),
    passes("it names the key's field", "9110 7.6.1", optioned(b"X-API-Key"), seen_get()),
    passes(
        "it names Authorization, which is the upstream's",
        "9110 7.6.1",
        optioned(b"authorization"),
        seen_get(),
    ),
    passes(
        "it names the client's own credential",
        "9110 7.6.1",
        get(b"Connection: authorization", b"Authorization: Bearer sk-client", line=OWN),
        seen(b"GET /own/m", b"Authorization: Bearer sk-client", credential=False),
    ),
    passes(
        "it names a key that must not pass",
        "9110 7.6.1",
        get(
            b"Connection: authorization, x-api-key", b"Authorization: Bearer key-of-user1", line=OWN
        ),
        seen(b"GET /own/m", credential=False),
    ),
    passes(
        "it names Content-Type",
        "9110 7.6.1",
        get(b"Connection: content-type", b"Content-Type: a/b"),
        seen_get(b"Content-Type: a/b"),
    ),
    passes(
        "it names Content-Encoding",
        "9110 7.6.1",
        get(b"Connection: content-encoding", b"Content-Encoding: gzip"),
        seen_get(b"Content-Encoding: gzip"),
    ),
    passes("it names itself", "9110 7.6.1", optioned(b"connection"), seen_get()),
    passes(
        "it names Expect",
        "9110 7.6.1",
        get(b"Connection: expect", b"Expect: 100-continue", b"Content-Length: 5", line=POST)
        + b"hello",
        seen_post(b"hello"),
    ),
    passes(
        "it names a cookie", "9110 7.6.1", get(b"Connection: cookie", b"Cookie: a=b"), seen_get()
    ),
    passes(
        "it names X-Forwarded-For",
        "9110 7.6.1",
        get(b"Connection: x-forwarded-for", b"X-Forwarded-For: 1.2.3.4"),
        seen_get(),
    ),
    refused(
        "it names a Host that is there twice", "9112 3.2", get(b"Connection: host", b"Host: other")
    ),
    refused(
        "it names a key that is there twice",
        "own",
        get(b"Connection: x-api-key", b"X-API-Key: key-of-second"),
    ),
    refused(
        "it names a length that is there twice",
        "9112 6.3",
        get(b"Connection: content-length", *[b"Content-Length: 5"] * 2, line=POST) + b"hello",
    ),
    refused(
        "it names a disguise",
        "3875 4.1.18",
        get(b"Connection: content_length", b"Content_Length: 5"),
    ),
]

UPGRADES = [
    *(
        refused(name, "9110 7.8", get(*lines), "unsupported_upgrade", KEPT)
        for name, lines in {
            "websocket": [b"Upgrade: websocket", b"Connection: Upgrade"],
            "h2c": [b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AA"],
            "h2c without Connection": [b"Upgrade: h2c"],
            "h2c in capitals": [b"UPGRADE: H2C", b"connection: UPGRADE"],
            "TLS": [b"Upgrade: TLS/1.0", b"Connection: Upgrade"],
            "an empty Upgrade": [b"Upgrade:"],
            "two Upgrades": [b"Upgrade: h2c", b"Upgrade: websocket"],
            "an Upgrade that Connection does not name": [b"Upgrade: h2c", b"Connection: close-not"],
        }.items()
    ),
    Case(
        "an upgrade of a body",
        "9110 7.8",
        post(HIDDEN, b"Upgrade: h2c", b"Connection: upgrade"),
        ("unsupported_upgrade",),
        ends=BY_BODY,
    ),
    refused(
        "an upgrade without a key",
        "9110 7.8",
        get(b"Upgrade: h2c", plain=b"Host: gw\r\n"),
        "missing_api_key",
        KEPT,
    ),
    passes("Connection: upgrade alone", "9110 7.8", optioned(b"upgrade"), seen_get()),
    passes(
        "HTTP2-Settings alone",
        "7540 3.2.1",
        get(b"HTTP2-Settings: AA", b"Connection: HTTP2-Settings"),
        seen_get(),
    ),
    refused(
        "an upgrade in HTTP/1.0",
        "9110 7.8",
        get(b"Upgrade: h2c", b"Connection: upgrade", line=b"GET /v1/m HTTP/1.0"),
        "unsupported_upgrade",
        CLOSED,
    ),
    Case(
        "a request behind an upgrade",
        "9110 7.8",
        get(b"Upgrade: h2c") + get(),
        ("unsupported_upgrade", OK),
        (seen_get(),),
    ),
]


def expecting(value: bytes, body: bytes = b"hello", line: bytes = POST) -> bytes:
    """A request with a body that expects something, and does not wait for it."""
    return get(b"Expect: " + value, b"Content-Length: %d" % len(body), line=line) + body


EXPECTATIONS = [
    passes("100-continue", "9110 10.1.1", expecting(b"100-continue"), seen_post(b"hello")),
    passes("100-Continue", "9110 10.1.1", expecting(b"100-Continue"), seen_post(b"hello")),
    passes("without a body", "9110 10.1.1", get(b"Expect: 100-continue"), seen_get()),
    passes("of an empty body", "9110 10.1.1", expecting(b"100-continue", b""), seen_post(b"")),
    passes(
        "of chunks",
        "9110 10.1.1",
        chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Expect: 100-continue"),
        seen_chunked(b"hello"),
    ),
    passes(
        "in HTTP/1.0",
        "9110 10.1.1",
        expecting(b"100-continue", line=b"POST /v1/c HTTP/1.0"),
        seen_post(b"hello"),
        ends=CLOSED,
    ),
    passes("of something else", "9110 10.1.1", expecting(b"200-ok"), seen_post(b"hello")),
    passes("of nothing", "9110 10.1.1", expecting(b""), seen_post(b"hello")),
    passes("of two things", "9110 10.1.1", expecting(b"100-continue, x"), seen_post(b"hello")),
    passes(
        "and the next request",
        "9110 10.1.1",
        expecting(b"100-continue") + get(),
        seen_post(b"hello"),
        seen_get(),
    ),
    refused(
        "twice",
        "9110 10.1.1",
        get(b"Expect: 100-continue", b"expect: 100-continue", b"Content-Length: 5", line=POST)
        + b"hello",
    ),
    refused(
        "in disguise",
        "3875 4.1.18",
        expecting(b"100-continue")
        .replace(b"Expect", b"Ex_pect")
        .replace(b"Ex_pect", b"Keep_Alive"),
    ),
    Case(
        "a refused key",
        "9110 10.1.1",
        expecting(b"100-continue", HIDDEN).replace(b"key-of-user1", b"key-of-nobody", 1),
        ("invalid_api_key",),
        ends=BY_BODY,
    ),
    refused(
        "a body that is too long",
        "9110 15.5.14",
        get(b"Expect: 100-continue", b"Content-Length: 20000", line=POST),
        "request_too_large",
    ),
    broken(
        "an end instead of a body",
        "9112 8",
        get(b"Expect: 100-continue", b"Content-Length: 5", line=POST),
    )._replace(hangs_up=True),
]

UNKNOWN = get(line=b"GET /other HTTP/1.1")
PIPELINES = [
    passes("two requests", "9112 9.3.2", get() * 2, *[seen_get()] * 2),
    passes("ten requests", "9112 9.3.2", get() * 10, *[seen_get()] * 10),
    passes(
        "bodies",
        "9112 9.3.2",
        post(b"hello") + post(b"") + get() + post(HIDDEN),
        seen_post(b"hello"),
        seen_post(b""),
        seen_get(),
        seen_post(HIDDEN),
    ),
    passes(
        "chunks and lengths",
        "9112 9.3.2",
        chunked(b"5\r\nhello\r\n0\r\n\r\n") + post(b"hello") + chunked(b"0\r\n\r\n"),
        seen_chunked(b"hello"),
        seen_post(b"hello"),
        seen_chunked(b""),
    ),
    Case(
        "behind an unknown path", "9112 9.3.2", UNKNOWN + get(), ("unknown_url", OK), (seen_get(),)
    ),
    Case(
        "behind a refused key",
        "9112 9.3.2",
        get(plain=b"Host: gw\r\nX-API-Key: nobody\r\n") + get(),
        ("invalid_api_key", OK),
        (seen_get(),),
    ),
    Case(
        "behind no key",
        "9112 9.3.2",
        get(plain=b"Host: gw\r\n") + get(),
        ("missing_api_key", OK),
        (seen_get(),),
    ),
    Case(
        "the key of one request is not that of the next",
        "own",
        get() + get(plain=b"Host: gw\r\n"),
        (OK, "missing_api_key"),
        (seen_get(),),
    ),
    Case(
        "behind a refused body",
        "9112 9.3.2",
        post(HIDDEN).replace(b"key-of-user1", b"key-of-nobody", 1) + get(),
        ("invalid_api_key", OK),
        (seen_get(),),
        ends=BY_BODY,
    ),
    Case(
        "behind a refused body of chunks",
        "9112 9.3.2",
        chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)).replace(b"user1", b"none", 1)
        + get(),
        ("invalid_api_key", OK),
        (seen_get(),),
        ends=BY_BODY,
    ),
    refused(
        "behind half a refused body",
        "9112 9.3.2",
        get(b"Content-Length: 5000", plain=b"Host: gw\r\n") + get(),
        "missing_api_key",
    ),
    refused(
        "behind refused chunks without end",
        "9112 9.3.2",
        get(CHUNKED, plain=b"Host: gw\r\n") + b"ffff\r\n" + get(),
        "missing_api_key",
    ),
    refused(
        "behind malformed refused chunks",
        "9112 9.3.2",
        get(CHUNKED, plain=b"Host: gw\r\n") + b"x\r\n" + get(),
        "missing_api_key",
    ),
    refused("behind a malformed head", "9112 9.6", get(b"X : a") + get()),
    refused(
        "behind a body that is too long",
        "9112 9.6",
        get(b"Content-Length: 20000", line=POST) + get(),
        "request_too_large",
    ),
    Case(
        "a malformed head behind a good one",
        "9112 9.6",
        get() + get(b"X : a") + get(),
        (OK, MALFORMED),
        (seen_get(),),
        ends=CLOSED,
    ),
    Case(
        "octets behind a request",
        "9112 9.6",
        get() + b"\0\0\0" + get(),
        (OK, MALFORMED),
        (seen_get(),),
        ends=CLOSED,
    ),
    Case(
        "octets behind a body",
        "9112 6.3",
        post(b"hello") + b"X X" + get(line=b" /x HTTP/1.1"),
        (OK, MALFORMED),
        (seen_post(b"hello"),),
        ends=CLOSED,
    ),
    Case(
        "half a request behind a good one",
        "9112 8",
        get() + get()[:30],
        (OK, MALFORMED),
        (seen_get(),),
        ends=CLOSED,
    )._replace(hangs_up=True),
    Case(
        "a body longer than its length",
        "9112 6.3",
        get(b"Content-Length: 5", line=POST) + b"helloGET /v1/hidden HTTP/1.1\r\n\r\n",
        (OK, MALFORMED),
        (seen_post(b"hello"),),
        ends=CLOSED,
    ),
    Case(
        "a hidden request without a key behind a body",
        "9112 6.3",
        post(b"hello") + b"GET /v1/hidden HTTP/1.1\r\nHost: gw\r\n\r\n",
        (OK, "missing_api_key"),
        (seen_post(b"hello"),),
    ),
    passes(
        "after HTTP/1.0 nothing",
        "9112 9.3",
        get(line=b"GET /v1/m HTTP/1.0") + HIDDEN,
        seen_get(),
        ends=CLOSED,
    ),
    Case(
        "behind OPTIONS *",
        "9112 3.2.4",
        get(line=b"OPTIONS * HTTP/1.1") + get(),
        ("unknown_url", OK),
        (seen_get(),),
    ),
    Case(
        "behind a HEAD that is refused",
        "9110 9.3.2",
        get(line=b"HEAD /other HTTP/1.1") + get(line=b"HEAD /v1/m HTTP/1.1"),
        ("unknown_url", OK),
        (seen(b"HEAD /v1/m"),),
        is_head=True,
    ),
]

GROUPS = {
    "option": OPTIONS,
    "named": NAMED,
    "upgrade": UPGRADES,
    "expect": EXPECTATIONS,
    "pipeline": PIPELINES,
}
