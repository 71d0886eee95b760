"""Refusals that are written as formats, held against those that are put together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aigw.errors import REASONS, Code
from aigw.memory import BucketTable, HeldTable, Memory, allot_bucket
from aigw.policy.limits import Limits, standing_lines, standing_of
from aigw.proxy.refusal import (
    ReadyRefusal,
    Refusal,
    limit_refusal,
    own_answer_bytes,
    rate_limit_octets,
    refusal_answer,
)
from tests.policies import new_key

ID = b"req_0123456789ab0000002a"
DATE = b"Date: Mon, 23 Nov 2026 10:00:00 GMT\r\n"
OWN = DATE + b"x-aigw-request-id: " + ID + b"\r\n"


@given(st.sampled_from([code for code in Code if code.status in REASONS]), st.text(max_size=80))
def test_a_ready_refusal_is_the_refusal(code: Code, message: str) -> None:
    refusal = Refusal(code, message)
    answer = refusal_answer(refusal, ID)
    ready = ReadyRefusal(refusal)
    assert ready.octets(ID, DATE) == own_answer_bytes(answer, OWN, False)
    assert ready.body_bytes == len(answer.body)


@given(st.floats(0.01, 1e5), st.integers(1, 10**6))
def test_a_rate_limits_format_is_the_refusal(rate_per_s: float, burst: int) -> None:
    memory = Memory.create(1)
    memory.used = 1
    limits = Limits(BucketTable(memory, 0), HeldTable(memory, 0))
    table, bucket = limits.buckets, allot_bucket(memory, "key", rate_per_s, float(burst), 0.0)
    table._own_c[bucket.row] += float(burst)
    assert table.admit((bucket,), 0.0) is bucket
    key = new_key(bucket=bucket)
    refusal = limit_refusal(Code.RATE_LIMIT_EXCEEDED, key, limits, 0.0)
    answer = refusal_answer(refusal, ID)
    lines = standing_lines(b"x-", standing_of(bucket, table.level))
    octets = rate_limit_octets(table.wait_s(bucket, 0.0), lines, ID, DATE)
    assert octets == (own_answer_bytes(answer, OWN, False), len(answer.body))
