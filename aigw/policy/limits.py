"""Limits of a key: its buckets, its concurrency, and the numbers a client is told.

Check all, then take all, in one synchronous call: a refused request costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from msgspec import Struct

from aigw.errors import Code
from aigw.memory import Bucket, BucketTable, HeldTable
from aigw.policy.compiled import Key, Route, UpstreamPolicy


class Claim(Struct, frozen=True, gc=False):
    """What one request of a key on a route takes: its places, and a token of each bucket.

    A row below 0: no such limit.
    """

    held_row: int
    max_parallel: int
    in_use_row: int
    max_connections: int
    buckets: tuple[Bucket, ...]


def claim_of(key: Key, route: Route, upstream: UpstreamPolicy) -> Claim:
    """What a request of this key on this route to this upstream takes."""
    return Claim(
        key.held_row,
        key.max_parallel,
        upstream.in_use_row,
        upstream.pool.max_connections,
        buckets_of(key, route),
    )


class Hand(NamedTuple):
    """`Limits.admit` and `give_back` for one simple claim, in steps that are bound to it.

    Take the slot, then the token; where there is none, give the slot back.
    """

    take_slot: Callable[[], bool]
    give_slot: Callable[[], None]
    take_token: Callable[[float], float]  # see `BucketTable.taker`
    bucket: Bucket | None


def always() -> bool:
    return True


def nothing() -> None:
    return None


def unlimited(now_s: float) -> float:
    return 0.0


class Limits:
    """One worker's hand on the shared limits."""

    __slots__ = ("buckets", "held")

    def __init__(self, buckets: BucketTable, held: HeldTable):
        self.buckets = buckets
        self.held = held

    def admit(self, claim: Claim, now_s: float) -> Code | None:
        """Take a slot of the key, a place at the upstream and a token of each bucket, or nothing.

        None: all taken, `give_back` is due.  The buckets then know the tightest of them.
        """
        held = self.held
        if claim.held_row >= 0 and not held.take(claim.held_row, claim.max_parallel):
            return Code.CONCURRENCY_LIMIT_EXCEEDED
        if claim.in_use_row >= 0 and not held.take(claim.in_use_row, claim.max_connections):
            if claim.held_row >= 0:
                held.give(claim.held_row)
            return Code.OVERLOADED
        if claim.buckets and self.buckets.admit(claim.buckets, now_s) is not None:
            self.give_back(claim)
            return Code.RATE_LIMIT_EXCEEDED
        return None

    def give_back(self, claim: Claim) -> None:
        """The slot and the place; a token once taken is spent."""
        if claim.held_row >= 0:
            self.held.give(claim.held_row)
        if claim.in_use_row >= 0:
            self.held.give(claim.in_use_row)

    def hand(self, claim: Claim) -> Hand | None:
        """For a claim of at most one bucket and no place at the upstream, which is most of them."""
        if claim.in_use_row >= 0 or len(claim.buckets) > 1:
            return None
        take_slot = give_slot = None
        if claim.held_row >= 0:
            take_slot, give_slot = self.held.taker(claim.held_row, claim.max_parallel)
        bucket = claim.buckets[0] if claim.buckets else None
        return Hand(
            take_slot or always,
            give_slot or nothing,
            self.buckets.taker(bucket) if bucket is not None else unlimited,
            bucket,
        )

    def tightest(self, claim: Claim) -> Bucket | None:
        """Right after `admit`: the bucket that is nearest to its end; `buckets.level` is its level.
        None where there is no bucket."""
        return self.buckets.tightest if claim.buckets else None

    def standing(self, claim: Claim) -> Standing | None:
        """The same as a client is told."""
        bucket = self.tightest(claim)
        return None if bucket is None else standing_of(bucket, self.buckets.level)


# A bucket, the whole tokens left in it, and the milliseconds until it is full.
Standing = tuple[Bucket, int, int]


def standing_of(bucket: Bucket, level: float) -> Standing:
    """A level in the numbers that a client is told."""
    missing_s = (bucket.burst - level) / bucket.rate_per_s
    return bucket, int(level) if level > 0 else 0, ceil(missing_s * 1000)


def standing_lines(prefix: bytes, standing: Standing) -> bytes:
    """OpenAI's three request headers: capacity, whole tokens left, time until full."""
    bucket, remaining, reset_ms = standing
    reset = duration_text(reset_ms)
    return STANDING_LINES % (prefix, bucket.burst, prefix, remaining, prefix, reset)


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


def duration_text(milliseconds: int) -> bytes:
    """OpenAI's spelling of a duration, seconds rounded up: `12ms`, `1s`, `6m0s`, `1h0m0s`."""
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    minutes, rest = divmod(-(-milliseconds // 1000), 60)
    if minutes == 0:
        return b"%ds" % rest
    hours, minutes = divmod(minutes, 60)
    return b"%dm%ds" % (minutes, rest) if hours == 0 else b"%dh%dm%ds" % (hours, minutes, rest)
