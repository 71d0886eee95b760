"""Configuration files for tests: a working one, and what `load` says of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aigw.config import ConfigError, Settings, load

KEY = """[[keys]]
name = "user1"
key = "user1"
"""
UPSTREAM = """[[upstreams]]
name = "openai"
urls = ["https://api.openai.com"]
"""
ROUTE = """[[routes]]
path = "/v1"
targets = [{ upstream = "openai" }]
"""
WORKING = KEY + UPSTREAM + ROUTE


def loaded(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    file = folder / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ or {})


def said(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The lines of the error, with files named relative to the folder; empty = accepted."""
    try:
        loaded(folder, text, environ)
    except ConfigError as error:
        return str(error).replace(f"{folder}/", "").splitlines()
    return []
