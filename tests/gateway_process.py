"""aigw as operators start it: real processes, real sockets, signals; seen only from outside.

    async with await serve(MockSettings()) as mock, GatewayProcess(config(mock.port)) as gateway:
        client = await gateway.client()
        await client.send(CHAT)
        assert (await client.answer()).status == 200

Not here: what the workers do with bytes (`conversation.py`), and the master with stand-ins
(`stand_in.py`).

What the processes write goes to files, so that nobody waits for a reader.  All of them hold the
write end of one pipe, so its end is the proof that none is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import uvloop
from prometheus_client.parser import text_string_to_metric_families

from tests.conversation import Answer, Peer

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
PATIENCE_S = 20.0
LOOK_S = 0.01
PROVIDERS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "AIGW_KEY")

CONFIG = """\
[listen]
address = "127.0.0.1:0"
admin = "unix:FOLDER/admin"
workers = {workers}
{listen}
[timeouts]
{timeouts}
[log]
access = "FOLDER/access.log"
level = "debug"
{keys}
[[upstreams]]
name = "mock"
urls = ["{url}"]
{upstream}
[[routes]]
path = "/v1"
targets = [{{ upstream = "mock" }}]
{route}
"""
KEY = """
[[keys]]
name = "user1"
key = "user1"
"""


def config(port: int, workers: int = 2, **lines: str) -> str:
    """A configuration for a mock on this port; `FOLDER` becomes the folder of the process."""
    given = {"listen": "", "timeouts": "", "keys": KEY, "route": ""}
    given["url"] = f"http://127.0.0.1:{port}"
    given["upstream"] = 'credentials = ["sk-provider"]'
    return CONFIG.format(workers=workers, **(given | lines))


def request(
    target: str = "/v1/models", key: str = "user1", body: object = None, **fields: str
) -> bytes:
    """A request as an SDK would send it; `body` goes as JSON."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {target} HTTP/1.1", "Host: gateway"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def stream(chunks: int, spacing_ms: int, key: str = "user1") -> bytes:
    """A request for a streamed answer that takes chunks x spacing."""
    paced = {"x-mock-chunks": str(chunks), "x-mock-spacing-ms": str(spacing_ms)}
    return request("/v1/chat/completions", key, CHAT | {"stream": True}, **paced)


def play(scene: Coroutine[Any, Any, T], patience_s: float = 40.0) -> T:
    """Run a test's coroutine, with an end to its patience; nothing may be left behind."""

    async def patient() -> T:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with asyncio.timeout(patience_s):
            result = await scene
        await asyncio.sleep(0)
        assert not faults, faults
        return result

    return uvloop.run(patient())


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without the providers' variables."""
    kept = {name: value for name, value in os.environ.items() if name not in PROVIDERS}
    return kept | {"PYTHONPATH": str(ROOT)} | dict(more or {})


