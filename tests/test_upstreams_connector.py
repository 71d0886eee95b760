"""Connections to upstreams, against real servers in threads: names, addresses, TLS, ends."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trustme
import uvloop
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from open_files import no_file_left

from aigw.errors import StartError
from aigw.upstreams import connector as module
from aigw.upstreams.connector import (
    ConnectFailure,
    Connector,
    Origin,
    TLSSettings,
    tls_context,
)

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
LINGER_0 = b"\x01\0\0\0\0\0\0\0"  # close() sends RST

CA = trustme.CA()
OTHER_CA = trustme.CA()
SERVER = CA.issue_cert("localhost", "127.0.0.1", "::1")
CLIENT = CA.issue_cert("client@example.org")
CA_PEM = CA.cert_pem.bytes().decode()
CLIENT_CERT_PEM = "".join(pem.bytes().decode() for pem in CLIENT.cert_chain_pems)
CLIENT_KEY_PEM = CLIENT.private_key_pem.bytes().decode()
PRIVATE = TLSSettings(ca_pem=CA_PEM)


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


IPV6 = pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here"))

Serve = Callable[[socket.socket], None]


class Recorder(asyncio.Protocol):
    """Keeps what it is told, and can be waited for."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.told: list[str] = []
        self.received = b""
        self.exception: Exception | None = None
        self.first_bytes = asyncio.Event()
        self.lost = asyncio.Event()
        self.pause_at_once = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.first_bytes.set()
        if self.pause_at_once:
            assert self.transport is not None
            self.transport.pause_reading()

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.exception = exc
        self.lost.set()

    @property
    def tls(self) -> ssl.SSLObject:
        assert self.transport is not None
        found = self.transport.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject)
        return found

    async def say(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)
        await self.first_bytes.wait()

    async def abort(self) -> None:
        assert self.transport is not None
        self.transport.abort()
        await self.lost.wait()


