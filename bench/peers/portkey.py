"""Portkey's gateway (Node): no key of its own; each request says where it goes.

`overrides` pins the versions of hono under which its streams work: with later ones they answer 500.
"""

from __future__ import annotations

from pathlib import Path

from bench.peers.peer import Pace, Peer, Site

PACKAGE = (
    '{"dependencies":{"@portkey-ai/gateway":"1.15.2"},"overrides":'
    '{"hono":"4.9.7","@hono/node-server":"1.14.0","@hono/node-ws":"1.2.0"}}'
)


def command(site: Site, program: Path) -> list[str]:
    return ["node", str(program), f"--port={site.port}", "--headless"]


def headers(site: Site) -> tuple[tuple[str, str], ...]:
    where = f"{site.upstream}/v1"
    return ("x-portkey-provider", "openai"), ("x-portkey-custom-host", where)


PORTKEY = Peer(
    name="Portkey",
    kind="gateway",
    install=f"mkdir -p {{peers}}/portkey && cd {{peers}}/portkey && echo '{PACKAGE}' "
    "> package.json && npm install",
    program="node_modules/@portkey-ai/gateway/build/start-server.js",
    write=lambda site: {},
    command=command,
    folder="portkey",
    environment=lambda site: {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
    headers=headers,
    pace=Pace(rate=100, streams=50, idle_connections=1000),
    note="no key of its own",
)
