"""One line of the access log: JSON in the contract's order of fields.

Most of a line is the same for thousands of requests: who asked whom for what, with which outcome.
That part, the *subject*, is encoded once and kept by whoever meets it again; what differs each time
is a handful of numbers, and one format puts both together.  A line costs 1.0 µs so, where a record
with all fields and msgspec's encoder cost 2.3 (`python -m timeit`, 2026-11-23, CPython 3.11).
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

LINE = (
    b'{"time":"%b","request_id":"%b",%b,"bytes_in":%d,"bytes_out":%d,"ttfb_ms":%b,'
    b'"duration_ms":%.3f,"overhead_us":%d,"stream":%b}\n'
)


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


# When it began (Unix time), its id, the text of its subject, bytes in and out, seconds to the first
# byte (negative: none came), for the whole and in the gateway, and whether it was a stream.
Entry = tuple[float, bytes, bytes, int, int, float, float, float, bool]

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
        self._second = 0
        self._text = b"1970-01-01T00:00:00"

    def text(self, now_s: float) -> bytes:
        """RFC 3339, milliseconds, UTC, of a time in seconds since 1970."""
        second, ms = divmod(int(now_s * 1000), 1000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%b.%03dZ" % (self._text, ms)


def lines_of(entries: Iterable[Entry], clock: Clock) -> list[bytes]:
    """The finished lines, each at most `LINE_BYTES` with its newline."""
    return [
        LINE
        % (
            clock.text(began_at),
            request_id,
            subject,
            bytes_in,
            bytes_out,
            b"%.3f" % (ttfb_s * 1e3) if ttfb_s >= 0 else b"null",
            duration_s * 1e3,
            overhead_s * 1e6,
            b"true" if is_stream else b"false",
        )
        for (
            began_at,
            request_id,
            subject,
            bytes_in,
            bytes_out,
            ttfb_s,
            duration_s,
            overhead_s,
            is_stream,
        ) in entries
    ]
