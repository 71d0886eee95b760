"""respan-gateway (Rust): client keys, provider keys, one log line a request."""

from __future__ import annotations

from pathlib import Path

from bench.peers.peer import (
    ACCESS_LOG,
    GATEWAY_KEY,
    KEY_CHECK,
    KEY_SWAP,
    PROVIDER_KEY,
    Peer,
    Site,
    from_pypi,
)


def configuration(site: Site) -> str:
    return f"""
listen = "127.0.0.1:{site.port}"
log = "text"
ui = false
client_keys = ["{GATEWAY_KEY}"]
[providers.openai]
vendor = "openai"
key = "{PROVIDER_KEY}"
base_url = "{site.upstream}/v1"
"""


def command(site: Site, program: Path) -> list[str]:
    return [str(program), "-c", f"{site.folder}/respan.toml"]


RESPAN = Peer(
    name="respan",
    kind="gateway",
    install=from_pypi("respan", "respan-gateway"),
    program="respan-gateway",
    write=lambda site: {"respan.toml": configuration(site)},
    command=command,
    duties=(KEY_CHECK, KEY_SWAP, ACCESS_LOG),
    folder="respan",
    package="respan-gateway",
    note="no worker setting: all cores",
)
