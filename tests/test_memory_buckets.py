"""The lock-free bucket against a plain one, alone and among real processes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from fractions import Fraction
from struct import pack, unpack_from

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processes import run_forked

from aigw.memory import Bucket, BucketTable, Memory, allot_bucket

HOUR_S = 3600.0


class PlainBucket:
    """The textbook: a level, a time of last refill, exact arithmetic."""

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        self.rate, self.burst = Fraction(rate_per_s), Fraction(burst)
        self.tokens, self.at = self.burst, Fraction(now_s)
        self.thrown_away = Fraction(0)
        self.refills = 0

    def level(self, now_s: float) -> Fraction:
        # A neighbour's stamp may lie a moment before the last one: time does not run backwards.
        elapsed = max(Fraction(now_s) - self.at, Fraction(0))
        return min(self.burst, self.tokens + self.rate * elapsed)

    def take(self, now_s: float) -> None:
        """One token, even where there is none: the model follows what was admitted."""
        elapsed = max(Fraction(now_s) - self.at, Fraction(0))
        over = self.tokens + self.rate * elapsed - self.burst
        self.thrown_away += max(over, Fraction(0))
        self.refills += over >= 0
        self.tokens = self.level(now_s) - 1
        self.at += elapsed


def one_bucket(
    rate_per_s: float, burst: float, now_s: float, workers: int = 2
) -> tuple[Memory, BucketTable, Bucket]:
    memory = Memory.create(workers)
    memory.used = workers
    return memory, BucketTable(memory, 0), allot_bucket(memory, "k", rate_per_s, burst, now_s)


def drain(table: BucketTable, bucket: Bucket, now_s: float) -> int:
    admitted = 0
    while table.admit((bucket,), now_s) is None:
        admitted += 1
    return admitted


# Dyadic numbers, so that doubles compute without rounding and decisions must be equal.
RATES = st.integers(1, 1 << 14).map(lambda sixteenths: sixteenths / 16)
BURSTS = st.integers(4, 256).map(lambda quarters: quarters / 4)
GAPS = st.one_of(
    st.just(0.0),
    st.integers(0, 64).map(lambda n: n / 256),
    st.integers(0, 1 << 14).map(float),
)


@settings(max_examples=60, deadline=None)
@given(
    limits=st.lists(st.tuples(RATES, BURSTS), min_size=1, max_size=3),
    steps=st.lists(st.tuples(GAPS, st.integers(0, 7), st.integers(1, 7)), max_size=80),
)
def test_one_after_another_all_workers_together_are_one_plain_bucket(
    limits: list[tuple[float, float]], steps: list[tuple[float, int, int]]
) -> None:
    now_s = 1024.0
    memory = Memory.create(8)
    buckets = [
        allot_bucket(memory, str(n), rate, burst, now_s) for n, (rate, burst) in enumerate(limits)
    ]
    plain = [PlainBucket(rate, burst, now_s) for rate, burst in limits]
    tables = [BucketTable(memory, index) for index in range(8)]
    for gap_s, index, choice in steps:
        now_s += gap_s
        memory.used = index + 1  # workers come one by one
        wanted = [n for n in range(len(limits)) if choice & (1 << n)] or [0]
        allowed = all(plain[n].level(now_s) >= 1 for n in wanted)
        refusing = tables[index].admit([buckets[n] for n in wanted], now_s)
        assert (refusing is None) == allowed
        if allowed:
            for n in wanted:
                plain[n].take(now_s)
        for bucket, model in zip(buckets, plain, strict=True):
            assert tables[index].level_of(bucket, now_s) == model.level(now_s)


@settings(max_examples=150, deadline=None)
@given(
    rate=st.floats(1 / 60, 1e5),
    burst=st.floats(1, 20),
    uptime_s=st.floats(0, 1e8),
    steps=st.lists(st.floats(0, 100) | st.floats(0, 1e-3), max_size=20),
)
@example(rate=1 / 60, burst=5.0, uptime_s=0.0, steps=[0.0, 0.5])  # the burst is the largest term
def test_rounding_stays_small_at_any_uptime(
    rate: float, burst: float, uptime_s: float, steps: list[float]
) -> None:
    epoch_s = 12.34
    now_s = epoch_s + uptime_s
    _, table, bucket = one_bucket(rate, burst, epoch_s)
    model = PlainBucket(rate, burst, epoch_s)
    for step_s in steps:
        now_s += step_s
        slack = 8 * math.ulp(rate * now_s) + rate * math.ulp(now_s) + 2 * math.ulp(burst)
        assert abs(table.level_of(bucket, now_s) - model.level(now_s)) <= slack
        if table.admit((bucket,), now_s) is None:
            assert model.level(now_s) >= 1 - slack
            model.take(now_s)
        else:
            assert model.level(now_s) <= 1 + slack


@settings(max_examples=300, deadline=None)
@given(rate=st.floats(1 / 60, 1e5), burst=st.floats(1, 50), uptime_s=st.floats(0, 1e8))
def test_who_waits_exactly_as_told_is_admitted_and_could_not_have_been_much_earlier(
    rate: float, burst: float, uptime_s: float
) -> None:
    epoch_s = 1e6 / 3
    _, table, bucket = one_bucket(rate, burst, epoch_s)
    now_s = epoch_s + uptime_s
    drain(table, bucket, now_s)
    for _ in range(5):
        wait_s = table.wait_s(bucket, now_s)
        assert wait_s > 0
        slack_s = 16 * math.ulp(now_s + wait_s)
        assert wait_s <= 1 / rate + slack_s
        if wait_s > 100 * slack_s:
            assert table.admit((bucket,), now_s + 0.9 * wait_s) is bucket
        now_s += wait_s
        assert table.wait_s(bucket, now_s) == 0.0
        assert table.admit((bucket,), now_s) is None


def test_one_request_a_minute_after_three_years() -> None:
    _, table, bucket = one_bucket(1 / 60, 1.0, 5.0)
    now_s = 1e8 + 0.1
    assert drain(table, bucket, now_s) == 1
    assert table.wait_s(bucket, now_s) == pytest.approx(60.0, abs=1e-6)
    assert table.admit((bucket,), now_s + table.wait_s(bucket, now_s)) is None


def test_a_full_bucket_is_exactly_full() -> None:
    _, table, bucket = one_bucket(0.1, 1.0, 0.3)
    for hours in range(1, 2000):
        assert table.level_of(bucket, hours * HOUR_S) == 1.0
        assert drain(table, bucket, hours * HOUR_S) == 1


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 8])
def test_the_fast_reading_is_the_plain_one(workers: int) -> None:
    """Whatever the words are, `admit` decides as `level` says and writes what the formula says."""
    dice = random.Random(workers)
    memory, table, bucket = one_bucket(3.7, 5.0, 100.0, workers)
    head = memory.layout.buckets + bucket.row * memory.layout.bucket_words
    first_c, first_w = head + 4, head + 4 + memory.indexes
    for _ in range(500):
        for index in range(workers):
            memory.floats[first_c + index] = dice.randrange(1000)
            memory.floats[first_w + index] = dice.choice([0.0, dice.random() * 8000])
        now_s = 100.0 + dice.random() * 4000
        before_c = memory.floats[first_c]
        level = table.level_of(bucket, now_s)
        assert (table.admit((bucket,), now_s) is None) == (level >= 1)
        assert memory.floats[first_c] == before_c + (level >= 1)
        if level >= 1:
            admitted = sum(memory.floats[first_c:first_w].tolist()) - 1
            x = (now_s - 100.0) * 3.7 - admitted
            overflow = max(memory.floats[first_w : first_w + workers].tolist())
            assert memory.floats[first_w] == max(x, overflow)


def test_several_buckets_give_all_or_nothing_and_name_the_slowest() -> None:
    memory = Memory.create(2)
    memory.used = 2
    table = BucketTable(memory, 1)
    fast, slow, wide = (
        allot_bucket(memory, name, rate, burst, 0.0)
        for name, rate, burst in (("fast", 10.0, 1.0), ("slow", 0.5, 1.0), ("wide", 1.0, 100.0))
    )
    assert table.admit((wide, fast, slow), 0.0) is None
    before = [table.level_of(bucket, 0.0) for bucket in (fast, slow, wide)]
    assert before == [0.0, 0.0, 99.0]
    assert table.admit((wide, fast, slow), 0.0) is slow
    assert table.admit((slow, fast, wide), 0.0) is slow
    assert table.admit((fast, wide), 0.0) is fast
    assert [table.level_of(bucket, 0.0) for bucket in (fast, slow, wide)] == before
    assert table.admit((), 0.0) is None


def test_a_worker_that_comes_later_is_seen_at_once() -> None:
    memory, first, bucket = one_bucket(1.0, 10.0, 0.0, workers=4)
    assert drain(first, bucket, 0.0) == 10
    memory.used = 9
    assert drain(BucketTable(memory, 8), bucket, 5.0) == 5
    assert first.level_of(bucket, 5.0) == 0.0
    assert first.admit((bucket,), 5.0) is bucket


def test_a_successor_goes_on_where_the_dead_one_stopped() -> None:
    memory, first, bucket = one_bucket(1.0, 10.0, 0.0)
    assert drain(first, bucket, 0.0) == 10
    memory.reap(0)
    assert BucketTable(memory, 0).admit((bucket,), 0.5) is bucket
    assert BucketTable(memory, 0).admit((bucket,), 1.0) is None


class Recorder:
    """Words that remember the order in which they were written."""

    def __init__(self, words: memoryview, name: str, log: list[str]) -> None:
        self.words, self.name, self.log = words, name, log

    def __getitem__(self, at: int) -> float:
        return self.words[at]

    def __setitem__(self, at: int, value: float) -> None:
        self.log.append(self.name)
        self.words[at] = value


def test_every_overflow_is_written_before_any_count() -> None:
    """Readers rely on it: who sees a neighbour's request also sees from what it was paid."""
    memory, table, bucket = one_bucket(1.0, 10.0, 0.0)
    other = allot_bucket(memory, "other", 1.0, 10.0, 0.0)
    log: list[str] = []
    table._own_c = Recorder(table._own_c, "c", log)  # type: ignore[assignment]
    table._own_w = Recorder(table._own_w, "w", log)  # type: ignore[assignment]
    assert table.admit((bucket, other), 5.0) is None
    assert log == ["w", "w", "c", "c"]


