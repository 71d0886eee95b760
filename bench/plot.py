"""The pictures of a comparison: CPU per request as bars, latency by percentile as curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.outcome import DIRECT, Comparison
from bench.peers.aigw import AIGW
from bench.peers.nginx import NGINX
from bench.report import Percentiles
from bench.scenarios import IDS, SAME, STEADY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = (0, 50, 90, 99, 99.9, 99.99, 99.999)
# scenario -> how its bar is called and how dark it is
BARS = {
    SAME: ("600 B, heads repeat", 1.0),
    IDS: ("600 B, heads differ", 0.6),
    "large": ("20 KiB", 0.3),
}
OURS, NGINXS, OTHERS = "#0b6e4f", "#c8553d", "#5b6c8f"


class Line(NamedTuple):
    """How a curve is drawn."""

    colour: str | tuple[float, float, float, float]
    width: float
    style: str = "-"


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    import matplotlib  # imported here: only who plots pays for it

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "aigw"  # equal results give equal files
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, stem: Path) -> list[Path]:
    from matplotlib import pyplot

    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    for path in paths:
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths


def colour(name: str) -> str:
    return {AIGW.name: OURS, NGINX.name: NGINXS}.get(name, OTHERS)


def cpu_plot(found: Comparison, stem: Path) -> list[Path]:
    """Writes `stem`.png and `stem`.svg: bars per peer, on a logarithmic axis; their paths."""
    cpu = {(m.contender, m.scenario): m.cpu_us for m in found.medians if m.contender != DIRECT}
    shown = [scenario for scenario in BARS if any(key[1] == scenario for key in cpu)]
    names = [c.name for c in found.contenders if any((c.name, s) in cpu for s in shown)]
    names.sort(key=lambda name: -next(cpu[name, s] for s in shown if (name, s) in cpu))
    figure, axes = new_figure(9, 1.6 + 0.52 * len(names))
    width = 0.8 / max(1, len(shown))
    for place, scenario in enumerate(shown):
        label, alpha = BARS[scenario]
        for row, name in enumerate(names):
            value = cpu.get((name, scenario))
            if value is None:
                continue
            y = row + 0.4 - width * (place + 0.5)
            axes.barh(y, value, width * 0.92, color=colour(name), alpha=alpha)
            axes.annotate(
                f"{value:,.0f}",
                (value, y),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        axes.barh(0, 0, color=OTHERS, alpha=alpha, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.margins(y=0.01)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set(xlabel="µs of CPU per request, whole process tree (log)")
    axes.set_title("CPU per request, 64 connections", loc="left")
    if shown:
        axes.legend(loc="upper right", frameon=False)
    return save(figure, stem)


def nines(percentile: float) -> float:
    """50 % is 0.3, 90 % is 1, 99 % is 2: each further nine gets the same room."""
    return -math.log10(1 - percentile / 100)


def middle_curves(found: Comparison) -> dict[str, Percentiles]:
    """A curve can't be a median: the repetition with the middle p99 stands for all."""
    curves = {}
    for name in [DIRECT, *(c.name for c in found.contenders)]:
        of_it = [
            run.load.latency
            for run in found.runs
            if (run.contender, run.scenario) == (name, STEADY) and run.load.latency
        ]
        if of_it:
            curves[name] = sorted(of_it, key=lambda latency: latency.p99)[len(of_it) // 2]
    return curves


def latency_plot(found: Comparison, stem: Path) -> list[Path]:
    """Writes `stem`.png and `stem`.svg: latency at a fixed rate by percentile; their paths."""
    rates = {c.name: c.rate for c in found.contenders}
    usual = max(rates.values(), default=0.0)
    figure, axes = new_figure(9, 5.5)
    from matplotlib import colormaps

    reached = 1.0
    others = 0
    for name, latency in middle_curves(found).items():
        points = [(0.0, latency.curve[0][1]), *latency.curve] if latency.curve else []
        rate = rates.get(name, usual)
        label = name if rate == usual else f"{name} ({rate:g}/s)"
        if name in (AIGW.name, NGINX.name):
            style = Line(colour(name), 2.6)
        elif name == DIRECT:
            style = Line("#888888", 1.4, ":")
        else:
            style = Line(colormaps["tab20"](others % 20), 1.1)
            others += 1
        axes.plot(
            [nines(p) for p, _ in points],
            [us / 1000 for _, us in points],
            label=label,
            color=style.colour,
            linewidth=style.width,
            linestyle=style.style,
            zorder=1 + style.width,
        )
        reached = max([reached, *(nines(p) for p, _ in points)])
    ticks = [tick for tick in TICKS if nines(tick) <= reached + 0.01]
    axes.set_xticks([nines(tick) for tick in ticks], [f"{tick:g} %" for tick in ticks])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="percentile", ylabel="latency, ms (log)", xlim=(0, reached))
    axes.set_title(f"Latency at {usual:g} requests/s, open loop", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return save(figure, stem)
