"""Latency curves: percentiles on an axis that gives each further nine the same room."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from bench.report import Percentiles

TICKS = (0, 50, 90, 99, 99.9, 99.99, 99.999)


def nines(percentile: float) -> float:
    """50 % is 0.3, 90 % is 1, 99 % is 2."""
    return -math.log10(1 - percentile / 100)


def latency_plot(curves: Mapping[str, Percentiles], title: str, stem: Path) -> list[Path]:
    """Writes `stem`.png and `stem`.svg; returns their paths."""
    import matplotlib  # imported here: only who plots pays for it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    reached = 1.0
    for name, found in curves.items():
        points = [(0.0, found.curve[0][1]), *found.curve] if found.curve else []
        axes.plot([nines(p) for p, _ in points], [us / 1000 for _, us in points], label=name)
        reached = max([reached, *(nines(p) for p, _ in points)])
    ticks = [tick for tick in TICKS if nines(tick) <= reached + 0.01]
    axes.set_xticks([nines(tick) for tick in ticks], [f"{tick:g} %" for tick in ticks])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel="percentile", ylabel="latency, ms (log)", title=title, xlim=(0, reached))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    for path in paths:
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths
