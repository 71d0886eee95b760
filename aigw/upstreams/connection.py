"""One connection to an upstream: it reads answer heads and hands the rest on as it comes.

A connection serves one exchange at a time, its owner, and is idle in a pool in between.  It keeps
reading while idle: an end, a reset or a stray byte drops it at once, so that no answer to nobody
is ever taken for the answer to the next request.  What has come since the loop last read from it,
nobody has been told of yet, so before it serves again the kernel is asked: by `has_news`, or where
many are about to serve again by `look_at`, once for all.

On the express lane it has no owner but a `lane`, whose answers are dealt with many at a time: what
has come waits for that in `waiting`, until the end of the turn.  Whatever else happens makes an
owner of the lane, which then is told.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from aigw.upstreams.known import KnownAnswer
from aigw.wire.head import AnswerHead, AnswerReader, HeadError
from aigw.wire.template import Reading

if TYPE_CHECKING:
    from aigw.upstreams.member import Member


class Owner(Protocol):
    """The exchange that a connection serves: what it is told, in the order it can happen."""

    def upstream_writable(self, writable: bool) -> None:
        """The connection's send buffer is full, or has room again."""

    def answer_interim(self, head: AnswerHead) -> None:
        """An interim answer (1xx)."""

    def answer_started(self, head: AnswerHead, rest: bytes) -> None:
        """The answer's head, and what came with it."""

    def answer_known(
        self, known: KnownAnswer, groups: tuple[bytes, ...], data: bytes, end: int
    ) -> None:
        """`data` begins with a head, up to `end`, that a template has recognised."""

    def answer_data(self, data: bytes) -> None:
        """Bytes of the answer's body."""

    def answer_malformed(self, why: str) -> None:
        """The answer's head is one that must not pass."""

    def broke(self, error: Exception) -> None:
        """A fault of our own."""

    def upstream_ended(self) -> None:
        """The upstream ended its side in order."""

    def upstream_lost(self, why: str) -> None:
        """The connection broke."""


class Express(Protocol):
    """Who deals with plain answers, many at a time."""

    def take_answer(self, connection: UpstreamConnection, data: bytes) -> None:
        """Something has come of an answer; it is to be dealt with in this turn of the loop."""

    def answer(self, connections: Sequence[UpstreamConnection]) -> None:
        """Deal with what waits on these."""


class Lane(Protocol):
    """A plain request that a connection serves."""

    @property
    def express(self) -> Express: ...

    def whole(self) -> object:
        """Make an exchange of it, which is the owner from here on."""