def test_bucket_travels_in_a_policy() -> None:
    bucket = Bucket(3, 1 / 60, 2.5)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(bucket), type=Bucket) == bucket


@pytest.mark.parametrize(
    ("rate", "burst"), [(0.0, 1.0), (-1.0, 5.0), (1.0, 0.9), (math.inf, 1.0), (1.0, math.nan)]
)
def test_impossible_limits_are_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="no bucket"):
        allot_bucket(Memory.create(1), "k", rate, burst, 0.0)


# ---- reload -------------------------------------------------------------------------------------


def test_the_same_limits_keep_their_bucket() -> None:
    memory, table, bucket = one_bucket(10.0, 20.0, 0.0)
    drain(table, bucket, 1.0)
    assert allot_bucket(memory, "k", 10.0, 20.0, 2.0) == bucket
    assert table.level_of(bucket, 1.0) == 0.0


@pytest.mark.parametrize(
    ("rate", "burst"),
    [(1.0, 5.0), (1 / 60, 1.0), (1000.0, 2000.0), (10.0, 21.0), (10.5, 20.0)],
)
@pytest.mark.parametrize("idle_s", [0.0, 0.7, 100.0])
def test_limits_change_after_hours(rate: float, burst: float, idle_s: float) -> None:
    """No lock-out, and no more than one old burst beyond the new curve."""
    memory, table, old = one_bucket(10.0, 20.0, 0.0)
    now_s = 30 * HOUR_S
    drain(table, old, now_s - 1)  # saturated for a second, after hours of traffic
    drain(table, old, now_s)
    now_s += idle_s
    old_level = table.level_of(old, now_s)
    new = allot_bucket(memory, "k", rate, burst, now_s)
    memory.policy.publish(b"with the new bucket")
    assert new.row != old.row
    assert table.level_of(new, now_s) == pytest.approx(min(old_level, burst))
    late = drain(table, old, now_s + 1.0)  # a worker that has not switched yet
    assert late <= old.burst
    memory.rows.retain({new.row})
    admitted = drain(table, new, now_s + 1.0)
    assert admitted <= min(old_level, burst) + rate + 1e-6
    wait_s = table.wait_s(new, now_s + 1.0)
    assert wait_s <= 1 / rate + 1e-6
    assert table.admit((new,), now_s + 1.0 + wait_s) is None
    # Then it is an ordinary bucket, for hours.
    now_s += 3 * HOUR_S
    assert drain(table, new, now_s) == math.floor(burst)


