"""Listening sockets: opened, shared, taken over, filtered and closed, over the real kernel."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import select
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import cast

import pytest
import uvloop

from aigw import sockets
from aigw.errors import StartError
from aigw.sockets import (
    Accepting,
    Address,
    Room,
    address_of,
    bind_admin,
    bind_listeners,
    close_listeners,
    drop_new_connections,
    open_file_limit,
    own_files,
    parse_address,
    places,
    take_inherited,
)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's")
LOOPBACKS = ["127.0.0.1:0", "[::1]:0"]


@contextmanager
def bound(*addresses: str, slots: int = 1) -> Iterator[list[list[socket.socket]]]:
    listeners = bind_listeners(addresses, slots)
    try:
        yield listeners
    finally:
        close_listeners(listeners)


def connect(listener: socket.socket, timeout_s: float = 5) -> socket.socket:
    client = socket.socket(listener.family)
    client.settimeout(timeout_s)
    try:
        client.connect(listener.getsockname())
    except BaseException:
        client.close()
        raise
    return client


def in_queue(listener: socket.socket) -> list[socket.socket]:
    found = []
    while select.select([listener], [], [], 0)[0]:
        found.append(listener.accept()[0])
    return found


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("localhost:1", Address("localhost", 1)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("unix:/run/aigw.sock", Address("", 0, "/run/aigw.sock")),
    ],
)
def test_addresses_are_read_and_written(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "host:port"),
        ("8080", "host:port"),
        ("localhost", "host:port"),
        ("localhost:", "host:port"),
        ("localhost:http", "host:port"),
        ("localhost:-1", "host:port"),
        ("localhost:65536", "host:port"),
        ("localhost:８０", "host:port"),
        (":8080", "0.0.0.0:8080"),
        ("::1:8080", "[::1]:8080"),
        ("unix:", "unix:/path"),
        ("unix:" + "x" * 108, "bytes"),
    ],
)
def test_bad_addresses_say_what_would_be_right(text: str, hint: str) -> None:
    with pytest.raises(StartError) as caught:
        parse_address(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- TCP


@pytest.mark.parametrize("address", LOOPBACKS)
def test_each_slot_has_a_socket_of_its_own(address: str) -> None:
    with bound(address, slots=3) as listeners:
        group = [slot[0] for slot in listeners]
        assert len({listener.getsockname() for listener in group}) == 1
        if not sockets.LINUX:
            assert len(set(group)) == 1
            return
        assert len(set(group)) == 3
        clients = [connect(group[0]) for _ in range(60)]
        accepted = [in_queue(listener) for listener in group]
        assert sum(map(len, accepted)) == 60
        assert all(accepted), "the kernel balances over all three"
        for one in chain(clients, *accepted):
            one.close()


def test_listeners_neither_block_nor_survive_exec() -> None:
    with bound("127.0.0.1:0") as [[listener]]:
        assert not listener.getblocking()
        assert not listener.get_inheritable()


def backlog_of(listener: socket.socket) -> int:
    """What the kernel has taken from listen(2): tcpi_sacked of a listening socket."""
    return int(struct.unpack_from("=I", listener.getsockopt(socket.IPPROTO_TCP, 11, 32), 28)[0])


@linux_only
@pytest.mark.parametrize("address", LOOPBACKS)
def test_the_kernel_gives_the_room_that_was_asked_for(address: str) -> None:
    listeners = bind_listeners([address], 2, Room(77, 100_000, 50_000))
    twins: list[tuple[int, int]] = []

    async def accept() -> None:  # the loop calls listen(2) again
        accepting = Accepting(listeners, lambda: Roomy(twins))
        for slot in range(2):
            await accepting.adopt(slot)
        assert [backlog_of(slot[0]) for slot in listeners] == [77, 77]
        client = connect(listeners[0][0])
        while not twins:
            await asyncio.sleep(0)
        client.close()
        accepting.leave()

    uvloop.run(accept())
    assert twins == [(200_000, 100_000)], "accepted connections have it, doubled as in socket(7)"


class Roomy(asyncio.Protocol):
    def __init__(self, twins: list[tuple[int, int]]) -> None:
        self.twins = twins

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        sizes = [
            sock.getsockopt(socket.SOL_SOCKET, o) for o in (socket.SO_SNDBUF, socket.SO_RCVBUF)
        ]
        self.twins.append((sizes[0], sizes[1]))


@linux_only
def test_a_buffer_that_the_kernel_refuses_stops_the_start() -> None:
    most = int(Path("/proc/sys/net/core/wmem_max").read_text())
    with pytest.raises(StartError, match=f"listen.send_buffer: .* {most} bytes, not {most + 1}"):
        bind_listeners(["127.0.0.1:0"], 1, Room(send_bytes=most + 1))


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("address", LOOPBACKS)
def test_a_second_start_on_the_port_is_refused(address: str, slots: int) -> None:
    with bound(address, slots=slots) as listeners:
        taken = str(address_of(listeners[0][0]))
        with pytest.raises(StartError) as caught:
            bind_listeners([taken], slots)
        assert str(caught.value) == f"cannot listen on {taken}: {sockets.FAULTS[errno.EADDRINUSE]}"


def test_a_second_process_of_the_same_user_is_refused() -> None:
    code = "import sys; from aigw.sockets import *; bind_listeners([sys.argv[1]], 2)"
    with bound("127.0.0.1:0", slots=2) as listeners:
        taken = str(address_of(listeners[0][0]))
        second = subprocess.run([sys.executable, "-c", code, taken], capture_output=True, text=True)
    assert second.returncode == 1
    assert f"cannot listen on {taken}: already in use" in second.stderr


def test_a_failed_start_leaves_nothing_open(tmp_path: Path) -> None:
    with bound("127.0.0.1:0") as [[free]]:
        freed = str(address_of(free))
    with bound("127.0.0.1:0") as [[taken]]:
        file = tmp_path / "s"
        with pytest.raises(StartError):
            bind_listeners([freed, f"unix:{file}", str(address_of(taken))], 2)
        assert not file.exists()
    with bound(freed):
        pass


def test_ipv6_leaves_ipv4_alone() -> None:
    with bound("[::]:0") as [[six]]:
        port = six.getsockname()[1]
        with bound(f"0.0.0.0:{port}"):
            pass


def test_a_name_is_bound_on_all_its_addresses() -> None:
    found = socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)
    with bound("localhost:0") as [listeners]:
        hosts = {listener.getsockname()[0] for listener in listeners}
        assert hosts <= {name[0] for *_, name in found}
        assert "127.0.0.1" in hosts


def test_the_same_address_twice_is_bound_once() -> None:
    with bound("127.0.0.1:0") as [[free]]:
        port = free.getsockname()[1]
    with bound(f"127.0.0.1:{port}", f"127.0.0.1:{port}") as [listeners]:
        assert len(listeners) == 1


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.2.1:80", "this machine has no such address"),
        ("no-such-host.invalid:80", "unknown host name"),
        ("unix:/no/such/directory/s", "no such directory"),
        ("unix:/", "a file that is no socket stands there"),
    ],
)
def test_faults_are_one_clear_line(address: str, why: str) -> None:
    with pytest.raises(StartError) as caught:
        bind_listeners([address], 1)
    assert str(caught.value) == f"cannot listen on {address}: {why}"


def test_no_admin_address_means_no_listener() -> None:
    assert bind_admin("") is None
    admin = bind_admin("127.0.0.1:0")
    assert admin is not None
    close_listeners([[admin]])


# ---------------------------------------------------------------- Unix sockets


def test_a_unix_socket_is_shared_and_removed_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "aigw.sock"
    with bound(f"unix:{file}", "127.0.0.1:0", slots=2) as [first, second]:
        assert first[0] is second[0]
        connect(first[0]).close()
    assert not file.exists()


def test_the_umask_rules_the_access_mode(tmp_path: Path) -> None:
    before = os.umask(0o117)
    try:
        with bound(f"unix:{tmp_path}/s"):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660
    finally:
        os.umask(before)


def test_the_file_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/s")
    with bound(f"unix:{tmp_path}/s") as [[listener]]:
        connect(listener).close()


def test_a_living_unix_socket_is_not_taken(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    with bound(address) as [[listener]]:
        with pytest.raises(StartError, match="already in use"):
            bind_listeners([address], 1)
        connect(listener).close()


def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(StartError, match="no socket"):
        bind_listeners([f"unix:{tmp_path}/s"], 1)
    assert (tmp_path / "s").read_text() == "precious"


def test_a_successors_file_is_not_removed(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    old = bind_listeners([address], 1)
    (tmp_path / "s").unlink()
    with bound(address) as [[new]]:
        close_listeners(old)
        connect(new).close()


# ---------------------------------------------------------------- systemd

TAKE = """
import os, sys
from aigw.errors import StartError
from aigw.sockets import take_inherited
os.environ["LISTEN_PID"] = sys.argv[1].replace("me", str(os.getpid()))
try:
    found = take_inherited(os.environ)