class UpstreamConnection(asyncio.Protocol):
    """See the head of the file.  Fields: for the connection's life, then for one exchange."""

    __slots__ = (
        "_in_body",
        "_max_head_bytes",
        "_poll",
        "_reader",
        "_takes_known",
        "file",
        "good_until_s",
        "idle_since_s",
        "is_closed",
        "keep_alive_s",
        "known",
        "lane",
        "member",
        "outlived_s",
        "owner",
        "transport",
        "waiting",
    )

    transport: asyncio.Transport

    def __init__(self, member: Member, now_s: float):
        self.member = member
        self.outlived_s = now_s + member.pool_settings.max_age_s
        self.good_until_s = 0.0  # as an idle one; 0.0: it has never been idle
        self.idle_since_s = 0.0  # 0.0: the kernel was asked for news since then
        self.file = -1  # the descriptor; -1: it is not one of the kernel's
        self.keep_alive_s = member.pool_settings.keep_alive_s
        self.is_closed = False
        self.known: KnownAnswer | None = None  # what recognised the last answer
        self.owner: Owner | None = None
        self.lane: Lane | None = None
        self.waiting: bytes | None = None  # for the end of the turn
        self._reader: AnswerReader | None = None
        self._in_body = False
        self._takes_known = False
        self._max_head_bytes = 0

    # ---- what the owner does ----

    def begin(self, owner: Owner, max_head_bytes: int, takes_known: bool) -> None:
        """Serve one exchange; the owner writes its request to `transport`.

        `takes_known`: the owner has use for `answer_known`.
        """
        self.owner = owner
        self.lane = None
        self._in_body = False
        self._takes_known = takes_known
        self._max_head_bytes = max_head_bytes

    @property
    def is_reused(self) -> bool:
        """Has it served somebody else before?"""
        return self.good_until_s > 0.0

    @property
    def answer_began(self) -> bool:
        """Has one byte of the answer arrived?"""
        return self._in_body or self._reader is not None

    def limit_keep_alive(self, limit_s: float) -> None:
        """Honour what the upstream says of it, if that is shorter than our own."""
        if limit_s < self.keep_alive_s:
            self.keep_alive_s = limit_s

    def has_news(self) -> bool:
        """Has anything come on a good idle connection, or its end, that we were not told of yet?

        An answer that is here before its request has gone answers nobody: a late 408, the rest of
        a body that was longer than its length.  curl and Pingora look as well; what is still on
        its way nobody can see.  One system call of 0.9 µs (2026-11-24, `select.poll` on an idle
        TCP socket, best of 30), where a request takes 80.
        """
        return bool(self._poll(0))

    def leave(self) -> None:
        """The owner is done with the connection and will hear no more of it."""
        self.owner = self.lane = self.waiting = self._reader = None

    def drop(self) -> None:
        """Close at once, whatever is under way."""
        self.leave()
        self.is_closed = True
        self.transport.abort()

    # ---- what the event loop tells ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        self.file = -1 if sock is None else sock.fileno()
        self._poll = _poll_of((self,)).poll

    def data_received(self, data: bytes) -> None:
        owner = self.owner
        if owner is None:
            if self.lane is not None:
                self.lane.express.take_answer(self, data)
                return
            self.member.forget(self)
            self.drop()
            return
        try:
            if self._in_body:
                owner.answer_data(data)
            elif not (self._takes_known and self._reader is None and self._recognise(owner, data)):
                self._read_head(owner, data)
        except Exception as error:  # noqa: BLE001 - the edge of a task
            owner.broke(error)
            if self.owner is owner:
                self.drop()

    def recognise(self, data: bytes) -> tuple[KnownAnswer, Reading] | None:
        """What knows the head, if it is all here: most often what knew the last one."""
        known = self.known
        reading = known.read(data) if known is not None else None
        if known is not None and reading is not None:
            return known, reading
        hit = self.member.answers.find(data)
        if hit is not None:
            self.known = hit[0]
        return hit

    def _recognise(self, owner: Owner, data: bytes) -> bool:
        hit = self.recognise(data)
        if hit is None:
            return False
        known, (groups, end) = hit
        if end > self._max_head_bytes:
            return False
        known.hits += 1
        self._in_body = True
        owner.answer_known(known, groups, data, end)
        return True

    def _read_head(self, owner: Owner, data: bytes) -> None:
        reader = self._reader
        is_first = reader is None
        if reader is None:
            reader = self._reader = AnswerReader(self._max_head_bytes)
        try:
            head = reader.feed(data)
        except HeadError as error:
            owner.answer_malformed(str(error))
            return
        came_alone = is_first and not reader.interim
        while reader.interim and self.owner is not None:
            self.owner.answer_interim(reader.interim.pop(0))
        if head is None or self.owner is None:
            return
        self._reader = None
        self._in_body = True
        if came_alone and self._takes_known:
            raw = data[: len(data) - len(reader.rest)]
            self.member.answers.consider(head, raw, time.monotonic())
        self.owner.answer_started(head, reader.rest)

    def _served(self) -> Owner | None:
        """Who is served and hears what happens; a plain request is none any more."""
        if self.lane is not None and self.waiting is not None:
            self.lane.express.answer((self,))  # it came before what happens now
        if self.lane is not None:
            self.lane.whole()
        return self.owner

    def eof_received(self) -> bool:
        owner = self._served()
        if owner is not None:
            self._tell(owner, owner.upstream_ended)
        return False

    def _tell(self, owner: Owner, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # noqa: BLE001 - the edge of a task
            owner.broke(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        owner = self._served()
        if owner is not None:
            why = str(exc) if exc else "connection closed"
            self._tell(owner, lambda: owner.upstream_lost(why))
        else:
            self.member.forget(self)

    def pause_writing(self) -> None:
        owner = self._served()
        if owner is not None:
            owner.upstream_writable(False)

    def resume_writing(self) -> None:
        owner = self._served()
        if owner is not None:
            owner.upstream_writable(True)


def look_at(connections: Iterable[UpstreamConnection]) -> None:
    """`has_news` for idle connections that are about to serve again, in one system call: of those
    without news nobody needs to ask once more in this turn."""
    with_news = {file for file, _ in _poll_of(connections).poll(0)}
    for connection in connections:
        if connection.file not in with_news:
            connection.idle_since_s = 0.0


def _poll_of(connections: Iterable[UpstreamConnection]) -> select.poll:
    poll = select.poll()
    for connection in connections:
        if connection.file >= 0:
            poll.register(connection.file, select.POLLIN)
    return poll
