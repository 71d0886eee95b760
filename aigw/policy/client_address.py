"""Whose request it is by IP address, when proxies stand between the client and the gateway.

Not here: the PROXY protocol's bytes (`wire.proxy_protocol`), what the address is used for.

The idea: everybody may write anything into X-Forwarded-For, but each proxy adds at the right end
the address that it has seen itself.  So the field is read from the right, as long as the hop that
told us is one of our own proxies; the first address that is not is the client.  Nothing left of
that, and nothing at all from an untrusted peer, is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

MAX_HOPS = 32
"""Entries looked at, empty ones too: more proxies in a row than anyone has, and a bound on the
work that a head full of commas causes (4 µs a hop)."""
UNIX = "unix:"
"""In `listen.trusted_proxies`: peers on Unix sockets, whose address is ""."""


class TrustedProxies:
    """The configured proxies: networks, and perhaps peers on Unix sockets."""

    def __init__(self, cidrs: Sequence[str]) -> None:
        """Raise `ValueError` where an entry is neither a network nor `UNIX`."""
        self._unix = UNIX in cidrs
        self._networks = [ip_network(cidr, strict=False) for cidr in cidrs if cidr != UNIX]

    def trusts(self, ip: str) -> bool:
        """Whether this peer may name its client; "" is a peer on a Unix socket."""
        if not ip:
            return self._unix
        address = _parsed(ip)
        return address is not None and self._contain(address)

    def _contain(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def client_ip(peer_ip: str, x_forwarded_for: Sequence[bytes], trusted: TrustedProxies) -> str:
    """The client's address: the peer's, or what trusted proxies say in the repeated field.

    It stops at the first hop that is not trusted or is not an address (`unknown`, an obfuscated
    name); then, and beyond `MAX_HOPS`, the last address that was good counts.
    """
    client = peer_ip
    if (peer := _parsed(peer_ip)) is not None:
        client = str(peer)
    if not trusted.trusts(client):
        return client
    for hop in _from_the_right(x_forwarded_for):
        address = _hop_address(hop)
        if address is None:
            break
        client = str(address)
        if not trusted.trusts(client):
            break
    return client


def _from_the_right(fields: Sequence[bytes]) -> list[bytes]:
    """At most `MAX_HOPS` entries, the newest first, without the empty ones (RFC 9110, 5.6.1)."""
    hops: list[bytes] = []
    for field in reversed(fields):
        room = MAX_HOPS - len(hops)
        if room == 0:
            break
        hops += field.rsplit(b",", room)[: -room - 1 : -1]
    return [stripped for hop in hops if (stripped := hop.strip(b" \t"))]


def _hop_address(hop: bytes) -> IPv4Address | IPv6Address | None:
    """`1.2.3.4`, `1.2.3.4:5678`, `::1`, `[::1]`, `[::1]:80`."""
    try:
        text = hop.decode("ascii")
    except UnicodeDecodeError:
        return None
    port = ""
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in text:
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        port = ":" + port
    if port and not _is_port(port):
        return None
    return _parsed(text)


def _is_port(text: str) -> bool:
    """A colon and a number; which one does not matter, since nobody uses it."""
    return text[0] == ":" and text[1:].isdigit() and len(text) <= 6


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """An address without zone; an IPv4 one in IPv6's clothes (a dual-stack socket's) as IPv4."""
    if "%" in text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address
