"""What a comparison has found: every single measurement, and the medians made from them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from bench.report import LoadResult, Percentiles

DIRECT = "mock, direct"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one contender."""

    contender: str
    scenario: str
    repetition: int
    cpu_us: float  # of its process tree, per request
    user_us: float
    busy: float  # cores that it used, on average
    mock_busy: float
    generator_busy: float
    pss_bytes: int
    load: LoadResult


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """Start and memory of one contender, from processes that do nothing else."""

    contender: str
    repetition: int
    start_s: float
    idle_bytes: int
    loaded_bytes: int
    connection_bytes: float  # per idle connection
    stream_bytes: float  # per open stream


class Split(msgspec.Struct, frozen=True):
    """How many of 64 connections each worker got."""

    contender: str
    repetition: int
    connections: tuple[int, ...]


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """Who was measured, with what on."""

    name: str
    kind: str
    version: str
    duties: tuple[str, ...]
    missing: tuple[str, ...]
    kinds: tuple[str, ...]  # of the six kinds of requests
    refuses: int  # the status for an unknown key
    rate: float  # per second in the open loop
    streams: int  # at once
    note: str = ""


class Median(msgspec.Struct, frozen=True, kw_only=True):
    contender: str
    scenario: str
    cpu_us: float
    answers_per_second: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    first_byte_p50_us: float  # 0, as below, where nothing is streamed
    chunk_delay_p50_us: float
    chunk_delay_p99_us: float
    busy: float
    mock_busy: float
    generator_busy: float
    answers: int
    errors: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What is written to the JSON file."""

    at: str
    machine: dict[str, str]
    command: str
    seconds: float
    repetitions: int
    scenarios: dict[str, str]
    contenders: list[Contender]
    skipped: dict[str, str]
    medians: list[Median]
    lives: list[Life]
    splits: list[Split]
    runs: list[Run]


def medians(runs: Iterable[Run]) -> list[Median]:
    """One for each contender and scenario, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.scenario, run.contender), []).append(run)
    return [_median(group) for group in groups.values()]


def _median(group: Sequence[Run]) -> Median:
    def of(part: str, field: str) -> float:
        found: list[Percentiles | None] = [getattr(run.load, part) for run in group]
        values = [getattr(distribution, field) for distribution in found if distribution]
        return statistics.median(values) if values else 0.0

    first = group[0]
    return Median(
        contender=first.contender,
        scenario=first.scenario,
        cpu_us=statistics.median(run.cpu_us for run in group),
        answers_per_second=statistics.median(run.load.answers_per_second for run in group),
        p50_us=of("latency", "p50"),
        p99_us=of("latency", "p99"),
        p999_us=of("latency", "p999"),
        max_us=of("latency", "max"),
        first_byte_p50_us=of("first_byte", "p50"),
        chunk_delay_p50_us=of("chunk_delay", "p50"),
        chunk_delay_p99_us=of("chunk_delay", "p99"),
        busy=statistics.median(run.busy for run in group),
        mock_busy=statistics.median(run.mock_busy for run in group),
        generator_busy=statistics.median(run.generator_busy for run in group),
        answers=sum(run.load.answers for run in group),
        errors=sum(sum(run.load.errors.values()) for run in group),
    )


def paired_ratio(
    runs: Iterable[Run], scenario: str, contender: str, base: str, field: str
) -> float | None:
    """Median over the repetitions of contender / base, each pair measured side by side.

    `field` is a path to a number of Run, such as "load.latency.p50". None where one is missing.
    """
    found: dict[str, dict[int, float]] = {contender: {}, base: {}}
    for run in runs:
        if run.scenario == scenario and run.contender in found:
            value = number_of(run, field)
            if value:
                found[run.contender][run.repetition] = value
    both = found[contender].keys() & found[base].keys()
    ratios = [found[contender][i] / found[base][i] for i in both]
    return statistics.median(ratios) if ratios else None


def number_of(run: Run, field: str) -> float:
    """0 where the run has no such number."""
    value: object = run
    for name in field.split("."):
        value = getattr(value, name) if value is not None else None
    return float(value) if isinstance(value, int | float) else 0.0
