"""Content-Length (RFC 9110, 8.6; RFC 9112, 6.2): every spelling, and every number of them."""

from __future__ import annotations

from tests.wire.requests_case import (
    BY_BODY,
    HIDDEN,
    Case,
    broken,
    get,
    passes,
    post,
    refused,
    seen,
    seen_post,
)

POST = b"POST /v1/c HTTP/1.1"


def with_lengths(*values: bytes, body: bytes = b"hello") -> bytes:
    """A request with a Content-Length line for each of these."""
    return get(*(b"Content-Length: " + value for value in values), line=POST) + body


def bad(name: str, value: bytes) -> Case:
    """A length that is none."""
    return refused(name, "9110 8.6", with_lengths(value))


LENGTHS = [
    passes("a body", "9112 6.2", post(b"hello"), seen_post(b"hello")),
    passes("no octets", "9112 6.2", post(b""), seen_post(b"")),
    passes("0 and the next request", "9112 6.2", post(b"") * 2, seen_post(b""), seen_post(b"")),
    passes("all octets", "9112 6.2", post(bytes(range(256))), seen_post(bytes(range(256)))),
    passes("a request as a body", "9112 6.2", post(HIDDEN), seen_post(HIDDEN)),
    passes("a body of line ends", "9112 6.2", post(b"\r\n\r\n"), seen_post(b"\r\n\r\n")),
    passes("chunks as a body", "9112 6.2", post(b"0\r\n\r\n"), seen_post(b"0\r\n\r\n")),
    passes("blanks around", "9112 5.1", with_lengths(b" \t5\t "), seen_post(b"hello")),
    passes(
        "leading zeros",
        "9110 8.6",
        with_lengths(b"0000010", body=b"0123456789"),
        seen(b"POST /v1/c", b"Content-Length: 0000010", body=b"0123456789"),
    ),
    passes(
        "in capitals",
        "9110 5.1",
        get(b"CONTENT-LENGTH: 5", line=POST) + b"hello",
        seen(b"POST /v1/c", b"CONTENT-LENGTH: 5", body=b"hello"),
    ),
    passes(
        "no blank",
        "9112 5.1",
        get(b"Content-Length:5", line=POST) + b"hello",
        seen_post(b"hello"),
    ),
    passes(
        "without a length there is no body",
        "9112 6.3",
        get(line=POST) + get(),
        seen(POST[:-9]),
        seen(b"GET /v1/m"),
    ),
    passes("the longest body", "9110 8.6", post(b"a" * 16384), seen_post(b"a" * 16384)),
    refused(
        "a body that is too long",
        "9110 15.5.14",
        with_lengths(b"16385", body=b"a" * 1000),
        "request_too_large",
    ),
    refused("18 digits", "9110 8.6", with_lengths(b"999999999999999999"), "request_too_large"),
    bad("19 digits", b"9999999999999999999"),
    bad("2 to the 64th and 5", b"18446744073709551621"),
    bad("2 to the 32nd in 40 digits", b"0" * 30 + b"4294967301"),
    bad("zeros beyond any length", b"0" * 300 + b"5"),
    bad("a plus sign", b"+5"),
    bad("a minus sign", b"-5"),
    bad("minus 0", b"-0"),
    bad("hexadecimal", b"0x5"),
    bad("hexadecimal digits", b"a"),
    bad("octal in Python", b"0o5"),
    bad("an underscore", b"0_5"),
    bad("a decimal point", b"5.0"),
    bad("an exponent", b"5e0"),
    bad("a decimal comma", b"5,0"),
    bad("a blank inside", b"0 5"),
    bad("a tab inside", b"0\t5"),
    bad("a semicolon", b"5;"),
    bad("a parameter", b"5; a=b"),
    bad("a comma at the end", b"5,"),
    bad("a comma at the start", b",5"),
    bad("quotes", b'"5"'),
    bad("quotes of the other kind", b"'5'"),
    bad("a word", b"five"),
    bad("a unit", b"5 bytes"),
    bad("chunked", b"chunked"),
    bad("nothing", b""),
    bad("blanks alone", b"  \t"),
    bad("other digits", b"\xd9\xa5"),
    bad("wide digits", b"\xef\xbc\x95"),
    bad("a superscript", b"\xc2\xb2"),
    bad("a no-break space", b"\xa05"),
    bad("NEL behind it", b"5\x85"),
    bad("a vertical tab", b"\x0b5"),
    bad("a form feed", b"5\x0c"),
    bad("NUL", b"5\x00"),
    bad("a bare CR", b"5\r"),
    bad("a bare LF", b"5\n6"),
    refused("a blank before the colon", "9112 5.1", get(b"Content-Length : 5") + b"hello"),
    refused("a tab before the colon", "9112 5.1", get(b"Content-Length\t: 5") + b"hello"),
]

