"""Answers of upstreams that are malformed, false, cut, or more than was asked for: the tables.

The rows stand in `tests/wire/answers_*.py`; `tests/wire/answers_stage.py` plays each of them whole,
cut at random and byte by byte, with heads parsed and recognised, and must see the same each time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wire.answers_case import AnswerCase
from tests.wire.answers_stage import Theatre
from tests.wire.answers_tables import CASES


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    theatre = Theatre()
    yield theatre
    theatre.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_answers(case: AnswerCase, theatre: Theatre) -> None:
    assert theatre.wrongs(case) == []
