"""All members of one upstream: which of them gets the next attempt."""

from __future__ import annotations

from collections.abc import Callable, Collection

from aigw.policy import UpstreamPolicy
from aigw.upstreams.balance import choose
from aigw.upstreams.member import Member


class Group:
    """One upstream in one worker.

    `is_out(health_row)` is the verdict of the active checks; a member is out as well while its
    passive pause lasts.  A group's only member (`only`) is tried even so.
    """

    __slots__ = ("_credential_turn", "_turn", "members", "only", "only_credential", "settings")

    def __init__(self, settings: UpstreamPolicy, first_turn: int):
        self.settings = settings
        self.members = [Member(settings, member) for member in settings.members]
        self.only = self.members[0] if len(self.members) == 1 else None
        lines = settings.credential_lines
        # Its field, complete with CRLF, where there is but one, or none.
        self.only_credential = None if lines is None or len(lines) > 1 else (*lines, b"")[0]
        self._turn = first_turn  # workers begin at different members
        self._credential_turn = first_turn

    def has_member(self, now_s: float, is_out: Callable[[int], bool]) -> bool:
        """Is there anybody to ask?"""
        return self.choose(now_s, is_out) is not None

    def choose(
        self, now_s: float, is_out: Callable[[int], bool], tried: Collection[Member] = ()
    ) -> Member | None:
        """A member that is in and not yet tried; None where there is none.

        Who asks it calls `next_turn`, so that looking alone moves nobody's turn.
        """
        if self.only is not None and not tried:
            return self.only
        candidates = [
            member
            for member in self.members
            if member not in tried and now_s >= member.out_until_s and not is_out(member.health_row)
        ]
        if not candidates:
            return None
        return choose(candidates, self.settings.balance, self._turn)

    def next_turn(self) -> None:
        self._turn += 1

    def next_in_s(self, now_s: float) -> float:
        """How long until a member may come back, as far as this worker can know."""
        pauses = [m.out_until_s - now_s for m in self.members if m.out_until_s > now_s]
        if pauses:
            return min(pauses)
        return self.settings.health.interval_s if self.settings.health else 1.0

    def credential_lines(self) -> bytes:
        """The field that carries the credential of the next attempt; several take turns."""
        if self.only_credential is not None:
            return self.only_credential
        lines = self.settings.credential_lines
        if not lines:
            return b""
        self._credential_turn += 1
        return lines[self._credential_turn % len(lines)]

    def sweep(self, now_s: float) -> None:
        for member in self.members:
            member.sweep(now_s)

    def retire(self) -> None:
        for member in self.members:
            member.retire()
