"""The gateway that one would write oneself (`aiohttp_gateway.py`), as a peer."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.peers.peer import DUTIES, Peer, Site

ROOT = Path(__file__).parents[2]


def command(site: Site, program: Path) -> list[str]:
    arguments = [str(site.port), site.upstream, f"{site.folder}/access.log"]
    return [str(program), "-m", "bench.peers.aiohttp_gateway", *arguments]


AIOHTTP = Peer(
    name="60 lines of aiohttp",
    kind="own",
    install="pip install '.[bench]'",
    program=sys.executable,
    write=lambda site: {},
    command=command,
    duties=DUTIES,
    package="aiohttp",
    environment=lambda site: {"PYTHONPATH": str(ROOT)},  # this tree, whatever is installed
)
