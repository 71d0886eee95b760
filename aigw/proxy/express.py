"""The express lane: a plain request, from its recognised head to its record, straight down.

Most requests are plain: the head recognised and the body there with it, one key and it is good,
room in its limits, a warm connection to a member that is in; then the answer's head recognised and
its body there with it.  For these the story of `exchange.py` spends much of its time on asking what
is settled; straight down they cost 38 µs of the interpreter's time instead of 56 (`python -m
bench.micro` with and without this lane, in alternation, 2026-11-23).

`send` does what `Exchange.begin_known` to `_send` do, `receive` what `Exchange.answer_known` to
`finish` do, on the same exchange and with the same tables.  Whatever is not plain they leave to the
story, and say so by returning False before they have changed anything.  The story stays the
authority: every conversation of the tests runs with and without this lane.
"""

from __future__ import annotations

import re
import time
from hashlib import sha256
from typing import TYPE_CHECKING

from aigw.policy.limits import standing_lines
from aigw.proxy import accounting
from aigw.proxy.phase import Phase
from aigw.wire.framing import LengthReader

if TYPE_CHECKING:
    from aigw.proxy.client import ClientConnection
    from aigw.proxy.exchange import Exchange
    from aigw.proxy.known import KnownRequest
    from aigw.upstreams.known import KnownAnswer


def send(
    client: ClientConnection, known: KnownRequest, found: re.Match[bytes], data: bytes
) -> bool:
    """Admit the request at the start of `data` and send it on; False where that is not plain."""
    services, route, end = client.services, known.route, found.end()
    length = int(found[known.length]) if known.length else 0
    plain = known.is_plain and len(data) - end == length <= services.policy.body_bytes
    if not plain or services.retired:
        return False
    key = services.policy.keys.get(sha256(found[known.credential]).digest())
    if key is None or key.revoked or key.expires_at <= time.time():
        return False
    if key.routes is not None and route.index not in key.routes:
        return False
    group, now_s = known.group, time.monotonic()
    member = group.choose(now_s, services.is_member_out)
    connection = None if member is None else member.take_idle(now_s)
    if member is None or connection is None:
        return False
    limits = services.limits
    if limits.admit(key, route, group.settings, now_s) is not None:
        member.idle.append(connection)
        return False
    group.next_turn()

    exchange = client.new_exchange(now_s)
    exchange.request, exchange.known, exchange.found = known.facts, known, found
    exchange.key, exchange.group = key, group
    exchange.is_held = True
    accounting.began(exchange)
    client.serve(exchange, services.clock_s + route.first_byte_s)
    exchange.standing = limits.standing(key, route)
    if known.user:
        exchange.user = found[known.user]
    if known.app:
        exchange.app = found[known.app]
    exchange.body = body = LengthReader(0)
    body.payload_bytes = length
    piece = data[end:]
    exchange.replay = None
    if known.facts.is_replayable and length <= services.policy.inspect_bytes:
        exchange.replay = [piece]
    exchange.phase = Phase.AWAITING
    exchange.attempts = 1
    exchange.connection, exchange.member = connection, member
    member.inflight += 1
    services.metrics.words[services.auth_success] += 1
    accounting.admitted(exchange)
    connection.begin(exchange, services.policy.upstream_head_bytes, True)
    head = known.head_for(member, found, group.credential_lines())
    connection.transport.write(head + piece if piece else head)
    exchange.overhead_s = time.monotonic() - now_s
    return True


def receive(exchange: Exchange, known: KnownAnswer, found: re.Match[bytes], rest: bytes) -> bool:
    """Hand on an answer that is all here and finish; False where that is not plain."""
    client, connection = exchange.client, exchange.connection
    if not known.length or len(rest) != int(found[known.length]):
        return False
    if exchange.phase is not Phase.AWAITING or connection is None or exchange.client_is_full:
        return False
    if not known.head.leaves_connection_clean or not client.may_stay(exchange.facts.head):
        return False
    exchange.first_byte_s = now_s = time.monotonic()
    lines = b"x-aigw-request-id: %b\r\n" % exchange.request_id
    if exchange.standing is not None:
        lines += standing_lines(b"x-aigw-", *exchange.standing)
    client.transport.write(known.format % (*found.groups(), lines) + rest)
    exchange.status, exchange.bytes_out = known.head.status, len(rest)
    exchange.is_stream = known.head.is_stream
    exchange.connection = None
    if exchange.client_is_full:  # that write filled it, and paused the upstream
        connection.transport.resume_reading()
    connection.note_keep_alive(known.head)
    connection.member.give_idle(connection, now_s)
    accounting.attempt_succeeded(exchange)
    exchange.in_first_turn = True
    exchange.finish(None)
    client.answer_complete(True)
    return True
