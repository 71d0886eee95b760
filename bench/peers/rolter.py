"""rolter (Rust): virtual keys and routes by model, from one file."""

from __future__ import annotations

from pathlib import Path

from bench.peers.peer import GATEWAY_KEY, KEY_CHECK, MODEL, Peer, Site, from_pypi


def configuration(site: Site) -> str:
    return f"""
[server]
host = "127.0.0.1"
port = {site.port}
[[providers]]
name = "mock"
kind = "openai_compatible"
api_base = "{site.upstream}"
[[routes]]
model = "{MODEL}"
strategy = "round_robin"
[[routes.targets]]
provider = "mock"
model = "{MODEL}"
[[virtual_keys]]
key = "{GATEWAY_KEY}"
name = "bench"
models = []
[[model_prices]]
model = "{MODEL}"
input_per_mtok = 0.15
output_per_mtok = 0.6
"""


def command(site: Site, program: Path) -> list[str]:
    return [str(program), "gateway", "-c", f"{site.folder}/rolter.toml"]


ROLTER = Peer(
    name="rolter",
    kind="gateway",
    install=from_pypi("rolter", "rolter"),
    program="rolter",
    write=lambda site: {"rolter.toml": configuration(site)},
    command=command,
    duties=(KEY_CHECK,),
    folder="rolter",
    package="rolter",
    note="no worker setting: all cores",
)