class ServerProcess:
    """A server and its children, with a folder of its own, and what they have written."""

    def __init__(self, file: str, text: str | None) -> None:
        # Short, since the path of a Unix socket may have 107 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="aigw-")
        self.folder = Path(self._folder.name)
        self.file = self.folder / file
        if text is not None:
            self.write(text)
        self._clients: list[Peer] = []

    def start(
        self,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """In a session of its own, its output in the files `out` and `err`."""
        self._alive, held = os.pipe()
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment(environ),
                cwd=self.folder,
                pass_fds=[held, *pass_fds],
                start_new_session=True,
            )
        os.close(held)
        os.set_blocking(self._alive, False)

    async def is_ready(self) -> None:
        """Wait until it serves."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            await self.is_ready()
        except BaseException:
            self._clean_up()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for client in self._clients:
                await client.close()
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        # Its own session: whatever a failed test has left of it.
        if self._is_held():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        os.close(self._alive)
        self._folder.cleanup()

    # ---- what it is told and what it says

    def write(self, text: str) -> None:
        """The configuration, as a reload will find it."""
        self.file.write_text(text.replace("FOLDER", str(self.folder)))

    def signal(self, signum: signal.Signals) -> None:
        os.kill(self.process.pid, signum)

    @property
    def log(self) -> str:
        """The operational log."""
        return (self.folder / "err").read_text()

    def access(self, name: str = "access.log") -> list[dict[str, Any]]:
        """The access log; each line must be whole, but for a last one that is being written."""
        whole, _, _ = (self.folder / name).read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    async def expect(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until the log has so many matches; returns what they are (group 1 if there is)."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(found := re.findall(pattern, self.log)) < times:
                    assert self._is_held(), f"ended without {pattern!r}:\n{self.log}"
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise AssertionError(f"waited in vain for {pattern!r}:\n{self.log}") from None
        return found

    async def ends(self) -> int:
        """Wait until no process is left; returns the exit status of the master."""
        async with asyncio.timeout(PATIENCE_S):
            while self._is_held():
                await asyncio.sleep(LOOK_S)
        return self.process.wait(PATIENCE_S)

    def _is_held(self) -> bool:
        """Does some process of the gateway still live?"""
        try:
            return os.read(self._alive, 1) != b""
        except BlockingIOError:
            return True

    # ---- clients

    @property
    def addresses(self) -> list[str]:
        """Where it listens for data."""
        raise NotImplementedError

    @property
    def address(self) -> tuple[str, int]:
        """Its first TCP address."""
        host, _, port = self.addresses[0].rpartition(":")
        return host.strip("[]"), int(port)

    async def client(self, where: str = "") -> Peer:
        where = where or self.addresses[0]
        if where.startswith("unix:"):
            streams = await asyncio.open_unix_connection(where.removeprefix("unix:"))
        else:
            host, _, port = where.rpartition(":")
            streams = await asyncio.open_connection(host.strip("[]"), int(port))
        peer = Peer(*streams)
        self._clients.append(peer)
        return peer

    async def ask(self, data: bytes | None = None, where: str = "") -> Answer:
        """One request on a connection of its own, which is closed then."""
        client = await self.client(where)
        try:
            await client.send(request() if data is None else data)
            return await client.answer()
        finally:
            await client.close()

    async def one_for_each_worker(self, workers: int) -> list[Peer]:
        """Keep-alive connections, as many as workers, each to another one."""
        found: dict[str, Peer] = {}
        while len(found) < workers:
            client = await self.client()
            await client.send(request("/health"))
            found.setdefault(worker_of(await client.answer()), client)
        return list(found.values())


class GatewayProcess(ServerProcess):
    """`aigw run`."""

    def __init__(
        self,
        text: str | None,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        wait: bool = True,
        launcher: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        super().__init__("gateway.toml", text)
        self._wait = wait
        command = [*launcher, sys.executable, "-m", "aigw", "run", *arguments]
        if text is not None:
            command += ["-c", str(self.file)]
        self.start(command, environ, pass_fds)

    async def is_ready(self) -> None:
        if self._wait:
            await self.expect(r"INFO .* ready\n")

    @property
    def addresses(self) -> list[str]:
        """Where it listens for data, as it says itself."""
        (listed,) = re.findall(r"listening on (.*), admin on ", self.log)
        return str(listed).split(", ")

    def workers(self) -> list[int]:
        """The pids of the workers that were started last, by slot."""
        last: dict[int, int] = {}
        for slot, pid in re.findall(r"worker (\d+) started \(pid (\d+)", self.log):
            last[int(slot)] = int(pid)
        return [last[slot] for slot in sorted(last)]

    def controller(self) -> int:
        return int(re.findall(r"controller started \(pid (\d+)\)", self.log)[-1])

    # ---- the admin listener

    async def admin(self, target: str, method: str = "GET", **fields: str) -> Answer:
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        client = await self.client(f"unix:{self.folder}/admin")
        await client.send("\r\n".join([*lines, "", ""]).encode())
        return await client.answer()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all labels but these."""
        text = (await self.admin("/metrics")).body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"aigw_{name}" and labels.items() <= sample.labels.items()
        )

    async def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another `aigw …` with the same file."""
        return await command(*arguments, "-c", str(self.file), cwd=self.folder)

    async def reload(self, text: str | None = None) -> dict[str, Any]:
        """POST /reload; returns the answer, which must be a success."""
        if text is not None:
            self.write(text)
        answer = await self.admin("/reload", "POST")
        assert answer.status == 200, answer.body
        told: dict[str, Any] = json.loads(answer.body)
        return told


def refusal(text: str, *arguments: str, launcher: tuple[str, ...] = ()) -> str:
    """The one line of an `aigw run` that must not start, and leaves no process behind."""

    async def scene() -> str:
        async with GatewayProcess(text, *arguments, wait=False, launcher=launcher) as gateway:
            assert await gateway.ends() == 1, gateway.log
            assert (gateway.folder / "out").read_bytes() == b""
            return gateway.log.replace(str(gateway.folder), "FOLDER")

    said = play(scene())
    assert said.startswith("aigw: "), said
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    return said


async def command(
    *arguments: str, cwd: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `aigw …` to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aigw", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment(environ),
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, out.decode(), err.decode())


def worker_of(answer: Answer) -> str:
    """What the request ids of one worker's life have in common."""
    return answer["x-aigw-request-id"][:-8]


