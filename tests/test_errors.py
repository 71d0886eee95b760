"""The table of what the gateway may answer."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest

from aigw.errors import FRAMES_TOLD, REASONS, Code, StartError, in_one_line

# Nobody is left to be answered, or a part of another answer has gone out.
LOG_ONLY = {Code.CLIENT_CLOSED, Code.UPSTREAM_TRUNCATED}
# RFC 9110 has renamed it since `http` took its names.
RENAMED = {413: "Content Too Large", 414: "URI Too Long"}


def test_every_code_has_a_reason_phrase_unless_it_is_for_the_log_alone() -> None:
    assert {code.status for code in set(Code) - LOG_ONLY} == set(REASONS)
    assert all(code.status not in REASONS for code in LOG_ONLY)


@pytest.mark.parametrize("status", REASONS)
def test_reason_phrases_are_those_of_the_rfc(status: int) -> None:
    assert REASONS[status] == RENAMED.get(status, HTTPStatus(status).phrase)


def test_words_are_unique_and_fit_for_a_header_and_a_label() -> None:
    words = [code.word for code in Code]
    assert len(set(words)) == len(words)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", word) for word in words)
    assert words == [code.name.lower() for code in Code]


def test_a_refused_credential_of_ours_is_not_to_be_tried_again() -> None:
    assert {code for code in Code if code.retry is not None} == {Code.UPSTREAM_AUTH_ERROR}
    assert Code.UPSTREAM_AUTH_ERROR.retry == "false"


def nested(depth: int) -> None:
    if depth == 0:
        raise KeyError("sk-not-for-logs")
    nested(depth - 1)


def test_a_fault_is_told_in_one_line_without_its_own_text() -> None:
    with pytest.raises(KeyError) as caught:
        nested(20)
    told = in_one_line(caught.value)
    assert told.startswith("KeyError (")
    assert told.count("test_errors.py:") == FRAMES_TOLD
    assert f"test_errors.py:{nested.__code__.co_firstlineno + 2} < " in told
    assert "sk-" not in told
    assert in_one_line(OSError(2, "a\nb", "sk-file")) == (
        "FileNotFoundError: No such file or directory ()"
    )
    assert in_one_line(StartError("the port\nis taken")) == "StartError: the port is taken ()"
