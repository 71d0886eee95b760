"""Metrics: the table of what aigw counts, how a worker counts it, and how `/metrics` shows it.

Counting is adding to a word of the process's own region of shared memory; it takes no lock and
makes no object.  Showing is reading the regions of all processes and adding them up, which only the
controller does, at a scrape.  prometheus-client writes the text format and nothing else: its own
counters cost some microseconds each and do not reach across processes.

What a finished request counts in (route, upstream, status) is one block of words, of which the two
histograms and `requests_total` are three views, so that they can't disagree.  Labels are names from
the configuration or words from a table, never what a client sent, so their number is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from operator import add
from typing import Literal, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from aigw.memory import CounterRegion, Memory

PREFIX = "aigw_"
GAUGE = "gauge:"  # keys that begin so are zeroed when their process has died
EXCHANGE = "exchange"  # the block of one (route, upstream, code); see `WorkerMetrics.finish`

# Upper bounds in seconds. An answer from a cache near by takes milliseconds, a long reasoning
# stream ten minutes; what aigw itself adds is some ten microseconds, a tenth of a second is ill.
DURATION_BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
OVERHEAD_BOUNDS_S = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
)

# A histogram in words: one count per bucket, one for what lies beyond, the sum in microseconds.
DURATION_WORDS = len(DURATION_BOUNDS_S) + 2
OVERHEAD_WORDS = len(OVERHEAD_BOUNDS_S) + 2
DURATION_SUM = DURATION_WORDS - 1
FIRST_BYTE = DURATION_WORDS  # where the second histogram of an exchange block begins
FIRST_BYTE_SUM = FIRST_BYTE + DURATION_WORDS - 1
EXCHANGE_WORDS = 2 * DURATION_WORDS
OVERHEAD_SUM = OVERHEAD_WORDS - 1

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]


class Row(NamedTuple):
    """One metric; `name` without the prefix, `labels` in the order in which they are given.

    `merge` makes one value of those of two processes.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels = ()
    merge: Callable[[int, int], int] = add


EXCHANGE_LABELS = ("route", "upstream", "code")
ATTEMPT_LABELS = ("upstream", "reason")
METRICS: tuple[Row, ...] = (
    Row("requests_total", "counter", "Finished requests, by HTTP status.", EXCHANGE_LABELS),
    Row(
        "request_duration_seconds",
        "histogram",
        "From the first byte of the request to the last byte of the answer.",
        EXCHANGE_LABELS,
    ),
    Row(
        "time_to_first_byte_seconds",
        "histogram",
        "From the first byte of the request to the first byte of the upstream's answer.",
        EXCHANGE_LABELS,
    ),
    Row("auth_success_total", "counter", "Requests whose key is known."),
    Row("auth_failures_total", "counter", "Requests refused for their key.", ("code",)),
    Row("accepted_total", "counter", "Requests that passed the key, the route and the limits."),
    Row("rate_limited_total", "counter", "Requests refused by a limit.", ("key", "code")),
    Row(
        "upstream_attempts_total",
        "counter",
        "Attempts at an upstream, by how each ended.",
        ATTEMPT_LABELS,
    ),
    Row(
        "upstream_success_total",
        "counter",
        "Attempts that brought a complete answer.",
        ATTEMPT_LABELS,
    ),
    Row(
        "upstream_failures_total",
        "counter",
        "Attempts that failed, by what went wrong.",
        ATTEMPT_LABELS,
    ),
    Row(
        "upstream_state",
        "gauge",
        "Whether a member may be chosen: 0 healthy, 1 half-open, 2 out.",
        ("upstream", "member"),
        max,
    ),
    Row(
        "upstream_connections",
        "gauge",
        "Connections to a member.",
        ("upstream", "member", "state"),
    ),
    Row("requests_in_flight", "gauge", "Requests that have begun and not finished."),
    Row("connections", "gauge", "Open connections of clients."),
    Row("overhead_seconds", "histogram", "Time a request spent in aigw itself."),
    Row("reloads_total", "counter", "Reloads of the configuration.", ("result",)),
    Row("policy_version", "gauge", "Version of the policy in force; one more at each reload."),
    Row("worker_restarts_total", "counter", "Workers replaced.", ("reason",)),
    Row("log_lines_dropped_total", "counter", "Access log lines lost to a slow or full sink."),
    Row("build_info", "gauge", "Always 1.", ("version",)),
)
ROWS: Mapping[str, Row] = {row.name: row for row in METRICS}


def key_of(name: str, *labels: str) -> str:
    """The key of a metric's words in a region; names may hold any character, hence JSON."""
    key = msgspec.json.encode((name, *labels)).decode()
    return GAUGE + key if name in ROWS and ROWS[name].kind == "gauge" else key


def parse_key(key: str) -> tuple[str, Labels]:
    """The name and the labels of a region's key."""
    name, *labels = msgspec.json.decode(key.removeprefix(GAUGE), type=tuple[str, ...])
    return name, tuple(labels)


