"""Results: from raw measurements to percentiles, tables and JSON.

Percentiles come from an HDR histogram with three significant digits, filled after the run.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence

import msgspec
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

LARGEST_US = 3_600_000_000
# The curve of a latency plot: denser towards the tail.
CURVE = tuple(100 - 100 * 10 ** (-step / 8) for step in range(1, 41))


class Percentiles(msgspec.Struct, frozen=True):
    """A distribution in microseconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    curve: tuple[tuple[float, float], ...] = ()  # (percentile, µs), as far as the count reaches


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the load generator."""

    mode: str  # "open" or "closed"
    rate_wanted: float  # requests per second; 0 in the closed loop
    connections: int
    seconds: float
    answers: int
    answers_per_second: float
    latency: Percentiles | None
    first_byte: Percentiles | None
    chunk_delay: Percentiles | None
    late: Percentiles | None  # the generator's own lateness, part of `latency` in the open loop
    body_bytes: int
    errors: dict[str, int]


def percentiles(values_ns: array[int]) -> Percentiles | None:
    """The distribution of such values; None if there are none."""
    if not values_ns:
        return None
    histogram = HdrHistogram(1, LARGEST_US, 3)
    counts = Counter(max(1, value // 1000) for value in values_ns)
    for value_us, count in counts.items():
        histogram.record_value(min(value_us, LARGEST_US), count)

    def at(percentile: float) -> float:
        return float(histogram.get_value_at_percentile(percentile))

    total = len(values_ns)
    return Percentiles(
        count=total,
        mean=round(sum(values_ns) / total / 1000, 1),
        p50=at(50),
        p90=at(90),
        p99=at(99),
        p999=at(99.9),
        max=round(max(values_ns) / 1000, 1),
        curve=tuple((p, at(p)) for p in CURVE if (100 - p) * total >= 100),
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns for a terminal: the first row is the heading, the first column is left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def milliseconds(value_us: float) -> str:
    return f"{value_us / 1000:.3f}"


def load_table(result: LoadResult) -> str:
    """One run as a table, its errors below."""
    rows: list[Sequence[str]] = [("ms", "count", "mean", "p50", "p90", "p99", "p99.9", "max")]
    named = (
        ("latency", result.latency),
        ("first byte", result.first_byte),
        ("chunk delay", result.chunk_delay),
        ("sent late", result.late),
    )
    for name, found in named:
        if found is not None:
            values = (found.mean, found.p50, found.p90, found.p99, found.p999, found.max)
            rows.append((name, str(found.count), *(milliseconds(v) for v in values)))
    errors = ", ".join(f"{kind}: {count}" for kind, count in sorted(result.errors.items()))
    wanted = f" of {result.rate_wanted:g} wanted" if result.rate_wanted else ""
    head = (
        f"{result.mode} loop, {result.connections} connections, {result.seconds:.2f} s: "
        f"{result.answers} answers, {result.answers_per_second:.0f}/s{wanted}"
    )
    return f"{head}\n{table(rows)}\nerrors: {errors or 'none'}"
