"""Ferro AI gateway (Go): a master key, provider keys from the environment, requests rewritten."""

from __future__ import annotations

from pathlib import Path

from bench.peers.peer import (
    ACCESS_LOG,
    GATEWAY_KEY,
    KEY_CHECK,
    KEY_SWAP,
    PROVIDER_KEY,
    REQUEST_ID,
    Peer,
    Site,
    from_pypi,
)

CONFIGURATION = """strategy:
  mode: fallback
targets:
  - virtual_key: openai
"""


def environment(site: Site) -> dict[str, str]:
    return {
        "MASTER_KEY": GATEWAY_KEY,
        "GATEWAY_CONFIG": "config.yaml",
        "OPENAI_API_KEY": PROVIDER_KEY,
        "OPENAI_BASE_URL": f"{site.upstream}/v1",
        "RATE_LIMIT_RPS": "0",  # its limit is per address: all of the bench's clients are one
        "PORT": str(site.port),
        "HOST": "127.0.0.1",
    }


def command(site: Site, program: Path) -> list[str]:
    return [str(program), "serve"]


FERRO = Peer(
    name="Ferro",
    kind="gateway",
    install=from_pypi("ferro", "ferrogw"),
    program="ferrogw",
    write=lambda site: {"config.yaml": CONFIGURATION},
    command=command,
    duties=(KEY_CHECK, KEY_SWAP, REQUEST_ID, ACCESS_LOG),
    folder="ferro",
    package="ferrogw",
    environment=environment,
    note="no worker setting: all cores",
)
