"""The commands as an operator types them: what is printed where, and the exit status."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import uvloop

from aigw import cli
from aigw.admin.listener import Access, AdminListener, Reloaded

FILE = """
[listen]
admin = "{admin}"
admin_token = "{token}"
[[keys]]
name = "user1"
key = "${{A_KEY_THAT_ONLY_THE_SERVER_KNOWS}}"
[[upstreams]]
name = "openai"
urls = ["https://api.openai.com"]
credentials = ["sk-very-secret"]
[[routes]]
path = "/v1"
targets = [{{ upstream = "openai" }}]
"""
PROVIDERS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "AIGW_KEY")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder without gateway.toml, an environment without providers."""
    monkeypatch.chdir(tmp_path)
    for name in PROVIDERS:
        monkeypatch.delenv(name, raising=False)


class Desk:
    """A control that notes what it was asked to do."""

    def __init__(self, token: str = "") -> None:
        self.token_digest = hashlib.sha256(token.encode()).digest() if token else b""
        self.done = Reloaded(version=2, acknowledged=(0,))
        self.calls: list[str] = []

    def access(self) -> Access:
        return Access("", self.token_digest)

    def metrics(self) -> bytes:
        return b""

    def unready(self) -> str | None:
        return None

    def upstreams(self) -> object:
        return {}

    async def reload(self) -> Reloaded:
        self.calls.append("reload")
        return self.done

    def stop(self) -> None:
        self.calls.append("stop")


def status_beside(desk: Desk, sock: socket.socket, *arguments: str) -> int:
    """The exit status of a command that runs while an admin listener answers."""

    async def main() -> int:
        admin = AdminListener(desk)
        await admin.start(sock)
        try:
            return await asyncio.to_thread(cli.main, arguments)
        finally:
            await admin.close()
            sock.close()

    return uvloop.run(main())


def write(admin: object, token: str = "") -> None:
    Path("gateway.toml").write_text(FILE.format(admin=admin, token=token))


def listening() -> tuple[socket.socket, str]:
    sock = socket.create_server(("127.0.0.1", 0))
    return sock, f"127.0.0.1:{sock.getsockname()[1]}"


# --- reload, stop ------------------------------------------------------------------------------


def test_reload_prints_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    sock, place = listening()
    write(place)
    desk = Desk()
    assert status_beside(desk, sock, "reload") == 0
    assert '"version": 2' in capsys.readouterr().out
    assert desk.calls == ["reload"]


def test_the_token_of_the_file_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    sock, place = listening()
    write(place, token="s3cret-token")
    desk = Desk("s3cret-token")
    assert status_beside(desk, sock, "stop") == 0
    assert desk.calls == ["stop"]
    told = capsys.readouterr()
    assert "s3cret-token" not in told.out + told.err


def test_a_wrong_token_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    sock, place = listening()
    write(place, token="s3cret-token")
    desk = Desk("another")
    assert status_beside(desk, sock, "stop") == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "admin token" in told.err
    assert desk.calls == []


def test_the_problems_of_a_refused_reload_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    sock, place = listening()
    write(place)
    desk = Desk()
    desk.done = Reloaded(1, ("gateway.toml:3: one", "gateway.toml:9: two"))
    assert status_beside(desk, sock, "reload") == 1
    assert capsys.readouterr().err == "aigw: gateway.toml:3: one\naigw: gateway.toml:9: two\n"


