"""A strict reader of what a client got: no other code reads it, and it mends nothing.

It takes all octets of a connection and how it ended, and says what stands there: interim heads, a
head, a body, and whether the answer is whole, cut or still to come.  Whatever the grammar of
RFC 9112 does not allow a gateway to send is `Malformed`: also what is merely outdated, folding or a
chunk extension, since somebody may read it in another way.
"""

from __future__ import annotations

import re
from typing import NamedTuple

OPEN, FIN, RST = "open", "fin", "rst"

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t \x21-\x7e\x80-\xff]*")
FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?"
    rb"((?:[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)"
)
SIZE_LINE = re.compile(rb"[0-9A-Fa-f]{1,16}")
HOP_BY_HOP = {
    *(b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"upgrade"),
    b"proxy-authentication-info",
}
BODILESS = (b"204", b"304")


class Malformed(Exception):  # noqa: N818  what it says of the octets
    """No gateway may send this."""


class Head(NamedTuple):
    status: bytes
    octets: bytes  # without the blank line
    fields: dict[bytes, list[bytes]]

    def the(self, name: bytes) -> bytes | None:
        """The value of a field that must not be repeated."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise Malformed(f"{name.decode()} is repeated")
        return values[0] if values else None


class Read(NamedTuple):
    """What stands at the beginning of the octets; `size` of them belong to this answer."""

    state: str  # "whole", "cut" or "open"
    head: Head | None = None
    body: bytes = b""
    interim: tuple[bytes, ...] = ()
    size: int = 0

    @property
    def ends_connection(self) -> bool:
        return self.head is not None and self.head.the(b"connection") == b"close"


def read_answer(octets: bytes, end: str, method: bytes, to_old_client: bool) -> Read:
    """Raises `Malformed`."""
    unfinished = "open" if end == OPEN else "cut"
    interim: tuple[bytes, ...] = ()
    at = 0
    while True:
        size = octets.find(b"\r\n\r\n", at)
        if size < 0:
            return Read(unfinished, interim=interim)
        head = _head(octets[at:size])
        at = size + 4
        if not head.status.startswith(b"1"):
            break
        if to_old_client or {b"content-length", b"transfer-encoding"} & head.fields.keys():
            raise Malformed("an interim answer that may not be here")
        interim += (head.octets,)
    body, size, state = _body(head, octets, at, end, method, to_old_client)
    if state == "last chunk":
        if end != OPEN:
            # Many clients take it for the end, whatever becomes of the lines behind it.
            raise Malformed("a last chunk whose trailers do not end")
        state = ""
    return Read(state or unfinished, head, body, interim, size)


def _head(octets: bytes) -> Head:
    first, *lines = octets.split(b"\r\n")
    status = STATUS_LINE.fullmatch(first)
    if status is None:
        raise Malformed(f"status line {first!r}")
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        name, value = _field(line)
        fields.setdefault(name, []).append(value)
    if HOP_BY_HOP & fields.keys():
        raise Malformed(f"hop-by-hop fields in {octets!r}")
    return Head(status[1], octets, fields)


def _field(line: bytes) -> tuple[bytes, bytes]:
    field = FIELD.fullmatch(line)
    if field is None:
        raise Malformed(f"field line {line!r}")
    return field[1].lower(), field[2]


def _body(
    head: Head, octets: bytes, at: int, end: str, method: bytes, to_old_client: bool
) -> tuple[bytes, int, str]:
    """The body, where the answer ends, and "whole" or nothing (more should come)."""
    length, coding = head.the(b"content-length"), head.the(b"transfer-encoding")
    if head.the(b"connection") not in (None, b"close", b"keep-alive"):
        raise Malformed("Connection names more than it may")
    if length is not None and (coding is not None or not length.isdigit()):
        raise Malformed("Content-Length is malformed or one of two framings")
    if coding is not None and (coding != b"chunked" or to_old_client):
        raise Malformed("a transfer coding that the client cannot know")
    if head.status == b"204" and (length is not None or coding is not None):
        raise Malformed("a framing field in a 204")
    if method == b"HEAD" or head.status in BODILESS:
        return b"", at, "whole"
    if coding is not None:
        return _chunks(octets, at)
    if length is not None:
        body = octets[at : at + int(length)]
        return body, at + len(body), "whole" if len(body) == int(length) else ""
    if not to_old_client:
        raise Malformed("only the end of the connection ends this answer")
    return octets[at:], len(octets), "whole" if end == FIN else ""


def _chunks(octets: bytes, at: int) -> tuple[bytes, int, str]:
    body = b""
    while True:
        line, at = _line(octets, at)
        if line is None:
            return body, at, ""
        if not SIZE_LINE.fullmatch(line):
            raise Malformed(f"chunk size {line!r}")
        size = int(line, 16)
        if size == 0:
            return body, *_trailers(octets, at)
        chunk = octets[at : at + size]
        body += chunk
        at += size
        closing = octets[at : at + 2]
        if len(chunk) < size or len(closing) < 2:
            return body, at, ""
        if closing != b"\r\n":
            raise Malformed("a chunk is longer than its size")
        at += 2


def _trailers(octets: bytes, at: int) -> tuple[int, str]:
    is_all_there = False
    while not is_all_there:
        line, at = _line(octets, at)
        if line is None:
            return at, "last chunk"
        is_all_there = not line
        if line and _field(line)[0] in (b"content-length", b"transfer-encoding", b"connection"):
            raise Malformed("a trailer that would change the framing")
    return at, "whole"


def _line(octets: bytes, at: int) -> tuple[bytes | None, int]:
    end = octets.find(b"\r\n", at)
    return (None, at) if end < 0 else (octets[at:end], end + 2)
