"""What is counted and logged of an exchange: one record each, on every path.

Observation comes after relaying: nothing here writes to a client or an upstream.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from aigw.errors import Code
from aigw.observe.access_log import Clock, Record, encode

if TYPE_CHECKING:
    from aigw.proxy.exchange import Exchange

logger = logging.getLogger("aigw")
_clock = Clock()

OTHER = "other"  # the label of what has no configured name
NOT_SUCCESS = 500  # from this status on an upstream's answer is not counted as a success


def began(exchange: Exchange) -> None:
    services = exchange.services
    services.metrics.words[services.in_flight] += 1


def admitted(exchange: Exchange) -> None:
    """All questions are passed, and what must be taken is taken."""
    services = exchange.services
    services.metrics.words[services.accepted] += 1


def attempt_failed(exchange: Exchange, reason: str) -> None:
    """One attempt has failed; `reason` is a word of ours."""
    _attempt(exchange, "upstream_failures_total", reason)


def attempt_abandoned(exchange: Exchange, reason: str) -> None:
    """One attempt was ended by us or the client: neither success nor failure of the upstream."""
    _attempt(exchange, None, reason)


def attempt_succeeded(exchange: Exchange) -> None:
    """One attempt has brought a whole answer; a 5xx is a failure of the upstream all the same."""
    group, metrics = exchange.group, exchange.services.metrics
    if exchange.status >= NOT_SUCCESS or group is None:
        _attempt(exchange, "upstream_failures_total", "status_5xx")
        return
    words = group.success_words
    if words is None:
        name, reason = group.settings.name, "complete"
        words = group.success_words = (
            metrics.counter("upstream_attempts_total", name, reason),
            metrics.counter("upstream_success_total", name, reason),
        )
    metrics.words[words[0]] += 1
    metrics.words[words[1]] += 1


def _attempt(exchange: Exchange, outcome: str | None, reason: str) -> None:
    if exchange.group is None:
        return
    metrics = exchange.services.metrics
    name = exchange.group.settings.name
    metrics.words[metrics.counter("upstream_attempts_total", name, reason)] += 1
    if outcome is not None:
        metrics.words[metrics.counter(outcome, name, reason)] += 1


def ended(exchange: Exchange) -> None:
    """The record of a finished exchange: metrics and one access line."""
    now_s, services = time.monotonic(), exchange.services
    services.metrics.words[services.in_flight] -= 1
    if exchange.error is Code.CLIENT_CLOSED:
        exchange.status = Code.CLIENT_CLOSED.status
    if exchange.in_first_turn:
        exchange.overhead_s += now_s - exchange.first_byte_s
    elif not exchange.attempts:  # an answer of our own: all of it was ours
        exchange.overhead_s = now_s - exchange.started_s
    _count(exchange, now_s)
    log = services.log
    if log.enabled:
        log.append(encode(record_of(exchange, now_s)))


def _count(exchange: Exchange, now_s: float) -> None:
    metrics, request, started_s = exchange.services.metrics, exchange.request, exchange.started_s
    route = request.route.name if request is not None and request.route is not None else OTHER
    upstream = exchange.group.settings.name if exchange.group is not None else OTHER
    ttfb_s = exchange.first_byte_s - started_s if exchange.first_byte_s >= 0 else -1.0
    metrics.finish(route, upstream, exchange.status, now_s - started_s, ttfb_s)
    if exchange.overhead_s:
        metrics.overhead(exchange.overhead_s)
    error = exchange.error
    if error is not None and error.status == 429 and exchange.key is not None:
        metrics.words[metrics.counter("rate_limited_total", exchange.key.name, error.word)] += 1


def record_of(exchange: Exchange, now_s: float) -> Record:
    """The access line's fields in the contract's order; None is what is not known."""
    request, key, member, group = exchange.request, exchange.key, exchange.member, exchange.group
    started_s, first_byte_s = exchange.started_s, exchange.first_byte_s
    route = request.route if request is not None else None
    user = app = None
    if key is not None:
        user = exchange.user.decode() if exchange.user else f"{key.name}:{exchange.client_ip}"
        app = exchange.app.decode() if exchange.app else "default"
    return Record(
        _clock.text(exchange.began_at),
        exchange.request_id.decode(),
        key.name if key is not None else None,
        user,
        app,
        exchange.client_ip,
        request.method_text if request is not None else "",
        request.path_text if request is not None else "",
        exchange.status,
        exchange.error.word if exchange.error is not None else None,
        route.name if route is not None else None,
        group.settings.name if group is not None else None,
        member.label if member is not None else None,
        exchange.attempts,
        exchange.body.payload_bytes,
        exchange.bytes_out,
        int((first_byte_s - started_s) * 1e6) / 1e3 if first_byte_s >= 0 else None,
        int((now_s - started_s) * 1e6) / 1e3,
        int(exchange.overhead_s * 1e6),
        exchange.is_stream,
    )


def log_fault(error: Exception) -> None:
    """A fault of our own: one line that says where, and nothing that a client sent."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "nowhere"
    logger.error("internal error at %s: %s", place, type(error).__name__)
