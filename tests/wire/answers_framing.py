"""How long an answer is: lengths, transfer codings, answers without a body, bytes too many."""

from __future__ import annotations

from tests.wire.answers_case import REFUSED, AnswerCase, Ask, Cut, End, Whole

OK = b"HTTP/1.1 200 OK"
HEAD_END = b"\r\n\r\n"
TWO = b"\r\nContent-Length: 2"
CODED = b"\r\nTransfer-Encoding: chunked"
CHUNKS = HEAD_END + b"2\r\nhi\r\n0\r\n\r\n"
HI = HEAD_END + b"hi"
PLAIN = Whole(OK + TWO, b"hi")
CHUNKED = Whole(OK + CODED, b"hi")

# The lines of a head whose length is one thing to one reader and another thing to another.
BAD_LENGTHS = {
    "plus": b"Content-Length: +2",
    "minus": b"Content-Length: -2",
    "minus-zero": b"Content-Length: -0",
    "underscore": b"Content-Length: 0_2",
    "hexadecimal": b"Content-Length: 0x2",
    "octal": b"Content-Length: 0o2",
    "exponent": b"Content-Length: 2e0",
    "fraction": b"Content-Length: 2.0",
    "unit": b"Content-Length: 2 bytes",
    "letters": b"Content-Length: two",
    "quoted": b'Content-Length: "2"',
    "empty": b"Content-Length:",
    "blank-inside": b"Content-Length: 2 2",
    "semicolon": b"Content-Length: 2;2",
    "in-other-digits": "Content-Length: ٢".encode(),
    "in-superscript": b"Content-Length: \xb2",
    "nul": b"Content-Length: 2\0",
    "vertical-tab": b"Content-Length: \x0b2",
    "of-19-digits": b"Content-Length: 2000000000000000000",
    "of-21-digits": b"Content-Length: 200000000000000000002",
    "beyond-64-bits": b"Content-Length: 18446744073709551618",
    "folded": b"Content-Length: 2\r\n 2",
    "two-different": b"Content-Length: 2\r\nContent-Length: 3",
    "two-different-in-case": b"Content-Length: 2\r\ncONTENT-lENGTH: 3",
    "two-apart": b"Content-Length: 2\r\nX-A: a\r\nContent-Length: 20",
    "three-one-different": b"Content-Length: 2\r\nContent-Length: 2\r\nContent-Length: 0",
    "equal-by-value-only": b"Content-Length: 2\r\nContent-Length: 02",
    "equal-and-malformed": b"Content-Length: +2\r\nContent-Length: +2",
    "second-empty": b"Content-Length: 2\r\nContent-Length:",
    "list-of-different": b"Content-Length: 2, 3",
    "list-with-a-gap": b"Content-Length: 2,,2",
    "list-that-goes-on": b"Content-Length: 2,",
    "list-and-a-different-line": b"Content-Length: 2, 2\r\nContent-Length: 3",
}

# What is sent; the line that the client sees.
GOOD_LENGTHS = {
    "equal-lines": (b"Content-Length: 2\r\nContent-Length: 2", b"Content-Length: 2"),
    "equal-lines-spelt-apart": (b"Content-Length: 2\r\ncontent-length:2", b"Content-Length: 2"),
    "equal-in-a-list": (b"Content-Length: 2, 2", b"Content-Length: 2"),
    "equal-in-list-and-line": (b"Content-Length: 2,2\r\nContent-Length: 2", b"Content-Length: 2"),
    "blanks-around": (b"Content-Length: \t 2 \t", b"Content-Length: 2"),
    "leading-zeros": (b"Content-Length: 0002", b"Content-Length: 0002"),
    "folded-whole": (b"Content-Length:\r\n 2", b"Content-Length: 2"),
    "named-in-connection": (
        b"Connection: content-length, keep-alive\r\nContent-Length: 2",
        b"Content-Length: 2",
    ),
}

