"""How an upstream behaves around an answer: interim answers, early ones, those that nobody asked
for, and fields that are for one hop only."""

from __future__ import annotations

from tests.wire.answers_case import REFUSED, AnswerCase, Ask, Cut, End, Refused, Stray, Whole

OK = b"HTTP/1.1 200 OK"
TWO = b"\r\nContent-Length: 2"
HI = TWO + b"\r\n\r\nhi"
PLAIN = Whole(OK + TWO, b"hi")
END = b"\r\n\r\n"
CODED = b"\r\nTransfer-Encoding: chunked"

# ---- interim answers -----------------------------------------------------------------------------

CONTINUE = b"HTTP/1.1 100 Continue"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload"
WORKING = b"HTTP/1.1 102 Processing"
MOST_INTERIM = 16
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def hinted(head: bytes, seen: bytes = b"") -> Whole:
    """A plain answer behind one interim answer."""
    return PLAIN._replace(interim=(seen or head,))


INTERIM = [
    AnswerCase("interim-100", "RFC 9110, 15.2.1", CONTINUE + END + OK + HI, PLAIN, reuse=True),
    AnswerCase(
        "interim-100-to-a-post",
        "RFC 9110, 15.2.1",
        CONTINUE + END + OK + HI,
        PLAIN,
        reuse=True,
        asks=Ask.POST,
    ),
    AnswerCase(
        "interim-100-three-times",
        "RFC 9110, 15.2.1",
        (CONTINUE + END) * 3 + OK + HI,
        PLAIN,
        reuse=True,
    ),
    AnswerCase(
        "interim-100-without-reason",
        "RFC 9112, 4",
        b"HTTP/1.1 100" + END + OK + HI,
        PLAIN,
        reuse=True,
    ),
    AnswerCase("interim-103", "RFC 8297, 2", HINT + END + OK + HI, hinted(HINT), reuse=True),
    AnswerCase(
        "interim-102", "RFC 9110, 15.2", WORKING + END + OK + HI, hinted(WORKING), reuse=True
    ),
    AnswerCase(
        "interim-199",
        "RFC 9110, 15.2",
        b"HTTP/1.1 199 Odd" + END + OK + HI,
        hinted(b"HTTP/1.1 199 Odd"),
        reuse=True,
    ),
    AnswerCase(
        "interim-of-several-kinds",
        "RFC 9110, 15.2",
        CONTINUE + END + WORKING + END + HINT + END + OK + HI,
        PLAIN._replace(interim=(WORKING, HINT)),
        reuse=True,
    ),
    AnswerCase(
        "interim-as-many-as-may-be",
        "RFC 9110, 15.2",
        (WORKING + END) * MOST_INTERIM + OK + HI,
        PLAIN._replace(interim=(WORKING,) * MOST_INTERIM),
        reuse=True,
    ),
    AnswerCase(
        "interim-one-too-many",
        "RFC 9110, 15.2",
        (WORKING + END) * (MOST_INTERIM + 1) + OK + HI,
        Refused((WORKING,) * MOST_INTERIM),
    ),
    AnswerCase(
        "interim-flood-of-100s",
        "RFC 9110, 15.2",
        (CONTINUE + END) * 60,
        REFUSED,
    ),
    AnswerCase(
        "interim-flood-by-size",
        "RFC 9110, 15.2",
        (HINT + b"\r\nX-A: " + b"x" * 500 + END) * 5,
        Refused((HINT + b"\r\nX-A: " + b"x" * 500,) * 5),
    ),
    AnswerCase(
        "interim-to-an-old-client",
        "RFC 9110, 15.2",
        HINT + END + OK + HI,
        PLAIN,
        reuse=True,
        asks=Ask.OLD,
    ),
    AnswerCase(
        "interim-to-a-head",
        "RFC 9110, 15.2",
        HINT + END + OK + TWO + END,
        Whole(OK + TWO, interim=(HINT,)),
        asks=Ask.HEAD,
    ),
    AnswerCase(
        "interim-before-a-204",
        "RFC 9110, 15.2",
        HINT + END + b"HTTP/1.1 204 No Content" + END,
        Whole(b"HTTP/1.1 204 No Content", interim=(HINT,)),
        reuse=True,
    ),
    AnswerCase(
        "interim-with-a-length",
        "RFC 9112, 6.3",
        HINT + b"\r\nContent-Length: 5" + END + OK + HI,
        hinted(HINT),
        reuse=True,
    ),
    AnswerCase(
        "interim-with-a-coding",
        "RFC 9112, 6.1",
        HINT + CODED + END + OK + HI,
        hinted(HINT),
        reuse=True,
    ),
    AnswerCase(
        "interim-with-both-framings",
        "RFC 9112, 6.3",
        HINT + CODED + TWO + END + OK + HI,
        REFUSED,
    ),
    AnswerCase(
        "interim-with-a-body",
        "RFC 9112, 6.3",
        HINT + b"\r\nContent-Length: 5" + END + b"hello" + OK + HI,
        Refused((HINT,)),
    ),
    AnswerCase(
        "interim-with-hop-by-hop-fields",
        "RFC 9110, 7.6.1",
        HINT + b"\r\nConnection: X-A\r\nX-A: 1\r\nKeep-Alive: timeout=9" + END + OK + HI,
        hinted(HINT),
        reuse=True,
    ),
    AnswerCase("interim-with-nul", "RFC 9110, 5.5", HINT + b"\r\nX: \0" + END + OK + HI, REFUSED),
    AnswerCase(
        "interim-with-a-control-character",
        "RFC 9110, 5.5",
        HINT + b"\r\nX: \x1b" + END + OK + HI,
        REFUSED,
    ),
    AnswerCase(
        "interim-101-unasked",
        "RFC 9110, 7.8",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade" + END,
        REFUSED,
    ),
    AnswerCase(
        "interim-101-and-an-answer",
        "RFC 9110, 7.8",
        b"HTTP/1.1 101 Switching Protocols" + END + OK + HI,
        REFUSED,
    ),
    AnswerCase(
        "interim-101-behind-a-100",
        "RFC 9110, 7.8",
        CONTINUE + END + b"HTTP/1.1 101 Switching Protocols" + END + b"\x81\5hello",
        REFUSED,
    ),
    AnswerCase("interim-and-fin", "RFC 9112, 8", HINT + END, Refused((HINT,)), ends=End.FIN),
    AnswerCase("interim-and-rst", "RFC 9112, 8", HINT + END, Refused((HINT,)), ends=End.RST),
    AnswerCase(
        "interim-100-and-fin-to-a-post",
        "RFC 9110, 9.2.2",
        CONTINUE + END,
        REFUSED,
        ends=End.FIN,
        asks=Ask.POST,
    ),
    AnswerCase(
        "interim-and-half-an-answer",
        "RFC 9112, 8",
        HINT + END + OK + b"\r\nConte",
        Refused((HINT,)),
        ends=End.FIN,
    ),
    AnswerCase("interim-and-junk", "RFC 9112, 4", HINT + END + b"hello\r\n\r\n", Refused((HINT,))),
    AnswerCase(
        "interim-in-the-place-of-a-second-answer",
        "RFC 9112, 6.3",
        OK + HI + HINT + END,
        PLAIN,
    ),
]

