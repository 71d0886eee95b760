"""Counter regions: one writer, any reader at any time, successors."""

from __future__ import annotations

import time

import pytest
from crashing import CrashingWords, Fuse, every_crash
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_forked

from aigw.memory import CounterRegion, Memory
from aigw.memory.counters import WORDS_PER_KEY


@settings(max_examples=50, deadline=None)
@given(
    keys=st.dictionaries(st.text(max_size=20), st.integers(1, 60), max_size=30),
    data=st.data(),
)
def test_what_was_counted_is_read_by_anyone(keys: dict[str, int], data: st.DataObject) -> None:
    memory = Memory.create(1)
    writer, early_reader = CounterRegion(memory, 1), CounterRegion(memory, 1)
    expected: dict[str, list[int]] = {}
    for key, words in keys.items():
        first = writer.allot(key, words)
        expected[key] = [0] * words
        for _ in range(data.draw(st.integers(0, 3))):
            offset = data.draw(st.integers(0, words - 1))
            writer.words[first + offset] += 1
            expected[key][offset] += 1
        assert dict(early_reader.items()) == expected
    assert dict(CounterRegion(memory, 1).items()) == expected
    assert dict(CounterRegion(memory, 0).items()) == {}


def test_a_successor_finds_the_same_places() -> None:
    memory = Memory.create(1)
    first = CounterRegion(memory, 0)
    places = {f"key {n}": first.allot(f"key {n}", n + 1) for n in range(20)}
    successor = CounterRegion(memory, 0)
    assert successor.allot("something new", 3) not in places.values()
    assert {key: successor.allot(key, n + 1) for n, key in enumerate(places)} == places


def test_the_controller_has_a_region_of_its_own() -> None:
    memory = Memory.create(1)
    regions = [CounterRegion(memory, index) for index in range(memory.indexes + 1)]
    for index, region in enumerate(regions):
        region.words[region.allot("mine")] = index
    assert [dict(region.items()) for region in regions] == [{"mine": [n]} for n in range(5)]


def test_one_key_keeps_its_size() -> None:
    region = CounterRegion(Memory.create(1), 0)
    region.allot("k", 2)
    with pytest.raises(ValueError, match="has 2 words, not 3"):
        region.allot("k", 3)
    for words in (0, WORDS_PER_KEY + 1):
        with pytest.raises(ValueError, match="1 to 256"):
            region.allot("other", words)


def test_a_full_region_goes_on_counting_what_it_has() -> None:
    memory = Memory.create(1)
    region = CounterRegion(memory, 0)
    next_region = CounterRegion(memory, 1)
    next_region.words[next_region.allot("neighbour")] = 1
    number = 0
    while not region.lost:
        place = region.allot(f"{number:01000}", WORDS_PER_KEY)
        region.words[place] += 1
        region.words[place + WORDS_PER_KEY - 1] += 1
        number += 1
    assert region.allot(f"{number - 1:01000}", WORDS_PER_KEY) == place  # the scratch block again
    assert region.lost == 1
    totals = dict(region.items())
    assert len(totals) == number - 1
    assert all(values[0] == values[-1] == 1 for values in totals.values())
    assert region.allot("small ones still fit") != place
    assert dict(CounterRegion(memory, 0).items()).keys() == {*totals, "small ones still fit"}
    assert dict(next_region.items()) == {"neighbour": [1]}


def test_reaping_zeroes_gauges_only() -> None:
    region = CounterRegion(Memory.create(1), 0)
    for key in ("gauge:connections", "requests", "gauge:in_use"):
        first = region.allot(key, 2)
        region.words[first] = region.words[first + 1] = 9
    region.zero_gauges()
    assert dict(region.items()) == {
        "gauge:connections": [0, 0],
        "requests": [9, 9],
        "gauge:in_use": [0, 0],
    }


def test_a_writer_killed_at_any_store_leaves_whole_entries() -> None:
    memory = Memory.create(1)

    def act(fuse: Fuse) -> None:
        nonlocal memory
        memory = Memory.create(1)
        region = CounterRegion(memory, 0)
        region.words[region.allot("before", 2)] = 4
        region.words = CrashingWords(region.words, fuse)  # type: ignore[assignment]
        region._bytes = CrashingWords(region._bytes, fuse)  # type: ignore[assignment]
        first = region.allot("a longer key than the next", 3)
        region.words[first + 1] = 8

    crashes = 0
    for _ in every_crash(act):
        crashes += 1
        successor = CounterRegion(memory, 0)
        found = dict(successor.items())
        assert found.pop("before") == [4, 0]
        assert found in ({}, {"a longer key than the next": [0, 0, 0]})
        successor.words[successor.allot("next", 5)] += 1
        assert dict(CounterRegion(memory, 0).items())["next"] == [1, 0, 0, 0, 0]
    assert crashes == 7  # three values, the key, the head, the end; and the count


def test_a_reader_beside_a_writer_sees_whole_entries_that_only_grow() -> None:
    """It looks at least so often while the writer writes, however slow the machine is."""
    memory = Memory.create(1)
    least_looks, give_up_s = 12, time.monotonic() + 20

    def write() -> int:
        region = CounterRegion(memory, 0)
        number = 0
        while not memory.control.draining:  # the reader's word that it has seen enough
            assert time.monotonic() < give_up_s
            number = (number + 1) % 5000
            words = 1 + number % 7
            first = region.allot(f"key {number}", words)
            for word in range(first, first + words):
                region.words[word] += 1
        return len(dict(region.items()))

    def read() -> int:
        region = CounterRegion(memory, 0)
        looks, before = 0, {}
        while looks < least_looks or len(before) <= 1000:
            assert time.monotonic() < give_up_s
            now = dict(region.items())
            assert now.keys() >= before.keys()
            for key, values in now.items():
                assert len(values) == 1 + int(key.split()[1]) % 7
                assert all(a >= b for a, b in zip(values, before.get(key, values), strict=True))
            looks, before = looks + 1, now
        memory.control.draining = 1
        return looks

    def work(index: int) -> bytes:
        return b"%d" % (write() if index == 0 else read())

    keys, looks = map(int, run_forked(2, work))
    assert keys > 1000
    assert looks >= least_looks
    assert len(dict(CounterRegion(memory, 0).items())) == keys
