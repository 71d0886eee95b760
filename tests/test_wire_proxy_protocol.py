"""PROXY headers, both versions: read whole, byte by byte and at random cuts; strict about lies."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aigw.wire.proxy_protocol import (
    FAMILIES,
    MAX_BYTES,
    V1_MAX_BYTES,
    V2_SIGNATURE,
    Incomplete,
    Parsed,
    ProxyError,
    parse,
)

ports = st.integers(0, 65535)
v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6)


def v2(command: int = 0x21, family: int = 0x11, rest: bytes = b"", length: int = -1) -> bytes:
    size = len(rest) if length < 0 else length
    return V2_SIGNATURE + bytes((command, family)) + size.to_bytes(2, "big") + rest


def plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return str(getattr(address, "ipv4_mapped", None) or address)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, str | None, int]:
    """A valid header with what it says."""
    addresses = draw(st.sampled_from((v4, v6)))
    source, destination = draw(addresses), draw(addresses)
    port, other = draw(ports), draw(ports)
    if draw(st.booleans()):
        text = f"PROXY TCP{source.version} {source} {destination} {port} {other}\r\n"
        return text.encode(), plain(source), port
    family = 0x11 if source.version == 4 else 0x21
    block = source.packed + destination.packed + port.to_bytes(2, "big") + other.to_bytes(2, "big")
    header = v2(0x21, family, block + draw(st.binary(max_size=300)))
    return header, plain(source), port


SILENT = {
    "v1 unknown": b"PROXY UNKNOWN\r\n",
    "v1 unknown with addresses": b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n",
    "v2 local": v2(0x20, 0x00),
    "v2 local with addresses": v2(0x20, 0x11, bytes(12)),
    "v2 local, family without room": v2(0x20, 0x21),
    "v2 unspecified": v2(0x21, 0x00, b"extension"),
    "v2 datagram": v2(0x21, 0x12, bytes(12)),
    "v2 datagram 6": v2(0x21, 0x22, bytes(36)),
    "v2 unix": v2(0x21, 0x31, b"/run/client.sock".ljust(216, b"\0")),
    "v2 unix with extensions": v2(0x21, 0x31, bytes(216) + b"\x04\x00\x01x"),
    "v2 unix datagram": v2(0x21, 0x32, bytes(216)),
    "v2 longest": v2(0x21, 0x00, bytes(MAX_BYTES - 16)),
}

WRONG = {
    "a request": b"GET / HTTP/1.1\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "lower case": b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "no family": b"PROXY \r\n",
    "unknown family": b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
    "UNKNOWN and more": b"PROXY UNKNOWNX\r\n",
    "two spaces": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    "space at the end": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
    "a field less": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "tab": b"PROXY TCP4\t1.2.3.4 1.2.3.4 1 2\r\n",
    "v6 in TCP4": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "v4 in TCP6": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    "destination is none": b"PROXY TCP4 1.2.3.4 nobody 1 2\r\n",
    "leading zero in address": b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
    "short address": b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
    "zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "leading zero in port": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "signed port": b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
    "port of another script": "PROXY TCP4 1.2.3.4 1.2.3.4 ١ 2\r\n".encode(),
    "port with underscore": b"PROXY TCP4 1.2.3.4 1.2.3.4 1_0 2\r\n",
    "port too large": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    "second port too large": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999999\r\n",
    "line feed alone": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n".ljust(V1_MAX_BYTES, b"x"),
    "too long": b"PROXY UNKNOWN ".ljust(V1_MAX_BYTES - 1, b"x") + b"\r\n",
    "not version 2": v2(0x11, 0x11, bytes(12)),
    "unknown command": v2(0x22, 0x11, bytes(12)),
    "family unassigned": v2(0x21, 0x41, bytes(300)),
    "transport unassigned": v2(0x21, 0x13, bytes(12)),
    "family without transport": v2(0x21, 0x10, bytes(12)),
    "short of addresses": v2(0x21, 0x21, bytes(35)),
    "short of a unix address": v2(0x21, 0x31, bytes(215)),
    "over the bound": v2(0x21, 0x00, bytes(MAX_BYTES - 15)),
    "claims too much": v2(0x21, 0x11, bytes(12), length=65535),
}


def fed(data: bytes, cuts: list[int]) -> Parsed | Incomplete | None:
    """What a connection does: the bytes so far, again at each arrival; None = refused."""
    result: Parsed | Incomplete = Incomplete()
    for end in [*sorted({cut for cut in cuts if cut < len(data)}), len(data)]:
        try:
            result = parse(data[:end])
        except ProxyError:
            return None
        if isinstance(result, Parsed):
            return result
    return result


@given(headers(), st.binary(max_size=50))
def test_valid_headers_say_who_connected(
    header: tuple[bytes, str | None, int], after: bytes
) -> None:
    data, source, port = header
    assert parse(data + after) == Parsed(len(data), source, port)


@pytest.mark.parametrize("case", SILENT)
def test_headers_that_name_no_client(case: str) -> None:
    data = SILENT[case]
    assert parse(data + b"GET /") == Parsed(len(data), None, 0)
    assert fed(data, list(range(len(data)))) == Parsed(len(data), None, 0)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_headers_are_refused_whole_and_byte_by_byte(case: str) -> None:
    data = WRONG[case]
    with pytest.raises(ProxyError):
        parse(data)
    assert fed(data, list(range(len(data)))) is None


@given(headers())
def test_every_beginning_is_incomplete(header: tuple[bytes, str | None, int]) -> None:
    data = header[0]
    for end in range(len(data)):
        assert isinstance(parse(data[:end]), Incomplete)


@given(headers(), st.binary(max_size=50), st.lists(st.integers(0, 400), max_size=8))
def test_random_cuts_give_the_same(
    header: tuple[bytes, str | None, int], after: bytes, cuts: list[int]
) -> None:
    data = header[0] + after
    assert fed(data, cuts) == parse(data)


@given(headers(), st.data())
def test_a_damaged_header_is_an_answer_not_a_crash(
    header: tuple[bytes, str | None, int], data: st.DataObject
) -> None:
    damaged = bytearray(header[0])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    check_answer(bytes(damaged))


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: b"PROXY " + b)))
@example(b"")
@example(b"\r\n")
@example(b"PROXY \r\r\n")
def test_any_bytes_are_an_answer_not_a_crash(data: bytes) -> None:
    check_answer(data)


def check_answer(data: bytes) -> None:
    try:
        result = parse(data)
    except ProxyError:
        return
    if isinstance(result, Parsed):
        assert 0 < result.consumed <= min(len(data), MAX_BYTES)
        assert 0 <= result.port <= 65535
        if result.source is not None:
            ipaddress.ip_address(result.source)
    else:
        assert len(data) < MAX_BYTES


def test_no_more_than_the_bound_is_ever_waited_for() -> None:
    """A caller may hold `MAX_BYTES`: with so many the answer is always there."""
    assert isinstance(parse(b"PROXY ".ljust(V1_MAX_BYTES - 1, b"x")), Incomplete)
    with pytest.raises(ProxyError):
        parse(b"PROXY ".ljust(V1_MAX_BYTES, b"x"))
    assert max(family.block_bytes for family in FAMILIES.values()) + 16 < MAX_BYTES


def test_an_ipv4_address_in_ipv6_is_ipv4() -> None:
    mapped = ipaddress.IPv6Address("::ffff:192.0.2.7")
    block = mapped.packed + mapped.packed + bytes((0, 80, 0, 90))
    assert parse(v2(0x21, 0x21, block)) == Parsed(52, "192.0.2.7", 80)
    line = b"PROXY TCP6 ::ffff:192.0.2.7 ::1 80 90\r\n"
    assert parse(line) == Parsed(len(line), "192.0.2.7", 80)
