"""Listening sockets: how they are opened before the fork, shared, and closed without a reset.

Not here: who forks whom (master) and what is spoken on a connection (proxy).

The one idea: the kernel hands each new connection to one socket of a SO_REUSEPORT group, and resets
what waits in a socket's queue when its last descriptor closes. So the master opens one socket per
worker slot before it forks and keeps them all open: whoever dies, the queue of its slot stays and
its successor (or a sibling) answers it. And before the last descriptor of a socket is closed, the
kernel is told to let no new connection in, and what it has already accepted is taken out.

Measured for that filter (Linux 6.18, 2025-11): a classic BPF filter on a TCP listener sees the
segment from the TCP header on, for IPv4 and IPv6 alike, so the flags are byte 13. The SYNs that it
drops are retransmitted after 1 s, and refused if the socket is closed by then: the client sees a
clean refusal (or another instance), never a reset of what it took for an accepted connection.
Connections in the queue, and handshakes of which only the last ACK is missing, go on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import stat
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aigw.errors import StartError

if TYPE_CHECKING:
    from aigw.sharing import Sharing

LINUX = sys.platform == "linux"

# sun_path holds 108 bytes on Linux, 104 on macOS, one of them the closing NUL.
UNIX_PATH_BYTES = 107 if LINUX else 103

# After the accept queue was seen empty: time for handshakes on their way (their SYN came before the
# filter, their ACK has yet to come), and the longest that accepting goes on at all, for the sockets
# which no filter can quieten.
QUIET_S = 0.05
QUIET_LIMIT_S = 2.0
QUIET_LOOK_S = 0.005

# Where no limit of open files is set: 20,000 clients of a worker and as many upstream need 40,000.
OPEN_FILES_MOST = 1 << 20

# Files of any of our processes beside sockets: standard streams, pipes, logs, the loop's own (17 in
# a worker, 2026-11-24), and what is open for a moment, such as names being looked up.
OWN_FILES = 20
# With less room than this for connections there is no point in starting.
LEAST_ROOM = 8
# Who is told that there is no room has a file as well, until he is gone: of these at most so many
# at a time, and no more than this part of the room; the others are cut.
MAX_REFUSED_AT_ONCE, REFUSED_PART = 256, 8

# The first descriptor that systemd passes (sd_listen_fds(3)).
LISTEN_FDS_START = 3

FAULTS = {
    errno.EADDRINUSE: "already in use, by another aigw or another program",
    errno.EACCES: "permission denied",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EAFNOSUPPORT: "this machine does not speak that protocol (IPv6 switched off?)",
    errno.ENOENT: "no such directory",
    errno.ENOTDIR: "no such directory",
    errno.EMFILE: "the limit of open files is reached",
}

Instruction = tuple[int, int, int, int]  # of classic BPF: code, jump if true, if false, operand

# Drop what is SYN without ACK (flags & (SYN|ACK) == SYN), keep all else.
DROP_PURE_SYNS: tuple[Instruction, ...] = (
    (0x30, 0, 0, 13),  # load the byte at 13: the TCP flags
    (0x54, 0, 0, 0x12),  # and with ACK | SYN
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)
SO_ATTACH_FILTER = 26


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: `path` for a Unix socket, else host and port."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Room(NamedTuple):
    """How much the kernel holds for us: connections that wait to be accepted (at most
    net.core.somaxconn), and bytes of each connection; 0 bytes = as much as it finds right."""

    backlog: int = 4096
    send_bytes: int = 0
    receive_bytes: int = 0


USUAL_ROOM = Room()


class Listener(socket.socket):
    """A listening socket that knows what its closing means.

    `backlog`: the loop calls listen(2) once more, and must not change it.
    `kept_by_parent`: systemd holds it too, so its queue outlives us and it must stay unfiltered.
    `file`: what identifies the socket file that we made, so that nobody else's is removed.
    """

    backlog: int = USUAL_ROOM.backlog
    kept_by_parent: bool = False
    file: tuple[int, int, int] | None = None


def parse_address(text: str) -> Address:
    """Read `host:port`, `[ipv6]:port` or `unix:/path`; raises StartError."""
    if text.startswith("unix:"):
        return Address("", 0, _unix_path(text))
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise StartError(f"address {text!r}: write IPv6 as [{host}]:{port}")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise StartError(f"address {text!r}: expected host:port, [ipv6]:port or unix:/path")
    if not host:
        raise StartError(f"address {text!r}: no host (0.0.0.0:{port} is every interface)")
    return Address(host, int(port))


def _unix_path(text: str) -> str:
    path = text.removeprefix("unix:")
    if not path or "\0" in path:
        raise StartError(f"address {text!r}: expected unix:/path")
    if len(os.fsencode(path)) > UNIX_PATH_BYTES:
        raise StartError(f"address {text!r}: the path is longer than {UNIX_PATH_BYTES} bytes")
    return path


def address_of(listener: socket.socket) -> Address:
    """Where it listens, a port that the kernel chose included."""
    name = listener.getsockname()
    return Address("", 0, name) if listener.family == socket.AF_UNIX else Address(*name[:2])


# ---------------------------------------------------------------- opening


def bind_listeners(
    addresses: Sequence[str], slots: int, room: Room = USUAL_ROOM
) -> list[list[socket.socket]]:
    """Open every address once per worker slot; the result is by slot, then by address.

    A Unix socket (and, where SO_REUSEPORT does not balance, any socket) is one for all slots: the
    same object stands in each of them.  The access mode of a socket file is 0777 less the umask,
    so under 022 only our own user may connect.  Raises StartError, one line, with all closed again.
    """
    opened: list[list[Listener]] = []
    taken: set[tuple[str | int, ...]] = set()
    try:
        for address in map(parse_address, addresses):
            for name in _names(address):
                if name not in taken:
                    opened.append([])
                    _open(address, name, slots, room, opened[-1])
                    taken.add(name)
    except BaseException:
        close_listeners(opened)
        raise
    return spread(opened, slots)


def spread(opened: Sequence[Sequence[Listener]], slots: int) -> list[list[socket.socket]]:
    """Groups of sockets by address into lists by slot; a group of one is for all slots."""
    return [[group[min(slot, len(group) - 1)] for group in opened] for slot in range(slots)]


def bind_admin(address: str) -> socket.socket | None:
    """The admin listener, or None for an empty address; raises StartError."""
    return bind_listeners([address], 1)[0][0] if address else None


Name = tuple[str | int, ...]  # (path,) of a Unix socket, or what getaddrinfo gives


def _names(address: Address) -> list[Name]:
    """What the kernel calls this address: a host name may stand for several."""
    if address.path:
        return [(address.path,)]
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise StartError(f"cannot listen on {address}: unknown host name") from error
    names: list[Name] = [(str(name[0]), *map(int, name[1:])) for *_, name in found]
    return [n for n in names if len(names) == 1 or _is_ours(n)] or names


def _is_ours(name: Name) -> bool:
    """Does this machine have the address?  (`localhost` may name ::1 where IPv6 is off.)"""
    try:
        with socket.socket(_family(name), socket.SOCK_STREAM) as probe:
            probe.bind((name[0], 0, *name[2:]))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


def _family(name: Name) -> socket.AddressFamily:
    families = {1: socket.AF_UNIX, 2: socket.AF_INET, 4: socket.AF_INET6}
    return families[len(name)]


def _open(address: Address, name: Name, slots: int, room: Room, group: list[Listener]) -> None:
    """Append the sockets of one address, one for each slot where the kernel balances them.

    The first is bound and listening before it gets SO_REUSEPORT.  Had it the option from the start,
    a second aigw of the same user would join the group and take half of the connections.
    """
    try:
        group.append(_listener(name, room))
        if slots > 1 and LINUX and not address.path:
            group[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound = group[0].getsockname()
            group.extend(_listener(bound, room, share=True) for _ in range(1, slots))
    except OSError as error:
        why = FAULTS.get(error.errno or 0, error.strerror or str(error))
        if error.errno == errno.EACCES and 0 < address.port < 1024:
            why += " (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
        raise StartError(f"cannot listen on {address}: {why}") from error


def _listener(name: Name, room: Room, share: bool = False) -> Listener:
    listener = Listener(_family(name), socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        if listener.family == socket.AF_UNIX:
            _bind_unix(listener, str(name[0]))
        else:
            _bind_tcp(listener, name, share)
            _give_room(listener, room)
        listener.backlog = room.backlog
        listener.listen(room.backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind_tcp(listener: Listener, name: Name, share: bool) -> None:
    # Without SO_REUSEADDR connections in TIME_WAIT would forbid a restart for a minute.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if listener.family == socket.AF_INET6:
        # Else [::] would take 0.0.0.0 too, or not, as a sysctl pleases.
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(name)


def _give_room(listener: Listener, room: Room) -> None:
    """Set the buffers, which all accepted connections inherit; the window that the handshake
    announces follows from them, so before listening.  StartError where the kernel gives less."""
    for option, wanted, name, sysctl in (
        (socket.SO_SNDBUF, room.send_bytes, "send_buffer", "net.core.wmem_max"),
        (socket.SO_RCVBUF, room.receive_bytes, "receive_buffer", "net.core.rmem_max"),
    ):
        if wanted:
            listener.setsockopt(socket.SOL_SOCKET, option, wanted)
            # Linux doubles the number, for its own book-keeping: socket(7).
            given = listener.getsockopt(socket.SOL_SOCKET, option) // (2 if LINUX else 1)
            if given < wanted:
                raise StartError(f"listen.{name}: {sysctl} allows {given} bytes, not {wanted}")


def _bind_unix(listener: Listener, path: str) -> None:
    _remove_dead_socket(path)
    listener.bind(path)
    listener.file = _file_identity(path)


def _remove_dead_socket(path: str) -> None:
    """Remove the file that a killed process left; EADDRINUSE if somebody listens there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket stands there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        fault = probe.connect_ex(path)
    if fault == errno.ECONNREFUSED:
        Path(path).unlink(missing_ok=True)
    elif fault != errno.ENOENT:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _file_identity(path: str) -> tuple[int, int, int]:
    # An inode number alone is soon used again for the successor's file.
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns


