"""What the head of a request says, as the proxy needs it.

A `Request` holds nothing that differs between two requests of one shape: who asks, with which id
and how much, is the exchange's.  So one `Request` serves all requests that a template recognises.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from aigw.policy.routes import split_target
from aigw.wire.template import without_values

if TYPE_CHECKING:
    from aigw.policy import Route
    from aigw.wire.head import RequestHead
    from aigw.wire.template import Shape

# RFC 9110, 9.2.2: sending these twice does no more than sending them once.
IDEMPOTENT_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
# With it the upstream can tell a repetition, provided that it gets to see it.
IDEMPOTENCY_KEY = b"idempotency-key"


class Request:
    """One request's head; `route` is None until one is found."""

    __slots__ = (
        "head",
        "is_head",
        "is_replayable",
        "method",
        "method_text",
        "path",
        "path_text",
        "query",
        "route",
    )

    def __init__(self, head: RequestHead):
        self.head = head
        self.method = head.method
        self.method_text = head.method.decode()
        self.path, self.query = split_target(head.target)
        self.path_text = self.path.decode()
        self.route: Route | None = None
        self.is_head = head.method == b"HEAD"
        has_key = IDEMPOTENCY_KEY in head.known and IDEMPOTENCY_KEY not in head.connection_options
        self.is_replayable = head.method in IDEMPOTENT_METHODS or has_key

    def without_values(self, shape: Shape) -> Request:
        """A copy to keep for all requests of that shape."""
        kept = copy(self)
        kept.head = without_values(self.head, shape)
        return kept