@settings(max_examples=40, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.floats(0.01, 2000), st.floats(1, 50), st.floats(0, 3 * HOUR_S)), max_size=8
    )
)
def test_any_number_of_changes_never_gives_a_burst_twice(
    changes: list[tuple[float, float, float]],
) -> None:
    """All workers switch at once: then a change admits nothing that the old bucket had not."""
    memory, table, bucket = one_bucket(5.0, 10.0, 0.0)
    now_s = 0.0
    for rate, burst, gap_s in changes:
        now_s += gap_s
        drain(table, bucket, now_s)
        left = table.level_of(bucket, now_s)
        bucket = allot_bucket(memory, "k", rate, burst, now_s)
        memory.policy.publish(b"")
        memory.rows.retain({bucket.row})
        assert table.level_of(bucket, now_s) <= left + 1e-6
        assert table.wait_s(bucket, now_s) <= 1 / rate + 1e-6


def test_back_and_forth_is_a_new_bucket_each_time() -> None:
    memory, table, first = one_bucket(10.0, 20.0, 0.0)
    drain(table, first, 100.0)
    second = allot_bucket(memory, "k", 5.0, 20.0, 100.0)
    memory.policy.publish(b"second")
    memory.rows.retain({second.row})
    third = allot_bucket(memory, "k", 10.0, 20.0, 101.0)
    assert table.level_of(third, 101.0) == 5.0  # and not the 10 that the first would have by now
    assert len({first.row, second.row, third.row}) >= 2


