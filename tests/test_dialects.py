"""The table of dialects: where a credential goes, and what an error looks like."""

from __future__ import annotations

from typing import get_args, get_type_hints

import orjson
import pytest

from aigw.config.schema import UpstreamSettings
from aigw.dialects import DIALECTS, credential_line, error_body
from aigw.errors import Code

LINES = [
    (b"Authorization", b"Authorization: Bearer s\r\n"),
    (b"authorization", b"authorization: Bearer s\r\n"),
    (b"x-api-key", b"x-api-key: s\r\n"),
    (b"x-goog-api-key", b"x-goog-api-key: s\r\n"),
    (b"api-key", b"api-key: s\r\n"),
    (b"X-Authorization", b"X-Authorization: s\r\n"),
]


@pytest.mark.parametrize(("header", "line"), LINES)
def test_credential_line(header: bytes, line: bytes) -> None:
    assert credential_line(header, b"s") == line


def test_every_dialect_that_may_be_configured_is_in_the_table() -> None:
    assert set(get_args(get_type_hints(UpstreamSettings)["dialect"])) == set(DIALECTS)


@pytest.mark.parametrize("code", Code)
def test_an_error_is_what_an_sdk_expects(code: Code) -> None:
    message = 'say "what" happened: é'
    error = orjson.loads(error_body(code, message))["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["message"], error["param"], error["code"]) == (message, None, code.word)
    assert (error["type"] == "server_error") == (code.status >= 500 and code.status != 501) or (
        code in (Code.CLIENT_CLOSED, Code.UPSTREAM_TRUNCATED)
    )
