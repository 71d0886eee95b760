"""LiteLLM's proxy (Python): a master key, one worker. Keys with limits would need a database."""

from __future__ import annotations

from pathlib import Path

from bench.peers.peer import (
    GATEWAY_KEY,
    KEY_CHECK,
    KEY_SWAP,
    MODEL,
    PROVIDER_KEY,
    REQUEST_ID,
    Pace,
    Peer,
    Site,
    from_pypi,
)


def configuration(site: Site) -> str:
    return f"""
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: {site.upstream}/v1
      api_key: {PROVIDER_KEY}
litellm_settings:
  telemetry: false
  drop_params: true
  request_timeout: 600
general_settings:
  master_key: {GATEWAY_KEY}
"""


def command(site: Site, program: Path) -> list[str]:
    return [
        *(str(program), "--config", f"{site.folder}/litellm.yaml", "--host", "127.0.0.1"),
        *("--port", str(site.port), "--num_workers", str(site.workers), "--telemetry", "False"),
    ]


LITELLM = Peer(
    name="LiteLLM",
    kind="gateway",
    install=from_pypi("litellm", "'litellm[proxy]' prisma"),
    program="litellm",
    write=lambda site: {"litellm.yaml": configuration(site)},
    command=command,
    duties=(KEY_CHECK, KEY_SWAP, REQUEST_ID),
    folder="litellm",
    package="litellm",
    environment=lambda site: {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
    },
    pace=Pace(rate=20, streams=10, idle_connections=100),
    start_s=90.0,
)
