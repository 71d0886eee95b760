"""A start from variables alone: which providers, which routes, which key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aigw.config import Settings, describe, zero_config
from aigw.config.checks import check
from aigw.config.problems import At, Document, Reading
from aigw.errors import StartError

OPENAI = {"OPENAI_API_KEY": "sk-o", "AIGW_KEY": "client-key"}
ALL = {**OPENAI, "ANTHROPIC_API_KEY": "sk-a", "GEMINI_API_KEY": "sk-g"}


def routes(settings: Settings) -> dict[str, str]:
    urls = {upstream.name: upstream.urls[0] for upstream in settings.upstreams}
    return {route.path: urls[route.targets[0].upstream] for route in settings.routes}


def assert_consistent(settings: Settings) -> None:
    """What a file would be refused for is not made here either."""
    at = At(Reading({}, ""), Document("", Path(), ""))
    check(settings, at, [at.child("keys", 0)])
    at.reading.finish()


def test_all_providers() -> None:
    zero = zero_config(ALL)
    assert routes(zero.settings) == {
        "/v1/messages": "https://api.anthropic.com",
        "/v1beta": "https://generativelanguage.googleapis.com",
        "/v1": "https://api.openai.com",
    }
    assert [(u.name, u.dialect, u.credentials) for u in zero.settings.upstreams] == [
        ("openai", "openai", ("sk-o",)),
        ("anthropic", "anthropic", ("sk-a",)),
        ("gemini", "gemini", ("sk-g",)),
    ]
    assert zero.settings.source == "environment"
    assert zero.settings.listen.address == ("127.0.0.1:8080",)
    assert_consistent(zero.settings)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("OPENAI_API_KEY", ["/v1"]),
        ("ANTHROPIC_API_KEY", ["/v1/messages", "/v1"]),
        ("GEMINI_API_KEY", ["/v1beta", "/v1"]),
    ],
)
def test_one_provider_serves_v1(variable: str, expected: list[str]) -> None:
    settings = zero_config({variable: "sk"}).settings
    assert [route.path for route in settings.routes] == expected
    assert len(settings.upstreams) == 1
    assert_consistent(settings)


def test_two_providers_without_openai() -> None:
    environ = {"ANTHROPIC_API_KEY": "a", "GEMINI_API_KEY": "g", "OPENAI_API_KEY": ""}
    settings = zero_config(environ).settings
    assert [route.path for route in settings.routes] == ["/v1/messages", "/v1beta"]
    assert_consistent(settings)


# OPENAI_BASE_URL → where the gateway's /v1/chat/completions goes.
BASES = {
    "": "https://api.openai.com/v1/chat/completions",
    "https://api.openai.com/v1": "https://api.openai.com/v1/chat/completions",
    "https://api.openai.com/v1/": "https://api.openai.com/v1/chat/completions",
    "https://api.openai.com": "https://api.openai.com/v1/chat/completions",
    "http://127.0.0.1:11434/v1": "http://127.0.0.1:11434/v1/chat/completions",
    "https://h.example/openai/v1": "https://h.example/openai/v1/chat/completions",
    "https://h.example/v1beta/openai/": "https://h.example/v1beta/openai/chat/completions",
}


@pytest.mark.parametrize("base", BASES)
def test_the_base_url_of_openai(base: str) -> None:
    settings = zero_config({**OPENAI, "OPENAI_BASE_URL": base}).settings
    [route] = settings.routes
    rest = "/v1/chat/completions".removeprefix(route.strip_prefix)
    assert settings.upstreams[0].urls[0] + rest == BASES[base]
    assert_consistent(settings)


def test_the_usual_base_url_is_shown_without_v1() -> None:
    for base in ("https://h.example/v1", "https://h.example/v1/", "https://h.example"):
        settings = zero_config({**OPENAI, "OPENAI_BASE_URL": base}).settings
        assert settings.upstreams[0].urls == ("https://h.example",)
        assert settings.routes[0].strip_prefix == ""


def test_the_client_key() -> None:
    given = zero_config(OPENAI)
    assert given.generated_key is None
    assert given.settings.keys[0].keys == ("client-key",)
    made = zero_config({"OPENAI_API_KEY": "sk-o", "AIGW_KEY": ""})
    assert made.generated_key is not None
    assert made.generated_key.reveal().startswith("aigw-")
    assert made.settings.keys[0].keys == (made.generated_key,)
    assert made.generated_key != zero_config({"OPENAI_API_KEY": "sk-o"}).generated_key


def test_the_address() -> None:
    settings = zero_config(OPENAI, "0.0.0.0:80").settings
    assert settings.listen.address == ("0.0.0.0:80",)
    with pytest.raises(StartError, match="--address "):
        zero_config(OPENAI, "0.0.0.0")


def test_no_provider() -> None:
    for environ in ({}, {"AIGW_KEY": "x"}, {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": "http://h"}):
        with pytest.raises(StartError) as caught:
            zero_config(environ)
        assert "OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OPENAI_API_KEY", "S3CRET\n"),
        ("ANTHROPIC_API_KEY", "S3CRET é"),
        ("AIGW_KEY", "S3CRET x"),
        ("AIGW_KEY", "sha256:S3CRET"),
        ("OPENAI_BASE_URL", "https://u:S3CRET@h/v1"),
    ],
)
def test_unusable_variables_are_named_and_not_shown(variable: str, value: str) -> None:
    with pytest.raises(StartError) as caught:
        zero_config({**ALL, variable: value})
    assert str(caught.value).startswith(f"{variable}: ")
    assert "S3CRET" not in str(caught.value)


def test_no_secret_is_shown() -> None:
    zero = zero_config(ALL)
    for shown in (repr(zero), str(msgspec.structs.asdict(zero)), describe(zero.settings)):
        assert not any(secret in shown for secret in ("sk-o", "sk-a", "sk-g", "client-key"))
