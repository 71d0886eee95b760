"""The servers that are put through the faults: aigw, and nginx with the same duties.

Both are seen only from outside, as operators see them: a configuration, signals, a log, process
ids. What one of them cannot do is not here, and the table of faults says so.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

from bench.peers.nginx import equal
from bench.peers.peer import GATEWAY_KEY
from bench.peers.peer import Site as PeerSite
from tests.gateway_process import (
    LOOK_S,
    PATIENCE_S,
    GatewayProcess,
    ServerProcess,
    config,
    free_port,
)

SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin"


class Site(NamedTuple):
    """What a configuration is made from.

    `ports`: of the members behind /v1; `bad_port`: of the only one behind /bad, if there is that,
    which has `bad_timeout_s` to its first byte and from each to the next.
    `keys` are names and keys at once, each perhaps with further lines of its table (aigw only).
    """

    ports: tuple[int, ...]
    bad_port: int = 0
    bad_timeout_s: int = 1
    keys: tuple[tuple[str, str], ...] = (("user1", ""),)
    log: str = "FOLDER/access.log"
    workers: int = 2


BAD = """
[[upstreams]]
name = "bad"
urls = ["http://127.0.0.1:{port}"]
credentials = []
[[routes]]
path = "/bad"
targets = [{{ upstream = "bad" }}]
timeouts = {{ first_byte = "{timeout_s}s", idle = "{timeout_s}s" }}
"""


class Aigw(GatewayProcess):
    """`aigw run` with two workers."""

    name = "aigw"
    drain_signal = signal.SIGTERM

    def __init__(self, site: Site, launcher: tuple[str, ...] = ()) -> None:
        super().__init__(self.text(site), launcher=launcher)

    def text(self, site: Site) -> str:
        keys = "".join(
            f'[[keys]]\nname = "{key}"\nkey = "{key}"\n{lines}\n' for key, lines in site.keys
        )
        urls = '", "'.join(f"http://127.0.0.1:{port}" for port in site.ports)
        bad = BAD.format(port=site.bad_port, timeout_s=site.bad_timeout_s) if site.bad_port else ""
        text = config(0, site.workers, url=urls, keys=keys, route=bad)
        return text.replace("FOLDER/access.log", site.log)

    async def put_in_force(self, site: Site) -> None:
        """Reload with this; returns when all workers follow it."""
        told = await self.reload(self.text(site))
        assert told["late"] == [], told

    async def refuses_to_reload(self) -> bool:
        """Reload with a file that cannot be read; was it refused, with a reason?"""
        self.write("[[keys]\n")
        answer = await self.admin("/reload", "POST")
        return answer.status == 400 and b"gateway.toml:1" in answer.body

    @staticmethod
    def version() -> str:
        from importlib.metadata import version

        return version("aigw")


class Nginx(ServerProcess):
    """nginx with two workers, as the comparison configures it for equal duties."""

    name = "nginx"
    drain_signal = signal.SIGQUIT

    def __init__(self, site: Site) -> None:
        self._port = free_port()
        super().__init__("nginx.conf", None)
        self.folder.chmod(0o755)  # its workers drop their rights
        self.write(self.text(site))
        program = shutil.which("nginx", path=SBIN)
        assert program is not None
        self.start([program, "-c", str(self.file)])

    def text(self, site: Site) -> str:
        peer = PeerSite(Path("FOLDER"), self._port, 0, site.ports[0], workers=site.workers)
        (text,) = equal(peer).values()
        keys = " ".join(f'"Bearer {key}" "bench";' for key, _ in site.keys)
        members = " ".join(f"server 127.0.0.1:{port};" for port in site.ports)
        bad = (
            f"""location /bad {{
    proxy_pass http://127.0.0.1:{site.bad_port};
    proxy_read_timeout {site.bad_timeout_s}s;
   }}"""
            if site.bad_port
            else ""
        )
        # Answers tell who gave them, as aigw's do by the first part of their id.
        worker = f'add_header X-AIGW-Request-Id "$pid-00000000" always;\n   {bad}'
        for old, new in (
            (f'"Bearer {GATEWAY_KEY}" "bench";', keys),
            (f"server 127.0.0.1:{site.ports[0]};", members),
            ("add_header X-Request-ID $request_id always;", worker),
            ("FOLDER/access.log", site.log),
        ):
            assert old in text
            text = text.replace(old, new)
        return text

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{self._port}"]

    async def is_ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection(*self.address)
                except ConnectionRefusedError:
                    await asyncio.sleep(LOOK_S)
                else:
                    writer.close()
                    return

    def workers(self) -> list[int]:
        """The pids of the workers that accept."""
        root = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in root.read_text().split() if "worker process\0" in title(pid)]

    async def put_in_force(self, site: Site) -> None:
        """Reload with this; returns when none of the old workers accepts any more."""
        old = set(self.workers())
        self.write(self.text(site))
        self.signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_S):
            while not (now := set(self.workers())) or now & old:
                await asyncio.sleep(LOOK_S)

    async def refuses_to_reload(self) -> bool:
        """Reload with a file that cannot be read; was it refused, with a reason?"""
        workers = self.workers()
        self.write("nonsense")
        self.signal(signal.SIGHUP)
        told = self.folder / "error.log"
        async with asyncio.timeout(PATIENCE_S):
            while "[emerg]" not in told.read_text():
                await asyncio.sleep(LOOK_S)
        return self.workers() == workers

    @staticmethod
    def version() -> str:
        program = shutil.which("nginx", path=SBIN)
        assert program is not None
        done = subprocess.run([program, "-v"], capture_output=True, text=True, check=True)
        return done.stderr.strip().rpartition("/")[2]


def title(pid: str) -> str:
    """What a process calls itself; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


Server = Aigw | Nginx