LENGTHS = [
    *(
        AnswerCase(f"length-{name}", "RFC 9112, 6.3", OK + b"\r\n" + lines + HI, REFUSED)
        for name, lines in BAD_LENGTHS.items()
    ),
    *(
        AnswerCase(
            f"length-{name}",
            "RFC 9110, 8.6",
            OK + b"\r\n" + sent + HI,
            Whole(OK + b"\r\n" + seen, b"hi"),
            reuse=True,
        )
        for name, (sent, seen) in GOOD_LENGTHS.items()
    ),
    AnswerCase(
        "length-zero",
        "RFC 9112, 6.3",
        OK + b"\r\nContent-Length: 0" + HEAD_END,
        Whole(OK + b"\r\nContent-Length: 0"),
        reuse=True,
    ),
    AnswerCase(
        "length-of-18-digits",
        "RFC 9112, 6.3",
        OK + b"\r\nContent-Length: 200000000000000000" + HI,
        Cut(OK + b"\r\nContent-Length: 200000000000000000", b"hi", sent=True),
        ends=End.FIN,
    ),
    AnswerCase(
        "length-too-short",
        "RFC 9112, 6.3",
        OK + TWO + HI + b"dden",
        PLAIN,
    ),
    AnswerCase(
        "length-too-long",
        "RFC 9112, 8",
        OK + b"\r\nContent-Length: 3" + HI,
        Cut(OK + b"\r\nContent-Length: 3", b"hi", sent=True),
        ends=End.FIN,
    ),
]

# A coding that some reader may not take for "chunked", or may take for it.
BAD_CODINGS = {
    "gzip": b"Transfer-Encoding: gzip",
    "gzip-then-chunked": b"Transfer-Encoding: gzip, chunked",
    "chunked-then-gzip": b"Transfer-Encoding: chunked, gzip",
    "identity": b"Transfer-Encoding: identity",
    "identity-then-chunked": b"Transfer-Encoding: identity, chunked",
    "chunked-twice": b"Transfer-Encoding: chunked, chunked",
    "chunked-in-two-lines": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "two-lines": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "two-lines-the-other-way": b"Transfer-Encoding: identity\r\ntransfer-encoding: chunked",
    "empty": b"Transfer-Encoding:",
    "empty-and-chunked": b"Transfer-Encoding:\r\nTransfer-Encoding: chunked",
    "comma-first": b"Transfer-Encoding: ,chunked",
    "comma-last": b"Transfer-Encoding: chunked,",
    "parameter": b"Transfer-Encoding: chunked;q=1",
    "quoted": b'Transfer-Encoding: "chunked"',
    "in-quotes": b"Transfer-Encoding: 'chunked'",
    "prefixed": b"Transfer-Encoding: xchunked",
    "suffixed": b"Transfer-Encoding: chunkedx",
    "cut-short": b"Transfer-Encoding: chunk",
    "two-words": b"Transfer-Encoding: chunked foo",
    "folded-into-two": b"Transfer-Encoding: chunked\r\n gzip",
    "vertical-tab-first": b"Transfer-Encoding: \x0bchunked",
    "vertical-tab-last": b"Transfer-Encoding: chunked\x0b",
    "form-feed": b"Transfer-Encoding: \x0cchunked",
    "nul-last": b"Transfer-Encoding: chunked\0",
    "bare-cr-first": b"Transfer-Encoding: \rchunked",
    "bare-cr-behind-the-name": b"Transfer-Encoding\r: chunked",
    "no-break-space": b"Transfer-Encoding: \xa0chunked",
    "full-width": "Transfer-Encoding: ｃhunked".encode(),
    "dotless-letter": "Transfer-Encodıng: chunked".encode(),
    "blank-before-the-colon": b"Transfer-Encoding : chunked",
    "no-colon": b"Transfer-Encoding chunked",
    "and-length": b"Transfer-Encoding: chunked\r\nContent-Length: 12",
    "behind-length": b"Content-Length: 12\r\nTransfer-Encoding: chunked",
    "and-length-zero": b"Transfer-Encoding: chunked\r\nContent-Length: 0",
    "identity-and-length": b"Transfer-Encoding: identity\r\nContent-Length: 12",
    "and-length-named-in-connection": (
        b"Connection: content-length\r\nContent-Length: 12\r\nTransfer-Encoding: chunked"
    ),
}
GOOD_CODINGS = {
    "chunked": b"Transfer-Encoding: chunked",
    "in-capitals": b"TRANSFER-ENCODING: CHUNKED",
    "mixed": b"transfer-Encoding: cHuNkEd",
    "blanks-around": b"Transfer-Encoding:\t chunked \t",
    "folded-whole": b"Transfer-Encoding:\r\n chunked",
    "named-in-connection": b"Connection: transfer-encoding\r\nTransfer-Encoding: chunked",
}