def server_context(
    version: ssl.TLSVersion | None = None, clients: trustme.CA | None = None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    SERVER.configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@asynccontextmanager
async def server(
    serve: Serve, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """A server on a thread, one connection after the other; yields its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    port: int = listener.getsockname()[1]
    stop = threading.Event()

    def run() -> None:
        while True:
            peer, _ = listener.accept()
            with peer:
                if stop.is_set():
                    return
                peer.settimeout(20)
                with suppress(OSError):
                    if context is None:
                        serve(peer)
                    else:
                        with context.wrap_socket(peer, server_side=True) as secured:
                            serve(secured)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield port
    finally:
        stop.set()
        socket.create_connection((host, port)).close()
        await asyncio.to_thread(thread.join)
        listener.close()


def answer(peer: socket.socket) -> None:
    peer.sendall(peer.recv(100).upper())
    peer.recv(1)


def run(main: Awaitable[None], loop: str = "uvloop") -> None:
    async def whole() -> None:
        async with asyncio.timeout(20):
            await main

    if loop == "uvloop":
        uvloop.run(whole())
    else:
        asyncio.run(whole())


def descriptors() -> set[str]:
    """Open sockets and memory files of this process; not what the loop keeps for itself."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(f"{entry.name} {entry.readlink()}")
    return {each for each in found if "socket:" in each or "memfd" in each}


@contextmanager
def black_hole() -> Iterator[int]:
    """A port whose backlog is full: a connect to it is not answered."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = []
    try:
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        yield listener.getsockname()[1]
    finally:
        for filler in fillers:
            filler.close()
        listener.close()


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def https(port: int, host: str = "127.0.0.1", tls: TLSSettings = PRIVATE) -> Connector:
    return Connector(Origin("https", host, port), tls)


def http(port: int, host: str = "127.0.0.1") -> Connector:
    return Connector(Origin("http", host, port))


async def failure_of(connector: Connector, timeout_s: float | None = 5) -> ConnectFailure:
    with pytest.raises(ConnectFailure) as raised:
        await connector.connect(Recorder, timeout_s)
    return raised.value


# --- plain TCP --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", IPV6, "localhost"])
def test_plain_connection_has_nodelay_and_carries_bytes(host: str) -> None:
    async def main() -> None:
        async with server(answer, host="::1" if host == "::1" else "127.0.0.1") as port:
            protocol = await http(port, host).connect(Recorder, 5)
            assert protocol.transport is not None
            sock = protocol.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            await protocol.say(b"hello")
            assert protocol.received == b"HELLO"
            await protocol.abort()

    run(main())


def test_reason_refused() -> None:
    async def main() -> None:
        failure = await failure_of(http(unused_port()))
        assert failure.reason == "refused"
        assert "refused" in failure.detail.lower()

    run(main())


def test_reason_timeout() -> None:
    async def main() -> None:
        with black_hole() as port:
            failure = await failure_of(http(port), timeout_s=0.1)
        assert failure.reason == "timeout"
        assert failure.detail == f"127.0.0.1:{port}: none within 0.1 s"

    run(main())


def test_reason_timeout_covers_the_handshake() -> None:
    async def main() -> None:
        async with server(read_only) as port:
            failure = await failure_of(https(port), timeout_s=0.2)
        assert failure.reason == "timeout"

    run(main())


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "a..b"])
def test_reason_dns(host: str) -> None:
    async def main() -> None:
        assert (await failure_of(http(80, host))).reason == "dns"

    run(main())


def test_reason_unreachable() -> None:
    async def main() -> None:
        # TCP cannot speak to a multicast address: the kernel refuses without sending anything.
        assert (await failure_of(http(80, "224.0.0.1"))).reason == "unreachable"

    run(main())


def test_reason_no_file() -> None:
    async def main() -> None:
        port = unused_port()  # no server: it would be in want of files, too
        with no_file_left():
            assert (await failure_of(http(port))).reason == "no_file"

    run(main())


def test_failure_names_every_address() -> None:
    dead = (socket.AF_INET, ("127.0.0.1", unused_port()))
    multicast = (socket.AF_INET, ("224.0.0.1", 80))

    async def main() -> None:
        with pytest.raises(ConnectFailure) as raised:
            await module._open_socket([dead, multicast])
        assert raised.value.reason == "refused"
        assert raised.value.detail.count(";") == 1

    run(main())


def test_a_dead_address_is_followed_by_the_next() -> None:
    async def main() -> None:
        async with server(answer) as port:
            dead = (socket.AF_INET, ("127.0.0.1", unused_port()))
            sock = await module._open_socket([dead, (socket.AF_INET, ("127.0.0.1", port))])
            assert sock.getpeername() == ("127.0.0.1", port)
            sock.close()

    run(main())


def test_a_silent_address_costs_its_head_start_only() -> None:
    async def main() -> None:
        async with server(answer) as port:
            with black_hole() as silent:
                await race(silent, port)

    async def race(silent: int, port: int) -> None:
        before = descriptors()
        began = time.monotonic()
        sock = await module._open_socket(
            [(socket.AF_INET, ("127.0.0.1", each)) for each in (silent, silent, port)]
        )
        took = time.monotonic() - began
        assert sock.getpeername() == ("127.0.0.1", port)
        assert 2 * module.HEAD_START_S <= took < 2 * module.HEAD_START_S + 1
        sock.close()
        await until(lambda: descriptors() == before)

    run(main())


def test_names_are_resolved_anew_and_families_take_turns() -> None:
    """With asyncio's own loop, whose resolver can be replaced."""
    answers = [
        [(socket.AF_INET, "127.0.0.2")],
        [(socket.AF_INET6, "::1"), (socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.3")],
    ]

    async def main() -> None:
        async with server(answer, host="0.0.0.0") as port:
            loop = asyncio.get_running_loop()

            async def resolve(host: str, service: int, **_: object) -> list[object]:
                assert (host, service) == ("gpu.internal", port)
                found = answers.pop(0)
                return [(family, socket.SOCK_STREAM, 6, "", (ip, port)) for family, ip in found]

            loop.getaddrinfo = resolve  # type: ignore[assignment, method-assign]
            connector = http(port, "gpu.internal")
            for expected in ("127.0.0.2", "127.0.0.3"):
                protocol = await connector.connect(Recorder, 5)
                assert protocol.transport is not None
                assert protocol.transport.get_extra_info("peername")[0] == expected
                await protocol.abort()

    run(main(), "asyncio")


def test_addresses_take_turns_by_family() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        found = [
            (socket.AF_INET6, "::1"),
            (socket.AF_INET6, "::2"),
            (socket.AF_INET6, "::1"),
            (socket.AF_INET, "127.0.0.1"),
        ]

        async def resolve(*_: object, **__: object) -> list[object]:
            return [(family, socket.SOCK_STREAM, 6, "", (ip, 80, 0, 0)) for family, ip in found]

        loop.getaddrinfo = resolve  # type: ignore[assignment, method-assign]
        addresses = await http(80, "gpu.internal")._resolve()
        assert [place[0] for _, place in addresses] == ["::1", "127.0.0.1", "::2"]

    run(main(), "asyncio")


# --- TLS: whom to trust -----------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("host", ["127.0.0.1", IPV6, "localhost"])
def test_tls_with_a_private_ca(host: str, loop: str) -> None:
    asked: list[str | None] = []
    context = server_context()
    context.sni_callback = lambda tls, name, _: asked.append(name)

    async def main() -> None:
        async with server(answer, context, "::1" if host == "::1" else "127.0.0.1") as port:
            protocol = await https(port, host).connect(Recorder, 5)
            assert protocol.told == ["made"]
            assert protocol.tls.selected_alpn_protocol() == "http/1.1"
            assert protocol.tls.version() == "TLSv1.3"
            await protocol.say(b"hello")
            assert protocol.received == b"HELLO"
            await protocol.abort()
        assert asked == ["localhost" if host == "localhost" else None]

    run(main(), loop)


def test_system_store_and_what_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store.pem"
    store.write_text(CA_PEM)
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    tls_context.cache_clear()
    other = TLSSettings(ca_pem=OTHER_CA.cert_pem.bytes().decode())

    async def main() -> None:
        async with server(answer, server_context()) as port:
            protocol = await Connector(Origin("https", "127.0.0.1", port)).connect(Recorder, 5)
            await protocol.abort()
            failure = await failure_of(https(port, tls=other))
            assert failure.reason == "tls"
            assert "certificate refused: " in failure.detail

    try:
        run(main())
    finally:
        tls_context.cache_clear()


def test_a_certificate_for_another_name_is_refused() -> None:
    async def main() -> None:
        async with server(answer, server_context(), "127.0.0.2") as port:
            failure = await failure_of(https(port, "127.0.0.2"))
            assert failure.reason == "tls"
            assert "127.0.0.2" in failure.detail

    run(main())


def test_an_intermediate_may_be_the_anchor() -> None:
    """`ca` may name what the operator trusts, not only a self-signed root."""
    intermediate = CA.create_child_ca()
    leaf = intermediate.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)

    async def main() -> None:
        async with server(answer, context) as port:
            anchor = TLSSettings(ca_pem=intermediate.cert_pem.bytes().decode())
            protocol = await https(port, tls=anchor).connect(Recorder, 5)
            await protocol.abort()

    run(main())


def test_plain_server_and_hang_up_are_tls_failures() -> None:
    async def main() -> None:
        async with server(lambda peer: peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
            failure = await failure_of(https(port))
            assert failure.reason == "tls"
        async with server(lambda peer: None) as port:
            assert (await failure_of(https(port))).reason == "tls"

    run(main())


def test_tls_before_1_2_is_refused() -> None:
    assert tls_context(PRIVATE).minimum_version == TLS12
    context = server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    async def main() -> None:
        async with server(answer, context) as port:
            assert (await failure_of(https(port))).reason == "tls"

    run(main())


# --- TLS: how to be trusted -------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
def test_client_certificate(in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    tls_context.cache_clear()
    settings = TLSSettings(CA_PEM, CLIENT_CERT_PEM, CLIENT_KEY_PEM)

    def greet(peer: socket.socket) -> None:
        assert isinstance(peer, ssl.SSLSocket)
        certificate = peer.getpeercert()
        assert certificate is not None
        peer.sendall(str(certificate["subjectAltName"]).encode())
        answer(peer)

    async def main() -> None:
        before = descriptors()
        async with server(greet, server_context(clients=CA)) as port:
            protocol = await https(port, tls=settings).connect(Recorder, 5)
            await protocol.say(b"x")
            assert b"client@example.org" in protocol.received
            await protocol.abort()
        assert descriptors() == before

    run(main())


def test_a_missing_client_certificate() -> None:
    """TLS 1.2 tells it in the handshake, TLS 1.3 afterwards."""

    async def main() -> None:
        async with server(answer, server_context(TLS12, clients=CA)) as port:
            assert (await failure_of(https(port))).reason == "tls"
        async with server(answer, server_context(TLS13, clients=CA)) as port:
            protocol = await https(port).connect(Recorder, 5)
            await protocol.lost.wait()
            assert protocol.told == ["made", "lost"]
            assert isinstance(protocol.exception, ssl.SSLError)

    run(main())


def encrypted_key() -> str:
    key = load_pem_private_key(CLIENT_KEY_PEM.encode(), None)
    pem = key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret")
    )
    return pem.decode()


BROKEN = {
    "no certificate": (TLSSettings(ca_pem="nothing"), "ca: "),
    "not ASCII, no certificate": (TLSSettings(ca_pem="# Zürich\n"), "ca: "),
    "no key": (TLSSettings("", CLIENT_CERT_PEM, ""), "cert, cert_key: "),
    "another's key": (
        TLSSettings("", CLIENT_CERT_PEM, SERVER.private_key_pem.bytes().decode()),
        "cert, cert_key: not usable: KEY_VALUES_MISMATCH",
    ),
    "encrypted key": (TLSSettings("", CLIENT_CERT_PEM, encrypted_key()), "without a passphrase"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_unusable_certificates_stop_the_start(case: str) -> None:
    settings, expected = BROKEN[case]
    with pytest.raises(StartError) as raised:
        tls_context(settings)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "PRIVATE" not in str(raised.value)


def test_comments_in_a_ca_file_may_be_in_any_language() -> None:
    tls_context(TLSSettings(ca_pem="# Zürich\n" + CA_PEM))


def test_contexts_are_made_once_for_equal_settings() -> None:
    tls_context(PRIVATE)
    made = tls_context.cache_info().misses
    same = TLSSettings(ca_pem=str(CA_PEM))
    one, two = Connector(Origin("https", "a", 1), same), Connector(Origin("https", "b", 1), same)
    assert one._handshakes is not None
    assert two._handshakes is not None
    assert one._handshakes.context is two._handshakes.context
    assert tls_context.cache_info().misses == made


# --- TLS: sessions ----------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_second_handshake_reuses_the_session(version: ssl.TLSVersion, loop: str) -> None:
    async def main() -> None:
        async with server(answer, server_context(version)) as port:
            connector = https(port)
            reused = []
            for _ in range(3):
                protocol = await connector.connect(Recorder, 5)
                reused.append(protocol.tls.session_reused)
                await protocol.say(b"x")
                assert protocol.transport is not None
                connector.remember_session(protocol.transport)
                await protocol.abort()
            assert reused == [False, True, True]

    run(main(), loop)


def test_sessions_of_two_origins_with_one_context_do_not_mix() -> None:
    async def main() -> None:
        async with (
            server(answer, server_context(TLS13)) as one,
            server(answer, server_context(TLS13)) as two,
        ):
            connectors = [https(one), https(two)]
            reused = []
            for connector in connectors * 2:
                protocol = await connector.connect(Recorder, 5)
                reused.append(protocol.tls.session_reused)
                await protocol.say(b"x")
                assert protocol.transport is not None
                connector.remember_session(protocol.transport)
                await protocol.abort()
            assert reused == [False, False, True, True]

    run(main())


def test_a_session_is_copied_after_a_full_handshake_only() -> None:
    async def main() -> None:
        async with server(answer, server_context(TLS13)) as port:
            connector = https(port)
            kept = set()
            for _ in range(3):
                protocol = await connector.connect(Recorder, 5)
                await protocol.say(b"x")
                assert protocol.transport is not None
                for _ in range(2):
                    connector.remember_session(protocol.transport)
                assert connector._handshakes is not None
                kept.add(id(connector._handshakes.session))
                await protocol.abort()
            assert len(kept) == 1
            assert connector._handshakes is not None
            assert connector._handshakes.session is not None

    run(main())


def test_a_session_that_the_server_no_longer_knows_is_replaced() -> None:
    """Another server on the same port: a restart with new ticket keys."""

    async def main() -> None:
        connector = https(0)
        reused = []
        for _ in range(2):
            async with server(answer, server_context(TLS13)) as port:
                connector.origin = Origin("https", "127.0.0.1", port)
                for _ in range(2):
                    protocol = await connector.connect(Recorder, 5)
                    reused.append(protocol.tls.session_reused)
                    await protocol.say(b"x")
                    assert protocol.transport is not None
                    connector.remember_session(protocol.transport)
                    await protocol.abort()
        assert reused == [False, True, False, True]

    run(main())


def test_a_plain_connection_has_no_session() -> None:
    async def main() -> None:
        async with server(answer) as port:
            connector = http(port)
            protocol = await connector.connect(Recorder, 5)
            assert protocol.transport is not None
            connector.remember_session(protocol.transport)
            await protocol.abort()

    run(main())


def test_a_failed_handshake_forgets_the_session() -> None:
    async def main() -> None:
        async with server(answer, server_context(TLS13)) as port:
            connector = https(port)
            protocol = await connector.connect(Recorder, 5)
            await protocol.say(b"x")
            assert protocol.transport is not None
            connector.remember_session(protocol.transport)
            await protocol.abort()
        async with server(lambda peer: None) as port:
            connector.origin = Origin("https", "127.0.0.1", port)
            await failure_of(connector)
            assert connector._handshakes is not None
            assert connector._handshakes.session is None

    run(main())


# --- how an end looks -------------------------------------------------------------------------


def end_by_fin(peer: socket.socket) -> None:
    peer.recv(1)
    socket.socket(fileno=peer.detach()).close()


def end_by_rst(peer: socket.socket) -> None:
    peer.recv(1)
    raw = socket.socket(fileno=peer.detach())
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    raw.close()


def end_by_notify(peer: socket.socket) -> None:
    """close_notify and FIN at once, as servers do that do not wait for the client's."""
    assert isinstance(peer, ssl.SSLSocket)
    peer.recv(1)
    peer.settimeout(0)
    with suppress(ssl.SSLWantReadError):
        peer.unwrap()
    socket.socket(fileno=peer.detach()).close()


def end_by_broken_record(peer: socket.socket) -> None:
    peer.recv(1)
    with socket.socket(fileno=peer.detach()) as raw:
        raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        raw.recv(100)


ENDS: dict[str, tuple[Serve, bool, type[Exception] | None]] = {
    "fin": (end_by_fin, True, None),
    "rst": (end_by_rst, False, ConnectionResetError),
}
TLS_ENDS: dict[str, tuple[Serve, bool, type[Exception] | None]] = {
    "close_notify": (end_by_notify, True, None),
    "fin": (end_by_fin, False, None),
    "rst": (end_by_rst, False, ConnectionResetError),
    "broken record": (end_by_broken_record, False, ssl.SSLError),
}


async def check_end(connector: Connector, clean: bool, exception: type[Exception] | None) -> None:
    protocol = await connector.connect(Recorder, 5)
    assert protocol.transport is not None
    protocol.transport.write(b"x")
    await protocol.lost.wait()
    assert protocol.told == (["made", "eof", "lost"] if clean else ["made", "lost"])
    assert type(protocol.exception) is (type(None) if exception is None else exception)


@pytest.mark.parametrize("end", ENDS)
def test_end_of_a_plain_connection(end: str) -> None:
    serve, clean, exception = ENDS[end]

    async def main() -> None:
        async with server(serve) as port:
            await check_end(http(port), clean, exception)

    run(main())


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("end", TLS_ENDS)
def test_end_of_a_tls_connection(end: str, version: ssl.TLSVersion) -> None:
    serve, clean, exception = TLS_ENDS[end]

    async def main() -> None:
        async with server(serve, server_context(version)) as port:
            await check_end(https(port), clean, exception)

    run(main())


@pytest.mark.parametrize("end", ["close_notify", "fin"])
def test_bytes_before_the_end_survive_a_pause(end: str) -> None:
    """An answer that is there whole when the protocol pauses arrives whole, and then its end."""
    size = 200_000

    def serve(peer: socket.socket) -> None:
        peer.sendall(bytes(size))
        TLS_ENDS[end][0](peer)

    async def main() -> None:
        async with server(serve, server_context()) as port:
            protocol = await https(port).connect(Recorder, 5)
            protocol.pause_at_once = True
            await protocol.say(b"x")
            await asyncio.sleep(0.1)  # the FIN is there: what must not happen has had its time
            assert protocol.told == ["made"]
            assert 0 < len(protocol.received) < size
            protocol.pause_at_once = False
            assert protocol.transport is not None
            protocol.transport.resume_reading()
            await protocol.lost.wait()
            assert len(protocol.received) == size
            assert ("eof" in protocol.told) == (end == "close_notify")

    run(main())


# --- cancelling -------------------------------------------------------------------------------


def read_only(peer: socket.socket) -> None:
    """Speaks no TLS, and waits."""
    while peer.recv(1 << 16):
        pass


CANCELLED: dict[str, tuple[Serve, ssl.SSLContext | None, bool]] = {
    "plain": (answer, None, False),
    "tls": (answer, server_context(), True),
    "no handshake": (read_only, None, True),
}


@pytest.mark.parametrize("kind", CANCELLED)
def test_a_cancelled_connect_leaves_nothing(kind: str) -> None:
    """At 60 moments from before the first byte to after the last."""
    serve, context, secure = CANCELLED[kind]

    async def main() -> None:
        async with server(serve, context) as port:
            connector = https(port) if secure else http(port)
            before = descriptors()
            for step in range(60):
                task = asyncio.ensure_future(connector.connect(Recorder, 5))
                await asyncio.sleep(step / 60 * 0.012)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    protocol = await task
                    await protocol.abort()
            await until(lambda: descriptors() == before)

    run(main())


def test_a_cancelled_race_leaves_nothing() -> None:
    async def main() -> None:
        with black_hole() as silent:
            before = descriptors()
            addresses = [(socket.AF_INET, ("127.0.0.1", silent))] * 3
            task = asyncio.ensure_future(module._open_socket(addresses))
            await until(lambda: len(descriptors() - before) == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: descriptors() == before)

    run(main())


async def until(true: Callable[[], bool]) -> None:
    """What the kernel or a loop turn brings about cannot be awaited, but it comes soon."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)
