"""Option paths, hints, the order and the number of what is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigw.config import ConfigError, Problem
from aigw.config.problems import PROBLEMS_SHOWN, At, Document, Reading, nearest, option_path


def reading_of(text: str) -> At:
    return At(Reading({}, "a.toml"), Document("a.toml", Path(), text))


def test_option_paths() -> None:
    assert option_path(()) == ""
    assert option_path(("keys", 0, "rps")) == "keys[0].rps"
    assert option_path(("a b", 1, 2, 'c"', "é")) == '"a b"[1][2]."c\\""."\\u00e9"'


def test_problem_lines() -> None:
    assert str(Problem("f", 3, "a.b", "is wrong")) == "f:3: a.b: is wrong"
    assert str(Problem("f", None, "", "can't be read")) == "f: can't be read"
    assert str(Problem("f", None, "", "a\nb\x1b\u2028…")) == "f: a\\nb\\x1b\\u2028…"
    assert str(Problem("f", None, "", "\u202eé\u200b\udcff")) == "f: \\u202eé\\u200b\\udcff"


def test_the_nearest_line_around_an_option_that_is_not_there() -> None:
    at = reading_of("x = 1\n[a]\n[[b]]\n[[b]]\n")
    assert at.child("a", "missing").line() == 2
    assert at.child("b", 1, "c", "d").line() == 4
    assert at.child("missing").line() is None


def test_a_text_that_the_scanner_can_not_follow_gives_no_line() -> None:
    at = reading_of("this is no TOML")
    at.child("a").report("is wrong")
    with pytest.raises(ConfigError) as caught:
        at.reading.finish()
    assert caught.value.problems == (Problem("a.toml", None, "a", "is wrong"),)


def test_the_first_fault_silences_those_below() -> None:
    at = reading_of("b = { c = 1 }\na = 1\n")
    at.child("b").report("first")
    at.child("b", "c").report("follows")
    at.child("b").report("again")
    at.child("a").report("another")
    with pytest.raises(ConfigError) as caught:
        at.reading.finish()
    assert [problem.message for problem in caught.value.problems] == ["first", "another"]


def test_no_fault_no_error() -> None:
    reading_of("").reading.finish()


def test_thousands_of_problems_are_cut_in_text_only() -> None:
    problems = [Problem("f", line, "a", "b") for line in range(5000)]
    error = ConfigError(problems)
    lines = str(error).splitlines()
    assert len(error.problems) == 5000
    assert len(lines) == PROBLEMS_SHOWN + 1
    assert lines[-1] == "… and 4900 more"


def test_nearest() -> None:
    assert nearest("rsp", ("rps", "rpm")) == ', did you mean "rps"?'
    assert nearest("OPENAI", ("openai",)) == ', did you mean "openai"?'
    assert nearest("zzz", ("openai",)) == ""
    assert nearest("", ()) == ""