# ---- answers to requests that are still on their way ---------------------------------------------

TOO_LARGE = b"HTTP/1.1 413 Too Large"

EARLY = [
    case
    for upload in (Ask.UPLOAD, Ask.CHUNKS)
    for case in (
        AnswerCase(
            f"early-length-to-{upload.name.lower()}",
            "RFC 9112, 9.3",
            TOO_LARGE + HI,
            Whole(TOO_LARGE + TWO, b"hi"),
            asks=upload,
        ),
        AnswerCase(
            f"early-chunks-to-{upload.name.lower()}",
            "RFC 9112, 9.3",
            OK + CODED + END + b"2\r\nhi\r\n0\r\n\r\n",
            Whole(OK + CODED, b"hi"),
            asks=upload,
        ),
        AnswerCase(
            f"early-and-fin-to-{upload.name.lower()}",
            "RFC 9112, 9.6",
            TOO_LARGE + b"\r\nConnection: close" + HI,
            Whole(TOO_LARGE + TWO, b"hi"),
            ends=End.FIN,
            asks=upload,
        ),
        AnswerCase(
            f"early-by-close-to-{upload.name.lower()}",
            "RFC 9112, 6.3",
            TOO_LARGE + END + b"hi",
            Whole(TOO_LARGE + CODED, b"hi"),
            ends=End.FIN,
            asks=upload,
        ),
        AnswerCase(
            f"early-hint-to-{upload.name.lower()}",
            "RFC 8297, 2",
            HINT + END + TOO_LARGE + HI,
            Whole(TOO_LARGE + TWO, b"hi", (HINT,)),
            asks=upload,
        ),
        AnswerCase(
            f"early-204-to-{upload.name.lower()}",
            "RFC 9112, 9.3",
            b"HTTP/1.1 204 No Content" + END,
            Whole(b"HTTP/1.1 204 No Content"),
            asks=upload,
        ),
        AnswerCase(
            f"early-and-another-one-to-{upload.name.lower()}",
            "RFC 9112, 6.3",
            TOO_LARGE + HI + OK + HI,
            Whole(TOO_LARGE + TWO, b"hi"),
            asks=upload,
        ),
        AnswerCase(
            f"early-and-cut-to-{upload.name.lower()}",
            "RFC 9112, 8",
            TOO_LARGE + b"\r\nContent-Length: 9" + END + b"hi",
            Cut(TOO_LARGE + b"\r\nContent-Length: 9", b"hi", sent=True),
            ends=End.FIN,
            asks=upload,
        ),
        AnswerCase(
            f"early-and-malformed-to-{upload.name.lower()}",
            "RFC 9112, 4",
            b"HTTP/1.1 4O8 Timeout" + HI,
            REFUSED,
            asks=upload,
        ),
        AnswerCase(
            f"early-end-to-{upload.name.lower()}",
            "RFC 9112, 9.5",
            b"",
            REFUSED,
            ends=End.FIN,
            asks=upload,
        ),
        AnswerCase(
            f"early-reset-to-{upload.name.lower()}",
            "RFC 9112, 9.5",
            b"",
            REFUSED,
            ends=End.RST,
            asks=upload,
        ),
    )
]

