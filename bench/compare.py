"""aigw beside nginx in the same run: CPU per request, throughput, latency.

`python -m bench.compare` takes under four minutes and writes bench/results/first.json with a
latency plot beside it. All contenders run at once (the idle ones cost nothing); each repetition
measures each of them once, in rotating order, so that a slow moment of the machine hits all.
Figures are medians over the repetitions.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from bench import contenders
from bench.contenders import GATEWAY_KEY, Contender, ContenderError
from bench.cpu import cpu_time, memory
from bench.load import LoadPlan, run_load
from bench.plot import latency_plot
from bench.report import LoadResult, Percentiles, milliseconds, table
from bench.request import RequestPlan

RESULTS = Path(__file__).parent / "results"


class Scenario(NamedTuple):
    """One kind of load."""

    name: str
    meaning: str
    request: RequestPlan
    rate: float = 0.0
    connections: int = 64


SMALL = RequestPlan(key=GATEWAY_KEY)
SCENARIOS = (
    Scenario("small", "600 B request, 64 connections, closed loop", SMALL),
    Scenario("ids", "the same, ids differ each time", SMALL._replace(vary=True)),
    Scenario("large", "20 KiB request, closed loop", SMALL._replace(body_bytes=20_480)),
    Scenario("steady", "600 B request at 500/s, open loop", SMALL, rate=500),
    Scenario(
        "streams",
        "streams of 100 chunks at 10 ms, 200 at once",
        SMALL._replace(stream=True),
        connections=200,
    ),
)
STEADY = "steady"


class Run(msgspec.Struct, frozen=True):
    """One measurement of one contender."""

    contender: str
    scenario: str
    repetition: int
    cpu_us_per_request: float
    user_us_per_request: float
    rss_bytes: int
    pss_bytes: int
    load: LoadResult


class Median(msgspec.Struct, frozen=True):
    contender: str
    scenario: str
    cpu_us_per_request: float
    answers_per_second: float
    p50_us: float
    p99_us: float
    chunk_delay_p99_us: float  # 0 where nothing is streamed
    pss_bytes: int
    errors: int


class Comparison(msgspec.Struct, frozen=True):
    """What is written to the JSON file."""

    at: str
    machine: dict[str, str]
    scenarios: dict[str, str]
    seconds: float
    repetitions: int
    skipped: dict[str, str]
    medians: list[Median]
    runs: list[Run]


def measure(contender: Contender, scenario: Scenario, seconds: float, repetition: int) -> Run:
    plan = LoadPlan(
        host="127.0.0.1",
        port=contender.port,
        request=scenario.request._replace(host=f"127.0.0.1:{contender.port}"),
        rate=scenario.rate,
        connections=scenario.connections,
        seconds=seconds,
    )
    before = cpu_time(contender.pid)
    load = uvloop.run(run_load(plan))
    used = cpu_time(contender.pid).since(before)
    requests = max(1, load.answers + sum(load.errors.values()))
    held = memory(contender.pid)
    return Run(
        contender=contender.name,
        scenario=scenario.name,
        repetition=repetition,
        cpu_us_per_request=round(used.total_s / requests * 1e6, 1),
        user_us_per_request=round(used.user_s / requests * 1e6, 1),
        rss_bytes=held.rss_bytes,
        pss_bytes=held.pss_bytes,
        load=load,
    )


def medians(runs: Sequence[Run]) -> list[Median]:
    """One line for each contender and scenario, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.scenario, run.contender), []).append(run)

    def of(found: Sequence[Percentiles | None], field: str) -> float:
        values = [getattr(p, field) for p in found if p is not None]
        return statistics.median(values) if values else 0.0

    return [
        Median(
            contender=contender,
            scenario=scenario,
            cpu_us_per_request=statistics.median(r.cpu_us_per_request for r in group),
            answers_per_second=statistics.median(r.load.answers_per_second for r in group),
            p50_us=of([r.load.latency for r in group], "p50"),
            p99_us=of([r.load.latency for r in group], "p99"),
            chunk_delay_p99_us=of([r.load.chunk_delay for r in group], "p99"),
            pss_bytes=round(statistics.median(r.pss_bytes for r in group)),
            errors=sum(sum(r.load.errors.values()) for r in group),
        )
        for (scenario, contender), group in groups.items()
    ]


