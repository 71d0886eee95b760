"""One measurement against the mock: what is counted, and who holds the connections."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.compare import running_mock
from bench.measure import Subject, measure, split
from bench.peers.peer import Pace
from bench.peers.run import KINDS, Running, kinds_of, refusal_of
from bench.scenarios import BY_NAME

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("bench")
    with running_mock(folder / "mock") as here:
        yield here


def test_what_it_can(mock: Running) -> None:
    assert kinds_of(mock) == tuple(KINDS)
    assert refusal_of(mock) == 0


@pytest.mark.parametrize("name", ["ids", "hostile both", "field", "steady"])
def test_a_run(mock: Running, name: str) -> None:
    pace = Pace(rate=100)
    subject = Subject(here=mock, pace=pace, kinds=tuple(KINDS), refuses=0, mock_pid=mock.pid)
    scenario = BY_NAME[name]._replace(connections=4, requests=60 if name == "field" else 0)
    run = measure(subject, scenario, 0.1, 2)
    assert (run.contender, run.scenario, run.repetition) == ("mock, direct", name, 2)
    assert run.load.errors == {}
    assert run.load.answers >= 10
    assert 0 < run.cpu_us < 1e5
    assert run.busy == run.mock_busy > 0
    assert run.load.latency is not None
    assert bool(run.load.latency.curve) is (name == "steady")


def test_the_split_of_connections(mock: Running) -> None:
    assert split(mock) == (64,)
