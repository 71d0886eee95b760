"""What aigw has set itself: at most so many times nginx's figure, with equal duties.

Both are medians over repetitions in which the two were measured one after the other; a ratio is
the median of the repetitions' own ratios, so a slow moment of the machine hits both its sides.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.outcome import Comparison, Life, number_of, paired_ratio
from bench.peers.aigw import AIGW
from bench.peers.litellm import LITELLM
from bench.peers.nginx import NGINX
from bench.peers.peer import TLS, TWO_WORKERS
from bench.scenarios import CROWD, HOSTILE_BOTH, IDS, IN_STEP, SAME, SINGLE, STEADY, STREAMS

CPU = "cpu_us"
US, MS = "µs", "ms"


class Goal(NamedTuple):
    """aigw's figure over nginx's, in one scenario."""

    label: str
    scenario: str
    field: str
    unit: str
    most: float | None  # None: reported only
    form: str = ""  # both were started so


GOALS = (
    Goal("CPU per request, 600 B, heads repeat", SAME, CPU, US, 1.10),
    Goal("CPU per request, 600 B, heads differ on both sides", IDS, CPU, US, 1.20),
    Goal("CPU per request, 20 KiB, heads repeat", "large", CPU, US, 1.10),
    Goal("CPU per request, 20 KiB, heads differ on both sides", "large ids", CPU, US, None),
    Goal("CPU per request, hostile request heads", "hostile", CPU, US, 7.0),
    Goal("CPU per request, hostile request and answer heads", HOSTILE_BOTH, CPU, US, 10.0),
    Goal("CPU per request, 256 connections", CROWD, CPU, US, None),
    Goal("CPU per request, upstream over TLS", "tls", CPU, US, None, TLS),
    Goal("CPU per stream of 100 chunks", STREAMS, CPU, US, 1.40),
    Goal("the same, all in step", IN_STEP, CPU, US, 1.40),
    Goal("chunk delay p99, 200 streams", STREAMS, "load.chunk_delay.p99", MS, 1.5),
    Goal("time to first chunk p50, 200 streams", STREAMS, "load.first_byte.p50", MS, 1.5),
    Goal("chunk delay p99, all in step", IN_STEP, "load.chunk_delay.p99", MS, 1.5),
    Goal("time to first chunk p50, all in step", IN_STEP, "load.first_byte.p50", MS, 1.5),
    Goal("CPU of a 401", "401", CPU, US, 1.20),
    Goal("CPU of a 429", "429", CPU, US, 1.20),
    Goal("p50 at one connection", SINGLE, "load.latency.p50", MS, 1.15),
    Goal("p50 at 500 requests/s, open loop", STEADY, "load.latency.p50", MS, 1.3),
    Goal("p99 at 500 requests/s, open loop", STEADY, "load.latency.p99", MS, 1.5),
    Goal("p99.9 at 500 requests/s, open loop", STEADY, "load.latency.p999", MS, None),
    Goal("longest at 500 requests/s, open loop", STEADY, "load.latency.max", MS, None),
)
MIB = 2**20
# What is held against a number of its own: label, of a Life, how shown, the most.
LIFE_GOALS: tuple[tuple[str, Callable[[Life], float], str, float], ...] = (
    ("memory idle (PSS of all processes)", lambda life: life.idle_bytes / MIB, "MiB", 55),
    ("memory after load", lambda life: life.loaded_bytes / MIB, "MiB", 65),
    ("memory per idle connection", lambda life: life.connection_bytes / 1024, "KiB", 4),
    ("memory per open stream", lambda life: life.stream_bytes / 1024, "KiB", 24),
    ("start to first answer", lambda life: life.start_s, "s", 0.35),
)
TWO_OVER_ONE = 1.05
LEAST_SHARE = 0.40  # of 64 connections, for each of two workers
BEST_GATEWAY_OVER_AIGW, LITELLM_OVER_AIGW = 5, 400

HEADING = ("figure", "aigw", "nginx, equal duties", "ratio", "goal", "met")
Row = tuple[str, str, str, str, str, str]


def rows(found: Comparison) -> list[Row]:
    """The goals with what was measured; rows of what was not measured are left out."""
    maybe = [_ratio_row(found, goal) for goal in GOALS]
    maybe += [_two_row(found), _split_row(found)]
    maybe += [_life_row(found, *goal) for goal in LIFE_GOALS]
    maybe += [_gateway_row(found, scenario) for scenario in (SAME, "large")]
    maybe += [_litellm_row(found)]
    return [row for row in maybe if row is not None]


def _said(met: bool) -> str:
    return "yes" if met else "no"


def _ratio_row(found: Comparison, goal: Goal) -> Row | None:
    ours, theirs = (f"{p.name}, {goal.form}" if goal.form else p.name for p in (AIGW, NGINX))
    ratio = paired_ratio(found.runs, goal.scenario, ours, theirs, goal.field)
    if ratio is None:
        return None
    scale = 1000 if goal.unit == MS else 1
    digits = 2 if goal.unit == MS else 1
    shown = [f"{_median_of(found, name, goal) / scale:.{digits}f}" for name in (ours, theirs)]
    return (
        goal.label,
        f"{shown[0]} {goal.unit}",
        f"{shown[1]} {goal.unit}",
        f"{ratio:.2f} ×",
        f"≤ {goal.most:.2f} ×" if goal.most else "",
        _said(ratio <= goal.most) if goal.most else "",
    )


def _median_of(found: Comparison, name: str, goal: Goal) -> float:
    return statistics.median(
        number_of(run, goal.field)
        for run in found.runs
        if (run.scenario, run.contender) == (goal.scenario, name)
    )


def _two_row(found: Comparison) -> Row | None:
    ratios = [
        paired_ratio(found.runs, "two", f"{peer.name}, {TWO_WORKERS}", peer.name, CPU)
        for peer in (AIGW, NGINX)
    ]
    if ratios[0] is None or ratios[1] is None:
        return None
    return (
        "CPU per request, two workers over one",
        f"{ratios[0]:.2f} ×",
        f"{ratios[1]:.2f} ×",
        "",
        f"≤ {TWO_OVER_ONE:.2f} ×",
        _said(ratios[0] <= TWO_OVER_ONE),
    )


def _split_row(found: Comparison) -> Row | None:
    def least(name: str) -> Sequence[int]:
        splits = [s.connections for s in found.splits if s.contender == f"{name}, {TWO_WORKERS}"]
        return min(splits, key=min) if splits else ()

    ours, theirs = least(AIGW.name), least(NGINX.name)
    if not ours or not theirs:
        return None
    fair = len(ours) == 2 and min(ours) >= LEAST_SHARE * sum(ours)
    label = "64 connections over two workers, worst split"
    return label, _shares(ours), _shares(theirs), "", "≥ 40 % each", _said(fair)


def _shares(split: Sequence[int]) -> str:
    return ":".join(str(count) for count in split)


def _life_row(
    found: Comparison, label: str, value: Callable[[Life], float], unit: str, most: float
) -> Row | None:
    shown = []
    for peer in (AIGW, NGINX):
        values = [value(life) for life in found.lives if life.contender == peer.name]
        if not values:
            return None
        shown.append(statistics.median(values))
    digits = 2 if unit == "s" else 1
    return (
        label,
        f"{shown[0]:.{digits}f} {unit}",
        f"{shown[1]:.{digits}f} {unit}",
        "",
        f"≤ {most} {unit}",
        _said(shown[0] <= most),
    )


def cheapest_gateway(found: Comparison, scenario: str) -> str | None:
    """The LLM gateway with the least CPU per request there, aigw aside."""
    gateways = {c.name for c in found.contenders if c.kind == "gateway"} - {AIGW.name}
    theirs = [m for m in found.medians if m.scenario == scenario and m.contender in gateways]
    return min(theirs, key=lambda m: m.cpu_us).contender if theirs else None


def _gateway_row(found: Comparison, scenario: str) -> Row | None:
    best = cheapest_gateway(found, scenario)
    size = "600 B" if scenario == SAME else "20 KiB"
    label = f"CPU per request, cheapest other LLM gateway ({best}) over aigw, {size}"
    return _over_row(found, scenario, best, label, BEST_GATEWAY_OVER_AIGW)


def _litellm_row(found: Comparison) -> Row | None:
    label = "CPU per request, LiteLLM over aigw, 600 B"
    return _over_row(found, SAME, LITELLM.name, label, LITELLM_OVER_AIGW)


def _over_row(
    found: Comparison, scenario: str, other: str | None, label: str, least: float
) -> Row | None:
    ratio = paired_ratio(found.runs, scenario, other, AIGW.name, CPU) if other else None
    if ratio is None:
        return None
    return label, "", "", f"{ratio:.1f} ×", f"≥ {least} ×", _said(ratio >= least)
