"""The policy in shared memory: whole, or not there at all."""

from __future__ import annotations

import hashlib
import mmap
import time
import zlib

import pytest
from crashing import CrashingWords, Fuse, every_crash
from processes import run_forked

from aigw.errors import StartError
from aigw.memory import Memory, PolicyTooLarge, policy_area
from aigw.memory.layout import POLICY_BYTES, POLICY_HEAD_WORDS, WORD_BYTES


def blob_of(version: int) -> bytes:
    """Some bytes of some length that only this version has."""
    seed = hashlib.sha256(b"%d" % version).digest()
    return seed * (1 + version * 7919 % 4000)


def test_versions_count_from_one() -> None:
    policy = Memory.create(1).policy
    assert policy.version == 0
    assert policy.read() == (0, b"")
    for version in range(1, 6):
        before_ns = time.monotonic_ns()
        assert policy.publish(blob_of(version)) == version
        assert policy.version == version
        assert before_ns <= policy.published_at_ns <= time.monotonic_ns()
        assert policy.read() == (version, blob_of(version))
    policy.publish(b"")
    assert policy.read() == (6, b"")


def test_the_largest_fits_and_one_byte_more_changes_nothing() -> None:
    policy = Memory.create(1).policy
    policy.publish(b"small")
    with pytest.raises(PolicyTooLarge, match="the limit is 33554432") as caught:
        policy.publish(bytes(POLICY_BYTES + 1))
    assert isinstance(caught.value, StartError)
    assert policy.read() == (1, b"small")
    largest = b"\1" * POLICY_BYTES
    policy.publish(largest)
    policy.publish(largest[:-1])
    assert policy.read() == (3, largest[:-1])


def test_a_late_reader_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more versions are published while it reads: its area is another's now."""
    policy = Memory.create(1).policy
    policy.publish(b"first")
    calls = 0

    def slowly(blob: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:  # the reader has its bytes; before it compares, the world moves on
            policy.publish(b"second")
            policy.publish(b"third")
        return zlib.crc32(blob)

    class SlowChecksum:
        crc32 = staticmethod(slowly)

    monkeypatch.setattr(policy_area, "zlib", SlowChecksum)
    assert policy.read() == (3, b"third")


def test_bytes_of_a_later_version_never_pass_for_an_earlier_one() -> None:
    """The same between the reader's look at the area's version and its look at the bytes."""
    policy = Memory.create(1).policy
    policy.publish(b"first")
    area = policy._areas[1]
    whole = area.data

    class SlowBytes:
        def __getitem__(self, part: slice) -> memoryview:
            area.data = whole
            policy.publish(b"second")
            policy.publish(b"third")
            return whole[part]

    area.data = SlowBytes()  # type: ignore[assignment]
    assert policy.read() == (3, b"third")


def test_damage_is_an_error_and_not_a_hang() -> None:
    memory = Memory.create(1)
    memory.policy.publish(b"fine")
    start = (memory.layout.policies[1] + POLICY_HEAD_WORDS) * WORD_BYTES
    memory.bytes[start] ^= 1
    with pytest.raises(RuntimeError, match="version 1 is damaged"):
        memory.policy.read()


def test_a_writer_killed_at_any_store_has_changed_nothing() -> None:
    memory = Memory.create(1)

    def act(fuse: Fuse) -> None:
        nonlocal memory
        memory = Memory.create(1)
        memory.policy.publish(b"one")
        memory.policy.publish(b"two")
        for area in memory.policy._areas:
            area._words = CrashingWords(area._words, fuse)  # type: ignore[assignment]
            area.data = CrashingWords(area.data, fuse)  # type: ignore[assignment]
        memory.control._words = CrashingWords(memory.words, fuse)  # type: ignore[assignment]
        memory.policy.publish(b"three")

    crashes = 0
    for _ in every_crash(act):
        crashes += 1
        assert memory.policy.read() == (2, b"two")
        successor = Memory(memory.layout, memory.mapping)
        assert successor.policy.publish(b"three again") == 3
        assert memory.policy.read() == (3, b"three again")
    assert crashes == 7


def test_readers_beside_a_writer_never_see_a_mixture() -> None:
    memory = Memory.create(2)
    memory.policy.publish(blob_of(1))
    enough = mmap.mmap(-1, 3)  # a byte for each process: it has done its part
    stop_s = time.monotonic() + 0.3

    def work(index: int) -> bytes:
        seen, last = 0, 0
        while time.monotonic() < stop_s or 0 in enough[:]:
            if index == 0:
                version = memory.policy.publish(blob_of(memory.policy.version + 1))
            else:
                version, blob = memory.policy.read()
                assert blob == blob_of(version)
            assert version >= last
            seen, last = seen + (version > last), version
            enough[index] = seen > (10 if index else 100)
        return b"%d" % last

    versions, *_ = map(int, run_forked(3, work))
    assert memory.policy.read() == (versions, blob_of(versions))
