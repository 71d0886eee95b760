"""gateway.toml and the schema agree: every option, its default, its meaning; and types hold."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
import trustme

from aigw.config import (
    HealthSettings,
    KeySettings,
    PoolSettings,
    RouteSettings,
    RouteTimeouts,
    Secret,
    Settings,
    TargetSettings,
    Timeouts,
    UpstreamSettings,
    load,
)
from aigw.config.problems import At, Document, Reading
from aigw.config.readers import options_of
from aigw.config.schema import Limits, Listen, Log, Rate

GATEWAY_TOML = Path(__file__).parent.parent / "gateway.toml"
TEXT = GATEWAY_TOML.read_text()
LINES = TEXT.splitlines()
ENVIRON = {"OPENAI_API_KEY": "sk-1"}

# Header in gateway.toml → struct.  The inline tables of the file are looked into apart.
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "": Settings,
    "[listen]": Listen,
    "[timeouts]": Timeouts,
    "[limits]": Limits,
    "[log]": Log,
    "[[keys]]": KeySettings,
    "[[upstreams]]": UpstreamSettings,
    "[upstreams.pool]": PoolSettings,
    "[[routes]]": RouteSettings,
}
INLINE: dict[str, type[msgspec.Struct]] = {
    "health": HealthSettings,
    "targets": TargetSettings,
    "timeouts": RouteTimeouts,
}
# Written out as sections of their own.
TABLES = {"listen", "timeouts", "limits", "log", "keys", "upstreams", "routes", "pool"}
# Examples that stand uncommented, as a first start needs them: their defaults are told in words.
EXAMPLES = {"name", "key", "urls", "path", "targets", "credentials"}
# What can't stand without another option, or beside one.
WITH = {"burst": "rps"}
INSTEAD_OF = {"keys": "key"}

OPTION_LINE = re.compile(r"(?P<off># )?(?P<name>[a-z_]+) = (?P<value>.*)")


def sections() -> Iterator[tuple[str, int, str]]:
    """(header, line number, line) of each line."""
    header = ""
    for number, line in enumerate(LINES):
        if line in SECTIONS:
            header = line
        yield header, number, line


def options() -> Iterator[tuple[str, int, bool, str, str]]:
    """(header, line number, commented out, name, value) of each option in the file."""
    for header, number, line in sections():
        match = OPTION_LINE.fullmatch(line)
        if match and match["name"] in options_of(SECTIONS[header]):
            yield header, number, bool(match["off"]), match["name"], match["value"]


def read(kind: type[msgspec.Struct], name: str, toml: str) -> object:
    reading = Reading(ENVIRON, "gateway.toml")
    at = At(reading, Document("gateway.toml", Path(), ""), (name,))
    value = options_of(kind)[name][1].read(tomllib.loads(f"x = {toml}")["x"], at)
    reading.finish()
    return value


def default(kind: type[msgspec.Struct], name: str) -> object:
    return getattr(kind(), options_of(kind)[name][0])


def test_every_option_is_in_the_file_once() -> None:
    written = [(header, name) for header, _, _, name, _ in options()]
    known = [
        (header, name)
        for header, kind in SECTIONS.items()
        for name in options_of(kind)
        if not (name in TABLES and (header == "" or name == "pool"))
    ]
    assert sorted(written) == sorted(known)


def test_defaults_are_the_true_ones() -> None:
    for header, _, off, name, value in options():
        kind = SECTIONS[header]
        if off:
            inner = INLINE.get(name)
            if inner is None:
                assert name in ("keys", "keep_alive") or default(kind, name) is None, name
            continue
        if name not in EXAMPLES:
            assert read(kind, name, value) == default(kind, name), f"{header} {name}"


def test_inline_tables_name_every_option_with_its_default() -> None:
    texts = {name: value for _, _, _, name, value in options() if name in INLINE}
    assert set(texts) == set(INLINE)
    for name, text in texts.items():
        raw: Any = tomllib.loads(f"x = {text}")["x"]
        given = raw[0] if isinstance(raw, list) else raw
        assert list(given) == list(options_of(INLINE[name])), name
    assert read(UpstreamSettings, "health", texts["health"]) == HealthSettings()
    timeouts = read(RouteSettings, "timeouts", texts["timeouts"])
    assert isinstance(timeouts, RouteTimeouts)
    for field in RouteTimeouts.__struct_fields__:
        assert getattr(timeouts, field) == getattr(Timeouts(), field)


def test_the_file_says_what_the_schema_says() -> None:
    comments: dict[str, str] = {}
    for header, _, line in sections():
        comment = line[line.find("#") + 1 :] if "#" in line else ""
        comments[header] = f"{comments.get(header, '')} {comment}"
    said = {header: re.sub(r"[\s#]+", " ", text).lower() for header, text in comments.items()}
    for header, kind in SECTIONS.items():
        inner = [INLINE[name] for name in options_of(kind) if header and name in INLINE]
        for struct in (kind, *inner):
            for name, (_, option) in options_of(struct).items():
                if not (header == "" and name in TABLES) and name != "pool":
                    assert option.doc.lower() in said[header], f"{header} {name}: {option.doc}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gateway.toml").write_text(TEXT)
    return tmp_path


def test_the_file_loads_without_any_variable(folder: Path) -> None:
    settings = load(folder / "gateway.toml", {})
    assert [(key.name, key.keys) for key in settings.keys] == [("user1", ("user1",))]
    assert settings.upstreams[0].urls == ("https://api.openai.com",)
    assert settings.upstreams[0].credentials == "client"
    assert settings.routes[0].path == "/v1"
    assert (settings.listen, settings.timeouts) == (Listen(), Timeouts())
    assert (settings.limits, settings.log) == (Limits(), Log())


@pytest.mark.parametrize(
    ("number", "name"), [(number, name) for _, number, off, name, _ in options() if off]
)
def test_what_is_commented_out_loads_in_place(folder: Path, number: int, name: str) -> None:
    header = next(section for section, line, _ in sections() if line == number)
    lines = list(LINES)
    lines[number] = lines[number].removeprefix("# ")
    for section, other, off, other_name, _ in options():
        if section == header and other_name == WITH.get(name) and off:
            lines[other] = lines[other].removeprefix("# ")
        if section == header and other_name == INSTEAD_OF.get(name):
            lines[other] = ""
    changed = folder / "gateway.toml"
    changed.write_text("\n".join(lines))
    assert load(changed, {}) != load(GATEWAY_TOML, {})


def test_the_alternatives_in_comments_load(folder: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client = authority.issue_cert("client")
    client.cert_chain_pems[0].write_to_path(folder / "client.pem")
    client.private_key_pem.write_to_path(folder / "client.key")
    (folder / "keys.toml").write_text('[[keys]]\nname = "b"\nkey = "b"\n')
    alternatives = {
        'credentials = "client"': 'credentials = ["${OPENAI_API_KEY}"]',
        'ca = ""': 'ca = "ca.pem"',
        'cert = ""': 'cert = "client.pem"',
        'cert_key = ""': 'cert_key = "client.key"',
        'keys_file = ""': 'keys_file = "keys.toml"',
        "trusted_proxies = []": 'trusted_proxies = ["10.0.0.0/8", "unix:"]',
        'strip_prefix = ""': 'strip_prefix = "/v1"',
        "cors_origins = []": 'cors_origins = ["*"]',
        'admin = "127.0.0.1:8081"': 'admin = ""',
        'address = "127.0.0.1:8080"': 'address = ["0.0.0.0:8080", "unix:/tmp/aigw.sock"]',
    }
    text = TEXT
    for old, new in alternatives.items():
        assert text.count(f"\n{old}") == 1
        text = text.replace(f"\n{old}", f"\n{new}")
    (folder / "gateway.toml").write_text(text)
    settings = load(folder / "gateway.toml", ENVIRON)
    assert settings.upstreams[0].ca == str(folder / "ca.pem")
    assert settings.upstreams[0].credentials == ("sk-1",)
    assert len(settings.keys) == 2


def mistyped(value: object, kind: type[msgspec.Struct]) -> list[str]:
    """Fields whose values are not what their annotations say."""
    wrong = []
    for field, hint in get_type_hints(kind).items():
        part = getattr(value, field)
        try:
            msgspec.convert(part, hint, from_attributes=True, dec_hook=lambda kind, raw: kind(raw))
        except msgspec.ValidationError as error:
            wrong.append(f"{kind.__name__}.{field}: {error}")
        for inner in part if isinstance(part, tuple) else (part,):
            if isinstance(inner, msgspec.Struct):
                wrong += mistyped(inner, type(inner))
    return wrong


def test_values_have_the_types_of_their_fields(folder: Path) -> None:
    """The readers are not tied to the annotations by mypy: this ties them."""
    uncommented = [
        line.removeprefix("# ")
        if (match := OPTION_LINE.fullmatch(line)) and match["name"] not in ("keys", "rpm")
        else line
        for line in LINES
    ]
    (folder / "gateway.toml").write_text("\n".join(uncommented))
    settings = load(folder / "gateway.toml", ENVIRON)
    assert settings.routes[0].timeouts is not None
    assert mistyped(settings, Settings) == []
    assert mistyped(msgspec.structs.replace(settings.listen, workers="many"), Listen) != []


def test_bucket() -> None:
    assert Rate().bucket() is None
    assert Rate(rps=10.0).bucket() == (10.0, 10.0)
    assert Rate(rps=10.0, burst=20.0).bucket() == (10.0, 20.0)
    assert Rate(rpm=60.0).bucket() == (1.0, 60.0)
    assert Rate(rps=0.1).bucket() == (0.1, 1.0)


def test_a_printed_configuration_shows_no_secret() -> None:
    key = KeySettings(name="a", keys=(Secret("S3CRET"),))
    upstream = UpstreamSettings(name="b", credentials=(Secret("S3CRET"),))
    shown = Settings(
        keys=(key,), upstreams=(upstream,), listen=Listen(admin_token=Secret("S3CRET"))
    )
    assert "S3CRET" not in repr(shown)
