"""The README keeps its word: its commands run and print what it shows, its tables are complete.

A fenced block says after its language in which session it belongs, as in "```console team": a
gateway that runs with a configuration which the README gives. In a session's blocks only addresses
are replaced (the provider's URL by the mock's, the ports by free ones), and put back in what was
printed. Ids, times and durations may differ; "…" in a shown output stands for anything.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from aigw.config import Secret, load
from aigw.errors import Code
from aigw.observe.access_line import Subject, lines_of, subject_text
from aigw.observe.metrics import METRICS, PREFIX
from tests.running import ROOT, RunningGateway, running_gateway, running_mock
from tests.test_wire_requests import CASES as REQUEST_CASES
from tests.wire.answers_tables import CASES as ANSWER_CASES

README = (ROOT / "README.md").read_text()
DEFAULT = (ROOT / "gateway.toml").read_text()
FENCE = re.compile(r"^```(\w+)(?: ([\w-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPENAI, ANTHROPIC = "https://api.openai.com", "https://api.anthropic.com"
VLLM = ("10.0.0.5:8000", "10.0.0.6:8000")
UNIX_SOCKET = "/run/aigw/aigw.sock"
ENVIRON = {
    "OPENAI_API_KEY": "sk-openai",
    "ANTHROPIC_API_KEY": "sk-ant",
    "SHOP_KEY": "aigw-of-the-shop",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}
# What differs from run to run.
VARYING = (
    (r"req_\w+", "req_"),
    (r"aigw-[\w-]{43}", "aigw-KEY"),
    (r"sha256:[0-9a-f]{64}", "sha256:DIGEST"),
    (r"\d{4}-\d\d-\d\d[T ][\d:.,]+Z?", "TIME"),
    (r"(INFO) \[\d+\]", r"\1 [PID]"),
    (r"(?im)^(date|retry-after-ms): .*", r"\1:"),
    (r"(?m)^(x-ratelimit-reset-requests): \d+(ms|s|m\d+s)$", r"\1:"),
    (r"again in [\d.]+ s", "again"),
    (r'"(ttfb_ms|duration_ms|overhead_us)":[\d.]+', r'"\1":N'),
    (r'"idle": \d+', '"idle": N'),
)

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Block(NamedTuple):
    language: str
    session: str
    text: str


BLOCKS = [Block(*match.groups("")) for match in FENCE.finditer(README)]


def blocks(session: str, *languages: str) -> list[Block]:
    found = [b for b in BLOCKS if b.session == session and b.language in languages]
    assert found, f"the README has no block for {session!r}"
    return found


def block(session: str, language: str) -> str:
    (found,) = blocks(session, language)
    return found.text


def plain(text: str) -> str:
    """Without what differs from run to run."""
    text = "\n".join(line.rstrip() for line in text.strip().splitlines())
    for pattern, instead in VARYING:
        text = re.sub(pattern, instead, text)
    return text


def looks_like(printed: str, shown: str) -> bool:
    parts = [re.escape(part) for part in plain(shown).split("…")]
    return re.fullmatch(".*".join(parts), plain(printed), re.DOTALL) is not None


class Session:
    """A gateway of the README, and what stands in it for what in the test."""

    def __init__(self, gateway: RunningGateway, places: Mapping[str, str]):
        self.gateway = gateway
        self.places = {
            "127.0.0.1:8080": f"127.0.0.1:{gateway.port}",
            "127.0.0.1:8081": f"127.0.0.1:{gateway.admin_port}",
            **places,
        }

    def here(self, text: str) -> str:
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text

    def there(self, text: str) -> str:
        """As the README would show it: URLs, and `host:port` where members are named."""
        for there, here in self.places.items():
            text = text.replace(here, there)
            host = there.removeprefix("https://")
            if host != there:
                text = text.replace(here.removeprefix("http://"), f"{host}:443")
        return text

    def run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.gateway.folder,
            env=os.environ | ENVIRON,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
        )
        return self.there(done.stdout)

    def plays(self, block: Block) -> None:
        match block.language:
            case "console":
                self._plays_console(block.text)
            case "sh":
                assert '"choices":[' in self.run(["sh", "-c", self.here(block.text)])
            case "python":
                printed = self.run([sys.executable, "-W", "error", "-c", self.here(block.text)])
                assert "Hello! This answer was made on your own machine" in printed
                assert "Traceback" not in printed

    def _plays_console(self, text: str) -> None:
        commands, shown = commands_of(text)
        printed = ""
        # A bucket may have been filled between the request that emptied it and the one shown.
        for _ in range(3 if " 429 " in shown else 1):
            printed = self.run(["sh", "-c", self.here(commands)])
            if looks_like(printed, shown):
                return
        assert plain(printed) == plain(shown)


def commands_of(text: str) -> tuple[str, str]:
    """The commands of a console block, and what is shown of their output."""
    lines = text.splitlines(keepends=True)
    commands = "".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    return commands, "".join(line for line in lines if not line.startswith("$ "))


@contextmanager
def session(config: str, *, vllm: bool = False, **places: str) -> Iterator[Session]:
    """`config` on free ports, with a mock for OpenAI and Anthropic, and one for half of vLLM."""
    with ExitStack() as stack:
        mock = stack.enter_context(running_mock())
        places = {
            OPENAI: f"http://127.0.0.1:{mock.port}",
            ANTHROPIC: f"http://localhost:{mock.port}",
            **places,
        }
        if vllm:
            alive = stack.enter_context(running_mock())
            refusing = stack.enter_context(socket.socket())
            refusing.bind(("127.0.0.1", 0))  # and never listens
            places[VLLM[0]] = f"127.0.0.1:{alive.port}"
            places[VLLM[1]] = f"127.0.0.1:{refusing.getsockname()[1]}"
        if "[listen]" not in config:
            config = f"[listen]\naddress = '127.0.0.1:8080'\nadmin = '127.0.0.1:8081'\n\n{config}"
        for there, here in places.items():
            config = config.replace(there, here)
        config = config.replace("127.0.0.1:8080", "127.0.0.1:{port}")
        config = config.replace("127.0.0.1:8081", "127.0.0.1:{admin_port}")
        gateway = stack.enter_context(running_gateway(config))
        yield Session(gateway, places)


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)


# --- what it shows ------------------------------------------------------------------------------


@needs_curl
def test_the_default_configuration() -> None:
    """With two workers, as the README shows it, whatever this machine has."""
    two = '\nworkers = "auto"\n'
    assert two in DEFAULT
    with session(DEFAULT.replace(two, "\nworkers = 2\n")) as running:
        assert looks_like(
            running.there(running.gateway.stderr),
            commands_of(block("default-run", "console"))[1],
        )
        for each in blocks("default", "sh", "console", "python"):
            running.plays(each)
        (last,) = blocks("default-last", "console")
        running.plays(last)
        assert running.gateway.wait() == 0
        logged = plain(running.there(running.gateway.stdout)).splitlines()
    shown = plain(block("access", "json")).splitlines()
    assert set(shown) <= set(logged)
    (line,) = lines_of(b"", (0, 0, 0, False), [(b"", subject_text(Subject()), 0, 0)])
    fields = list(msgspec.json.decode(line))
    for shown_line in shown:
        assert list(msgspec.json.decode(shown_line.replace(":N", ":0"))) == fields


@needs_curl
def test_the_configuration_for_a_team() -> None:
    with session(block("team", "toml"), vllm=True) as running:
        for each in blocks("team", "console", "python"):
            running.plays(each)


@needs_curl
@pytest.mark.parametrize("name", ["edge", "proxy"])
def test_sockets_and_proxies(name: str, tmp_path: Path) -> None:
    config = block("edge", "toml")
    if name == "proxy":
        config = config.replace("\ntrusted_proxies", "\nproxy_protocol = true\ntrusted_proxies")
        assert "proxy_protocol" in config
    with session(config, **{UNIX_SOCKET: str(tmp_path / "aigw.sock")}) as running:
        for each in blocks(name, "console"):
            running.plays(each)


def test_without_a_file(tmp_path: Path) -> None:
    commands, shown = commands_of(block("empty", "console"))
    environ = {n: v for n, v in os.environ.items() if not n.endswith(("_API_KEY", "_BASE_URL"))}
    done = subprocess.run(
        ["sh", "-c", commands.replace("…", "x")],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert looks_like(done.stdout, shown)
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_systemd_unit(tmp_path: Path) -> None:
    unit = tmp_path / "aigw.service"
    program = Path(sys.executable).parent / "aigw"
    unit.write_text(block("systemd", "ini").replace("/opt/aigw/bin/aigw", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "aigw.service" in line]
    # systemd before 253 does not know the type; the README says so.
    assert [line for line in complaints if "notify-reload" not in line] == []


# --- what it names ------------------------------------------------------------------------------


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table(title: str) -> list[list[str]]:
    """The cells of a section's table, row by row, without its head."""
    rows = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_error_is_named_with_its_status() -> None:
    listed = {word.strip("`"): int(status) for status, word, _ in table("Errors")}
    told = {code.word: code.status for code in Code}
    for word in ("client_closed", "upstream_truncated"):
        assert f"`{word}`" in section("Errors")
        told.pop(word)
    assert listed == told


