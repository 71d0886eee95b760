"""The table of goals: what is met, what is not, what was not measured."""

from __future__ import annotations

from measured import comparison_of, run_of

from bench.goals import rows
from bench.outcome import Life

AIGW, NGINX = "aigw", "nginx, equal duties"


def life(name: str, start_s: float) -> Life:
    return Life(
        contender=name,
        repetition=0,
        start_s=start_s,
        idle_bytes=2**20,
        loaded_bytes=100 * 2**20,
        connection_bytes=2048,
        stream_bytes=2048,
    )


def test_the_goals() -> None:
    runs = [run_of(AIGW, 0, 21.0, 9.0), run_of(NGINX, 0, 20.0, 9.0)]
    runs += [run_of(AIGW, 0, 30.0, 9.0, "large"), run_of(NGINX, 0, 20.0, 9.0, "large")]
    runs += [run_of(f"{name}, 2 workers", 0, 33.0, 9.0, "two") for name in (AIGW, NGINX)]
    runs += [run_of(name, 0, 30.0, 9.0, "two") for name in (AIGW, NGINX)]
    runs += [run_of("LiteLLM", 0, 21_000.0, 9.0), run_of("Ferro", 0, 63.0, 9.0)]
    found = comparison_of(runs, [life(AIGW, 0.2), life(NGINX, 0.01)])
    said = {row[0]: row[1:] for row in rows(found)}
    assert said == {
        "CPU per request, 600 B, heads repeat": ("21.0 µs", "20.0 µs", "1.05 ×", "≤ 1.10 ×", "yes"),
        "CPU per request, 20 KiB, heads repeat": ("30.0 µs", "20.0 µs", "1.50 ×", "≤ 1.10 ×", "no"),
        "CPU per request, two workers over one": ("1.10 ×", "1.10 ×", "", "≤ 1.05 ×", "no"),
        "64 connections over two workers, worst split": ("40:24", "40:24", "", "≥ 40 % each", "no"),
        "memory idle (PSS of all processes)": ("1.0 MiB", "1.0 MiB", "", "≤ 55 MiB", "yes"),
        "memory after load": ("100.0 MiB", "100.0 MiB", "", "≤ 65 MiB", "no"),
        "memory per idle connection": ("2.0 KiB", "2.0 KiB", "", "≤ 4 KiB", "yes"),
        "memory per open stream": ("2.0 KiB", "2.0 KiB", "", "≤ 24 KiB", "yes"),
        "start to first answer": ("0.20 s", "0.01 s", "", "≤ 0.35 s", "yes"),
        "CPU per request, cheapest other LLM gateway (Ferro) over aigw, 600 B": (
            *("", "", "3.0 ×", "≥ 5 ×", "no"),
        ),
        "CPU per request, LiteLLM over aigw, 600 B": ("", "", "1000.0 ×", "≥ 400 ×", "yes"),
    }
