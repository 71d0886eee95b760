"""No secret is ever written anywhere: each kind of error is provoked, then everything is searched.

Every secret of these tests contains NEEDLE (or is DIGITS), and no output may: not the access log,
standard output and error, metrics, `/upstreams`, answers made by the gateway, nor what the commands
print.  What the upstream itself says passes verbatim and is not our word; so is what a client puts
into `X-User-Id`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import socket
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from aigw import cli
from aigw.admin.listener import Access, Question
from aigw.config import load, zero_config
from aigw.errors import Code
from aigw.memory import Memory
from aigw.mock.provider import MockSettings, serve
from aigw.opening import Formatter
from aigw.policy import compile_policy, load_policy
from aigw.upstreams.connector import tls_of
from aigw.wire.head import read_request
from tests.conversation import Gateway, Peer, Upstream, toml
from tests.gateway_process import PROVIDERS, GatewayProcess, config, play, request
from tests.test_gateway_processes import PASS_AT_3

NEEDLE = "S3CRET"
DIGITS = "7355608"

CONFIG = """
[listen]
address = "127.0.0.1:0"
admin = "unix:FOLDER/admin"
admin_token = "admin-S3CRET"
workers = 1
[timeouts]
head = "500ms"
drain = "300ms"
[limits]
head_bytes = "4KiB"
body_bytes = "8KiB"
headers = 30
[log]
access = "stdout"
level = "debug"
[[keys]]
name = "plain"
key = "plain-S3CRET"
[[keys]]
name = "rotating"
keys = ["${NEW_KEY}", "file:OLD_KEY"]
[[keys]]
name = "limited"
key = "limited-S3CRET"
rpm = 1
burst = 1
[[keys]]
name = "single"
key = "single-S3CRET"
max_parallel_requests = 1
[[keys]]
name = "expired"
key = "expired-S3CRET"
expires = 2020-01-01
[[keys]]
name = "revoked"
key = "revoked-S3CRET"
revoked = true
[[keys]]
name = "narrow"
key = "narrow-S3CRET"
routes = ["/own"]
[[upstreams]]
name = "mock"
urls = ["http://127.0.0.1:{mock}"]
credentials = ["sk-provider-S3CRET"]
[[upstreams]]
name = "own"
urls = ["http://127.0.0.1:{mock}"]
credentials = "client"
[[upstreams]]
name = "scripted"
urls = ["http://127.0.0.1:{scripted}"]
credentials = ["sk-scripted-S3CRET"]
pool = { max_connections = 1 }
[[upstreams]]
name = "gone"
urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
credentials = ["sk-gone-S3CRET"]
[[upstreams]]
name = "refusing"
urls = ["https://127.0.0.1:1"]
credentials = ["sk-refused-S3CRET"]
[[upstreams]]
name = "checked"
urls = ["http://127.0.0.1:{scripted}"]
credentials = ["sk-checked-S3CRET"]
health = { path = "/echo", interval = "200ms", timeout = "200ms", rise = 1, fall = 1 }
[[routes]]
path = "/v1"
targets = [{ upstream = "mock" }]
[[routes]]
path = "/own"
strip_prefix = "/own"
targets = [{ upstream = "own" }]
[[routes]]
path = "/slow"
strip_prefix = "/slow"
targets = [{ upstream = "mock" }]
timeouts = { first_byte = "500ms" }
[[routes]]
path = "/scripted"
targets = [{ upstream = "scripted" }]
[[routes]]
path = "/gone"
targets = [{ upstream = "gone" }]
[[routes]]
path = "/refusing"
targets = [{ upstream = "refusing" }]
"""

PLAIN = "plain-S3CRET"
ENVIRON = {"NEW_KEY": "new-S3CRET"}


def written(mock: int, scripted: int, old_key: Path) -> str:
    text = CONFIG.replace("{mock}", str(mock)).replace("{scripted}", str(scripted))
    return text.replace("OLD_KEY", str(old_key))


# Once or more often, until it is what the gateway says; each says who sends which secret.
PROVOKED: dict[str, bytes] = {
    "missing_api_key": request("/v1/models?key=query-S3CRET", key="", Cookie="session=S3CRET"),
    "invalid_api_key": request(key="aigw-unknown-S3CRET"),
    "expired_api_key": request(key="expired-S3CRET"),
    "ambiguous_api_key": request(key=PLAIN, X_API_Key="limited-S3CRET"),
    "route_not_allowed": request(key="narrow-S3CRET"),
    "unknown_url": request("/other?api_key=query-S3CRET", key=PLAIN),
    "request_too_large": request("/v1/x", PLAIN, "x" * 10_000),
    "uri_too_long": b"GET /v1/" + b"S3CRET" * 1000 + b" HTTP/1.1\r\n",
    "headers_too_large": request("/v1/x", PLAIN, **{f"a{n}": "S3CRET" for n in range(40)}),
    "rate_limit_exceeded": request(key="limited-S3CRET"),
    "unsupported_upgrade": request(key=PLAIN, Connection="upgrade", Upgrade="websocket"),
    "upstream_auth_error": request(key=PLAIN, x_mock_status="401"),
    "upstream_timeout": request(
        "/slow/v1/chat/completions", PLAIN, {"model": "m"}, x_mock_latency_ms="3000"
    ),
    "upstream_error": request("/refusing", PLAIN),
    "no_healthy_upstream": request("/gone", PLAIN),
    "request_timeout": b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer plain-S3CRET\r\n",
}
# Ways in which a head or a body that carries secrets can be malformed.
MALFORMED = [
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer plain-S3CRET\r\n S3CRET\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer plain-S3CRET\x00\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer plain-S3CRET\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization Bearer plain-S3CRET\r\n\r\n",
    b"GET /v1/models HTTP/1.1\nHost: a\nAuthorization: Bearer plain-S3CRET\n\n",
    b"GET /v1?key=S3CRET HTTP/1.1 S3CRET\r\nHost: a\r\n\r\n",
    b"GET S3CRET HTTP/1.1\r\nHost: a\r\n\r\n",
    b"Authorization: Bearer plain-S3CRET\r\n\r\n",
    b"\x16\x03\x01\x02S3CRET\r\n\r\n",
    request(key=PLAIN, X_API_Key="a-S3CRET", x_api_key="b-S3CRET"),
    request(key=PLAIN, Content_Length="S3CRET"),
    request(key=PLAIN, Content_Length="1", Transfer_Encoding="chunked"),
    request(key=PLAIN, Transfer_Encoding="S3CRET"),
    request(key=PLAIN, Transfer_Encoding="chunked") + b"S3CRET\r\n",
    request(key=PLAIN, X_User_Id="S3CRET S3CRET"),
    request("/v1/../own/x?S3CRET", key=PLAIN),
    request("/v1/%2e%2e/own/x?S3CRET", key=PLAIN),
]

# None of them is the key "plain-S3CRET", however near it comes.
STRANGE_KEYS = [
    *("revoked-S3CRET", "wrong-S3CRET", "plain-S3CRE", "plain-S3CRETT", "Plain-S3CRET"),
    *("Bearer plain-S3CRET", '"plain-S3CRET"', "plain-S3CRET,", "plain-S3CRET plain-S3CRET"),
    *("plain-S3CR\u00c9T", "plain-S3CRET\u200b", "\xa0plain-S3CRET", "plain-S3CRET" * 300),
    *(sha256(b"plain-S3CRET").hexdigest(), f"sha256:{sha256(b'plain-S3CRET').hexdigest()}"),
]


def search(said: bytes | str, where: str) -> None:
    text = said if isinstance(said, str) else said.decode("latin-1")
    found = re.search(f"[^\n]*(?:{NEEDLE}|{DIGITS})[^\n]*", text)
    assert found is None, f"{where}: {found and found[0]}"


async def script(peer: Peer) -> None:
    """An upstream that fails in the way which the path names."""
    while True:
        head, _ = await peer.request()
        if b"/cut" in head:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            return
        if b"/nonsense" in head:
            await peer.send(b"HTTP/1.1 S3CRET nonsense\r\n\r\n")
            return
        if b"/echo" in head:  # an answer that is malformed just where it echoes the credential
            await peer.send(b"HTTP/1.1 200 OK\r\nbad header: sk-scripted-S3CRET\r\n\r\n")
            return
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await peer.rest()


class Searched:
    """Asks, and searches what the gateway itself answers."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.codes: set[str] = set()

    async def ask(self, data: bytes) -> str:
        """The code of the gateway's own answer, or what else came of it."""
        client = await self.gateway.client()
        await client.send(data)
        answer = await client.answer()
        if "x-aigw-error" not in answer:
            return "cut" if not answer.whole else str(answer.status)
        search(client.received, data[:60].decode("latin-1"))
        self.codes.add(answer.code)
        return answer.code

    async def ask_until(self, code: str, data: bytes) -> None:
        for _ in range(8):
            if await self.ask(data) == code:
                return
        raise AssertionError(f"{code} was not provoked")

    async def admin(self, data: bytes) -> bytes:
        client = await self.gateway.client(f"unix:{self.gateway.folder}/admin")
        await client.send(data)
        client.end()
        said = await client.rest()
        search(said, data[:60].decode("latin-1"))
        return said


