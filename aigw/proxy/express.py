"""The express lane: a plain request, from its recognised head to its record, straight down.

Most requests are plain: the head recognised and the body there with it, one key and it is good,
room in its limits, a warm connection to a member that is in; then the answer's head recognised and
its body there with it.  For these the story of `exchange.py` spends most of its time on asking what
is settled.  Here nothing is made for a request but the bytes that are sent: each client has one
`Lane`, used again and again, on which only that is noted which differs; what is the same each time
hangs on the template (`Terms`), on the member's template of answers, or stands ready from the last
request (`Outcome`); what is counted and logged is left to the `Ledger`.

`send` does what `Exchange.begin_known` to `_send` do, `answer_known` what `Exchange.answer_known`
to `finish` do, with the same tables.  Refusals that anybody can cause at any rate, for an unknown
key and for a key's rate, are written here too.  Clients that send head and body apart are waited
for, if the body is short: many SDKs do, and one write upstream is half the work of two.

Whatever is not plain is left to the story: `send` says no before it has changed anything, and
`whole` turns what has been sent into an exchange that takes over.  The story stays the authority:
every conversation of the tests runs with and without this lane.
"""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING

from aigw.errors import Code
from aigw.policy.client_address import client_ip
from aigw.policy.limits import standing_lines, standing_of
from aigw.proxy.admission import AUTHENTICATION_MESSAGES
from aigw.proxy.exchange import Exchange
from aigw.proxy.ledger import Outcome
from aigw.proxy.phase import Phase
from aigw.proxy.refusal import ReadyRefusal, Refusal, rate_limit_octets
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

# More than this is joined to its head without a copy of its own first: that is 0.1 µs dearer for
# 4,000 octets and half as dear for 16,000.
JOIN_BYTES = 8192
# A body that is waited for: what SDKs send in their second write, or second and third.
HELD_BYTES = 64 * 1024
RATE_LIMIT_EXCEEDED = Code.RATE_LIMIT_EXCEEDED
UNKNOWN_KEY = ReadyRefusal(
    Refusal(Code.INVALID_API_KEY, AUTHENTICATION_MESSAGES[Code.INVALID_API_KEY])
)


def joined(head: bytes, data: bytes, end: int) -> bytes:
    """The head, and what of `data` comes after `end`: one write where both are there."""
    if len(data) < JOIN_BYTES:
        return head + data[end:]
    return b"".join((head, memoryview(data)[end:]))


