"""Durations, sizes, variables, statuses and keys."""

from __future__ import annotations

import contextlib
import hashlib
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw.config import Secret, key_digest, new_key, status_range
from aigw.config.problems import OptionError
from aigw.config.values import duration_s, expand, gateway_key, size_bytes, visible

DURATIONS = {
    "250ms": 0.25,
    "10s": 10,
    "1.5s": 1.5,
    "5m": 300,
    "24h": 86400,
    "30d": 2592000,
    "0s": 0,
}
SIZES = {
    "32KiB": 32768,
    "100MiB": 104857600,
    "1KB": 1000,
    "1.5MB": 1_500_000,
    "2GB": 2_000_000_000,
    "1 GiB": 2**30,
    "7": 7,
    "7B": 7,
    "1TiB": 2**40,
    "0": 0,
}


@pytest.mark.parametrize("text", DURATIONS)
def test_durations(text: str) -> None:
    assert duration_s(text) == pytest.approx(DURATIONS[text])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        "+1s",
        "1e3s",
        "nan",
        "inf",
        "1..5s",
        "1m30s",
        "10 S",
        "10sec",
        " 10s",
        "10s\n",
        "١s",
        "1_000s",
        "400d",
    ],
)
def test_refused_durations(text: str) -> None:
    with pytest.raises(OptionError):
        duration_s(text)


def test_a_duration_without_unit_gets_a_hint() -> None:
    with pytest.raises(OptionError, match='needs a unit: "10s"'):
        duration_s("10")


@pytest.mark.parametrize("text", SIZES)
def test_sizes(text: str) -> None:
    assert size_bytes(text) == SIZES[text]


@pytest.mark.parametrize(
    "text", ["", "KiB", "-1KiB", "1kib", "1K", "1e3", "0.5", "nan", "99999999TiB", "1KiBB", "1\n"]
)
def test_refused_sizes(text: str) -> None:
    with pytest.raises(OptionError):
        size_bytes(text)


@given(st.integers(0, 2**50), st.sampled_from(["", "B", "KiB", "KB"]))
def test_whole_sizes_are_exact(number: int, unit: str) -> None:
    scale = {"": 1, "B": 1, "KiB": 1024, "KB": 1000}[unit]
    if number * scale <= 2**53 and number < 10**15:
        assert size_bytes(f"{number}{unit}") == number * scale


ENVIRON = {"A": "one", "EMPTY": "", "B_2": "${A}"}
EXPANDED = {
    "": "",
    "plain $A $ {A}": "plain $A $ {A}",
    "${A}": "one",
    "x${A}y${A}z": "xoneyonez",
    "${NONE:-two}": "two",
    "${NONE:-}": "",
    "${EMPTY}": "",
    "${EMPTY:-three}": "three",
    "${A:-two}": "one",
    "${NONE:-a:-b $x}": "a:-b $x",
    "${B_2}": "${A}",  # what comes in is not expanded again
    "$${A}": "${A}",
    "$${A} ${A}": "${A} one",
}


@pytest.mark.parametrize("text", EXPANDED)
def test_variables(text: str) -> None:
    assert expand(text, ENVIRON) == EXPANDED[text]


REFUSED_VARIABLES = {
    "${NONE}": r"variable NONE is not set, set it or write \"\$\{NONE:-default\}\"",
    "${A": r"without",
    "a ${": r"without",
    "${}": r"must be",
    "${1A}": r"must be",
    "${A-x}": r"must be",
    "${A B}": r"must be",
    "${é}": r"must be",
}


@pytest.mark.parametrize("text", REFUSED_VARIABLES)
def test_refused_variables(text: str) -> None:
    with pytest.raises(OptionError, match=REFUSED_VARIABLES[text]):
        expand(text, ENVIRON)


@given(st.text())
def test_expand_never_raises_anything_else(text: str) -> None:
    with contextlib.suppress(OptionError):
        assert isinstance(expand("${" + text, {}), str)


def test_statuses() -> None:
    assert status_range("<500") == range(100, 500)
    assert status_range("200") == range(200, 201)
    assert status_range("200-399") == range(200, 400)


@pytest.mark.parametrize(
    "text", ["", "<", "500-", "399-200", "20", "2000", "<=500", "200,204", "0200", "200\n"]
)
def test_refused_statuses(text: str) -> None:
    with pytest.raises(OptionError):
        status_range(text)


def test_a_secret_shows_only_when_revealed() -> None:
    secret = Secret("abc")

    class Holder(msgspec.Struct):
        secret: str

    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>10}", f"{secret!r}", "%s" % secret]  # noqa: UP031
    assert "abc" not in "".join([*shown, repr(Holder(secret)), repr([secret])])
    assert secret.reveal() == "abc"
    assert type(secret.reveal()) is str
    assert secret == "abc"
    assert secret.encode() == b"abc"


def test_key_digest() -> None:
    digest = hashlib.sha256(b"user1").digest()
    assert key_digest(Secret("user1")) == digest
    assert key_digest(Secret(f"sha256:{digest.hex()}")) == digest
    assert key_digest(Secret(f"sha256:{digest.hex().upper()}")) == digest


def test_new_keys() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"aigw-[A-Za-z0-9_-]{43}", key) for key in keys)
    assert all(gateway_key(key) == key for key in keys)


@pytest.mark.parametrize("text", ["", " ", "a b", "a\n", "a\x00", "é", "\x7f", "\udc80", "a\t"])
def test_what_no_header_can_carry_is_no_key(text: str) -> None:
    with pytest.raises(OptionError):
        visible(text)


@pytest.mark.parametrize(
    "digits", ["", "a" * 63, "a" * 65, "g" * 64, " " + "a" * 63, "a" * 64 + "\n"]
)
def test_refused_digests(digits: str) -> None:
    with pytest.raises(OptionError, match="64 hexadecimal digits"):
        gateway_key(f"sha256:{digits}")
