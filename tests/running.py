"""The real processes: `aigw run` and the mock provider, started for a test and ended after it.

    with running_mock(ledger=8) as mock, running_gateway(CONFIG.format(mock=mock.port)) as gateway:
        ... http://127.0.0.1:{gateway.port} ...

The configuration has `{port}` and `{admin_port}` where the harness puts free ports. A gateway that
ends is part of the test: exit status 0, and not one traceback on its standard error.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).parents[1]
START_S = 20.0
# What a drain may take by its own contract: 25 s. No test leaves anything running that long.
STOP_S = 10.0


class Process:
    """A started program; its output goes to files, so that it can never block on us."""

    def __init__(self, folder: Path, command: list[str], environ: dict[str, str] | None = None):
        self.folder = folder
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environ,
                cwd=ROOT,
                process_group=0,
            )
        self.pid = self._popen.pid

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    def wait(self) -> int:
        """The exit status of a process that was told to end by other means."""
        return self._popen.wait(STOP_S)

    def end(self) -> int:
        """SIGTERM, and the exit status; a process that does not heed it is killed."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
        try:
            return self._popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"SIGTERM was not heeded:\n{self.stderr}") from None

    def kill(self) -> None:
        """At once, children included."""
        os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


class RunningMock(Process):
    """The mock provider."""

    def __init__(self, folder: Path, *options: str):
        super().__init__(folder, [sys.executable, "-m", "aigw.mock", *options])
        deadline_s = time.monotonic() + START_S
        while not self.stdout.endswith("\n"):  # its first line says where it listens
            assert self._popen.poll() is None and time.monotonic() < deadline_s, self.stderr
            time.sleep(0.01)
        self.port = int(self.stdout.rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ledger(self) -> list[dict[str, Any]]:
        """The last requests as they arrived, oldest first."""
        entries: list[dict[str, Any]] = orjson.loads(get(f"{self.url}/mock/requests"))
        return entries


class RunningGateway(Process):
    """`aigw run`, ready to serve."""

    def __init__(self, folder: Path, config: str):
        self.port, self.admin_port = free_ports(2)
        file = folder / "gateway.toml"
        text = config.replace("{port}", str(self.port))
        file.write_text(text.replace("{admin_port}", str(self.admin_port)))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(folder / "ready"))
            ready.settimeout(0.1)
            environ = dict(os.environ, NOTIFY_SOCKET=str(folder / "ready"))
            command = [sys.executable, "-m", "aigw", "run", "-c", str(file)]
            super().__init__(folder, command, environ)
            self._await(ready)

    def _await(self, ready: socket.socket) -> None:
        """Wait for the word that a service manager waits for (sd_notify)."""
        deadline_s = time.monotonic() + START_S
        while self._popen.poll() is None and time.monotonic() < deadline_s:
            try:
                if b"READY=1" in ready.recv(4096):
                    return
            except TimeoutError:
                continue
        self.kill()
        raise AssertionError(f"the gateway did not start:\n{self.stderr}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def metrics(self) -> dict[str, float]:
        """Every series of /metrics by name and labels, such as `aigw_connections`."""
        text = get(f"http://127.0.0.1:{self.admin_port}/metrics").decode()
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {series: float(value) for series, _, value in lines}

    def children(self) -> list[int]:
        """The process ids of controller and workers (Linux)."""
        of_main_thread = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in of_main_thread.read_text().split()]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now; held all at once, so that they differ."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def running_mock(*, ledger: int = 0) -> Iterator[RunningMock]:
    with tempfile.TemporaryDirectory(prefix="aigw-") as folder:
        mock = RunningMock(Path(folder), "--ledger", str(ledger))
        try:
            yield mock
        except BaseException:
            mock.kill()
            raise
        status = mock.end()
        assert (status, mock.stderr) == (0, "")


@contextmanager
def running_gateway(config: str) -> Iterator[RunningGateway]:
    with tempfile.TemporaryDirectory(prefix="aigw-") as folder:
        gateway = RunningGateway(Path(folder), config)
        try:
            yield gateway
        except BaseException:
            gateway.kill()  # what is still running would only be drained, which takes its time
            raise
        status = gateway.end()
        assert status == 0, gateway.stderr
        assert not re.search(r"Traceback|internal error", gateway.stderr), gateway.stderr