def median_tables(found: Sequence[Median]) -> str:
    """A table for each scenario."""
    parts = []
    for scenario in SCENARIOS:
        rows: list[Sequence[str]] = [
            ("", "CPU µs/req", "req/s", "p50 ms", "p99 ms", "chunk p99 ms", "PSS MiB", "errors")
        ]
        rows += [
            (
                m.contender,
                f"{m.cpu_us_per_request:.1f}",
                f"{m.answers_per_second:.0f}",
                milliseconds(m.p50_us),
                milliseconds(m.p99_us),
                milliseconds(m.chunk_delay_p99_us) if m.chunk_delay_p99_us else "–",
                f"{m.pss_bytes / 2**20:.1f}",
                str(m.errors),
            )
            for m in found
            if m.scenario == scenario.name
        ]
        if len(rows) > 1:
            parts.append(f"{scenario.name}: {scenario.meaning}\n{table(rows)}")
    return "\n\n".join(parts)


def machine() -> dict[str, str]:
    """Where and with what this was measured."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    found = {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python build": " ".join(platform.python_build()),
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
    }
    found |= {name: version(name) for name in ("aigw", "uvloop", "h11")}
    if shutil.which("nginx"):
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False)
        found["nginx"] = said.stderr.strip().removeprefix("nginx version: ")
    return found


def start_all(
    stack: ExitStack, folder: Path, wanted: Sequence[str]
) -> tuple[list[Contender], dict[str, str]]:
    """Starts the mock and all that can be started; who can't is named with the reason."""
    mock = stack.enter_context(contenders.running_mock(contenders.free_port()))
    started, skipped = [mock], {}
    for number, name in enumerate(wanted):
        place = folder / str(number)
        try:
            started.append(
                stack.enter_context(contenders.running_contender(name, place, mock.port))
            )
        except ContenderError as reason:
            skipped[name] = str(reason)
            print(f"skipped: {name}: {reason}", file=sys.stderr)
    return started, skipped


def run_all(running: Sequence[Contender], seconds: float, repetitions: int) -> list[Run]:
    runs = []
    for scenario in SCENARIOS:
        for contender in running:
            measure(contender, scenario, min(0.5, seconds), 0)  # warm, not counted
        for repetition in range(repetitions):
            turn = repetition % len(running)
            for contender in (*running[turn:], *running[:turn]):
                run = measure(contender, scenario, seconds, repetition)
                runs.append(run)
                print(
                    f"{scenario.name} {repetition + 1}/{repetitions} {contender.name}: "
                    f"{run.cpu_us_per_request:.1f} µs, {run.load.answers_per_second:.0f}/s",
                    file=sys.stderr,
                )
    order = {contender.name: place for place, contender in enumerate(running)}
    places = {scenario.name: place for place, scenario in enumerate(SCENARIOS)}
    runs.sort(key=lambda r: (places[r.scenario], order[r.contender], r.repetition))
    return runs


def write(comparison: Comparison, target: Path) -> None:
    """The JSON file, and the plot of the steady load beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(msgspec.json.format(msgspec.json.encode(comparison)) + b"\n")
    curves = {}
    for name in dict.fromkeys(run.contender for run in comparison.runs):
        # A curve can't be a median: the repetition with the middle p99 stands for all.
        found = [
            run.load.latency
            for run in comparison.runs
            if (run.contender, run.scenario) == (name, STEADY) and run.load.latency is not None
        ]
        if found:
            curves[name] = sorted(found, key=lambda latency: latency.p99)[len(found) // 2]
    title = next(s.meaning for s in SCENARIOS if s.name == STEADY)
    latency_plot(curves, title, target.with_name(f"{target.stem}-latency"))


def main(argv: Sequence[str] | None = None) -> int:
    """0 if aigw was measured without an error, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each measurement")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(contenders.RECIPES))
    parser.add_argument("--output", type=Path, default=RESULTS / "first.json")
    options = parser.parse_args(argv)
    about = machine()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aigw-bench-")))
        folder.chmod(0o755)
        running, skipped = start_all(stack, folder, options.only)
        runs = run_all(running, options.seconds, options.repetitions)
    comparison = Comparison(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=about,
        scenarios={s.name: s.meaning for s in SCENARIOS},
        seconds=options.seconds,
        repetitions=options.repetitions,
        skipped=skipped,
        medians=medians(runs),
        runs=runs,
    )
    write(comparison, options.output)
    print(median_tables(comparison.medians))
    print(f"written: {options.output}")
    return 1 if skipped or any(m.errors for m in comparison.medians) else 0


if __name__ == "__main__":
    raise SystemExit(main())
