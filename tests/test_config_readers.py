"""Each option takes its own type and refuses every other, with a cure; never another exception."""

from __future__ import annotations

import datetime
import itertools
import os
from pathlib import Path

import msgspec
import pytest
from config_files import KEY, ROUTE, UPSTREAM, WORKING, loaded, said

from aigw.config import ConfigError
from aigw.config.problems import At, Document, OptionError, Reading
from aigw.config.readers import options_of
from aigw.config.schema import (
    HealthSettings,
    KeySettings,
    Limits,
    Listen,
    Log,
    PoolSettings,
    RouteSettings,
    RouteTimeouts,
    Settings,
    TargetSettings,
    Timeouts,
    UpstreamSettings,
)

KINDS: list[type[msgspec.Struct]] = [
    *(Settings, Listen, Timeouts, RouteTimeouts, Limits, Log, KeySettings),
    *(UpstreamSettings, HealthSettings, PoolSettings, RouteSettings, TargetSettings),
]
OPTIONS = [(kind, name) for kind in KINDS for name in options_of(kind)]
ODD_VALUES: list[object] = [
    *(True, False, 0, 1, -1, 5, 10**400, -(16**6000), 16**6000, 2**63, 0.0, 0.5, -0.5, 1e308),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        " ",
        "a",
        "é",
        "\x00",
        "\n",
        "/",
        "//",
        "..",
        "*",
    ),
    *("0s", "1s", "-1s", "999999h", "1KiB", "99999TiB", "${A}", "${A", "${}", "$${", "${NONE}"),
    *(
        "file:",
        "file:/",
        "file:none",
        "file:\x00",
        "file:" + "a" * 5000,
        "unix:",
        "unix:/x",
        "sha256:",
    ),
    *("client", "auto", "stdout", "other", "openai", "http://h", "http://[", "<500", "10.0.0.0/8"),
    *([], [[]], [{}], [1], ["a"], ["a", "a"], ["", "/v1"], {}, {"a": 1}, {"path": "/x"}, [None]),
    *(datetime.date(2030, 1, 1), datetime.date.min, datetime.date.max, datetime.time(1, 2)),
    *(datetime.datetime.min, datetime.datetime.max),
    datetime.datetime.max.replace(tzinfo=datetime.timezone(-datetime.timedelta(hours=23))),
    datetime.datetime.min.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=23))),
]


@pytest.mark.parametrize(
    ("kind", "name"), OPTIONS, ids=lambda part: getattr(part, "__name__", part)
)
def test_any_value_is_read_or_refused(
    kind: type[msgspec.Struct], name: str, tmp_path: Path
) -> None:
    refused = 0
    for value in ODD_VALUES:
        reading = Reading({"A": "\udcff"}, "gateway.toml")
        at = At(reading, Document("gateway.toml", tmp_path, ""), ("x", name))
        try:
            options_of(kind)[name][1].read(value, at)
            reading.finish()
        except (OptionError, ConfigError) as error:
            assert str(error)
            refused += 1
    assert len(ODD_VALUES) / 3 < refused


# Lines put into sections → what is said of them, from the option path on.
WRONG = {
    "listen": {
        "address = []": "address: must not be empty",
        "address = 8080": "address: must be a string, not an integer",
        'address = ["127.0.0.1:1", "127.0.0.1:1"]': (
            "address[1]: is the same as listen.address[0]"
        ),
        'admin = "8081"': "admin: must be",
        "workers = 0": "workers: must be from 1 to 256",
        'workers = "2"': (
            'workers: must be "auto" or an integer from 1 to 256, not another string, '
            "write it without quotes"
        ),
        'workers = "all"': 'workers: must be "auto" or an integer from 1 to 256, not another',
        "workers = 1.5": 'workers: must be "auto" or an integer from 1 to 256, not a number',
        'trusted_proxies = ["10.0.0.1/8"]': "trusted_proxies[0]: has bits set behind its mask",
        'proxy_protocol = "true"': (
            "proxy_protocol: must be true or false, not a string, write it without quotes"
        ),
    },
    "timeouts": {
        'head = "0s"': "head: must be more than zero",
        'idle = "10"': 'idle: needs a unit: "10s"? (ms, s, m, h, d)',
        'idle = "10min"': "idle: unknown unit of time, known are ms, s, m, h, d",
        'idle = "-1s"': "idle: must be a duration such as",
        "idle = inf": "idle: must be a string with a unit (ms, s, m, h, d)",
        'idle = "4000d"': 'idle: is too long, the most is "366d"',
        "body_min_rate = -1": "body_min_rate: must be from 0 to",
        "drain = {}": 'drain: must be a duration such as "10s", not a table',
    },
    "limits": {
        "head_bytes = 10": "head_bytes: must be from 1024 to 16777216",
        'head_bytes = "1K"': "head_bytes: unknown unit of size, known are B, KB … TB, KiB … TiB",
        "headers = 0": "headers: must be from 1 to 10000",
        "headers = 1.0": "headers: must be an integer, not a number",
        'connections = "20000"': (
            "connections: must be an integer, not a string, write it without quotes"
        ),
        "body_bytes = true": 'body_bytes: must be a size such as "1MiB", not a boolean',
    },
    "log": {
        'level = "warn"': (
            'level: must be one of "debug", "info", "warning", "error", did you mean "warning"?'
        ),
        'access = "stdoutt"': (
            'access: must be "stdout", "off" or a path such as "./access.log", '
            'did you mean "stdout"?'
        ),
        'access = ""': 'access: must be "stdout", "off" or a path',
        "access = false": 'access: must be "stdout", "off" or a path, not a boolean',
    },
}
WRONG_LINES = [(section, line) for section, lines in WRONG.items() for line in lines]


