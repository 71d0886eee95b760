"""Everybody who can take part: one adapter a file, in the order of the tables.

`python -m bench.peers --peers DIR` tells who is installed, and how to install the others.
"""

from __future__ import annotations

from bench.peers.aigw import AIGW
from bench.peers.aiohttp import AIOHTTP
from bench.peers.caddy import CADDY
from bench.peers.envoy import ENVOY
from bench.peers.ferro import FERRO
from bench.peers.haproxy import HAPROXY
from bench.peers.litellm import LITELLM
from bench.peers.nginx import NGINX, NGINX_BARE
from bench.peers.peer import Peer
from bench.peers.portkey import PORTKEY
from bench.peers.respan import RESPAN
from bench.peers.rolter import ROLTER
from bench.peers.smg import SMG
from bench.peers.traefik import TRAEFIK
from bench.peers.vllm_router import VLLM_ROUTER

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        AIGW,
        NGINX,
        NGINX_BARE,
        HAPROXY,
        ENVOY,
        TRAEFIK,
        CADDY,
        VLLM_ROUTER,
        ROLTER,
        SMG,
        FERRO,
        RESPAN,
        PORTKEY,
        LITELLM,
        AIOHTTP,
    )
}
