"""What is taken of a key's limits and given back, and how a client is told where it stands."""

from __future__ import annotations

import re
from math import ceil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw.errors import Code
from aigw.memory import Bucket, BucketTable, HeldTable, Memory, allot_bucket
from aigw.policy import UpstreamPolicy
from aigw.policy.limits import (
    Limits,
    buckets_of,
    claim_of,
    duration_text,
    standing_lines,
    standing_of,
)
from tests.policies import new_key, new_route
from tests.twins import policies

NOW_S = 1000.0
DURATIONS = [
    (0.0, b"0ms"),
    (1e-9, b"1ms"),
    (0.012, b"12ms"),
    (0.0121, b"13ms"),
    (0.9985, b"999ms"),
    (0.9999, b"1s"),
    (1.0, b"1s"),
    (1.001, b"2s"),
    (59.5, b"1m0s"),
    (60.0, b"1m0s"),
    (61.0, b"1m1s"),
    (360.0, b"6m0s"),
    (3599.1, b"1h0m0s"),
    (3661.0, b"1h1m1s"),
    (90061.0, b"25h1m1s"),
]


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_duration_text(seconds: float, text: bytes) -> None:
    assert duration_text(ceil(seconds * 1000)) == text


UNITS = {b"h": 3600.0, b"m": 60.0, b"s": 1.0, b"ms": 0.001}


@given(st.floats(0, 1e6))
def test_a_duration_is_rounded_up_and_by_less_than_its_last_unit(seconds: float) -> None:
    parts = re.findall(rb"([0-9]+)(h|ms|m|s)", duration_text(ceil(seconds * 1000)))
    told_s = sum(int(number) * UNITS[unit] for number, unit in parts)
    last_s = UNITS[parts[-1][1]]
    assert seconds - 1e-9 <= told_s < seconds + last_s + 1e-9


def test_standing_lines() -> None:
    bucket = Bucket(row=0, rate_per_s=2.0, burst=10.0)
    assert standing_lines(b"x-", standing_of(bucket, 3.7)).decode().split("\r\n") == [
        "x-ratelimit-limit-requests: 10",
        "x-ratelimit-remaining-requests: 3",
        "x-ratelimit-reset-requests: 4s",
        "",
    ]
    assert b"remaining-requests: 0\r\n" in standing_lines(b"x-aigw-", standing_of(bucket, -0.5))
    assert b"reset-requests: 0ms\r\n" in standing_lines(b"x-aigw-", standing_of(bucket, 10.0))


@pytest.fixture
def memory() -> Memory:
    made = Memory.create(1)
    made.used = 1
    return made


@pytest.fixture
def limits(memory: Memory) -> Limits:
    return Limits(BucketTable(memory, 0), HeldTable(memory, 0))


def limited_upstream(row: int, most: int) -> UpstreamPolicy:
    upstream = policies()[0].upstreams[0]
    pool = msgspec.structs.replace(upstream.pool, max_connections=most)
    return msgspec.structs.replace(upstream, in_use_row=row, pool=pool)


def test_the_buckets_of_a_key_on_a_route() -> None:
    own, on_route = Bucket(1, 1.0, 1.0), Bucket(2, 1.0, 1.0)
    plain, limited = new_route(), new_route(has_bucket=True)
    assert buckets_of(new_key(), plain) == ()
    assert buckets_of(new_key(bucket=own), plain) == (own,)
    assert buckets_of(new_key(route_buckets=(on_route,)), plain) == ()
    assert buckets_of(new_key(route_buckets=(on_route,)), limited) == (on_route,)
    assert buckets_of(new_key(bucket=own, route_buckets=(on_route,)), limited) == (own, on_route)


def test_who_is_refused_has_taken_nothing(memory: Memory, limits: Limits) -> None:
    slot, place = (memory.rows.allot("held", name) for name in ("key", "upstream"))
    bucket = allot_bucket(memory, "key", 1.0, 3.0, NOW_S)
    key = new_key(bucket=bucket, held_row=slot, max_parallel=2)
    route, upstream = new_route(), limited_upstream(place, 2)

    def taken() -> tuple[int, int, float]:
        level = limits.buckets.level_of(bucket, NOW_S)
        return limits.held.total(slot), limits.held.total(place), level

    assert limits.admit(claim_of(key, route, upstream), NOW_S) is None
    assert limits.admit(claim_of(key, route, upstream), NOW_S) is None
    assert taken() == (2, 2, 1.0)
    refusal = limits.admit(claim_of(key, route, upstream), NOW_S)
    assert (refusal, taken()) == (Code.CONCURRENCY_LIMIT_EXCEEDED, (2, 2, 1.0))
    another = new_key("another")
    refusal = limits.admit(claim_of(another, route, upstream), NOW_S)
    assert (refusal, taken()) == (Code.OVERLOADED, (2, 2, 1.0))
    wider = new_key(bucket=bucket, held_row=slot, max_parallel=9)
    refusal = limits.admit(claim_of(wider, route, upstream), NOW_S)
    assert (refusal, taken()) == (Code.OVERLOADED, (2, 2, 1.0))
    limits.give_back(claim_of(key, route, upstream))
    assert limits.admit(claim_of(key, route, upstream), NOW_S) is None
    assert taken() == (2, 2, 0.0)
    limits.give_back(claim_of(key, route, upstream))
    refusal = limits.admit(claim_of(key, route, upstream), NOW_S)
    assert (refusal, taken()) == (Code.RATE_LIMIT_EXCEEDED, (1, 1, 0.0))
    limits.give_back(claim_of(key, route, upstream))
    assert taken() == (0, 0, 0.0)


def test_without_limits_nothing_is_counted(limits: Limits) -> None:
    upstream = limited_upstream(-1, 0)
    for _ in range(1000):
        assert limits.admit(claim_of(new_key(), new_route(), upstream), NOW_S) is None
    assert limits.standing(claim_of(new_key(), new_route(), upstream)) is None


def test_the_tightest_bucket_is_told(memory: Memory, limits: Limits) -> None:
    own = allot_bucket(memory, "own", 1.0, 50.0, NOW_S)
    on_route = allot_bucket(memory, "on route", 1.0, 5.0, NOW_S)
    key, route = new_key(bucket=own, route_buckets=(on_route,)), new_route(has_bucket=True)
    upstream = limited_upstream(-1, 0)
    claim = claim_of(key, route, upstream)
    assert limits.admit(claim, NOW_S) is None
    assert limits.standing(claim) == (on_route, 4, 1000)
    # A key without a bucket is told nothing of its neighbour's.
    assert limits.standing(claim_of(new_key(), new_route(), upstream)) is None
