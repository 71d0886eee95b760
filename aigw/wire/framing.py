"""Where a body ends, found while it passes.

A reader takes the bytes that arrive and returns the bytes that go on, at once; it holds nothing
but an unfinished size line.  `done` says that the message has ended, `surplus` holds what came
after it.  All readers share one face (`feed`, `finish`), so that the proxy splices without
asking how a body is framed:

    LengthReader    counts; the bytes pass as they are
    ChunkReader     walks the chunks under strict rules; passes them raw, unchunked, or framed anew
    CloseReader     ends with the connection; passes raw, or chunked for those who need an end

h11 would decode chunks too, at 6 µs a chunk and with control characters and bare CR allowed in
extensions; the walk here costs 0.4 µs a chunk and is held against h11 by a property test: it
accepts nothing that h11 refuses, and what both accept, both read alike.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

# A size line: hexadecimal digits, an extension without control characters (RFC 9112, 7.1.1).
# 15 digits stay below 2**60.  Trailing blanks are what some servers pad with.
SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*|[ \t]*)\r\n")
BARE_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
SIZE_LINE_START = re.compile(rb"[0-9A-Fa-f]{1,15}(?:;[\t\x20-\x7e\x80-\xff]*|[ \t]*)\r?")
TRAILER_LINE = re.compile(rb"([-!#$%&'*+.^_`|~0-9a-zA-Z]+:[\t\x20-\x7e\x80-\xff]*)?\r\n")
TRAILER_LINE_START = re.compile(rb"([-!#$%&'*+.^_`|~0-9a-zA-Z]+(:[\t\x20-\x7e\x80-\xff]*)?)?\r?")
# Whoever merges trailers into the head would find another framing there (RFC 9110, 6.5.1).
FRAMING_TRAILER = re.compile(rb"(?:content-length|transfer-encoding|connection):", re.IGNORECASE)

# Nobody sends long extensions; Go allows 4 KiB a line, nginx none that matter.
MAX_LINE_BYTES = 4096
# All extensions of a body together: so much, and as much again as its payload.  Else a body within
# `limits.body_bytes` could be thousands of times as long on the wire (CVE-2023-39326 in Go).
MAX_EXTENSION_BYTES = 16384
# Trailers are rare and small; h11 bounds them like a head.
MAX_TRAILER_BYTES = 16384
# Chunks walked in one turn of the loop: 1,024 at 0.4 µs keep it busy for less than half a
# millisecond, and a read of 256 KiB holds no more unless its chunks are tiny on purpose.
MAX_CHUNKS_A_TURN = 1024


class FramingError(Exception):
    """A body that breaks its framing; the text says how."""


class BodyReader(Protocol):
    """One body on its way.  Where `more` is true after `feed`, the next turn owes a `feed(b"")`."""

    done: bool
    more: bool
    surplus: bytes
    payload_bytes: int

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, return what goes on.  Raises `FramingError`."""

    def finish(self) -> bytes:
        """The sender's side has ended: return the last bytes to pass on, or raise."""


class LengthReader:
    """A body of a known length, zero included."""

    __slots__ = ("done", "more", "payload_bytes", "remaining", "surplus")

    def __init__(self, length: int):
        self.remaining = length
        self.done = length == 0
        self.more = False
        self.surplus = b""
        self.payload_bytes = 0

    def feed(self, data: bytes) -> bytes:
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            self.payload_bytes += size
            return data
        self.done = True
        if size > self.remaining:
            self.surplus += data[self.remaining :]
            data = data[: self.remaining]
        self.payload_bytes += self.remaining
        self.remaining = 0
        return data

    def finish(self) -> bytes:
        raise FramingError(f"ended {self.remaining} bytes early")


class CloseReader:
    """A body that the end of the connection ends; `chunked` frames it for the next hop."""

    __slots__ = ("chunked", "done", "more", "payload_bytes", "surplus")

    def __init__(self, chunked: bool):
        self.chunked = chunked
        self.done = False
        self.more = False
        self.surplus = b""
        self.payload_bytes = 0

    def feed(self, data: bytes) -> bytes:
        self.payload_bytes += len(data)
        if self.chunked and data:
            return b"%x\r\n%b\r\n" % (len(data), data)
        return data

    def finish(self) -> bytes:
        self.done = True
        return LAST_CHUNK if self.chunked else b""


