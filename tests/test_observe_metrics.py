"""Metrics: counted in several regions, shown as one text that prometheus-client can read back."""

from __future__ import annotations

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from aigw.memory import CounterRegion, Memory
from aigw.observe import metrics
from aigw.observe.exposition import exposition
from aigw.observe.metrics import (
    METRICS,
    Regions,
    Totals,
    WorkerMetrics,
    key_of,
    parse_key,
)


def new_regions(count: int) -> list[CounterRegion]:
    """Regions of so many workers, in a memory of their own."""
    memory = Memory.create(count)
    return [CounterRegion(memory, index) for index in range(count)]


def shown(*regions: CounterRegion, **gauges: dict[tuple[str, ...], int]) -> dict[str, Metric]:
    text = exposition(Totals(regions), gauges).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def sample(families: dict[str, Metric], name: str, **labels: str) -> float:
    for family in families.values():
        for found in family.samples:
            if found.name == "aigw_" + name and found.labels == labels:
                return found.value
    raise AssertionError(f"{name}{labels} is not shown")


def test_counters_and_gauges_are_summed_over_processes() -> None:
    one, two = new_regions(2)
    for region, count in ((one, 3), (two, 4)):
        m = WorkerMetrics(region)
        m.words[m.counter("auth_success_total")] += count
        m.words[m.counter("rate_limited_total", "user1", "rate_limit_exceeded")] += count
        m.words[m.gauge("connections")] += 2 * count
    families = shown(one, two)
    assert sample(families, "auth_success_total") == 7
    assert sample(families, "rate_limited_total", key="user1", code="rate_limit_exceeded") == 7
    assert sample(families, "connections") == 14


def test_a_state_is_the_worst_that_a_process_sees() -> None:
    one, two = new_regions(2)
    for region, state in ((one, 2), (two, 1)):
        m = WorkerMetrics(region)
        m.words[m.gauge("upstream_state", "openai", "api.openai.com:443")] = state
    labels = {"upstream": "openai", "member": "api.openai.com:443"}
    assert sample(shown(one, two), "upstream_state", **labels) == 2


def test_one_finished_request_is_in_all_three_views() -> None:
    (region,) = new_regions(1)
    m = WorkerMetrics(region)
    m.finish("/v1", "openai", 200, 1_500_000, 4_000, 60)
    m.finish("/v1", "openai", 200, 700_000_000, -1, 0)
    labels = {"route": "/v1", "upstream": "openai", "code": "200"}
    families = shown(region)
    assert sample(families, "requests_total", **labels) == 2
    assert sample(families, "request_duration_seconds_count", **labels) == 2
    assert sample(families, "request_duration_seconds_sum", **labels) == pytest.approx(701.5)
    assert sample(families, "request_duration_seconds_bucket", **labels, le="1.0") == 0
    assert sample(families, "request_duration_seconds_bucket", **labels, le="2.5") == 1
    assert sample(families, "request_duration_seconds_bucket", **labels, le="600.0") == 1
    assert sample(families, "request_duration_seconds_bucket", **labels, le="+Inf") == 2
    assert sample(families, "time_to_first_byte_seconds_count", **labels) == 1
    assert sample(families, "time_to_first_byte_seconds_sum", **labels) == 0.004


def test_overhead_has_finer_buckets() -> None:
    (region,) = new_regions(1)
    m = WorkerMetrics(region)
    m.finish("/v1", "openai", 200, 1_500_000, 4_000, 60)
    m.finish("/v1", "other", 502, 1_500_000, -1, 5_000_000)
    m.finish("/v1", "other", 502, 1_500_000, -1, 0)  # not known
    families = shown(region)
    assert sample(families, "overhead_seconds_bucket", le="5e-05") == 0
    assert sample(families, "overhead_seconds_bucket", le="0.0001") == 1
    assert sample(families, "overhead_seconds_bucket", le="0.1") == 1
    assert sample(families, "overhead_seconds_count") == 2
    assert sample(families, "overhead_seconds_sum") == pytest.approx(5.00006)


def test_the_express_lane_counts_once_and_is_shown_in_each_view() -> None:
    (region,) = new_regions(1)
    m = WorkerMetrics(region)
    m.words[m.counter("accepted_total")] += 1
    for status, number in ((200, 3), (503, 2)):
        m.words[m.express()] += number
        block = m.block("/v1", "openai", status)
        m.finish_in(block, (2_000, 1_000, 30, False), number, is_plain=True)
    families = shown(region)
    assert sample(families, "accepted_total") == 6
    assert sample(families, "auth_success_total") == 5
    whole, failed = ({"upstream": "openai", "reason": r} for r in ("complete", "status_5xx"))
    assert sample(families, "upstream_attempts_total", **whole) == 3
    assert sample(families, "upstream_success_total", **whole) == 3
    assert sample(families, "upstream_attempts_total", **failed) == 2
    assert sample(families, "upstream_failures_total", **failed) == 2
    labels = {"route": "/v1", "upstream": "openai", "code": "200"}
    assert sample(families, "requests_total", **labels) == 3
    assert sample(families, "request_duration_seconds_sum", **labels) == 0.006
    assert sample(families, "time_to_first_byte_seconds_sum", **labels) == 0.003
    assert sample(families, "overhead_seconds_sum") == pytest.approx(0.00015)


@pytest.fixture(scope="module")
def two_metrics() -> tuple[WorkerMetrics, WorkerMetrics]:
    """For all examples: what has been counted before is alike, too."""
    together, alone = map(WorkerMetrics, new_regions(2))
    return together, alone