except StartError as error:
    sys.exit(f"refused: {error}")
for listener in found.data:
    listener.accept()[0].sendall(b"data")
if found.admin:
    found.admin.accept()[0].sendall(b"admin")
print(len(found.data), found.admin is not None, sorted(v for v in os.environ if "LISTEN_" in v),
      all(s.kept_by_parent and not s.getblocking() and not s.get_inheritable() for s in found.data))
"""


def run_with_fds(passed: list[int], pid: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run TAKE with descriptors at 3 and up, as systemd passes them."""
    shift = "; ".join(f"os.dup2({fd}, {3 + i})" for i, fd in enumerate(passed)) or "pass"
    python = f"[sys.executable, '-c', {TAKE!r}, {pid!r}]"
    code = f"import os, sys; {shift}; os.execv(sys.executable, {python})"
    return subprocess.run(
        [sys.executable, "-c", code],
        pass_fds=passed,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=10,
    )


def high(one: socket.socket) -> int:
    """Its descriptor at a high number, out of the way of 3, 4, …"""
    return fcntl.fcntl(one, fcntl.F_DUPFD, 200)


def test_sockets_of_systemd_are_taken_over() -> None:
    with bound("127.0.0.1:0") as [[data]], bound("127.0.0.1:0") as [[admin]]:
        clients = [connect(data), connect(admin)]
        fds = [high(data), high(admin)]
        done = run_with_fds(fds, "me", LISTEN_FDS="2", LISTEN_FDNAMES="web:admin")
        assert done.stdout.strip() == "1 True [] True", done.stderr
        assert [client.recv(9) for client in clients] == [b"data", b"admin"]
        for client in clients:
            client.close()
        for fd in fds:
            os.close(fd)


