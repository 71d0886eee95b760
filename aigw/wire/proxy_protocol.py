"""The PROXY protocol, versions 1 and 2: who really connected, said by the proxy in front of us.

Not here: whether the peer may say so (`policy.client_address`), sockets and deadlines (`proxy`).

The idea: `parse` is given all bytes that have come so far and looks at them anew each time; a
header is short, sent in one piece, and comes once per connection.  Strict: what the specification
(haproxy.org/download/2.9/doc/proxy-protocol.txt) does not allow is an error, for a lenient reading
of a forged header is an address of the attacker's choice.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

import msgspec

V1_PREFIX = b"PROXY "
V1_MAX_BYTES = 107  # the specification's own bound, CRLF included
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V2_HEAD_BYTES = 16
MAX_BYTES = 4096
"""Longest header taken.  Version 2 could have 64 KiB of extensions; nginx takes as much as we do,
and a load balancer's are a few hundred bytes."""


class ProxyError(ValueError):
    """The bytes do not begin with a PROXY header.  The client is answered nothing: close."""


class Incomplete(msgspec.Struct, frozen=True):
    """So far so good: call again when more bytes have come."""


class Parsed(msgspec.Struct, frozen=True):
    """`consumed` bytes are the header; what follows is the client's.

    `source` is None where the proxy speaks for itself (a health check) or names no IP address.
    """

    consumed: int
    source: str | None
    port: int


class _Family(NamedTuple):
    """Version 2's address block: its size, and the size of one IP address (0: none we read)."""

    block_bytes: int
    ip_bytes: int


# The 14th byte: address family and transport.  Datagrams and Unix sockets are legal and name no
# client that we could use: the specification asks to take them as "unspecified".  Else: an error.
FAMILIES: dict[int, _Family] = {
    0x00: _Family(0, 0),
    0x11: _Family(12, 4),
    0x12: _Family(12, 0),
    0x21: _Family(36, 16),
    0x22: _Family(36, 0),
    0x31: _Family(216, 0),
    0x32: _Family(216, 0),
}
LOCAL, PROXY = 0x20, 0x21  # the 13th byte: version 2 and the command

INCOMPLETE = Incomplete()


def parse(data: bytes) -> Parsed | Incomplete:
    """Read the header that `data` begins with; raise `ProxyError`."""
    if data.startswith(V1_PREFIX):
        return _parse_v1(data)
    if data.startswith(V2_SIGNATURE):
        return _parse_v2(data)
    if V1_PREFIX.startswith(data) or V2_SIGNATURE.startswith(data):
        return INCOMPLETE
    raise ProxyError("neither version's first bytes")


def _parse_v1(data: bytes) -> Parsed | Incomplete:
    """`PROXY TCP4 <source> <destination> <source port> <destination port>`, one space each."""
    end = data.find(b"\r\n", 0, V1_MAX_BYTES)
    if end < 0:
        if len(data) >= V1_MAX_BYTES:
            raise ProxyError("the line is too long")
        return INCOMPLETE
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ProxyError("not ASCII") from None
    if words[1] == "UNKNOWN":
        return Parsed(end + 2, None, 0)
    if words[1] not in ("TCP4", "TCP6") or len(words) != 6:
        raise ProxyError("not TCP4, TCP6 or UNKNOWN with four fields")
    source, _ = (_v1_address(words[1], text) for text in words[2:4])
    port, _ = (_v1_port(text) for text in words[4:6])
    return Parsed(end + 2, source, port)


def _v1_address(family: str, text: str) -> str:
    try:
        if family == "TCP4":
            return str(IPv4Address(text))
        if "%" not in text:  # a zone means nothing on another machine
            return _plain(IPv6Address(text))
    except AddressValueError:
        pass
    raise ProxyError("not an address of its family")


def _v1_port(text: str) -> int:
    if text.isdigit() and len(text) <= 5 and str(int(text)) == text and int(text) <= 65535:
        return int(text)
    raise ProxyError("not a port")


def _parse_v2(data: bytes) -> Parsed | Incomplete:
    """Signature, command, family, length of what follows; addresses; extensions, not read."""
    if len(data) < V2_HEAD_BYTES:
        return INCOMPLETE
    command, family = data[12], FAMILIES.get(data[13])
    consumed = V2_HEAD_BYTES + int.from_bytes(data[14:16], "big")
    if command not in (LOCAL, PROXY):
        raise ProxyError("not version 2, or an unknown command")
    if family is None:
        raise ProxyError("unknown address family or transport")
    if consumed > MAX_BYTES:
        raise ProxyError("the header is too long")
    if command == PROXY and consumed < V2_HEAD_BYTES + family.block_bytes:
        raise ProxyError("too short for its addresses")
    if len(data) < consumed:
        return INCOMPLETE
    if command == LOCAL or not family.ip_bytes:
        return Parsed(consumed, None, 0)
    return _v2_source(data, family, consumed)


def _v2_source(data: bytes, family: _Family, consumed: int) -> Parsed:
    """Source address, destination address, source port, destination port."""
    after_ips = V2_HEAD_BYTES + 2 * family.ip_bytes
    ip = data[V2_HEAD_BYTES : V2_HEAD_BYTES + family.ip_bytes]
    port = int.from_bytes(data[after_ips : after_ips + 2], "big")
    source = str(IPv4Address(ip)) if family.ip_bytes == 4 else _plain(IPv6Address(ip))
    return Parsed(consumed, source, port)


def _plain(address: IPv6Address) -> str:
    """An IPv4 address in IPv6's clothes is that IPv4 address."""
    return str(address.ipv4_mapped or address)
