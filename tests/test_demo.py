"""`aigw demo` as a newcomer meets it: it answers, its curl lines work, it leaves nothing behind."""

from __future__ import annotations

import io
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import pytest

from aigw import demo
from aigw.errors import StartError
from aigw.mock.streams import TEXT

PACE = ("--chunks", "60", "--size", str(len(TEXT)))  # without the pauses for human eyes
# As at a terminal, even where the tests run in the background, which ignores Ctrl-C.
CODE = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from aigw import demo
demo.PACE = {PACE}
sys.exit(demo.run_demo())
"""
COMMAND = [sys.executable, "-c", CODE]


@contextmanager
def running(stdin: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        COMMAND, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def ports_of(text: str) -> list[int]:
    """Of the mock and of the gateway, from what the demo printed first."""
    words = [word for word in text.split() if word.startswith("http://127.0.0.1:")]
    return [int(word.rpartition(":")[2]) for word in words[:2]]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_without_a_terminal_it_ends_after_the_answer() -> None:
    with running(subprocess.DEVNULL) as process:
        out, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (0, "")
    assert TEXT in out
    assert "60 pieces: the first after" in out
    assert "curl -N http://127.0.0.1:" in out
    assert not any(listens(port) for port in ports_of(out))


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_at_a_terminal_it_serves_until_it_is_ended(number: signal.Signals, status: int) -> None:
    ours, theirs = pty.openpty()
    try:
        with running(theirs) as process:
            assert process.stdout is not None
            said = ""
            while "Serving until Ctrl-C." not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            ports = ports_of(said)
            assert len(ports) == 2 and all(listens(port) for port in ports)
            process.send_signal(number)
            assert process.wait(40) == status
            assert not any(listens(port) for port in ports)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_printed_commands_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PACE", PACE)
    with ExitStack() as stack:
        place, _ = demo._start(stack)
        steps = demo.next_steps(place)
        began_s = time.monotonic()
        said = [
            subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
            for line in steps.splitlines()
            if line.startswith(("curl ", "for ", "cat "))
        ]
        took_s = time.monotonic() - began_s
    chat, message, wrong, burst, metrics, log = said
    assert chat.endswith("data: [DONE]\n\n")
    assert '"type":"message"' in message and TEXT[:40] in message
    assert wrong.startswith("HTTP/1.1 401 ") and "invalid_api_key" in wrong
    codes = burst.split()
    # Ten at once, less what was asked before, and what the bucket gained meanwhile: one a second.
    assert len(codes) == 15 and codes[0] == "200"
    assert set(codes) == {"200", "429"} or (took_s > 5 and set(codes) == {"200"})
    assert "aigw_requests_total" in metrics
    assert '"path":"/v1/chat/completions"' in log and demo.KEY not in log


def test_a_gateway_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no wish to run')"]

    monkeypatch.setattr(demo, "gateway_command", broken)
    with ExitStack() as stack, pytest.raises(StartError, match="no wish to run"):
        demo._start(stack)


class Heard:
    """What HTTPResponse reads from."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._answer)


def tokens(body: bytes) -> list[str]:
    answer = HTTPResponse(Heard(b"HTTP/1.0 200 OK\r\n\r\n" + body))  # type: ignore[arg-type]
    answer.begin()
    with answer:
        return list(demo.tokens(answer))


def test_tokens() -> None:
    said = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    usage = b'data: {"choices":[]}\n\n'
    role = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
    assert tokens(role + said + said + usage + b"data: [DONE]\n\n") == ["Hi", "Hi"]
    with pytest.raises(HTTPException):
        tokens(said)
