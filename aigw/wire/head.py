"""Heads: h11 behind two functions, and what the gateway keeps of its verdict.

`read_request` takes one complete head, up to and with its blank line, and returns a `RequestHead`
or raises `HeadError`.  `AnswerReader` takes an upstream's bytes as they come and returns an
`AnswerHead` once it is complete.  Both pass every head through the gate (`gate.py`): h11 decides
what the bytes say, the gate decides whether anybody else could read them differently.

A head is kept as triples (lower-case name, name as sent, value), in order, so that it can be
written again with its spelling.

**Not by `h11.Connection`.**  It follows a whole conversation: after each head it asks five times
what the fields say of framing and of keeping alive, which the gate asks anyway, and it reads an
interim answer only after a request that it has sent.  Its two functions that read heads take
nothing but a buffer: without the rest a request's head costs 16 % less, an answer's 11 %
(`python -m bench.micro parse-request parse-answer`).  They are not part of h11's documented
interface, so its version is bound in `pyproject.toml`, and `tests/test_wire_head.py` holds what is
read here against `h11.Connection`.
"""

from __future__ import annotations

import h11
from h11._readers import maybe_read_from_IDLE_client as _read_request
from h11._readers import maybe_read_from_SEND_RESPONSE_server as _read_answer
from h11._receivebuffer import ReceiveBuffer

from aigw.wire.gate import (
    Answered,
    Asked,
    HeadError,
    check_answer,
    check_request,
    comma_list,
)

__all__ = ["AnswerHead", "AnswerReader", "Field", "HeadError", "RequestHead", "read_request"]

Field = tuple[bytes, bytes, bytes]
Known = dict[bytes, bytes]  # the last value of each field, by lower-case name

# An upstream may send some interim answers (103 Early Hints, 102 Processing) before the real one;
# a flood of them is an attack.  Go's client allows 5, curl's limit is on their total size.
MAX_INTERIM_ANSWERS = 16


