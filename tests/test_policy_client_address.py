"""The client's address: what trusted proxies say is believed, what anybody else wrote is not."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw.policy import client_address as module
from aigw.policy.client_address import (
    HOP_BYTES,
    MAX_HOPS,
    REMEMBERED,
    TrustedProxies,
    client_ip,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PROXIES = TrustedProxies(["10.0.0.0/8", "fd00::/8", "192.0.2.1"])
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
inside = st.integers(1, 2**24 - 2).map(lambda n: str(ipaddress.IPv4Address((10 << 24) + n)))
outside = st.ip_addresses(v=4, network="203.0.113.0/24").map(str)

TRUSTED = {
    "10.1.2.3": True,
    "11.0.0.1": False,
    "192.0.2.1": True,
    "192.0.2.2": False,
    "fd00::1": True,
    "fe80::1": False,
    "::ffff:10.1.2.3": True,
    "::ffff:11.0.0.1": False,
    "10.1.2.3%eth0": False,
    "nobody": False,
    "": False,
}

# peer, fields as they came, the client
CASES = {
    "no field": ("10.0.0.1", [], "10.0.0.1"),
    "one hop": ("10.0.0.1", [b"203.0.113.7"], "203.0.113.7"),
    "an untrusted peer": ("203.0.113.9", [b"203.0.113.7"], "203.0.113.9"),
    "a forged left end": ("10.0.0.1", [b"1.1.1.1, 203.0.113.7"], "203.0.113.7"),
    "a forged left end that is trusted": ("10.0.0.1", [b"10.9.9.9, 203.0.113.7"], "203.0.113.7"),
    "through our own proxies": ("10.0.0.1", [b"203.0.113.7, 10.0.0.3, 10.0.0.2"], "203.0.113.7"),
    "only our own": ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    "repeated field": ("10.0.0.1", [b"1.1.1.1, 203.0.113.7", b"10.0.0.2"], "203.0.113.7"),
    "repeated and forged": ("10.0.0.1", [b"1.1.1.1", b"203.0.113.7"], "203.0.113.7"),
    "port": ("10.0.0.1", [b"203.0.113.7:5678"], "203.0.113.7"),
    "brackets": ("10.0.0.1", [b"[2001:db8::1]"], "2001:db8::1"),
    "brackets and port": ("10.0.0.1", [b"[2001:db8::1]:80"], "2001:db8::1"),
    "bare v6": ("10.0.0.1", [b"2001:DB8:0::1"], "2001:db8::1"),
    "v4 in v6": ("10.0.0.1", [b"::ffff:203.0.113.7"], "203.0.113.7"),
    "peer is v4 in v6": ("::ffff:10.0.0.1", [b"203.0.113.7"], "203.0.113.7"),
    "untrusted peer is v4 in v6": ("::ffff:203.0.113.9", [], "203.0.113.9"),
    "trusted hop is v4 in v6": ("10.0.0.1", [b"203.0.113.7, ::ffff:10.0.0.2"], "203.0.113.7"),
    "spaces, tabs, empty entries": ("10.0.0.1", [b" ,203.0.113.7\t, ,10.0.0.2,"], "203.0.113.7"),
    "empty field": ("10.0.0.1", [b""], "10.0.0.1"),
    "unparsable": ("10.0.0.1", [b"203.0.113.7, unknown"], "10.0.0.1"),
    "unparsable after a good one": ("10.0.0.1", [b"1.1.1.1, _hidden, 10.0.0.2"], "10.0.0.2"),
    "no number for a port": ("10.0.0.1", [b"203.0.113.7:http"], "10.0.0.1"),
    "port too long": ("10.0.0.1", [b"203.0.113.7:567890"], "10.0.0.1"),
    "open bracket": ("10.0.0.1", [b"[2001:db8::1"], "10.0.0.1"),
    "text after the bracket": ("10.0.0.1", [b"[2001:db8::1]x"], "10.0.0.1"),
    "v4 in brackets": ("10.0.0.1", [b"[203.0.113.7]"], "10.0.0.1"),
    "zone": ("10.0.0.1", [b"fe80::1%eth0"], "10.0.0.1"),
    "leading zero": ("10.0.0.1", [b"203.0.113.007"], "10.0.0.1"),
    "a number": ("10.0.0.1", [b"3405803783"], "10.0.0.1"),
    "too long": ("10.0.0.1", [b"203.0.113.7:" + b"5" * 100], "10.0.0.1"),
    "other bytes": ("10.0.0.1", [b"203.0.113.7, \xff"], "10.0.0.1"),
    "unix peer, not trusted": ("", [b"203.0.113.7"], ""),
}


@pytest.mark.parametrize("ip", TRUSTED)
def test_trust(ip: str) -> None:
    assert PROXIES.trusts(ip) is TRUSTED[ip]


def test_unix_peers_are_trusted_when_named() -> None:
    trusted = TrustedProxies(["unix:", "10.0.0.0/8"])
    assert trusted.trusts("")
    assert client_ip("", [b"203.0.113.7, 10.0.0.2"], trusted) == "203.0.113.7"
    assert client_ip("", [], trusted) == ""
    assert not TrustedProxies([]).trusts("")


@pytest.mark.parametrize("entry", ["nobody", "10.0.0.0/33", "", "unix:/run/x"])
def test_what_is_no_network_is_refused(entry: str) -> None:
    with pytest.raises(ValueError):
        TrustedProxies([entry])


@pytest.mark.parametrize("case", CASES)
def test_client(case: str) -> None:
    peer, fields, expected = CASES[case]
    assert client_ip(peer, fields, PROXIES) == expected


@given(
    st.lists(st.one_of(inside, outside, st.just("unknown")), max_size=5),
    outside,
    st.lists(inside, max_size=6),
    st.data(),
)
def test_what_the_client_writes_changes_nothing(
    forged: list[str], client: str, hops: list[str], data: st.DataObject
) -> None:
    """Whatever stands to the left of the client's true address, and however it is folded."""
    entries = [*forged, client, *hops]
    fields: list[list[str]] = [[]]
    for entry in entries:
        if data.draw(st.booleans()):
            fields.append([])
        fields[-1].append(entry)
    raw = [", ".join(field).encode() for field in fields]
    assert client_ip("10.0.0.1", raw, PROXIES) == client


