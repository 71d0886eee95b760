"""The gateway's own answers, marked as its own: refusals, health, preflights.

An early refusal is written at once and the connection closed with care (`client.py`), so that a
client that is still sending sees the answer and not a reset.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from aigw.dialects import error_body
from aigw.errors import REASONS, Code
from aigw.policy import Key
from aigw.policy.limits import Limits, standing_lines, standing_of


class Refusal(NamedTuple):
    """Why a request gets no answer from upstream.

    `retry_after_s` is set where waiting helps; `lines` are further header lines, each with CRLF.
    """

    code: Code
    message: str
    retry_after_s: float | None = None
    lines: bytes = b""


class OwnAnswer(NamedTuple):
    """An answer that needs no upstream: a health check or a preflight."""

    status: int
    reason: bytes
    lines: bytes
    body: bytes


def limit_refusal(code: Code, key: Key, limits: Limits, now_s: float) -> Refusal:
    """The refusal for what `Limits.admit` has just said."""
    table = limits.buckets
    if code is Code.CONCURRENCY_LIMIT_EXCEEDED:
        message = f"This key may have {key.max_parallel} requests in flight."
        lines = b""
        if key.bucket is not None:
            standing = standing_of(key.bucket, table.level_of(key.bucket, now_s))
            lines = standing_lines(b"x-", standing)
        return Refusal(code, message, 1.0, lines)
    if code is Code.OVERLOADED:
        return Refusal(code, "All connections to the upstream are in use.", 1.0)
    bucket = table.tightest
    assert bucket is not None
    wait_s = table.wait_s(bucket, now_s)
    lines = standing_lines(b"x-", standing_of(bucket, table.level))
    return _rate_limit(f"{wait_s:.3f}", wait_s, lines)


def refusal_answer(refusal: Refusal, request_id: bytes) -> OwnAnswer:
    """The refusal in OpenAI's envelope, with the headers that clients obey."""
    code = refusal.code
    body = error_body(code, refusal.message)
    lines = [
        b"Content-Type: application/json\r\n",
        b"x-request-id: %b\r\n" % request_id,
        b"x-aigw-error: %b\r\n" % code.word.encode(),
        refusal.lines,
    ]
    if code.status == 401:
        lines.append(b"WWW-Authenticate: Bearer\r\n")
    if code.retry is not None:
        lines.append(b"x-should-retry: %b\r\n" % code.retry.encode())
    if refusal.retry_after_s is not None:
        lines.append(retry_lines(refusal.retry_after_s))
    return OwnAnswer(code.status, REASONS[code.status].encode(), b"".join(lines), body)


def retry_lines(wait_s: float) -> bytes:
    """`Retry-After` in seconds (RFC 9110, 10.2.3) and in milliseconds, both rounded up."""
    return b"Retry-After: %d\r\nretry-after-ms: %d\r\n" % (
        max(1, ceil(wait_s)),
        max(1, ceil(wait_s * 1000)),
    )


def own_answer_bytes(answer: OwnAnswer, common_lines: bytes, without_body: bool) -> bytes:
    """The whole answer as it goes out; `common_lines` are those that every answer carries."""
    length = b"" if answer.status == 204 else b"Content-Length: %d\r\n" % len(answer.body)
    head = b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (
        answer.status,
        answer.reason,
        answer.lines,
        length,
        common_lines,
    )
    return head if without_body else head + answer.body


# ---- refusals that are written often, as formats -------------------------------------------------

# Stand in an answer where a format takes a value; nothing of ours contains them.
_ID, _DATE, _LINES, _WAIT, _WAIT_S = b"@id@", b"@date@", b"@lines@", "@wait@", 987654321
_OWN = _DATE + b"x-aigw-request-id: " + _ID + b"\r\n"


def _format_of(refusal: Refusal, body_is_open: bool) -> tuple[bytes, int]:
    """The refusal for a client that may stay, as a format, and the length of its body without what
    is open in it."""
    answer = refusal_answer(refusal, _ID)
    octets = own_answer_bytes(answer, _OWN, False).replace(b"%", b"%%")
    length = len(answer.body)
    if body_is_open:
        octets = octets.replace(b"Content-Length: %d" % length, b"Content-Length: %d")
        length -= len(_WAIT)
    for mark in (_ID, _DATE, _LINES, _WAIT.encode()):
        octets = octets.replace(mark, b"%b")
    for number in (_WAIT_S * 1000, _WAIT_S):
        octets = octets.replace(b"%d" % number, b"%d")
    return octets, length


class ReadyRefusal:
    """A refusal that is the same each time but for its id and date."""

    __slots__ = ("_format", "body_bytes", "code")

    def __init__(self, refusal: Refusal):
        self.code = refusal.code
        self._format, self.body_bytes = _format_of(refusal, body_is_open=False)

    def octets(self, request_id: bytes, date_line: bytes) -> bytes:
        """The whole answer, for a client that may stay."""
        return self._format % (request_id, date_line, request_id)


def _rate_limit(wait: str, wait_s: float, lines: bytes) -> Refusal:
    message = f"Rate limit reached; try again in {wait} s."
    return Refusal(Code.RATE_LIMIT_EXCEEDED, message, wait_s, lines)


RATE_LIMIT_FORMAT, RATE_LIMIT_BODY_BYTES = _format_of(
    _rate_limit(_WAIT, float(_WAIT_S), _LINES), body_is_open=True
)


def rate_limit_octets(
    wait_s: float, lines: bytes, request_id: bytes, date_line: bytes
) -> tuple[bytes, int]:
    """`limit_refusal` for a bucket as a whole answer, and the length of its body."""
    wait = b"%.3f" % wait_s
    body_bytes = RATE_LIMIT_BODY_BYTES + len(wait)
    seconds, milliseconds = max(1, ceil(wait_s)), max(1, ceil(wait_s * 1000))
    octets = RATE_LIMIT_FORMAT % (
        *(request_id, lines, seconds, milliseconds, body_bytes),
        *(date_line, request_id, wait),
    )
    return octets, body_bytes