async def provoke(searched: Searched) -> None:
    gateway = searched.gateway
    for code, data in PROVOKED.items():
        await searched.ask_until(code, data)
    for data in MALFORMED:
        assert await searched.ask(data) == "malformed_request", data
    for key in STRANGE_KEYS:
        assert await searched.ask(request(key=key)) == "invalid_api_key", key
    for key in ("new-S3CRET", "old-S3CRET"):
        assert await searched.ask(request(key=key)) == "200"
    # Two keys at once, in both directions: the gateway's is withheld, the provider's passes.
    own = request("/own/v1/models", key="sk-client-S3CRET", X_API_Key=PLAIN)
    assert await searched.ask(own) == "200"
    assert await searched.ask(own.replace(b"Host:", b"x-mock-status: 401\r\nHost:")) == "401"
    # One place, taken by an answer that does not end: the key's, then the upstream's.
    for code, key in (("concurrency_limit_exceeded", "single-S3CRET"), ("overloaded", PLAIN)):
        holder = await gateway.client()
        await holder.send(request("/scripted", key))
        await holder.until(b"\r\n\r\n")
        await searched.ask_until(code, request("/scripted", key))
        holder.reset()  # client_closed
        await until_free(searched, request("/scripted/cut", key))
    for path in ("/cut", "/nonsense", "/echo"):
        await until_free(searched, request(f"/scripted{path}?S3CRET", PLAIN))


