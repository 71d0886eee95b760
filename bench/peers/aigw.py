"""aigw itself, with every duty on: key, bucket, concurrency, metrics, request id, access log."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.peers.peer import (
    DUTIES,
    GATEWAY_KEY,
    PROVIDER_KEY,
    SLOW_KEY,
    TLS,
    TWO_WORKERS,
    Peer,
    Site,
)

ROOT = Path(__file__).parents[2]


def configuration(site: Site) -> str:
    ca = f'ca = "{site.ca}"' if site.ca else ""
    return f"""
[listen]
address = "127.0.0.1:{site.port}"
admin = "127.0.0.1:{site.spare_port}"
workers = {site.workers}

[log]
access = "{site.folder}/access.log"

[[keys]]
name = "bench"
key = "{GATEWAY_KEY}"
rps = 100_000
burst = 100_000
max_parallel_requests = 10_000

[[keys]]
name = "slow"
key = "{SLOW_KEY}"
rps = 2
burst = 2

[[upstreams]]
name = "mock"
urls = ["{site.upstream}"]
dialect = "openai"
credentials = ["{PROVIDER_KEY}"]
pool = {{ idle_connections = 512 }}
{ca}

[[routes]]
path = "/v1"
targets = [{{ upstream = "mock" }}]
"""


def command(site: Site, program: Path) -> list[str]:
    return [str(program), "-m", "aigw", "run", "-c", f"{site.folder}/gateway.toml"]


AIGW = Peer(
    name="aigw",
    kind="gateway",
    install="pip install '.[bench]'",
    program=sys.executable,
    write=lambda site: {"gateway.toml": configuration(site)},
    command=command,
    duties=DUTIES,
    package="aigw",
    environment=lambda site: {"PYTHONPATH": str(ROOT)},  # this tree, whatever is installed
    starts_as=(TLS, TWO_WORKERS),
)
