"""The story of one request, from its head to its record.

    begin            the questions of admission, then what must be taken: a slot, a token
    attempt          a member, an idle connection or a new one, the request written
    request_data     the client's body, spliced upstream as it comes
    answer_started   the upstream's head, written anew; the answer's body is spliced back
    finish           once, on every path: give back what was taken, count, log

An exchange is the owner of its upstream connection and is told what happens on it; its client
tells it of the request's body, of hang-ups and of passed deadlines.  It holds no more of a body
than what may have to be sent a second time, at most `limits.inspect_bytes`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigw.errors import Code
from aigw.policy import cors
from aigw.policy.keys import credentials_in, gateway_fields
from aigw.policy.limits import claim_of
from aigw.policy.routes import upstream_target
from aigw.proxy import accounting
from aigw.proxy.admission import (
    KNOWN_QUESTIONS,
    QUESTIONS,
    Ending,
    admit,
    client_of,
    is_unauthenticated,
    too_large,
)
from aigw.proxy.deadlines import LOOK_S
from aigw.proxy.phase import Phase
from aigw.proxy.refusal import (
    OwnAnswer,
    Refusal,
    limit_refusal,
    own_answer_bytes,
    refusal_answer,
)
from aigw.proxy.request import Request
from aigw.proxy.state import NO_FIELDS, PIECE_BYTES, ExchangeState
from aigw.upstreams.connection import UpstreamConnection
from aigw.upstreams.connector import ConnectFailure
from aigw.upstreams.known import keep_alive_of
from aigw.wire.framing import (
    CHUNKED_LINE,
    RAW,
    REFRAMED,
    BodyReader,
    ChunkReader,
    CloseReader,
    FramingError,
    LengthReader,
    plan_answer,
)
from aigw.wire.rewrite import answer_head, interim_head, request_head, start_of_request
from aigw.wire.sse import ends_with_done
from aigw.wire.template import NO_GROUP

if TYPE_CHECKING:
    from aigw.proxy.known import KnownRequest
    from aigw.upstreams.known import KnownAnswer
    from aigw.upstreams.member import Member
    from aigw.wire.head import AnswerHead, RequestHead

logger = logging.getLogger("aigw")

MEMBERS_TRIED = 2  # as long as they are out of reach; besides, a lost connection is replaced once


class Exchange(ExchangeState):
    """One request: what happens to it.  Its fields are in `state.py`."""

    __slots__ = ()

    # ---- the request -----------------------------------------------------------------------------

    def begin(self, head: RequestHead, raw: bytes, rest: bytes) -> None:
        """A head that h11 has read: ask all questions; maybe its shape is worth learning."""
        self.request = Request(head)
        self.body_length = head.body_length
        self.credentials = credentials_in(head.known)
        self.client_ip = client_of(self, head.values(b"x-forwarded-for"))
        self.body = ChunkReader(REFRAMED) if head.is_chunked else LengthReader(head.body_length)
        accounting.began(self)
        ending = admit(self, QUESTIONS)
        if self.key is not None or is_unauthenticated(ending):
            self.services.known.consider(self, raw, not is_unauthenticated(ending))
        self._proceed(ending, rest, head.expects_continue)

    def begin_known(self, known: KnownRequest, groups: Sequence[bytes], rest: bytes) -> bool:
        """A head that a template has recognised: ask what is left to ask.

        False, and nothing done, where it must be read by h11 after all.
        """
        self.credentials = known.credentials_in(groups)
        if known.group.settings.credential_lines is None:
            own = gateway_fields(self.services.policy.keys, dict(self.credentials))
            if own != known.gateway_fields:
                return False
        self.request, self.known, self.groups = known.facts, known, groups
        forwarded = [groups[known.forwarded]] if known.forwarded != NO_GROUP else []
        self.client_ip = client_of(self, forwarded)
        self.body_length = int(groups[known.length]) if known.length != NO_GROUP else 0
        self.body = LengthReader(self.body_length)
        accounting.began(self)
        ending = admit(self, KNOWN_QUESTIONS)
        if not is_unauthenticated(ending):
            self.user = groups[known.user] if known.user != NO_GROUP else None
            self.app = groups[known.app] if known.app != NO_GROUP else None
        self._proceed(ending, rest, False)
        return True

    def _proceed(self, ending: Ending, rest: bytes, expects_continue: bool) -> None:
        """Take what must be taken and make the first attempt, or end here."""
        ending = ending or self._take()
        if ending is not None:
            self._end_early(ending, rest)
            return
        accounting.admitted(self)
        if expects_continue and not rest and not self.body.done:
            self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.request_data(rest)
        if self.phase is not Phase.OVER:
            self._attempt()

    def _take(self) -> Refusal | None:
        """A member to ask, then the key's slot and tokens; a refused request has taken nothing."""
        key, route, now_s = self.key, self.route_in_use, self.started_s
        assert key is not None
        self.group = group = self.services.group_of(route)
        if self.known is None:
            self.withheld = self.withheld_credentials()
        if not group.has_member(now_s, self.services.is_member_out):
            wait_s = group.next_in_s(now_s)
            return Refusal(Code.NO_HEALTHY_UPSTREAM, "No healthy upstream is left.", wait_s)
        limits, claim = self.services.limits, claim_of(key, route, group.settings)
        code = limits.admit(claim, now_s)
        if code is Code.RATE_LIMIT_EXCEEDED:
            # A sibling that is ahead of our clock reading has let more run over than was there
            # then: where a burst is short against the rate, a pause of ours looks like a refusal.
            now_s = time.monotonic()
            code = limits.admit(claim, now_s)
        if code is not None:
            return limit_refusal(code, key, limits, now_s)
        self.claim, self.standing = claim, limits.standing(claim)
        return None

    def request_data(self, data: bytes) -> None:
        """Bytes of the request's body, and maybe of what comes after it."""
        try:
            piece = self.body.feed(data)
        except FramingError as error:
            message = f"The request body is malformed: {error}."
            self.refuse_upload(Refusal(Code.MALFORMED_REQUEST, message))
            return
        limit_bytes = self.services.policy.body_bytes
        if self.body.payload_bytes > limit_bytes:
            self.refuse_upload(too_large(limit_bytes))
            return
        if self.phase is Phase.UPLOADING:
            self.touched_s = self.services.clock_s
        if piece:
            self._forward(piece)
        if self.body.done:
            self._request_complete()
        elif self.body.more:
            self.client.feed_again()

    def _forward(self, piece: bytes) -> None:
        if self.replay is not None:
            self.replay.append(piece)
            self.replay_bytes += len(piece) + PIECE_BYTES
            if self.connection is not None:
                self._forget_replay_beyond(self.services.policy.inspect_bytes)
        if self.connection is not None:
            self.connection.transport.write(piece)

    def _forget_replay_beyond(self, limit_bytes: int) -> None:
        if self.replay_bytes > limit_bytes:
            self.replay = None

    def _request_complete(self) -> None:
        self.client.request_complete(self.body.surplus)
        if self.phase is Phase.UPLOADING:
            self.phase = Phase.AWAITING
            self._wait(self.route_in_use.first_byte_s)

    def _wait(self, limit_s: float) -> None:
        """Look at this exchange when so long has passed (`deadlines.look`)."""
        self.client.deadline_s = self.services.clock_s + limit_s

    # ---- the attempt -----------------------------------------------------------------------------

    def _attempt(self) -> None:
        """Send the request to a member: over an idle connection at once, else over a new one."""
        assert self.group is not None
        now_s = time.monotonic()
        member = self.group.choose(now_s, self.services.is_member_out, self.tried)
        if member is None:
            self.fail(Refusal(Code.UPSTREAM_ERROR, "No upstream could be reached."))
            return
        self.attempts += 1
        self.group.next_turn()
        self._use(member)
        if not self.body.done and self.phase is Phase.UPLOADING:
            self._wait(LOOK_S)
        connection = None if self.fresh_only else member.take_idle(now_s)
        if connection is not None:
            self._send(connection)
            return
        if not self.body.done:
            self.client.pause_body()
        if self.attempts == 1:
            self.overhead_s += time.monotonic() - self.started_s
        self.connecting = self.services.loop.create_task(self._connect(member))

    def _use(self, member: Member) -> None:
        """Count this exchange as the member's load, once."""
        if self.member is not None:
            self.member.inflight -= 1
        self.member = member
        member.inflight += 1

    async def _connect(self, member: Member) -> None:
        """Open a connection and send; the only task in a request's path, and not in a warm one."""
        try:
            connection = await member.connector.connect(
                lambda: UpstreamConnection(member, time.monotonic()), self.route_in_use.connect_s
            )
            self.connecting = None
            if connection.is_closed:  # between its making and this turn of the loop
                raise ConnectFailure("refused", "the connection ended at once")
            member.connected()
            self._send(connection)
        except ConnectFailure as failure:
            self.connecting = None
            self._connect_failed(member, failure)
        except Exception as error:  # noqa: BLE001 - the edge of a task
            self.connecting = None
            self.broke(error)

    def _connect_failed(self, member: Member, failure: ConnectFailure) -> None:
        assert self.group is not None
        logger.debug("connect to %s failed: %s", member.label, failure.detail)
        if failure.reason == "no_file":  # our own fault, which says nothing of the member
            accounting.attempt_abandoned(self, "connect_no_file")
            self.services.drop_idle()  # so that there is one the next time
            self.fail(Refusal(Code.OVERLOADED, "The gateway may open no more files.", 1.0))
            return
        now_s = time.monotonic()
        member.connect_failed(now_s)
        accounting.attempt_failed(self, f"connect_{failure.reason}")
        self.tried = (*self.tried, member)
        if len(self.tried) < MEMBERS_TRIED and self._another_member(now_s):
            self._attempt()
            return
        code = Code.UPSTREAM_TIMEOUT if failure.reason == "timeout" else Code.UPSTREAM_ERROR
        self.fail(Refusal(code, f"The upstream could not be reached ({failure.reason})."))

    def _another_member(self, now_s: float) -> bool:
        assert self.group is not None
        return self.group.choose(now_s, self.services.is_member_out, self.tried) is not None

    def _send(self, connection: UpstreamConnection) -> None:
        """Write the head and what there is of the body in one go."""
        self.connection = connection
        limit = self.services.policy.upstream_head_bytes
        connection.begin(self, limit, self.takes_known_answers)
        self.client.resume_body()  # before the write, which may have to pause it again
        pieces = [self._head_for(connection.member)]
        if self.replay:
            pieces += self.replay
        connection.transport.write(b"".join(pieces))
        if self.attempts == 1 and connection.is_reused:
            self.overhead_s += time.monotonic() - self.started_s
        if not connection.is_reused or not self.facts.is_replayable:
            self.replay = None
        else:
            self._forget_replay_beyond(self.services.policy.inspect_bytes)
        self.touched_s = self.services.clock_s

    def _head_for(self, member: Member) -> bytes:
        assert self.group is not None
        facts, settings = self.facts, member.settings
        own = self.group.credential_lines()
        if self.known is not None:
            return self.known.head_for(member, self.groups, own)
        target = upstream_target(self.route_in_use, settings.base_path, facts.path, facts.query)
        start = start_of_request(facts.method, target, settings.host_field)
        return request_head(facts.head, start, own, self.withheld)

    def _lost_before_answer(self, why: str) -> None:
        """The connection ended without a byte of an answer, or in the middle of its head."""
        assert self.connection is not None
        was_idle_end = self.connection.is_reused and not self.connection.answer_began
        self._detach().drop()
        if was_idle_end and self.replay is not None and not self.fresh_only:
            accounting.attempt_failed(self, "reused")
            self.fresh_only = True
            self._attempt()
            return
        accounting.attempt_failed(self, "reset")
        lines = b"x-should-retry: true\r\n" if was_idle_end else b""
        message = f"The upstream ended the connection before it answered ({why})."
        self.fail(Refusal(Code.UPSTREAM_ERROR, message, lines=lines))

    def _detach(self) -> UpstreamConnection:
        connection = self.connection
        assert connection is not None
        self.connection = None
        connection.leave()
        return connection

    # ---- the answer ------------------------------------------------------------------------------

    def answer_interim(self, head: AnswerHead) -> None:
        if head.status != 100 and not self.facts.head.is_http_1_0:
            self.client.write(interim_head(head))

    def answer_started(self, head: AnswerHead, rest: bytes) -> None:
        """A head that h11 has read: write it anew, together with what came with it."""
        assert self.group is not None
        if head.status in (401, 403) and self.group.settings.credential_lines:
            accounting.attempt_failed(self, "auth")
            message = "The upstream refused the gateway's own credential."
            self.fail(Refusal(Code.UPSTREAM_AUTH_ERROR, message))
            return
        is_http_1_0 = self.facts.head.is_http_1_0
        plan = plan_answer(self.facts.method, head.status, head.body_length, is_http_1_0)
        self._begin_answer(head, plan.reader, plan.ends_by_close)
        withheld = cors.ANSWER_FIELDS if self.route_in_use.cors_origins else NO_FIELDS
        if plan.drops_length:
            withheld |= {b"content-length"}
        lines = plan.framing_line + self.answer_lines()
        self._relay(rest, answer_head(head, lines, withheld))
        self._end_first_turn()

    def _end_first_turn(self) -> None:
        """What the answer's head and what came with it have cost, if that was not all."""
        if self.phase is not Phase.OVER:
            self.overhead_s += time.monotonic() - self.first_byte_s
        self.in_first_turn = False

    def answer_known(
        self, known: KnownAnswer, groups: tuple[bytes, ...], data: bytes, end: int
    ) -> None:
        """A head that a template has recognised; only for clients that take it as it comes."""
        if known.length != NO_GROUP:
            self._begin_answer(known.head, LengthReader(int(groups[known.length])), False)
            lines = self.answer_lines()
        else:
            self._begin_answer(known.head, ChunkReader(RAW), False)
            lines = CHUNKED_LINE + self.answer_lines()
        self._relay(data[end:], known.format % (*groups, lines))
        self._end_first_turn()

    def _begin_answer(self, head: AnswerHead, reader: BodyReader, ends_by_close: bool) -> None:
        assert self.connection is not None
        self.first_byte_s = time.monotonic()
        self.in_first_turn = True
        self.answer, self.splice, self.phase = head, reader, Phase.ANSWERING
        self.replay = None
        self.status = head.status
        self.is_stream = head.is_stream
        self.ends_by_close = ends_by_close
        if ends_by_close:
            self.client.let_fin_mean_end(False)
        self.keep_client = not ends_by_close and self.client.may_stay(self.facts.head)
        self.connection.limit_keep_alive(keep_alive_of(head))
        self.touched_s = self.services.clock_s
        self._wait(self.route_in_use.idle_s)

    def answer_data(self, data: bytes) -> None:
        """A chunk of the answer: written to the client in the callback that brought it."""
        self.touched_s = self.services.clock_s
        self._relay(data, b"")

    def _relay(self, data: bytes, head: bytes) -> None:
        splice = self.splice
        assert splice is not None
        try:
            piece = splice.feed(data)
        except FramingError:
            self.client.transport.write(head)
            self._truncated()
            return
        if head or piece:
            self.client.transport.write(head + piece if head else piece)
            self.bytes_out += len(piece)
            self.piece_before, self.last_piece = self.last_piece, piece
        if splice.done:
            self._answer_complete()
        elif splice.more:
            self._walk_on()

    def _walk_on(self) -> None:
        """Too many chunks for one turn of the loop: stop reading and go on in the next."""
        assert self.connection is not None
        self.connection.transport.pause_reading()
        self.services.loop.call_soon(self._walk_next)

    def _walk_next(self) -> None:
        if self.phase is Phase.ANSWERING and self.connection is not None:
            if not self.client_is_full:
                self.connection.transport.resume_reading()
            self.connection.data_received(b"")

    def upstream_ended(self) -> None:
        """The upstream's FIN: the end of a body that ends so, else a loss."""
        if self.splice is None:
            self._lost_before_answer("connection closed")
            return
        try:
            tail = self.splice.finish()
        except FramingError:
            self._truncated()
            return
        if tail:
            self.client.write(tail)
            self.bytes_out += len(tail)
        self._answer_complete()

    def upstream_lost(self, why: str) -> None:
        if self.splice is None:
            self._lost_before_answer(why)
        else:
            self._truncated()

    def answer_malformed(self, why: str) -> None:
        accounting.attempt_failed(self, "malformed")
        self.fail(Refusal(Code.UPSTREAM_ERROR, f"The upstream's answer is malformed: {why}."))

    def _answer_complete(self) -> None:
        assert self.splice is not None
        assert self.answer is not None
        connection = self._detach()
        is_clean = (
            self.body.done
            and not self.splice.surplus
            and not isinstance(self.splice, CloseReader)
            and self.answer.leaves_connection_clean
            # What HEAD's answer announces may come nevertheless, for nobody or for the next one.
            and not (self.facts.is_head and self.answer.body_length)
        )
        if is_clean:
            if self.client_is_full:
                connection.transport.resume_reading()
            connection.member.give_idle(connection, time.monotonic())
        else:
            connection.drop()
        accounting.attempt_succeeded(self)
        self.finish(None)
        self.client.answer_complete(self.keep_client)

    def _truncated(self) -> None:
        """The answer was cut: the client must see it cut."""
        accounting.attempt_failed(self, "truncated")
        self.break_off(Code.UPSTREAM_TRUNCATED)

    def break_off(self, code: Code) -> None:
        """End a half answer so that it looks like one; what was relayed is still delivered."""
        self.finish(code)
        self.client.break_off(reset=self.ends_by_close)

    # ---- flow control ----------------------------------------------------------------------------

    def upstream_writable(self, writable: bool) -> None:
        """Backpressure towards the client, while its body is arriving."""
        if writable:
            self.client.resume_body()
        elif not self.body.done:
            self.client.pause_body()

    def client_writable(self, writable: bool) -> None:
        """Backpressure towards the upstream."""
        self.client_is_full = not writable
        if self.connection is None or self.connection.transport.is_closing():
            return
        if writable:
            self.connection.transport.resume_reading()
        else:
            self.connection.transport.pause_reading()
            self.unsent_bytes = self.client.unsent_bytes()

    # ---- how it can end --------------------------------------------------------------------------

    def client_lost(self) -> None:
        """The client has hung up: cancel the upstream at once."""
        if self.phase is Phase.OVER:
            return
        heard_all = self.is_stream and ends_with_done(self.piece_before, self.last_piece)
        if heard_all:
            accounting.attempt_succeeded(self)
        elif self.attempts:
            accounting.attempt_abandoned(self, "client_closed")
        self.finish(None if heard_all else Code.CLIENT_CLOSED)

    def client_ended_early(self) -> None:
        """The client's FIN inside its request."""
        message = "The request ended before its body did."
        self.refuse_upload(Refusal(Code.MALFORMED_REQUEST, message))

    def refuse_upload(self, refusal: Refusal) -> None:
        """The client's body is not to be had; what may have been sent of it was in vain."""
        if self.attempts:
            accounting.attempt_abandoned(self, refusal.code.word)
        self.fail(refusal)

    def fail(self, refusal: Refusal) -> None:
        """End with the gateway's own error, or visibly cut where the answer has begun."""
        if self.phase is Phase.ANSWERING:
            self.break_off(refusal.code)
        else:
            self._answer_by_ourselves(refusal)

    def broke(self, error: Exception) -> None:
        """A fault of our own: say so, and go on serving the others."""
        accounting.log_fault(error)
        self.fail(Refusal(Code.INTERNAL_ERROR, "The gateway failed to handle this request."))

    def refuse_head(self, refusal: Refusal) -> None:
        """A head that could not be read as a request."""
        accounting.began(self)
        self._answer_by_ourselves(refusal)

    def leave_unanswered(self, code: Code) -> None:
        """Who does not even begin as agreed gets no answer, but a record."""
        accounting.began(self)
        self.status = code.status
        self.finish(code)

    def _end_early(self, ending: Refusal | OwnAnswer, rest: bytes) -> None:
        """Answer without an upstream; a body that came whole is passed over."""
        try:
            self.body.feed(rest)
        except FramingError:
            self.body = ChunkReader(REFRAMED)
        if self.body.done:
            self.client.request_complete(self.body.surplus)
        self._answer_by_ourselves(ending)

    def _answer_by_ourselves(self, ending: Refusal | OwnAnswer) -> None:
        request, code = self.request, None
        if isinstance(ending, Refusal):
            code = ending.code
            ending = refusal_answer(ending, self.request_id)
        self.status = ending.status
        self.keep_client = request is not None and self.client.may_stay(request.head)
        without_body = request is not None and request.is_head
        lines = self.services.date_line + self.common_lines()
        out = own_answer_bytes(ending, lines, without_body)
        self.bytes_out = 0 if without_body else len(ending.body)
        waits_for_continue = (
            request is not None
            and request.head.expects_continue
            and self.body.payload_bytes == 0
            and self.attempts == 0
        )
        keep = self.keep_client
        self.finish(code)
        self.client.write(out)
        self.client.answer_complete(keep, may_be_sending=not waits_for_continue)

    def finish(self, error: Code | None) -> None:
        """The end, exactly once: give back what was taken, stop what is under way, account."""
        if self.phase is Phase.OVER:
            return
        self.phase = Phase.OVER
        self.error = error
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        if self.connection is not None:
            self._detach().drop()
        if self.member is not None:
            self.member.inflight -= 1
        if self.claim is not None:
            self.services.limits.give_back(self.claim)
            self.claim = None
        accounting.ended(self)
