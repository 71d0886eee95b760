"""What a peer is: one proxy or gateway of the comparison, described by data.

An adapter says how its peer is installed, which of the duties are on, how it is configured and
started. Programs are looked for in a folder of environments (`--peers DIR`, each peer's own:
DIR/ferro/bin/ferrogw) and then on PATH.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

GATEWAY_KEY = "sk-gw"
SLOW_KEY = "sk-slow"  # may ask twice a second: for the price of a 429
PROVIDER_KEY = "sk-upstream"
REFUSAL = '{"error":{"message":"Invalid API key","type":"invalid_request_error"}}'
TOO_MANY = '{"error":{"message":"Rate limit reached","type":"rate_limit_error"}}'
MODEL = "gpt-4o-mini"

KEY_CHECK, RATE_LIMIT, KEY_SWAP = "key check", "rate limit", "key swap"
REQUEST_ID, ACCESS_LOG = "request id", "access log"
DUTIES = (KEY_CHECK, RATE_LIMIT, KEY_SWAP, REQUEST_ID, ACCESS_LOG)

# What some peers can be started as, besides the usual.
TLS, TWO_WORKERS = "TLS upstream", "2 workers"


class Site(NamedTuple):
    """What a configuration is made from."""

    folder: Path  # scratch, readable by others, since nginx's worker drops its rights
    port: int
    spare_port: int  # for an admin listener
    upstream_port: int
    ca: Path | None = None  # the upstream speaks TLS, under this authority
    workers: int = 1

    @property
    def upstream(self) -> str:
        return f"{'https' if self.ca else 'http'}://127.0.0.1:{self.upstream_port}"


class Pace(NamedTuple):
    """How much a peer is asked to do: a slow one would never end."""

    rate: float = 500  # requests per second in the open loop
    streams: int = 200  # at once
    idle_connections: int = 1000


class Peer(NamedTuple):
    """One adapter."""

    name: str
    kind: str  # "gateway" (for LLMs), "proxy" (for anything), "own" (what one would write oneself)
    install: str  # a shell line; {peers} is the folder of environments
    program: str
    write: Callable[[Site], dict[str, str]]  # its files by name
    command: Callable[[Site, Path], list[str]]  # from where it runs, and its program
    duties: tuple[str, ...] = ()
    folder: str = ""  # in the folder of environments
    package: str = ""  # the installed distribution that tells its version
    version: tuple[str, ...] = ()  # else: arguments that make it tell
    environment: Callable[[Site], dict[str, str]] = lambda site: {}
    headers: Callable[[Site], tuple[tuple[str, str], ...]] = lambda site: ()
    starts_as: tuple[str, ...] = ()  # of TLS, TWO_WORKERS
    pace: Pace = Pace()
    start_s: float = 20.0
    note: str = ""

    @property
    def missing_duties(self) -> tuple[str, ...]:
        return tuple(duty for duty in DUTIES if duty not in self.duties)


def find_program(peer: Peer, peers: Path | None) -> Path | None:
    """Where the peer's program is, if it is installed."""
    if peers and peer.folder:
        found = peers / peer.folder / "bin" / peer.program
        for path in (found, peers / peer.folder / peer.program):
            if path.exists():
                return path.absolute()
    on_path = shutil.which(peer.program)
    return Path(on_path) if on_path else None


def how_to_install(peer: Peer, peers: Path | None = None) -> str:
    return peer.install.replace("{peers}", str(peers or "PEERS"))


def from_pypi(folder: str, packages: str) -> str:
    """The line that installs those packages into an environment of their own."""
    return f"python3 -m venv {{peers}}/{folder} && {{peers}}/{folder}/bin/pip install {packages}"
