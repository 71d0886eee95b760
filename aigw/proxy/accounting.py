"""What is counted and logged of an exchange: one record each, on every path.

Observation comes after relaying: nothing here writes to a client or an upstream.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from aigw.errors import Code, in_one_line
from aigw.observe.access_line import Subject, subject_text
from aigw.observe.metrics import attempt_rows

if TYPE_CHECKING:
    from aigw.policy import Key
    from aigw.proxy.exchange import Exchange

logger = logging.getLogger("aigw")

NONE_US = -1  # in the place of a time that there is not
OTHER = "other"  # the label of what has no configured name


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
    assert group is not None
    for name, labels in attempt_rows(group.settings.name, exchange.status):
        metrics.words[metrics.counter(name, *labels)] += 1


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
    started_s, first_byte_s = exchange.started_s, exchange.first_byte_s
    duration_us = int((now_s - started_s) * 1e6)
    ttfb_us = int((first_byte_s - started_s) * 1e6) if first_byte_s >= 0 else NONE_US
    overhead_us = int(exchange.overhead_s * 1e6)
    _count(exchange, duration_us, ttfb_us, overhead_us)
    if services.log.enabled:
        subject, bytes_in = subject_text(_subject_of(exchange)), exchange.body.payload_bytes
        services.log.note(
            int((started_s + services.wall_offset_s) * 1e3),
            (duration_us, ttfb_us, overhead_us, exchange.is_stream),
            ((exchange.request_id, subject, bytes_in, exchange.bytes_out),),
        )


def _count(exchange: Exchange, duration_us: int, ttfb_us: int, overhead_us: int) -> None:
    metrics, request, error = exchange.services.metrics, exchange.request, exchange.error
    route = request.route.name if request is not None and request.route is not None else OTHER
    upstream = exchange.group.settings.name if exchange.group is not None else OTHER
    metrics.finish(route, upstream, exchange.status, duration_us, ttfb_us, overhead_us)
    if error is not None and error.status == 429 and exchange.key is not None:
        metrics.words[metrics.counter("rate_limited_total", exchange.key.name, error.word)] += 1


def _subject_of(exchange: Exchange) -> Subject:
    request, key, member, group = exchange.request, exchange.key, exchange.member, exchange.group
    route = request.route if request is not None else None
    return Subject(
        key.name if key is not None else None,
        user_name(key, exchange.user, exchange.client_ip) if key is not None else None,
        app_name(exchange.app) if key is not None else None,
        exchange.client_ip,
        request.method_text if request is not None else "",
        request.path_text if request is not None else "",
        exchange.status,
        exchange.error.word if exchange.error is not None else None,
        route.name if route is not None else None,
        group.settings.name if group is not None else None,
        member.label if member is not None else None,
        exchange.attempts,
    )


def user_name(key: Key, user: bytes | None, client_ip: str) -> str:
    return user.decode() if user else f"{key.name}:{client_ip}"


def app_name(app: bytes | None) -> str:
    return app.decode() if app else "default"


def log_fault(error: Exception) -> None:
    """A fault of our own: one line that says where, and nothing that a client sent."""
    logger.error("internal error: %s", in_one_line(error))