def test_an_unfinished_bucket_of_a_dead_compiler_is_ignored() -> None:
    memory = Memory.create(1)
    memory.rows.allot_another("bucket", "k")
    bucket = allot_bucket(memory, "k", 1.0, 5.0, 50.0)
    assert BucketTable(memory, 0).level_of(bucket, 50.0) == 5.0


# ---- real processes -----------------------------------------------------------------------------


def attempts(
    memory: Memory, bucket: Bucket, seconds: float, pause: Callable[[random.Random, float], float]
) -> Callable[[int], bytes]:
    """A child's work: admit until time is up, and tell when it was admitted.

    `pause(dice, wait_s)` says how long to sleep after a refusal.
    """
    stop_s = time.monotonic() + seconds

    def work(index: int) -> bytes:
        table, dice, only = BucketTable(memory, index), random.Random(index), (bucket,)
        stamps = []
        while (now_s := time.monotonic()) < stop_s:
            if table.admit(only, now_s) is None:
                stamps.append(now_s)
            elif pause_s := pause(dice, table.wait_s(bucket, now_s)):
                time.sleep(pause_s)
        return pack(f"{len(stamps)}d", *stamps)

    return work


def run_attempts(
    processes: int,
    rate: float,
    burst: float,
    seconds: float,
    pause: Callable[[random.Random, float], float],
) -> tuple[Memory, Bucket, list[float]]:
    """The moments of admission by all processes, in order."""
    memory = Memory.create(processes)
    memory.used = processes
    bucket = allot_bucket(memory, "k", rate, burst, time.monotonic())
    told = run_forked(processes, attempts(memory, bucket, seconds, pause))
    stamps = sorted(stamp for part in told for stamp in unpack_from(f"{len(part) // 8}d", part))
    return memory, bucket, stamps