REPEATED = [
    refused("two lengths", "9112 6.3", with_lengths(b"5", b"6")),
    refused("two lengths, the longer first", "9112 6.3", with_lengths(b"6", b"5")),
    refused("two equal lengths", "9112 6.3", with_lengths(b"5", b"5")),
    refused("two lengths of 0", "9112 6.3", with_lengths(b"0", b"0")),
    refused("5 and 05", "9112 6.3", with_lengths(b"5", b"05")),
    refused("three lengths", "9112 6.3", with_lengths(b"5", b"5", b"5")),
    refused("5 and nothing", "9112 6.3", with_lengths(b"5", b"")),
    refused("a list of equal lengths", "9112 6.3", with_lengths(b"5, 5")),
    refused("a list of equal lengths, tight", "9112 6.3", with_lengths(b"5,5")),
    refused("a list of two lengths", "9112 6.3", with_lengths(b"5, 6")),
    refused("a list of three", "9112 6.3", with_lengths(b"5, 5, 5")),
    refused("a list with a gap", "9112 6.3", with_lengths(b"5, , 5")),
    refused(
        "two spellings",
        "9112 6.3",
        get(b"Content-Length: 5", b"content-length: 5", line=POST) + b"hello",
    ),
    refused(
        "two lengths apart",
        "9112 6.3",
        get(b"Content-Length: 5", b"X-A: b", b"CONTENT-LENGTH: 50", line=POST) + b"hello",
    ),
    refused(
        "0 and the length of a hidden request",
        "9112 6.3",
        with_lengths(b"0", b"%d" % len(HIDDEN), body=HIDDEN),
    ),
    refused(
        "a length and one with a blank before the colon",
        "9112 5.1",
        get(b"Content-Length: 5", b"Content-Length : 0", line=POST) + b"hello",
    ),
]

INCOMPLETE = [
    broken("an end inside a body", "9112 8", with_lengths(b"10"))._replace(hangs_up=True),
    broken("an end before a body", "9112 8", with_lengths(b"10", body=b""))._replace(hangs_up=True),
    Case(
        "a body behind a refused key",
        "9112 9.3",
        post(HIDDEN).replace(b"key-of-user1", b"key-of-nobody", 1),
        ("invalid_api_key",),
        ends=BY_BODY,
    ),
    Case(
        "a body behind an unknown path",
        "9112 9.3",
        post(HIDDEN, line=b"POST /other HTTP/1.1"),
        ("unknown_url",),
        ends=BY_BODY,
    ),
    refused(
        "half a body behind a refused key",
        "9112 9.3",
        get(b"Content-Length: 500", plain=b"Host: gw\r\n") + HIDDEN,
        "missing_api_key",
    ),
    refused(
        "half a body behind an unknown path",
        "9112 9.3",
        get(b"Content-Length: 500", line=b"GET /other HTTP/1.1") + HIDDEN,
        "unknown_url",
    ),
]

GROUPS = {"length": LENGTHS, "lengths": REPEATED, "unfinished": INCOMPLETE}
