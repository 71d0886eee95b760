"""The access log: lines, bounds, rotation, full disks, readers that stall or leave."""

from __future__ import annotations

import asyncio
import logging
import os
import pty
import random
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from aigw.errors import StartError
from aigw.observe import access_log as module
from aigw.observe.access_line import LINE_BYTES
from aigw.observe.access_log import AccessLog, check_destination


def run(main: Awaitable[None]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(40):
            await main

    uvloop.run(whole())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


def line(number: int, worker: int = 0, size: int = 200) -> bytes:
    head = f"{worker} {number} "
    return f"{head}{'x' * (size - len(head) - 1)}\n".encode()


class Lost:
    """What `dropped` is told."""

    def __init__(self) -> None:
        self.lines = 0

    def __call__(self, lines: int) -> None:
        self.lines += lines


def started(destination: object, lost: Lost | None = None) -> AccessLog:
    log = AccessLog(str(destination), lost or Lost())
    log.start(asyncio.get_running_loop())
    return log


# --- files ------------------------------------------------------------------------------------


def test_lines_come_in_order_and_soon(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    file.write_text("old\n")
    expected = b"old\n" + b"".join(map(line, range(100)))

    async def main() -> None:
        log = AccessLog(str(file), Lost())
        for number in range(50):
            log.append(line(number))
        log.start(asyncio.get_running_loop())
        for number in range(50, 100):
            log.append(line(number))
        assert file.read_bytes() == b"old\n"
        await until(lambda: file.read_bytes() == expected)
        await log.close()
        assert file.read_bytes() == expected

    run(main())


def test_nothing_runs_when_there_is_nothing_to_write(tmp_path: Path) -> None:
    async def main() -> None:
        log = started(tmp_path / "access.log")
        log.append(line(0))
        await until(lambda: log._writing is None and log._timer is None)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await log.close()

    run(main())


def test_close_writes_everything(tmp_path: Path) -> None:
    file = tmp_path / "access.log"

    async def main() -> None:
        log = started(file)
        for number in range(5000):
            log.append(line(number))
            if number % 1000 == 0:
                await asyncio.sleep(0.01)
        await log.close()
        assert file.read_bytes() == b"".join(map(line, range(5000)))

    run(main())


def test_many_lines_are_written_before_their_time(tmp_path: Path) -> None:
    """More than a buffer's worth of lines in less than the flush interval: none is lost."""
    file = tmp_path / "access.log"
    lost = Lost()

    async def main() -> None:
        log = started(file, lost)
        for number in range(10_000):
            log.append(line(number, size=300))
            if number % 500 == 0:
                written = file.stat().st_size
                await until(lambda least=written: log._bytes < module.EARLY_BYTES)  # type: ignore[misc]
        await log.close()
        assert lost.lines == 0
        assert file.stat().st_size == 3_000_000

    run(main())


def test_off_takes_lines_and_does_nothing() -> None:
    async def main() -> None:
        lost = Lost()
        log = started("off", lost)
        assert not log.enabled
        log.append(line(0))
        log.reopen()
        await log.close()
        assert lost.lines == 0

    run(main())


def test_lines_after_the_end_are_counted(tmp_path: Path) -> None:
    async def main() -> None:
        lost = Lost()
        log = started(tmp_path / "access.log", lost)
        await log.close()
        log.append(line(0))
        assert lost.lines == 1

    run(main())


@pytest.mark.parametrize("where", ["missing/access.log", "."])
def test_what_cannot_be_opened_stops_the_start(tmp_path: Path, where: str) -> None:
    with pytest.raises(StartError, match=r"log\.access: cannot open"):
        check_destination(str(tmp_path / where))


def test_the_check_leaves_nothing_open(tmp_path: Path) -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for destination in (str(tmp_path / "access.log"), "off"):
        check_destination(destination)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_rotation_loses_and_tears_nothing(tmp_path: Path) -> None:
    """Rename and reopen, again and again, while lines come."""
    file = tmp_path / "access.log"

    async def main() -> None:
        log = started(file)
        number = 0
        for rotation in range(8):
            for _ in range(300):
                log.append(line(number))
                number += 1
                if number % 50 == 0:
                    await asyncio.sleep(0.01)
            file.rename(tmp_path / f"access.log.{rotation}")
            log.reopen()
            if rotation % 2:
                await until(file.exists)
        await log.close()
        files = [tmp_path / f"access.log.{rotation}" for rotation in range(8)] + [file]
        lines = b"".join(each.read_bytes() for each in files if each.exists())
        assert lines == b"".join(map(line, range(number)))

    run(main())


def test_reopen_happens_without_traffic(tmp_path: Path) -> None:
    file = tmp_path / "access.log"

    async def main() -> None:
        log = started(file)
        file.rename(tmp_path / "access.log.1")
        log.reopen()
        await until(file.exists)
        await log.close()

    run(main())


def test_reopen_that_fails_keeps_the_old_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    moved = tmp_path / "moved"

    async def main() -> None:
        log = started(folder / "access.log")
        folder.rename(moved)
        log.reopen()
        log.append(line(0))
        await log.close()
        assert (moved / "access.log").read_bytes() == line(0)

    run(main())
    assert "the old one stays in use" in caplog.text


# --- a full disk ------------------------------------------------------------------------------


def test_a_full_disk_is_one_warning_and_counted_loss(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        lost = Lost()
        log = started("/dev/full", lost)
        for number in range(5):
            log.append(line(number))
            await until(lambda: bool(log._trouble))
        for number in range(10_000):
            log.append(line(number))
        assert log._bytes <= module.BUFFER_BYTES
        kept = len(log._lines)
        assert lost.lines == 10_005 - kept
        await log.close()
        assert lost.lines == 10_005

    run(main())
    assert caplog.text.count("No space left") == 2  # the trouble, and the loss
    assert len(caplog.records) == 2


def test_writing_resumes_when_there_is_room_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the file's size cuts a write in the middle of a line, as a full disk does."""
    monkeypatch.setattr(module, "RETRY_EVERY_S", 0.05)
    file = tmp_path / "access.log"
    lost = Lost()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def main() -> None:
        log = started(file, lost)
        resource.setrlimit(resource.RLIMIT_FSIZE, (250, before[1]))
        try:
            for number in range(3):
                log.append(line(number, size=100))
            await until(lambda: bool(log._trouble))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        await until(lambda: not log._trouble)
        log.append(line(3, size=100))
        await log.close()

    run(main())
    lines = [text for text in file.read_bytes().splitlines(keepends=True) if len(text) == 100]
    assert lines == [line(number, size=100) for number in range(4)]
    assert lost.lines == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


# --- pipes ------------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_a_fifo_without_reader_stops_the_start(fifo: Path) -> None:
    with pytest.raises(StartError):
        check_destination(str(fifo))


def test_what_cannot_be_opened_later_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that is started again must serve even if the log's folder has gone."""
    monkeypatch.setattr(module, "RETRY_EVERY_S", 0.01)
    file = tmp_path / "folder" / "access.log"
    lost = Lost()

    async def main() -> None:
        log = started(file, lost)
        log.append(b"first\n")
        while "trying on" not in caplog.text.partition("cannot be opened")[2]:
            await asyncio.sleep(0.01)
        file.parent.mkdir()
        log.append(b"second\n")
        while not file.exists() or file.read_bytes() != b"first\nsecond\n":
            await asyncio.sleep(0.01)
        await log.close()

    uvloop.run(main())
    assert lost.lines == 0
    assert "written again, nothing was lost" in caplog.text


def test_a_stalled_reader_fills_the_buffer_then_lines_are_dropped(
    fifo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = Lost()
    total = 20_000

    async def main() -> None:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        log = started(fifo, lost)
        worst_s = 0.0
        for number in range(total):
            log.append(line(number))
            if number % 100 == 0:
                began = time.perf_counter()
                await asyncio.sleep(0)
                worst_s = max(worst_s, time.perf_counter() - began)
        await until(lambda: lost.lines > 0)
        assert module.BUFFER_BYTES - 200 < log._bytes <= module.BUFFER_BYTES
        assert worst_s < 5  # a write that blocked would last until the reader reads
        received = bytearray()

        def read() -> None:
            received.extend(os.read(reader, 1 << 16))

        asyncio.get_running_loop().add_reader(reader, read)
        await until(lambda: log._bytes == 0)
        log.append(line(total))
        await log.close()
        await until(lambda: received.endswith(line(total)))
        asyncio.get_running_loop().remove_reader(reader)
        os.close(reader)
        lines = bytes(received).splitlines(keepends=True)
        assert len(lines) == total + 1 - lost.lines
        assert lines[:-1] == [line(number) for number in range(len(lines) - 1)]

    run(main())
    assert "lines are lost" in caplog.text
    assert f"{lost.lines} lines were lost" in caplog.text
    assert len(caplog.records) == 2


def test_close_does_not_wait_for_a_stalled_reader(
    fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_WITHIN_S", 0.2)

    async def main() -> None:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        lost = Lost()
        log = started(fifo, lost)
        for number in range(2000):
            log.append(line(number))
        await log.close()
        held = len(os.read(reader, 1 << 20)) // 200
        assert held + lost.lines == 2000
        os.close(reader)

    run(main())


def test_a_reader_that_leaves(fifo: Path, caplog: pytest.LogCaptureFixture) -> None:
    """EPIPE, no signal; and the next reader of a FIFO gets the lines that waited."""

    async def main() -> None:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        log = started(fifo)
        os.close(reader)
        log.append(line(0))
        await until(lambda: bool(log._trouble))
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        await log.close()
        assert os.read(reader, 4096) == line(0)
        os.close(reader)

    run(main())
    assert "Broken pipe" in caplog.text


# --- several processes ------------------------------------------------------------------------

WORKER = """
import asyncio, random, sys, uvloop
from aigw.observe.access_log import AccessLog

destination, worker, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(worker)
lost = []

async def main():
    log = AccessLog(destination, lost.append)
    log.start(asyncio.get_running_loop())
    for number in range(count):
        head = f"{worker} {number} "
        log.append((head + "x" * (random.choice((60, 400, 4095)) - len(head)) + "\\n").encode())
        while number % 40 == 0 or log._bytes > 500_000:
            await asyncio.sleep(0.002)
            if log._bytes <= 500_000:
                break
    await log.close()

uvloop.run(main())
sys.exit(3 if lost else 0)
"""


def workers(
    destination: str, count: int, stdout: int | None = None
) -> list[subprocess.Popen[bytes]]:
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, destination, str(worker), str(count)], stdout=stdout
        )
        for worker in range(2)
    ]


def check_lines(received: bytes, count: int) -> None:
    """Each worker's lines are all there, whole, in order."""
    numbers: dict[bytes, list[int]] = {b"0": [], b"1": []}
    for text in received.splitlines():
        worker, number, filler = text.split(b" ")
        assert filler.strip(b"x") == b""
        assert len(text) in (60, 400, 4095)
        numbers[worker].append(int(number))
    assert numbers == {b"0": list(range(count)), b"1": list(range(count))}


def test_two_processes_do_not_tear_lines_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    for process in workers(str(file), 4000):
        assert process.wait(20) == 0
    check_lines(file.read_bytes(), 4000)


def test_two_processes_do_not_tear_lines_in_a_pipe() -> None:
    """With a reader that is slow at times, so that the pipe is full at times."""
    reader, writer = os.pipe()
    processes = workers("stdout", 1500, writer)
    os.close(writer)
    received = bytearray()
    pauses = random.Random(1)
    while data := os.read(reader, pauses.choice((500, 5000, 65536))):
        received += data
        if pauses.random() < 0.01:
            time.sleep(0.02)
    os.close(reader)
    for process in processes:
        assert process.wait(20) == 0
    check_lines(bytes(received), 1500)


# --- standard output --------------------------------------------------------------------------

ONE_LINE = """
import asyncio, os, sys, uvloop
from aigw.observe import access_log
from aigw.observe.access_log import AccessLog

async def main():
    log = AccessLog("stdout", lambda lines: None)
    log.start(asyncio.get_running_loop())
    log.append(b"one\\n")
    log.reopen()
    await log.close()

PATCH
uvloop.run(main())
print("blocking" if os.get_blocking(1) else "non-blocking", file=sys.stderr)
"""


def one_line(stdout: int, patch: str = "") -> str:
    code = ONE_LINE.replace("PATCH", patch)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_stdout_to_a_file_keeps_what_others_wrote(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb+", buffering=0) as out:
        out.write(b"before\n")
        assert one_line(out.fileno()) == "blocking\n"
        out.write(b"after\n")
        out.seek(0)
        assert out.read() == b"before\none\nafter\n"


def test_stdout_to_a_pipe_leaves_its_flags_alone() -> None:
    reader, writer = os.pipe()
    assert one_line(writer) == "blocking\n"
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)
    os.close(writer)


def test_stdout_to_a_pipe_that_may_not_be_opened_again() -> None:
    """A container's pipe that belongs to another user."""
    refuse = """
def refuse(*_): raise PermissionError(13, "Permission denied")
access_log.os.open = refuse
"""
    reader, writer = os.pipe()
    assert one_line(writer, refuse) == "non-blocking\n"
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)
    os.close(writer)


def test_stdout_to_a_socket() -> None:
    """As systemd's journal has it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert one_line(theirs.fileno()) == "blocking\n"
        assert ours.recv(100) == b"one\n"


def test_stdout_to_a_terminal() -> None:
    ours, theirs = pty.openpty()
    assert one_line(theirs) == "blocking\n"
    assert os.read(ours, 100) == b"one\r\n"
    os.close(ours)
    os.close(theirs)


def test_stdout_whose_reader_has_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert "Broken pipe" in one_line(writer)
    os.close(writer)


def test_a_socket_that_takes_a_part_gets_the_rest() -> None:
    """Partial writes, which a pipe never makes."""
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    theirs.setblocking(False)
    received = bytearray()

    def send(data: bytes) -> int:
        return theirs.send(data[: random.randint(1, 300)])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, lambda: received.extend(ours.recv(1000)))
        log = AccessLog("off", Lost())
        log.enabled = True
        log._sink = module._Stream(theirs.fileno(), send, lambda: None)
        log.start(loop)
        for number in range(300):
            log.append(line(number))
        await log.close()
        await until(lambda: len(received) == 300 * 200)
        loop.remove_reader(ours)

    with ours, theirs:
        run(main())
    assert bytes(received) == b"".join(map(line, range(300)))


def test_groups_are_atomic() -> None:
    rng = random.Random(0)
    lines = [line(number, size=rng.choice((20, 700, LINE_BYTES))) for number in range(500)]
    start = 0
    while start < len(lines):
        end = module._group_end(lines, start)
        assert end > start
        size = sum(map(len, lines[start:end]))
        assert size <= select.PIPE_BUF
        assert end == len(lines) or size + len(lines[end]) > select.PIPE_BUF
        start = end
