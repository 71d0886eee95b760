"""The real processes: start, refusal to start, death of each of them, and the end, under traffic.

Every claim is about what clients see: who was let in gets a whole answer.  Deaths and ends of two
workers under load are in `faults/`, where they have the time that they take.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from aigw.mock.provider import MockSettings, serve
from tests.conversation import Answer, Peer
from tests.gateway_process import (
    KEY,
    PATIENCE_S,
    GatewayProcess,
    Load,
    command,
    config,
    environment,
    free_port,
    play,
    refusal,
    request,
    stream,
    worker_of,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="one worker, no filter elsewhere")
NOBODY = 1  # an upstream's port that nobody asks in these tests


# ---------------------------------------------------------------- a worker's death


def test_a_killed_worker_loses_nobody_in_its_accept_queue() -> None:
    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port, 1)) as gateway,
        ):
            victim = gateway.workers()[0]
            os.kill(victim, signal.SIGSTOP)
            clients = [await gateway.client() for _ in range(40)]
            for client in clients:
                await client.send(request())
            answered = [asyncio.create_task(client.answer()) for client in clients]
            os.kill(victim, signal.SIGKILL)
            answers = await asyncio.gather(*answered)
            assert [answer.status for answer in answers] == [200] * 40
            assert all(answer.whole for answer in answers)
            # The next life of the slot has served them, and the death is counted.
            assert len(set(map(worker_of, answers))) == 1
            await gateway.expect(r"worker 0 started", 2)
            while not await gateway.metric("worker_restarts_total", reason="crash"):
                await asyncio.sleep(0.01)
            gateway.signal(signal.SIGTERM)
            assert await gateway.ends() == 0

    play(scene())


def test_a_killed_workers_requests_are_cut_visibly_and_its_places_are_given_back() -> None:
    keys = KEY + "max_parallel_requests = 4\n"

    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port, 1, keys=keys)) as gateway,
        ):
            clients = [await gateway.client() for _ in range(4)]
            for client in clients:
                await client.send(stream(1000, 10))
                await client.until(b"data: ")
            assert (await gateway.ask(stream(1, 0))).code == "concurrency_limit_exceeded"
            os.kill(gateway.workers()[0], signal.SIGKILL)
            for client in clients:
                with pytest.raises(ConnectionResetError):
                    assert b"0\r\n\r\n" not in await client.rest()
                    raise ConnectionResetError  # a FIN within a chunk is as visible
            assert (await gateway.ask(stream(1, 0))).status == 200
            assert await gateway.metric("requests_in_flight") == 0

    play(scene())


def test_a_worker_is_replaced_even_when_its_log_cannot_be_opened_any_more() -> None:
    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port, 1)) as gateway,
        ):
            log = gateway.folder / "access.log"
            log.unlink()
            log.mkdir()
            os.kill(gateway.workers()[0], signal.SIGKILL)
            assert (await gateway.ask()).status == 200
            await gateway.expect(r"log\.access: cannot open .*: Is a directory; trying on")
            log.rmdir()
            assert len(await lines(gateway, 1)) == 1

    play(scene())


# ---------------------------------------------------------------- the end


async def streams_to_their_end(gateway: GatewayProcess, clients: int) -> list[Answer]:
    """Streams of 2 s that have begun, awaited."""

    async def one() -> Answer:
        return await gateway.ask(stream(100, 20))

    return await asyncio.gather(*(one() for _ in range(clients)))


async def until_told_to_close(client: Peer) -> int:
    """Ask until an answer says that it is the last one; returns how many there were."""
    asked, told = 0, False
    while not told:
        await client.send(request())
        answer = await client.answer()
        assert (answer.status, answer.whole) == (200, True)
        asked, told = asked + 1, "connection" in answer
    assert answer["connection"] == "close"
    return asked


def test_sigterm_under_load_answers_everybody() -> None:
    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port, 1)) as gateway,
        ):
            streams = asyncio.create_task(streams_to_their_end(gateway, 20))
            idle = await gateway.client()
            load = Load(gateway)
            await load.run(40, least=400)
            gateway.signal(signal.SIGTERM)
            await gateway.expect("stopping")
            # Whoever sends on an idle connection just now is served, until its worker has heard of
            # the end, too, and says so.
            asked = await until_told_to_close(idle)
            await load.gone()
            assert load.lost == []
            assert load.refused == 40, "what is not taken is refused, not reset"
            assert set(load.statuses) == {200}
            for answer in await streams:
                assert (answer.status, answer.whole) == (200, True)
                assert answer.body.endswith(b"data: [DONE]\n\n")
                assert answer.body.count(b"data: ") >= 100
            assert await gateway.ends() == 0
            assert len(gateway.access()) == load.answered + 20 + asked
            with pytest.raises(ConnectionRefusedError):
                await gateway.client()
            assert "Traceback" not in gateway.log
            assert "killed" not in gateway.log

    play(scene())


def test_a_second_sigterm_ends_at_once() -> None:
    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port)) as gateway,
        ):
            client = await gateway.client()
            await client.send(stream(1000, 20))
            await client.until(b"data: ")
            gateway.signal(signal.SIGTERM)
            await gateway.expect("stopping")
            assert (await gateway.admin("/health/ready")).status == 503
            assert (await gateway.admin("/health/live")).status == 200
            gateway.signal(signal.SIGTERM)
            assert await asyncio.wait_for(gateway.ends(), 15) == 1  # draining has 25 s
            assert "ending at once" in gateway.log

    play(scene())


def test_what_lasts_longer_than_drain_is_cut_visibly() -> None:
    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port, timeouts='drain = "300ms"')) as gateway,
        ):
            client = await gateway.client()
            await client.send(stream(1000, 20))
            idle = await gateway.client()
            await client.until(b"data: ")
            gateway.signal(signal.SIGTERM)
            try:
                assert b"0\r\n\r\n" not in await client.rest()
            except ConnectionResetError:
                pass
            assert await idle.closed()
            assert await gateway.ends() == 0
            (record,) = gateway.access()
            assert record["error"] == "shutting_down"
            assert "Traceback" not in gateway.log

    play(scene())


def test_stop_ends_as_sigterm_does() -> None:
    async def scene() -> None:
        async with GatewayProcess(config(NOBODY, 1)) as gateway:
            done = await gateway.command("stop")
            assert (done.returncode, done.stderr) == (0, "")
            assert await gateway.ends() == 0
            again = await gateway.command("stop")
            assert again.returncode == 1
            assert again.stderr.startswith("aigw: no aigw answers at unix:")
            assert again.stderr.count("\n") == 1

    play(scene())


# ---------------------------------------------------------------- what keeps it from starting


def listening(text: str, address: str) -> str:
    return text.replace('"127.0.0.1:0"', f'"{address}"')


def test_a_second_aigw_on_a_port_is_refused_and_the_first_serves_on() -> None:
    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port)) as first,
        ):
            text = listening(config(mock.port), first.addresses[0])
            async with GatewayProcess(text, wait=False) as second:
                assert await second.ends() == 1
                assert second.log == (
                    f"aigw: cannot listen on {first.addresses[0]}: "
                    "already in use, by another aigw or another program\n"
                )
            for _ in range(10):
                assert (await first.ask()).status == 200

    play(scene())


def test_the_admin_port_and_socket_are_refused_likewise() -> None:
    port = free_port()

    async def scene() -> None:
        text = config(NOBODY).replace("unix:FOLDER/admin", f"127.0.0.1:{port}")
        async with GatewayProcess(text) as first, GatewayProcess(text, wait=False) as second:
            assert await second.ends() == 1
            assert second.log.startswith(f"aigw: cannot listen on 127.0.0.1:{port}: already in use")
            assert second.log.count("\n") == 1
            assert (await first.ask(request("/health"))).status == 200
        async with GatewayProcess(config(NOBODY)) as first:
            text = config(NOBODY).replace("FOLDER/admin", f"{first.folder}/admin")
            async with GatewayProcess(text, wait=False) as second:
                assert await second.ends() == 1
                assert "already in use" in second.log
            assert (await first.admin("/health/ready")).status == 200, "its file is still there"

    play(scene())


def test_another_programs_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "already in use" in refusal(listening(config(NOBODY), address))


def test_an_address_of_another_machine() -> None:
    said = refusal(listening(config(NOBODY), "192.0.2.1:8080"))
    assert said == "aigw: cannot listen on 192.0.2.1:8080: this machine has no such address\n"


def test_a_missing_file() -> None:
    async def scene() -> None:
        for word in ("run", "check"):
            done = await command(word, "-c", "absent.toml", cwd=Path("/"))
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == "aigw: absent.toml: can't be read: No such file or directory\n"

    play(scene())


def test_a_file_that_is_a_folder_or_binary() -> None:
    async def scene() -> None:
        done = await command("run", "-c", "/", cwd=Path("/"))
        assert (done.returncode, done.stderr) == (1, "aigw: /: can't be read: Is a directory\n")
        done = await command("run", "-c", sys.executable, cwd=Path("/"))
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1

    play(scene())


CERTIFICATES = [
    ('ca = "absent.pem"', "No such file"),
    ('ca = "gateway.toml"', "upstreams[0].ca"),
    ('ca = "/"', "upstreams[0].ca"),
]


@pytest.mark.parametrize(("line", "word"), CERTIFICATES)
def test_an_unusable_certificate(line: str, word: str) -> None:
    said = refusal(config(NOBODY, upstream=line, url="https://127.0.0.1:1"))
    assert re.search(r"gateway\.toml:\d+: upstreams\[0\]\.ca: ", said)
    assert word in said


def test_a_folder_that_is_not_there() -> None:
    said = refusal(listening(config(NOBODY), "unix:FOLDER/absent/socket"))
    assert said.endswith(": listen.address: the folder FOLDER/absent does not exist\n")


def test_an_access_log_that_cannot_be_opened() -> None:
    said = refusal(config(NOBODY).replace("FOLDER/access.log", "FOLDER/absent/access.log"))
    assert "log.access" in said
    assert "the folder FOLDER/absent does not exist" in said


# The interpreter may lie where nobody may not read, so all is imported before.
AS_NOBODY = """
import encodings.idna, encodings.utf_8_sig, os, sys
import aigw.master
from aigw.cli import main
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for file in sys.argv[1:]:
    assert main(["run", "-c", file]) == 1
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that others may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="aigw-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_no_permission(public: Path) -> None:
    text = config(NOBODY, 1).replace("unix:FOLDER/admin", "")
    silent = text.replace("FOLDER/access.log", "off")
    cases = [
        (text, 0o600, f"{public}/0: can't be read: Permission denied"),
        (text, 0o644, f"log.access: cannot open {public}/access.log: Permission denied"),
        (listening(silent, f"unix:{public}/s"), 0o644, f"unix:{public}/s: permission denied"),
    ]
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 81:
        why = "permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
        cases.append((listening(silent, "127.0.0.1:81"), 0o644, f"127.0.0.1:81: {why}"))
    for number, (text, mode, _) in enumerate(cases):
        file = public / str(number)
        file.write_text(text.replace("FOLDER", str(public)))
        file.chmod(mode)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *(str(public / str(n)) for n in range(len(cases)))],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done
    said = done.stderr.splitlines()
    assert len(said) == len(cases)
    for line, (_, _, complaint) in zip(said, cases, strict=True):
        assert line.startswith("aigw: ")
        assert line.endswith(complaint)