# ---------------------------------------------------------------- systemd


@dataclass(frozen=True, slots=True)
class Inherited:
    """Listening sockets that systemd opened for us: they stand in place of the configured ones."""

    data: tuple[Listener, ...] = ()
    admin: Listener | None = None


def take_inherited(environ: MutableMapping[str, str]) -> Inherited:
    """Take over what LISTEN_FDS names (sd_listen_fds(3)) and remove it from the environment.

    The socket that LISTEN_FDNAMES calls `admin` is the admin listener, all others carry data.
    Raises StartError for what is no listening stream socket.
    """
    owner = environ.get("LISTEN_PID", "")
    if owner != str(os.getpid()):
        return Inherited()
    count, names = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_FDNAMES", "").split(":")
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(variable, None)
    if not (count.isascii() and count.isdecimal()):
        raise StartError(f"LISTEN_FDS={count!r} is not a number")
    data: list[Listener] = []
    admin: Listener | None = None
    for position in range(int(count)):
        listener = _inherit(LISTEN_FDS_START + position)
        if admin is None and names[position : position + 1] == ["admin"]:
            admin = listener
        else:
            data.append(listener)
    return Inherited(tuple(data), admin)


def _inherit(fd: int) -> Listener:
    try:
        listener = Listener(fileno=fd)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"LISTEN_FDS: descriptor {fd} is no socket") from error
    if not listening or listener.type != socket.SOCK_STREAM:
        raise StartError(f"LISTEN_FDS: descriptor {fd} is no listening stream socket (Accept=yes?)")
    listener.setblocking(False)
    listener.set_inheritable(False)
    listener.kept_by_parent = True
    return listener


