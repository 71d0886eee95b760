"""Connections to an upstream: name, TCP, TLS, and nothing of HTTP.

Not here: which member to ask (`balance`), keeping connections (`member`), what flows on one
(`connection`).

The idea: a `Connector` belongs to one origin and makes connected protocols.  Names are resolved
anew each time, all addresses are tried, the next one beside the last after a quarter of a second
(RFC 8305), so that one dead address family costs 250 ms rather than the whole timeout.  A connect
that fails or is cancelled leaves no socket behind.

TLS contexts are shared by all origins with equal `TLSSettings`.  Reading the system's trust store
takes 35-70 ms and 0.8 MiB (measured 2026-11-23 on two busy cores, 144 certificates, CPython 3.11,
OpenSSL 3.0; a private CA: 0.5 ms, with a client certificate 1.3 ms), so the master calls
`prepare_tls` before it forks, and whoever reloads calls it in a thread (OpenSSL reads without the
interpreter's lock: the loop's longest pause was 7 ms); a reload that leaves the TLS settings alone
finds every context made.

Sessions: a `Connector` keeps a TLS session of its origin, and the next handshakes offer it (client
CPU 0.9 ms instead of 1.4 ms in TLS 1.2, and a round trip less; 1.2 instead of 1.4 ms in TLS 1.3).
Loops have no parameter for that, but all that they do with a context is to call its `wrap_bio`:
`_Handshakes` answers that call.  In TLS 1.3 the ticket comes after the handshake, with the first
bytes read: so `remember_session` is called when a connection has had its first answer.

How an end looks to a protocol (uvloop 0.22 and 0.23, plain and TLS alike; the tests hold it):

    the peer...                          eof_received   connection_lost
    plain TCP: FIN                       called         None
    TLS: close_notify                    called         None, or any exception
    TLS: FIN without close_notify        not called     None
    RST                                  not called     ConnectionResetError
    TLS: a fatal alert, a broken record  not called     ssl.SSLError

So one rule: **the peer ended cleanly if and only if `eof_received` was called before
`connection_lost`**; the exception says nothing.  Return a false value from `eof_received` on TLS
(a true one has no effect but a warning in the log).  A client certificate that a TLS 1.3 server
does not like is told after the handshake: as `connection_lost(SSLError)` on a fresh connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import msgspec

from aigw.errors import StartError

if TYPE_CHECKING:
    from aigw.policy import UpstreamPolicy

Reason = Literal["refused", "timeout", "dns", "tls", "unreachable", "no_file"]
Address = tuple[socket.AddressFamily, tuple[str, int]]
P = TypeVar("P", bound=asyncio.BaseProtocol)

HEAD_START_S = 0.25
"""How long an address is tried alone before the next one is tried beside it (RFC 8305, 5)."""
SHUTDOWN_TIMEOUT_S = 1.0
"""How long a closed TLS connection waits for the peer's close_notify; uvloop's default is 30 s."""
CONTEXTS = 64
"""Contexts kept for different TLS settings: more than any sane file has, so that reloads with
ever new certificates do not add up (one with the system's store holds 0.8 MiB)."""

REASONS: dict[int | None, Reason] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.EMFILE: "no_file",
    errno.ENFILE: "no_file",
}
"""Every other error of connect(2) means unreachable: no route, no address."""


class TLSSettings(msgspec.Struct, frozen=True):
    """How to trust and how to be trusted: contents, not paths; "" = none.

    `ca_pem` takes the place of the system's trust store.
    """

    ca_pem: str = ""
    cert_pem: str = ""
    key_pem: str = ""

    def __repr__(self) -> str:  # without the private key
        return "TLSSettings()"


class Origin(msgspec.Struct, frozen=True):
    """Whom to connect to.  `host` is a name or an address, an IPv6 one without brackets."""

    scheme: Literal["http", "https"]
    host: str
    port: int


