"""What a request takes for its time, and gives back in `finish`: a slot, a place, a token.

Check all, then take all, with no turn of the loop in between: a refused request has taken nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aigw.errors import Code
from aigw.policy.compiled import NO_ROW
from aigw.policy.limits import Limits, Standing
from aigw.proxy.refusal import Refusal

if TYPE_CHECKING:
    from aigw.policy import Key, Route
    from aigw.upstreams.group import Group


class Holdings:
    """What one exchange holds.  `standing` is where the key's tightest bucket stands after it."""

    __slots__ = ("_in_use_row", "_limits", "_slot_key", "standing")

    def __init__(self, limits: Limits):
        self._limits = limits
        self._slot_key: Key | None = None
        self._in_use_row = NO_ROW
        self.standing: Standing | None = None

    def take(self, key: Key, route: Route, group: Group, now_s: float) -> Refusal | None:
        """Everything, or the refusal that says what is missing; then `give_back` is due as well."""
        limits, settings = self._limits, group.settings
        if not limits.take_slot(key):
            message = f"This key may have {key.max_parallel} requests in flight."
            return Refusal(Code.CONCURRENCY_LIMIT_EXCEEDED, message, 1.0)
        self._slot_key = key
        if settings.in_use_row != NO_ROW:
            if not limits.held.take(settings.in_use_row, settings.pool.max_connections):
                return Refusal(Code.OVERLOADED, "All connections to the upstream are in use.", 1.0)
            self._in_use_row = settings.in_use_row
        refusing = limits.take_tokens(key, route, now_s)
        if refusing is not None:
            wait_s = limits.buckets.wait_s(refusing, now_s)
            standing = Standing(refusing, limits.buckets.level(refusing, now_s))
            message = f"Rate limit reached; try again in {wait_s:.3f} s."
            lines = standing.header_lines(b"x-")
            return Refusal(Code.RATE_LIMIT_EXCEEDED, message, wait_s, lines)
        self.standing = limits.standing(key, route, now_s)
        return None

    def give_back(self) -> None:
        """Safe to call twice."""
        if self._slot_key is not None:
            self._limits.give_slot(self._slot_key)
            self._slot_key = None
        if self._in_use_row != NO_ROW:
            self._limits.held.give(self._in_use_row)
            self._in_use_row = NO_ROW