class RequestHead:
    """What a request's head says.  `body_length` is -1 for a chunked body."""

    __slots__ = (
        "body_length",
        "connection_options",
        "expects_continue",
        "fields",
        "is_http_1_0",
        "keep_alive",
        "known",
        "method",
        "target",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        is_http_1_0: bool,
        fields: list[Field],
        known: Known,
    ):
        self.method = method
        self.target = target
        self.is_http_1_0 = is_http_1_0
        self.fields = fields
        # The gate has refused repetitions of those that matter.
        self.known = known
        self.connection_options = comma_list(_values(fields, known, b"connection"))
        self.keep_alive = _keep_alive(self.connection_options, is_http_1_0)
        self.body_length = _body_length(known)
        self.expects_continue = (
            not is_http_1_0 and known.get(b"expect", b"").lower() == b"100-continue"
        )

    @property
    def is_chunked(self) -> bool:
        return self.body_length < 0

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field of that lower-case name, in order."""
        return _values(self.fields, self.known, name)


class AnswerHead:
    """What an upstream's answer head says.

    `body_length` is -1 for a chunked body and None where the end of the connection ends it.
    """

    __slots__ = (
        "body_length",
        "connection_options",
        "fields",
        "is_stream",
        "keep_alive",
        "known",
        "leaves_connection_clean",
        "reason",
        "status",
    )

    def __init__(
        self,
        status: int,
        reason: bytes,
        is_http_1_0: bool,
        fields: list[Field],
        known: Known,
    ):
        self.status = status
        self.reason = reason
        self.fields = fields
        self.known = known
        self.connection_options = comma_list(_values(fields, known, b"connection"))
        self.keep_alive = _keep_alive(self.connection_options, is_http_1_0)
        framed = b"transfer-encoding" in known or b"content-length" in known
        self.body_length = _body_length(known) if framed else None
        # What must not have a body, but announces one, may be followed by it (RFC 9112, 6.3).
        announces_nothing = status not in (204, 304) or not self.body_length
        self.leaves_connection_clean = self.keep_alive and announces_nothing
        content_type = known.get(b"content-type", b"")
        self.is_stream = content_type.lower().startswith(b"text/event-stream")


def _keep_alive(options: frozenset[bytes], is_http_1_0: bool) -> bool:
    """RFC 9112, 9.3."""
    if b"close" in options:
        return False
    return not is_http_1_0 or b"keep-alive" in options


def _body_length(known: dict[bytes, bytes]) -> int:
    """RFC 9112, 6.3, for a head in which the gate has found at most one kind of framing."""
    if b"transfer-encoding" in known:
        return -1
    return int(known.get(b"content-length", b"0"))


def _values(fields: list[Field], known: Known, name: bytes) -> list[bytes]:
    """The values of every field of that name, in order."""
    if name not in known:
        return []
    if len(known) == len(fields):  # no name is repeated
        return [known[name]]
    return [value for lower, _, value in fields if lower == name]


def _fields_of(headers: h11._headers.Headers) -> tuple[list[Field], Known]:
    """What h11 read, as it keeps it; its own walks over it make a call for each field."""
    items = headers._full_items
    fields = [(name, raw, value) for raw, name, value in items]
    return fields, {name: value for _, name, value in items}


def _unquoted(error: h11.ProtocolError) -> str:
    """What h11 says, without the bytes that it quotes: they may hold a secret."""
    return str(error).partition(": b")[0]


def read_request(head: bytes) -> RequestHead:
    """Read one complete request head, its blank line included.

    Raises `HeadError` for whatever h11 or the gate refuses.
    """
    buffer = ReceiveBuffer()
    buffer += head
    try:
        event = _read_request(buffer)
    except h11.ProtocolError as error:
        raise HeadError(_unquoted(error)) from None
    if event is None:
        raise HeadError("incomplete request head")
    method, target, version = event.method, event.target, event.http_version
    fields, known = _fields_of(event.headers)
    check_request(Asked(head, method, target, version, fields, known))
    return RequestHead(method, target, version == b"1.0", fields, known)


ANSWER_START = b"HTTP/"


def _answer_head(event: h11.Response | h11.InformationalResponse) -> AnswerHead:
    """Raises `HeadError` where the gate refuses it."""
    fields, known = _fields_of(event.headers)
    status, version, reason = event.status_code, event.http_version, event.reason
    check_answer(Answered(status, version, reason, fields, known))
    return AnswerHead(status, reason, version == b"1.0", fields, known)


class AnswerReader:
    """Reads the head of one answer, over as many reads as it takes.

    `feed` returns an `AnswerHead` and leaves what followed it in `rest`, or returns None where
    more is needed.  Interim answers (1xx) are collected in `interim`, from where they may be taken;
    all of them and the head together never exceed `max_bytes`.
    """

    __slots__ = (
        "_buffer",
        "_interim_answers",
        "_max_bytes",
        "_seen_bytes",
        "_start",
        "interim",
        "rest",
    )

    def __init__(self, max_bytes: int):
        self._buffer = ReceiveBuffer()
        self._max_bytes = max_bytes
        self._seen_bytes = 0
        self._start = b""
        self._interim_answers = 0
        self.interim: list[AnswerHead] = []
        self.rest = b""

    def feed(self, data: bytes) -> AnswerHead | None:
        """Raises `HeadError` where the answer must not be passed on."""
        if len(self._start) < len(ANSWER_START):
            self._check_start(data)
        self._buffer += data
        self._seen_bytes += len(data)
        while True:
            event = self._next_event()
            if event is None:
                if self._seen_bytes > self._max_bytes:
                    raise HeadError("the head exceeds limits.upstream_head_bytes")
                return None
            if type(event) is h11.InformationalResponse:
                self._keep_interim(event)
                continue
            head = _answer_head(event)
            self._take_rest(data)
            return head

    def _check_start(self, data: bytes) -> None:
        """Whoever does not begin like an answer is not waited for, as h11 would wait: what speaks
        another protocol may never send an empty line."""
        self._start += data[: len(ANSWER_START) - len(self._start)]
        if not ANSWER_START.startswith(self._start):
            raise HeadError("it does not begin like an answer")

    def _next_event(self) -> h11.Response | h11.InformationalResponse | None:
        try:
            return _read_answer(self._buffer)
        except h11.ProtocolError as error:
            raise HeadError(_unquoted(error)) from None

    def _keep_interim(self, event: h11.InformationalResponse) -> None:
        if event.status_code == 101:
            raise HeadError("101 without an upgrade")
        self._interim_answers += 1
        if self._interim_answers > MAX_INTERIM_ANSWERS:
            raise HeadError("too many interim answers")
        self.interim.append(_answer_head(event))

    def _take_rest(self, data: bytes) -> None:
        """What followed the head: bytes of `data` only, since each read is parsed at once."""
        self.rest = bytes(self._buffer)
        if len(self.rest) > len(data):
            raise HeadError("unparsed bytes before the head's end")
        if self._seen_bytes - len(self.rest) > self._max_bytes:
            raise HeadError("the head exceeds limits.upstream_head_bytes")