async def until_free(searched: Searched, data: bytes) -> None:
    """The place of a client that has left is given back soon."""
    async with asyncio.timeout(20):
        while await searched.ask(data) in ("overloaded", "concurrency_limit_exceeded"):
            await asyncio.sleep(0.01)


TOKEN = "Authorization: Bearer admin-S3CRET"
BROKEN_ADMIN = [
    f"GET /metrics HTTP/1.1\r\nHost: localhost\r\n{TOKEN}x\r\n\r\n",
    f"GET /other?S3CRET HTTP/1.1\r\nHost: localhost\r\n{TOKEN}\r\n\r\n",
    f"PUT /metrics HTTP/1.1\r\nHost: localhost\r\n{TOKEN}\r\n\r\n",
    f"GET /metrics HTTP/1.1\r\nHost: S3CRET.example\r\n{TOKEN}\r\n\r\n",
    f"POST /reload HTTP/1.1\r\nHost: localhost\r\nOrigin: http://S3CRET\r\n{TOKEN}\r\n\r\n",
    f"GET /metrics HTTP/1.1\r\nHost: localhost\r\n{TOKEN}\x00\r\n\r\n",
    f"GET /metrics HTTP/1.1\r\nHost: localhost\r\n{TOKEN.replace(':', ' ')}\r\n\r\n",
    f"{TOKEN}\r\n\r\n",
    f"GET /metrics HTTP/1.1\r\n{TOKEN}\r\n\r\n",
    f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: S3CRET\r\n{TOKEN}\r\n\r\n",
]


async def ask_the_admin_listener(searched: Searched) -> None:
    for data in BROKEN_ADMIN:
        assert not (await searched.admin(data.encode())).startswith(b"HTTP/1.1 200"), data
    for path in ("/metrics", "/upstreams", "/health/ready"):
        good = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{TOKEN}\r\nConnection: close\r\n\r\n"
        said = await searched.admin(good.encode())
        assert said.startswith(b"HTTP/1.1 200")