CODINGS = [
    *(
        AnswerCase(f"coding-{name}", "RFC 9112, 6.1", OK + b"\r\n" + lines + CHUNKS, REFUSED)
        for name, lines in BAD_CODINGS.items()
    ),
    *(
        AnswerCase(
            f"coding-{name}", "RFC 9112, 6.1", OK + b"\r\n" + lines + CHUNKS, CHUNKED, reuse=True
        )
        for name, lines in GOOD_CODINGS.items()
    ),
    AnswerCase("coding-in-1.0", "RFC 9112, 6.1", b"HTTP/1.0 200 OK" + CODED + CHUNKS, REFUSED),
    AnswerCase(
        "coding-in-1.0-with-length",
        "RFC 9112, 6.1",
        b"HTTP/1.0 200 OK" + CODED + b"\r\nContent-Length: 12" + CHUNKS,
        REFUSED,
    ),
    AnswerCase(
        "coding-in-1.0-keep-alive",
        "RFC 9112, 6.1",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive" + CODED + CHUNKS,
        REFUSED,
    ),
    AnswerCase(
        "coding-in-1.0-to-an-old-client",
        "RFC 9112, 6.1",
        b"HTTP/1.0 200 OK" + CODED + CHUNKS,
        REFUSED,
        asks=Ask.OLD,
    ),
    AnswerCase(
        "coding-with-an-underscore-is-none",
        "RFC 9112, 6.3",
        OK + b"\r\nTransfer_Encoding: chunked" + CHUNKS,
        Whole(OK + b"\r\nTransfer_Encoding: chunked" + CODED, CHUNKS[4:]),
        ends=End.FIN,
    ),
]


def bodiless(name: str, start: bytes, asks: Ask, framed: bytes | None) -> list[AnswerCase]:
    """Answers that have no body, whatever they say, followed by one nevertheless.

    `framed` is what the client sees of a length, or None where the client must see none.
    """
    with_length, rfc = b"\r\nContent-Length: 2", "RFC 9112, 6.3"
    seen = start + framed if framed else start
    # What is announced may come nevertheless, late: then it must not be the next one's answer.
    coded = start + CODED if framed is not None else start
    return [
        AnswerCase(f"{name}-bare", rfc, start + HEAD_END, Whole(start), reuse=True, asks=asks),
        AnswerCase(
            f"{name}-length",
            rfc,
            start + with_length + HEAD_END,
            Whole(seen),
            asks=asks,
        ),
        AnswerCase(
            f"{name}-length-zero",
            rfc,
            start + b"\r\nContent-Length: 0" + HEAD_END,
            Whole(start if framed is None else start + b"\r\nContent-Length: 0"),
            reuse=True,
            asks=asks,
        ),
        AnswerCase(f"{name}-coding", rfc, start + CODED + HEAD_END, Whole(coded), asks=asks),
        AnswerCase(f"{name}-body", rfc, start + with_length + HI, Whole(seen), asks=asks),
        AnswerCase(f"{name}-body-without-length", rfc, start + HI, Whole(start), asks=asks),
        AnswerCase(f"{name}-chunked-body", rfc, start + CODED + CHUNKS, Whole(coded), asks=asks),
        AnswerCase(
            f"{name}-answer-as-body",
            rfc,
            start + with_length + HEAD_END + OK + TWO + HI,
            Whole(seen),
            asks=asks,
        ),
        AnswerCase(
            f"{name}-both-framings", rfc, start + CODED + with_length + HEAD_END, REFUSED, asks=asks
        ),
        AnswerCase(
            f"{name}-two-lengths",
            rfc,
            start + with_length + b"\r\nContent-Length: 3" + HEAD_END,
            REFUSED,
            asks=asks,
        ),
    ]