LAST_CHUNK = b"0\r\n\r\n"

# How a ChunkReader passes its body on.
RAW = "raw"  # the chunks as they came, but without extensions
UNCHUNKED = "unchunked"  # the payload alone
REFRAMED = "reframed"  # one new chunk a feed, no extensions, no trailers


class ChunkReader:
    """A chunked body (RFC 9112, 7.1).

    The walk is over whole reads; `_in_chunk` carries over how many bytes of a chunk's payload and
    of the CRLF behind it are still to come.

    In `RAW` two things do not pass as they came.  Extensions, and the blanks that some servers pad
    a size with, are for this hop only, and some clients stumble over them.  The last chunk waits
    for the end of its trailers: many clients take it for the end, and would find an answer whole
    that was cut there, or whose trailers are refused.
    """

    __slots__ = (
        "_closing",
        "_extension_bytes",
        "_held",
        "_in_chunk",
        "_in_trailer",
        "_is_between",
        "_last_at",
        "_trailer_bytes",
        "done",
        "mode",
        "more",
        "payload_bytes",
        "surplus",
    )

    def __init__(self, mode: str):
        self.mode = mode
        self.done = False
        self.more = False
        self.surplus = b""
        self.payload_bytes = 0
        self._held = b""  # an unfinished line, or what the next turn will walk
        self._in_chunk = 0  # payload bytes to come, plus 2 for their CRLF
        self._in_trailer = False
        self._is_between = mode is RAW  # a chunk begins with the next read, which passes raw
        self._trailer_bytes = 0
        self._extension_bytes = 0
        self._closing = b""  # the last chunk and its trailers, as far as they have come
        self._last_at = 0  # where they begin, or go on, in the data at hand

    def feed(self, data: bytes) -> bytes:
        if self._is_between:
            # Most reads of a stream are one whole chunk.  Half the price of the walk, which would
            # find the same.
            line = BARE_SIZE_LINE.match(data)
            if line is not None:
                length = int(line[1], 16)
                if length and line.end() + length + 2 == len(data) and data.endswith(b"\r\n"):
                    self.payload_bytes += length
                    return data
        if self._held:
            data = self._held + data
            self._held = b""
        self.more = False
        pieces: list[bytes] = []
        skips: list[tuple[int, int]] = []
        end = self._walk(data, pieces, skips)
        if self.done:
            self.surplus = data[end:]
        else:
            self._held = data[end:]
        if self.mode is RAW:
            self._is_between = not (self._in_chunk or self._held or self._in_trailer or self.more)
            return self._passing(data, end, skips)
        payload = b"".join(pieces)
        if self.mode is UNCHUNKED:
            return payload
        framed = b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""
        return framed + LAST_CHUNK if self.done else framed

    def finish(self) -> bytes:
        raise FramingError("ended before its last chunk")

    def _passing(self, data: bytes, end: int, skips: list[tuple[int, int]]) -> bytes:
        """What goes on raw of the data walked up to `end`."""
        if not self._in_trailer:
            return _without(data, 0, end, skips)
        self._closing += _without(data, self._last_at, end, skips)
        passing = _without(data, 0, self._last_at, skips)
        self._last_at = 0
        return passing + self._closing if self.done else passing

    def _walk(self, data: bytes, pieces: list[bytes], skips: list[tuple[int, int]]) -> int:
        """Walk as far as the data reaches and return how far that is.

        `pieces` gets the payload, `skips` the extensions: where they begin and end.
        """
        at = 0
        size = len(data)
        for _ in range(MAX_CHUNKS_A_TURN):
            if self._in_chunk:
                at = self._payload(data, at, pieces)
                if self._in_chunk:
                    return at
            if self._in_trailer:
                return self._trailers(data, at)
            if at == size:
                return at
            line = SIZE_LINE.match(data, at)
            if line is None:
                _check_partial(SIZE_LINE_START, data, at)
                return at
            if line.end() - at > MAX_LINE_BYTES:
                raise FramingError("a chunk size line is too long")
            if line.end() - line.end(1) > 2:
                self._skip(line.end(1), line.end() - 2, skips)
            length = int(line.group(1), 16)
            if length:
                self._in_chunk = length + 2
            else:
                self._in_trailer = True
                self._last_at = at
            at = line.end()
        self.more = True
        return at

    def _skip(self, start: int, end: int, skips: list[tuple[int, int]]) -> None:
        """Leave an extension out."""
        skips.append((start, end))
        self._extension_bytes += end - start
        if self._extension_bytes > MAX_EXTENSION_BYTES + self.payload_bytes:
            raise FramingError("the chunks' extensions are too long")

    def _payload(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Pass payload and its CRLF; `_in_chunk` is 0 afterwards if the chunk is complete."""
        available = len(data) - at
        payload = self._in_chunk - 2
        if payload > 0:
            taken = min(payload, available)
            if self.mode is not RAW:
                pieces.append(data[at : at + taken])
            self.payload_bytes += taken
            self._in_chunk -= taken
            at += taken
        closing = data[at : at + self._in_chunk]
        if closing != b"\r\n"[2 - self._in_chunk :][: len(closing)]:
            raise FramingError("a chunk is longer than its size")
        self._in_chunk -= len(closing)
        return at + len(closing)

    def _trailers(self, data: bytes, at: int) -> int:
        while at < len(data):
            line = TRAILER_LINE.match(data, at)
            if line is None:
                _check_partial(TRAILER_LINE_START, data, at)
                return at
            self._trailer_bytes += line.end() - at
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                raise FramingError("the trailers are too long")
            if FRAMING_TRAILER.match(data, at):
                raise FramingError("a trailer says how the message is framed")
            at = line.end()
            if line.group(1) is None:
                self.done = True
                return at
        return at


def _without(data: bytes, start: int, end: int, skips: list[tuple[int, int]]) -> bytes:
    """The data from `start` to `end`, but for what is to be skipped of it."""
    pieces: list[bytes] = []
    for skip_start, skip_end in skips:
        if start <= skip_start < end:
            pieces.append(data[start:skip_start])
            start = skip_end
    if not pieces:
        return data[start:end]
    return b"".join([*pieces, data[start:end]])


def _check_partial(start: re.Pattern[bytes], data: bytes, at: int) -> None:
    """An unfinished line must be the beginning of a legal one, and not too long already."""
    found = start.match(data, at)
    if found is None or found.end() < len(data):
        what = "size" if start is SIZE_LINE_START else "trailer"
        raise FramingError(f"a chunk {what} is malformed")
    if len(data) - at > MAX_LINE_BYTES:
        raise FramingError("a line of the chunked framing is too long")


class AnswerPlan(NamedTuple):
    """How an answer's body passes to a client, and what its head must say of it."""

    reader: BodyReader
    framing_line: bytes  # the Transfer-Encoding field, or nothing
    drops_length: bool  # the answer's own Content-Length must not pass
    ends_by_close: bool  # the client finds the end by the end of the connection


CHUNKED_LINE = b"Transfer-Encoding: chunked\r\n"


def plan_answer(
    method: bytes, status: int, body_length: int | None, client_is_1_0: bool
) -> AnswerPlan:
    """RFC 9112, 6.3.  `body_length` is -1 for chunked, None where the connection's end ends it."""
    if status == 204:
        return AnswerPlan(LengthReader(0), b"", True, False)
    if method == b"HEAD" or status == 304:
        chunked = body_length == -1 and not client_is_1_0
        return AnswerPlan(LengthReader(0), CHUNKED_LINE if chunked else b"", False, False)
    if body_length is None:
        if client_is_1_0:
            return AnswerPlan(CloseReader(chunked=False), b"", False, True)
        return AnswerPlan(CloseReader(chunked=True), CHUNKED_LINE, False, False)
    if body_length >= 0:
        return AnswerPlan(LengthReader(body_length), b"", False, False)
    if client_is_1_0:
        return AnswerPlan(ChunkReader(UNCHUNKED), b"", False, True)
    return AnswerPlan(ChunkReader(RAW), CHUNKED_LINE, False, False)