# What stands in the file instead of a good line, with a secret in it.
BROKEN_LINES = [
    'key = "plain-S3CRET',
    "key = plain-S3CRET",
    'key = "plain-S3CRET" "',
    'key = "plain-S3CRET\\x"',
    'key = "plain-S3CRET"\nkey = "plain-S3CRET"',
    'key = ["plain-S3CRET"]',
    'keys = "plain-S3CRET"',
    'keys = ["plain-S3CRET", 5]',
    'keys = [["plain-S3CRET"]]',
    'key = { value = "plain-S3CRET" }',
    'key = "plain-S3CRET with blanks"',
    'key = "plain-S3CRÉT-S3CRET"',
    'key = "Bearer plain-S3CRET"',
    'key = "sha256:S3CRET"',
    'key = "${ABSENT}-S3CRET"',
    'key = "${S3CRET"',
    'key = "file:${NEW_KEY}"',
    'key = "${NEW_KEY}.${ABSENT}"',
    'key = "limited-S3CRET"',
    "key = 7355608",
    "key = 7355608.5",
    "key = 2020-01-01 # 7355608",
    'key = "plain-S3CRET"\nkeys = ["other-S3CRET"]',
    'kye = "plain-S3CRET"',
    'key = """plain-\nS3CRET"""',
    f'key = "{"S3CRET" * 20_000}"',
    'key = "plain-S3CRET\\u0000"',
    'key = "\\u00a0plain-S3CRET"',
]
BROKEN_ELSEWHERE = [
    ('credentials = ["sk-provider-S3CRET"]', 'credentials = "sk-provider-S3CRET"'),
    ('credentials = ["sk-provider-S3CRET"]', 'credentials = ["sk provider S3CRET"]'),
    ('credentials = ["sk-provider-S3CRET"]', 'credentials = ["sk-S3CRET", "sk-S3CRET"]'),
    ('credentials = ["sk-provider-S3CRET"]', "credentials = [7355608]"),
    ('credentials = ["sk-provider-S3CRET"]', 'credentials = { a = "sk-S3CRET" }'),
    ('credentials = ["sk-provider-S3CRET"]', 'credential = ["sk-S3CRET"]'),
    ('credentials = ["sk-provider-S3CRET"]', 'credentials = ["${A:-sk-S3CRET}", "${B}"]'),
    ('admin_token = "admin-S3CRET"', 'admin_token = ["admin-S3CRET"]'),
    ('admin_token = "admin-S3CRET"', 'admin_token = "admin S3CRET"'),
    ('admin_token = "admin-S3CRET"', "admin_token = 7355608"),
    ('admin_token = "admin-S3CRET"', 'admin_token = "sha256:S3CRET"'),
    ('admin_token = "admin-S3CRET"', 'admin_token = "file:${NEW_KEY}"'),
    ('admin_token = "admin-S3CRET"', 'admintoken = "admin-S3CRET"'),
    ("http://127.0.0.1:1", "http://user:S3CRET@127.0.0.1:1"),
    ("http://127.0.0.1:1", "http://127.0.0.1:1/?key=S3CRET"),
]


def broken_files(good: str) -> list[str]:
    files = [good.replace('key = "plain-S3CRET"', line) for line in BROKEN_LINES]
    files += [good.replace(old, new) for old, new in BROKEN_ELSEWHERE]
    assert good not in files
    return files


async def break_the_file(searched: Searched, good: str) -> None:
    """Reload and check each broken file: complaints, but no secrets."""
    gateway = searched.gateway
    post = f"POST /reload HTTP/1.1\r\nHost: localhost\r\n{TOKEN}\r\nConnection: close\r\n\r\n"
    for text in broken_files(good):
        gateway.write(text)
        said = await searched.admin(post.encode())
        assert said.startswith(b"HTTP/1.1 400"), text
    gateway.write(re.sub(r'"file:[^"]*"', '"file:/absent.key"', good))
    assert (await searched.admin(post.encode())).startswith(b"HTTP/1.1 400")
    gateway.write(good)


