"""The access line: its fields, their order, its length, its time."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from aigw.observe.access_line import (
    LINE_BYTES,
    SUBJECT_BYTES,
    Clock,
    Subject,
    lines_of,
    subject_text,
)

# fmt: off
CONTRACT = [
    "time", "request_id", "key", "user", "app", "client_ip", "method", "path", "status", "error",
    "route", "upstream", "member", "attempts", "bytes_in", "bytes_out", "ttfb_ms", "duration_ms",
    "overhead_us", "stream",
]
NUMBERS = {"status", "attempts"}
# fmt: on
ID = b"req_0123456789ab00000001"


def line_of(subject: Subject, entry: tuple[int, int, int, int, int, bool]) -> bytes:
    bytes_in, bytes_out, ttfb_us, duration_us, overhead_us, is_stream = entry
    told = ID, subject_text(subject), bytes_in, bytes_out
    times = duration_us, ttfb_us, overhead_us, is_stream
    return lines_of(Clock().stamp(750), times, [told])[0]


PLAIN = (7, 9, 1_500, 250_000, 45, False)


def test_fields_are_the_contracts_in_its_order() -> None:
    assert list(json.loads(line_of(Subject(), PLAIN))) == CONTRACT


def test_a_line_says_what_the_entry_says() -> None:
    subject = Subject(key="user1", path='/v1/"\n', status=200)
    text = line_of(subject, PLAIN)
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    assert json.loads(text) == {
        "time": "1970-01-01T00:00:00.750Z",
        "request_id": ID.decode(),
        **msgspec.structs.asdict(subject),
        "bytes_in": 7,
        "bytes_out": 9,
        "ttfb_ms": 1.5,
        "duration_ms": 250.0,
        "overhead_us": 45,
        "stream": False,
    }


def test_what_is_not_known_is_null() -> None:
    read = json.loads(line_of(Subject(), (0, 0, -1, 0, 0, True)))
    assert (read["error"], read["ttfb_ms"], read["stream"]) == (None, None, True)


texts = st.text(max_size=6000)


@given(texts, texts, texts, texts)
def test_no_line_is_longer_than_a_pipe_takes_at_once(
    path: str, user: str, member: str, app: str
) -> None:
    subject = Subject(path=path, user=user, member=member, app=app, status=404)
    text = line_of(subject, PLAIN)
    assert len(text) <= LINE_BYTES
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    read = json.loads(text)
    assert read["status"] == 404
    for name, full in (("path", path), ("user", user), ("member", member), ("app", app)):
        kept = read[name]
        assert kept == full or (kept.endswith("…") and full.startswith(kept[:-1]))


def test_the_worst_line_fits() -> None:
    subject = Subject()
    for name in subject.__struct_fields__:
        setattr(subject, name, -(2**63) if name in NUMBERS else "\x01" * 100_000)
    assert len(subject_text(subject)) <= SUBJECT_BYTES
    assert len(line_of(subject, (2**63, 2**63, 2**63, 2**63, 2**63, False))) <= LINE_BYTES


def test_a_long_path_is_cut_and_the_rest_kept() -> None:
    subject = Subject(path="/" + "a" * 30_000, user="u" * 128, status=414)
    read = json.loads(line_of(subject, PLAIN))
    assert len(read["path"]) == 1024
    assert read["path"].endswith("…")
    assert read["user"] == "u" * 128


@given(st.integers(0, 4_000_000_000_000))
def test_clock(now_ms: int) -> None:
    read = time_of(Clock(), now_ms)
    assert read.tzinfo == UTC
    assert round(read.timestamp() * 1000) == now_ms


def time_of(clock: Clock, now_ms: int) -> datetime:
    text = clock.stamp(now_ms)
    assert len(text) == len("2026-11-23T20:45:01.123Z")
    return datetime.fromisoformat(text.decode())


def test_clock_goes_on_and_back() -> None:
    clock = Clock()
    assert clock.stamp(750) == b"1970-01-01T00:00:00.750Z"
    assert clock.stamp(1250) == b"1970-01-01T00:00:01.250Z"
    assert clock.stamp(1003) == b"1970-01-01T00:00:01.003Z"
    assert clock.stamp(500) == b"1970-01-01T00:00:00.500Z"
