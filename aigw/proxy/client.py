"""One client connection: bytes to heads to exchanges, one at a time.

The connection moves through the states below.  Reading from a client whose complete request awaits
its answer is never paused, since that would hide its FIN; what it sends meanwhile is the beginning
of its next request, kept up to `limits.head_bytes`.

After an early answer the connection lingers: its sending side is shut, and what the client is still
sending is read and dropped for a while, because closing a socket with unread bytes sends a reset
that can overtake the answer (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, cast

from aigw.errors import Code
from aigw.proxy import accounting, kernel
from aigw.proxy.client_state import ANSWER, HEAD, HELD, State
from aigw.proxy.deadlines import LOOK_S, look
from aigw.proxy.exchange import Exchange
from aigw.proxy.lane import Lane
from aigw.proxy.phase import Phase
from aigw.proxy.refusal import Refusal
from aigw.wire.gate import FORBIDDEN_OCTETS
from aigw.wire.head import HeadError, RequestHead, read_request
from aigw.wire.proxy_protocol import Incomplete, ProxyError, parse

if TYPE_CHECKING:
    from aigw.proxy.known import KnownRequest
    from aigw.proxy.services import Services

LINGER_S = 2.0
LINGER_BYTES = 1024 * 1024
NEVER = float("inf")
# RFC 9112, 2.2: a server should ignore at least one empty line before the request line; some old
# clients send one after a POST.
EMPTY_LINE = b"\r\n"
EMPTY_LINES = re.compile(rb"(?:\r\n)*+")


class ClientConnection(asyncio.Protocol):
    """See the head of the file."""

    __slots__ = (
        "_exchange",
        "_feed_again_due",
        "_has_ended",
        "_head_since_s",
        "_idle_since_s",
        "_is_full",
        "_lane",
        "_lingered_bytes",
        "_moved_s",
        "_patience_s",
        "_pending",
        "_searched",
        "_unsent_bytes",
        "body_is_paused",
        "deadline_s",
        "peer_ip",
        "services",
        "state",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, services: Services):
        self.services = services
        self.peer_ip = ""
        self.deadline_s = NEVER
        self._exchange: Exchange | None = None
        self._lane: Lane | None = None  # once a plain request has come
        self.body_is_paused = False
        self.state = State.PREFACE if services.policy.proxy_protocol else HEAD
        self._pending = bytearray()  # bytes of a head that is not complete
        self._searched = 0  # how far they have been looked through
        self._lingered_bytes = 0
        self._feed_again_due = False
        self._is_full = False  # the send buffer is above its mark
        self._unsent_bytes = 0  # what it held when it was last looked at
        self._moved_s = 0.0  # when that had changed
        self._idle_since_s = services.clock_s
        self._head_since_s = -NEVER  # since when a head is coming, if since the last answer
        self._patience_s = 0.0  # how long to wait for a client that takes nothing of its answer
        self._has_ended = False  # the client has sent its FIN

    # ---- what the event loop tells -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer_ip = peer[0] if isinstance(peer, tuple) else ""
        services = self.services
        services.connections.add(self)
        self._await_head(services.policy.keep_alive_s)
        excess = len(services.connections) - services.connection_limit
        if excess > services.places.refused:
            self.abort()  # too many are being told already
        elif excess > 0:
            message = "The gateway has no room for more connections."
            self._refuse_head(Refusal(Code.OVERLOADED, message, 1.0))

    def data_received(self, data: bytes) -> None:
        try:
            lane = self._lane
            if lane is None or self.state is not HEAD or self._pending:
                self._receive(data)
            else:
                self.state = HELD
                lane.held = data
                lane.express.take_request(lane)
        except Exception as error:  # noqa: BLE001 - the edge of a task
            self.broke(error)

    def _receive(self, data: bytes) -> None:
        state = self.state
        if state is HEAD:
            self._head_data(data)
        elif state is State.BODY:
            assert self.exchange is not None
            self.exchange.request_data(data)
        elif state is ANSWER:
            self._next_request_data(data)
        elif state is HELD:
            self._held_data(data, may_hold=True)
        elif state is State.LINGER:
            self._linger_data(data)
        elif state is State.PREFACE:
            self._preface_data(data)

    def eof_received(self) -> bool:
        """The client's FIN: a hang-up, or an unfinished request that is told so."""
        try:
            return self._end_of_input()
        except Exception as error:  # noqa: BLE001 - the edge of a task
            self.broke(error)
            return False

    def _end_of_input(self) -> bool:
        self._has_ended = True
        self._take_up_all()
        exchange = self.exchange
        if self.state is State.BODY and exchange is not None:
            exchange.client_ended_early()
            return True
        if self.state is HEAD and self._has_begun_head():
            message = "The request ended before its head did."
            self._refuse_head(Refusal(Code.MALFORMED_REQUEST, message))
            return True
        if exchange is not None:
            self.exchange = None
            exchange.client_lost()
        self.state = State.CLOSED
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.services.connections.discard(self)
        self.services.paused.discard(self)
        self.services.tell_siblings()
        try:
            self.take_up_held()
            exchange = self.exchange  # what has come of an answer came before
            self.state = State.CLOSED
            if exchange is not None:
                exchange.client_lost()
        except Exception as error:  # noqa: BLE001 - the edge of a task
            self.broke(error)
        self._lane = self.exchange = None

    def pause_writing(self) -> None:
        self._set_full(True)

    def resume_writing(self) -> None:
        self._set_full(False)

    def _set_full(self, is_full: bool) -> None:
        self._is_full = is_full
        if self.exchange is not None:
            self.exchange.client_writable(not is_full)
        elif not is_full and self.state is HEAD and not self.transport.is_closing():
            self.transport.resume_reading()
            self._take_pending()

    def _held_data(self, data: bytes, may_hold: bool) -> None:
        """Go on with a request that was held; where it may not be held, as far as it has come."""
        lane = self._lane
        assert lane is not None
        lane.held += data
        if not self._takes_lane(lane, may_hold):
            self._head_data(lane.take_held(), may_hold=False)

    def _takes_lane(self, lane: Lane, may_hold: bool) -> bool:
        """Is what the lane holds plain, and dealt with?"""
        self.state = HELD
        lane.may_hold = may_hold
        left = lane.express.send((lane,))
        lane.may_hold = True
        if left:
            self.state = HEAD
        return not left

    def leave_lane(self) -> None:
        """What the lane holds is not plain."""
        assert self._lane is not None
        try:
            self.state = HEAD
            self._head_data(self._lane.take_held())
        except Exception as error:  # noqa: BLE001 - the edge of a task
            self.broke(error)

    def take_up_held(self) -> None:
        """Wait no longer for the rest of a request that is held, if one is."""
        if self.state is HELD:
            self._held_data(b"", may_hold=False)

    def _take_up_all(self) -> None:
        """Deal with all whole requests that have come, since no more will."""
        self.take_up_held()
        while self.exchange is None and (left_bytes := len(self._pending)):
            self._take_pending()
            self.take_up_held()
            if len(self._pending) == left_bytes:
                break

    def forget_shape(self) -> None:
        """The policy has changed: what is known of the last request's shape keeps the old one, so
        only a request under way may keep that."""
        lane = self._lane
        if lane is not None and (lane.sent is not None or self.state is HELD):
            lane.forget()
        else:
            self._lane = None

    # ---- heads -------------------------------------------------------------------------------

    def _await_head(self, limit_s: float) -> None:
        self.deadline_s = self.services.clock_s + limit_s

    def _preface_data(self, data: bytes) -> None:
        """The PROXY header of a trusted proxy; whoever sends none is not answered."""
        if not self._pending:
            self._await_head(self.services.policy.head_s)
        self._pending += data
        try:
            if not self.services.trusted.trusts(self.peer_ip):
                raise ProxyError("not from a trusted proxy")
            parsed = parse(bytes(self._pending))
        except ProxyError:
            self.new_exchange(time.monotonic()).leave_unanswered(Code.MALFORMED_REQUEST)
            self.abort()
            return
        if isinstance(parsed, Incomplete):
            return
        if parsed.source is not None:
            self.peer_ip = parsed.source
        rest = bytes(self._pending[parsed.consumed :])
        self._pending.clear()
        self.state = HEAD
        self._await_head(self.services.policy.keep_alive_s)
        if rest:
            self._head_data(rest)

    def _head_data(self, data: bytes, may_hold: bool = True) -> None:
        """A head: recognised if its shape has been seen before, else read by h11."""
        self.services.follow_policy()
        if self._pending:
            self._pending += data
            data = bytes(self._pending)
        if data.startswith(EMPTY_LINE):
            data = EMPTY_LINES.sub(b"", data, 1)
        end = data.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._partial_head(data)
            return
        self._pending.clear()
        self._searched = 0
        if self._recognise(data, may_hold):
            return
        end += 4
        if end > self.services.policy.head_bytes:
            self._refuse_size(data)
            return
        self._begin(data[:end], data[end:])

    def _recognise(self, data: bytes, may_hold: bool = True) -> bool:
        """Begin the exchange if the whole head is here and a template knows it."""
        services = self.services
        hit = services.known.find(data)
        if hit is None:
            return False
        known, (groups, end) = hit
        if end > services.policy.head_bytes:
            return False
        if known.is_plain and self._express(known, data, may_hold):
            return True
        known.hits += 1
        self.state = State.BODY
        self.exchange = exchange = self.new_exchange(self._start_s())
        if exchange.begin_known(known, groups, data[end:]):
            return True
        self.state = HEAD
        self.exchange = None
        return False

    def _start_s(self) -> float:
        """When the request at hand began."""
        held_since_s = self._lane.end_hold() if self._lane is not None else 0.0
        return held_since_s or time.monotonic()

    def _express(self, known: KnownRequest, data: bytes, may_hold: bool) -> bool:
        lane = self._lane
        if lane is None:
            lane = self._lane = Lane(self, self.services.express)
        lane.follow(known)
        lane.held = data
        if self._takes_lane(lane, may_hold):
            return True
        lane.held = b""
        return False

    def _partial_head(self, data: bytes) -> None:
        """Keep what has come; refuse what can no longer become a legal head."""
        if not data:
            self._pending.clear()
            self._searched = 0
            return
        found = FORBIDDEN_OCTETS.search(data, max(0, self._searched - 2))
        if found and not (found.group() == b"\r" and found.end() == len(data)):
            message = "The request head is malformed."
            self._refuse_head(Refusal(Code.MALFORMED_REQUEST, message))
            return
        if len(data) > self.services.policy.head_bytes:
            self._refuse_size(data)
            return
        if not self._pending:
            if self._head_since_s <= self._idle_since_s:  # else empty lines came, in halves
                self._head_since_s = self.services.clock_s
            self.deadline_s = self._head_since_s + self.services.policy.head_s
        self._pending[:] = data
        self._searched = len(data)

    def _has_begun_head(self) -> bool:
        """Has more come of a head than empty lines?"""
        return bool(self._pending.strip(EMPTY_LINE))

    def _begin(self, head_bytes: bytes, rest: bytes) -> None:
        self.state = State.BODY
        started_s = self._start_s()
        try:
            head = read_request(head_bytes)
        except HeadError as error:
            message = f"The request is malformed: {error}."
            self._refuse_head(Refusal(Code.MALFORMED_REQUEST, message))
            return
        limit = self.services.policy.headers
        if len(head.fields) > limit:
            message = f"The request has more than {limit} header fields."
            self._refuse_head(Refusal(Code.HEADERS_TOO_LARGE, message))
            return
        self.exchange = self.new_exchange(started_s)
        self.exchange.begin(head, head_bytes, rest)

    def _refuse_size(self, data: bytes) -> None:
        limit = self.services.policy.head_bytes
        if data.find(b"\r\n", 0, limit) < 0:
            message = f"The request line exceeds {limit} bytes."
            self._refuse_head(Refusal(Code.URI_TOO_LONG, message))
        else:
            message = f"The request head exceeds {limit} bytes."
            self._refuse_head(Refusal(Code.HEADERS_TOO_LARGE, message))

    def _refuse_head(self, refusal: Refusal) -> None:
        self.state = State.BODY
        self._pending.clear()
        self.exchange = self.new_exchange(time.monotonic())
        self.exchange.refuse_head(refusal)

    def _next_request_data(self, data: bytes) -> None:
        """Pipelined bytes wait; more than a head's worth ends the connection after the answer."""
        if len(self._pending) + len(data) > self.services.policy.head_bytes:
            self.state = State.LINGER
            self._pending.clear()
            return
        self._pending += data

    # ---- what an exchange asks for -----------------------------------------------------------

    def new_exchange(self, started_s: float) -> Exchange:
        return Exchange(self.services, self, started_s)

    @property
    def exchange(self) -> Exchange | None:
        """The present exchange.  To ask for it takes a plain request off the express lane."""
        lane = self._lane
        if lane is not None and lane.sent is not None:
            lane.take_up_answer()
            if lane.sent is not None:
                return lane.whole()
        return self._exchange

    @exchange.setter
    def exchange(self, exchange: Exchange | None) -> None:
        self._exchange = exchange

    def answered(self, patience_s: float, now_s: float, keep_until_s: float) -> None:
        """A request has got its answer: the next one may come."""
        self.state = HEAD
        self._patience_s = patience_s
        self._idle_since_s = now_s
        self.deadline_s = keep_until_s
        if self._is_full:
            self.transport.pause_reading()  # the next request waits until this answer is taken
        elif self._pending:
            self.services.loop.call_soon(self._take_pending)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def unsent_bytes(self) -> int:
        """What the client has not taken yet: here, and in the kernel's buffer (slow path only)."""
        sock = self.transport.get_extra_info("socket")
        return self.transport.get_write_buffer_size() + kernel.untaken_bytes(sock)

    def may_stay(self, head: RequestHead) -> bool:
        """Can this connection serve another request after this one, which was read to its end?"""
        services = self.services
        return (
            head.keep_alive
            and self.state is ANSWER
            and not services.draining
            and not services.retired
        )

    def request_complete(self, surplus: bytes) -> None:
        """The present request has been read to its end."""
        self.state = ANSWER
        self.resume_body()
        self._pending.clear()
        if surplus:
            self._next_request_data(surplus)

    def pause_body(self) -> None:
        if not self.body_is_paused and not self.transport.is_closing():
            self.body_is_paused = True
            self.services.paused.add(self)
            self.transport.pause_reading()

    def resume_body(self) -> None:
        if self.body_is_paused:
            self.body_is_paused = False
            self.services.paused.discard(self)
            if not self._feed_again_due and not self.transport.is_closing():
                self.transport.resume_reading()

    @property
    def file(self) -> int:
        """The descriptor; -1 where it is closed."""
        sock = self.transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    def hung_up(self) -> None:
        """The client has ended its side while it was not read from."""
        if self.exchange is not None:
            self.exchange.client_lost()
        self.abort()

    def feed_again(self) -> None:
        """The body's reader has more to walk in the next turn of the loop."""
        if not self._feed_again_due:
            self._feed_again_due = True
            self.transport.pause_reading()
            self.services.loop.call_soon(self._feed_now)

    def _feed_now(self) -> None:
        self._feed_again_due = False
        if not self.body_is_paused and not self.transport.is_closing():
            self.transport.resume_reading()
        if self.state is State.BODY:
            self.data_received(b"")

    def answer_complete(self, keep: bool, may_be_sending: bool = True) -> None:
        """The exchange is over and its answer written."""
        if self.exchange is not None:
            self._patience_s = self.exchange.patience_s
            if self.exchange.ends_by_close:
                self.let_fin_mean_end(True)
        self.exchange = None
        if self.transport.is_closing():
            return
        if not keep or self.state is State.LINGER:
            self._close_with_care(may_be_sending)
            return
        self._searched = 0
        now_s = self.services.clock_s
        self.answered(self._patience_s, now_s, now_s + self.services.policy.keep_alive_s)

    def _take_pending(self) -> None:
        if self.state is HEAD and self._pending and not self._is_full:
            data = bytes(self._pending)
            self._pending.clear()
            self.data_received(data)

    def break_off(self, reset: bool) -> None:
        """End a half answer; `reset` where a FIN would look like its end."""
        if self.exchange is not None:
            self._patience_s = self.exchange.patience_s
        self.exchange = None
        self.state = State.CLOSED
        if reset:
            self.let_fin_mean_end(False)
        self.transport.close()

    def abort(self) -> None:
        """End at once, and visibly: what has not been taken yet is lost."""
        self.state = State.CLOSED
        self.let_fin_mean_end(False)
        self.transport.abort()

    def let_fin_mean_end(self, means_end: bool) -> None:
        """Whether the connection ends by FIN, or by RST: also if this process dies suddenly."""
        kernel.let_fin_mean_end(self.transport.get_extra_info("socket"), means_end)

    # ---- endings -----------------------------------------------------------------------------

    def _close_with_care(self, may_be_sending: bool) -> None:
        """Shut the sending side; go on reading for a while if the client may still be sending."""
        self._pending.clear()
        if self._has_ended or not may_be_sending:
            self.state = State.CLOSED
            self.transport.close()
            return
        self.state = State.LINGER
        self.deadline_s = self.services.clock_s + LINGER_S
        self.resume_body()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def broke(self, error: Exception) -> None:
        """A fault of our own, met while this client was served: it ends, the others go on."""
        exchange = self.exchange
        if exchange is None or exchange.phase is Phase.OVER:
            accounting.log_fault(error)
            self.abort()
        else:
            exchange.broke(error)

    def _linger_data(self, data: bytes) -> None:
        if self.exchange is not None:
            return  # the answer to the last request is still on its way
        self._lingered_bytes += len(data)
        if self._lingered_bytes > LINGER_BYTES:
            self.abort()

    def expire(self, now_s: float) -> None:
        """The deadline has passed."""
        if self.state is HELD:
            self.take_up_held()
        elif (exchange := self.exchange) is not None:
            look(exchange, now_s)
        elif self.deadline_s > now_s:
            return  # the answer had come, but was not dealt with yet
        elif self.state is HEAD and self._has_begun_head():
            message = "The request head did not arrive in time."
            self._refuse_head(Refusal(Code.REQUEST_TIMEOUT, message))
        elif self.transport.get_write_buffer_size():
            self._wait_for_reader(now_s)
        elif self._unsent_bytes:  # now it has taken the last of its answer
            self._unsent_bytes = 0
            lingers = self.state is State.LINGER
            self._await_head(LINGER_S if lingers else self.services.policy.keep_alive_s)
        else:
            self.state = State.CLOSED
            self.transport.close()

    def _wait_for_reader(self, now_s: float) -> None:
        """The answer is complete but not taken: wait as long as the client takes some of it."""
        unsent_bytes = self.unsent_bytes()
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._moved_s = unsent_bytes, now_s
        elif now_s - self._moved_s >= self._patience_s:
            self.abort()
            return
        self.deadline_s = now_s + LOOK_S

    def close_if_idle(self, since_s: float) -> None:
        """Draining: nobody has waited for anything on this connection since then."""
        if self._idle_since_s > since_s:
            return
        idle = self.state in (HEAD, State.PREFACE) and not self._pending
        if self.exchange is None and idle and not self.transport.get_write_buffer_size():
            self.state = State.CLOSED
            self.transport.close()
