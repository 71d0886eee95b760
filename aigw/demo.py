"""`aigw demo`: a mock provider, the gateway in front of it, and one streamed answer through both.

Nothing leaves the machine and nothing needs to be configured. The gateway is the real one: a
process of its own, `aigw run -c FILE`, with the file that is shown here. At a terminal the demo
then goes on serving until Ctrl-C, so that the printed curl lines can be tried; with `once`, or
where nobody could press Ctrl-C (standard input is no terminal), it ends after the answer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from aigw.errors import StartError
from aigw.mock.streams import TEXT

KEY = "aigw-demo"  # no secret: it opens a mock on loopback
PROVIDER_KEY = "sk-mock-provider"
PACE = ("--latency-ms", "300", "--chunks", "60", "--spacing-ms", "25", "--size", str(len(TEXT)))
START_S = 15.0  # a cold start takes one second; this is for busy machines
STOP_S = 10.0
QUESTION = {
    "model": "gpt-4o-mini",
    "stream": True,
    "messages": [{"role": "user", "content": "Hello"}],
}
ANTHROPIC_QUESTION = {
    "model": "claude-haiku-4-5",
    "max_tokens": 99,
    "messages": [{"role": "user", "content": "Hello"}],
}

CONFIG = """\
[listen]
address = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin_port}"
workers = 1

[log]
access = "{folder}/access.log"

[[keys]]
name = "demo"
key = "{key}"
rps = 1
burst = 10

[[upstreams]]
name = "mock-openai"
urls = ["http://127.0.0.1:{mock_port}"]
dialect = "openai"
credentials = ["{provider_key}"]

[[upstreams]]
name = "mock-anthropic"
urls = ["http://127.0.0.1:{mock_port}"]
dialect = "anthropic"
credentials = ["{provider_key}"]

[[routes]]
path = "/v1/messages"
targets = [{{ upstream = "mock-anthropic" }}]

[[routes]]
path = "/v1"
targets = [{{ upstream = "mock-openai" }}]
"""

NEXT = """\
Try next:

# the same by curl, as it streams
curl -N {url}/v1/chat/completions -H "Authorization: Bearer {key}" \
-H "Content-Type: application/json" -d '{question}'

# Anthropic's API on the same gateway; its key header works, too
curl {url}/v1/messages -H "x-api-key: {key}" -H "anthropic-version: 2023-06-01" \
-H "Content-Type: application/json" -d '{anthropic_question}'

# a wrong key
curl -i {url}/v1/models -H "Authorization: Bearer wrong"

# this key may ask once a second, ten times at once: 200, and then 429
for i in $(seq 15); do curl -s -o /dev/null -w "%{{http_code}} " \
{url}/v1/models -H "Authorization: Bearer {key}"; done; echo

# what the gateway counted, and its access log
curl {admin_url}/metrics
cat {folder}/access.log

The configuration of this demo is {folder}/gateway.toml
"""


class Demo(NamedTuple):
    """Where everything is."""

    folder: Path
    port: int
    admin_port: int
    mock_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"


def run_demo(once: bool = False) -> int:
    """Shows the demo; 0 if the streamed answer came through. Raises StartError."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with ExitStack() as stack:
        demo, gateway = _start(stack)
        _say(f"mock provider  http://127.0.0.1:{demo.mock_port}")
        _say(f'gateway        {demo.url}   key "{KEY}"\n')
        if not show_answer(demo):
            return 1
        _say(next_steps(demo))
        if once or not sys.stdin.isatty():
            return 0
        with contextlib.suppress(KeyboardInterrupt):
            _say("Serving until Ctrl-C.")
            return _wait_for(gateway)
        _say("")
    return 0


