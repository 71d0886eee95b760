"""Bodies on their way: chunks, trailers, streams, and ends that come too early in every framing."""

from __future__ import annotations

from tests.wire.answers_case import AnswerCase, Ask, Cut, End, Whole

OK = b"HTTP/1.1 200 OK"
TEN = b"\r\nContent-Length: 10"
CODED = b"\r\nTransfer-Encoding: chunked"
LAST = b"0\r\n\r\n"
END = b"\r\n\r\n"

# Chunked bodies that pass: what is sent, and its payload.
GOOD_CHUNKS = {
    "none": (LAST, b""),
    "one": (b"5\r\nhello\r\n" + LAST, b"hello"),
    "several": (b"1\r\nh\r\n2\r\nel\r\n2\r\nlo\r\n" + LAST, b"hello"),
    "of-one-byte": (b"1\r\nx\r\n" * 300 + LAST, b"x" * 300),
    "size-in-capitals": (b"A\r\n0123456789\r\n" + LAST, b"0123456789"),
    "size-in-lower-case": (b"a\r\n0123456789\r\n" + LAST, b"0123456789"),
    "size-with-zeros": (b"00005\r\nhello\r\n" + LAST, b"hello"),
    "size-with-blanks-behind": (b"5  \r\nhello\r\n0 \r\n\r\n", b"hello"),
    "size-with-a-tab-behind": (b"5\t\r\nhello\r\n" + LAST, b"hello"),
    "last-of-many-zeros": (b"5\r\nhello\r\n0000\r\n\r\n", b"hello"),
    "payload-of-line-ends": (b"6\r\n\r\n0\r\n\r\r\n" + LAST, b"\r\n0\r\n\r"),
    "payload-of-a-last-chunk": (b"5\r\n0\r\n\r\n\r\n" + LAST, LAST),
    "payload-of-an-answer": (
        b"15\r\nHTTP/1.1 404 No\r\n\r\nhi\r\n" + LAST,
        b"HTTP/1.1 404 No\r\n\r\nhi",
    ),
    "payload-of-nul-and-8-bit": (b"4\r\n\0\xff\x80\0\r\n" + LAST, b"\0\xff\x80\0"),
    "extension": (b"5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello"),
    "extension-quoted": (b'5;a="b;c"\r\nhello\r\n' + LAST, b"hello"),
    "extension-empty": (b"5;\r\nhello\r\n" + LAST, b"hello"),
    "extension-with-blanks": (b"5; a = b \r\nhello\r\n" + LAST, b"hello"),
    "extension-of-a-size": (b"5;6\r\nhello\r\n" + LAST, b"hello"),
    "extension-8-bit": (b"5;a=\xfc\r\nhello\r\n" + LAST, b"hello"),
    "extension-long": (b"5;" + b"x" * 4000 + b"\r\nhello\r\n" + LAST, b"hello"),
    "trailer": (b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", b"hello"),
    "trailers": (b"5\r\nhello\r\n0\r\nX-A: 1\r\nx-b:\r\nX-A: 2\r\n\r\n", b"hello"),
    "trailer-8-bit": (b"5\r\nhello\r\n0\r\nX-A: \xfc\r\n\r\n", b"hello"),
}

# Chunked bodies that some reader might end elsewhere; the payload that may be seen of them.
BAD_CHUNKS = {
    "size-signed": (b"+5\r\nhello\r\n" + LAST, b""),
    "size-negative": (b"-5\r\nhello\r\n" + LAST, b""),
    "size-prefixed": (b"0x5\r\nhello\r\n" + LAST, b""),
    "size-with-underscore": (b"0_5\r\nhello\r\n" + LAST, b""),
    "size-not-a-number": (b"g\r\nhello\r\n" + LAST, b""),
    "size-empty": (b"\r\nhello\r\n" + LAST, b""),
    "size-of-an-extension-alone": (b";a=b\r\nhello\r\n" + LAST, b""),
    "size-behind-a-blank": (b" 5\r\nhello\r\n" + LAST, b""),
    "size-behind-a-line-end": (b"\r\n5\r\nhello\r\n" + LAST, b""),
    "size-and-more": (b"5 5\r\nhello\r\n" + LAST, b""),
    "size-quoted": (b'"5"\r\nhello\r\n' + LAST, b""),
    "size-in-other-digits": ("٥\r\nhello\r\n".encode() + LAST, b""),
    "size-of-16-digits": (b"0000000000000005\r\nhello\r\n" + LAST, b""),
    "size-beyond-64-bits": (b"10000000000000005\r\nhello\r\n" + LAST, b""),
    "size-with-nul": (b"5\0\r\nhello\r\n" + LAST, b""),
    "size-with-vertical-tab": (b"5\x0b\r\nhello\r\n" + LAST, b""),
    "size-line-ends-with-lf": (b"5\nhello\r\n" + LAST, b""),
    "size-line-ends-with-cr": (b"5\rhello\r\n" + LAST, b""),
    "size-line-ends-with-cr-cr-lf": (b"5\r\r\nhello\r\n" + LAST, b""),
    "size-line-without-an-end": (b"5" * 5000, b""),
    "blank-before-the-extension": (b"5 ;a\r\nhello\r\n" + LAST, b""),
    "extension-with-lf": (b"5;a\nb\r\nhello\r\n" + LAST, b""),
    "extension-with-bare-cr": (b"5;a\rb\r\nhello\r\n" + LAST, b""),
    "extension-with-nul": (b"5;\0\r\nhello\r\n" + LAST, b""),
    "extension-with-delete": (b"5;\x7f\r\nhello\r\n" + LAST, b""),
    "extension-too-long": (b"5;" + b"x" * 5000 + b"\r\nhello\r\n" + LAST, b""),
    "extension-without-an-end": (b"5;" + b"x" * 5000, b""),
    "chunk-longer-than-its-size": (b"4\r\nhello\r\n" + LAST, b"hell"),
    "chunk-shorter-than-its-size": (b"6\r\nhello\r\n" + LAST, b"hello\r"),
    "chunk-ends-with-lf": (b"5\r\nhello\n" + LAST, b"hello"),
    "chunk-ends-with-cr": (b"5\r\nhello\r" + LAST, b"hello"),
    "chunk-ends-with-nothing": (b"5\r\nhello" + LAST, b"hello"),
    "chunk-ends-with-two-lines": (b"5\r\nhello\r\n\r\n" + LAST, b"hello"),
    "last-ends-with-lf": (b"5\r\nhello\r\n0\n\n", b"hello"),
    "last-with-a-payload": (b"5\r\nhello\r\n0\r\nhello\r\n\r\n", b"hello"),
    "last-is-followed-by-lf": (b"5\r\nhello\r\n0\r\n\n", b"hello"),
    "last-is-followed-by-cr": (b"5\r\nhello\r\n0\r\n\rx", b"hello"),
    "last-is-followed-by-an-answer": (b"5\r\nhello\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n", b"hello"),
    "trailer-without-a-colon": (b"5\r\nhello\r\n0\r\nX-A\r\n\r\n", b"hello"),
    "trailer-with-a-blank-in-its-name": (b"5\r\nhello\r\n0\r\nX A: 1\r\n\r\n", b"hello"),
    "trailer-with-a-blank-before-the-colon": (b"5\r\nhello\r\n0\r\nX-A : 1\r\n\r\n", b"hello"),
    "trailer-folded": (b"5\r\nhello\r\n0\r\nX-A: 1\r\n 2\r\n\r\n", b"hello"),
    "trailer-with-nul": (b"5\r\nhello\r\n0\r\nX-A: \0\r\n\r\n", b"hello"),
    "trailer-with-bare-cr": (b"5\r\nhello\r\n0\r\nX-A: a\rb\r\n\r\n", b"hello"),
    "trailer-ends-with-lf": (b"5\r\nhello\r\n0\r\nX-A: a\n\r\n", b"hello"),
    "trailer-of-a-length": (b"5\r\nhello\r\n0\r\nContent-Length: 0\r\n\r\n", b"hello"),
    "trailer-of-a-coding": (b"5\r\nhello\r\n0\r\ntransfer-encoding: gzip\r\n\r\n", b"hello"),
    "trailer-of-connection": (b"5\r\nhello\r\n0\r\nX: 1\r\nConnection: close\r\n\r\n", b"hello"),
    "trailer-too-long": (b"5\r\nhello\r\n0\r\nX-A: " + b"x" * 5000, b"hello"),
    "trailers-too-many": (b"5\r\nhello\r\n0\r\n" + b"X-A: 12345678\r\n" * 1200, b"hello"),
}


CHUNKS = [
    case
    for name, (wire, payload) in GOOD_CHUNKS.items()
    for case in (
        AnswerCase(
            f"chunks-{name}",
            "RFC 9112, 7.1",
            OK + CODED + END + wire,
            Whole(OK + CODED, payload),
            reuse=True,
        ),
        AnswerCase(
            f"chunks-{name}-to-an-old-client",
            "RFC 9112, 7.1.3",
            OK + CODED + END + wire,
            Whole(OK, payload),
            reuse=True,
            asks=Ask.OLD,
        ),
    )
] + [
    case
    for name, (wire, payload) in BAD_CHUNKS.items()
    for case in (
        AnswerCase(
            f"chunks-{name}",
            "RFC 9112, 7.1",
            OK + CODED + END + wire,
            Cut(OK + CODED, payload),
        ),
        AnswerCase(
            f"chunks-{name}-to-an-old-client",
            "RFC 9112, 7.1.3",
            OK + CODED + END + wire,
            Cut(OK, payload),
            asks=Ask.OLD_KEEPING,
        ),
    )
]

# ---- ends that come too early --------------------------------------------------------------------

CHUNKED_BODY = b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
# Where the chunked body is cut, and the payload up to there.
PLACES = {
    "before-a-size": (b"", b""),
    "in-a-size": (b"5", b""),
    "in-an-extension": (b"5;a", b""),
    "in-a-size-line-end": (b"5;a=b\r", b""),
    "before-a-payload": (b"5;a=b\r\n", b""),
    "in-a-payload": (b"5;a=b\r\nhe", b"he"),
    "behind-a-payload": (b"5;a=b\r\nhello", b"hello"),
    "in-a-chunk-end": (b"5;a=b\r\nhello\r", b"hello"),
    "between-chunks": (b"5;a=b\r\nhello\r\n", b"hello"),
    "in-the-second-payload": (b"5;a=b\r\nhello\r\n6\r\n wor", b"hello wor"),
    "before-the-last-chunk": (b"5;a=b\r\nhello\r\n6\r\n world\r\n", b"hello world"),
    "in-the-last-size": (b"5;a=b\r\nhello\r\n6\r\n world\r\n0", b"hello world"),
    "in-the-last-size-line-end": (b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r", b"hello world"),
    "behind-the-last-size": (b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\n", b"hello world"),
    "in-a-trailer": (b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-S", b"hello world"),
    "behind-a-trailer": (b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n", b"hello world"),
    "before-its-last-byte": (CHUNKED_BODY[:-1], b"hello world"),
}
assert all(CHUNKED_BODY.startswith(wire) for wire, _ in PLACES.values())

STREAM = OK + b"\r\nContent-Type: text/event-stream"
EVENT = b'data: {"a":1}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


# Every way to say where a body ends: the lines of the head, the body up to the cut, what the client
# is told, and what the payload was.
FRAMINGS = {
    "length": (TEN, b"hello", OK + TEN, b"hello", Ask.GET),
    "length-before-its-first-byte": (TEN, b"", OK + TEN, b"", Ask.GET),
    "length-before-its-last-byte": (TEN, b"hello you", OK + TEN, b"hello you", Ask.POST),
    "length-to-an-old-client": (TEN, b"hello", OK + TEN, b"hello", Ask.OLD),
    "length-to-an-old-client-that-stays": (TEN, b"hello", OK + TEN, b"hello", Ask.OLD_KEEPING),
    "chunks": (CODED, chunk(b"hello"), OK + CODED, b"hello", Ask.GET),
    "chunks-to-an-old-client": (CODED, chunk(b"hello"), OK, b"hello", Ask.OLD),
    "chunks-to-an-old-client-that-stays": (CODED, chunk(b"hi"), OK, b"hi", Ask.OLD_KEEPING),
}
BY_CLOSE = {
    "close": (OK + CODED, Ask.GET),
    "close-to-a-post": (OK + CODED, Ask.POST),
    "close-to-an-old-client": (OK, Ask.OLD),
    "close-to-an-old-client-that-stays": (OK, Ask.OLD_KEEPING),
}

EARLY_ENDS = (
    [
        AnswerCase(
            f"cut-by-{end.name.lower()}-{name}",
            "RFC 9112, 8",
            OK + lines + END + body,
            Cut(head, payload, sent=True),
            ends=end,
            asks=asks,
        )
        for end in (End.FIN, End.RST)
        for name, (lines, body, head, payload, asks) in FRAMINGS.items()
    ]
    + [
        AnswerCase(
            f"cut-by-{end.name.lower()}-chunks-{name}",
            "RFC 9112, 8",
            OK + CODED + END + body,
            Cut(OK + CODED, payload, sent=True),
            ends=end,
        )
        for end in (End.FIN, End.RST)
        for name, (body, payload) in PLACES.items()
    ]
    + [
        AnswerCase(
            f"cut-by-fin-chunks-{name}-to-an-old-client",
            "RFC 9112, 8",
            OK + CODED + END + body,
            Cut(OK, payload, sent=True),
            ends=End.FIN,
            asks=Ask.OLD,
        )
        for name, (body, payload) in PLACES.items()
        if name in ("in-a-payload", "between-chunks", "behind-the-last-size", "behind-a-trailer")
    ]
    + [
        AnswerCase(
            f"cut-by-{end.name.lower().replace('_', '-')}-{name}",
            "RFC 9112, 9.8",
            OK + lines + END + body,
            Cut(head, payload, sent=True),
            ends=end,
            asks=asks,
        )
        for end in (End.TLS_EOF, End.NOTIFY, End.TLS_RST)
        for name, (lines, body, head, payload, asks) in FRAMINGS.items()
        if name in ("length", "chunks", "chunks-to-an-old-client") and end is not End.TLS_RST
    ]
    + [
        AnswerCase(
            f"cut-by-{end.name.lower().replace('_', '-')}-{name}",
            "RFC 9112, 9.8",
            OK + END + b"hello",
            Cut(head, b"hello", sent=True),
            ends=end,
            asks=asks,
        )
        for end in (End.RST, End.TLS_EOF)
        for name, (head, asks) in BY_CLOSE.items()
    ]
    + [
        AnswerCase(
            f"ended-by-{end.name.lower()}-{name}",
            "RFC 9112, 6.3",
            OK + END + b"hello",
            Whole(head, b"hello"),
            ends=end,
            asks=asks,
        )
        for end in (End.FIN, End.NOTIFY)
        for name, (head, asks) in BY_CLOSE.items()
    ]
    + [
        AnswerCase(
            "ended-by-fin-close-empty",
            "RFC 9112, 6.3",
            OK + END,
            Whole(OK + CODED),
            ends=End.FIN,
        ),
        AnswerCase(
            "ended-by-fin-close-empty-to-an-old-client",
            "RFC 9112, 6.3",
            OK + END,
            Whole(OK),
            ends=End.FIN,
            asks=Ask.OLD,
        ),
        AnswerCase(
            "ended-by-fin-close-though-keep-alive",
            "RFC 9112, 6.3",
            OK + b"\r\nConnection: keep-alive" + END + b"hello",
            Whole(OK + CODED, b"hello"),
            ends=End.FIN,
        ),
        AnswerCase(
            "ended-by-fin-close-of-1.0-though-keep-alive",
            "RFC 9112, C.2.2",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive" + END + b"hello",
            Whole(OK + CODED, b"hello"),
            ends=End.FIN,
        ),
        AnswerCase(
            "ended-by-fin-close-with-chunks-as-payload",
            "RFC 9112, 6.3",
            OK + END + CHUNKED_BODY,
            Whole(OK + CODED, CHUNKED_BODY),
            ends=End.FIN,
        ),
        AnswerCase(
            "ended-by-fin-behind-its-length",
            "RFC 9112, 9.6",
            OK + TEN + END + b"0123456789",
            Whole(OK + TEN, b"0123456789"),
            ends=End.FIN,
        ),
        AnswerCase(
            "ended-by-fin-behind-its-chunks",
            "RFC 9112, 9.6",
            OK + CODED + END + CHUNKED_BODY,
            Whole(OK + CODED, b"hello world"),
            ends=End.FIN,
        ),
        AnswerCase(
            "ended-by-rst-behind-its-length",
            "RFC 9112, 9.6",
            OK + TEN + END + b"0123456789",
            Whole(OK + TEN, b"0123456789"),
            ends=End.RST,
        ),
        AnswerCase(
            "ended-by-tls-eof-behind-its-length",
            "RFC 9112, 9.8",
            OK + TEN + END + b"0123456789",
            Whole(OK + TEN, b"0123456789"),
            ends=End.TLS_EOF,
        ),
        AnswerCase(
            "ended-by-tls-rst-behind-its-chunks",
            "RFC 9112, 9.8",
            OK + CODED + END + CHUNKED_BODY,
            Whole(OK + CODED, b"hello world"),
            ends=End.TLS_RST,
        ),
    ]
)

STREAMS = [
    AnswerCase(
        "stream-whole",
        "RFC 9112, 7.1",
        STREAM + CODED + END + chunk(EVENT) * 5 + chunk(DONE) + LAST,
        Whole(STREAM + CODED, EVENT * 5 + DONE),
        reuse=True,
        asks=Ask.POST,
    ),
    AnswerCase(
        "stream-to-an-old-client",
        "RFC 9112, 7.1.3",
        STREAM + CODED + END + chunk(EVENT) * 5 + chunk(DONE) + LAST,
        Whole(STREAM, EVENT * 5 + DONE),
        reuse=True,
        asks=Ask.OLD,
    ),
    AnswerCase(
        "stream-events-across-chunks",
        "RFC 9112, 7.1",
        STREAM
        + CODED
        + END
        + chunk(EVENT[:7])
        + chunk(EVENT[7:] + DONE[:9])
        + chunk(DONE[9:])
        + LAST,
        Whole(STREAM + CODED, EVENT + DONE),
        reuse=True,
    ),
    AnswerCase(
        "stream-by-close",
        "RFC 9112, 6.3",
        STREAM + END + EVENT + DONE,
        Whole(STREAM + CODED, EVENT + DONE),
        ends=End.FIN,
    ),
    AnswerCase(
        "stream-of-known-length",
        "RFC 9112, 6.3",
        STREAM + b"\r\nContent-Length: %d" % len(EVENT + DONE) + END + EVENT + DONE,
        Whole(STREAM + b"\r\nContent-Length: %d" % len(EVENT + DONE), EVENT + DONE),
        reuse=True,
    ),
    AnswerCase(
        "stream-cut-between-events",
        "RFC 9112, 8",
        STREAM + CODED + END + chunk(EVENT),
        Cut(STREAM + CODED, EVENT, sent=True),
        ends=End.FIN,
    ),
    AnswerCase(
        "stream-cut-in-an-event",
        "RFC 9112, 8",
        STREAM + CODED + END + chunk(EVENT) + chunk(EVENT[:5]),
        Cut(STREAM + CODED, EVENT + EVENT[:5], sent=True),
        ends=End.RST,
    ),
    AnswerCase(
        "stream-cut-behind-done",  # the client may be content; the framing says what happened
        "RFC 9112, 8",
        STREAM + CODED + END + chunk(EVENT) + chunk(DONE),
        Cut(STREAM + CODED, EVENT + DONE, sent=True),
        ends=End.FIN,
    ),
    AnswerCase(
        "stream-by-close-cut",
        "RFC 9112, 9.8",
        STREAM + END + EVENT,
        Cut(STREAM + CODED, EVENT, sent=True),
        ends=End.TLS_EOF,
    ),
    AnswerCase(
        "stream-malformed-behind-an-event",
        "RFC 9112, 7.1",
        STREAM + CODED + END + chunk(EVENT) + b"5\nhello\r\n" + LAST,
        Cut(STREAM + CODED, EVENT),
    ),
    AnswerCase(
        "stream-answer-behind-it",
        "RFC 9112, 6.3",
        STREAM + CODED + END + chunk(DONE) + LAST + OK + TEN + END + b"0123456789",
        Whole(STREAM + CODED, DONE),
    ),
]

CASES = [*CHUNKS, *EARLY_ENDS, *STREAMS]