class WorkerMetrics:
    """Counting in one process; the only writer of its region."""

    __slots__ = ("_exchanges", "_indexes", "_overhead", "_region", "words")

    def __init__(self, region: CounterRegion) -> None:
        self._region = region
        self.words = region.words
        self._indexes: dict[tuple[str, ...], int] = {}
        self._exchanges: dict[tuple[str, str, int], int] = {}
        self._overhead = region.allot(key_of("overhead_seconds"), OVERHEAD_WORDS)

    def counter(self, name: str, *labels: str) -> int:
        """The index in `words` of a counter: the caller adds to `words[index]`."""
        return self._index(name, "counter", labels)

    def gauge(self, name: str, *labels: str) -> int:
        """The index in `words` of a gauge: the caller adds, subtracts or sets."""
        return self._index(name, "gauge", labels)

    def _index(self, name: str, kind: Kind, labels: Labels) -> int:
        index = self._indexes.get((name, *labels))
        if index is not None:
            return index
        row = ROWS[name]
        if row.kind != kind or len(labels) != len(row.labels):
            raise ValueError(f"{name} is a {row.kind} with labels {row.labels}, not {labels}")
        index = self._region.allot(key_of(name, *labels))
        self._indexes[(name, *labels)] = index
        return index

    def finish(
        self, route: str, upstream: str, status: int, duration_s: float, ttfb_s: float
    ) -> None:
        """Count a finished request; `ttfb_s` < 0 if no byte of an answer came from upstream."""
        self.finish_in(self.block(route, upstream, status), duration_s, ttfb_s)

    def block(self, route: str, upstream: str, status: int) -> int:
        """Where in `words` the requests of this kind are counted."""
        base = self._exchanges.get((route, upstream, status))
        if base is None:
            key = key_of(EXCHANGE, route, upstream, str(status))
            base = self._region.allot(key, EXCHANGE_WORDS)
            self._exchanges[route, upstream, status] = base
        return base

    def finish_in(self, block: int, duration_s: float, ttfb_s: float) -> None:
        """`finish` for who knows the block."""
        words = self.words
        words[block + bisect_left(DURATION_BOUNDS_S, duration_s)] += 1
        words[block + DURATION_SUM] += int(duration_s * 1e6)
        if ttfb_s >= 0:
            words[block + FIRST_BYTE + bisect_left(DURATION_BOUNDS_S, ttfb_s)] += 1
            words[block + FIRST_BYTE_SUM] += int(ttfb_s * 1e6)

    def overhead(self, seconds: float) -> None:
        """Count the time that one request spent in aigw itself."""
        base = self._overhead
        self.words[base + bisect_left(OVERHEAD_BOUNDS_S, seconds)] += 1
        self.words[base + OVERHEAD_SUM] += int(seconds * 1e6)


class Regions:
    """The regions of all processes, for reading."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._controller = CounterRegion(memory, memory.indexes)
        self._workers: list[CounterRegion] = []

    def totals(self) -> Totals:
        """What all processes have counted until now."""
        for index in range(len(self._workers), self._memory.used):
            self._workers.append(CounterRegion(self._memory, index))
        return Totals([*self._workers, self._controller])


class Totals:
    """The words of all regions merged, by metric and labels."""

    def __init__(self, regions: Iterable[CounterRegion]) -> None:
        self.words: dict[str, dict[Labels, list[int]]] = {}
        for region in regions:
            for key, words in region.items():
                name, labels = parse_key(key)
                series = self.words.setdefault(name, {})
                known = series.get(labels)
                merge = ROWS[name].merge if name in ROWS else add
                series[labels] = words if known is None else list(map(merge, known, words))

    def of(self, name: str) -> dict[Labels, list[int]]:
        """The words of each series of a metric."""
        return self.words.get(name, {})

    def value(self, name: str, *labels: str) -> int:
        """The sum of one counter or gauge; 0 where nobody has counted yet."""
        words = self.of(name).get(labels)
        return 0 if words is None else words[0]


def exposition(totals: Totals, gauges: Mapping[str, Mapping[Labels, int]]) -> bytes:
    """The text format; `gauges` are those that are known and not counted, they replace others."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Shown(totals, gauges))
    return generate_latest(registry)


class _Shown(Collector):
    """What a scrape shows, in the table's order."""

    def __init__(self, totals: Totals, gauges: Mapping[str, Mapping[Labels, int]]) -> None:
        self.totals = totals
        self.gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for row in METRICS:
            if row.kind == "histogram":
                yield self._histogram(row)
            else:
                yield self._numbers(row)

    def _numbers(self, row: Row) -> Metric:
        family = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
        metric = family(PREFIX + row.name, row.help, labels=row.labels)
        for labels, value in self._values(row).items():
            metric.add_metric(labels, value)
        return metric

    def _values(self, row: Row) -> Mapping[Labels, int]:
        if row.name in self.gauges:
            return self.gauges[row.name]
        if row.name == "requests_total":
            return {
                labels: sum(words[:DURATION_SUM])
                for labels, words in self.totals.of(EXCHANGE).items()
            }
        found = {labels: words[0] for labels, words in self.totals.of(row.name).items()}
        return found if found or row.labels else {(): 0}

    def _histogram(self, row: Row) -> Metric:
        metric = HistogramMetricFamily(PREFIX + row.name, row.help, labels=row.labels)
        bounds_s, first, series = self._where(row)
        last = first + len(bounds_s) + 1
        names = [*map(floatToGoString, bounds_s), "+Inf"]
        for labels, words in series.items():
            counts = accumulate(words[first:last])
            buckets = list(zip(names, map(float, counts), strict=True))
            metric.add_metric(labels, buckets, words[last] / 1e6)
        return metric

    def _where(self, row: Row) -> tuple[tuple[float, ...], int, dict[Labels, list[int]]]:
        """The bounds of a histogram, its first word in its block, and its blocks."""
        if row.name == "overhead_seconds":
            empty: dict[Labels, list[int]] = {(): [0] * OVERHEAD_WORDS}
            return OVERHEAD_BOUNDS_S, 0, self.totals.of(row.name) or empty
        first = FIRST_BYTE if row.name == "time_to_first_byte_seconds" else 0
        return DURATION_BOUNDS_S, first, self.totals.of(EXCHANGE)
