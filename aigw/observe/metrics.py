"""Metrics: the table of what aigw counts, how a worker counts it, and how all is added up.

Not here: the text of `/metrics` (exposition).

Counting is adding to a word of the process's own region of shared memory; it takes no lock and
makes no object.  Showing is reading the regions of all processes and adding them up, which only the
controller does, at a scrape.

What a finished request counts in (route, upstream, status) is one block of words, of which the two
histograms and `requests_total` are three views, so that they can't disagree.  Labels are names from
the configuration or words from a table, never what a client sent, so their number is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from operator import add
from typing import Literal, NamedTuple

import msgspec

from aigw.memory import CounterRegion, Memory
from aigw.observe.access_line import Times

PREFIX = "aigw_"
GAUGE = "gauge:"  # keys that begin so are zeroed when their process has died
EXPRESS = "express"  # requests that took the express lane: each had a good key and was accepted
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

# The block of one (route, upstream, code).  First what changes with each request: how many came on
# the express lane (`plain`), and the three sums in microseconds; then the counts of the three
# histograms, one for each bucket and one for what lies beyond.
PLAIN, DURATION_SUM, FIRST_BYTE_SUM, OVERHEAD_SUM = range(4)
DURATION = 4
FIRST_BYTE = DURATION + len(DURATION_BOUNDS_S) + 1
OVERHEAD = FIRST_BYTE + len(DURATION_BOUNDS_S) + 1
EXCHANGE_WORDS = OVERHEAD + len(OVERHEAD_BOUNDS_S) + 1
DURATION_BOUNDS_US = tuple(round(bound_s * 1e6) for bound_s in DURATION_BOUNDS_S)
OVERHEAD_BOUNDS_US = tuple(round(bound_s * 1e6) for bound_s in OVERHEAD_BOUNDS_S)

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


# The bounds of a histogram, its first count in a block, and its sum.
HISTOGRAMS = {
    "request_duration_seconds": (DURATION_BOUNDS_S, DURATION, DURATION_SUM),
    "time_to_first_byte_seconds": (DURATION_BOUNDS_S, FIRST_BYTE, FIRST_BYTE_SUM),
    "overhead_seconds": (OVERHEAD_BOUNDS_S, OVERHEAD, OVERHEAD_SUM),
}
# From this status on an upstream's whole answer is not counted as a success.
NOT_SUCCESS = 500


def attempt_rows(upstream: str, status: int) -> tuple[tuple[str, Labels], tuple[str, Labels]]:
    """The counters of an attempt that brought a whole answer with this status."""
    outcome, reason = "upstream_success_total", "complete"
    if status >= NOT_SUCCESS:
        outcome, reason = "upstream_failures_total", "status_5xx"
    return ("upstream_attempts_total", (upstream, reason)), (outcome, (upstream, reason))


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

    __slots__ = ("_exchanges", "_indexes", "_region", "words")

    def __init__(self, region: CounterRegion) -> None:
        self._region = region
        self.words = region.words
        self._indexes: dict[tuple[str, ...], int] = {}
        self._exchanges: dict[tuple[str, str, int], int] = {}

    def counter(self, name: str, *labels: str) -> int:
        """The index in `words` of a counter: the caller adds to `words[index]`."""
        return self._index(name, "counter", labels)

    def express(self) -> int:
        """The index in `words` where requests on the express lane count when they are sent."""
        return self._region.allot(key_of(EXPRESS))

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
        self,
        route: str,
        upstream: str,
        status: int,
        duration_us: int,
        ttfb_us: int,
        overhead_us: int,
    ) -> None:
        """Count a finished request: microseconds for the whole, to the first byte of an answer from
        upstream (negative: none came), and in aigw itself (0: not known)."""
        block = self.block(route, upstream, status)
        self.finish_in(block, (duration_us, ttfb_us, overhead_us, False))

    def block(self, route: str, upstream: str, status: int) -> int:
        """Where in `words` the requests of this kind are counted."""
        base = self._exchanges.get((route, upstream, status))
        if base is None:
            key = key_of(EXCHANGE, route, upstream, str(status))
            base = self._region.allot(key, EXCHANGE_WORDS)
            self._exchanges[route, upstream, status] = base
        return base

    def finish_in(self, block: int, times: Times, number: int = 1, is_plain: bool = False) -> None:
        """`finish` for who knows the block, and for several requests with the same times.

        `is_plain` if they were on the express lane: each made one attempt, which brought a whole
        answer.
        """
        words = self.words
        duration_us, ttfb_us, overhead_us, _ = times
        if is_plain:
            words[block + PLAIN] += number
        words[block + DURATION_SUM] += duration_us * number
        words[block + DURATION + bisect_left(DURATION_BOUNDS_US, duration_us)] += number
        if ttfb_us >= 0:
            words[block + FIRST_BYTE_SUM] += ttfb_us * number
            words[block + FIRST_BYTE + bisect_left(DURATION_BOUNDS_US, ttfb_us)] += number
        if overhead_us > 0:
            words[block + OVERHEAD_SUM] += overhead_us * number
            words[block + OVERHEAD + bisect_left(OVERHEAD_BOUNDS_US, overhead_us)] += number


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
        self._count_express()

    def _count_express(self) -> None:
        """What a request on the express lane counts in without writing to it (`attempt_rows`)."""
        for (_, upstream, code), words in list(self.of(EXCHANGE).items()):
            if words[PLAIN]:
                for name, labels in attempt_rows(upstream, int(code)):
                    self._add(name, labels, words[PLAIN])
        sent = self.value(EXPRESS)
        for name in ("auth_success_total", "accepted_total"):
            self._add(name, (), sent)

    def _add(self, name: str, labels: Labels, number: int) -> None:
        series = self.words.setdefault(name, {})
        series[labels] = [number + series.get(labels, [0])[0]]

    def of(self, name: str) -> dict[Labels, list[int]]:
        """The words of each series of a metric."""
        return self.words.get(name, {})

    def value(self, name: str, *labels: str) -> int:
        """The sum of one counter or gauge; 0 where nobody has counted yet."""
        words = self.of(name).get(labels)
        return 0 if words is None else words[0]