@given(addresses, st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_give_an_address(peer: Address, fields: list[bytes]) -> None:
    everybody = TrustedProxies(["0.0.0.0/0", "::/0"])
    ipaddress.ip_address(client_ip(str(peer), fields, everybody))
    plain = getattr(peer, "ipv4_mapped", None) or peer
    assert client_ip(str(peer), fields, TrustedProxies([])) == str(plain)


@given(addresses, st.integers(0, 65535))
def test_every_way_to_write_an_address(address: Address, port: int) -> None:
    everybody = TrustedProxies(["0.0.0.0/0", "::/0"])
    plain = str(getattr(address, "ipv4_mapped", None) or address)
    ways = [f"{address}", f"{address}:{port}"]
    if address.version == 6:
        ways = [f"{address}", f"[{address}]", f"[{address}]:{port}", f"{address.exploded}"]
    for way in ways:
        assert client_ip("10.0.0.1", [way.encode()], everybody) == plain


def test_what_is_remembered_is_bounded() -> None:
    """By number and by size: neither many addresses nor long entries fill the memory."""
    for number in range(3 * REMEMBERED):
        address = str(ipaddress.IPv4Address((203 << 24) + number))
        assert client_ip("10.0.0.1", [address.encode()], PROXIES) == address
    for cache in (PROXIES._remembered, module._hop_address, module._plain):
        assert cache.cache_info().currsize <= REMEMBERED
    asked = module._hop_address.cache_info().misses
    client_ip("10.0.0.1", [b"1" * (HOP_BYTES + 1)], PROXIES)
    assert module._hop_address.cache_info().misses == asked


def test_no_more_hops_than_the_bound_are_looked_at() -> None:
    hops = [f"10.0.{n >> 8}.{n & 255}" for n in range(200)]
    field = ", ".join(["203.0.113.7", *hops]).encode()
    assert client_ip("10.0.0.1", [field], PROXIES) == hops[-MAX_HOPS]
    each = [hop.encode() for hop in hops]
    assert client_ip("10.0.0.1", each, PROXIES) == hops[-MAX_HOPS]
    commas = b"203.0.113.7" + b"," * MAX_HOPS
    assert client_ip("10.0.0.1", [commas], PROXIES) == "10.0.0.1"


def test_a_head_full_of_commas_costs_little() -> None:
    fields = [b"10.0.0.2," * 3600]
    began = time.thread_time()
    for _ in range(20):
        client_ip("10.0.0.1", fields, PROXIES)
    assert (time.thread_time() - began) / 20 < 0.01
