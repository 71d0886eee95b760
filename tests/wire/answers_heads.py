"""Answers' heads: the status line, the syntax of fields, and how much there may be of both."""

from __future__ import annotations

from tests.wire.answers_case import REFUSED, AnswerCase, Ask, End, Whole
from tests.wire.answers_stage import UPSTREAM_HEAD_BYTES

OK = b"HTTP/1.1 200 OK"
TWO = b"\r\nContent-Length: 2"
BODY = b"\r\n\r\nhi"
HI = TWO + BODY
PLAIN = Whole(OK + TWO, b"hi")

# What the gateway may not take for an answer: each is sent as the whole status line.
BAD_STATUS_LINES = {
    "version-missing": b"200 OK",
    "version-only": b"HTTP/1.1",
    "version-0.9": b"HTTP/0.9 200 OK",
    "version-1.2": b"HTTP/1.2 200 OK",
    "version-2.0": b"HTTP/2.0 200 OK",
    "version-2": b"HTTP/2 200 OK",
    "version-1.10": b"HTTP/1.10 200 OK",
    "version-11.1": b"HTTP/11.1 200 OK",
    "version-1,1": b"HTTP/1,1 200 OK",
    "version-in-lower-case": b"http/1.1 200 OK",
    "version-icy": b"ICY 200 OK",
    "version-with-a-blank": b"HTTP/ 1.1 200 OK",
    "version-with-8-bit-digits": b"HTTP/\xb1.\xb1 200 OK",
    "code-missing": b"HTTP/1.1 OK",
    "code-of-two-digits": b"HTTP/1.1 20 OK",
    "code-of-four-digits": b"HTTP/1.1 2000 OK",
    "code-000": b"HTTP/1.1 000 OK",
    "code-099": b"HTTP/1.1 099 OK",
    "code-600": b"HTTP/1.1 600 OK",
    "code-999": b"HTTP/1.1 999 OK",
    "code-with-a-sign": b"HTTP/1.1 +20 OK",
    "code-below-zero": b"HTTP/1.1 -20 OK",
    "code-hexadecimal": b"HTTP/1.1 2x0 OK",
    "code-with-a-letter": b"HTTP/1.1 20O OK",
    "code-joined-to-its-reason": b"HTTP/1.1 200OK",
    "code-in-other-digits": "HTTP/1.1 ٢٠٠ OK".encode(),
    "blanks-two-before-the-code": b"HTTP/1.1  200 OK",
    "blank-is-a-tab": b"HTTP/1.1\t200 OK",
    "blank-is-a-vertical-tab": b"HTTP/1.1\x0b200 OK",
    "blank-missing": b"HTTP/1.1200 OK",
    "blank-first": b" HTTP/1.1 200 OK",
    "reason-with-nul": b"HTTP/1.1 200 O\0K",
    "reason-with-bare-cr": b"HTTP/1.1 200 O\rK",
    "reason-with-escape": b"HTTP/1.1 200 O\x1b[2JK",
    "reason-with-form-feed": b"HTTP/1.1 200 O\x0cK",
    "reason-with-delete": b"HTTP/1.1 200 OK\x7f",
    "junk-request": b"GET /v1/models HTTP/1.1",
    "junk-byte-order-mark": b"\xef\xbb\xbfHTTP/1.1 200 OK",
    "junk-empty-line-first": b"\r\nHTTP/1.1 200 OK",
    "junk-lf-first": b"\nHTTP/1.1 200 OK",
    "junk-nul-first": b"\0HTTP/1.1 200 OK",
    "junk-line-first": b"debug: here\r\nHTTP/1.1 200 OK",
    "junk-field-first": b"X: y\r\nHTTP/1.1 200 OK",
    "junk-chunk-first": b"0\r\n\r\nHTTP/1.1 200 OK",
}

# Whoever does not begin like an answer is not waited for: these have no blank line and no end.
NO_ANSWERS = {
    "http-0.9": b"<html><body>hello</body></html>",
    "http-2-preface": b"PRI * HTTP/2.0\r\n",
    "http-2-settings": b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64\0\4\0\x10\0\0\0\6\0\1\0\0",
    "tls-alert": b"\x15\3\1\0\2\2\x46",
    "ssh": b"SSH-2.0-server\r\n",
    "smtp": b"220 mail.example.org ESMTP\r\n",
    "redis": b"-ERR unknown command\r\n",
    "body-alone": b'{"object":"list"}',
    "blank-alone": b" ",
}

