"""smg, the Shepherd Model Gateway (Rust): a router of model servers with one key for all."""

from __future__ import annotations

from pathlib import Path

from bench.peers.peer import GATEWAY_KEY, KEY_CHECK, REQUEST_ID, Peer, Site, from_pypi


def command(site: Site, program: Path) -> list[str]:
    return [
        *(str(program), "launch", "--host", "127.0.0.1", "--port", str(site.port)),
        *("--worker-urls", site.upstream, "--backend", "openai", "--history-backend", "none"),
        *("--api-key", GATEWAY_KEY, "--log-level", "warn"),
        *("--prometheus-port", str(site.spare_port)),
    ]


SMG = Peer(
    name="smg",
    kind="gateway",
    install=from_pypi("smg", "smg"),
    program="smg",
    write=lambda site: {},
    command=command,
    duties=(KEY_CHECK, REQUEST_ID),
    folder="smg",
    package="smg",
    note="no worker setting: all cores",
)
