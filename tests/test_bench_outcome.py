"""Medians, and ratios of figures that were measured side by side."""

from __future__ import annotations

from measured import run_of

from bench.outcome import medians, paired_ratio


def test_medians() -> None:
    runs = [run_of("a", i, cpu, 10 * cpu) for i, cpu in enumerate((30.0, 10.0, 20.0))]
    runs += [run_of("b", 0, 5.0, 7.0, reset=2)]
    first, second = medians(runs)
    assert (first.contender, first.cpu_us, first.p99_us, first.answers) == ("a", 20, 200, 3)
    assert (first.answers_per_second, first.chunk_delay_p99_us, first.errors) == (200, 0, 0)
    assert (second.contender, second.p50_us, second.errors) == ("b", 3.5, 2)


def test_a_ratio_is_taken_within_each_repetition() -> None:
    """The machine is twice as slow in the second one; a ratio of medians would say 1.4."""
    ours = [run_of("a", i, cpu, cpu) for i, cpu in enumerate((10.0, 30.0, 14.0))]
    theirs = [run_of("b", i, cpu, cpu) for i, cpu in enumerate((10.0, 20.0, 8.0, 99.0))]
    assert paired_ratio([*ours, *theirs], "same", "a", "b", "cpu_us") == 1.5
    assert paired_ratio([*ours, *theirs], "same", "a", "b", "load.latency.p99") == 1.5
    assert paired_ratio([*ours, *theirs], "same", "a", "b", "load.first_byte.p99") is None
    assert paired_ratio(ours, "same", "a", "b", "cpu_us") is None