# ---------------------------------------------------------------- addresses


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_several_addresses_one_of_them_a_unix_socket() -> None:
    six = has_ipv6()
    addresses = ["127.0.0.1:0", "unix:FOLDER/data", *(["[::1]:0"] if six else [])]
    listed = ", ".join(f'"{address}"' for address in addresses)

    async def scene() -> None:
        async with await serve(MockSettings()) as mock:
            text = config(mock.port).replace('"127.0.0.1:0"', f"[{listed}]")
            async with GatewayProcess(text) as gateway:
                assert len(gateway.addresses) == len(addresses)
                for address in gateway.addresses:
                    assert (await gateway.ask(where=address)).status == 200
                clients = {record["client_ip"] for record in await lines(gateway, len(addresses))}
                assert clients == {"127.0.0.1", "unix", *(["::1"] if six else [])}
                async with GatewayProcess(
                    listening(text, "unix:FOLDER/other").replace(
                        "FOLDER/data", f"{gateway.folder}/data"
                    ),
                    wait=False,
                ) as second:
                    assert await second.ends() == 1
                gateway.signal(signal.SIGTERM)
                assert await gateway.ends() == 0
                assert not (gateway.folder / "data").exists()
                assert not (gateway.folder / "admin").exists()

    play(scene())


async def lines(gateway: GatewayProcess, count: int) -> list[dict[str, object]]:
    """The access log once it has so many lines."""
    async with asyncio.timeout(PATIENCE_S):
        while not (gateway.folder / "access.log").is_file():
            await asyncio.sleep(0.01)
        while len(found := gateway.access()) < count:
            await asyncio.sleep(0.01)
    return found


