"""Faults of what surrounds a server: a full disk, a crowd, a wall clock that jumps."""

from __future__ import annotations

import asyncio
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.cpu import memory
from tests.conversation import Peer
from tests.faults.outcome import Outcome
from tests.faults.servers import Aigw, Server, Site
from tests.faults.traffic import CLIENTS, WARM, Ledger, Size, Streams, Traffic, busy, outcome_of
from tests.gateway_process import request

DISK_BYTES = 16 << 20
# In the path and so in the log: a line as long as they get, to fill buffers with few requests.
LONG_TARGET = "/v1/models/" + "x" * 3000
TARGET_LINES = 800  # more than the buffers of two workers hold of those
FILES_RESERVED = 500


# ---------------------------------------------------------------- a full disk


class SmallDisk:
    """A folder on a disk of its own that can be filled and cleared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, server: Server) -> None:
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                return

    def clear(self, server: Server) -> None:
        self._filler.unlink()


class LimitedFiles(SmallDisk):
    """The same to a writer, where we may not mount: no file of the workers may grow any more.

    Of use for aigw alone: nginx is killed by the signal that comes with it, which Python ignores.
    """

    def fill(self, server: Server) -> None:
        self._limit(server, (self.folder / "access.log").stat().st_size)

    def clear(self, server: Server) -> None:
        self._limit(server, resource.RLIM_INFINITY)

    def _limit(self, server: Server, size_bytes: int) -> None:
        for pid in server.workers():
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


@contextmanager
def small_disk() -> Iterator[SmallDisk]:
    """16 MiB of memory as a disk, or what comes near to it."""
    with tempfile.TemporaryDirectory(prefix="aigw-") as name:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "none", name]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            yield LimitedFiles(Path(name))
            return
        try:
            yield SmallDisk(Path(name))
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


async def full_disk(server_of: type[Server], size: Size) -> Outcome:
    """Under the access log. Recovered is when it grows again after room was made."""
    ledger = Ledger()
    with small_disk() as disk:
        log = disk.folder / "access.log"
        async with (
            await ledger.upstream() as mock,
            server_of(Site((mock.port,), log=str(log))) as server,
        ):
            traffic = Traffic(server, ledger, LONG_TARGET)
            await traffic.run(CLIENTS, least=WARM)
            disk.fill(server)
            await traffic.more(TARGET_LINES)
            full_bytes = log.stat().st_size
            disk.clear(server)
            cleared_s = time.monotonic()
            await traffic.until(lambda: log.stat().st_size > full_bytes)
            recovered_s = time.monotonic() - cleared_s
            await traffic.more(WARM)
            outcome = await outcome_of(ledger, traffic)
            outcome.recovered_s = recovered_s
            dropped = 0.0
            if isinstance(server, Aigw):
                # Each worker finds out for itself that there is room again.
                await server.expect("lines were lost", server.log.count("lines are lost"))
                dropped = await server.metric("log_lines_dropped_total")
            server.signal(server.drain_signal)
            await server.ends()
            missing = traffic.answered - whole_lines(log)
            outcome.note = f"{missing:,} of {traffic.answered:,} log lines lost"
            if isinstance(server, Aigw):
                outcome.note += ", all of them counted"
                outcome.expect(missing == dropped, f"{dropped:g} counted, {missing} missing")
                outcome.expect(dropped > 0, "no line was lost: was the disk full?")
                for said in ("lines are lost", "lines were lost"):
                    times = server.log.count(said)
                    outcome.expect(1 <= times <= 2, f"{said!r} {times} times for 2 workers")
        return outcome


def whole_lines(log: Path) -> int:
    """How many lines of the log say what they have to; a torn one is none."""
    return sum(
        line.startswith(b'{"time"') and line.endswith(b"}")
        for line in log.read_bytes().split(b"\n")
    )


# ---------------------------------------------------------------- crowds


def affordable(wanted: int, files_each: int) -> int:
    """So many connections, or as many as the limit of open files lets one process of ours hold."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, (hard - FILES_RESERVED) // files_each)