@pytest.mark.parametrize(("section", "line"), WRONG_LINES)
def test_wrong_values_in_sections(section: str, line: str, tmp_path: Path) -> None:
    [told] = said(tmp_path, f"[{section}]\n{line}\n" + WORKING)
    assert told.startswith(f"gateway.toml:2: {section}.{WRONG[section][line]}")


WRONG_KEYS = {
    'rps = "1"': "rps: must be a number, not a string, write it without quotes",
    "rps = 0": "rps: must be more than 0",
    "rpm = -1.5": "rpm: must be more than 0",
    "rps = nan": "rps: must be at most 1000000000",
    "rps = inf": "rps: must be at most 1000000000",
    "rps = true": "rps: must be a number, not a boolean",
    "rps = 1\nburst = 0.5": "burst: must be at least 1",
    "burst = 2": "burst: needs `rps` or `rpm`",
    "max_parallel_requests = 0": "max_parallel_requests: must be from 1 to 1000000000",
    "routes = []": "routes: must not be empty",
    'routes = "/v1"': "routes: must be a list, not a string, put it in [ ]",
    'expires = "2030-01-01"': (
        "expires: must be a date such as 2030-01-31, not a string, write it without quotes"
    ),
    "expires = 07:00:00": "expires: must be a date such as 2030-01-31, not a time",
    "expires = 0001-01-01": "expires: must lie between 1970 and 9998",
    "revoked = 1": "revoked: must be true or false, not an integer",
}


@pytest.mark.parametrize("lines", WRONG_KEYS)
def test_wrong_values_of_a_key(lines: str, tmp_path: Path) -> None:
    [told] = said(tmp_path, KEY + lines + "\n" + UPSTREAM + ROUTE)
    line = 4 + lines.count("\n")
    assert told == f"gateway.toml:{line}: keys[0].{WRONG_KEYS[lines]}"


WRONG_UPSTREAMS = {
    "urls = []": "urls: must not be empty",
    'urls = ["https://h", "HTTPS://H:443/"]': "urls[1]: is the same as upstreams[0].urls[0]",
    'urls = ["http://h", "ftp://h"]': 'urls[1]: scheme must be "https" or "http"',
    'urls = ["http://h"]\ncredentials = "abc"': (
        'credentials: must be "client" or a list, put it in [ ]'
    ),
    'urls = ["http://h"]\ncredentials = [""]': "credentials[0]: must not be empty",
    'urls = ["http://h"]\ncredentials = ["a", "a"]': (
        "credentials[1]: is the same as upstreams[0].credentials[0]"
    ),
    'urls = ["http://h"]\ncredentials = ["a\\u0000"]': "credentials[0]: must be visible ASCII",
    'urls = ["http://h"]\ncredentials = true': "credentials: must be a list, not a boolean",
    'urls = ["http://h"]\ncredential_header = "Host"': 'credential_header: must not be "Host"',
    'urls = ["http://h"]\nhealth = true': "health: must be a table, not a boolean",
    'urls = ["http://h"]\nhealth.expect = "ok"': "health.expect: must be a status",
    'urls = ["http://h"]\nhealth = { fall = 0 }': "health.fall: must be from 1 to 1000",
    'urls = ["http://h"]\nhealth = { path = "v1" }': "health.path: must be a path",
    'urls = ["http://h"]\npool = { max_age = "0s" }': "pool.max_age: must be more than zero",
    'urls = ["http://h"]\npool = { max_conections = 1 }': (
        'pool.max_conections: unknown option, did you mean "max_connections"?'
    ),
    'urls = ["http://h"]\nbalance = "ewma"': (
        'balance: must be one of "least_inflight", "round_robin"'
    ),
}