def test_nothing_that_the_gateway_says_holds_a_secret(tmp_path: Path) -> None:
    old_key = tmp_path / "old.key"
    old_key.write_text("old-S3CRET\n")

    async def scene() -> None:
        async with await serve(MockSettings(ledger=500)) as mock, Upstream(script) as scripted:
            text = written(mock.port, scripted.port, old_key)
            async with GatewayProcess(text, environ=ENVIRON) as gateway:
                searched = Searched(gateway)
                await provoke(searched)
                await ask_the_admin_listener(searched)
                await break_the_file(searched, text)
                check_credentials(mock.provider.requests)
                search(command_lines(gateway), "the command lines")
                running = await gateway.client()
                await running.send(request("/scripted", PLAIN))  # cut by the end of `drain`
                await running.until(b"\r\n\r\n")
                gateway.signal(signal.SIGTERM)
                assert await gateway.ends() == 0
                search(running.received, "shutting down")
                out = (gateway.folder / "out").read_text()
                search(out, "standard output")
                search(gateway.log, "standard error")
                assert "Traceback" not in gateway.log
                logged = {json.loads(line)["error"] for line in out.splitlines()}
                # Only a fault of ours could provoke the one that is missing here.
                assert {code.word for code in Code} - logged == {"internal_error"}

    play(scene())


def command_lines(gateway: GatewayProcess) -> bytes:
    """What anybody on the machine sees of the processes."""
    pids = [gateway.process.pid, gateway.controller(), *gateway.workers()]
    lines = [Path(f"/proc/{pid}/cmdline") for pid in pids]
    return b"".join(line.read_bytes() for line in lines if line.exists())


def check_credentials(requests: Iterable[object]) -> None:
    """The same needle, seen from the other side: no gateway key has reached a provider."""
    seen = json.dumps(list(requests))
    for name in (
        "plain",
        "new",
        "old",
        "limited",
        "single",
        "expired",
        "revoked",
        "narrow",
        "aigw",
    ):
        assert f"{name}-S3CRET" not in seen
    assert "sk-provider-S3CRET" in seen
    assert "sk-client-S3CRET" in seen


# ---------------------------------------------------------------- what the commands print


def test_no_command_prints_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.key").write_text("old-S3CRET\n")
    good = written(1, 2, tmp_path / "old.key").replace("FOLDER", str(tmp_path))
    file = tmp_path / "gateway.toml"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEW_KEY", "new-S3CRET")

    def said(word: str, text: str, status: int) -> None:
        file.write_text(text)
        assert cli.main([word]) == status, text
        told = capsys.readouterr()
        search(told.out + told.err, f"aigw {word}")
        assert told.out + told.err

    said("check", good, 0)
    for text in broken_files(good):
        said("check", text, 1)
    said("run", broken_files(good)[0], 1)
    said("reload", good, 1)
    said("stop", broken_files(good)[-1], 1)


VARIABLES = [
    {"OPENAI_API_KEY": "sk S3CRET"},
    {"OPENAI_API_KEY": "sk-S3CRET\n"},
    {"ANTHROPIC_API_KEY": "sk-S3CRÉT-S3CRET"},
    {"OPENAI_API_KEY": "sk-S3CRET", "AIGW_KEY": "a S3CRET"},
    {"OPENAI_API_KEY": "sk-S3CRET", "OPENAI_BASE_URL": "http://user:S3CRET@host/v1"},
    {"OPENAI_API_KEY": "sk-S3CRET", "OPENAI_BASE_URL": "S3CRET"},
]


@pytest.mark.parametrize("environ", VARIABLES)
def test_no_variable_is_printed(
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in PROVIDERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["run"]) == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    search(told.out + told.err, "aigw run")


# ---------------------------------------------------------------- what an error of ours would show


