"""Transfer-Encoding and chunks (RFC 9112, 6.1, 6.3 and 7.1), alone and against Content-Length."""

from __future__ import annotations

from tests.wire.requests_case import (
    BY_BODY,
    CHUNKED,
    HIDDEN,
    PLAIN,
    Case,
    broken,
    chunked,
    get,
    passes,
    refused,
    seen_chunked,
    seen_get,
)

POST = b"POST /v1/c HTTP/1.1"
WIRE = b"5\r\nhello\r\n0\r\n\r\n"
END = b"0\r\n\r\n"
HELLO = seen_chunked(b"hello")


def coded(*lines: bytes, wire: bytes = WIRE, line: bytes = POST) -> bytes:
    """A request with these lines about its framing."""
    return get(*lines, line=line) + wire


def bad_coding(name: str, value: bytes) -> Case:
    """A Transfer-Encoding that is not chunked, in the same words."""
    return refused(name, "9112 6.1", coded(b"Transfer-Encoding: " + value))


CODINGS = [
    passes("chunked", "9112 6.1", coded(CHUNKED), HELLO),
    passes("Chunked", "9112 7", coded(b"Transfer-Encoding: Chunked"), HELLO),
    passes("CHUNKED", "9112 7", coded(b"TRANSFER-ENCODING: CHUNKED"), HELLO),
    passes("blanks around", "9112 5.1", coded(b"Transfer-Encoding: \t chunked \t"), HELLO),
    passes("no blank", "9112 5.1", coded(b"Transfer-Encoding:chunked"), HELLO),
    passes(
        "chunked on GET",
        "9112 6.1",
        get(CHUNKED) + WIRE,
        seen_get(CHUNKED)._replace(body=b"hello"),
    ),
    bad_coding("identity", b"identity"),
    bad_coding("gzip", b"gzip"),
    bad_coding("gzip, chunked", b"gzip, chunked"),
    bad_coding("chunked, gzip", b"chunked, gzip"),
    bad_coding("chunked, identity", b"chunked, identity"),
    bad_coding("identity, chunked", b"identity, chunked"),
    bad_coding("chunked twice in a list", b"chunked, chunked"),
    bad_coding("a comma at the end", b"chunked,"),
    bad_coding("a comma at the start", b",chunked"),
    bad_coding("a parameter", b"chunked;q=1"),
    bad_coding("a semicolon", b"chunked;"),
    bad_coding("quotes", b'"chunked"'),
    bad_coding("quotes of the other kind", b"'chunked'"),
    bad_coding("xchunked", b"xchunked"),
    bad_coding("chunkedx", b"chunkedx"),
    bad_coding("a word before it", b"x chunked"),
    bad_coding("a word behind it", b"chunked x"),
    bad_coding("cow", b"cow"),
    bad_coding("nothing", b""),
    bad_coding("a colon", b": chunked"),
    bad_coding("brackets", b"(a) chunked"),
    bad_coding("a vertical tab before it", b"\x0bchunked"),
    bad_coding("a form feed behind it", b"chunked\x0c"),
    bad_coding("NUL behind it", b"chunked\0"),
    bad_coding("a no-break space behind it", b"chunked\xa0"),
    bad_coding("NEL before it", b"\x85chunked"),
    bad_coding("DEL behind it", b"chunked\x7f"),
    bad_coding("ESC inside", b"chun\x1bked"),
    bad_coding("a Kelvin sign for the k", b"chun\xe2\x84\xaaed"),
    bad_coding("a bare CR before it", b"\rchunked"),
    bad_coding("a bare LF behind it", b"chunked\nX: y"),
    refused("two lines", "9112 6.1", coded(CHUNKED, CHUNKED)),
    refused("chunked and identity", "9112 6.1", coded(CHUNKED, b"Transfer-Encoding: identity")),
    refused("identity and chunked", "9112 6.1", coded(b"Transfer-Encoding: identity", CHUNKED)),
    refused("chunked and nothing", "9112 6.1", coded(CHUNKED, b"Transfer-Encoding:")),
    refused("a blank before the colon", "9112 5.1", coded(b"Transfer-Encoding : chunked")),
    refused("a tab before the colon", "9112 5.1", coded(b"Transfer-Encoding\t: chunked")),
    refused("a blank before the name", "9112 5.2", coded(b" Transfer-Encoding: chunked")),
    refused("a blank in the name", "9112 5.1", coded(b"Transfer Encoding: chunked")),
    refused("NUL behind the name", "9110 5.1", coded(b"Transfer-Encoding\0: chunked")),
    refused("a line hidden behind a bare LF", "9112 2.2", coded(b"X: y\n" + CHUNKED)),
    refused("a line hidden behind a bare CR", "9112 2.2", coded(b"X: y\r" + CHUNKED)),
    refused("HTTP/1.0", "9112 6.1", coded(CHUNKED, line=b"POST /v1/c HTTP/1.0")),
    refused(
        "HTTP/1.0 that stays",
        "9112 6.1",
        coded(CHUNKED, b"Connection: keep-alive", line=b"POST /v1/c HTTP/1.0"),
    ),
    refused(
        "an unknown coding in HTTP/1.0",
        "9112 6.1",
        coded(b"Transfer-Encoding: identity", line=b"POST /v1/c HTTP/1.0"),
    ),
]

