"""The text of `/metrics`, by prometheus-client, which writes the format and nothing else: its own
counters cost some microseconds each and do not reach across processes.

It stands apart from the counting, since no worker needs it and importing it takes a seventh of the
start and 3 MiB (measured 2026-11-23: 20 of 134 ms of imports).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from operator import add

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from aigw.observe.metrics import (
    DURATION,
    EXCHANGE,
    EXCHANGE_WORDS,
    FIRST_BYTE,
    HISTOGRAMS,
    METRICS,
    PREFIX,
    Labels,
    Row,
    Totals,
)


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
                labels: sum(words[DURATION:FIRST_BYTE])
                for labels, words in self.totals.of(EXCHANGE).items()
            }
        found = {labels: words[0] for labels, words in self.totals.of(row.name).items()}
        return found if found or row.labels else {(): 0}

    def _histogram(self, row: Row) -> Metric:
        metric = HistogramMetricFamily(PREFIX + row.name, row.help, labels=row.labels)
        bounds_s, first, sum_at = HISTOGRAMS[row.name]
        last = first + len(bounds_s) + 1
        names = [*map(floatToGoString, bounds_s), "+Inf"]
        for labels, words in self._blocks(row).items():
            counts = accumulate(words[first:last])
            buckets = list(zip(names, map(float, counts), strict=True))
            metric.add_metric(labels, buckets, words[sum_at] / 1e6)
        return metric

    def _blocks(self, row: Row) -> dict[Labels, list[int]]:
        """All blocks of exchanges; for a histogram without labels their sum."""
        blocks = self.totals.of(EXCHANGE)
        if row.labels:
            return blocks
        whole = [0] * EXCHANGE_WORDS
        for words in blocks.values():
            whole = list(map(add, whole, words))
        return {(): whole}