# ---------------------------------------------------------------- systemd


class Supervisor:
    """systemd's end: listening sockets to pass, and the socket for notifications."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.data = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.admin = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.notified = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.notified.setblocking(False)
        self.path = f"{folder}/notify"
        self.notified.bind(self.path)

    async def notification(self) -> dict[str, str]:
        async with asyncio.timeout(PATIENCE_S):
            told = await asyncio.get_running_loop().sock_recv(self.notified, 4096)
        return dict(line.split("=", 1) for line in told.decode().splitlines())


PASS_AT_3 = """
import os, sys
first, second = map(int, sys.argv[1:3])
first, second = os.dup2(first, 100), os.dup2(second, 101)
os.dup2(first, 3), os.dup2(second, 4)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "data:admin"}
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.fixture
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    with ExitStack() as stack:
        yield Supervisor(stack, tmp_path_factory.mktemp("s"))


def test_systemd_passes_sockets_and_hears_how_it_stands(supervisor: Supervisor) -> None:
    fds = (supervisor.data.fileno(), supervisor.admin.fileno())
    where = f"127.0.0.1:{supervisor.data.getsockname()[1]}"
    admin = f"127.0.0.1:{supervisor.admin.getsockname()[1]}"

    async def scene() -> None:
        async with await serve(MockSettings()) as mock:
            for _ in range(2):  # the sockets outlive an aigw, and so does who waits in them
                early = asyncio.create_task(ask_at(where))
                async with GatewayProcess(
                    config(mock.port),
                    environ={"NOTIFY_SOCKET": supervisor.path},
                    launcher=(sys.executable, "-c", PASS_AT_3, *map(str, fds)),
                    pass_fds=fds,
                ) as gateway:
                    assert (await supervisor.notification())["READY"] == "1"
                    assert (await early).status == 200
                    assert gateway.addresses == [where]
                    assert (await gateway.ask()).status == 200
                    answer = await gateway.ask(request("/health/ready"), where=admin)
                    assert answer.status == 200
                    gateway.signal(signal.SIGHUP)
                    reloading = await supervisor.notification()
                    assert reloading["RELOADING"] == "1"
                    assert int(reloading["MONOTONIC_USEC"]) > 0
                    assert (await supervisor.notification())["READY"] == "1"
                    gateway.write("nonsense")
                    gateway.signal(signal.SIGHUP)
                    assert (await supervisor.notification())["RELOADING"] == "1"
                    ready = await supervisor.notification()
                    assert (ready["READY"], "failed" in ready["STATUS"]) == ("1", True)
                    gateway.signal(signal.SIGTERM)
                    assert (await supervisor.notification())["STOPPING"] == "1"
                    assert await gateway.ends() == 0

    play(scene())