def test_sockets_meant_for_another_process_are_left() -> None:
    done = run_with_fds([], "1", LISTEN_FDS="2")
    assert done.stdout.startswith("0 False ['LISTEN_FDS', 'LISTEN_PID']")
    assert take_inherited({}).data == ()


@pytest.mark.parametrize("count", ["x", "-1", "2"])
def test_bad_descriptors_of_systemd_stop_the_start(count: str) -> None:
    with socket.socket() as deaf:
        fd = high(deaf)
        done = run_with_fds([fd], "me", LISTEN_FDS=count)
        os.close(fd)
    assert done.returncode == 1
    assert done.stderr.startswith("refused: LISTEN_FDS")


# ---------------------------------------------------------------- the filter


@linux_only
@pytest.mark.parametrize("address", LOOPBACKS)
def test_the_filter_drops_new_connections_and_keeps_the_queue(address: str) -> None:
    with bound(address) as [[listener]]:
        waiting = [connect(listener) for _ in range(20)]
        for _ in range(2):  # twice does no harm
            drop_new_connections(listener)
        for _ in range(5):  # a wrong offset would drop by chance only
            with pytest.raises(TimeoutError):
                connect(listener, timeout_s=0.02)
        accepted = in_queue(listener)
        assert len(accepted) == 20
        for one in waiting:
            one.sendall(b"x" * 1000)
        assert all(one.recv(1000, socket.MSG_WAITALL) for one in accepted)
        for one in waiting + accepted:
            one.close()


@linux_only
def test_a_dropped_connection_is_refused_once_the_socket_is_closed() -> None:
    with bound("127.0.0.1:0") as [[listener]], socket.socket() as client:
        drop_new_connections(listener)
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        listener.close()
        assert select.select([], [client], [], 5)[1]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_a_unix_socket_is_quietened_by_removing_its_file(tmp_path: Path) -> None:
    with bound(f"unix:{tmp_path}/s") as [[listener]]:
        waiting = connect(listener)
        drop_new_connections(listener)
        drop_new_connections(listener)
        with pytest.raises(FileNotFoundError):
            connect_path(f"{tmp_path}/s")
        [accepted] = in_queue(listener)
        waiting.close()
        accepted.close()