STATUS_LINES = [
    *(
        AnswerCase(f"status-{name}", "RFC 9112, 4", line + HI, REFUSED)
        for name, line in BAD_STATUS_LINES.items()
    ),
    *(
        AnswerCase(f"no-answer-{name}", "RFC 9112, 2.2", octets, REFUSED)
        for name, octets in NO_ANSWERS.items()
    ),
    AnswerCase("status-plain", "RFC 9112, 4", OK + HI, PLAIN, reuse=True),
    AnswerCase(
        "status-without-reason-and-blank",
        "RFC 9112, 4",
        b"HTTP/1.1 200" + HI,
        Whole(b"HTTP/1.1 200 " + TWO, b"hi"),
        reuse=True,
    ),
    AnswerCase(
        "status-without-reason",
        "RFC 9112, 4",
        b"HTTP/1.1 200 " + HI,
        Whole(b"HTTP/1.1 200 " + TWO, b"hi"),
        reuse=True,
    ),
    AnswerCase(
        "status-with-a-long-reason",
        "RFC 9112, 4",
        b"HTTP/1.1 418 I'm a teapot: short \t& stout, 100%" + HI,
        Whole(b"HTTP/1.1 418 I'm a teapot: short \t& stout, 100%" + TWO, b"hi"),
        reuse=True,
    ),
    AnswerCase(
        "status-with-an-8-bit-reason",
        "RFC 9112, 4",
        "HTTP/1.1 200 C'est créé".encode("latin-1") + HI,
        Whole("HTTP/1.1 200 C'est créé".encode("latin-1") + TWO, b"hi"),
        reuse=True,
    ),
    AnswerCase(
        "status-599",
        "RFC 9110, 15",
        b"HTTP/1.1 599 Odd" + HI,
        Whole(b"HTTP/1.1 599 Odd" + TWO, b"hi"),
        reuse=True,
    ),
    AnswerCase(
        "status-line-ends-with-lf",
        "RFC 9112, 2.2",
        OK + b"\nContent-Length: 2\n\nhi",
        PLAIN,
        reuse=True,
    ),
    AnswerCase(
        "status-1.0",
        "RFC 9112, 9.3",
        b"HTTP/1.0 200 OK" + HI,
        PLAIN,
    ),
    AnswerCase(
        "status-1.0-keep-alive",
        "RFC 9112, C.2.2",
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive" + HI,
        PLAIN,
        reuse=True,
    ),
    AnswerCase(
        "status-1.1-to-an-old-client",
        "RFC 9110, 2.5",
        OK + HI,
        PLAIN,
        reuse=True,
        asks=Ask.OLD,
    ),
    AnswerCase("no-answer-but-fin", "RFC 9112, 9.5", b"", REFUSED, ends=End.FIN),
    AnswerCase("no-answer-but-rst", "RFC 9112, 9.5", b"", REFUSED, ends=End.RST),
    AnswerCase(
        "no-answer-but-fin-to-a-post", "RFC 9110, 9.2.2", b"", REFUSED, End.FIN, False, Ask.POST
    ),
]

# Each is put between the status line and a good Content-Length.
BAD_FIELDS = {
    "nul-in-value": b"X-A: a\0b",
    "nul-ends-value": b"X-A: a\0",
    "nul-in-name": b"X\0A: a",
    "bare-cr-in-value": b"X-A: a\rSet-Cookie: b",
    "bare-cr-before-the-line-end": b"X-A: a\r",
    "bare-cr-in-name": b"X\rA: a",
    "bare-cr-alone": b"\rX-A: a",
    "vertical-tab-in-value": b"X-A: a\x0bb",
    "form-feed-in-value": b"X-A: a\x0cb",
    "escape-in-value": b"X-A: a\x1b[2Jb",
    "ctrl-a-in-a-cookie": b"Set-Cookie: a=\x01b",
    "delete-in-value": b"X-A: a\x7fb",
    "name-empty": b": a",
    "name-with-a-blank": b"X A: a",
    "name-with-a-blank-before-the-colon": b"X-A : a",
    "name-with-a-tab-before-the-colon": b"X-A\t: a",
    "name-length-with-a-blank-before-the-colon": b"Content-Length : 9",
    "name-coding-with-a-blank-before-the-colon": b"Transfer-Encoding : chunked",
    "name-in-parentheses": b"(X-A): a",
    "name-with-a-slash": b"X/A: a",
    "name-with-8-bit": b"X-\xe4: a",
    "name-quoted": b'"X-A": a',
    "no-colon": b"X-A",
    "second-status-line": b"HTTP/1.1 404 Not Found",
    "folded-first-line": b" X-A: a",
    "folded-first-line-by-tab": b"\tContent-Length: 9",
}