async def idle_connections(server_of: type[Server], size: Size) -> Outcome:
    """Each has had an answer, then all are idle, then each gets another answer."""
    count = affordable(size.connections, 1)
    ledger = Ledger()
    async with await ledger.upstream() as mock, server_of(Site((mock.port,))) as server:
        await warmed(server, ledger)
        before_bytes = memory(server.process.pid).pss_bytes
        clients: list[Peer] = []
        lost = 0
        for _ in range(count // 100):
            new = [Peer(*await asyncio.open_connection(*server.address)) for _ in range(100)]
            lost += await unanswered(new, ledger)
            clients += new
        held_bytes = memory(server.process.pid).pss_bytes
        asked_s = time.monotonic()
        lost += await unanswered(clients[:100], ledger)
        answered_s = time.monotonic() - asked_s
        lost += await unanswered(clients[100:], ledger)
        for client in clients:
            await client.close()
        outcome = await outcome_of(ledger)
        outcome.lost = lost
        outcome.bytes_each = (held_bytes - before_bytes) / count
        outcome.note = (
            f"{count:,} connections, {outcome.bytes_each / 1024:.1f} KiB each; "
            f"100 of them answered in {answered_s:.2f} s"
        )
        return outcome


async def warmed(server: Server, ledger: Ledger) -> None:
    """What is allocated once has been."""
    traffic = Traffic(server, ledger)
    await traffic.run(CLIENTS, least=WARM)
    await traffic.end()


async def unanswered(clients: Sequence[Peer], ledger: Ledger) -> int:
    """Ask on each, one after the other; how many give no whole 200."""
    lost = 0
    for client in clients:
        await client.send(request(X_Number=ledger.number()))
        answer = await client.answer()
        lost += not (answer.whole and answer.status == 200)
    return lost


async def open_streams(server_of: type[Server], size: Size) -> Outcome:
    """All of them at once, two events a second each; all come to their end."""
    count = affordable(size.streams, 2)
    ledger = Ledger()
    async with await ledger.upstream() as mock, server_of(Site((mock.port,))) as server:
        await warmed(server, ledger)
        before_bytes = memory(server.process.pid).pss_bytes
        lasting_s = 4.0 + count / 100
        streams = Streams(server, ledger, count, lasting_s, spacing_ms=500)
        await streams.begin()
        await asyncio.sleep(1.0)
        held_bytes = memory(server.process.pid).pss_bytes
        outcome = await outcome_of(ledger, streams=streams)
        outcome.bytes_each = (held_bytes - before_bytes) / count
        outcome.note = f"{count:,} streams, {outcome.bytes_each / 1024:.1f} KiB each"
        return outcome


# ---------------------------------------------------------------- a clock that jumps

# `aigw` in a process whose wall clock is off by what stands in a file.  The name of the file comes
# first, then `python -m aigw` as the harness calls it, then the arguments.
WALL_CLOCK_OFF = """
import mmap, struct, sys, time
with open(sys.argv[1], "r+b") as file:
    shared = mmap.mmap(file.fileno(), 8)
true = time.time
time.time = lambda: true() + struct.unpack("d", shared)[0]
from aigw.cli import main
sys.exit(main(sys.argv[5:]))
"""
DAY_S = 86_400.0
JUMPS_S = (DAY_S, -2 * DAY_S, 400 * DAY_S)


async def clock_jumps(server_of: type[Server], size: Size) -> Outcome:
    """A day ahead, two days back, a year ahead: no bucket refills, no time-out strikes, no key is
    let in that was not; only the times in the log follow."""
    ledger = Ledger()
    keys = (("user1", ""), ("limited", "rpm = 1\nburst = 3"))
    with tempfile.NamedTemporaryFile() as file:
        file.write(struct.pack("d", 0.0))
        file.flush()
        launcher = (sys.executable, "-c", WALL_CLOCK_OFF, file.name)
        async with (
            await ledger.upstream() as mock,
            Aigw(Site((mock.port,), keys=keys), launcher) as server,
        ):
            for _ in range(3):
                await server.ask(request(key="limited"))
            idle, half = await server.client(), await server.client()
            await half.send(request()[:-2])
            traffic, streams = await busy(server, ledger, 3.0)
            refused = []
            with mmap.mmap(file.fileno(), 8) as shared:
                for jump_s in JUMPS_S:
                    shared[:] = struct.pack("d", jump_s)
                    await asyncio.sleep(0.6)  # two sweeps
                    await traffic.more(100)
                    refused.append((await server.ask(request(key="limited"))).status)
            outcome = await outcome_of(ledger, traffic, streams=streams)
            outcome.expect(refused == [429] * 3, f"an empty bucket gave {refused}")
            for client, rest in ((idle, request()), (half, b"\r\n")):
                await client.send(rest)
                status = (await client.answer()).status
                outcome.expect(status == 200, f"a connection opened before gave {status}")
            server.signal(signal.SIGTERM)
            await server.ends()
            days = {record["time"][:10] for record in server.access()}
            outcome.expect(len(days) >= 4, f"the clock has not jumped: {sorted(days)}")
            return outcome
