"""What a row in the tables of requests is, and the words that the tables are written in.

A row says: these bytes in (`sent`), the client may see these answers and nothing else (`answers`),
the upstream may see these requests and nothing else (`upstream`).  Wherever the bytes are cut, and
whatever has passed on the connection before, it is the same.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.wire.reading import Seen

OK = "ok"  # an answer from upstream; the other words are those of the gateway's own errors
HEALTHY = "healthy"  # the gateway's own answer to /health
MALFORMED = "malformed_request"

# How the connection fares after the last answer.
KEPT, CLOSED = "kept", "closed"
# Kept only where the body came with its head; where it did not, what follows is not answered.
BY_BODY = "kept or closed"

KEY = b"key-of-user1"
SECOND_KEY = b"key-of-second"
KEY_LINE = b"X-API-Key: " + KEY
PLAIN = b"Host: gw\r\n" + KEY_LINE + b"\r\n"


class Case(NamedTuple):
    """One row; `section` is that of the RFC that decides it (`9112 6.3`) or its own reason."""

    name: str
    section: str
    sent: bytes
    answers: tuple[str, ...]
    upstream: tuple[Seen, ...] = ()
    ends: str = KEPT
    # Refused after it was begun upstream: an unfinished request there, on a connection that is
    # closed and was never answered.
    may_begin: bool = False
    is_head: bool = False  # its answers have no bodies
    hangs_up: bool = False  # the client sends its FIN, and then the last answer comes


def passes(name: str, section: str, sent: bytes, *upstream: Seen, ends: str = KEPT) -> Case:
    """Requests that are all answered from upstream."""
    return Case(name, section, sent, (OK,) * len(upstream), upstream, ends)


def refused(
    name: str, section: str, sent: bytes, word: str = MALFORMED, ends: str = CLOSED
) -> Case:
    """A request that is refused, before a byte of it has gone upstream."""
    return Case(name, section, sent, (word,), (), ends)


def broken(name: str, section: str, sent: bytes, word: str = MALFORMED) -> Case:
    """A request whose body is refused: upstream it may have begun, but it is never complete."""
    return Case(name, section, sent, (word,), (), CLOSED, may_begin=True)


def get(*lines: bytes, line: bytes = b"GET /v1/m HTTP/1.1", plain: bytes = PLAIN) -> bytes:
    """A request without a body, with further header lines behind the plain ones."""
    return b"%b\r\n%b%b\r\n" % (line, plain, b"".join(one + b"\r\n" for one in lines))


def post(body: bytes, *lines: bytes, line: bytes = b"POST /v1/c HTTP/1.1") -> bytes:
    """A request with a body of a given length."""
    return get(b"Content-Length: %d" % len(body), *lines, line=line) + body


CHUNKED = b"Transfer-Encoding: chunked"


def chunked(wire: bytes, *lines: bytes, coding: bytes = CHUNKED) -> bytes:
    """A request with a body of chunks, as they are on the wire."""
    return get(coding, *lines, line=b"POST /v1/c HTTP/1.1") + wire


def seen(line: bytes, *lines: bytes, body: bytes = b"", credential: bool = True) -> Seen:
    """What an upstream sees: method and target, the fields that pass, the body."""
    own = b"Authorization: Bearer sk-upstream\r\n" if credential else b""
    fields = b"".join(one + b"\r\n" for one in lines)
    return Seen(b"%b HTTP/1.1\r\nHost: upstream\r\n%b%b\r\n" % (line, fields, own), body)


def seen_get(*lines: bytes) -> Seen:
    """What comes of `get`."""
    return seen(b"GET /v1/m", *lines)


def seen_post(body: bytes, *lines: bytes) -> Seen:
    """What comes of `post`."""
    return seen(b"POST /v1/c", b"Content-Length: %d" % len(body), *lines, body=body)


def seen_chunked(body: bytes, *lines: bytes) -> Seen:
    """What comes of `chunked`."""
    return seen(b"POST /v1/c", *lines, CHUNKED, body=body)


# What an attacker would like to see arrive as a request of its own.
HIDDEN = b"GET /v1/hidden HTTP/1.1\r\nHost: gw\r\n" + KEY_LINE + b"\r\n\r\n"