def test_every_metric_is_named_with_its_labels() -> None:
    listed = {
        name: tuple(re.sub(r" \(.*\)", "", labels).split(", ")) if labels else ()
        for names, labels in table("Metrics and access log")
        for name in re.findall(r"`(\w+)`", names)
    }
    assert listed == {PREFIX + row.name: row.labels for row in METRICS}


def test_every_option_is_named_and_is_one() -> None:
    tables: dict[str, set[str]] = {}
    header = ""
    for line in DEFAULT.splitlines():
        if re.fullmatch(r"\[+[\w.]+\]+", line):
            header = line
        elif match := re.match(r"(?:# )?(\w+) = ", line):
            tables.setdefault(header, set()).add(match[1])
    tables["[[keys]]"] |= tables.pop("")
    assert tables.pop("[upstreams.pool]")
    tables["[[upstreams]]"].add("pool")
    listed = {
        name.strip("`"): set(re.findall(r"`(\w+)`", text)) for name, text in table("Configuration")
    }
    assert listed == tables


def test_the_numbers_of_cases_are_those_of_the_tables() -> None:
    """Rounded down to a hundred, so that a new case is no new README."""
    shown = re.findall(r"more than ([\d,]+) (?:named cases )?of \[(\w+)\]", README)
    told = {what: int(number.replace(",", "")) for number, what in shown}
    counted = {"requests": len(REQUEST_CASES), "answers": len(ANSWER_CASES)}
    assert told == {what: number // 100 * 100 for what, number in counted.items()}


def test_every_fuzzer_is_named() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section("Security and robustness"), re.MULTILINE)
    (run,) = re.findall(r"for name in (.*); do", (ROOT / ".ci" / "run").read_text())
    assert sorted(rows) == sorted(run.split())
    assert "NAME --seconds 60 --seed 1" in section("Security and robustness")


@pytest.mark.parametrize("name", ["team", "edge"])
def test_its_configurations_are_valid(name: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(block(name, "toml").replace(UNIX_SOCKET, str(tmp_path / "aigw.sock")))
    settings = load(file, ENVIRON)
    assert {type(key) for one in settings.keys for key in one.keys} == {Secret}


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


# --- how it is tried ----------------------------------------------------------------------------


def test_ci_runs_the_command_of_the_readme() -> None:
    install, _, test = block_of_tests().partition(" && ")
    assert install.startswith("pip install ")
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert {install, test} <= {line.strip() for line in lines}


def block_of_tests() -> str:
    (found,) = [b.text.strip() for b in BLOCKS if "pytest" in b.text]
    return found


def test_the_first_command_is_what_the_package_offers() -> None:
    first = BLOCKS[0]
    assert first.text.strip() == "pip install . && aigw demo"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["aigw"] == "aigw.cli:main"