@given(
    duration_us=st.integers(0, 10**9),
    ttfb_us=st.integers(-1, 10**9),
    overhead_us=st.integers(0, 10**6),
    number=st.integers(0, 9),
)
def test_many_at_once_are_counted_like_each_alone(
    two_metrics: tuple[WorkerMetrics, WorkerMetrics],
    duration_us: int,
    ttfb_us: int,
    overhead_us: int,
    number: int,
) -> None:
    together, alone = two_metrics
    times = duration_us, ttfb_us, overhead_us, False
    together.finish_in(together.block("/v1", "openai", 200), times, number)
    block = alone.block("/v1", "openai", 200)
    for _ in range(number):
        alone.finish_in(block, times)
    assert together.words.tobytes() == alone.words.tobytes(), "counted otherwise"


def test_every_metric_of_the_table_is_shown_with_its_kind() -> None:
    families = shown()
    for row in METRICS:
        name = "aigw_" + row.name
        family = families[name.removesuffix("_total") if row.kind == "counter" else name]
        assert (family.type, family.documentation) == (row.kind, row.help)


def test_metrics_without_labels_are_zero_before_the_first_count() -> None:
    families = shown()
    assert sample(families, "requests_in_flight") == 0
    assert sample(families, "accepted_total") == 0
    assert sample(families, "overhead_seconds_count") == 0


def test_known_gauges_replace_counted_ones() -> None:
    (region,) = new_regions(1)
    m = WorkerMetrics(region)
    m.words[m.gauge("upstream_state", "gone", "http://10.0.0.1")] = 2
    families = shown(region, upstream_state={("openai", "http://10.0.0.2"): 1})
    (only,) = families["aigw_upstream_state"].samples
    assert only.labels == {"upstream": "openai", "member": "http://10.0.0.2"}
    assert only.value == 1


@given(st.text(min_size=1), st.text())
def test_any_label_comes_back_from_the_text_format(key: str, code: str) -> None:
    (region,) = new_regions(1)
    m = WorkerMetrics(region)
    m.words[m.counter("rate_limited_total", key, code)] += 1
    text = exposition(Totals([region]), {}).decode()
    assert sample_labels(text) == [{"key": key, "code": code}]


def sample_labels(text: str) -> list[dict[str, str]]:
    """The labels of `rate_limited_total`, unescaped by the rules of the text format.

    prometheus-client's parser splits at any line boundary that Python knows; the format knows one.
    """
    found = []
    for line in text.split("\n"):
        if line.startswith("aigw_rate_limited_total{"):
            labels: dict[str, str] = {}
            rest = line.removeprefix("aigw_rate_limited_total{").removesuffix("} 1.0")
            while rest:
                name, rest = rest.split('="', 1)
                value, rest = unquote(rest)
                labels[name] = value
                rest = rest.removeprefix(",")
            found.append(labels)
    return found


def unquote(text: str) -> tuple[str, str]:
    value, position = "", 0
    while text[position] != '"':
        if text[position] == "\\":
            position += 1
            value += {"n": "\n", '"': '"', "\\": "\\"}[text[position]]
        else:
            value += text[position]
        position += 1
    return value, text[position + 1 :]


@given(st.lists(st.text(), max_size=4))
def test_keys_hold_any_label(labels: list[str]) -> None:
    for name in ("requests_total", "connections"):
        assert parse_key(key_of(name, *labels)) == (name, tuple(labels))


@pytest.mark.parametrize("bounds_s", [metrics.DURATION_BOUNDS_S, metrics.OVERHEAD_BOUNDS_S])
def test_a_bound_belongs_to_its_bucket(bounds_s: tuple[float, ...]) -> None:
    assert list(bounds_s) == sorted(set(bounds_s))
    for place, bound_s in enumerate(bounds_s):
        assert bisect_left(bounds_s, bound_s) == place
        assert bisect_left(bounds_s, math.nextafter(bound_s, math.inf)) == place + 1


def test_a_wrong_name_kind_or_label_is_told() -> None:
    m = WorkerMetrics(*new_regions(1))
    with pytest.raises(KeyError):
        m.counter("no_such_metric")
    with pytest.raises(ValueError, match="labels"):
        m.counter("rate_limited_total", "user1")
    with pytest.raises(ValueError, match="gauge"):
        m.counter("connections")


def test_all_processes_count_the_later_ones_too() -> None:
    memory = Memory.create(2)
    memory.used = 1
    regions = Regions(memory)
    for index in (0, memory.indexes):
        m = WorkerMetrics(CounterRegion(memory, index))
        m.words[m.counter("accepted_total")] += 1
    assert regions.totals().value("accepted_total") == 2
    m = WorkerMetrics(CounterRegion(memory, 3))
    m.words[m.counter("accepted_total")] += 5
    assert regions.totals().value("accepted_total") == 2
    memory.used = 4
    assert regions.totals().value("accepted_total") == 7


def test_a_dead_process_loses_its_gauges_and_keeps_its_counts() -> None:
    memory = Memory.create(1)
    memory.used = 1
    m = WorkerMetrics(CounterRegion(memory, 0))
    m.words[m.gauge("connections")] += 3
    m.words[m.counter("accepted_total")] += 4
    memory.reap(0)
    totals = Regions(memory).totals()
    assert (totals.value("connections"), totals.value("accepted_total")) == (0, 4)


def test_the_same_labels_get_the_same_words() -> None:
    (region,) = new_regions(1)
    first, successor = WorkerMetrics(region), WorkerMetrics(region)
    assert first.counter("accepted_total") == successor.counter("accepted_total")
    first.finish("/v1", "a", 200, 1, 1, 1)
    successor.finish("/v1", "a", 200, 1, 1, 1)
    assert sample(shown(region), "requests_total", route="/v1", upstream="a", code="200") == 2
