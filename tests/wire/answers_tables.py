"""All rows of the answers' tables."""

from __future__ import annotations

from tests.wire import answers_heads
from tests.wire.answers_case import AnswerCase

CASES: list[AnswerCase] = [*answers_heads.CASES]
