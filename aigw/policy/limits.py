"""Limits of a key: its buckets, its concurrency, and the numbers a client is told.

Check all, then take all, in one synchronous call: a refused request costs nothing.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from aigw.memory import Bucket, BucketTable, HeldTable
from aigw.policy.compiled import NO_ROW, Key, Route


class Limits:
    """One worker's hand on the shared limits."""

    __slots__ = ("buckets", "held")

    def __init__(self, buckets: BucketTable, held: HeldTable):
        self.buckets = buckets
        self.held = held

    def take_slot(self, key: Key) -> bool:
        """One of the key's `max_parallel_requests`; give it back with `give_slot`."""
        return key.held_row == NO_ROW or self.held.take(key.held_row, key.max_parallel)

    def give_slot(self, key: Key) -> None:
        if key.held_row != NO_ROW:
            self.held.give(key.held_row)

    def take_tokens(self, key: Key, route: Route, now_s: float) -> Bucket | None:
        """One token from each bucket, or None taken and the bucket that refuses."""
        buckets = buckets_of(key, route)
        return self.buckets.admit(buckets, now_s) if buckets else None

    def standing(self, key: Key, route: Route, now_s: float) -> Standing | None:
        """Where the tightest of the key's buckets on the route stands; None without any."""
        tightest: Standing | None = None
        for bucket in buckets_of(key, route):
            standing = Standing(bucket, self.buckets.level(bucket, now_s))
            if tightest is None or standing.level < tightest.level:
                tightest = standing
        return tightest


class Standing(NamedTuple):
    """A bucket and its level."""

    bucket: Bucket
    level: float

    def header_lines(self, prefix: bytes) -> bytes:
        """OpenAI's three request headers; capacity, whole tokens left, time until full."""
        bucket = self.bucket
        missing = max(0.0, bucket.burst - self.level)
        return (
            b"%bratelimit-limit-requests: %d\r\n%bratelimit-remaining-requests: %d\r\n"
            b"%bratelimit-reset-requests: %b\r\n"
        ) % (
            prefix,
            bucket.burst,
            prefix,
            max(0, int(self.level)),
            prefix,
            duration_text(missing / bucket.rate_per_s),
        )


def buckets_of(key: Key, route: Route) -> tuple[Bucket, ...]:
    """The key's own bucket and the one that it has on the route."""
    on_route = key.route_buckets[route.index] if route.has_bucket else None
    if key.bucket is None:
        return () if on_route is None else (on_route,)
    return (key.bucket,) if on_route is None else (key.bucket, on_route)


def duration_text(seconds: float) -> bytes:
    """OpenAI's spelling of a duration, rounded up: `12ms`, `1s`, `6m0s`, `1h0m0s`."""
    if seconds < 1:
        return b"%dms" % ceil(seconds * 1000)
    whole = ceil(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes == 0:
        return b"%ds" % rest
    hours, minutes = divmod(minutes, 60)
    return b"%dm%ds" % (minutes, rest) if hours == 0 else b"%dh%dm%ds" % (hours, minutes, rest)
