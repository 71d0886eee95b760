"""Limits of a key: its buckets, its concurrency, and the numbers a client is told.

Check all, then take all, in one synchronous call: a refused request costs nothing.
"""

from __future__ import annotations

from math import ceil

from aigw.errors import Code
from aigw.memory import Bucket, BucketTable, HeldTable
from aigw.policy.compiled import Key, Route, UpstreamPolicy


class Limits:
    """One worker's hand on the shared limits."""

    __slots__ = ("buckets", "held")

    def __init__(self, buckets: BucketTable, held: HeldTable):
        self.buckets = buckets
        self.held = held

    def admit(self, key: Key, route: Route, upstream: UpstreamPolicy, now_s: float) -> Code | None:
        """Take a slot of the key, a place at the upstream and a token of each bucket, or nothing.

        None: all taken, `give_back` is due.  The buckets then know the tightest of them.
        """
        held = self.held
        if key.held_row >= 0 and not held.take(key.held_row, key.max_parallel):
            return Code.CONCURRENCY_LIMIT_EXCEEDED
        if upstream.in_use_row >= 0 and not held.take(
            upstream.in_use_row, upstream.pool.max_connections
        ):
            if key.held_row >= 0:
                held.give(key.held_row)
            return Code.OVERLOADED
        buckets = buckets_of(key, route)
        if buckets and self.buckets.admit(buckets, now_s) is not None:
            self.give_back(key, upstream)
            return Code.RATE_LIMIT_EXCEEDED
        return None

    def give_back(self, key: Key, upstream: UpstreamPolicy) -> None:
        """The slot and the place; a token once taken is spent."""
        if key.held_row >= 0:
            self.held.give(key.held_row)
        if upstream.in_use_row >= 0:
            self.held.give(upstream.in_use_row)

    def standing(self, key: Key, route: Route) -> tuple[Bucket, float] | None:
        """The tightest bucket and its level, right after `admit`; None for a key without any."""
        table = self.buckets
        if table.tightest is None or not (key.bucket is not None or route.has_bucket):
            return None
        return table.tightest, table.level


def standing_lines(prefix: bytes, bucket: Bucket, level: float) -> bytes:
    """OpenAI's three request headers: capacity, whole tokens left, time until full."""
    missing = bucket.burst - level
    return STANDING_LINES % (
        prefix,
        bucket.burst,
        prefix,
        level if level > 0 else 0,
        prefix,
        duration_text(missing / bucket.rate_per_s),
    )


STANDING_LINES = (
    b"%bratelimit-limit-requests: %d\r\n%bratelimit-remaining-requests: %d\r\n"
    b"%bratelimit-reset-requests: %b\r\n"
)


def buckets_of(key: Key, route: Route) -> tuple[Bucket, ...]:
    """The key's own bucket and the one that it has on the route."""
    on_route = key.route_buckets[route.index] if route.has_bucket else None
    if key.bucket is None:
        return () if on_route is None else (on_route,)
    return (key.bucket,) if on_route is None else (key.bucket, on_route)


def duration_text(seconds: float) -> bytes:
    """OpenAI's spelling of a duration, rounded up: `12ms`, `1s`, `6m0s`, `1h0m0s`."""
    if seconds < 0.999:
        return b"%dms" % ceil(seconds * 1000)
    whole = ceil(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes == 0:
        return b"%ds" % rest
    hours, minutes = divmod(minutes, 60)
    return b"%dm%ds" % (minutes, rest) if hours == 0 else b"%dh%dm%ds" % (hours, minutes, rest)