GOOD_FIELDS: dict[str, tuple[bytes, bytes]] = {
    # as the upstream sends it; as the client sees it
    "spelling-is-kept": (b"x-MiXeD: A b", b"x-MiXeD: A b"),
    "value-empty": (b"X-A:", b"X-A: "),
    "value-8-bit": (b"X-A: \xfcber \x80\xff", b"X-A: \xfcber \x80\xff"),
    "value-percent": (b"X-A: 100% %b %s", b"X-A: 100% %b %s"),
    "value-tab-inside": (b"X-A: a\tb", b"X-A: a\tb"),
    "value-without-a-blank": (b"X-A:a", b"X-A: a"),
    "value-with-blanks-around": (b"X-A: \t a \t", b"X-A: a"),
    "value-with-colons": (b"X-A: b: c", b"X-A: b: c"),
    "name-of-all-octets": (b"!#$%&'*+-.^_`|~09azAZ: a", b"!#$%&'*+-.^_`|~09azAZ: a"),
    "repeated": (b"X-A: a\r\nX-A: b\r\nx-a: a", b"X-A: a\r\nX-A: b\r\nx-a: a"),
    "line-ends-with-lf": (b"X-A: a\nX-B: b", b"X-A: a\r\nX-B: b"),
    "folded": (b"X-A: a\r\n  b", b"X-A: a b"),
    "folded-by-tab": (b"X-A: a\r\n\tb\r\n c", b"X-A: a b c"),
    "folded-what-looks-like-a-field": (
        b"X-A: a\r\n Transfer-Encoding: chunked",
        b"X-A: a Transfer-Encoding: chunked",
    ),
    "folded-to-nothing": (b"X-A:\r\n \t\r\nX-B: b", b"X-A: \r\nX-B: b"),
    "underscore-length": (b"Content_Length: 9", b"Content_Length: 9"),
    "underscore-coding": (b"Transfer_Encoding: chunked", b"Transfer_Encoding: chunked"),
    "length-in-another-name": (b"X-Content-Length: 9", b"X-Content-Length: 9"),
}

LIMIT = UPSTREAM_HEAD_BYTES
LONGEST = b"x" * (LIMIT - len(OK + b"\r\nX-A: " + TWO + b"\r\n\r\n"))
COUNT = (LIMIT - len(OK + TWO + b"\r\n\r\n")) // len(b"\r\na:")

FIELDS = [
    *(
        AnswerCase(f"field-{name}", "RFC 9112, 5", OK + b"\r\n" + field + HI, REFUSED)
        for name, field in BAD_FIELDS.items()
    ),
    *(
        AnswerCase(
            f"field-{name}",
            "RFC 9112, 5",
            OK + b"\r\n" + sent + HI,
            Whole(OK + b"\r\n" + seen + TWO, b"hi"),
            reuse=True,
        )
        for name, (sent, seen) in GOOD_FIELDS.items()
    ),
    AnswerCase(
        "size-at-the-limit",
        "RFC 9110, 5.4",
        OK + b"\r\nX-A: " + LONGEST + HI,
        Whole(OK + b"\r\nX-A: " + LONGEST + TWO, b"hi"),
        reuse=True,
    ),
    AnswerCase("size-over", "RFC 9110, 5.4", OK + b"\r\nX-A: x" + LONGEST + HI, REFUSED),
    AnswerCase(
        "size-over-without-an-end", "RFC 9110, 5.4", OK + b"\r\nX-A: " + b"x" * LIMIT, REFUSED
    ),
    AnswerCase("size-over-in-the-status-line", "RFC 9112, 3", OK + b"k" * LIMIT, REFUSED),
    AnswerCase("size-over-in-a-name", "RFC 9110, 5.4", OK + b"\r\n" + b"x" * LIMIT, REFUSED),
    AnswerCase(
        "count-at-the-limit-of-size",
        "RFC 9110, 5.4",
        OK + b"\r\na:" * COUNT + HI,
        Whole(OK + b"\r\na: " * COUNT + TWO, b"hi"),
        reuse=True,
    ),
    AnswerCase("count-over", "RFC 9110, 5.4", OK + b"\r\na:" * (COUNT + 1) + HI, REFUSED),
    AnswerCase("head-cut-by-fin", "RFC 9112, 8", OK + TWO + b"\r\nX-", REFUSED, ends=End.FIN),
    AnswerCase("head-cut-by-rst", "RFC 9112, 8", OK + TWO + b"\r\nX-", REFUSED, ends=End.RST),
    AnswerCase("head-cut-before-its-blank-line", "RFC 9112, 8", OK + TWO, REFUSED, ends=End.FIN),
    AnswerCase("head-cut-in-its-blank-line", "RFC 9112, 8", OK + TWO + b"\r\n\r", REFUSED, End.FIN),
    AnswerCase("head-cut-by-tls-eof", "RFC 9112, 9.8", OK + TWO + b"\r\n", REFUSED, End.TLS_EOF),
]

CASES = [*STATUS_LINES, *FIELDS]
