"""Answers of a shape that an upstream has given before (`wire/template.py` has the theory)."""

from __future__ import annotations

from aigw.wire.head import AnswerHead
from aigw.wire.rewrite import answer_format
from aigw.wire.template import Recognised, Shape, Templates, answer_shape, without_values

# Shapes known for one member.
MAX_SHAPES = 32
# A refused credential is looked at closely each time (`exchange.answer_started`).
LOOKED_AT = frozenset({401, 403})


class KnownAnswer(Recognised):
    """What one template knows.  `length` is the group of the body's length, 0 where it is chunked.

    `head` is the one that was learned from, without the values of its groups.
    """

    __slots__ = ("format", "head", "length")

    def __init__(self, head: AnswerHead, shape: Shape):
        super().__init__()
        self.head = without_values(head, shape)
        self.format = answer_format(head, shape)
        length = b"content-length"
        self.length = shape.names.index(length) + 1 if length in shape.names else 0


class KnownAnswers(Templates[KnownAnswer]):
    """One member's templates of answers."""

    def __init__(self) -> None:
        super().__init__(MAX_SHAPES)

    def consider(self, head: AnswerHead, raw: bytes, now_s: float) -> None:
        """Learn the shape of an accepted head, if it is worth it."""
        shape = answer_shape(head, raw)
        if shape is None or head.status in LOOKED_AT:
            return
        if self.is_due(shape, now_s):
            self.learn(shape, KnownAnswer(head, shape))
