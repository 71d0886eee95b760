"""Heads for the other side: what passes, in order and spelling, and what does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aigw.wire.gate import CREDENTIAL_FIELDS, DECISIVE_FIELDS
from aigw.wire.head import AnswerReader, read_request
from aigw.wire.rewrite import (
    ANSWER_WITHHELD,
    REQUEST_WITHHELD,
    answer_head,
    interim_head,
    request_head,
    start_of_request,
)


def rewritten(
    fields: bytes, credential: bytes = b"", withheld: frozenset[bytes] = frozenset()
) -> bytes:
    head = read_request(b"POST /v1/x?y=1 HTTP/1.1\r\nHost: gateway\r\n" + fields + b"\r\n")
    start = start_of_request(b"POST", b"/base/x?y=1", b"upstream:8000")
    return request_head(head, start, credential, withheld)


START = b"POST /base/x?y=1 HTTP/1.1\r\nHost: upstream:8000\r\n"


def test_end_to_end_fields_pass_in_order_and_spelling() -> None:
    fields = (
        b"aNthropic-Beta: a,b\r\nX-REQUEST-ID: 1\r\ncontent-type: text/x\r\nx-request-id: 2\r\n"
    )
    assert rewritten(fields) == START + fields + b"\r\n"


def test_what_does_not_pass() -> None:
    fields = b"".join(
        b"%b: x\r\n" % name
        for name in sorted(REQUEST_WITHHELD - {b"host", b"transfer-encoding", b"connection"})
    )
    fields += b"Connection: keep-alive, x-hop\r\nX-Hop: 1\r\nX-AIGW-Cache: no\r\nx-aigw-: 1\r\n"
    assert rewritten(fields) == START + b"\r\n"


def test_naming_a_field_in_connection_switches_no_rule_off() -> None:
    fields = (
        b"Connection: content-length, authorization, host, content-type\r\n"
        b"Content-Length: 5\r\nAuthorization: Bearer own\r\nContent-Type: a/b\r\n"
    )
    passed = b"Content-Length: 5\r\nAuthorization: Bearer own\r\nContent-Type: a/b\r\n"
    assert rewritten(fields) == START + passed + b"\r\n"
    withheld = rewritten(fields, b"Authorization: Bearer sk-example\r\n", CREDENTIAL_FIELDS)
    assert withheld == (
        START
        + b"Content-Length: 5\r\nContent-Type: a/b\r\nAuthorization: Bearer sk-example\r\n\r\n"
    )


def test_chunked_is_announced_anew() -> None:
    assert rewritten(b"transfer-encoding: CHUNKED\r\n") == (
        START + b"Transfer-Encoding: chunked\r\n\r\n"
    )


NAMES = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True)
VALUES = st.from_regex(
    rb"([\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff]{0,20}[\x21-\x7e])?)?", fullmatch=True
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_random_fields_pass_both_ways(fields: list[tuple[bytes, bytes]]) -> None:
    fields = [
        (name, value)
        for name, value in fields
        if name.lower() not in REQUEST_WITHHELD | ANSWER_WITHHELD | DECISIVE_FIELDS
        and not name.lower().startswith(b"x-aigw-")
    ]
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    assert rewritten(lines) == START + lines + b"\r\n"
    head = AnswerReader(65536).feed(b"HTTP/1.1 299 Odd\r\n" + lines + b"\r\n")
    assert head is not None
    assert answer_head(head, b"", frozenset()) == b"HTTP/1.1 299 Odd\r\n" + lines + b"\r\n"


def test_an_answer_loses_what_is_not_end_to_end() -> None:
    head = AnswerReader(65536).feed(
        b"HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Content-Length: 0\r\nX-Aigw-Error: forged\r\nX-Request-Id: r1\r\nUpgrade: h2c\r\n\r\n"
    )
    assert head is not None
    own = b"x-aigw-request-id: r2\r\n"
    assert answer_head(head, own, frozenset({b"x-none"})) == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Request-Id: r1\r\n" + own + b"\r\n"
    )


def test_an_interim_answer_has_no_length() -> None:
    reader = AnswerReader(65536)
    assert (
        reader.feed(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 3\r\n\r\n") is None
    )
    assert interim_head(reader.interim[0]) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
