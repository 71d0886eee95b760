"""Heads as they are read here, held against what `h11.Connection` makes of the same octets.

The gate refuses more than h11 does, so it is left out here; what it refuses stands in
`test_wire_gate.py` and in the tables of `tests/wire/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import cast

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw.wire import head as wire_head
from aigw.wire.head import AnswerReader, HeadError, read_request

REQUEST = (
    b"POST /v1/chat?a=b HTTP/1.1\r\nHost: gw\r\nContent-Length: 5\r\nX-Name: a value \r\n"
    b"connection: keep-alive\r\nAccept: */*\r\nExpect: 100-continue\r\n\r\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n"
    b"Set-Cookie: a=b\r\nset-cookie: c=d\r\n\r\nbody"
)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
# What may be put anywhere in a head: whatever parsers have ever stumbled over.
ODD = (
    *(b"", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t", b":", b"\0", b"\xff", b"-1"),
    *(b"\r\n folded", b"HTTP/1.0", b"HTTP/2.0", b"Host: x\r\n", b"Content-Length: 5, 6\r\n"),
    *(b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: +5\r\n"),
    *(b"Content-Length: 5\r\n", b"content-length: 7\r\n", b"101", b"1", b"99"),
)
Answer = h11.Response | h11.InformationalResponse
Verdict = tuple[object, ...] | str


@pytest.fixture(autouse=True)
def without_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    open_gate: Callable[..., None] = lambda *_: None  # noqa: E731
    monkeypatch.setattr(wire_head, "check_request", open_gate)
    monkeypatch.setattr(wire_head, "_answer_head", lambda event: event)


def broken(octets: bytes, random: Random) -> bytes:
    """The octets with something odd in place of some of them, at up to three places."""
    for _ in range(random.randrange(4)):
        at = random.randrange(len(octets))
        octets = octets[:at] + random.choice(ODD) + octets[at + random.choice((0, 0, 1, 5)) :]
    return octets


def items(headers: h11._headers.Headers) -> list[tuple[bytes, bytes, bytes]]:
    pairs = zip(headers, headers.raw_items(), strict=True)
    return [(name, raw, value) for (name, value), (raw, _) in pairs]


# ---- requests ------------------------------------------------------------------------------------


def request_by_connection(octets: bytes) -> Verdict:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(octets))
    connection.receive_data(octets)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return "refused"
    if type(event) is not h11.Request:
        return "refused"
    version = event.http_version
    return event.method, event.target, version == b"1.0", items(event.headers)


def request_as_here(octets: bytes) -> Verdict:
    try:
        head = read_request(octets)
    except (HeadError, ValueError):  # a length that only the gate would refuse
        return "refused"
    return head.method, head.target, head.is_http_1_0, head.fields


@given(st.randoms(use_true_random=False))
def test_requests_are_read_as_a_connection_reads_them(random: Random) -> None:
    octets = broken(REQUEST, random)
    assert request_as_here(octets) == request_by_connection(octets), octets


# ---- answers -------------------------------------------------------------------------------------


def pieces(octets: bytes, random: Random) -> Iterator[bytes]:
    while octets:
        size = random.choice((1, 7, 40, len(octets)))
        yield octets[:size]
        octets = octets[size:]


def verdict(interim: list[Answer], answer: Answer, rest: bytes) -> Verdict:
    heads = [
        (type(each), each.status_code, each.reason, each.http_version, items(each.headers))
        for each in (*interim, answer)
    ]
    return *heads, rest


def answer_by_connection(cut: list[bytes]) -> Verdict:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "upstream")]))
    interim = []
    try:
        for at, piece in enumerate(cut):
            connection.receive_data(piece)
            while type(event := connection.next_event()) is h11.InformationalResponse:
                interim.append(event)
            if type(event) is h11.Response:
                rest = bytes(connection.trailing_data[0]) + b"".join(cut[at + 1 :])
                return verdict(interim, event, rest)
    except h11.RemoteProtocolError:
        return "refused"
    return "unfinished"


def answer_as_here(cut: list[bytes]) -> Verdict:
    reader = AnswerReader(10_000)
    try:
        for at, piece in enumerate(cut):
            event = reader.feed(piece)
            if event is not None:
                # `_answer_head` is patched away.
                interim, answer = cast(list[Answer], reader.interim), cast(Answer, event)
                return verdict(interim, answer, reader.rest + b"".join(cut[at + 1 :]))
    except HeadError:
        return "refused"
    return "unfinished"


@given(st.randoms(use_true_random=False))
def test_answers_are_read_as_a_connection_reads_them(random: Random) -> None:
    octets = broken(INTERIM * random.randrange(3) + ANSWER, random)
    cut = list(pieces(octets, random))
    here, there = answer_as_here(cut), answer_by_connection(cut)
    if here == "refused" != there:  # what is refused beyond h11
        assert not octets.startswith(b"HTTP/") or b" 101" in octets, octets
    else:
        assert here == there, octets
