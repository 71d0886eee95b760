"""Cross-origin requests from browsers (https://fetch.spec.whatwg.org/#http-cors-protocol).

A route with `cors_origins` answers preflights itself, since they carry no key, and puts its own
permission on every answer; an upstream's own is taken off, because a browser refuses two.
"""

from __future__ import annotations

from collections.abc import Mapping

from aigw.policy.compiled import Route

PREFLIGHT_AGE_S = 7200  # what Chromium caps it at
ANSWER_FIELDS = frozenset(
    {
        b"access-control-allow-origin",
        b"access-control-allow-credentials",
        b"access-control-expose-headers",
        b"access-control-allow-methods",
        b"access-control-allow-headers",
        b"access-control-max-age",
    }
)
METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def allowed_origin(route: Route, origin: bytes | None) -> bytes | None:
    """The origin to name in the answer, or None where the browser gets no permission."""
    if origin is None or not route.cors_origins:
        return None
    if origin in route.cors_origins:
        return origin
    return b"*" if b"*" in route.cors_origins else None


def is_preflight(method: bytes, fields: Mapping[bytes, bytes]) -> bool:
    return (
        method == b"OPTIONS" and b"origin" in fields and b"access-control-request-method" in fields
    )


def answer_lines(origin: bytes) -> bytes:
    """The fields that let a page of that origin read an answer and all of its headers."""
    vary = b"" if origin == b"*" else b"Vary: Origin\r\n"
    return b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Expose-Headers: *\r\n%b" % (
        origin,
        vary,
    )


def preflight_lines(origin: bytes, asked_headers: bytes) -> bytes:
    """The fields that permit what a preflight asked for; `*` does not cover Authorization."""
    headers = asked_headers or b"authorization, content-type, x-api-key"
    return (
        b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Allow-Methods: %b\r\n"
        b"Access-Control-Allow-Headers: %b\r\nAccess-Control-Max-Age: %d\r\n"
        b"Vary: Origin, Access-Control-Request-Headers\r\n"
        % (origin, METHODS, headers, PREFLIGHT_AGE_S)
    )
