"""Server-sent events as providers send them (https://html.spec.whatwg.org/#server-sent-events)."""

from __future__ import annotations

import re

# The framing between two chunks of a chunked body, in the middle of an event.
CHUNK_EDGE = re.compile(rb"\r\n[0-9A-Fa-f]{1,15}\r\n")
# `data: [DONE]`, its blank line and the last chunk: nothing longer follows the mark.
TAIL_BYTES = 256


def ends_with_done(piece_before: bytes, last_piece: bytes) -> bool:
    """Did the two last pieces of a stream bring `[DONE]`, be it over the edge of a chunk?"""
    tail = piece_before[-TAIL_BYTES:] + last_piece[-TAIL_BYTES:]
    return b"[DONE]" in tail or b"[DONE]" in CHUNK_EDGE.sub(b"", tail)
