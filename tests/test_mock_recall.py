"""The fast path answers what the slow path would, or nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aigw.mock.answers import Answer, answer_for
from aigw.mock.recall import KEPT_REQUESTS, Recall
from aigw.mock.request import RequestReader
from aigw.mock.shape import MockSettings, shape_of

BODY = b'{"model": "gpt", "messages": []}'
OTHER = b'{"model": "GPT", "messages": []}'
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
SETTINGS = MockSettings()


def raw(body: bytes, *headers: bytes, line: bytes = LINE) -> bytes:
    lines = (b"Host: a", *headers, b"Content-Length: %d" % len(body))
    return line + b"\r\n".join(lines) + b"\r\n\r\n" + body


def slowly(data: bytes, recall: Recall | None = None) -> Answer:
    reader = RequestReader()
    reader.feed(data)
    request = reader.next()
    assert request is not None
    answer = answer_for(shape_of(request, SETTINGS))
    if recall is not None:
        recall.keep(request, answer)
    return answer


def taught() -> Recall:
    recall = Recall()
    slowly(raw(BODY), recall)
    return recall


def test_the_same_request_under_other_ids() -> None:
    found = taught().find(raw(BODY, b"X-Request-Id: 77", b"Authorization: Bearer x"))
    assert found == slowly(raw(BODY))


HEADERS = [
    b"x-mock-status: 429",
    b"X-Mock-Chunks: 3",
    b"Connection: close",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"X-Other: 1",
    b"Content-Length: 5",
]
LINES = [LINE, LINE.replace(b"/v1", b"/V1"), LINE.replace(b"1.1", b"1.0"), LINE.lower()]


@given(
    st.sampled_from(LINES),
    st.lists(st.sampled_from(HEADERS), max_size=2, unique=True),
    st.sampled_from([BODY, OTHER, BODY + b" "]),
    st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n", b"x"]),
    st.integers(0, 3),
)
def test_never_another_answer(
    line: bytes, headers: list[bytes], body: bytes, after: bytes, missing: int
) -> None:
    data = raw(body, *headers, line=line) + after
    data = data[: len(data) - missing]
    found = taught().find(data)
    if found is None:
        return
    assert found == slowly(raw(BODY))
    assert data == raw(BODY, *headers)
    assert set(headers) <= {b"X-Other: 1"}


def test_what_a_header_decided_is_not_kept() -> None:
    recall = Recall()
    slowly(raw(BODY, b"x-mock-status: 500"), recall)
    assert recall.find(raw(BODY)) is None


def test_the_store_is_bounded() -> None:
    recall = taught()
    for i in range(KEPT_REQUESTS):
        slowly(raw(BODY + b" " * (i + 1)), recall)
    assert recall.find(raw(BODY)) is None
    assert recall.find(raw(BODY + b" " * KEPT_REQUESTS)) is not None
