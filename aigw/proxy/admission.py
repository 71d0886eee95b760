"""The questions that a request must pass before it may cost anything, in their order.

`QUESTIONS` is the list: each looks at a `Request`, notes what it finds, and returns None to go on
or the answer that ends the request.  Limits and upstreams come after it, in `exchange.py`, since
what they take must be given back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aigw.errors import Code
from aigw.policy import cors
from aigw.policy.client_address import client_ip
from aigw.policy.keys import identify
from aigw.policy.routes import leaves_route, match_route, split_target
from aigw.proxy.refusal import OwnAnswer, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from aigw.policy import Key, Route
    from aigw.proxy.services import Services
    from aigw.wire.head import RequestHead

ATTRIBUTION = re.compile(rb"[\x21-\x7e]{1,128}")
ATTRIBUTION_FIELDS = (b"x-user-id", b"x-app-id")


class Request:
    """What is known of a request so far."""

    __slots__ = (
        "app",
        "client_ip",
        "gateway_fields",
        "head",
        "key",
        "origin",
        "path",
        "query",
        "route",
        "user",
        "wall_s",
    )

    def __init__(self, head: RequestHead, wall_s: float):
        self.head = head
        self.wall_s = wall_s
        self.path, self.query = split_target(head.target)
        self.client_ip = ""
        self.route: Route | None = None
        self.key: Key | None = None
        self.gateway_fields: frozenset[bytes] = frozenset()
        self.origin: bytes | None = None  # the origin that the answer names
        self.user = ""
        self.app = ""


Ending = Refusal | OwnAnswer | None


def trace_client(services: Services, request: Request, peer_ip: str) -> None:
    """Who the client is: the peer, or whom a trusted proxy names."""
    request.client_ip = peer_ip or "unix"
    if services.trusted.trusts(peer_ip):
        forwarded = request.head.values(b"x-forwarded-for")
        request.client_ip = client_ip(peer_ip, forwarded, services.trusted) or "unix"


def is_health_check(services: Services, request: Request) -> Ending:
    if request.path != b"/health" or request.head.method not in (b"GET", b"HEAD"):
        return None
    lines = b"Content-Type: application/json\r\nCache-Control: no-store\r\n"
    if services.draining or services.memory.control.draining:
        return OwnAnswer(503, b"Service Unavailable", lines, b'{"status":"draining"}')
    return OwnAnswer(200, b"OK", lines, b'{"status":"ok"}')


def has_a_plain_path(services: Services, request: Request) -> Ending:
    request.route = match_route(services.policy.routes, request.path)
    if leaves_route(services.policy.routes, request.path, request.route):
        message = "The path resolves to another route than it names; send it resolved."
        request.route = None
        return Refusal(Code.MALFORMED_REQUEST, message)
    return None


def is_preflight(services: Services, request: Request) -> Ending:
    route, known = request.route, request.head.known
    if route is None or not route.cors_origins:
        return None
    request.origin = cors.allowed_origin(route, known.get(b"origin"))
    if not cors.is_preflight(request.head.method, known):
        return None
    lines = b""
    if request.origin is not None:
        asked = known.get(b"access-control-request-headers", b"")
        lines = cors.preflight_lines(request.origin, asked)
        request.origin = None  # the lines above name it
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


def is_authenticated(services: Services, request: Request) -> Ending:
    identity = identify(services.policy.keys, request.head.known, request.wall_s)
    request.key = identity.key
    request.gateway_fields = identity.gateway_fields
    metrics = services.metrics
    if identity.error is None:
        metrics.words[metrics.counter("auth_success_total")] += 1
        return None
    metrics.words[metrics.counter("auth_failures_total", identity.error.word)] += 1
    return Refusal(identity.error, AUTHENTICATION_MESSAGES[identity.error])


def is_attributed(services: Services, request: Request) -> Ending:
    """Who uses the key, for what: from the client's own words, if they are fit for a log."""
    known = request.head.known
    for name in ATTRIBUTION_FIELDS:
        if name in known and not ATTRIBUTION.fullmatch(known[name]):
            message = f"{name.decode()} must be 1 to 128 visible ASCII characters."
            return Refusal(Code.MALFORMED_REQUEST, message)
    assert request.key is not None
    user = known.get(b"x-user-id")
    request.user = user.decode() if user else f"{request.key.name}:{request.client_ip}"
    request.app = known.get(b"x-app-id", b"default").decode()
    return None


def has_a_route(services: Services, request: Request) -> Ending:
    if request.route is not None:
        return None
    prefixes = ", ".join(route.name for route in services.policy.routes)
    return Refusal(Code.UNKNOWN_URL, f"No route serves this path; the routes are: {prefixes}.")


def may_use_the_route(services: Services, request: Request) -> Ending:
    assert request.key is not None
    assert request.route is not None
    allowed = request.key.routes
    if allowed is None or request.route.index in allowed:
        return None
    return Refusal(Code.ROUTE_NOT_ALLOWED, f"This key may not use {request.route.name}.")


def is_no_upgrade(services: Services, request: Request) -> Ending:
    if b"upgrade" not in request.head.known:
        return None
    return Refusal(Code.UNSUPPORTED_UPGRADE, "Protocol upgrades are not supported.")


def is_small_enough(services: Services, request: Request) -> Ending:
    if request.head.body_length <= services.policy.body_bytes:
        return None
    return too_large(services.policy.body_bytes)


def too_large(limit_bytes: int) -> Refusal:
    message = f"The request body exceeds this gateway's limit of {limit_bytes} bytes."
    return Refusal(Code.REQUEST_TOO_LARGE, message)


def finds_room(services: Services, request: Request) -> Ending:
    if services.retired:
        return Refusal(Code.SHUTTING_DOWN, "This process is shutting down; try again.", 1.0)
    if len(services.connections) > services.connection_limit:
        return Refusal(Code.OVERLOADED, "The gateway has no room for more connections.", 1.0)
    return None


QUESTIONS: tuple[Callable[[Services, Request], Ending], ...] = (
    is_health_check,
    has_a_plain_path,
    is_preflight,
    finds_room,
    is_authenticated,
    is_attributed,
    has_a_route,
    may_use_the_route,
    is_no_upgrade,
    is_small_enough,
)


def admit(services: Services, request: Request) -> Ending:
    """None where every question is passed, else the answer that ends the request."""
    for question in QUESTIONS:
        ending = question(services, request)
        if ending is not None:
            return ending
    return None