async def ask_at(where: str) -> Answer:
    host, _, port = where.rpartition(":")
    peer = Peer(*await asyncio.open_connection(host, int(port)))
    try:
        await peer.send(request(Connection="close"))
        return await peer.answer()
    finally:
        await peer.close()


# ---------------------------------------------------------------- without a file


def test_a_start_from_variables_alone() -> None:
    async def scene() -> None:
        async with await serve(MockSettings(ledger=10)) as mock:
            port, admin = free_port(), 8081
            environ = {
                "OPENAI_API_KEY": "sk-provider",
                "OPENAI_BASE_URL": f"http://127.0.0.1:{mock.port}/v1",
            }
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", admin)) == 0:
                    pytest.skip(f"port {admin} is in use")
            gateway = GatewayProcess(
                None, "--address", f"127.0.0.1:{port}", "--workers", "1", environ=environ
            )
            async with gateway:
                keys = re.findall(r"^aigw-[A-Za-z0-9_-]{43}$", gateway.log, re.MULTILINE)
                assert len(keys) == 1
                assert (await gateway.ask(request(key=keys[0]))).status == 200
                assert (await gateway.ask(request(key="aigw-other"))).code == "invalid_api_key"
                (seen,) = mock.provider.requests
                assert ["Authorization", "Bearer sk-provider"] in seen["headers"]
                assert keys[0] not in str(seen)
                gateway.signal(signal.SIGTERM)
                assert await gateway.ends() == 0
                assert gateway.log.count(keys[0]) == 1
                assert "sk-provider" not in gateway.log
                assert keys[0] not in (gateway.folder / "out").read_text()

    play(scene())


def test_check_of_the_default_file(tmp_path: Path) -> None:
    default = (Path(__file__).parent.parent / "gateway.toml").read_text()

    async def scene() -> None:
        (tmp_path / "gateway.toml").write_text(default)
        done = await command("check", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "/v1 → openai (openai, the client's credentials)" in done.stdout
        (tmp_path / "gateway.toml").write_text(default.replace("[limits]", "[limit]"))
        done = await command("check", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        line = default[: default.index("[limits]")].count("\n") + 1
        assert done.stderr == (
            f'aigw: gateway.toml:{line}: limit: unknown option, did you mean "limits"?\n'
        )

    play(scene())


def test_a_new_key_pasted_into_the_file_works(tmp_path: Path) -> None:
    async def scene() -> None:
        done = await command("keys", "new", "team a", cwd=tmp_path)
        key, _, rest = done.stdout.partition("\n")
        pasted = rest[rest.index("[[keys]]") :]
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port, 1, keys=pasted)) as gateway,
        ):
            assert (await gateway.ask(request(key=key))).status == 200
            assert (await gateway.ask()).code == "invalid_api_key"
            (record, _) = await lines(gateway, 2)
            assert record["key"] == "team a"

    play(scene())
