"""Reload and log rotation of the real processes, under traffic: nothing is dropped or forgotten.

Three ways lead to a reload (SIGHUP, `aigw reload`, POST /reload); all end in the controller.
Several in a row, those of ten thousand keys, and those during which a worker hangs are in
`faults/`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from aigw.mock.provider import MockSettings, serve
from tests.gateway_process import (
    KEY,
    PATIENCE_S,
    GatewayProcess,
    Load,
    config,
    play,
    request,
    stream,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="one worker elsewhere")
# How much longer a machine may take that is busy with other things.
BUSY = 10
NOBODY = 1  # an upstream's port that nobody asks in these tests
USER2 = '[[keys]]\nname = "user2"\nkey = "user2"\n'


# ---------------------------------------------------------------- the three ways


async def by_signal(gateway: GatewayProcess) -> None:
    done = gateway.log.count("in force")
    gateway.signal(signal.SIGHUP)
    await gateway.expect("in force", done + 1)


async def by_command(gateway: GatewayProcess) -> None:
    done = await gateway.command("reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"version": 2' in done.stdout


async def by_post(gateway: GatewayProcess) -> None:
    assert await gateway.reload() == {"version": 2, "acknowledged": [0, 1], "late": []}


@pytest.mark.parametrize("reload", [by_signal, by_command, by_post])
def test_a_reload_under_load(reload: Callable[[GatewayProcess], Awaitable[None]]) -> None:
    """Keys, routes, limits and upstreams change; connections, streams and counters stay."""

    async def scene() -> None:
        async with (
            await serve(MockSettings()) as first,
            await serve(MockSettings()) as second,
            GatewayProcess(config(first.port)) as gateway,
        ):
            kept = await gateway.one_for_each_worker(2)
            streams = [await gateway.client() for _ in range(4)]
            for client in streams:
                await client.send(stream(70, 15))
            load = Load(gateway)
            await load.run(20, least=200)
            before = await gateway.metric("requests_total")
            assert second.provider.answered == 0
            assert (await gateway.ask(request(key="user2"))).code == "invalid_api_key"
            assert (await gateway.ask(request("/v2/models"))).code == "unknown_url"

            limited = KEY + USER2 + "rps = 1\nburst = 2\n"
            more = '[[routes]]\npath = "/v2"\ntargets = [{ upstream = "mock" }]'
            gateway.write(config(second.port, keys=limited, route=more))
            await reload(gateway)
            old = first.provider.answered
            await load.more(200)
            assert first.provider.answered == old, "the old upstream is asked no more"
            statuses = [(await gateway.ask(request(key="user2"))).status for _ in range(4)]
            assert statuses == [200, 200, 429, 429]
            assert (await gateway.ask(request("/v2/models"))).status == 404  # the mock's own
            for client in kept:
                await client.send(request())
                assert (await client.answer()).status == 200

            await load.end()
            assert load.lost == []
            assert set(load.statuses) == {200}
            for client in streams:
                answer = await client.answer()
                assert answer.whole
                assert answer.body.endswith(b"data: [DONE]\n\n")
            total = await gateway.metric("requests_total")
            assert total == 2 + load.answered + 4 + 2 + 4 + 1 + 2 + extra_health(gateway)
            assert total > before
            assert await gateway.metric("reloads_total", result="ok") == 1
            assert await gateway.metric("policy_version") == 2
            assert await gateway.metric("worker_restarts_total") == 0

    play(scene())


def extra_health(gateway: GatewayProcess) -> int:
    """Looking for one connection to each worker may have taken more questions than workers."""
    return sum(record["path"] == "/health" for record in gateway.access()) - 2


# ---------------------------------------------------------------- certificates


def test_the_private_ca_of_an_upstream_is_swapped_under_load() -> None:
    old, new = trustme.CA(), trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.issue_cert("localhost", "127.0.0.1").configure_cert(tls)

    def pem(*authorities: trustme.CA) -> bytes:
        return b"".join(authority.cert_pem.bytes() for authority in authorities)

    async def scene() -> None:
        async with await serve(MockSettings(), tls=tls) as mock:
            upstream = 'credentials = []\nca = "FOLDER/ca.pem"\npool = { max_age = "1s" }\n'
            url = f"https://localhost:{mock.port}"
            text = config(mock.port, url=url, upstream=upstream)
            async with GatewayProcess(text.replace("FOLDER/ca.pem", "")) as gateway:
                answer = await gateway.ask()
                assert (answer.status, answer.code) == (502, "upstream_error")
                ca = gateway.folder / "ca.pem"
                ca.write_bytes(pem(old))
                await gateway.reload(text)
                load = Load(gateway)
                await load.run(10, least=50)
                ca.write_bytes(pem(old, new))
                await gateway.reload()
                new.issue_cert("localhost", "127.0.0.1").configure_cert(tls)
                await load.more(50)
                ca.write_bytes(pem(new))
                assert (await gateway.reload())["late"] == []
                await load.more(50)
                await load.end()
                assert load.lost == []
                assert set(load.statuses) == {200}
                ca.write_bytes(pem(old))  # a context of the file's former content is not used
                await gateway.reload()
                assert (await gateway.ask()).code == "upstream_error"

                ca.write_bytes(b"no certificate")
                done = await gateway.command("reload")
                assert done.returncode == 1
                assert re.search(r"gateway\.toml:\d+: upstreams\[0\]\.ca: ", done.stderr)
                assert done.stderr.count("\n") == 1

    play(scene())


# ---------------------------------------------------------------- a bad new file


BAD_FILES: list[tuple[str, str, str]] = [
    ("rps = 10", "rsp = 10", r'keys\[0\]\.rsp: unknown option, did you mean "rps"\?'),
    ("rps = 10", 'rps = "ten"', r"keys\[0\]\.rps: "),
    ('"mock" }', '"mokc" }', r"routes\[0\]\.targets\[0\]\.upstream: .*mokc"),
    ('key = "user1"', 'key = "${ABSENT}"', r"keys\[0\]\.key: .*ABSENT"),
    ("rps = 10", "rps = ", r"is not valid TOML: "),
]


def test_a_bad_new_file_changes_nothing_and_says_why() -> None:
    good = config(NOBODY, keys=KEY + "rps = 10\n")

    async def scene() -> None:
        async with await serve(MockSettings()) as mock:
            text = good.replace(f":{NOBODY}", f":{mock.port}")
            async with GatewayProcess(text) as gateway:
                for old, new, complaint in BAD_FILES:
                    bad = text.replace(old, new)
                    assert bad != text
                    gateway.write(bad)
                    done = await gateway.command("reload")
                    line = text[: text.index(old)].count("\n") + 1
                    place = re.escape(f"{gateway.file}:{line}: ")
                    assert (done.returncode, done.stdout) == (1, "")
                    assert re.fullmatch(f"aigw: {place}{complaint}.*\n", done.stderr), done.stderr
                    assert (await gateway.ask()).status == 200
                assert await gateway.metric("policy_version") == 1
                assert await gateway.metric("reloads_total", result="failed") == len(BAD_FILES) - 1
                # The last one has no TOML to find the admin listener in, so nobody was asked.
                gateway.file.unlink()
                done = await gateway.command("reload")
                assert done.returncode == 1
                assert "can't be read: No such file or directory" in done.stderr
                answer = await gateway.admin("/reload", "POST")
                assert answer.status == 400
                assert b"No such file" in answer.body

                # Logs are reopened all the same, and the next good file is taken.
                access = gateway.folder / "access.log"
                access.rename(gateway.folder / "old.log")
                failed = gateway.log.count("nothing reloaded")
                gateway.signal(signal.SIGHUP)
                await gateway.expect("nothing reloaded", failed + 1)
                await there(access)
                assert (await gateway.reload(text))["version"] == 2
                assert "Traceback" not in gateway.log

    play(scene())


async def there(file: Path, least_bytes: int = 0) -> None:
    """Wait for a file, with something in it if that is asked for."""
    async with asyncio.timeout(PATIENCE_S):
        while size(file) < least_bytes:
            await asyncio.sleep(0.01)


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1


FIXED = [
    ('"127.0.0.1:0"', '"127.0.0.1:1"', "listen.address"),
    ("FOLDER/admin", "FOLDER/other", "listen.admin"),
    ("workers = 1", "workers = 2", "listen.workers"),
    ("FOLDER/access.log", "FOLDER/other.log", "log.access"),
]


def test_what_needs_a_restart_is_refused_by_name() -> None:
    text = config(NOBODY, 1)

    async def scene() -> None:
        async with GatewayProcess(text) as gateway:
            for old, new, option in FIXED:
                gateway.write(text.replace(old, new, 1))
                answer = await gateway.admin("/reload", "POST")
                assert answer.status == 400, option
                assert f"{option}: was ".encode() in answer.body
                assert b"this needs a restart" in answer.body
            assert not (gateway.folder / "other.log").exists()
            # A restarted controller still knows.
            os.kill(gateway.controller(), signal.SIGKILL)
            await gateway.expect("controller started", 2)
            assert (await gateway.admin("/reload", "POST")).status == 400

    play(scene())


# ---------------------------------------------------------------- limits


def test_a_rate_lowered_and_raised_while_requests_flow() -> None:
    def keys(rps: float, burst: int) -> str:
        return KEY + f"rps = {rps}\nburst = {burst}\n"

    async def scene() -> None:
        async with await serve(MockSettings()) as mock:
            fast, slow = (
                config(mock.port, keys=keys(*rate)) for rate in ((50_000, 50_000), (4, 3))
            )
            async with GatewayProcess(fast) as gateway:
                load = Load(gateway)
                await load.run(10, least=200)
                assert set(load.statuses) == {200}
                for _ in range(2):
                    await gateway.reload(slow)
                    begun_s, admitted = time.monotonic(), load.statuses[200]
                    await load.more(300)
                    window_s = time.monotonic() - begun_s
                    # What had passed before the reload was answered may be counted after it.
                    most = 3 + 4 * window_s + 1 + 10
                    assert load.statuses[200] - admitted <= most
                    assert load.statuses[429] >= 200
                    await gateway.reload(fast)
                    admitted = load.statuses[200]
                    await load.more(200)
                    assert load.statuses[200] - admitted >= 150, "no lock-out after raising"
                await load.end()
                assert load.lost == []
                assert set(load.statuses) == {200, 429}
                limited = await gateway.metric("rate_limited_total", code="rate_limit_exceeded")
                assert limited == load.statuses[429]

    play(scene())


def test_a_reload_does_not_refill_a_bucket() -> None:
    text = config(NOBODY, keys=KEY + "rpm = 1\nburst = 3\n")

    async def scene() -> None:
        async with await serve(MockSettings()) as mock:
            served = text.replace(f":{NOBODY}", f":{mock.port}")
            async with GatewayProcess(served) as gateway:
                statuses = [(await gateway.ask()).status for _ in range(4)]
                assert statuses == [200, 200, 200, 429]
                await gateway.reload()
                assert (await gateway.ask()).status == 429
                await gateway.reload(served.replace("burst = 3", "burst = 9"))
                assert (await gateway.ask()).status == 429
                os.kill(gateway.workers()[0], signal.SIGKILL)
                await gateway.expect("worker 0 started", 2)
                os.kill(gateway.controller(), signal.SIGKILL)
                await gateway.expect("controller started", 2)
                await gateway.reload()
                for client in await gateway.one_for_each_worker(2):
                    await client.send(request())
                    assert (await client.answer()).code == "rate_limit_exceeded"

    play(scene())


def test_places_lowered_and_raised_while_streams_run() -> None:
    def keys(most: int) -> str:
        return KEY + f"max_parallel_requests = {most}\n"

    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port, keys=keys(4))) as gateway,
        ):
            streams = [await gateway.client() for _ in range(4)]
            for client in streams:  # which last until they are given up
                await client.send(stream(5000, 20))
                await client.until(b"data: ")
            assert (await gateway.ask()).code == "concurrency_limit_exceeded"
            await gateway.reload(config(mock.port, keys=keys(2)))
            assert (await gateway.ask()).code == "concurrency_limit_exceeded"
            await gateway.reload(config(mock.port, keys=keys(5)))
            assert (await gateway.ask()).status == 200
            await gateway.reload(config(mock.port, keys=KEY))
            assert (await gateway.ask()).status == 200
            await gateway.reload(config(mock.port, keys=keys(2)))
            for client in streams:
                client.reset()
            await until_served(gateway)

    play(scene())


async def until_served(gateway: GatewayProcess) -> None:
    """The places of streams are given back when they end, under whichever policy they began."""
    async with asyncio.timeout(PATIENCE_S):
        while (await gateway.ask()).status != 200:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("change", ["expires = 2020-01-01", ""])
def test_a_key_that_is_withdrawn_is_refused_within_a_second(change: str) -> None:
    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port, keys=KEY + USER2)) as gateway,
        ):
            idle = await gateway.one_for_each_worker(2)
            load = Load(gateway)
            await load.run(10, least=50)
            withdrawn = KEY + change if change else ""
            gateway.write(config(mock.port, keys=USER2 + withdrawn))
            gateway.signal(signal.SIGHUP)
            begun_s = time.monotonic()
            while not load.statuses[401]:
                await asyncio.sleep(0.001)
                assert time.monotonic() - begun_s < 1 * BUSY
            await gateway.expect("in force")
            admitted = load.statuses[200]
            await load.more(50)
            assert load.statuses[200] <= admitted + 10
            for client in idle:
                await client.send(request())
                code = "expired_api_key" if "expires" in change else "invalid_api_key"
                assert (await client.answer()).code == code
            assert (await gateway.ask(request(key="user2"))).status == 200
            await load.end()
            assert load.lost == []

    play(scene())


# ---------------------------------------------------------------- log rotation


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGHUP])
def test_rotated_logs_lose_and_tear_no_line(signum: signal.Signals) -> None:
    async def scene() -> None:
        async with (
            await serve(MockSettings()) as mock,
            GatewayProcess(config(mock.port)) as gateway,
        ):
            load = Load(gateway)
            await load.run(20, least=100)
            access = gateway.folder / "access.log"
            names = [f"access.{number}" for number in range(4)]
            # A line that waits for the next flush goes to the new file.
            await there(access, least_bytes=1)
            for name in names:
                access.rename(gateway.folder / name)
                gateway.signal(signum)
                await there(access, least_bytes=1)
                await load.more(100)
            await load.end()
            gateway.signal(signal.SIGTERM)
            assert await gateway.ends() == 0
            files = [gateway.access(name) for name in [*names, "access.log"]]
            identities = [record["request_id"] for file in files for record in file]
            assert len(identities) == len(set(identities)) == load.answered
            assert load.lost == []
            reloads = gateway.log.count("in force")
            assert reloads == 0 if signum == signal.SIGUSR1 else reloads >= 1

    play(scene())
