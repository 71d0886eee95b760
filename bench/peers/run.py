"""Starting and ending a peer, and finding out what it can do.

A peer counts as running when it has answered a request as the mock does. Each has a folder, ports
and an environment of its own; proxies of the machine's own environment don't reach it.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bench.peers.peer import GATEWAY_KEY, Peer, Site, find_program, how_to_install
from bench.request import RequestPlan, chat_body, sdk_headers

STOP_S = 10.0
POLL_S = 0.002  # a start is timed to within so much
KINDS: dict[str, RequestPlan] = {
    f"{name}, {how}": RequestPlan(path=path, stream=how == "streamed", spacing_ms=0)
    for name, path in (
        ("chat", "/v1/chat/completions"),
        ("responses", "/v1/responses"),
        ("messages", "/v1/messages"),
    )
    for how in ("plain", "streamed")
}


class PeerError(Exception):
    """It is not installed, did not start, or does not answer as it should."""


class Running(NamedTuple):
    """A peer that answers: where, and whose process tree."""

    name: str
    port: int
    pid: int
    start_s: float  # from the start of the process to the first answer
    headers: tuple[tuple[str, str], ...] = ()

    def request(self, plan: RequestPlan) -> RequestPlan:
        """That request as this peer has to get it."""
        return plan._replace(host=f"127.0.0.1:{self.port}", headers=(*plan.headers, *self.headers))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_site(folder: Path, upstream_port: int, ca: Path | None = None, workers: int = 1) -> Site:
    folder.mkdir(mode=0o755)
    return Site(folder, free_port(), free_port(), upstream_port, ca, workers)


@contextmanager
def running_peer(peer: Peer, site: Site, peers: Path | None, name: str = "") -> Iterator[Running]:
    """Starts it and tries it. Raises PeerError if it does not answer as the mock does."""
    program = find_program(peer, peers)
    if program is None:
        raise PeerError(f"not installed: {how_to_install(peer)}")
    for file, content in peer.write(site).items():
        (site.folder / file).write_text(content)
    headers = peer.headers(site)
    started_s = time.monotonic()
    with process(peer.command(site, program), site.folder, peer.environment(site)) as child:
        here = Running(name or peer.name, site.port, child.pid, 0.0, headers)
        await_answer(child, here, peer.start_s, site.folder / "output.log")
        yield here._replace(start_s=time.monotonic() - started_s)


@contextmanager
def process(
    command: Sequence[str], folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours in that folder, ended with its children when the block is left."""
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    with (folder / "output.log").open("wb") as sink:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={**inherited, "HOME": str(folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its session holds only what it started
            child.wait()


def await_answer(
    child: subprocess.Popen[bytes], here: Running, patience_s: float, output: Path
) -> None:
    """Until it answers 200 with a completion. Raises PeerError if it does not come to that."""
    deadline_s = time.monotonic() + patience_s
    last = "it does not listen"
    while time.monotonic() < deadline_s and child.poll() is None:
        try:
            status, body = ask(here, KINDS["chat, plain"])
        except (OSError, http.client.HTTPException) as error:
            last = f"{type(error).__name__}: {error}"
        else:
            if status == 200 and is_completion(body):
                return
            last = f"it answers {status}, {body[:200]!r}"
        time.sleep(POLL_S)
    said = output.read_bytes()[-400:].decode(errors="replace").strip()
    raise PeerError(f"{last}; {said or 'no word'}")


def is_completion(body: bytes) -> bool:
    try:
        return bool(json.loads(body)["choices"][0]["message"]["content"])
    except (ValueError, KeyError, IndexError, TypeError):
        return False


def kinds_of(here: Running) -> tuple[str, ...]:
    """Which of the six kinds of requests it answers in full."""
    found = []
    for kind, plan in KINDS.items():
        try:
            status, body = ask(here, plan)
        except (OSError, http.client.HTTPException):
            continue
        if status == 200 and (not plan.stream or b"data:" in body):
            found.append(kind)
    return tuple(found)


def refusal_of(here: Running) -> int:
    """The status for an unknown key; 0 if it does not look at keys."""
    status, _ = ask(here, KINDS["chat, plain"]._replace(key="sk-unknown"))
    return status if status >= 400 else 0


def ask(here: Running, plan: RequestPlan) -> tuple[int, bytes]:
    """One request over a connection of its own. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", here.port, timeout=10)
    try:
        return ask_over(connection, here, plan)
    finally:
        connection.close()


def ask_over(
    connection: http.client.HTTPConnection, here: Running, plan: RequestPlan
) -> tuple[int, bytes]:
    plan = here.request(plan._replace(key=plan.key or GATEWAY_KEY))
    connection.request("POST", plan.path, chat_body(plan), dict(sdk_headers(plan)))
    answer = connection.getresponse()
    body = answer.read()
    packed = answer.getheader("content-encoding") == "gzip"
    return answer.status, gzip.decompress(body) if packed else body
