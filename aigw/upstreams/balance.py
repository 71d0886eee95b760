"""Which member of an upstream gets the next request.  Pure: members and a turn in, a member out.

Not here: who is healthy (`group.py` asks only for those), and what happens when a member fails.

The idea: a rule is a function in a table.  `turn` is a number that the caller counts up by one
with each choice; workers should start it at different values (their index does), lest all of them
begin with the same member.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Member(Protocol):
    """One URL of an upstream, as a worker sees it."""

    @property
    def inflight(self) -> int:
        """Requests that this worker has running there."""


M = TypeVar("M", bound=Member)


def choose(members: Sequence[M], rule: str, turn: int) -> M:
    """One of `members`, which must not be empty, by a rule of `RULES`; 0.1 to 0.8 µs."""
    if len(members) == 1:
        return members[0]
    return RULES[rule](members, turn)


def _round_robin(members: Sequence[M], turn: int) -> M:
    return members[turn % len(members)]


def _least_inflight(members: Sequence[M], turn: int) -> M:
    """The least busy; equals take turns.

    Turns are counted among the equals, not over all members: starting a scan at `turn` instead
    would give the one that follows a busy member the busy member's share too.
    """
    least = members[0].inflight
    equals = []
    for member in members:
        inflight = member.inflight
        if inflight < least:
            least = inflight
            equals = [member]
        elif inflight == least:
            equals.append(member)
    return equals[turn % len(equals)]


class _Rule(Protocol):
    def __call__(self, members: Sequence[M], turn: int, /) -> M: ...


RULES: dict[str, _Rule] = {
    "round_robin": _round_robin,
    "least_inflight": _least_inflight,
}
