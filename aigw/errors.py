"""What the gateway itself may answer or record: one table, one word everywhere; faults in words.

The same word stands in the error body, in `x-aigw-error`, in the access log and in the metrics.
How a word is wrapped for a client is the business of `dialects`.
"""

from __future__ import annotations

import os
from enum import Enum

FRAMES_TOLD = 6  # of a fault of our own, the innermost first: one line of a log


class StartError(Exception):
    """A fault that keeps aigw from starting: one clear line for the operator, exit status 1."""


def in_one_line(error: BaseException) -> str:
    """What was raised, and where, for the log.

    Not the error's own text, which others have written and which may quote what a client has sent
    or a secret (as UnicodeError, KeyError, and h11's do); only ours is fit to be shown.
    """
    what = type(error).__name__
    if isinstance(error, StartError):
        what += f": {error}"
    elif isinstance(error, OSError) and error.errno:
        what += f": {os.strerror(error.errno)}"
    places, step = [], error.__traceback__
    while step is not None:
        places.append(f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}")
        step = step.tb_next
    return " ".join(f"{what} ({' < '.join(places[: -FRAMES_TOLD - 1 : -1])})".split())


class Code(Enum):
    """Every error the gateway makes: its word, its HTTP status, may the client try again.

    `retry` is None where the status speaks for itself, else the value of `x-should-retry`.
    """

    MALFORMED_REQUEST = ("malformed_request", 400, None)
    MISSING_API_KEY = ("missing_api_key", 401, None)
    INVALID_API_KEY = ("invalid_api_key", 401, None)
    EXPIRED_API_KEY = ("expired_api_key", 401, None)
    AMBIGUOUS_API_KEY = ("ambiguous_api_key", 401, None)
    ROUTE_NOT_ALLOWED = ("route_not_allowed", 403, None)
    UNKNOWN_URL = ("unknown_url", 404, None)
    REQUEST_TIMEOUT = ("request_timeout", 408, None)
    REQUEST_TOO_LARGE = ("request_too_large", 413, None)
    URI_TOO_LONG = ("uri_too_long", 414, None)
    RATE_LIMIT_EXCEEDED = ("rate_limit_exceeded", 429, None)
    CONCURRENCY_LIMIT_EXCEEDED = ("concurrency_limit_exceeded", 429, None)
    HEADERS_TOO_LARGE = ("headers_too_large", 431, None)
    INTERNAL_ERROR = ("internal_error", 500, None)
    UNSUPPORTED_UPGRADE = ("unsupported_upgrade", 501, None)
    UPSTREAM_ERROR = ("upstream_error", 502, None)
    UPSTREAM_AUTH_ERROR = ("upstream_auth_error", 502, "false")
    NO_HEALTHY_UPSTREAM = ("no_healthy_upstream", 503, None)
    OVERLOADED = ("overloaded", 503, None)
    SHUTTING_DOWN = ("shutting_down", 503, None)
    UPSTREAM_TIMEOUT = ("upstream_timeout", 504, None)
    # Only in log and metric: the client is gone, or has already received a part of the answer.
    CLIENT_CLOSED = ("client_closed", 499, None)
    UPSTREAM_TRUNCATED = ("upstream_truncated", 0, None)

    def __init__(self, word: str, status: int, retry: str | None) -> None:
        self.word = word
        self.status = status
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