def free_port() -> int:
    """A port for what can't be told by a log line; it may be taken until it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Load:
    """Clients in a closed loop: each asks again as soon as it has its answer.

    `lost` tells of each request that was not answered completely, `cut` counts those of them whose
    answer had begun; `refused` counts the connections that were not taken, which is not a loss.
    """

    def __init__(self, gateway: ServerProcess, data: bytes | None = None) -> None:
        self._gateway = gateway
        self.data = request() if data is None else data
        self.statuses: Counter[int] = Counter()
        self.lost: list[str] = []
        self.cut = 0
        self.refused = 0
        self.workers: set[str] = set()
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def answered(self) -> int:
        return self.statuses.total()

    async def run(self, clients: int, least: int = 0) -> None:
        """Start so many clients; returns when so many more answers are there."""
        self._tasks += [asyncio.create_task(self._client()) for _ in range(clients)]
        await self.more(least)

    async def more(self, answers: int) -> None:
        """Wait for so many further answers."""
        goal = self.answered + answers
        while self.answered < goal:
            assert not all(task.done() for task in self._tasks), (self.lost, self.refused)
            await asyncio.sleep(LOOK_S)

    async def end(self) -> None:
        """Let every client have its answer, then go."""
        self._ending = True
        await self.gone()

    async def gone(self) -> None:
        """Wait until every client has been refused, or has ended."""
        await asyncio.gather(*self._tasks)

    async def _client(self) -> None:
        while not self._ending:
            try:
                peer = Peer(*await asyncio.open_connection(*self._gateway.address))
            except ConnectionRefusedError:
                self.refused += 1
                return
            except OSError as fault:
                self.lost.append(f"connect: {fault!r}")
                return
            try:
                await self._converse(peer)
            finally:
                await peer.close()

    async def _converse(self, peer: Peer) -> None:
        """Requests on one connection, until somebody closes it."""
        asked = 0
        while not self._ending:
            try:
                await peer.send(self.next_request())
                answer = await peer.answer()
            except OSError as fault:
                self.fell(peer, f"request {asked}: {fault!r}")
                return
            if not answer.whole:
                how = "reset" if answer.reset else "ended"
                self.cut += answer.status > 0
                self.fell(peer, f"request {asked}: {how} after {answer.status} {answer.body!r}")
                return
            asked += 1
            self.heard(peer, answer)
            if "connection" in answer and answer["connection"].lower() == "close":
                return

    def next_request(self) -> bytes:
        """What the next of them asks."""
        return self.data

    def heard(self, peer: Peer, answer: Answer) -> None:
        """A whole answer has come."""
        self.statuses[answer.status] += 1
        self.workers.add(worker_of(answer))

    def fell(self, peer: Peer, how: str) -> None:
        """No whole answer comes."""
        self.lost.append(how)
