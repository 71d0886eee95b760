"""What a message says by the letter of RFC 9112, read without h11 and without anything of aigw.

`read_strictly` takes nothing on trust and mends nothing: a head that it accepts is written in the
only way in which every parser reads the same.  It decides nothing else: whether CONNECT is served
is none of its business.  Fuzzers hold against it what the gateway accepts, and what it writes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
VALUE = rb"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?|"
FIELD = re.compile(rb"(%b):[ \t]*(%b)[ \t]*\r\n" % (TOKEN, VALUE))
REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/(1\.[01])\r\n" % TOKEN)
STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-5][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*)\r\n")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
TRAILER = re.compile(rb"%b:[\t\x20-\x7e\x80-\xff]*\r\n" % TOKEN)

# What two servers could tell apart by a second field, or take from one with an underscore.
SINGLE = {
    *(b"host", b"content-length", b"transfer-encoding", b"authorization", b"x-api-key"),
    *(b"x-goog-api-key", b"api-key", b"expect", b"x-user-id", b"x-app-id", b"origin"),
}


class Ambiguous(Exception):  # noqa: N818 - a verdict, not an error
    """The message could be read in two ways; the text says by what."""


class Head(NamedTuple):
    """A head by the letter; `start` has the three parts of its first line."""

    start: tuple[bytes, bytes, bytes]
    fields: list[tuple[bytes, bytes]]  # names as they are spelt
    size: int

    def values(self, name: bytes) -> list[bytes]:
        return [value for raw, value in self.fields if raw.lower() == name]


class Message(NamedTuple):
    """A whole message: its body as it is meant, and how many bytes it took."""

    head: Head
    body: bytes
    size: int


def read_head(data: bytes, start_line: re.Pattern[bytes]) -> Head:
    """The head at the beginning of `data`.  Raises `Ambiguous`."""
    start = start_line.match(data)
    if start is None:
        raise Ambiguous(f"first line: {data[:80]!r}")
    at = start.end()
    fields = []
    while not data.startswith(b"\r\n", at):
        field = FIELD.match(data, at)
        if field is None:
            raise Ambiguous(f"field: {data[at : at + 80]!r}")
        fields.append((field[1], field[2]))
        at = field.end()
    parts = start.groups()
    return Head((parts[0], parts[1], parts[2]), fields, at + 2)


def body_length(head: Head, version: bytes) -> int | None:
    """The announced length, -1 for chunked, None where there is none.  Raises `Ambiguous`."""
    names = [raw.lower().replace(b"_", b"-") for raw, _ in head.fields]
    for name in SINGLE:
        if names.count(name) > 1:
            raise Ambiguous(f"{name!r} is repeated")
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    if codings:
        if lengths or version == b"1.0" or codings[0].lower() != b"chunked":
            raise Ambiguous(f"Transfer-Encoding: {codings[0]!r}, Content-Length: {lengths!r}")
        return -1
    if not lengths:
        return None
    if not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise Ambiguous(f"Content-Length: {lengths[0]!r}")
    return int(lengths[0])


def read_chunks(data: bytes, at: int) -> tuple[bytes, int]:
    """The payload of the chunked body at `at`, and where it ends.

    Raises `Ambiguous`, and EOFError where more is needed.
    """
    payload = b""
    while True:
        line = CHUNK.match(data, at)
        if line is None:
            raise (EOFError if b"\n" not in data[at:] else Ambiguous)(f"size: {data[at:][:40]!r}")
        at = line.end()
        size = int(line[1], 16)
        if not size:
            break
        if len(data) < at + size + 2:
            raise EOFError("chunk")
        if data[at + size : at + size + 2] != b"\r\n":
            raise Ambiguous("a chunk longer than its size")
        payload += data[at : at + size]
        at += size + 2
    while not data.startswith(b"\r\n", at):
        trailer = TRAILER.match(data, at)
        if trailer is None:
            raise (EOFError if b"\n" not in data[at:] else Ambiguous)(f"trailer: {data[at:]!r}")
        if trailer[0].lower().startswith((b"content-length:", b"transfer-encoding:")):
            raise Ambiguous(f"trailer: {trailer[0]!r}")
        at = trailer.end()
    return payload, at + 2


def read_request(data: bytes) -> Message:
    """The request at the beginning of `data`.  Raises `Ambiguous`, and EOFError for half of one."""
    if b"\r\n\r\n" not in data:
        raise EOFError("head")
    head = read_head(data, REQUEST_LINE)
    version = head.start[2]
    if not head.values(b"host") and version == b"1.1":
        raise Ambiguous("no Host")
    length = body_length(head, version) or 0
    if length < 0:
        body, end = read_chunks(data, head.size)
        return Message(head, body, end)
    end = head.size + length
    if len(data) < end:
        raise EOFError("body")
    return Message(head, data[head.size : end], end)


def read_requests(data: bytes) -> tuple[list[Message], bool]:
    """All whole requests in a row, and whether what follows them can be read no further.

    Half a request is where the reading stops, and nothing is wrong with it; nor is with empty
    lines before a request (RFC 9112, 2.2).
    """
    found: list[Message] = []
    while data:
        while data.startswith(b"\r\n"):
            data = data[2:]
        try:
            message = read_request(data)
        except EOFError:
            return found, False
        except Ambiguous:
            return found, True
        found.append(message)
        data = data[message.size :]
    return found, False