def test_a_unix_socket_is_asked_too(tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("admin.sock")
    write(f"unix:{tmp_path}/admin.sock")
    desk = Desk()
    assert status_beside(desk, sock, "reload") == 0
    assert desk.calls == ["reload"]


def test_an_address_of_every_interface_is_asked_on_this_machine() -> None:
    sock, place = listening()
    write(place.replace("127.0.0.1", "0.0.0.0"), token="t")
    desk = Desk("t")
    assert status_beside(desk, sock, "reload") == 0


@pytest.mark.parametrize("command", ["reload", "stop"])
def test_nobody_there_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    sock, place = listening()
    sock.close()
    write(place)
    assert cli.main([command]) == 1
    told = capsys.readouterr().err
    assert told == f"aigw: no aigw answers at {place} (listen.admin): Connection refused\n"


def test_who_answers_something_else_is_no_aigw(capsys: pytest.CaptureFixture[str]) -> None:
    sock, place = listening()
    write(place)

    async def main() -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"SSH-2.0-OpenSSH\r\n")
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, sock=sock)
        try:
            return await asyncio.to_thread(cli.main, ["reload"])
        finally:
            server.close()
            await server.wait_closed()

    assert uvloop.run(main()) == 1
    assert capsys.readouterr().err.startswith(f"aigw: no aigw answers at {place}")


def test_without_admin_listener_there_is_nobody_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    write("")
    assert cli.main(["stop"]) == 1
    assert "listen.admin" in capsys.readouterr().err


# --- check -------------------------------------------------------------------------------------


def test_check_prints_the_routes_and_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("127.0.0.1:8081", token="s3cret-token")
    monkeypatch.setenv("A_KEY_THAT_ONLY_THE_SERVER_KNOWS", "aigw-key-of-user1")
    assert cli.main(["check"]) == 0
    told = capsys.readouterr()
    assert "/v1 → openai" in told.out
    assert told.err == ""
    for secret in ("s3cret-token", "aigw-key-of-user1", "sk-very-secret"):
        assert secret not in told.out


def test_check_names_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.toml").write_text("[listen]\nadress = 1\n")
    assert cli.main(["check", "-c", "other.toml"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "aigw: other.toml:2: listen.adress:" in told.err
    assert '"address"' in told.err


def test_check_without_a_file_shows_what_the_variables_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")
    assert cli.main(["check"]) == 0
    told = capsys.readouterr()
    assert "/v1/messages → anthropic" in told.out
    assert "sk-ant-secret" not in told.out
    assert told.err == ""


@pytest.mark.parametrize("command", ["check", "run"])
def test_nothing_to_start_with_is_one_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "OPENAI_API_KEY" in told
    assert "aigw demo" in told


# --- keys new, --version, arguments ------------------------------------------------------------


def test_a_new_key_is_printed_once_with_what_to_configure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["keys", "new", 'team "a" ☃']) == 0
    out = capsys.readouterr().out
    key, _, rest = out.partition("\n")
    assert re.fullmatch(r"aigw-[A-Za-z0-9_-]{43}", key)
    assert key not in rest
    (configured,) = tomllib.loads(rest[rest.index("[[keys]]") :])["keys"]
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert configured == {"name": 'team "a" ☃', "key": f"sha256:{digest}"}
    assert cli.main(["keys", "new", "b"]) == 0
    assert not capsys.readouterr().out.startswith(key)


@pytest.mark.parametrize("name", ["", "a\nb", " a", "other"])
def test_a_name_that_the_file_would_refuse_is_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["keys", "new", name]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("aigw: NAME must ")


@pytest.mark.parametrize(
    "arguments",
    [[], ["serve"], ["keys"], ["keys", "new"], ["run", "--workers", "many"], ["check", "--now"]],
)
def test_wrong_arguments_end_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: aigw" in capsys.readouterr().err


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aigw", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"aigw \d+\.\d+\.\d+\S*\n", done.stdout)


def test_small_commands_do_not_load_the_house() -> None:
    code = (
        "import sys; from aigw.cli import main; main(['keys', 'new', 'a']);"
        "heavy = {'uvloop', 'h11', 'prometheus_client', 'asyncio', 'ssl'} & set(sys.modules);"
        "sys.exit(repr(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_left_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "aigw", "keys", "new", "a"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_help_keeps_the_case_of_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    assert "Serve until SIGTERM" in capsys.readouterr().out
