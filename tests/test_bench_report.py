"""Percentiles and tables."""

from __future__ import annotations

from array import array

import pytest

from bench.report import percentiles, table


def test_percentiles_of_a_known_distribution() -> None:
    found = percentiles(array("q", [i * 1000 for i in range(1, 10_001)]))
    assert found is not None
    assert found.count == 10_000
    assert found.mean == pytest.approx(5000.5)
    assert found.max == 10_000
    for got, expected in ((found.p50, 5000), (found.p90, 9000), (found.p99, 9900)):
        assert got == pytest.approx(expected, rel=0.001)
    assert found.p999 == pytest.approx(9990, rel=0.001)
    assert found.curve[-1][0] <= 99.99  # no further than 10,000 values reach
    assert [us for _, us in found.curve] == sorted(us for _, us in found.curve)


def test_nothing_measured() -> None:
    assert percentiles(array("q")) is None


def test_a_table_is_aligned() -> None:
    text = table([("who", "ms"), ("nginx", "1.25"), ("a", "10")])
    assert text.splitlines() == ["who      ms", "-----  ----", "nginx  1.25", "a        10"]
