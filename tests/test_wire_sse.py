"""The end mark of a stream, found over the edges of chunks and in linear time."""

from __future__ import annotations

import time

import pytest

from aigw.wire.sse import ends_with_done

# what came before the last piece, the last piece, is it the end
TAILS = [
    (b"", b"10\r\ndata: [DONE]\r\n\r\n\r\n", True),
    (b"", b"data: [DONE]\n\n", True),
    (b"e\r\ndata: {}\n\n", b"data: [DONE]\n\n\r\n0\r\n\r\n", True),
    (b"9\r\n\ndata: [D", b"\r\n6\r\nONE]\n\n\r\n", True),
    (b"9\r\n\ndata: [D\r\n", b"6\r\nONE]\n\n\r\n", True),
    (b"", b"data: {}\n\n", False),
    (b"", b'data: {"text": "the mark is [DONE]"}\n\n', False),
    (b"", b'44\r\nevent: message_stop\ndata: {"type":"message_stop"}\n\n\r\n', True),
    (b"", b"", False),
]


@pytest.mark.parametrize("case", TAILS)
def test_the_end_mark(case: tuple[bytes, bytes, bool]) -> None:
    before, last, ends = case
    assert ends_with_done(before, last) is ends


def test_a_long_run_of_hex_digits_costs_no_more_than_its_tail() -> None:
    started_s = time.process_time()
    for _ in range(100):
        ends_with_done(b"", b"\r\n" + b"a" * 200_000)
    assert time.process_time() - started_s < 0.5
