"""Each picture is drawn as PNG and as SVG."""

from __future__ import annotations

from pathlib import Path

from measured import comparison_of, run_of

from bench.plot import cpu_plot, latency_plot


def test_pictures(tmp_path: Path) -> None:
    names = ("aigw", "nginx, equal duties", "LiteLLM")
    runs = [run_of(name, 0, 20.0, 9.0, s) for name in names for s in ("same", "steady")]
    found = comparison_of(runs)
    for draw in (cpu_plot, latency_plot):
        png, svg = draw(found, tmp_path / "plot")
        assert png.read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in svg.read_text()