# ---------------------------------------------------------------- closing


def close_listeners(listeners: Iterable[Iterable[socket.socket]], remove: bool = True) -> None:
    """Close all; with `remove` the socket files that we made go too."""
    for group in listeners:
        for listener in group:
            if remove:
                _remove_file(listener)
            listener.close()


def drop_new_connections(listener: socket.socket) -> None:
    """Let no new connection into the queue; what is in it may still be accepted.

    On TCP the filter above, on a Unix socket the removal of its file.  It holds for all processes
    that share the socket, cannot be undone here, and may be asked for twice.  A socket that systemd
    keeps is left alone, since its queue waits for the next aigw; off Linux there is no such filter.
    """
    if isinstance(listener, Listener) and listener.kept_by_parent:
        return
    if listener.family == socket.AF_UNIX:
        _remove_file(listener)
    elif LINUX:
        _attach(listener, SO_ATTACH_FILTER, DROP_PURE_SYNS)


def _attach(listener: socket.socket, option: int, program: Sequence[Instruction]) -> None:
    """Hand a classic BPF program to the kernel, which copies it (struct sock_fprog)."""
    code = array("B", b"".join(struct.pack("=HBBI", *line) for line in program))
    address, _ = code.buffer_info()
    listener.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), address))


def _remove_file(listener: socket.socket) -> None:
    if not isinstance(listener, Listener) or listener.file is None:
        return
    try:
        path = listener.getsockname()
        if _file_identity(path) == listener.file:
            Path(path).unlink()
    except OSError:
        pass  # gone already, or the directory is no longer ours: nothing to be done at exit
    listener.file = None


# ---------------------------------------------------------------- accepting, in a worker