BODILESS = [
    *bodiless("204", b"HTTP/1.1 204 No Content", Ask.GET, None),
    *bodiless("304", b"HTTP/1.1 304 Not Modified", Ask.GET, TWO),
    *bodiless("head", OK, Ask.HEAD, TWO),
    AnswerCase(
        "head-error",
        "RFC 9110, 9.3.2",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 9" + HEAD_END,
        Whole(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9"),
        asks=Ask.HEAD,
    ),
    AnswerCase(
        "head-204",
        "RFC 9110, 9.3.2",
        b"HTTP/1.1 204 No Content" + HEAD_END,
        Whole(b"HTTP/1.1 204 No Content"),
        reuse=True,
        asks=Ask.HEAD,
    ),
    AnswerCase(
        "205-with-a-body",
        "RFC 9110, 15.3.6",
        b"HTTP/1.1 205 Reset Content" + TWO + HI,
        Whole(b"HTTP/1.1 205 Reset Content" + TWO, b"hi"),
        reuse=True,
    ),
    AnswerCase(
        "204-of-1.0",
        "RFC 9112, 9.3",
        b"HTTP/1.0 204 No Content" + HEAD_END,
        Whole(b"HTTP/1.1 204 No Content"),
    ),
    AnswerCase(
        "204-to-an-old-client",
        "RFC 9112, 9.3",
        b"HTTP/1.1 204 No Content" + HEAD_END,
        Whole(b"HTTP/1.1 204 No Content"),
        reuse=True,
        asks=Ask.OLD_KEEPING,
    ),
]

EVIL = OK + b"\r\nSet-Cookie: evil=1\r\nContent-Length: 4\r\n\r\nevil"
# What stands behind a complete answer.
SURPLUS = {
    "byte": b"x",
    "nul": b"\0",
    "line-end": b"\r\n",
    "lf": b"\n",
    "chunk": b"4\r\nevil\r\n0\r\n\r\n",
    "last-chunk": b"0\r\n\r\n",
    "answer": EVIL,
    "answers": EVIL * 3,
    "half-an-answer": EVIL[:20],
    "interim-answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "answer-and-fin": EVIL,
}
ANSWERS = {
    "length": (OK + TWO + HI, PLAIN, Ask.GET),
    "no-length": (OK + b"\r\nContent-Length: 0" + HEAD_END, None, Ask.GET),
    "chunks": (OK + CODED + CHUNKS, CHUNKED, Ask.GET),
    "chunks-unchunked": (OK + CODED + CHUNKS, Whole(OK, b"hi"), Ask.OLD),
    "trailers": (OK + CODED + HEAD_END + b"0\r\nX-T: 1\r\n\r\n", Whole(OK + CODED), Ask.GET),
}

TOO_MUCH = [
    AnswerCase(
        f"surplus-{what}-behind-{name}",
        "RFC 9112, 6.3",
        answer + octets,
        sees or Whole(OK + b"\r\nContent-Length: 0"),
        ends=End.FIN if what.endswith("fin") else End.OPEN,
        asks=asks,
    )
    for what, octets in SURPLUS.items()
    for name, (answer, sees, asks) in ANSWERS.items()
    if what in ("byte", "answer", "line-end") or name in ("length", "chunks")
]

CASES = [*LENGTHS, *CODINGS, *BODILESS, *TOO_MUCH]
