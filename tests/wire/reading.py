"""Readers of the bytes that an upstream has received, which share no code with the gateway.

`read_strictly` accepts what RFC 9112 lets a client send and nothing beside it: one spelling of
each thing.  `LENIENT` are readers with the habits of real servers: what they forgive, and whom they
believe where a message says two things.  A stream of requests has one meaning if all of them find
its requests to end at the same places.
"""

from __future__ import annotations

import re
from typing import NamedTuple

REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (/[\x21-\x7e]*|\*) HTTP/1\.1")
# No control characters but tabs, no blanks at the edges of a value.
FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): "
    rb"([\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
)
SIZE = re.compile(rb"[0-9a-f]{1,8}")
BLANK_LINE = b"\r\n\r\n"


class Seen(NamedTuple):
    """One request as an upstream sees it: the head's bytes, and the body without its framing."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        """Method and target."""
        return self.head[: self.head.index(b" HTTP/")]


class MisreadError(Exception):
    """Bytes that the strict reader does not accept; the text says why."""


def read_strictly(data: bytes, at: int = 0) -> tuple[Seen, int] | None:
    """The request at `at` and where it ends; None if it is not complete.  Raises `MisreadError`."""
    end = data.find(BLANK_LINE, at)
    if end < 0:
        return None
    line, *fields = data[at:end].split(b"\r\n")
    if not REQUEST_LINE.fullmatch(line):
        raise MisreadError(f"request line {line!r}")
    known: dict[bytes, list[bytes]] = {}
    for field in fields:
        found = FIELD.fullmatch(field)
        if found is None:
            raise MisreadError(f"field {field!r}")
        known.setdefault(found[1].lower(), []).append(found[2] or b"")
    if len(known.get(b"host", [])) != 1:
        raise MisreadError("not one Host")
    head = data[at : end + 4]
    framing = known.get(b"content-length", []) + known.get(b"transfer-encoding", [])
    if not framing:
        return Seen(head, b""), end + 4
    if len(framing) != 1:
        raise MisreadError(f"framed by {framing}")
    if b"transfer-encoding" in known:
        if framing != [b"chunked"]:
            raise MisreadError(f"coded by {framing}")
        return _chunks(head, data, end + 4)
    if not re.fullmatch(rb"[0-9]{1,18}", framing[0]):
        raise MisreadError(f"length {framing}")
    after = end + 4 + int(framing[0])
    return None if after > len(data) else (Seen(head, data[end + 4 : after]), after)


def _chunks(head: bytes, data: bytes, at: int) -> tuple[Seen, int] | None:
    """Chunks without extensions and trailers: the gateway frames bodies anew."""
    body = b""
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        if not SIZE.fullmatch(data[at:end]):
            raise MisreadError(f"chunk size {data[at:end]!r}")
        size, at = int(data[at:end], 16), end + 2
        if len(data) < at + size + 2:
            return None
        if data[at + size : at + size + 2] != b"\r\n":
            raise MisreadError("no line end behind a chunk")
        body += data[at : at + size]
        at += size + 2
        if not size:
            return Seen(head, body), at


def ends_of(data: bytes) -> list[int]:
    """Where the strict reader finds each complete request to end."""
    ends: list[int] = []
    while (read := read_strictly(data, ends[-1] if ends else 0)) is not None:
        ends.append(read[1])
    return ends


class Habits(NamedTuple):
    """How a lenient reader differs from the strict one, or from its like."""

    line_end: bytes = rb"\r?\n"
    nul_ends_value: bool = False  # what stands behind a NUL is not read
    folds: bool = True  # a line that begins with a blank belongs to the one before it
    odd_is_dash: bool = False  # in names whatever is no letter or digit is a dash (CGI)
    trims_names: bool = True
    takes_last: bool = False  # of a field that is there twice
    length: bytes = rb"[ \t]*\+?([0-9]+)"  # what it reads of a length, the rest ignored
    coding: bytes = rb".*chunked"  # which Transfer-Encoding it takes for chunked
    length_beats_coding: bool = False


# Habits for which each kind of server has been known; none of them is right in all.
LENIENT = {
    "forgiving event server": Habits(nul_ends_value=True),
    "lenient script server": Habits(line_end=rb"(?>\r\n|\n|\r)", takes_last=True),
    "gateway interface": Habits(odd_is_dash=True, length_beats_coding=True),
    "gateway interface, last wins": Habits(odd_is_dash=True, takes_last=True),
    "old proxy": Habits(length_beats_coding=True, folds=False, coding=rb"\W*chunked\W*$"),
    "number by its prefix": Habits(length=rb"\s*((?:0x[0-9a-f]+)|[0-9]+)", takes_last=True),
    "exact coding": Habits(coding=rb"chunked$", trims_names=False),
}


def lenient_ends(data: bytes, habits: Habits) -> list[int]:
    """Where a lenient reader finds each complete request to end; it refuses nothing."""
    ends: list[int] = []
    blank = re.compile(rb"(?:%b){2}" % (rb"(?:" + habits.line_end + rb")"))
    at = 0
    while (found := blank.search(data, at)) is not None:
        end = _lenient_end(data, at, found, habits)
        if end is None:
            break
        ends.append(end)
        at = end
    return ends


def _lenient_end(data: bytes, at: int, blank: re.Match[bytes], habits: Habits) -> int | None:
    known = _lenient_fields(data[at : blank.start()], habits)
    length, coding = known.get(b"content-length"), known.get(b"transfer-encoding")
    is_chunked = coding is not None and re.match(habits.coding, coding, re.IGNORECASE)
    if is_chunked and not (length is not None and habits.length_beats_coding):
        return _lenient_chunks(data, blank.end())
    found = re.match(habits.length, length, re.IGNORECASE) if length is not None else None
    if found is None:
        return blank.end()
    digits = found[1].lower()
    end = blank.end() + int(digits, 16 if digits.startswith(b"0x") else 10)
    return end if end <= len(data) else None


def _lenient_fields(head: bytes, habits: Habits) -> dict[bytes, bytes]:
    known: dict[bytes, bytes] = {}
    if habits.folds:
        head = re.sub(rb"\r?\n[ \t]+", b" ", head)
    for line in re.split(habits.line_end, head)[1:]:
        name, _, value = line.partition(b":")
        name = name.strip().lower() if habits.trims_names else name.lower()
        if habits.odd_is_dash:
            name = re.sub(rb"[^a-z0-9]", b"-", name)
        if habits.nul_ends_value:
            value = value.split(b"\0")[0]
        if habits.takes_last or name not in known:
            known[name] = value.strip()
    return known


def _lenient_chunks(data: bytes, at: int) -> int | None:
    line = re.compile(rb"\s*(?:0x)?([0-9a-f]+)[^\n]*\n", re.IGNORECASE)
    while (found := line.match(data, at)) is not None:
        size, at = int(found[1], 16), found.end()
        if not size:
            trailer = re.compile(rb"(?:[^\r\n]+\r?\n)*\r?\n").match(data, at)
            return trailer.end() if trailer is not None else None
        behind = re.compile(rb"\r?\n?").match(data, at + size)
        at = behind.end() if behind is not None else len(data) + 1
    return None
