"""Whose request it is, and which of its credentials are the gateway's: one row a case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw.config import key_digest
from aigw.errors import Code
from aigw.policy.keys import credentials_in, gateway_fields, identify
from tests.policies import new_key

NOW_S = 1000.0
GOOD, ROTATED = new_key("good"), new_key("rotated")
KEYS = {
    key_digest(secret): key
    for secret, key in (
        ("good", GOOD),
        ("new", ROTATED),
        ("old", ROTATED),
        ("gone", new_key("gone", revoked=True)),
        ("late", new_key("late", expires_at=NOW_S)),
        ("soon", new_key("soon", expires_at=NOW_S + 0.001)),
        ("both", new_key("both", expires_at=0.0, revoked=True)),
    )
}

# fields of the head -> the key's name, and why it may not be used
IDENTIFIED: list[tuple[dict[bytes, bytes], str | None, Code | None]] = [
    ({}, None, Code.MISSING_API_KEY),
    ({b"x-api-key": b"good"}, "good", None),
    ({b"api-key": b"good"}, "good", None),
    ({b"x-goog-api-key": b"good"}, "good", None),
    ({b"authorization": b"Bearer good"}, "good", None),
    ({b"authorization": b"bEARER   good \t"}, "good", None),
    ({b"authorization": b"good"}, None, Code.MISSING_API_KEY),
    ({b"authorization": b"Basic good"}, None, Code.MISSING_API_KEY),
    ({b"authorization": b"Bearer\tgood"}, None, Code.MISSING_API_KEY),
    ({b"authorization": b"Bearer "}, None, Code.MISSING_API_KEY),
    ({b"x-api-key": b""}, None, Code.MISSING_API_KEY),
    ({b"x-api-key": b"Bearer good"}, None, Code.INVALID_API_KEY),
    ({b"x-api-key": b"unknown"}, None, Code.INVALID_API_KEY),
    ({b"cookie": b"good"}, None, Code.MISSING_API_KEY),
    ({b"x-api-key": b"good", b"authorization": b"Bearer sk-own"}, "good", None),
    ({b"x-api-key": b"sk-own", b"authorization": b"Bearer good"}, "good", None),
    ({b"x-api-key": b"good", b"authorization": b"Bearer good"}, "good", None),
    ({b"x-api-key": b"new", b"authorization": b"Bearer old"}, "rotated", None),
    ({b"x-api-key": b"good", b"authorization": b"Bearer new"}, None, Code.AMBIGUOUS_API_KEY),
    ({b"x-api-key": b"good", b"api-key": b"gone"}, None, Code.AMBIGUOUS_API_KEY),
    ({b"x-api-key": b"gone"}, "gone", Code.INVALID_API_KEY),
    ({b"x-api-key": b"late"}, "late", Code.EXPIRED_API_KEY),
    ({b"x-api-key": b"soon"}, "soon", None),
    ({b"x-api-key": b"both"}, "both", Code.INVALID_API_KEY),
]


@pytest.mark.parametrize(("fields", "name", "error"), IDENTIFIED)
def test_identify(fields: dict[bytes, bytes], name: str | None, error: Code | None) -> None:
    credentials = credentials_in(fields)
    for order in (credentials, credentials[::-1]):
        key, why = identify(KEYS, order, NOW_S)
        assert (key.name if key is not None else None, why) == (name, error)


# fields of the head -> those of them that must not go upstream
WITHHELD: list[tuple[dict[bytes, bytes], set[bytes]]] = [
    ({}, set()),
    ({b"x-api-key": b"good", b"authorization": b"Bearer sk-own"}, {b"x-api-key"}),
    ({b"x-api-key": b"sk-own", b"authorization": b"Bearer good"}, {b"authorization"}),
    ({b"x-api-key": b"gone", b"api-key": b"late"}, {b"x-api-key", b"api-key"}),
    ({b"x-goog-api-key": b"aigw-mistyped"}, {b"x-goog-api-key"}),
    ({b"authorization": b"Bearer aigw-mistyped"}, {b"authorization"}),
    ({b"authorization": b"aigw-mistyped"}, {b"authorization"}),
    ({b"authorization": b"good"}, {b"authorization"}),
    ({b"authorization": b"Token \t good"}, {b"authorization"}),
    ({b"authorization": b"Bearer\tgood"}, {b"authorization"}),
    ({b"x-api-key": b"Bearer good"}, {b"x-api-key"}),
    ({b"x-api-key": b"xaigw-"}, set()),
    ({b"authorization": b"Bearer Bearer good"}, {b"authorization"}),
    ({b"authorization": b"Bearer good sk-own"}, {b"authorization"}),
    ({b"authorization": b"Bearer sk-own aigw-mistyped"}, {b"authorization"}),
    ({b"authorization": b"Bearer good \t"}, {b"authorization"}),
    ({b"x-api-key": b"good good"}, {b"x-api-key"}),
    ({b"cookie": b"good", b"x-plain": b"aigw-x"}, set()),
]


@pytest.mark.parametrize(("fields", "withheld"), WITHHELD)
def test_gateway_fields(fields: dict[bytes, bytes], withheld: set[bytes]) -> None:
    assert gateway_fields(KEYS, fields) == withheld


WORDS = st.sampled_from([b"good", b"gone", b"new", b"sk-own", b"aigw-x", b"Bearer", b"\t", b""])
VALUES = st.lists(WORDS, max_size=3).map(b" ".join)
NAMES = st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"cookie"])


@given(st.dictionaries(NAMES, VALUES))
def test_a_field_that_identified_anybody_is_withheld(fields: dict[bytes, bytes]) -> None:
    withheld = gateway_fields(KEYS, fields)
    for name, value in credentials_in(fields):
        key, _ = identify(KEYS, [(name, value)], NOW_S)
        assert key is None or name in withheld
