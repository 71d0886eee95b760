"""Who is compared: the mock itself, nginx without and with equal duties, and aigw.

Each is started with one worker process and a configuration written here, in front of the same
mock. "Equal duties" are those of the gateway in this bench: check the key, limit its rate, put the
provider's key in, give a request id, write a JSON access log to a file.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

GATEWAY_KEY = "sk-gw"
PROVIDER_KEY = "sk-upstream"
START_S = 15.0
STOP_S = 10.0


class ContenderError(Exception):
    """It did not start, or does not answer as it should."""


class Contender(NamedTuple):
    """Something that runs: where, and whose process tree."""

    name: str
    port: int
    pid: int


class Site(NamedTuple):
    """What a contender's configuration is made from."""

    folder: Path  # scratch, readable by others, since nginx's worker drops its rights
    port: int
    upstream_port: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nginx_config(site: Site, server: str, http_part: str) -> str:
    folder = site.folder
    temporary = "".join(
        f" {name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 8192; }}
http {{
 keepalive_requests 1000000000; client_body_buffer_size 64k;{temporary}
 upstream provider {{
  server 127.0.0.1:{site.upstream_port}; keepalive 512; keepalive_requests 1000000000;
 }}
 {http_part}
 server {{
  listen 127.0.0.1:{site.port} backlog=4096;
  location / {{
   proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection "";
   proxy_buffering off;
   {server}
  }}
 }}
}}
"""


def nginx_plain(site: Site) -> str:
    return nginx_config(site, server="", http_part="access_log off;")


def nginx_equal(site: Site) -> str:
    refusal = '{"error":{"message":"Invalid API key","type":"invalid_request_error"}}'
    return nginx_config(
        site,
        server=f"""if ($key_name = "") {{ return 401 '{refusal}'; }}
   limit_req zone=per_key burst=100000 nodelay;
   proxy_set_header Authorization "Bearer {PROVIDER_KEY}";
   proxy_set_header X-Request-ID $request_id;
   add_header X-Request-ID $request_id always;""",
        http_part=f"""log_format line escape=json
  '{{"time":"$time_iso8601","request_id":"$request_id",'
  '"key":"$key_name","client_ip":"$remote_addr","method":"$request_method","path":"$uri",'
  '"status":$status,"bytes_in":"$request_length","bytes_out":$bytes_sent,'
  '"ttfb":"$upstream_header_time","duration":$request_time}}';
 access_log {site.folder}/access.log line buffer=64k flush=1s;
 map $http_authorization $key_name {{ default ""; "Bearer {GATEWAY_KEY}" "bench"; }}
 limit_req_zone $key_name zone=per_key:1m rate=100000r/s; limit_req_status 429;""",
    )


def aigw_config(site: Site) -> str:
    return f"""
[listen]
address = "127.0.0.1:{site.port}"
admin = "127.0.0.1:{free_port()}"
workers = 1

[log]
access = "{site.folder}/access.log"

[[keys]]
name = "bench"
key = "{GATEWAY_KEY}"
rps = 100_000
burst = 100_000

[[upstreams]]
name = "mock"
urls = ["http://127.0.0.1:{site.upstream_port}"]
dialect = "openai"
credentials = ["{PROVIDER_KEY}"]

[[routes]]
path = "/v1"
targets = [{{ upstream = "mock" }}]
"""


def nginx_command(config: Path) -> list[str]:
    return ["nginx", "-c", str(config)]


def aigw_command(config: Path) -> list[str]:
    return [sys.executable, "-m", "aigw", "run", "-c", str(config)]


# name -> its configuration, the name of that file, and the command that starts it
Recipe = tuple[Callable[[Site], str], str, Callable[[Path], list[str]]]
RECIPES: dict[str, Recipe] = {
    "nginx": (nginx_plain, "nginx.conf", nginx_command),
    "nginx, equal duties": (nginx_equal, "nginx.conf", nginx_command),
    "aigw": (aigw_config, "gateway.toml", aigw_command),
}


@contextmanager
def running_mock(port: int) -> Iterator[Contender]:
    command = [sys.executable, "-m", "aigw.mock", "--port", str(port)]
    with running(command, port, os.devnull) as pid:
        yield Contender("mock, direct", port, pid)


@contextmanager
def running_contender(name: str, folder: Path, upstream_port: int) -> Iterator[Contender]:
    """Starts it and tries it. Raises ContenderError if it does not answer as the mock does."""
    configure, file_name, command = RECIPES[name]
    folder.mkdir(mode=0o755)
    site = Site(folder, free_port(), upstream_port)
    config = folder / file_name
    config.write_text(configure(site))
    line = command(config)
    if shutil.which(line[0]) is None:
        raise ContenderError(f"{line[0]} is not installed")
    with running(line, site.port, str(folder / "output.log")) as pid:
        contender = Contender(name, site.port, pid)
        try_out(contender, upstream_port)
        yield contender


@contextmanager
def running(command: list[str], port: int, output: str) -> Iterator[int]:
    """A process of ours that listens there. Raises ContenderError if it does not come to that."""
    with Path(output).open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
    try:
        await_port(process, port, output)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_port(process: subprocess.Popen[bytes], port: int, output: str) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    said = Path(output).read_bytes()[-400:].decode(errors="replace").strip()
    raise ContenderError(f"{' '.join(process.args)} does not listen: {said or 'no word'}")  # type: ignore[arg-type]


def try_out(contender: Contender, mock_port: int) -> None:
    """One request must be answered with 200 and the mock's own body."""
    expected = ask(mock_port)
    got = ask(contender.port)
    if got != expected:
        status, body = got
        raise ContenderError(f"answers {status}, {body[:200]!r}")


def ask(port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    headers = {"Authorization": f"Bearer {GATEWAY_KEY}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/v1/chat/completions", b'{"model":"m"}', headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ContenderError(f"port {port}: {error}") from None
    finally:
        connection.close()
