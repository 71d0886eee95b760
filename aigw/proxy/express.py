"""The express lane: a plain request, from its recognised head to its record, straight down.

Most requests are plain: the head recognised and the body there with it, one key and it is good,
room in its limits, a warm connection to a member that is in; then the answer's head recognised and
its body there with it.  For these the story of `exchange.py` spends most of its time on asking what
is settled.  Here nothing is made for a request but the bytes that are sent: each client has one
`Lane`, used again and again, on which only that is noted which differs; what is the same each time
hangs on the template (`Terms`), on the member's template of answers, or stands ready from the last
request (`Outcome`).

`send` does what `Exchange.begin_known` to `_send` do, `answer_known` what `Exchange.answer_known`
to `finish` do, with the same tables.  Whatever is not plain they leave to the story: `send` says no
before it has changed anything, and `whole` turns what has been sent into an exchange that takes
over.  The story stays the authority: every conversation of the tests runs with and without this
lane.
"""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING

from aigw.policy.limits import standing_lines, standing_of
from aigw.proxy import accounting
from aigw.proxy.accounting import Outcome
from aigw.proxy.exchange import Exchange
from aigw.proxy.phase import Phase
from aigw.wire.framing import LengthReader
from aigw.wire.template import NO_GROUP

if TYPE_CHECKING:
    from aigw.memory import Bucket
    from aigw.proxy.client import ClientConnection
    from aigw.proxy.known import KnownRequest, Terms
    from aigw.upstreams.connection import UpstreamConnection
    from aigw.upstreams.known import KnownAnswer
    from aigw.upstreams.member import Member
    from aigw.wire.head import AnswerHead

# A longer body is joined to its head without a copy of its own first: from here on that is cheaper.
JOIN_BYTES = 4096


