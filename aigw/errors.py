"""What the gateway itself may answer or record: one table, one word everywhere.

The same word stands in the error body, in `x-aigw-error`, in the access log and in the metrics.
How a word is wrapped for a client is the business of `dialects`.
"""

from __future__ import annotations

from enum import Enum


class StartError(Exception):
    """A fault that keeps aigw from starting: one clear line for the operator, exit status 1."""


class Fault(Enum):
    """Whose fault an error is."""

    CLIENT = "client"
    POLICY = "policy"
    UPSTREAM = "upstream"
    GATEWAY = "gateway"


class Code(Enum):
    """Every error the gateway makes: HTTP status, whose fault it is, may the client try again.

    `retry` is None where the status speaks for itself, else the value of `x-should-retry`.
    """

    MALFORMED_REQUEST = ("malformed_request", 400, Fault.CLIENT, None)
    MISSING_API_KEY = ("missing_api_key", 401, Fault.CLIENT, None)
    INVALID_API_KEY = ("invalid_api_key", 401, Fault.CLIENT, None)
    EXPIRED_API_KEY = ("expired_api_key", 401, Fault.CLIENT, None)
    AMBIGUOUS_API_KEY = ("ambiguous_api_key", 401, Fault.CLIENT, None)
    ROUTE_NOT_ALLOWED = ("route_not_allowed", 403, Fault.POLICY, None)
    UNKNOWN_URL = ("unknown_url", 404, Fault.CLIENT, None)
    REQUEST_TIMEOUT = ("request_timeout", 408, Fault.CLIENT, None)
    REQUEST_TOO_LARGE = ("request_too_large", 413, Fault.CLIENT, None)
    URI_TOO_LONG = ("uri_too_long", 414, Fault.CLIENT, None)
    RATE_LIMIT_EXCEEDED = ("rate_limit_exceeded", 429, Fault.POLICY, None)
    CONCURRENCY_LIMIT_EXCEEDED = ("concurrency_limit_exceeded", 429, Fault.POLICY, None)
    HEADERS_TOO_LARGE = ("headers_too_large", 431, Fault.CLIENT, None)
    INTERNAL_ERROR = ("internal_error", 500, Fault.GATEWAY, None)
    UNSUPPORTED_UPGRADE = ("unsupported_upgrade", 501, Fault.CLIENT, None)
    UPSTREAM_ERROR = ("upstream_error", 502, Fault.UPSTREAM, None)
    UPSTREAM_AUTH_ERROR = ("upstream_auth_error", 502, Fault.UPSTREAM, "false")
    NO_HEALTHY_UPSTREAM = ("no_healthy_upstream", 503, Fault.UPSTREAM, None)
    OVERLOADED = ("overloaded", 503, Fault.GATEWAY, None)
    SHUTTING_DOWN = ("shutting_down", 503, Fault.GATEWAY, None)
    UPSTREAM_TIMEOUT = ("upstream_timeout", 504, Fault.UPSTREAM, None)
    # Only in log and metric: the client is gone, or has already received a part of the answer.
    CLIENT_CLOSED = ("client_closed", 499, Fault.CLIENT, None)
    UPSTREAM_TRUNCATED = ("upstream_truncated", 0, Fault.UPSTREAM, None)

    def __init__(self, word: str, status: int, fault: Fault, retry: str | None) -> None:
        self.word = word
        self.status = status
        self.fault = fault
        self.retry = retry


REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