LENGTH = b"Content-Length: %d"
BOTH = [
    refused("length, then chunked", "9112 6.3", coded(b"Content-Length: 15", CHUNKED)),
    refused("chunked, then length", "9112 6.3", coded(CHUNKED, b"Content-Length: 15")),
    refused("a length of 0 and chunked", "9112 6.3", coded(b"Content-Length: 0", CHUNKED)),
    refused(
        "CL.TE",
        "9112 11.2",
        coded(LENGTH % len(END + HIDDEN), CHUNKED, wire=END + HIDDEN),
    ),
    refused(
        "TE.CL",
        "9112 11.2",
        coded(CHUNKED, b"Content-Length: 4", wire=b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + END),
    ),
    refused(
        "TE.TE",
        "9112 11.2",
        coded(CHUNKED, b"Transfer-encoding: cow", b"Content-Length: 4"),
    ),
    refused("a wrong length and chunked", "9112 6.3", coded(b"Content-Length: x", CHUNKED)),
    refused(
        "an unknown coding and a length",
        "9112 6.3",
        coded(b"Transfer-Encoding: identity", b"Content-Length: 15"),
    ),
    refused(
        "chunked that Connection names, and a length",
        "9112 6.3",
        coded(b"Connection: transfer-encoding", CHUNKED, b"Content-Length: 15"),
    ),
    refused(
        "a length that Connection names, and chunked",
        "9112 6.3",
        coded(b"Connection: content-length", CHUNKED, b"Content-Length: 15"),
    ),
    refused(
        "both in HTTP/1.0",
        "9112 6.1",
        coded(b"Content-Length: 15", CHUNKED, line=b"POST /v1/c HTTP/1.0"),
    ),
    refused(
        "chunked in disguise and a length",
        "3875 4.1.18",
        coded(b"Transfer_Encoding: chunked", b"Content-Length: 15"),
    ),
    refused(
        "a length in disguise and chunked", "3875 4.1.18", coded(CHUNKED, b"Content_Length: 15")
    ),
]


def body(name: str, section: str, wire: bytes, payload: bytes = b"hello") -> Case:
    """Chunks that are a body."""
    return passes(name, section, chunked(wire), seen_chunked(payload))


def bad(name: str, section: str, wire: bytes) -> Case:
    """Chunks that are none."""
    return broken(name, section, chunked(wire))