def test_no_representation_shows_a_secret(tmp_path: Path) -> None:
    """Of what is printed when an object stands in a message, a log line or a traceback."""
    (tmp_path / "old.key").write_text("old-S3CRET\n")
    file = tmp_path / "gateway.toml"
    file.write_text(written(1, 2, tmp_path / "old.key").replace("FOLDER", str(tmp_path)))
    settings = load(file, ENVIRON)
    blob = compile_policy(settings, Memory.create(1), 0.0)
    policy = load_policy(blob)
    tls = tls_of(msgspec.structs.replace(policy.upstreams[0], key_pem="S3CRET", ca_pem="x"))
    token = settings.listen.admin_token
    zero = zero_config({"OPENAI_API_KEY": "sk-S3CRET", "AIGW_KEY": "S3CRET"})
    made_up = zero_config({"OPENAI_API_KEY": "sk-S3CRET"})
    assert made_up.generated_key is not None
    question = Question("GET", "/metrics", [(b"authorization", b"Bearer S3CRET")])
    head = read_request(request(key=PLAIN))
    for thing in (settings, policy, tls, zero, token, question, head, *policy.upstreams):
        for said in (repr(thing), str(thing), f"{thing}", "%s %r" % (thing, thing)):  # noqa: UP031
            search(said, type(thing).__name__)
    assert made_up.generated_key.reveal() not in repr(made_up)
    access = Access("localhost", policy.admin_token_digest)
    for digest in (*policy.keys, policy.admin_token_digest):
        assert repr(digest) not in repr(policy) + repr(access)
    # Of the gateway's own keys nothing but digests is given to the workers.
    own = ("plain", "new", "old", "limited", "single", "expired", "revoked", "narrow", "admin")
    assert [name for name in own if f"{name}-S3CRET".encode() in blob] == []
    assert b"sk-provider-S3CRET" in blob


def test_an_internal_error_is_logged_without_what_it_says(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    places = [
        ("aigw.proxy.exchange.Exchange._head_for", "aigw.proxy.known.KnownRequest.head_for"),
        ("aigw.proxy.exchange.Exchange._begin_answer",),
    ]

    def broken(*arguments: object) -> None:
        raise RuntimeError(f"user1-S3CRET {arguments}")

    async def scene() -> None:
        text = toml("http://127.0.0.1:1").replace('key = "user1"', f'key = "{PLAIN}"')
        async with Upstream(script) as upstream:
            text = text.replace("127.0.0.1:1", f"127.0.0.1:{upstream.port}")
            async with Gateway(text) as gateway:
                for both in places:
                    with monkeypatch.context() as patch:
                        for place in both:
                            patch.setattr(place, broken)
                        client = await gateway.client()
                        await client.send(request("/v1/models?S3CRET", PLAIN))
                        assert (await client.answer()).code == "internal_error"
                        search(client.received, both[0])
                search(json.dumps(gateway.records), "the access log")

    play(scene())
    assert caplog.text.count("internal error: RuntimeError (") == len(places)
    search(caplog.text, "the log")


def test_a_traceback_of_the_event_loop_is_logged_without_what_it_says() -> None:
    try:
        raise RuntimeError("S3CRET")
    except RuntimeError:
        record = logging.LogRecord("asyncio", 40, "", 0, "Task failed", (), sys.exc_info())
    told = Formatter("%(message)s").format(record)
    assert told.startswith("Task failed\nRuntimeError (")
    search(told, "the log")


def test_a_command_that_breaks_says_where_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("S3CRET")

    monkeypatch.setattr("aigw.config.load", broken)
    assert cli.main(["check", "-c", "gateway.toml"]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("aigw: internal error: ValueError (")
    assert told.err.count("\n") == 1
    search(told.out + told.err, "aigw check")


# ---------------------------------------------------------------- where the admin listener may be


def test_an_admin_socket_of_systemd_needs_a_token_too() -> None:
    async def scene() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as data,
            socket.create_server(("0.0.0.0", 0)) as admin,
        ):
            fds = (data.fileno(), admin.fileno())
            launcher = (sys.executable, "-c", PASS_AT_3, *map(str, fds))
            text = config(1, workers=1)
            async with GatewayProcess(text, launcher=launcher, pass_fds=fds, wait=False) as gateway:
                assert await gateway.ends() == 1
                assert "the admin listener on 0.0.0.0 is reachable from outside" in gateway.log
            text = text.replace("[listen]", '[listen]\nadmin_token = "t"')
            async with GatewayProcess(text, launcher=launcher, pass_fds=fds) as gateway:
                where = f"127.0.0.1:{admin.getsockname()[1]}"
                post = (
                    request("/reload", "t")
                    .replace(b"GET", b"POST")
                    .replace(b"gateway", b"localhost")
                )
                assert (await gateway.ask(post, where)).status == 200
                gateway.write(text.replace('admin_token = "t"', ""))
                refused = await gateway.ask(post, where)
                assert (refused.status, b"reachable from outside" in refused.body) == (400, True)

    play(scene())