@pytest.mark.parametrize("lines", WRONG_UPSTREAMS)
def test_wrong_values_of_an_upstream(lines: str, tmp_path: Path) -> None:
    text = KEY + '[[upstreams]]\nname = "openai"\n' + lines + "\n" + ROUTE
    [told] = said(tmp_path, text)
    line = 6 + lines.count("\n")
    assert told.startswith(f"gateway.toml:{line}: upstreams[0].{WRONG_UPSTREAMS[lines]}")


def test_what_stands_for_a_moment(tmp_path: Path) -> None:
    expected = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC).timestamp()
    for toml in ("2030-01-01", "2030-01-01T00:00:00", "2030-01-01 02:00:00+02:00"):
        settings = loaded(tmp_path, KEY + f"expires = {toml}\n" + UPSTREAM + ROUTE)
        assert settings.keys[0].expires_at == expected


def secret_said(folder: Path, value: str) -> str:
    [told] = said(folder, f'[[keys]]\nname = "a"\nkey = "{value}"\n' + UPSTREAM + ROUTE)
    return told.removeprefix("gateway.toml:3: keys[0].key: ")


def test_secrets_from_files(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for content in ("abc", "abc\n", "abc\r\n"):
        file.write_text(content)
        for name in ("secret", str(file), "${NAME}"):
            text = f'[[keys]]\nname = "a"\nkey = "file:{name}"\n' + UPSTREAM + ROUTE
            assert loaded(tmp_path, text, {"NAME": "secret"}).keys[0].keys == ("abc",)
    assert secret_said(tmp_path, "file:none") == "can't read none: No such file or directory"
    file.write_text("\n")
    assert secret_said(tmp_path, "file:secret") == "secret is empty"
    file.write_text("a b")
    assert secret_said(tmp_path, "file:secret").startswith("must be visible ASCII")
    file.write_bytes(b"\xff")
    assert secret_said(tmp_path, "file:secret") == "secret is not UTF-8 text"
    file.write_bytes(b"a" * 100_000)
    assert secret_said(tmp_path, "file:secret") == "secret is too large for a secret"
    assert secret_said(tmp_path, "file:.").endswith("is not a regular file")
    os.mkfifo(tmp_path / "pipe")  # a reload would hang on it
    assert secret_said(tmp_path, "file:pipe") == "pipe is not a regular file"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = loaded(tmp_path, '[log]\naccess = "logs/access.log"\n' + WORKING).log
    assert log.access == str(tmp_path / "logs/access.log")
    assert loaded(tmp_path, '[log]\naccess = "/x.log"\n' + WORKING).log.access == "/x.log"
    assert loaded(tmp_path, '[log]\naccess = "off"\n' + WORKING).log.access == "off"


def test_variables_in_any_string(tmp_path: Path) -> None:
    text = (
        '[listen]\naddress = ["127.0.0.1:${PORT:-1}", "${SOCKET}"]\n[timeouts]\nhead = "${T}"\n'
        + WORKING.replace("https://api.openai.com", "https://${HOST}")
    )
    environ = {"SOCKET": "unix:/tmp/x", "T": "3s", "HOST": "h.example"}
    settings = loaded(tmp_path, text, environ)
    assert settings.listen.address == ("127.0.0.1:1", "unix:/tmp/x")
    assert settings.timeouts.head_s == 3
    assert settings.upstreams[0].urls == ("https://h.example",)
    names = [told.split("variable ")[1].split()[0] for told in said(tmp_path, text)]
    assert names == ["SOCKET", "T", "HOST"]


def test_toml_names_are_those_of_the_fields_but_for_units() -> None:
    exceptions = {"key": "keys", "expires": "expires_at"}
    for kind, name in OPTIONS:
        field = options_of(kind)[name][0]
        known = (name, f"{name}_s", f"{name}_bytes", exceptions.get(name))
        assert field in known, f"{kind.__name__}.{field}"
    pairs = itertools.groupby(sorted(OPTIONS, key=str))
    assert all(len(list(same)) == 1 for _, same in pairs)
