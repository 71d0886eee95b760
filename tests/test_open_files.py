"""The real processes where they may open few files (`ulimit -n`): start, service, a flood."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from aigw.mock.provider import MockSettings, serve
from tests.gateway_process import LOOK_S, GatewayProcess, Load, config, play, refusal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
NOBODY = 1  # an upstream's port that nobody asks in these tests

LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def limited_to(files: int) -> tuple[str, ...]:
    return (sys.executable, "-c", LIMITED, str(files))


@pytest.mark.parametrize("files", [12, 20, 40])
def test_too_few_open_files_for_the_start(files: int) -> None:
    said = refusal(config(NOBODY, 4), launcher=limited_to(files))
    assert re.search(r"only \d+ open files allowed, the start needs \d+ \(ulimit -n\)", said)


def test_few_open_files_are_told_and_are_enough_to_serve() -> None:
    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port, 1), launcher=limited_to(200)) as gateway,
        ):
            assert "1 workers, 77 connections each (200 open files)" in gateway.log
            load = Load(gateway)
            await load.run(30, least=100)
            await load.end()
            assert load.lost == []
            assert set(load.statuses) == {200}

    play(scene())


FLOOD = 200


def cpu_s(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connecting(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(address)
    return sock


def heard(sock: socket.socket) -> bool:
    """Has it been told that there is no room?"""
    try:
        return b"overloaded" in sock.recv(4096, socket.MSG_PEEK)
    except OSError:  # nothing yet, or cut
        return False


def test_a_flood_of_connections_with_64_open_files() -> None:
    """Nobody crashes or spins; who has no place is told or cut; when it is over, all is as before.

    The upstreams are asked in turn, so that idle connections to one are in the way of another.
    """

    async def scene() -> None:
        async with await serve(MockSettings(), "0.0.0.0") as mock:
            four = ", ".join(f'"http://127.0.0.{host}:{mock.port}"' for host in range(1, 5))
            text = config(mock.port, upstream='credentials = []\nbalance = "round_robin"')
            text = re.sub(r"urls = .*", f"urls = [{four}]", text)
            async with GatewayProcess(text, launcher=limited_to(64)) as gateway:
                assert "2 workers, 15 connections each (64 open files)" in gateway.log
                flood = [connecting(gateway.address) for _ in range(FLOOD)]
                while not any(heard(sock) for sock in flood):
                    await asyncio.sleep(LOOK_S)
                before_s = [cpu_s(pid) for pid in gateway.workers()]
                await asyncio.sleep(0.5)
                after_s = [cpu_s(pid) for pid in gateway.workers()]
                assert max(b - a for a, b in zip(before_s, after_s, strict=True)) < 0.2
                for sock in flood:
                    sock.close()
                async with asyncio.timeout(5):
                    while True:
                        with contextlib.suppress(OSError):
                            if (await gateway.ask()).status == 200:
                                break
                load = Load(gateway)
                await load.run(8, least=200)
                await load.end()
                assert (load.lost, set(load.statuses)) == ([], {200})
                assert len(re.findall(r"worker \d started", gateway.log)) == 2

    play(scene())
