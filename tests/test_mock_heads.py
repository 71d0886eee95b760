"""The three styles of answer heads: what repeats in them, and what does not."""

from __future__ import annotations

import h11
import pytest

from aigw.mock.answers import answer_for
from aigw.mock.heads import STYLES
from aigw.mock.request import RequestError, RequestReader
from aigw.mock.shape import MockSettings, shape_of

DATE = b"Mon, 23 Nov 2026 00:00:00 GMT"


def heads(user: str, numbers: range) -> list[list[tuple[str, str]]]:
    """The heads of that many answers to a request whose body has that `user`."""
    body = b'{"model":"m","messages":[],"user":"%b"}' % user.encode()
    reader = RequestReader()
    reader.feed(
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    request = reader.next()
    assert request is not None
    answer = answer_for(shape_of(request, MockSettings()))
    found = []
    for number in numbers:
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="POST", target="/", headers=[("host", "a")]))
        connection.receive_data(answer.head_format % answer.values(DATE, number) + answer.whole)
        head = connection.next_event()
        assert isinstance(head, h11.Response)
        found.append([(name.decode(), value.decode()) for name, value in head.headers])
        assert isinstance(connection.next_event(), h11.Data)
        assert isinstance(connection.next_event(), h11.EndOfMessage)
    return found


def varying(found: list[list[tuple[str, str]]]) -> list[str]:
    columns = zip(*found, strict=True)
    return [column[0][0] for column in columns if len({value for _, value in column}) > 1]


def test_a_providers_head() -> None:
    found = heads("x-mock-heads=provider", range(1000, 1020))
    assert {len(head) for head in found} == {25}
    assert varying(found) == [
        "openai-processing-ms",
        "x-envoy-upstream-service-time",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
        "x-request-id",
        "set-cookie",
        "cf-ray",
    ]


def test_plain_and_hostile() -> None:
    assert varying(heads("", range(9))) == ["x-request-id"]
    found = heads("x-mock-heads=hostile", range(9))
    assert len({name for head in found for name, _ in head if name.startswith("x-never-")}) == 9


def test_every_style_has_its_values() -> None:
    for style in STYLES:
        assert len(heads(f"x-mock-heads={style}", range(1))) == 1
    with pytest.raises(RequestError):
        heads("x-mock-heads=other", range(1))
