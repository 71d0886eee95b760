"""Answers of upstreams that are malformed, false, cut, or more than was asked for: the tables.

The rows stand in `tests/wire/answers_*.py`; `tests/wire/answers_stage.py` plays each of them whole,
cut at random and byte by byte, with heads parsed and recognised, and must see the same each time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wire import answers_bodies as bodies
from tests.wire.answers_case import AnswerCase, Cut, End
from tests.wire.answers_reader import FIN, OPEN, RST, Malformed, read_answer
from tests.wire.answers_stage import Theatre
from tests.wire.answers_tables import CASES


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    theatre = Theatre()
    yield theatre
    theatre.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_answers(case: AnswerCase, theatre: Theatre) -> None:
    assert theatre.wrongs(case) == []


def test_no_two_rows_have_one_name() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


def test_chunks_cut_at_every_place_are_seen_cut(theatre: Theatre) -> None:
    for at in range(len(bodies.CHUNKED_BODY)):
        start = bodies.OK + bodies.CODED
        sends = start + bodies.END + bodies.CHUNKED_BODY[:at]
        case = AnswerCase(f"at-{at}", "", sends, Cut(start, b"hello world"), ends=End.FIN)
        assert theatre.wrongs(case) == []


def test_plain_rows_take_the_express_lane(theatre: Theatre) -> None:
    """Else the variants that should be recognised would show nothing."""
    (plain,) = [case for case in CASES if case.id == "status-plain"]
    before = theatre.express_requests
    assert theatre.wrongs(plain) == []
    assert theatre.express_requests >= before + 3


OK = b"HTTP/1.1 200 OK\r\n"
MALFORMED = {
    "a bare LF": OK + b"X: a\nY: b\r\n\r\n",
    "folding": OK + b"X: a\r\n b\r\n\r\n",
    "a blank before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "length and coding": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "no framing": OK + b"\r\nhello",
    "a length in a 204": b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
    "a hop-by-hop field": OK + b"Keep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n",
    "an extension": OK + b"Transfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\n\r\n",
    "a chunk too long": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
    "no end behind the last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_the_reader_is_strict(name: str) -> None:
    with pytest.raises(Malformed):
        read_answer(MALFORMED[name], FIN, b"GET", to_old_client=False)


@pytest.mark.parametrize(
    ("octets", "end", "state"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", OPEN, "whole"),
        (OK + b"Content-Length: 5\r\n\r\nhell", OPEN, "open"),
        (OK + b"Content-Length: 5\r\n\r\nhell", FIN, "cut"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", RST, "cut"),
        (OK + b"\r\nhello", FIN, "whole"),
        (OK + b"\r\nhello", RST, "cut"),
        (OK[:9], FIN, "cut"),
    ],
)
def test_the_reader_sees_what_is_whole(octets: bytes, end: str, state: str) -> None:
    to_old_client = b"\r\n\r\n" in octets and b":" not in octets
    assert read_answer(octets, end, b"GET", to_old_client).state == state
