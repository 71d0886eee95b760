"""The express lane: what happens with plain requests, from their heads to their records.

What is plain stands in `lane.py`.  `send` does what `Exchange.begin_known` to `_send` do, `answer`
what `Exchange.answer_known` to `finish` do, with the same tables; what is counted and logged is
left to the `Ledger`.  Refusals that anybody can cause at any rate, for an unknown key and for a
key's rate, are written here too.  Clients that send head and body apart are waited for, if the body
is short: many SDKs do, and one write upstream is half the work of two.

**In turns.**  A busy loop reads from many connections in one turn, with 64 clients from 40 or 50.
Then what has come is only noted when it is read, and dealt with at the end of the turn: first all
answers, then all requests, each in one go.  What is the same for all is looked up once and kept in
local names, the clock is read twice, counters are written once, and the interpreter stays with one
piece of code instead of going back and forth between the kernel and us.  A loop with little to do
deals with each at once, since waiting for the end of the turn would cost it a callback.

Whatever is not plain is left to the story: `send` says so before it has changed anything, and
`Lane.whole` turns what has been sent into an exchange that takes over.  The story stays the
authority: every conversation of the tests runs with and without this lane.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from aigw.errors import Code
from aigw.policy.limits import standing_lines, standing_of
from aigw.proxy.admission import AUTHENTICATION_MESSAGES
from aigw.proxy.client_state import ANSWER, HELD
from aigw.proxy.ledger import Ended, Outcome, Turn
from aigw.proxy.refusal import ReadyRefusal, Refusal, rate_limit_octets
from aigw.upstreams.connection import look_at
from aigw.wire.template import NO_GROUP

if TYPE_CHECKING:
    from aigw.memory import Bucket
    from aigw.observe.access_line import Told
    from aigw.proxy.known import Terms
    from aigw.proxy.lane import Lane
    from aigw.proxy.services import Services
    from aigw.upstreams.connection import UpstreamConnection

# So many in one turn are worth waiting for its end.
GATHER_FROM = 4
# What is longer is `joined`, less is added: a copy more, and 0.1 µs cheaper for 4,000 octets; for
# 16,000 it is twice as dear.
JOIN_BYTES = 8192
# A body that is waited for: what SDKs send in their second write, or second and third.
HELD_BYTES = 64 * 1024
RATE_LIMIT_EXCEEDED = Code.RATE_LIMIT_EXCEEDED
UNKNOWN_KEY = ReadyRefusal(
    Refusal(Code.INVALID_API_KEY, AUTHENTICATION_MESSAGES[Code.INVALID_API_KEY])
)


class RateRefusal(NamedTuple):
    """The refusal for those of one key who are over its rate in one turn, and before `until_s`;
    `form` takes their request id, twice."""

    terms: Terms
    turn: Turn
    until_s: float
    form: bytes
    body_bytes: int
    counter: int  # of the metric, in the worker's words


def joined(head: bytes, data: bytes, end: int) -> bytes:
    """The head, and what of `data` comes after `end`."""
    return b"".join((head, memoryview(data)[end:]))


class Express:
    """One worker's express lane."""

    __slots__ = (
        "_answers",
        "_gathers",
        "_is_due",
        "_over_rate",
        "_read_s",
        "_refused",
        "_requests",
        "services",
    )

    def __init__(self, services: Services):
        self.services = services
        self._gathers = False  # is there so much to do that the end of the turn is waited for?
        self._is_due = False  # is it waited for?
        self._read_s = 0.0  # since then the loop has read from all connections
        self._requests: list[Lane] = []
        self._answers: list[UpstreamConnection] = []
        self._refused: Ended = defaultdict(list)
        self._over_rate: RateRefusal | None = None  # the last one
        services.ledger.turn_ended = self.look_at_turn

    # ---- turns -----------------------------------------------------------------------------------

    def take_request(self, lane: Lane) -> None:
        """What a client has sent is in `held`."""
        if not self._gathers:
            self._send((lane,), 0.0)
            return
        self._requests.append(lane)
        if not self._is_due:
            self._wait_for_end()

    def take_answer(self, connection: UpstreamConnection, data: bytes) -> None:
        """An upstream has sent this for the lane that its connection serves."""
        if connection.waiting is not None:  # it fills one read after the other: let none pile up
            connection.waiting += data
            self.answer((connection,))
            return
        connection.waiting = data
        if not self._gathers:
            self.answer((connection,))
            return
        self._answers.append(connection)
        if not self._is_due:
            self._wait_for_end()

    def _wait_for_end(self) -> None:
        self._is_due = True
        self.services.loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_due = False
        requests, self._requests = self._requests, []
        answers, self._answers = self._answers, []
        self._gathers = len(requests) + len(answers) >= GATHER_FROM
        if answers:
            self.answer(answers)
        read_s, self._read_s = self._read_s, time.monotonic()
        if requests:
            if answers:
                look_at(answers[-len(requests) :])  # the first to serve again
            self._send(requests, read_s)

    def look_at_turn(self, answered: int) -> None:
        """So many were answered in the last turn."""
        if answered >= GATHER_FROM:
            self._gathers = True

    def _send(self, lanes: Sequence[Lane], read_s: float) -> None:
        for lane in self.send(lanes, read_s):
            if lane.client.state is HELD:
                lane.client.leave_lane()

    # ---- requests --------------------------------------------------------------------------------

    def send(self, lanes: Sequence[Lane], read_s: float = 0.0) -> Sequence[Lane]:
        """Deal with what each of them holds: it is sent on, refused, or waits for its rest.

        Returns those whose requests are not plain, for which nothing was done; who does not hold
        anything any more may be among them.  `read_s`: see `Member.take_idle`.

        (One long function, since what is looked up above its loop is half of what it costs.)
        """
        services = self.services
        now_s = time.monotonic()
        if services.newest_version[0] != services.policy_version or services.refusing:
            return lanes
        turn = Turn(now_s, now_s)
        clock_s, wall_s = services.clock_s, now_s + services.wall_offset_s
        has_proxies = services.trusted.any
        left: list[Lane] = []
        sent = 0
        for lane in lanes:
            client = lane.client
            if client.state is not HELD:
                continue  # it had to be dealt with before the turn was over
            connection = None
            try:
                data = lane.held
                reading = lane.read(data)
                if reading is None:
                    left.append(lane)
                    continue
                known, (groups, end) = lane.known, reading
                body_bytes = int(groups[known.length]) if known.length != NO_GROUP else 0
                missing_bytes = end + body_bytes - len(data)
                if missing_bytes and not (lane.may_hold and 0 < missing_bytes <= HELD_BYTES):
                    left.append(lane)
                    continue
                if end > known.max_head_bytes or body_bytes > known.max_body_bytes:
                    left.append(lane)
                    continue
                if has_proxies:
                    lane.find_client(groups)
                digest = sha256(groups[known.credential]).digest()
                terms = known.terms.get(digest) or known.terms_of(digest, services.limits)
                if terms is None or terms.expires_at <= wall_s:
                    is_nobodys = terms is None and not known.knows_key(digest)
                    if missing_bytes or not (
                        is_nobodys and self._refuse_key(lane, turn, body_bytes)
                    ):
                        left.append(lane)
                    continue
                if missing_bytes:
                    lane.hold(now_s)
                    continue
                group = known.group
                member = group.only or group.choose(now_s, services.is_member_out)
                connection = member.take_idle(now_s, read_s) if member is not None else None
                if member is None or connection is None:
                    left.append(lane)
                    continue
                hand = terms.hand
                if hand is None:
                    level, bucket = self._admit(terms, now_s)
                elif hand.take_slot():
                    level, bucket = hand.take_token(now_s), hand.bucket
                    if level < 0.0:
                        hand.give_slot()
                else:
                    level, bucket = -1.0, None
                if level < 0.0:
                    member.idle.append(connection)
                    if not self._refuse_rate(
                        lane, terms, groups, body_bytes, (bucket, level + 1.0), turn
                    ):
                        left.append(lane)
                    continue
                if group.only is None:
                    group.next_turn()
                lane.held = b""
                kept = data if body_bytes <= known.max_repeated_bytes else b""
                sent_in = Turn(lane.end_hold(), now_s) if lane.held_since_s else turn
                lane.sent = connection, terms, groups, kept, body_bytes, bucket, level, sent_in
                connection.lane = lane
                member.inflight += 1
                sent += 1
                client.state = ANSWER
                client.deadline_s = clock_s + known.first_byte_s
                form = known.ready.get(member)
                if form is not None:
                    head = form % groups
                else:
                    head = known.head_for(member, groups, group.credential_lines())
                # Last, since it may fill the buffer and so call `whole`.
                connection.transport.write(
                    head + data[end:] if len(data) < JOIN_BYTES else joined(head, data, end)
                )
                if sent_in is not turn:
                    sent_in.ended_s = time.monotonic()
            except Exception as error:  # noqa: BLE001 - the edge of a task
                client.broke(error)
                end_unused(connection)
        if sent:
            known.hits += sent  # one stands for all
            words = services.metrics.words  # `began`, `admitted` and a good key, at once
            words[services.in_flight] += sent
            words[services.express_sent] += sent
        turn.ended_s = time.monotonic()
        if self._refused:
            refused, self._refused = self._refused, defaultdict(list)
            services.ledger.note(turn, refused)
        return left

    def _admit(self, terms: Terms, now_s: float) -> tuple[float, Bucket | None]:
        """Take what a claim takes that is not simple, or nothing: what is left of the tightest
        bucket, and that bucket.  Below 0: nothing; without a bucket: and it was not a bucket."""
        limits = self.services.limits
        code = limits.admit(terms.claim, now_s)
        if code is None:
            return limits.buckets.level, limits.tightest(terms.claim)
        if code is RATE_LIMIT_EXCEEDED:
            return limits.buckets.level - 1.0, limits.buckets.tightest
        return -1.0, None

    # ---- refusals --------------------------------------------------------------------------------

    def _refuse_key(self, lane: Lane, turn: Turn, body_bytes: int) -> bool:
        """The key is nobody's."""
        services = self.services
        if services.draining:
            return False
        metrics, code = services.metrics, UNKNOWN_KEY.code
        metrics.words[metrics.counter("auth_failures_total", code.word)] += 1
        request_id = services.new_request_id()
        lane.client.transport.write(UNKNOWN_KEY.octets(request_id, services.date_line))
        outcome = lane.outcome_of(None, None, code, ())
        told = request_id, outcome.subject, body_bytes, UNKNOWN_KEY.body_bytes
        self._end_refused(lane, outcome, told, turn)
        return True

    def _refuse_rate(
        self,
        lane: Lane,
        terms: Terms,
        groups: tuple[bytes, ...],
        body_bytes: int,
        standing: tuple[Bucket | None, float],
        turn: Turn,
    ) -> bool:
        """A bucket of the key is empty; False where it is not, or something else is."""
        services, ready = self.services, self._over_rate
        if services.draining:
            return False
        if (
            ready is None
            or ready.terms is not terms
            or ready.turn is not turn
            or time.monotonic() >= ready.until_s
        ):
            ready = self._over_rate = self._rate_refusal(terms, standing, turn)
            if ready is None:
                return False
        words, request_id = services.metrics.words, services.new_request_id()
        words[services.auth_success] += 1
        words[ready.counter] += 1
        lane.client.transport.write(ready.form % (request_id, request_id))
        outcome = lane.outcome
        if (
            outcome is None
            or outcome.ending is not RATE_LIMIT_EXCEEDED
            or outcome.terms is not terms
            or lane.known.is_attributed
        ):
            outcome = lane.outcome_of(terms, None, RATE_LIMIT_EXCEEDED, groups)
        told = request_id, outcome.subject, body_bytes, ready.body_bytes
        self._end_refused(lane, outcome, told, turn)
        return True

    def _rate_refusal(
        self, terms: Terms, standing: tuple[Bucket | None, float], turn: Turn
    ) -> RateRefusal | None:
        """What all are told who are over this rate in this turn, which is over in a moment."""
        services, (bucket, level) = self.services, standing
        # With a fresh clock: see `Exchange._take`.
        table, now_s = services.limits.buckets, time.monotonic()
        wait_s = table.wait_s(bucket, now_s) if bucket is not None else 0.0
        if bucket is None or wait_s <= 0.0:
            return None
        lines = standing_lines(b"x-", standing_of(bucket, level))
        form, body_bytes = rate_limit_octets(wait_s, lines, b"%b", services.date_line)
        code = RATE_LIMIT_EXCEEDED.word
        counter = services.metrics.counter("rate_limited_total", terms.key.name, code)
        return RateRefusal(terms, turn, now_s + wait_s, form, body_bytes, counter)

    def _end_refused(self, lane: Lane, outcome: Outcome, told: Told, turn: Turn) -> None:
        lane.held = b""
        sent_in = Turn(lane.end_hold(), turn.began_s) if lane.held_since_s else turn
        self._refused[outcome.kind, sent_in].append(told)
        services = self.services
        keep_until_s = services.clock_s + services.policy.keep_alive_s
        lane.client.answered(lane.known.idle_s, services.clock_s, keep_until_s)

    # ---- answers ---------------------------------------------------------------------------------

    def answer(self, connections: Sequence[UpstreamConnection]) -> None:
        """Deal with what has come for the lanes that these serve: plain answers are handed on and
        their requests are over, for the others there is an exchange from here on."""
        services = self.services
        now_s = time.monotonic()
        turn = Turn(now_s, now_s)
        clock_s, max_head_bytes = services.clock_s, services.policy.upstream_head_bytes
        keep_until_s = clock_s + services.policy.keep_alive_s
        stays = not (services.draining or services.retired)
        new_request_id = services.new_request_id
        over = 0
        ended: Ended = defaultdict(list)
        for connection in connections:
            data = connection.waiting
            lane: Lane | None = connection.lane  # type: ignore[assignment]  # none but ours
            if data is None or lane is None:
                continue  # it had to be dealt with before the turn was over
            connection.waiting = None
            client = lane.client
            try:
                known = connection.known
                if known is None or known.length == NO_GROUP:
                    leave(lane, connection, data)
                    continue
                reading = known.read(data)
                if reading is None:
                    hit = connection.member.answers.find(data)
                    if hit is None:
                        leave(lane, connection, data)
                        continue
                    connection.known, reading = known, _ = hit
                groups, end = reading
                body_bytes = len(data) - end
                if (
                    known.length == NO_GROUP
                    or int(groups[known.length]) != body_bytes
                    or end > max_head_bytes
                    or client.state is not ANSWER
                    or not stays
                ):
                    leave(lane, connection, data)
                    continue
                assert lane.sent is not None
                _, terms, asked, _, bytes_in, bucket, level, sent_in = lane.sent
                hand, member, outcome = terms.hand, connection.member, lane.outcome
                if level != lane.told_level or bucket is not lane.told:
                    lane.tell(bucket, level)
                if (
                    outcome is None
                    or outcome.ending is not known
                    or outcome.terms is not terms
                    or lane.known.is_attributed
                ):
                    outcome = lane.outcome_of(terms, member, known, asked)
                request_id = new_request_id()
                head = known.plain_format % (*groups, request_id, lane.told_lines)
                # It is over, whatever happens below; until here the story could still take over.
                lane.sent = connection.lane = None
                over += 1
                member.inflight -= 1
                if hand is not None:
                    hand.give_slot()
                else:
                    services.limits.give_back(terms.claim)
                told = request_id, outcome.subject, bytes_in, body_bytes
                ended[outcome.kind, sent_in].append(told)
                client.transport.write(
                    head + data[end:] if len(data) < JOIN_BYTES else joined(head, data, end)
                )
                if known.keep_alive_s < connection.keep_alive_s:
                    connection.keep_alive_s = known.keep_alive_s
                member.give_idle(connection, now_s)
                client.answered(lane.known.idle_s, clock_s, keep_until_s)
            except Exception as error:  # noqa: BLE001 - the edge of a task
                client.broke(error)
                end_unused(connection)
        turn.ended_s = time.monotonic()
        if over:
            services.metrics.words[services.in_flight] -= over
        if ended:
            services.ledger.note(turn, ended)


def end_unused(connection: UpstreamConnection | None) -> None:
    """After a fault: nobody else knows of a connection that serves nobody."""
    if connection is not None and connection.lane is None and connection.owner is None:
        connection.drop()


def leave(lane: Lane, connection: UpstreamConnection, data: bytes) -> None:
    """What has come is for the story."""
    lane.whole()
    connection.data_received(data)