CHUNKS = [
    body("one chunk", "9112 7.1", WIRE),
    body("no chunk", "9112 7.1", END, b""),
    body("chunks of one octet", "9112 7.1", b"1\r\na\r\n" * 50 + END, b"a" * 50),
    body("capital digits", "9112 7.1", b"A\r\n0123456789\r\n" + END, b"0123456789"),
    body("leading zeros", "9112 7.1", b"0005\r\nhello\r\n000\r\n\r\n"),
    body("line ends as payload", "9112 7.1", b"4\r\n\r\n\r\n\r\n" + END, b"\r\n\r\n"),
    body("a last chunk as payload", "9112 7.1", b"5\r\n0\r\n\r\n\r\n" + END, END),
    body("a request as payload", "9112 7.1", b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + END, HIDDEN),
    body("the longest body", "9112 7.1", b"4000\r\n" + b"a" * 16384 + b"\r\n" + END, b"a" * 16384),
    passes(
        "a request behind it",
        "9112 7.1",
        chunked(WIRE) + get() + chunked(END),
        HELLO,
        seen_get(),
        seen_chunked(b""),
    ),
    body("blanks behind a size", "9112 7.1", b"5  \t\r\nhello\r\n0 \r\n\r\n"),
    bad("a blank before a size", "9112 7.1", b" 5\r\nhello\r\n" + END),
    bad("a blank inside a size", "9112 7.1", b"0 5\r\nhello\r\n" + END),
    bad("no size", "9112 7.1", b"\r\nhello\r\n" + END),
    bad("a size without digits", "9112 7.1", b";a=b\r\nhello\r\n" + END),
    bad("0x", "9112 7.1", b"0x5\r\nhello\r\n" + END),
    bad("a plus sign", "9112 7.1", b"+5\r\nhello\r\n" + END),
    bad("a minus sign", "9112 7.1", b"-5\r\nhello\r\n" + END),
    bad("minus 0", "9112 7.1", b"5\r\nhello\r\n-0\r\n\r\n"),
    bad("an underscore", "9112 7.1", b"0_5\r\nhello\r\n" + END),
    bad("a decimal point", "9112 7.1", b"5.0\r\nhello\r\n" + END),
    bad("an h", "9112 7.1", b"5h\r\nhello\r\n" + END),
    bad("no digit of sixteen", "9112 7.1", b"g\r\nhello\r\n" + END),
    bad("other digits", "9112 7.1", b"\xd9\xa5\r\nhello\r\n" + END),
    bad("NUL before a size", "9112 7.1", b"\x005\r\nhello\r\n" + END),
    bad("NUL behind a size", "9112 7.1", b"5\0\r\nhello\r\n" + END),
    bad("a comma", "9112 7.1", b"5,5\r\nhello\r\n" + END),
    bad("quotes", "9112 7.1", b'"5"\r\nhello\r\n' + END),
    bad("16 digits", "9112 7.1", b"0000000000000005\r\nhello\r\n" + END),
    bad("2 to the 64th and 5", "9112 7.1", b"10000000000000005\r\nhello\r\n" + END),
    bad("minus 1 in 64 bits", "9112 7.1", b"ffffffffffffffff\r\nhello\r\n" + END),
    bad("a size that is longer", "9112 7.1", b"6\r\nhello\r\n" + END),
    bad("a size that is shorter", "9112 7.1", b"4\r\nhello\r\n" + END),
    bad("no line end behind a chunk", "9112 7.1", b"5\r\nhello" + END),
    bad("a bare LF behind a size", "9112 7.1", b"5\nhello\r\n" + END),
    bad("a bare CR behind a size", "9112 7.1", b"5\rhello\r\n" + END),
    bad("CR CR LF behind a size", "9112 7.1", b"5\r\r\nhello\r\n" + END),
    bad("a bare LF behind a chunk", "9112 7.1", b"5\r\nhello\n" + END),
    bad("a bare CR behind a chunk", "9112 7.1", b"5\r\nhello\r" + END),
    bad("two octets behind a chunk that are no line end", "9112 7.1", b"5\r\nhelloXX" + END),
    bad("an empty line between chunks", "9112 7.1", b"5\r\nhello\r\n\r\n" + END),
    bad("a bare LF for the last line", "9112 7.1", b"5\r\nhello\r\n0\r\n\n"),
    bad("a bare LF behind the last chunk", "9112 7.1", b"5\r\nhello\r\n0\n\r\n"),
    bad("bare LFs throughout", "9112 7.1", b"5\nhello\n0\n\n"),
    Case(
        "a body that is too long",
        "9110 15.5.14",
        chunked(b"4001\r\n" + b"a" * 16385 + b"\r\n"),
        ("request_too_large",),
        ends="closed",
        may_begin=True,
    ),
]

EXTENSIONS = [
    body("an extension", "9112 7.1.1", b"5;a=b\r\nhello\r\n0;c\r\n\r\n"),
    body("an extension without a value", "9112 7.1.1", b"5;a\r\nhello\r\n" + END),
    body("an extension in quotes", "9112 7.1.1", b'5;a="b;c \\" d"\r\nhello\r\n' + END),
    body("blanks in an extension", "9112 7.1.1", b"5; a = b\t\r\nhello\r\n" + END),
    body("an 8-bit extension", "9112 7.1.1", b"5;a=\xc3\xa9\r\nhello\r\n" + END),
    body("a semicolon alone", "9112 7.1.1", b"5;\r\nhello\r\n" + END),
    body("an extension like a length", "9112 7.1.1", b"5;Content-Length: 50\r\nhello\r\n" + END),
    bad("a bare LF in an extension", "9112 7.1.1", b"5;a\nb\r\nhello\r\n" + END),
    bad("a bare LF ends an extension", "9112 7.1.1", b"5;a\nhello\r\n" + END),
    bad("a bare CR in an extension", "9112 7.1.1", b"5;a\rb\r\nhello\r\n" + END),
    bad("CR CR LF behind an extension", "9112 7.1.1", b"5;a\r\r\nhello\r\n" + END),
    bad("a line end in quotes", "9112 7.1.1", b'5;a="\r\nhello\r\n"' + END),
    bad("NUL in an extension", "9112 7.1.1", b"5;a\0b\r\nhello\r\n" + END),
    bad("DEL in an extension", "9112 7.1.1", b"5;a\x7fb\r\nhello\r\n" + END),
    bad("a size in an extension", "9112 7.1.1", b"0;\n5\r\nhello\r\n" + END),
    bad(
        "an extension that is too long", "9112 7.1.1", b"5;" + b"a" * 5000 + b"\r\nhello\r\n" + END
    ),
    bad("an extension without end", "9112 7.1.1", b"5;" + b"a" * 5000),
]