class Lane:
    """One client's plain requests, one at a time: `connection` is set while one is under way.

    It is the owner of that connection, like an exchange, and hears the same.
    """

    __slots__ = (
        "_outcome",
        "_told",
        "_told_level",
        "_told_lines",
        "body_bytes",
        "client",
        "connection",
        "data",
        "groups",
        "known",
        "level",
        "member",
        "overhead_s",
        "services",
        "started_s",
        "terms",
        "tightest",
        "version",
    )

    # Set by `send`, and meaningful while a request is under way.
    connection: UpstreamConnection | None
    member: Member
    terms: Terms
    groups: tuple[bytes, ...]
    data: bytes  # the request, where it may have to be sent once more
    body_bytes: int
    tightest: Bucket | None
    level: float  # of the tightest bucket, after this request
    started_s: float
    overhead_s: float

    def __init__(self, client: ClientConnection, known: KnownRequest):
        self.client = client
        self.services = client.services
        self.connection = None
        self._outcome: Outcome | None = None
        self._told: Bucket | None = None  # where the key stood when it was told last
        self._told_level = 0.0
        self._told_lines = b""
        self.overhead_s = 0.0
        self.follow(known)

    def follow(self, known: KnownRequest) -> None:
        """Expect requests of this shape, while the policy stays."""
        self.known = known
        self.version = self.services.policy_version

    def send(self, data: bytes) -> bool:
        """Send a plain request on; False, and nothing done, where it is not plain."""
        started_s = time.monotonic()
        services, known = self.services, self.known
        if services.newest_version[0] != self.version or services.retired:
            return False
        reading = known.read(data)
        if reading is None:
            return False
        groups, end = reading
        policy = services.policy
        body_bytes = int(groups[known.length]) if known.length != NO_GROUP else 0
        if len(data) - end != body_bytes or body_bytes > policy.body_bytes:
            return False
        if end > policy.head_bytes:
            return False
        terms = known.terms_of(sha256(groups[known.credential]).digest(), policy)
        if terms is None or terms.expires_at <= started_s + services.wall_offset_s:
            return False
        group = known.group
        member = group.only or group.choose(started_s, services.is_member_out)
        connection = member.take_idle(started_s) if member is not None else None
        if member is None or connection is None:
            return False
        limits = services.limits
        if limits.admit(terms.claim, started_s) is not None:
            member.idle.append(connection)
            return False
        group.next_turn()
        self.started_s, self.groups, self.terms = started_s, groups, terms
        self.body_bytes = body_bytes
        self.tightest, self.level = limits.tightest(terms.claim), limits.buckets.level
        may_repeat = known.facts.is_replayable and body_bytes <= policy.inspect_bytes
        self.data = data if may_repeat else b""
        self.member, self.connection = member, connection
        member.inflight += 1
        accounting.sent_plainly(services)
        self.client.await_answer(known.route.first_byte_s)
        connection.begin(self, policy.upstream_head_bytes, True)
        out = known.head_for(member, groups, group.credential_lines())
        if body_bytes < JOIN_BYTES:
            out += data[end:]
        else:
            out = b"".join((out, memoryview(data)[end:]))
        self.overhead_s = time.monotonic() - started_s
        connection.transport.write(out)  # last, since it may fill the buffer and so call `whole`
        return True

    def answer_known(
        self, known: KnownAnswer, groups: tuple[bytes, ...], data: bytes, end: int
    ) -> None:
        """Hand on a plain answer and finish."""
        first_byte_s = time.monotonic()
        client, services, connection = self.client, self.services, self.connection
        assert connection is not None
        body_bytes = len(data) - end
        if (
            known.length == NO_GROUP
            or int(groups[known.length]) != body_bytes
            or not client.may_stay(self.known.facts.head)
        ):
            self.whole().answer_known(known, groups, data, end)
            return
        self.connection = None  # nothing is under way any more, whatever happens below
        request_id = services.new_request_id()
        lines = b"x-aigw-request-id: %b\r\n%b" % (request_id, self._own_lines())
        out = known.format % (*groups, lines)
        if body_bytes < JOIN_BYTES:
            out += data[end:]
        else:
            out = b"".join((out, memoryview(data)[end:]))
        client.transport.write(out)
        connection.limit_keep_alive(known.keep_alive_s)
        member = self.member
        member.give_idle(connection, first_byte_s)
        member.inflight -= 1
        services.limits.give_back(self.terms.claim)
        outcome = self._outcome_of(known.head.status)
        accounting.answered_plainly(
            self, outcome, request_id, body_bytes, first_byte_s, known.head.is_stream
        )
        client.answered(self.known.route.idle_s)

    def _own_lines(self) -> bytes:
        """Where the key stands, in lines that are kept while it stands there."""
        tightest, level = self.tightest, self.level
        if level != self._told_level or tightest is not self._told:
            self._told, self._told_level = tightest, level
            self._told_lines = b""
            if tightest is not None:
                self._told_lines = standing_lines(b"x-aigw-", standing_of(tightest, level))
        return self._told_lines

    def _outcome_of(self, status: int) -> Outcome:
        """That of the last request, if this one is told from it by its numbers alone."""
        known, groups, outcome = self.known, self.groups, self._outcome
        user = groups[known.user] if known.user != NO_GROUP else None
        app = groups[known.app] if known.app != NO_GROUP else None
        if (
            outcome is None
            or outcome.terms is not self.terms
            or outcome.member is not self.member
            or outcome.status != status
            or outcome.user != user
            or outcome.app != app
        ):
            outcome = self._outcome = Outcome(self, status, user, app)
        return outcome

    # ---- what is not plain -----------------------------------------------------------------------

    def whole(self) -> Exchange:
        """The request under way as an exchange, which takes over from here."""
        connection, known, groups = self.connection, self.known, self.groups
        assert connection is not None
        exchange = Exchange(self.services, self.client, self.started_s)
        exchange.request, exchange.known, exchange.groups = known.facts, known, groups
        exchange.key, exchange.claim, exchange.group = self.terms.key, self.terms.claim, known.group
        if self.tightest is not None:
            exchange.standing = standing_of(self.tightest, self.level)
        exchange.user = groups[known.user] if known.user != NO_GROUP else None
        exchange.app = groups[known.app] if known.app != NO_GROUP else None
        exchange.body = LengthReader(0)
        exchange.body.payload_bytes = self.body_bytes
        exchange.replay = [self.data[len(self.data) - self.body_bytes :]] if self.data else None
        exchange.phase = Phase.AWAITING
        exchange.attempts = 1
        exchange.connection, exchange.member = connection, self.member
        exchange.overhead_s = self.overhead_s
        connection.owner = exchange
        self.connection = None
        self.client.exchange = exchange
        return exchange

    def upstream_writable(self, writable: bool) -> None:
        self.whole().upstream_writable(writable)

    def answer_interim(self, head: AnswerHead) -> None:
        self.whole().answer_interim(head)

    def answer_started(self, head: AnswerHead, rest: bytes) -> None:
        self.whole().answer_started(head, rest)

    def answer_data(self, data: bytes) -> None:
        self.whole().answer_data(data)

    def answer_malformed(self, why: str) -> None:
        self.whole().answer_malformed(why)

    def upstream_ended(self) -> None:
        self.whole().upstream_ended()

    def upstream_lost(self, why: str) -> None:
        self.whole().upstream_lost(why)

    def broke(self, error: Exception) -> None:
        self.client.broke(error)
