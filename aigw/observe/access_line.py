"""One line of the access log: JSON in the contract's order of fields.

Most of a line is the same for thousands of requests: who asked whom for what, with which outcome.
That part, the *subject*, is encoded once and kept by whoever meets it again.  On a busy loop the
times are the same for many as well, who were sent in one turn and answered in one.  What differs
each time is an id and two numbers, and one format puts all together.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

LINE_BYTES = 4096
"""Longest line, to a file too: Linux's PIPE_BUF, since a longer write to a pipe may be torn."""
SUBJECT_BYTES = LINE_BYTES - 512
"""The rest of a line: its names, a time, an id and six numbers of at most 25 characters."""
SHORTENED_CHARACTERS = (1024, 256, 32)
"""A subject that is too long gets its texts cut to the first of these that makes it fit; the last
always does: 10 texts of 32 characters, at most 6 bytes each in JSON, and the numbers."""

LINE = b'{"time":"%b","request_id":"%b",%b,"bytes_in":%d,"bytes_out":%d,%b'
TIMES = b'"ttfb_ms":%b,"duration_ms":%b,"overhead_us":%d,"stream":%b}\n'
# Three digits each: looking them up is cheaper than a format.
THOUSANDTHS = [b"%03d" % number for number in range(1000)]


class Subject(msgspec.Struct, gc=False):
    """What many requests have in common.  None: there is none (JSON null).

    Texts hold no lone surrogates, which JSON cannot carry: what comes from clients is ASCII.
    """

    key: str | None = None  # its name
    user: str | None = None
    app: str | None = None
    client_ip: str = ""
    method: str = ""
    path: str = ""  # without the query
    status: int = 0
    error: str | None = None  # a word of `errors.Code`
    route: str | None = None
    upstream: str | None = None
    member: str | None = None
    attempts: int = 0


# The microseconds for the whole, to the first byte (negative: none came) and in the gateway, and
# whether it was a stream.
Times = tuple[int, int, int, bool]
# A request's id, the text of its subject, bytes in and out.
Told = tuple[bytes, bytes, int, int]

_encode = msgspec.json.Encoder().encode


def subject_text(subject: Subject) -> bytes:
    """The subject's part of a line, at most `SUBJECT_BYTES`."""
    text = _encode(subject)[1:-1]
    for characters in SHORTENED_CHARACTERS:
        if len(text) <= SUBJECT_BYTES:
            break
        text = _encode(_shortened(subject, characters))[1:-1]
    return text


def _shortened(subject: Subject, characters: int) -> Subject:
    """A copy whose texts have at most that many characters, the last an ellipsis where cut."""
    texts = {
        name: value[: characters - 1] + "…"
        for name in subject.__struct_fields__
        if isinstance(value := getattr(subject, name), str) and len(value) > characters
    }
    return msgspec.structs.replace(subject, **texts)


class Clock:
    """Time stamps as the access log has them; a second's text is made once."""

    def __init__(self) -> None:
        self._second_ms = 0
        self._text = b"1970-01-01T00:00:00"

    def stamp(self, now_ms: int) -> bytes:
        """RFC 3339 in UTC of a Unix time in milliseconds."""
        ms = now_ms - self._second_ms
        if not 0 <= ms < 1000:
            second, ms = divmod(now_ms, 1000)
            self._second_ms = now_ms - ms
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%b.%bZ" % (self._text, THOUSANDTHS[ms])


def lines_of(stamp: bytes, times: Times, requests: Iterable[Told]) -> list[bytes]:
    """The finished lines of requests that have their times in common, each at most `LINE_BYTES`
    with its newline."""
    duration_us, ttfb_us, overhead_us, is_stream = times
    ttfb_ms = b"null" if ttfb_us < 0 else milliseconds(ttfb_us)
    stream = b"true" if is_stream else b"false"
    end = TIMES % (ttfb_ms, milliseconds(duration_us), overhead_us, stream)
    return [
        LINE % (stamp, request_id, subject, bytes_in, bytes_out, end)
        for request_id, subject, bytes_in, bytes_out in requests
    ]


def milliseconds(microseconds: int) -> bytes:
    return b"%d.%b" % (microseconds // 1000, THOUSANDTHS[microseconds % 1000])
