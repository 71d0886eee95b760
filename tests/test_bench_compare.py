"""The comparison as one short run: what is written, and how it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import compare
from bench.compare import read, wanted_peers
from bench.peers import PEERS


def test_who_is_wanted() -> None:
    assert [peer.name for peer in wanted_peers(None)] == list(PEERS)
    assert [peer.name for peer in wanted_peers(["AIGW", "nginx"])] == list(PEERS)[:2]
    assert wanted_peers([]) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_one_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "results" / "compare.json"
    command = ["--seconds", "0.1", "--repetitions", "1", "--output", str(target)]
    assert compare.main([*command, "--scenarios", "steady", "--only"]) == 0
    assert "mock, direct" in capsys.readouterr().out
    found = read(target)
    assert [(m.contender, m.scenario) for m in found.medians] == [("mock, direct", "steady")]
    assert {file.name for file in target.parent.iterdir()} == {
        "compare.json",
        *(f"compare-{plot}.{kind}" for plot in ("cpu", "latency") for kind in ("png", "svg")),
    }