class ConnectFailure(Exception):  # noqa: N818  the word of the metric
    """No connection came about: nothing was sent, another member may be tried safely.

    `reason` is a metric's label, `detail` is for the operator's log.  For "no_file" the fault is
    ours: this process may open no more files.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class Connector:
    """Makes connections to one origin."""

    def __init__(self, origin: Origin, tls: TLSSettings | None = None) -> None:
        """Raise `StartError` when the certificates of `tls` are unusable."""
        self.origin = origin
        self._handshakes: _Handshakes | None = None
        # Nothing to resolve, nothing to choose from, no handshake: the loop's own connect will do,
        # for 90 µs of CPU instead of 180 (200 connections opened at once, 2026-11-24).
        self._is_at_hand = origin.scheme == "http" and _is_address(origin.host)
        if origin.scheme == "https":
            self._handshakes = _Handshakes(tls_context(tls or TLSSettings()))

    async def connect(self, protocol_factory: Callable[[], P], timeout_s: float | None = None) -> P:
        """Return a protocol whose `connection_made` was called; raise `ConnectFailure`.

        `timeout_s` bounds names, TCP and TLS together.  After a failure the protocol that the
        factory made, if it came to that, is not to be used.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if self._is_at_hand:
                    return await self._connect_at_once(protocol_factory)
                sock = await _open_socket(await self._resolve())
                return await self._adopt(sock, protocol_factory)
        except TimeoutError as failure:
            detail = f"{_place(self.origin.host, self.origin.port)}: none within {timeout_s:g} s"
            raise ConnectFailure("timeout", detail) from failure

    def remember_session(self, transport: asyncio.BaseTransport) -> None:
        """Keep the TLS session of this connection for the next handshakes.

        To be called when a connection goes back to the pool: 0.3 µs, but for the first call after
        a full handshake, which has OpenSSL copy the session (230 µs: half of what one resumption
        saves, so not after each).  While the server accepts the session it stays the same one;
        when it no longer does there is a full handshake, and a new session.
        """
        if self._handshakes is None:
            return
        tls = transport.get_extra_info("ssl_object")
        if isinstance(tls, _TLSObject) and not tls.remembered:
            tls.remembered = True
            if not tls.session_reused:
                self._handshakes.session = tls.session

    async def _resolve(self) -> list[Address]:
        """All addresses, families taking turns, the resolver's first choice first."""
        loop = asyncio.get_running_loop()
        host, port = self.origin.host, self.origin.port
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as failure:
            raise ConnectFailure("dns", f"{host}: {failure}") from failure
        if not found:
            raise ConnectFailure("dns", f"{host}: no address")
        addresses = [(family, (str(place[0]), port)) for family, _, _, _, place in found]
        first = [address for address in addresses if address[0] == addresses[0][0]]
        other = [address for address in addresses if address[0] != addresses[0][0]]
        turns = chain.from_iterable(zip_longest(first, other))
        return [address for address in dict.fromkeys(turns) if address is not None]

    async def _connect_at_once(self, protocol_factory: Callable[[], P]) -> P:
        loop, host, port = asyncio.get_running_loop(), self.origin.host, self.origin.port
        try:
            _, protocol = await loop.create_connection(protocol_factory, host, port)
        except OSError as failure:
            raise _connect_failure(failure, host, port) from failure
        return protocol

    async def _adopt(self, sock: socket.socket, protocol_factory: Callable[[], P]) -> P:
        """Hand a connected socket to the loop, through a TLS handshake where one is due."""
        loop = asyncio.get_running_loop()
        if self._handshakes is None:
            _, protocol = await loop.create_connection(protocol_factory, sock=sock)
            return protocol
        try:
            transport, protocol = await loop.create_connection(
                protocol_factory,
                sock=sock,
                ssl=cast(ssl.SSLContext, self._handshakes),
                server_hostname=self.origin.host,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            )
        except OSError as failure:
            self._handshakes.session = None  # were it at fault, the next handshake is a full one
            place = _place(self.origin.host, self.origin.port)
            raise ConnectFailure("tls", f"{place}: {_tls_detail(failure)}") from failure
        _keep_bytes_while_paused(transport)
        return protocol


def _keep_bytes_while_paused(transport: asyncio.Transport) -> None:
    """Stop reading the socket as soon as the protocol has paused reading.

    uvloop goes on until 256 KiB of records wait, and when it meets a FIN then, it closes and
    forgets them: an answer that was sent whole would arrive cut.  With a mark of one byte the
    socket is paused together with the protocol, and the FIN waits in the kernel behind the bytes.
    """
    if hasattr(transport, "set_read_buffer_limits"):
        transport.set_read_buffer_limits(high=1, low=0)


def _tls_detail(failure: OSError) -> str:
    if isinstance(failure, ssl.SSLCertVerificationError):
        return f"certificate refused: {failure.verify_message}"
    if isinstance(failure, ssl.SSLError):
        return failure.reason or str(failure)
    return "the connection ended during the TLS handshake"


