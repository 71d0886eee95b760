"""Answers of a shape that an upstream has given before (`wire/template.py` has the theory)."""

from __future__ import annotations

import re
from math import inf

from aigw.wire.head import AnswerHead
from aigw.wire.rewrite import answer_format
from aigw.wire.template import NO_GROUP, Recognised, Shape, Templates, answer_shape, without_values

# The first of the gateway's lines.
ID_LINE = b"x-aigw-request-id: %b\r\n"
# Shapes known for one member.
MAX_SHAPES = 32
# A refused credential is looked at closely each time (`exchange.answer_started`).
LOOKED_AT = frozenset({401, 403})


KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,; \t])timeout=([0-9]{1,6})(?:$|[,; \t])", re.IGNORECASE)
# Stop using a connection this long before the upstream says that it will close it.
KEEP_ALIVE_MARGIN_S = 1.0


def keep_alive_of(head: AnswerHead) -> float:
    """For how long the connection may be idle, by the head's `Keep-Alive: timeout=N`."""
    field = head.known.get(b"keep-alive")
    found = KEEP_ALIVE_TIMEOUT.search(field) if field else None
    return max(0.0, int(found.group(1)) - KEEP_ALIVE_MARGIN_S) if found else inf


class KnownAnswer(Recognised):
    """What one template knows.  `length` is the number of the group with the body's length; there
    is none where the body is chunked.  `format` takes the groups and the gateway's lines,
    `plain_format` the groups, the request's id, and further lines.

    `head` is the one that was learned from, without the values of its groups.
    """

    __slots__ = ("format", "head", "keep_alive_s", "length", "plain_format")

    def __init__(self, head: AnswerHead, shape: Shape):
        super().__init__()
        self.head = without_values(head, shape)
        self.keep_alive_s = keep_alive_of(head)
        self.format = answer_format(head, shape)
        self.plain_format = answer_format(head, shape, ID_LINE)
        self.length = shape.groups.get(b"content-length", NO_GROUP)


class KnownAnswers(Templates[KnownAnswer]):
    """One member's templates of answers."""

    def __init__(self) -> None:
        super().__init__(MAX_SHAPES)

    def consider(self, head: AnswerHead, raw: bytes, now_s: float) -> None:
        """Learn the shape of an accepted head, if it is worth it."""
        if head.status in LOOKED_AT or not self.is_looking():
            return
        shape = answer_shape(head, raw)
        if shape is not None and self.is_due(shape, now_s):
            self.learn(shape, KnownAnswer(head, shape))
