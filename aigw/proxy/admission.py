"""The questions that a request must pass before it may cost anything, in their order.

Each question looks at an exchange, notes on it what it finds, and returns None to go on or the
answer that ends the request.  `QUESTIONS` lists all of them; `KNOWN_QUESTIONS` those whose answer
is not settled by the shape of a head that has passed before (`known.py`).  Limits and upstreams
come after them, since what they take must be given back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aigw.errors import Code
from aigw.policy import cors
from aigw.policy.client_address import client_ip
from aigw.policy.keys import identify
from aigw.policy.routes import leaves_route, match_route
from aigw.proxy.refusal import OwnAnswer, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aigw.proxy.exchange import Exchange

ATTRIBUTION = re.compile(rb"[\x21-\x7e]{1,128}")
ATTRIBUTION_FIELDS = (b"x-user-id", b"x-app-id")

Ending = Refusal | OwnAnswer | None


def is_health_check(exchange: Exchange) -> Ending:
    request, services = exchange.facts, exchange.services
    if request.path != b"/health" or request.method not in (b"GET", b"HEAD"):
        return None
    lines = b"Content-Type: application/json\r\nCache-Control: no-store\r\n"
    if services.draining or services.memory.control.draining:
        return OwnAnswer(503, b"Service Unavailable", lines, b'{"status":"draining"}')
    return OwnAnswer(200, b"OK", lines, b'{"status":"ok"}')


def has_a_plain_path(exchange: Exchange) -> Ending:
    request, routes = exchange.facts, exchange.services.policy.routes
    request.route = match_route(routes, request.path)
    if leaves_route(routes, request.path, request.route):
        message = "The path resolves to another route than it names; send it resolved."
        request.route = None
        return Refusal(Code.MALFORMED_REQUEST, message)
    return None


def is_preflight(exchange: Exchange) -> Ending:
    route, head = exchange.facts.route, exchange.facts.head
    if route is None or not route.cors_origins:
        return None
    exchange.origin = cors.allowed_origin(route, head.known.get(b"origin"))
    if not cors.is_preflight(head.method, head.known):
        return None
    lines = b"Vary: Origin\r\n"
    if exchange.origin is not None:
        asked = head.known.get(b"access-control-request-headers", b"")
        lines = cors.preflight_lines(exchange.origin, asked)
        exchange.origin = None  # the lines above name it
    return OwnAnswer(204, b"No Content", lines, b"")


AUTHENTICATION_MESSAGES = {
    Code.MISSING_API_KEY: (
        "No API key was sent. "
        "Send a gateway key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
    ),
    Code.INVALID_API_KEY: "The API key is not known to this gateway, or has been revoked.",
    Code.EXPIRED_API_KEY: "The API key has expired.",
    Code.AMBIGUOUS_API_KEY: "The request carries two different gateway keys; send one.",
}


def is_authenticated(exchange: Exchange) -> Ending:
    services = exchange.services
    wall_s = exchange.started_s + services.wall_offset_s
    exchange.key, error = identify(services.policy.keys, exchange.credentials, wall_s)
    metrics = services.metrics
    if error is None:
        metrics.words[services.auth_success] += 1
        return None
    metrics.words[metrics.counter("auth_failures_total", error.word)] += 1
    return Refusal(error, AUTHENTICATION_MESSAGES[error])


def is_attributed(exchange: Exchange) -> Ending:
    """Who uses the key, for what: from the client's own words, if they are fit for a log."""
    known = exchange.facts.head.known
    for name in ATTRIBUTION_FIELDS:
        if name in known and not ATTRIBUTION.fullmatch(known[name]):
            message = f"{name.decode()} must be 1 to 128 visible ASCII characters."
            return Refusal(Code.MALFORMED_REQUEST, message)
    exchange.user = known.get(b"x-user-id")
    exchange.app = known.get(b"x-app-id")
    return None


def has_a_route(exchange: Exchange) -> Ending:
    if exchange.facts.route is not None:
        return None
    prefixes = ", ".join(route.name for route in exchange.services.policy.routes)
    return Refusal(Code.UNKNOWN_URL, f"No route serves this path; the routes are: {prefixes}.")


def may_use_the_route(exchange: Exchange) -> Ending:
    key, route = exchange.key, exchange.facts.route
    assert key is not None
    assert route is not None
    if key.routes is None or route.index in key.routes:
        return None
    return Refusal(Code.ROUTE_NOT_ALLOWED, f"This key may not use {route.name}.")


def is_no_upgrade(exchange: Exchange) -> Ending:
    if b"upgrade" not in exchange.facts.head.known:
        return None
    return Refusal(Code.UNSUPPORTED_UPGRADE, "Protocol upgrades are not supported.")


def is_small_enough(exchange: Exchange) -> Ending:
    limit_bytes = exchange.services.policy.body_bytes
    return None if exchange.body_length <= limit_bytes else too_large(limit_bytes)


def too_large(limit_bytes: int) -> Refusal:
    message = f"The request body exceeds this gateway's limit of {limit_bytes} bytes."
    return Refusal(Code.REQUEST_TOO_LARGE, message)


def finds_us_open(exchange: Exchange) -> Ending:
    return exchange.services.refusing


QUESTIONS: tuple[Callable[[Exchange], Ending], ...] = (
    is_health_check,
    has_a_plain_path,
    is_preflight,
    finds_us_open,
    is_authenticated,
    is_attributed,
    has_a_route,
    may_use_the_route,
    is_no_upgrade,
    is_small_enough,
)
KNOWN_QUESTIONS = (finds_us_open, is_authenticated, may_use_the_route, is_small_enough)


def admit(exchange: Exchange, questions: Iterable[Callable[[Exchange], Ending]]) -> Ending:
    """None where every question is passed, else the answer that ends the request."""
    for question in questions:
        ending = question(exchange)
        if ending is not None:
            return ending
    return None


def is_unauthenticated(ending: Ending) -> bool:
    return isinstance(ending, Refusal) and ending.code.status == 401


def client_of(exchange: Exchange, forwarded: list[bytes]) -> str:
    """Who the client is: the peer, or whom a trusted proxy names in X-Forwarded-For."""
    peer_ip, trusted = exchange.client.peer_ip, exchange.services.trusted
    return (client_ip(peer_ip, forwarded, trusted) if trusted.any else peer_ip) or "unix"