# ---- answers to nobody ---------------------------------------------------------------------------

EVIL = OK + b"\r\nSet-Cookie: evil=1\r\nContent-Length: 4\r\n\r\nevil"
# What comes on a connection whose answers have all been given.
STRAYS = {
    "byte": (b"x", End.OPEN),
    "nul": (b"\0", End.OPEN),
    "line-end": (b"\r\n", End.OPEN),
    "answer": (EVIL, End.OPEN),
    "answers": (EVIL + EVIL, End.OPEN),
    "half-an-answer": (EVIL[:30], End.OPEN),
    "last-chunk": (b"0\r\n\r\n", End.OPEN),
    "interim": (CONTINUE + END, End.OPEN),
    "timeout": (TIMEOUT, End.FIN),
    "timeout-and-rst": (TIMEOUT, End.RST),
    "fin": (b"", End.FIN),
    "rst": (b"", End.RST),
    "answer-over-tls": (EVIL, End.NOTIFY),
    "notify": (b"", End.NOTIFY),
    "tls-eof": (b"", End.TLS_EOF),
}
IDLE = [
    AnswerCase(
        f"{when.name.lower()}-{name}",
        "RFC 9112, 9.2",
        OK + HI,
        PLAIN,
        ends=end,
        stray=stray,
        when=when,
    )
    for when in Stray
    for name, (stray, end) in STRAYS.items()
] + [
    AnswerCase(
        f"idle-answer-behind-{name}",
        "RFC 9112, 9.2",
        answer,
        sees,
        stray=EVIL,
        when=Stray.IDLE,
        asks=asks,
    )
    for name, answer, sees, asks in (
        ("chunks", OK + CODED + END + b"0\r\n\r\n", Whole(OK + CODED), Ask.GET),
        ("a-204", b"HTTP/1.1 204 None" + END, Whole(b"HTTP/1.1 204 None"), Ask.GET),
        ("a-304", b"HTTP/1.1 304 Same" + TWO + END, Whole(b"HTTP/1.1 304 Same" + TWO), Ask.GET),
        ("a-head", OK + TWO + END, Whole(OK + TWO), Ask.HEAD),
        ("a-post", OK + HI, PLAIN, Ask.POST),
    )
]

# ---- fields for one hop, fields of our own, fields that repeat -----------------------------------