def connect_path(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_socket_that_systemd_keeps_is_not_filtered() -> None:
    with bound("127.0.0.1:0") as [[listener]]:
        assert isinstance(listener, sockets.Listener)
        listener.kept_by_parent = True
        drop_new_connections(listener)
        connect(listener).close()


# ---------------------------------------------------------------- accepting


class Greeter(asyncio.Protocol):
    """Greets and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        stream.write(b"hello")
        stream.close()


def greeted(clients: list[socket.socket]) -> int:
    """How many clients got the whole greeting; a reset raises."""
    count = 0
    for client in clients:
        count += client.recv(100, socket.MSG_WAITALL) == b"hello"
        client.close()
    return count


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_a_worker_adopts_and_releases_a_slot(run: object) -> None:
    async def conversation() -> None:
        listeners = bind_listeners(["127.0.0.1:0"], 2)
        accepting = Accepting(listeners, Greeter)
        await accepting.adopt(0)
        await accepting.adopt(1)
        await accepting.adopt(1)
        clients = [connect(listeners[0][0]) for _ in range(40)]
        assert await asyncio.to_thread(greeted, clients) == 40
        accepting.release(1)
        clients = [connect(listeners[0][0]) for _ in range(40)]
        await asyncio.sleep(0.05)
        left = in_queue(listeners[1][0])
        assert len(left) in range(1, 40), "slot 1 waits, slot 0 is served"
        for one in left:
            one.sendall(b"hello")
            one.close()
        assert await asyncio.to_thread(greeted, clients) == 40
        accepting.leave()

    assert callable(run)
    run(conversation())


@linux_only
@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "unix"])
def test_draining_answers_all_that_wait(run: object, address: str, tmp_path: Path) -> None:
    async def conversation() -> None:
        listeners = bind_listeners([address.replace("unix", f"unix:{tmp_path}/s")], 1)
        accepting = Accepting(listeners, Greeter)
        clients = [connect(listeners[0][0]) for _ in range(60)]
        await accepting.adopt(0)
        await accepting.drain()
        assert await asyncio.to_thread(greeted, clients) == 60
        assert listeners[0][0].fileno() == -1

    assert callable(run)
    run(conversation())


@linux_only
def test_draining_ends_where_nothing_can_quieten_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "QUIET_LIMIT_S", 0.2)

    async def conversation() -> None:
        listeners = bind_listeners(["127.0.0.1:0"], 1)
        assert isinstance(listeners[0][0], sockets.Listener)
        listeners[0][0].kept_by_parent = True
        accepting = Accepting(listeners, Greeter)
        await accepting.adopt(0)
        monkeypatch.setattr(sockets, "QUIET_S", 3600)
        await asyncio.wait_for(accepting.drain(), 20)

    uvloop.run(conversation())


def test_leaving_keeps_the_queue_for_the_successor() -> None:
    async def conversation() -> None:
        kept = bind_listeners(["127.0.0.1:0"], 1)
        mine = [[listener.dup() for listener in slot] for slot in kept]
        accepting = Accepting(mine, Greeter)
        await accepting.adopt(0)
        accepting.leave()
        await asyncio.sleep(0)
        client = connect(kept[0][0])
        [accepted] = in_queue(kept[0][0])
        for one in (client, accepted):
            one.close()
        close_listeners(kept)

    uvloop.run(conversation())


# ---------------------------------------------------------------- open files


def test_the_limit_of_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = min(hard, 256)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, hard))
    try:
        assert open_file_limit(16) == resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= lowered
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_open_files_stop_the_start() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from aigw.sockets import open_file_limit
open_file_limit(64)
open_file_limit(65)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "only 64 open files allowed, the start needs 65" in done.stderr


def test_connections_fit_into_the_open_files() -> None:
    assert places(1 << 20, own_files(2, 1)) == (524_145, 256)
    assert places(1024, own_files(2, 1)) == (435, 124)
    assert places(64, own_files(2, 1)) == (15, 4)
    assert places(64, own_files(8, 1)) == (5, 1)
    assert places(16, own_files(2, 1)) == (1, 1)