def worst_excess(stamps: list[float], rate: float) -> float:
    """The most, over all windows, of admitted - rate * window."""
    worst, lowest = 0.0, math.inf
    for count, stamp in enumerate(stamps):
        lowest = min(lowest, count - rate * stamp)
        worst = max(worst, count + 1 - rate * stamp - lowest)
    return worst


def check_both_bounds(memory: Memory, bucket: Bucket, stamps: list[float], processes: int) -> None:
    assert stamps
    excess = worst_excess(stamps, bucket.rate_per_s)
    assert excess <= bucket.burst + (processes - 1) + 1e-3
    # Nothing is lost either: what was thrown away is what an exact bucket throws away, but for
    # neighbours' requests in transit while it was full.
    model = PlainBucket(bucket.rate_per_s, bucket.burst, stamps[0])
    for stamp in stamps:
        model.take(stamp)
    end_s = time.monotonic()
    left = drain(BucketTable(memory, 0), bucket, end_s)
    shortage = math.floor(model.level(end_s)) - left
    assert shortage <= (processes - 1) * model.refills + 1


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize(("rate", "burst"), [(20_000.0, 50.0), (700.0, 1.0)])
def test_at_saturation(processes: int, rate: float, burst: float) -> None:
    memory, bucket, stamps = run_attempts(processes, rate, burst, 0.3, lambda dice, wait_s: 0.0)
    check_both_bounds(memory, bucket, stamps, processes)


@settings(max_examples=5, deadline=None)
@given(
    processes=st.integers(2, 8),
    rate=st.floats(100, 30_000),
    burst=st.floats(1, 100),
    longest_s=st.floats(0, 0.05),
)
def test_with_random_idle_gaps(processes: int, rate: float, burst: float, longest_s: float) -> None:
    def pause(dice: random.Random, wait_s: float) -> float:
        return dice.random() * longest_s if dice.random() < 0.3 else 0.0

    memory, bucket, stamps = run_attempts(processes, rate, burst, 0.25, pause)
    check_both_bounds(memory, bucket, stamps, processes)


@pytest.mark.parametrize("processes", [1, 4])
def test_clients_that_wait_as_told_get_all_that_the_bucket_allows(processes: int) -> None:
    """The burst is a quarter of a second's worth, so late wake-ups seldom fill the bucket; what an
    exact bucket throws away then is not allowed, either."""
    rate, burst = 400.0, 100.0
    memory, bucket, stamps = run_attempts(processes, rate, burst, 0.6, lambda dice, wait_s: wait_s)
    end_s = time.monotonic()
    left = drain(BucketTable(memory, 0), bucket, end_s)
    model = PlainBucket(rate, burst, stamps[0])
    for stamp in stamps:
        model.take(stamp)
    allowed = len(stamps) + model.level(end_s)
    lost_at_each_refill = (processes - 1) * (model.refills - 1)  # the first one is the beginning
    assert allowed - lost_at_each_refill - processes - 1 <= len(stamps) + left
    assert len(stamps) + left <= burst + rate * (end_s - stamps[0]) + processes - 1
    assert worst_excess(stamps, rate) <= burst + (processes - 1) + 1e-3
