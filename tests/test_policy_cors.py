"""What a browser's page is permitted."""

from __future__ import annotations

import pytest

from aigw.policy import cors
from tests.policies import new_route

APP, OTHER = b"https://app.example", b"https://other.example"
# origins of the route, origin of the page, origin to name in the answer
ALLOWED: list[tuple[set[bytes], bytes | None, bytes | None]] = [
    (set(), APP, None),
    ({APP}, APP, APP),
    ({APP}, OTHER, None),
    ({APP}, None, None),
    ({APP}, b"null", None),
    ({APP}, APP + b"/", None),
    ({b"*"}, OTHER, b"*"),
    ({APP, b"*"}, APP, APP),
]


@pytest.mark.parametrize(("origins", "origin", "named"), ALLOWED)
def test_allowed_origin(origins: set[bytes], origin: bytes | None, named: bytes | None) -> None:
    assert cors.allowed_origin(new_route(cors_origins=frozenset(origins)), origin) == named


def test_only_a_complete_question_is_a_preflight() -> None:
    fields = {b"origin": APP, b"access-control-request-method": b"POST"}
    assert cors.is_preflight(b"OPTIONS", fields)
    assert not cors.is_preflight(b"POST", fields)
    for name in fields:
        assert not cors.is_preflight(b"OPTIONS", {k: v for k, v in fields.items() if k != name})


def test_who_may_read_an_answer_is_told_to_caches() -> None:
    """An answer that names one origin must not be given to another from a cache."""
    assert b"\r\nVary: Origin\r\n" in cors.answer_lines(APP)
    assert b"Vary" not in cors.answer_lines(b"*")


def test_a_preflight_is_permitted_what_it_asked_for() -> None:
    """`*` would not cover Authorization."""
    lines = cors.preflight_lines(APP, b"authorization, x-stainless-lang").split(b"\r\n")
    assert b"Access-Control-Allow-Headers: authorization, x-stainless-lang" in lines
    assert b"Access-Control-Allow-Origin: " + APP in lines
    lines = cors.preflight_lines(APP, b"").split(b"\r\n")
    assert b"Access-Control-Allow-Headers: authorization, content-type, x-api-key" in lines


def test_all_lines_that_are_put_in_are_taken_off_an_upstreams_answer() -> None:
    for line in (cors.answer_lines(APP) + cors.preflight_lines(APP, b"")).split(b"\r\n")[:-1]:
        name = line.split(b":")[0].lower()
        assert name in cors.ANSWER_FIELDS | {b"vary"}
