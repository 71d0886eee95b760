"""The comparison: configurations that their owners accept, medians, and one short run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aigw.config import load
from bench import compare
from bench.compare import Median, Run, medians
from bench.contenders import (
    GATEWAY_KEY,
    ContenderError,
    Site,
    aigw_config,
    nginx_equal,
    nginx_plain,
    running,
)
from bench.report import LoadResult, Percentiles


def test_aigw_accepts_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(aigw_config(Site(tmp_path, 18_000, 18_001)))
    settings = load(file, {})
    assert settings.listen.address == ("127.0.0.1:18000",)
    assert settings.listen.workers == 1
    assert settings.upstreams[0].urls == ("http://127.0.0.1:18001",)
    assert (settings.keys[0].rps, settings.keys[0].burst) == (100_000, 100_000)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.parametrize("configure", [nginx_plain, nginx_equal])
def test_nginx_accepts_its_configuration(configure: object, tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    file.write_text(configure(Site(tmp_path, 18_000, 18_001)))  # type: ignore[operator]
    command = ["nginx", "-t", "-c", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


def test_what_does_not_start_is_named(tmp_path: Path) -> None:
    code = "raise SystemExit('no wish to run')"
    output = str(tmp_path / "output")
    with (
        pytest.raises(ContenderError, match="no wish to run"),
        running([sys.executable, "-c", code], 1, output),
    ):
        pass


def run_of(contender: str, repetition: int, cpu_us: float, p99: float, **errors: int) -> Run:
    found = Percentiles(count=1, mean=1, p50=p99 / 2, p90=p99, p99=p99, p999=p99, max=p99)
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
    return Run(contender, "small", repetition, cpu_us, cpu_us / 2, 0, 1024, result)


def test_medians() -> None:
    runs = [run_of("a", i, cpu, 10 * cpu) for i, cpu in enumerate((30.0, 10.0, 20.0))]
    runs += [run_of("b", 0, 5.0, 7.0, reset=2)]
    assert medians(runs) == [
        Median("a", "small", 20, 200, 100, 200, 0, 1024, 0),
        Median("b", "small", 5, 50, 3.5, 7, 0, 1024, 2),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_one_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "results" / "first.json"
    command = ["--seconds", "0.1", "--repetitions", "1", "--output", str(target), "--only"]
    assert compare.main(command) == 0
    assert "mock, direct" in capsys.readouterr().out
    written = json.loads(target.read_bytes())
    assert {median["scenario"] for median in written["medians"]} == set(written["scenarios"])
    assert all(run["cpu_us_per_request"] >= 0 for run in written["runs"])
    assert GATEWAY_KEY not in target.read_text()
    assert {file.name for file in target.parent.iterdir()} == {
        "first.json",
        "first-latency.png",
        "first-latency.svg",
    }