TRAILERS = [
    body("a trailer does not pass", "9112 7.1.2", b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
    bad("a length as a trailer", "9110 6.5.1", b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n"),
    bad("chunked as a trailer", "9110 6.5.1", b"5\r\nhello\r\n0\r\n" + CHUNKED + b"\r\n\r\n"),
    body("a Host as a trailer", "9110 6.5.1", b"5\r\nhello\r\n0\r\nHost: other\r\n\r\n"),
    body(
        "a key as a trailer", "9110 6.5.1", b"5\r\nhello\r\n0\r\nX-API-Key: key-of-second\r\n\r\n"
    ),
    body("an empty trailer", "9112 7.1.2", b"5\r\nhello\r\n0\r\nX-Sum:\r\n\r\n"),
    refused(
        "a key as a trailer is no key",
        "9110 6.5.1",
        get(CHUNKED, line=POST, plain=b"Host: gw\r\n")
        + b"0\r\n"
        + PLAIN.split(b"\r\n")[1]
        + b"\r\n\r\n",
        "missing_api_key",
        BY_BODY,
    ),
    passes(
        "a request behind a trailer",
        "9112 7.1.2",
        chunked(b"0\r\nX-Sum: 1\r\n\r\n") + get(),
        seen_chunked(b""),
        seen_get(),
    ),
    bad("a request instead of trailers", "9112 7.1.2", b"5\r\nhello\r\n0\r\n" + get()),
    bad("a folded trailer", "9112 5.2", b"5\r\nhello\r\n0\r\nX-A: b\r\n c\r\n\r\n"),
    bad("a trailer without a colon", "9112 7.1.2", b"5\r\nhello\r\n0\r\nX-A\r\n\r\n"),
    bad("a blank before a trailer's colon", "9112 5.1", b"5\r\nhello\r\n0\r\nX-A : b\r\n\r\n"),
    bad("a trailer without a name", "9112 7.1.2", b"5\r\nhello\r\n0\r\n: b\r\n\r\n"),
    bad("a bare LF in a trailer", "9112 2.2", b"5\r\nhello\r\n0\r\nX-A: b\nX-B: c\r\n\r\n"),
    bad("a bare CR in a trailer", "9112 2.2", b"5\r\nhello\r\n0\r\nX-A: b\rc\r\n\r\n"),
    bad("NUL in a trailer", "9110 5.5", b"5\r\nhello\r\n0\r\nX-A: \0\r\n\r\n"),
    bad(
        "trailers that are too long",
        "9110 6.5.2",
        b"5\r\nhello\r\n0\r\n" + b"X-A: bcdefgh\r\n" * 1400 + b"\r\n",
    ),
]

UNFINISHED = [
    broken(name, "9112 8", chunked(wire))._replace(hangs_up=True)
    for name, wire in {
        "an end before the chunks": b"",
        "an end in a size": b"5",
        "an end behind a size": b"5\r\n",
        "an end in a chunk": b"5\r\nhel",
        "an end behind a chunk": b"5\r\nhello\r\n",
        "an end in the last chunk": b"5\r\nhello\r\n0\r\n",
        "an end in the last line": b"5\r\nhello\r\n0\r\n\r",
        "an end in a trailer": b"5\r\nhello\r\n0\r\nX-A: b\r\n",
    }.items()
]

GROUPS = {
    "coding": CODINGS,
    "length and coding": BOTH,
    "chunk": CHUNKS,
    "extension": EXTENSIONS,
    "trailer": TRAILERS,
    "unfinished chunk": UNFINISHED,
}