class Accepting:
    """The listening sockets that one worker accepts on.

    Each server runs on a duplicate, so that ending it leaves the inherited sockets as they were.
    With `sharing`, connections go to siblings and come from them.
    """

    def __init__(
        self,
        listeners: Sequence[Sequence[socket.socket]],
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sharing: Sharing | None = None,
    ) -> None:
        self._listeners = listeners
        self._welcome = protocol_factory
        self._arrive = sharing.arrivals(protocol_factory) if sharing else protocol_factory
        self._sharing = sharing
        self._slots: set[int] = set()
        self._servers: dict[socket.socket, tuple[asyncio.AbstractServer, socket.socket]] = {}

    async def adopt(self, slot: int) -> None:
        """Accept on the sockets of a slot; those shared by all slots are not opened twice."""
        self._slots.add(slot)
        if self._sharing:
            self._sharing.empty(slot, self._welcome)
        for listener in self._listeners[slot]:
            if listener not in self._servers:
                twin = listener.dup()
                backlog = getattr(listener, "backlog", USUAL_ROOM.backlog)
                self._servers[listener] = (await self._serve(twin, backlog), twin)
        self._close_unwanted()  # released while we awaited

    def release(self, slot: int) -> None:
        """Leave a slot's sockets to the worker that now accepts on them."""
        self._slots.discard(slot)
        if self._sharing:
            self._sharing.leave_alone(slot)
        self._close_unwanted()

    def tell_siblings(self) -> None:
        """Let them know how many connections there are here, since some have ended."""
        if self._sharing:
            self._sharing.tell()

    def _close_unwanted(self) -> None:
        wanted = {listener for kept in self._slots for listener in self._listeners[kept]}
        for listener in [listener for listener in self._servers if listener not in wanted]:
            server, _ = self._servers.pop(listener)
            server.close()

    def leave(self) -> None:
        """Stop accepting at once and close everything: a successor goes on with the queues."""
        if self._sharing:
            self._sharing.retire()
        for slot in tuple(self._slots):
            self.release(slot)
        close_listeners(self._listeners, remove=False)

    async def drain(self) -> None:
        """Stop accepting for good without resetting a connection; nobody succeeds.

        The order (see the head of this file): let no new connection in, accept until the queue was
        empty for QUIET_S, close.  At most QUIET_LIMIT_S.
        """
        if self._sharing:
            self._sharing.retire()
        for group in self._listeners:
            for listener in group:
                drop_new_connections(listener)
        await self._until_quiet()
        self.leave()

    async def _serve(self, twin: socket.socket, backlog: int) -> asyncio.AbstractServer:
        loop = asyncio.get_running_loop()
        if twin.family != socket.AF_UNIX:
            return await loop.create_server(self._arrive, sock=twin, backlog=backlog)
        if sys.version_info >= (3, 13):  # where closing would remove the file under a sibling
            return await loop.create_unix_server(
                self._arrive, sock=twin, backlog=backlog, cleanup_socket=False
            )
        return await loop.create_unix_server(self._arrive, sock=twin, backlog=backlog)

    async def _until_quiet(self) -> None:
        queues = select.poll()
        for _, twin in self._servers.values():
            queues.register(twin, select.POLLIN)
        for inbox in self._sharing.readers() if self._sharing else ():
            queues.register(inbox, select.POLLIN)
        started_s = quiet_since_s = time.monotonic()
        while True:
            await asyncio.sleep(QUIET_LOOK_S)
            now_s = time.monotonic()
            if queues.poll(0):
                quiet_since_s = now_s
            if now_s - quiet_since_s >= QUIET_S or now_s - started_s >= QUIET_LIMIT_S:
                return


# ---------------------------------------------------------------- open files


def open_file_limit(needed: int) -> int:
    """Raise the limit of open files to the hard limit and return it; StartError below `needed`."""
    import resource  # not on Windows, where the master gives a clear line of its own

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS calls its hard limit infinite and then refuses it; so the largest that is of use.
    wanted = OPEN_FILES_MOST if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass  # the old limit stands
    limit = OPEN_FILES_MOST if soft == resource.RLIM_INFINITY else soft
    if limit < needed:
        raise StartError(f"only {limit} open files allowed, the start needs {needed} (ulimit -n)")
    return limit


def own_files(slots: int, addresses: int) -> int:
    """How many files the master has, and a worker beside its connections: of each slot an inbox
    with two ends, a pipe and the listeners; and the listeners that a worker serves once more."""
    return OWN_FILES + slots * (3 + addresses) + addresses


class Places(NamedTuple):
    """For how many client connections a worker has room, and how many more it may be refusing."""

    connections: int
    refused: int


def places(open_files: int, own: int) -> Places:
    """What the open files allow; each client may need one more connection, to an upstream."""
    left = open_files - own
    refused = max(1, min(MAX_REFUSED_AT_ONCE, left // REFUSED_PART))
    return Places(max(1, (left - refused) // 2), refused)
