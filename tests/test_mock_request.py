"""The mock's reader: whole, byte by byte and at random cuts, the same requests."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw.mock.request import MAX_BODY_BYTES, MAX_HEAD_BYTES, Request, RequestError, RequestReader

GET = b"GET /v1/models?limit=2 HTTP/1.1\r\nHost: a\r\nX-Two:  b \r\nx-two: c\r\n\r\n"
POST = b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"POST /v1/files HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;x=y\r\n\r\nworl\r\n0\r\nTrailer: t\r\n\r\n"
)
STREAM = GET + POST + CHUNKED + CHUNKED.replace(b"Trailer: t\r\n", b"") + POST + GET
BODIES = [b"", b"hello world", b"hello\r\nworl", b"hello\r\nworl", b"hello world", b""]


def read(*pieces: bytes) -> list[Request]:
    reader = RequestReader()
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (request := reader.next()) is not None:
            found.append(request)
    assert reader.empty
    return found


def test_requests_in_one_piece() -> None:
    requests = read(STREAM)
    assert [bytes(r.body) for r in requests] == BODIES
    first = requests[0]
    assert (first.method, first.target, first.path) == (
        b"GET",
        b"/v1/models?limit=2",
        b"/v1/models",
    )
    assert first.headers() == [(b"Host", b"a"), (b"X-Two", b"b"), (b"x-two", b"c")]
    assert first.header(b"x-two") == b"b"
    assert first.header(b"x-three") is None


def test_byte_by_byte() -> None:
    requests = read(*(STREAM[i : i + 1] for i in range(len(STREAM))))
    assert [bytes(r.body) for r in requests] == BODIES


@given(st.lists(st.integers(0, len(STREAM)), max_size=12).map(sorted))
def test_any_cuts(cuts: list[int]) -> None:
    edges = [0, *cuts, len(STREAM)]
    requests = read(*(STREAM[a:b] for a, b in pairwise(edges)))
    assert [bytes(r.body) for r in requests] == BODIES


@pytest.mark.parametrize(
    "head, closes",
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", False),
    ],
)
def test_who_closes(head: bytes, closes: bool) -> None:
    assert read(head)[0].closes is closes


def test_a_body_is_asked_for_once() -> None:
    reader = RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert reader.next() is None
    assert reader.wants_continue
    assert not reader.wants_continue
    reader.feed(b"ok")
    request = reader.next()
    assert request is not None and request.body == b"ok"


@pytest.mark.parametrize(
    "wrong",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"a" * (MAX_HEAD_BYTES + 1),
    ],
)
def test_what_is_no_request(wrong: bytes) -> None:
    reader = RequestReader()
    reader.feed(wrong)
    with pytest.raises(RequestError):
        reader.next()
