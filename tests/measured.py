"""Made-up measurements for the tests of the benches' reports."""

from __future__ import annotations

from bench.outcome import Comparison, Contender, Life, Run, Split, medians
from bench.report import LoadResult, Percentiles


def run_of(
    contender: str,
    repetition: int,
    cpu_us: float,
    p99: float,
    scenario: str = "same",
    **errors: int,
) -> Run:
    curve = ((50.0, p99 / 2), (99.0, p99))
    found = Percentiles(
        count=1, mean=1, p50=p99 / 2, p90=p99, p99=p99, p999=p99, max=p99, curve=curve
    )
    result = LoadResult(
        mode="closed",
        rate_wanted=0,
        connections=1,
        seconds=1,
        answers=1,
        answers_per_second=10 * cpu_us,
        latency=found,
        first_byte=None,
        chunk_delay=None,
        late=None,
        body_bytes=0,
        errors=errors,
    )
    return Run(
        contender=contender,
        scenario=scenario,
        repetition=repetition,
        cpu_us=cpu_us,
        user_us=cpu_us / 2,
        busy=0.5,
        mock_busy=0.25,
        generator_busy=0.25,
        pss_bytes=1024,
        load=result,
    )


def comparison_of(runs: list[Run], lives: list[Life] | None = None) -> Comparison:
    names = list(dict.fromkeys(run.contender for run in runs))
    contenders = [
        Contender(
            name=name,
            kind="proxy" if name.startswith("nginx") else "gateway",
            version="1",
            duties=(),
            missing=("rate limit",) if name == "LiteLLM" else (),
            kinds=(),
            refuses=401,
            rate=20 if name == "LiteLLM" else 500,
            streams=200,
        )
        for name in names
        if ", 2 " not in name
    ]
    machine = dict.fromkeys(("cpu", "cores", "python", "uvloop"), "x")
    return Comparison(
        at="2026-11-23T00:00:00",
        machine=machine,
        command="",
        seconds=1,
        repetitions=1,
        scenarios={run.scenario: "meaning" for run in runs},
        contenders=contenders,
        skipped={"Envoy": "not installed"},
        medians=medians(runs),
        lives=lives or [],
        splits=[Split(f"{name}, 2 workers", 0, (40, 24)) for name in names[:2]],
        runs=runs,
    )
