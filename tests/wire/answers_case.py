"""What a row of the answers' tables says.

    AnswerCase("no-reason", "RFC 9112, 4", <what is sent>, <what the client may see>, ...)

The upstream is asked for `/v1/case`, writes `sends` and ends as `ends` says.  The client may see a
`Whole` answer, a `Cut` one, or the gateway's own 502 (`REFUSED`).  Only where `reuse` is true may
(and must) the next request come on the same upstream connection.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

KEY = b"Host: gw\r\nX-API-Key: user1\r\n"


class Ask(Enum):
    """What the client asks with."""

    GET = b"GET /v1/case HTTP/1.1\r\n" + KEY + b"\r\n"
    HEAD = b"HEAD /v1/case HTTP/1.1\r\n" + KEY + b"\r\n"
    POST = b"POST /v1/case HTTP/1.1\r\n" + KEY + b"Content-Length: 5\r\n\r\nhello"
    UPLOAD = b"POST /v1/case HTTP/1.1\r\n" + KEY + b"Content-Length: 100000\r\n\r\nthe first"
    CHUNKS = b"POST /v1/case HTTP/1.1\r\n" + KEY + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst"
    OLD = b"GET /v1/case HTTP/1.0\r\n" + KEY + b"\r\n"
    OLD_KEEPING = b"GET /v1/case HTTP/1.0\r\n" + KEY + b"Connection: keep-alive\r\n\r\n"

    @property
    def method(self) -> bytes:
        return self.value.partition(b" ")[0]

    @property
    def is_old(self) -> bool:
        """Does the client speak HTTP/1.0?"""
        return self in (Ask.OLD, Ask.OLD_KEEPING)


class End(Enum):
    """How the upstream ends after what it has sent."""

    OPEN = "waits for the next request"
    FIN = "FIN"
    RST = "RST"
    NOTIFY = "TLS: close_notify, then FIN"
    TLS_EOF = "TLS: FIN without close_notify"
    TLS_RST = "TLS: RST"

    @property
    def is_tls(self) -> bool:
        return self in (End.NOTIFY, End.TLS_EOF, End.TLS_RST)


class Stray(Enum):
    """When the upstream sends `stray`, which answers nobody, and ends."""

    IDLE = "while the connection is idle"
    BETWEEN = "in the moment in which the next request comes in"


class Whole(NamedTuple):
    """One well-formed answer: its head without the gateway's own lines, and its body."""

    head: bytes
    body: bytes = b""
    interim: tuple[bytes, ...] = ()


class Cut(NamedTuple):
    """An answer that is visibly broken off: its head, and the body of which some may be seen.

    `sent` says that all of the body arrived in good order before the end, so the client gets it.
    """

    head: bytes
    body: bytes = b""
    sent: bool = False
    interim: tuple[bytes, ...] = ()


class Refused(NamedTuple):
    """The gateway's own 502; of the interim answers some may have passed before."""

    interim: tuple[bytes, ...] = ()


REFUSED = Refused()
Seen = Whole | Cut | Refused


class AnswerCase(NamedTuple):
    """See the head of the file."""

    id: str
    rfc: str
    sends: bytes
    sees: Seen
    ends: End = End.OPEN
    reuse: bool = False
    asks: Ask = Ask.GET
    stray: bytes = b""
    when: Stray | None = None
