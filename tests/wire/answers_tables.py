"""All rows of the answers' tables."""

from __future__ import annotations

from tests.wire import answers_bodies, answers_conduct, answers_framing, answers_heads
from tests.wire.answers_case import AnswerCase

CASES: list[AnswerCase] = [
    *answers_heads.CASES,
    *answers_framing.CASES,
    *answers_bodies.CASES,
    *answers_conduct.CASES,
]