# What is sent; what the client sees of it; is the upstream connection used again?
HOPS: dict[str, tuple[bytes, bytes, bool]] = {
    "keep-alive": (b"Connection: keep-alive\r\nKeep-Alive: timeout=60, max=9", b"", True),
    "keep-alive-in-capitals": (b"CONNECTION: KEEP-ALIVE", b"", True),
    "keep-alive-unnamed": (b"Keep-Alive: timeout=60", b"", True),
    "connection-empty": (b"Connection:", b"", True),
    "connection-of-commas": (b"Connection: , ,", b"", True),
    "close": (b"Connection: close", b"", False),
    "close-in-capitals": (b"Connection: CLOSE", b"", False),
    "close-in-a-list": (b"Connection: x-b, close", b"", False),
    "close-in-a-second-line": (b"Connection: x-b\r\nX-A: 1\r\nConnection: close", b"X-A: 1", False),
    "close-and-keep-alive": (b"Connection: keep-alive, close", b"", False),
    "close-misspelt": (b"Connection: closed", b"", True),
    "proxy-connection-close": (b"Proxy-Connection: close", b"", True),
    "names-a-field": (b"Connection: x-a\r\nX-A: 1\r\nX-B: 2", b"X-B: 2", True),
    "names-a-field-before-it-comes": (b"X-A: 1\r\nX-B: 2\r\nConnection: X-A, x-b", b"", True),
    "names-a-field-that-repeats": (b"X-A: 1\r\nConnection: x-a\r\nX-A: 2", b"", True),
    "names-cookies": (b"Connection: set-cookie\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2", b"", True),
    "names-the-type": (
        b"Connection: content-type\r\nContent-Type: a/b",
        b"Content-Type: a/b",
        True,
    ),
    "names-the-encoding": (
        b"Connection: content-encoding\r\nContent-Encoding: br",
        b"Content-Encoding: br",
        True,
    ),
    "names-what-is-ours": (b"Connection: x-aigw-request-id", b"", True),
    "upgrade-offered": (b"Upgrade: h2c\r\nConnection: upgrade", b"", True),
    "upgrade-unnamed": (b"Upgrade: h2c", b"", True),
    "te": (b"TE: trailers", b"", True),
    "proxy-authenticate": (b"Proxy-Authenticate: Basic", b"", True),
    "proxy-authentication-info": (b"Proxy-Authentication-Info: a=1", b"", True),
    "ours-spoofed": (b"x-aigw-request-id: req_evil\r\nX-AIGW-Error: upstream_error", b"", True),
    "ours-spoofed-limits": (b"X-Aigw-Ratelimit-Remaining-Requests: 0", b"", True),
    "cookies": (
        b"Set-Cookie: a=1; Path=/\r\nset-cookie: b=2, c\r\nX-A: 1\r\nSet-Cookie: a=1; Path=/",
        b"Set-Cookie: a=1; Path=/\r\nset-cookie: b=2, c\r\nX-A: 1\r\nSet-Cookie: a=1; Path=/",
        True,
    ),
    "challenges": (
        b"WWW-Authenticate: Basic\r\nWWW-Authenticate: Bearer",
        b"WWW-Authenticate: Basic\r\nWWW-Authenticate: Bearer",
        True,
    ),
    "order-and-spelling": (b"b: 1\r\nA: 2\r\nb: 3", b"b: 1\r\nA: 2\r\nb: 3", True),
    "date-server-via": (
        b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nServer: x\r\nVia: 1.1 y",
        b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nServer: x\r\nVia: 1.1 y",
        True,
    ),
    "request-id-of-the-upstream": (b"x-request-id: up-1", b"x-request-id: up-1", True),
}

HOP_BY_HOP = [
    AnswerCase(
        f"hop-{name}",
        "RFC 9110, 7.6.1",
        OK + b"\r\n" + sent + HI,
        Whole(OK + (b"\r\n" + seen if seen else b"") + TWO, b"hi"),
        reuse=reuse,
    )
    for name, (sent, seen, reuse) in HOPS.items()
] + [
    AnswerCase(
        "hop-close-of-1.0",
        "RFC 9112, 9.3",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close" + HI,
        PLAIN,
    ),
    AnswerCase(
        "hop-close-behind-chunks",
        "RFC 9112, 9.6",
        OK + b"\r\nConnection: close" + CODED + END + b"2\r\nhi\r\n0\r\n\r\n",
        Whole(OK + CODED, b"hi"),
    ),
    AnswerCase(
        "hop-upgrade-required",
        "RFC 9110, 15.5.22",
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: HTTP/2.0\r\nConnection: Upgrade" + HI,
        Whole(b"HTTP/1.1 426 Upgrade Required" + TWO, b"hi"),
        reuse=True,
    ),
    AnswerCase(
        "hop-trailer-announced",
        "RFC 9110, 6.6.2",
        OK + b"\r\nTrailer: X-Sum" + CODED + END + b"2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n",
        Whole(OK + b"\r\nTrailer: X-Sum" + CODED, b"hi"),
        reuse=True,
    ),
]

CASES = [*INTERIM, *EARLY, *IDLE, *HOP_BY_HOP]
