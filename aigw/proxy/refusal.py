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
    return Refusal(code, f"Rate limit reached; try again in {wait_s:.3f} s.", wait_s, lines)


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
