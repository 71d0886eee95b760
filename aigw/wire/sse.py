"""Server-sent events as providers send them (https://html.spec.whatwg.org/#server-sent-events)."""

from __future__ import annotations

import re

# The framing between two chunks of a chunked body, in the middle of an event.
CHUNK_EDGE = re.compile(rb"\r\n[0-9A-Fa-f]{1,15}\r\n")
# The last event of a stream: OpenAI's, and Anthropic's.
END_MARK = re.compile(rb"\ndata: ?\[DONE\]|^data: ?\[DONE\]|event: ?message_stop")
# `data: [DONE]`, its blank line and the last chunk: nothing longer follows the mark.
TAIL_BYTES = 256


def ends_with_done(piece_before: bytes, last_piece: bytes) -> bool:
    """Did the two last pieces of a stream bring its end mark, be it over the edge of a chunk?"""
    tail = piece_before[-TAIL_BYTES:] + last_piece[-TAIL_BYTES:]
    return bool(END_MARK.search(tail) or END_MARK.search(CHUNK_EDGE.sub(b"", tail)))
