"""Offsets: nothing overlaps, everything is aligned."""

from __future__ import annotations

import pytest

from aigw.memory.layout import (
    CONTROL_WORDS,
    PAGE_BYTES,
    POLICY_BYTES,
    POLICY_HEAD_WORDS,
    ROW_HEADER_WORDS,
    ROWS,
    WORD_BYTES,
    WORKER_WORDS,
    lay_out,
)


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 64])
def test_regions_stand_one_behind_the_other_on_pages(workers: int) -> None:
    layout = lay_out(workers)
    assert layout.indexes == 2 * workers + 2
    policy_words = POLICY_HEAD_WORDS + POLICY_BYTES // WORD_BYTES
    regions = [
        (layout.control, CONTROL_WORDS),
        (layout.workers, WORKER_WORDS * layout.indexes),
        (layout.row_headers, ROW_HEADER_WORDS * ROWS),
        (layout.buckets, layout.bucket_words * ROWS),
        (layout.held, layout.indexes * ROWS),
        (layout.health, ROWS),
        (layout.policies[0], policy_words),
        (layout.policies[1], policy_words),
        (layout.counters, layout.counter_words * (layout.indexes + 1)),
    ]
    end = 0
    for start, words in regions:
        assert start >= end
        assert start * WORD_BYTES % PAGE_BYTES == 0
        end = start + words
    assert end * WORD_BYTES <= layout.size_bytes
    assert layout.size_bytes % PAGE_BYTES == 0


def test_eight_workers_take_a_quarter_of_a_gibibyte_of_addresses() -> None:
    assert lay_out(8).size_bytes < 256 * 1024 * 1024