class Lane:
    """One client's plain requests, one at a time: `connection` is set while one is under way.

    It is the owner of that connection, like an exchange, and hears the same.
    """

    __slots__ = (
        "_held",
        "_held_since_s",
        "_outcome",
        "_told",
        "_told_level",
        "_told_lines",
        "body_bytes",
        "client",
        "client_ip",
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
        self.data = b""
        self.groups = ()
        self.overhead_s = 0.0
        self._held = b""
        self._held_since_s = 0.0
        self._outcome: Outcome | None = None
        self._told: Bucket | None = None  # where the key stood when it was told last
        self._told_level = 0.0
        self._told_lines = b""
        self.follow(known)

    def follow(self, known: KnownRequest) -> None:
        """Expect requests of this shape, while the policy stays."""
        self.known = known
        self.version = self.services.policy_version
        self.client_ip = self.client.peer_ip or "unix"  # but see `_find_client`

    # ---- the request -----------------------------------------------------------------------------

    def send(self, data: bytes, may_hold: bool = True) -> bool:
        """Deal with a plain request: it is sent on, refused, or held until its body is here.

        False, and nothing done, where it is not plain.
        """
        now_s = time.monotonic()
        services, known = self.services, self.known
        if services.newest_version[0] != self.version or services.refusing:
            return False
        reading = known.read(data)
        if reading is None:
            return False
        known.hits += 1
        groups, end = reading
        body_bytes = int(groups[known.length]) if known.length != NO_GROUP else 0
        if end > known.max_head_bytes or body_bytes > known.max_body_bytes:
            return False
        missing_bytes = body_bytes - (len(data) - end)
        if missing_bytes and (missing_bytes < 0 or not may_hold or body_bytes > HELD_BYTES):
            return False
        if services.trusted.any:
            self._find_client(groups)
        digest = sha256(groups[known.credential]).digest()
        terms = known.terms_of(digest)
        if terms is None or terms.expires_at <= now_s + services.wall_offset_s:
            if missing_bytes or terms is not None or known.knows_key(digest):
                return False
            return self._refuse_key(now_s, body_bytes)
        if missing_bytes:
            return self._hold(data, now_s)
        group = known.group
        member = group.only or group.choose(now_s, services.is_member_out)
        connection = member.take_idle(now_s) if member is not None else None
        if member is None or connection is None:
            return False
        limits = services.limits
        code = limits.admit(terms.claim, now_s)
        if code is not None:
            member.idle.append(connection)
            if code is not RATE_LIMIT_EXCEEDED:
                return False
            return self._refuse_rate(terms, groups, now_s, body_bytes)
        if group.only is None:
            group.next_turn()
        self.groups, self.terms, self.body_bytes = groups, terms, body_bytes
        self.tightest, self.level = limits.tightest(terms.claim), limits.buckets.level
        self.data = data if body_bytes <= known.max_repeated_bytes else b""
        self.member, self.connection = member, connection
        self.started_s, self._held_since_s = self._held_since_s or now_s, 0.0
        member.inflight += 1
        words = services.metrics.words  # `began`, `admitted` and a good key, at once
        words[services.in_flight] += 1
        words[services.express] += 1
        self.client.await_answer(known.route.first_byte_s)
        connection.begin(self, services.policy.upstream_head_bytes, True)
        out = joined(known.head_for(member, groups, group.credential_lines()), data, end)
        self.overhead_s = time.monotonic() - now_s
        connection.transport.write(out)  # last, since it may fill the buffer and so call `whole`
        return True

    def _find_client(self, groups: tuple[bytes, ...]) -> None:
        """Behind a trusted proxy each request says whose it is."""
        known, services = self.known, self.services
        forwarded = [groups[known.forwarded]] if known.forwarded != NO_GROUP else []
        found = client_ip(self.client.peer_ip, forwarded, services.trusted) or "unix"
        if found != self.client_ip:
            self.client_ip, self._outcome = found, None

    def _hold(self, data: bytes, now_s: float) -> bool:
        """Wait for the rest of a short body, until the next sweep at the latest."""
        self._held = data
        self._held_since_s = self._held_since_s or now_s
        self.client.hold()
        return True

    def resume(self, data: bytes, may_hold: bool) -> bytes:
        """Go on with what was held and has come since: returns what is left to the story."""
        data, self._held = self._held + data, b""
        return b"" if self.send(data, may_hold) else data

    def end_hold(self) -> float:
        """When the request began that is now left to the story; 0.0 for one that was not held."""
        since_s, self._held_since_s = self._held_since_s, 0.0
        return since_s

    # ---- refusals --------------------------------------------------------------------------------

    def _refuse_key(self, now_s: float, body_bytes: int) -> bool:
        """The key is nobody's."""
        services, metrics, code = self.services, self.services.metrics, UNKNOWN_KEY.code
        if services.draining:
            return False
        metrics.words[metrics.counter("auth_failures_total", code.word)] += 1
        request_id = services.new_request_id()
        self.client.transport.write(UNKNOWN_KEY.octets(request_id, services.date_line))
        outcome = self._outcome_of(None, None, code, ())
        self._end_refused(outcome, request_id, now_s, body_bytes, UNKNOWN_KEY.body_bytes)
        return True

    def _refuse_rate(
        self, terms: Terms, groups: tuple[bytes, ...], now_s: float, body_bytes: int
    ) -> bool:
        """A bucket of the key is empty: `Limits.admit` has just said which."""
        services, table = self.services, self.services.limits.buckets
        bucket = table.tightest
        if services.draining or bucket is None:
            return False
        # With a fresh clock: see `Exchange._take`.
        wait_s = table.wait_s(bucket, time.monotonic())
        if wait_s <= 0.0:
            return False
        metrics, word = services.metrics, RATE_LIMIT_EXCEEDED.word
        metrics.words[services.auth_success] += 1
        metrics.words[metrics.counter("rate_limited_total", terms.key.name, word)] += 1
        request_id = services.new_request_id()
        lines = standing_lines(b"x-", standing_of(bucket, table.level))
        octets, bytes_out = rate_limit_octets(wait_s, lines, request_id, services.date_line)
        self.client.transport.write(octets)
        outcome = self._outcome_of(terms, None, RATE_LIMIT_EXCEEDED, groups)
        self._end_refused(outcome, request_id, now_s, body_bytes, bytes_out)
        return True

    def _end_refused(
        self, outcome: Outcome, request_id: bytes, now_s: float, bytes_in: int, bytes_out: int
    ) -> None:
        started_s, self._held_since_s = self._held_since_s or now_s, 0.0
        ended_s = time.monotonic()
        self.services.ledger.note(
            (outcome, request_id, started_s, 0.0, ended_s, ended_s - now_s, bytes_in, bytes_out)
        )
        self.client.answered(self.known.route.idle_s)

    # ---- the answer ------------------------------------------------------------------------------

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
            or services.draining
            or services.retired
            or not client.awaits_answer
        ):
            self.whole().answer_known(known, groups, data, end)
            return
        member, claim, asked = self.member, self.terms.claim, self.groups
        self.connection = None  # nothing is under way any more, whatever happens below
        self.data, self.groups = b"", ()
        member.inflight -= 1
        services.limits.give_back(claim)
        services.metrics.words[services.in_flight] -= 1
        request_id = services.new_request_id()
        lines = b"x-aigw-request-id: %b\r\n%b" % (request_id, self._own_lines())
        client.transport.write(joined(known.format % (*groups, lines), data, end))
        connection.limit_keep_alive(known.keep_alive_s)
        member.give_idle(connection, first_byte_s)
        outcome = self._outcome_of(self.terms, member, known, asked)
        client.answered(self.known.route.idle_s)
        ended_s = time.monotonic()
        own_s = self.overhead_s + ended_s - first_byte_s
        sizes = self.body_bytes, body_bytes
        services.ledger.note(
            (outcome, request_id, self.started_s, first_byte_s, ended_s, own_s, *sizes)
        )

    def _own_lines(self) -> bytes:
        """Where the key stands, in lines that are kept while it stands there."""
        tightest, level = self.tightest, self.level
        if level != self._told_level or tightest is not self._told:
            self._told, self._told_level = tightest, level
            self._told_lines = b""
            if tightest is not None:
                self._told_lines = standing_lines(b"x-aigw-", standing_of(tightest, level))
        return self._told_lines

    def _outcome_of(
        self,
        terms: Terms | None,
        member: Member | None,
        ending: KnownAnswer | Code,
        groups: tuple[bytes, ...],
    ) -> Outcome:
        """That of the last request, if this one is told from it by its numbers alone."""
        known, outcome = self.known, self._outcome
        user = app = None
        if known.is_attributed and terms is not None:
            user = groups[known.user] if known.user != NO_GROUP else None
            app = groups[known.app] if known.app != NO_GROUP else None
        if (
            outcome is None
            or outcome.ending is not ending
            or outcome.terms is not terms
            or outcome.known is not known
            or outcome.member is not member
            or outcome.user != user
            or outcome.app != app
        ):
            outcome = self._outcome = Outcome(self, terms, member, ending, user, app)
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
        exchange.client_ip = self.client_ip
        connection.owner = exchange
        self.connection, self.data, self.groups = None, b"", ()
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
