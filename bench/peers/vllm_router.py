"""vllm-router (Rust): balances model servers; its key is the one that it sends to them."""

from __future__ import annotations

from pathlib import Path

from bench.peers.peer import PROVIDER_KEY, REQUEST_ID, Peer, Site, from_pypi


def command(site: Site, program: Path) -> list[str]:
    return [
        *(str(program), "--host", "127.0.0.1", "--port", str(site.port)),
        *("--worker-urls", site.upstream, "--policy", "round_robin"),
        *("--api-key", PROVIDER_KEY, "--log-level", "warning"),
        *("--prometheus-port", str(site.spare_port)),
    ]


VLLM_ROUTER = Peer(
    name="vllm-router",
    kind="gateway",
    install=from_pypi("vllm-router", "vllm-router"),
    program="vllm-router",
    write=lambda site: {},
    command=command,
    duties=(REQUEST_ID,),
    folder="vllm-router",
    package="vllm-router",
    note="no worker setting: all cores",
)