# --- TCP ------------------------------------------------------------------------------------


async def _open_socket(addresses: list[Address]) -> socket.socket:
    """The first address that connects; the others are given up and their sockets closed."""
    attempts: list[asyncio.Task[socket.socket]] = []
    waiting: set[asyncio.Task[socket.socket]] = set()
    failures: list[ConnectFailure] = []
    winner = None
    try:
        for index, address in enumerate(addresses):
            task = asyncio.ensure_future(_open_one(address))
            attempts.append(task)
            waiting.add(task)
            last = index == len(addresses) - 1
            while waiting and winner is None:
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=None if last else HEAD_START_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    break
                for ended in done:
                    failure = ended.exception()
                    if isinstance(failure, ConnectFailure):
                        failures.append(failure)
                    elif winner is None:
                        winner = ended
            if winner is not None:
                return winner.result()
    finally:
        for task in attempts:
            if task is not winner:
                _give_up(task)
    details = "; ".join(failure.detail for failure in failures)
    raise ConnectFailure(failures[0].reason, details)


async def _open_one(address: Address) -> socket.socket:
    family, place = address
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException as failure:
        if sock is not None:
            sock.close()
        if not isinstance(failure, OSError):
            raise
        raise _connect_failure(failure, *place) from failure
    return sock


def _connect_failure(failure: OSError, host: str, port: int) -> ConnectFailure:
    reason = REASONS.get(failure.errno, "unreachable")
    return ConnectFailure(reason, f"{_place(host, port)}: {os.strerror(failure.errno or 0)}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _give_up(attempt: asyncio.Task[socket.socket]) -> None:
    """End an attempt that nobody waits for, whatever it has come to; it closes its own socket."""
    if not attempt.done():
        attempt.cancel()
    elif not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- TLS ------------------------------------------------------------------------------------


class _TLSObject(ssl.SSLObject):
    remembered = False


class _Handshakes:
    """Stands in front of the shared context and offers the origin's session.

    All that a loop does with a client's context is `wrap_bio`, so that is all there is here.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.session: ssl.SSLSession | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool,
        server_hostname: str,
    ) -> ssl.SSLObject:
        return self.context.wrap_bio(
            incoming, outgoing, server_side, server_hostname, session=self.session
        )


def tls_of(upstream: UpstreamPolicy) -> TLSSettings:
    """How connections to an upstream trust and are trusted."""
    return TLSSettings(upstream.ca_pem, upstream.cert_pem, upstream.key_pem)


def prepare_tls(upstreams: Iterable[UpstreamPolicy]) -> None:
    """Make the contexts that these need now, so that no connection waits for the disk later.

    Raises `StartError` when a certificate is unusable.  May run in a thread.
    """
    for upstream in upstreams:
        if any(member.scheme == "https" for member in upstream.members):
            tls_context(tls_of(upstream))


@functools.lru_cache(maxsize=CONTEXTS)
def tls_context(settings: TLSSettings) -> ssl.SSLContext:
    """The context for these settings: one for all origins; raises `StartError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the chain and the host's name
    context.sslobject_class = _TLSObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # `ca` may be an intermediate, as with curl and Go: what the operator names is the anchor.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if settings.ca_pem:
        with _material("ca"), _as_file(settings.ca_pem) as path:
            context.load_verify_locations(cafile=path)
    else:
        context.load_default_certs()
    if settings.cert_pem:
        with _material("cert, cert_key"), _as_file(settings.cert_pem, settings.key_pem) as path:
            context.load_cert_chain(path, password=_no_password)
    return context


@contextlib.contextmanager
def _material(options: str) -> Iterator[None]:
    """Turn OpenSSL's complaint about a certificate or key into a line that names the options."""
    try:
        yield
    except (OSError, ValueError) as fault:
        reason = fault.reason if isinstance(fault, ssl.SSLError) else None
        raise StartError(f"{options}: not usable: {reason or fault}") from fault


def _no_password() -> str:
    """OpenSSL would ask on the terminal, in the middle of a start or a reload."""
    raise ValueError("the key is encrypted; give one without a passphrase")


@contextlib.contextmanager
def _as_file(*pem: str) -> Iterator[str]:
    """A path for contents that OpenSSL takes from files only; on Linux it never meets a disk."""
    content = "\n".join(pem).encode()
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("pem"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as temporary:  # readable by its owner alone
            temporary.write(content)
            temporary.flush()
            yield temporary.name