def _wait_for(process: subprocess.Popen[bytes]) -> int:
    """Its exit status.  In short waits: Python sees a signal that comes right before a blocking
    call only after that call."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(1.0)


def _leave(number: int, _: object) -> None:
    """Ends by way of the `with` statements, so that no child is left behind."""
    sys.exit(128 + number)


def _say(text: str) -> None:
    print(text, flush=True)


def next_steps(demo: Demo) -> str:
    return NEXT.format(
        url=demo.url,
        admin_url=demo.admin_url,
        key=KEY,
        folder=demo.folder,
        question=json.dumps(QUESTION),
        anthropic_question=json.dumps(ANTHROPIC_QUESTION),
    )


# --- mock and gateway


def _start(stack: ExitStack) -> tuple[Demo, subprocess.Popen[bytes]]:
    """Both running; the stack ends them."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aigw-demo-")))
    mock = stack.enter_context(_child(mock_command(), folder / "mock.log", subprocess.PIPE))
    demo = Demo(folder, _free_port(), _free_port(), _mock_port(mock))
    config = folder / "gateway.toml"
    config.write_text(
        CONFIG.format(
            port=demo.port,
            admin_port=demo.admin_port,
            mock_port=demo.mock_port,
            folder=folder,
            key=KEY,
            provider_key=PROVIDER_KEY,
        )
    )
    log = folder / "gateway.log"
    gateway = stack.enter_context(_child(gateway_command(config), log, subprocess.DEVNULL))
    _await_port(gateway, demo.port, log)
    return demo, gateway


def mock_command() -> list[str]:
    return [sys.executable, "-m", "aigw.mock", "--port", "0", *PACE]


def gateway_command(config: Path) -> list[str]:
    return [sys.executable, "-m", "aigw", "run", "-c", str(config)]


@contextmanager
def _child(command: list[str], log: Path, output: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own: Ctrl-C reaches the demo alone, which ends it in order."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, process_group=0
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _mock_port(mock: subprocess.Popen[bytes]) -> int:
    """From the one line that the mock prints when it listens."""
    assert mock.stdout is not None
    line = mock.stdout.readline().decode().strip()
    port = line.rpartition(":")[2]
    if not port.isdigit():
        raise StartError("the mock provider did not start")
    return int(port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)  # a process that starts gives no sign to wait for
    said = log.read_text(errors="replace").strip() or f"exit status {process.poll()}"
    raise StartError(f"the gateway did not start: {said}")


# --- the streamed answer


def show_answer(demo: Demo) -> bool:
    """Asks through the gateway and prints the tokens as they arrive; whether all came."""
    body = json.dumps(QUESTION)
    _say(f"POST {demo.url}/v1/chat/completions\n{body}\n")
    with closing(http.client.HTTPConnection("127.0.0.1", demo.port, timeout=30)) as client:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        started_s = time.monotonic()
        arrivals_s = []
        try:
            client.request("POST", "/v1/chat/completions", body, headers)
            answer = client.getresponse()
            if answer.status != 200:
                _say(f"{answer.status} {answer.reason}: {answer.read().decode(errors='replace')}")
                return False
            for token in tokens(answer):
                arrivals_s.append(time.monotonic() - started_s)
                print(token, end="", flush=True)
        except (OSError, http.client.HTTPException) as fault:
            _say(f"\n\nThe answer was cut off: {fault!r}")
            return False
    _say(f"\n\n{timing(arrivals_s)}\n")
    return True


def timing(arrivals_s: list[float]) -> str:
    first_s, last_s = arrivals_s[0], arrivals_s[-1]
    gap_s = (last_s - first_s) / max(1, len(arrivals_s) - 1)
    return (
        f"{len(arrivals_s)} pieces: the first after {first_s * 1000:.0f} ms, "
        f"then one every {gap_s * 1000:.1f} ms, {last_s:.2f} s in all."
    )


def tokens(answer: http.client.HTTPResponse) -> Iterator[str]:
    """The pieces of content of a streamed chat completion, each as soon as its line is here.

    Raises IncompleteRead where the stream ends without its end mark.
    """
    for line in answer:
        if line.startswith(b"data: {"):
            chunk = json.loads(line[len(b"data: ") :])
            for choice in chunk["choices"]:
                if piece := choice["delta"].get("content"):
                    yield piece
        elif line.startswith(b"data: [DONE]"):
            return
    raise http.client.IncompleteRead(b"")
