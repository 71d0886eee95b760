"""What is counted and logged of requests on the express lane: `accounting`, many at a time.

A request that ends leaves an entry, and all entries of one turn of the loop are settled together
in the next, after the bytes of that turn were handed to the kernel.  So observing one request does
not delay the others, and a counter in shared memory is written once for many.  A worker that is
killed loses no more than one turn, which is to say requests that were in flight.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from aigw.errors import Code
from aigw.observe.access_line import Subject, Times, Told, subject_text
from aigw.proxy.accounting import NONE_US, OTHER, app_name, user_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from aigw.proxy.known import Terms
    from aigw.proxy.lane import Lane
    from aigw.proxy.services import Services
    from aigw.upstreams.known import KnownAnswer
    from aigw.upstreams.member import Member


class Turn:
    """Requests or answers that were dealt with together, one after the other: when the requests had
    begun, and the time before the first and after the last of them (monotonic seconds).

    Their bytes go to the kernel when all have been dealt with, so this is the time that each of
    them has spent here.
    """

    __slots__ = ("began_s", "ended_s", "started_s")

    def __init__(self, started_s: float, began_s: float):
        self.started_s = started_s
        self.began_s = self.ended_s = began_s


class Kind:
    """What is counted in one place: the block of its counters, whether it `is_plain` (answered by
    an upstream, not refused), and whether it is a stream.  There is one object for each."""

    __slots__ = ("block", "is_plain", "is_stream")

    def __init__(self, block: int, is_plain: bool, is_stream: bool):
        self.block = block
        self.is_plain = is_plain
        self.is_stream = is_stream

    def times(self, sent: Turn, answered: Turn) -> Times:
        own_s, ttfb_us = answered.ended_s - answered.began_s, NONE_US
        if self.is_plain:
            own_s += sent.ended_s - sent.began_s
            ttfb_us = int((answered.began_s - sent.started_s) * 1e6)
        duration_us = int((answered.ended_s - sent.started_s) * 1e6)
        return duration_us, ttfb_us, int(own_s * 1e6), self.is_stream


class Outcome:
    """What the records of one client's requests have in common."""

    __slots__ = ("app", "ending", "kind", "subject", "terms", "user")

    def __init__(
        self,
        lane: Lane,
        terms: Terms | None,
        member: Member | None,
        ending: KnownAnswer | Code,
        user: bytes | None,
        app: bytes | None,
    ):
        self.terms, self.ending = terms, ending
        self.user, self.app = user, app
        error: str | None
        if isinstance(ending, Code):
            status, error, is_stream, is_plain = ending.status, ending.word, False, False
        else:
            head = ending.head
            status, error, is_stream, is_plain = head.status, None, head.is_stream, True
        known, client_ip = lane.known, lane.client_ip
        key = None if terms is None else terms.key
        # Without a good key nobody has asked for an upstream yet.
        upstream = None if terms is None else known.group.settings.name
        services = lane.express.services
        block = services.metrics.block(known.route.name, upstream or OTHER, status)
        self.kind = services.ledger.kind(block, is_plain, is_stream)
        self.subject = subject_text(
            Subject(
                None if key is None else key.name,
                None if key is None else user_name(key, user, client_ip),
                None if key is None else app_name(app),
                client_ip,
                known.facts.method_text,
                known.facts.path_text,
                status,
                error,
                known.route.name,
                upstream,
                None if member is None else member.label,
                int(is_plain),
            )
        )


# Requests that were answered in one turn, by their kind and the turn in which they were sent (for
# refusals that in which they were answered).
Ended = defaultdict[tuple[Kind, Turn], list[Told]]


class Ledger:
    """One worker's entries of this turn.  `turn_ended(n)` is called after a turn with n of them."""

    __slots__ = ("_kinds", "_noted", "_services", "turn_ended")

    def __init__(self, services: Services):
        self._services = services
        self._kinds: dict[tuple[int, bool, bool], Kind] = {}  # as many as blocks, times four
        self._noted: list[tuple[Turn, Ended]] = []
        self.turn_ended: Callable[[int], object] = lambda number: None

    def kind(self, block: int, is_plain: bool, is_stream: bool) -> Kind:
        """The one object of this kind."""
        of = block, is_plain, is_stream
        kind = self._kinds.get(of)
        if kind is None:
            kind = self._kinds[of] = Kind(*of)
        return kind

    def note(self, answered: Turn, ended: Ended) -> None:
        """Requests have ended: in this turn their answers were written."""
        if not self._noted:
            self._services.loop.call_soon(self.settle)
        self._noted.append((answered, ended))

    def settle(self) -> None:
        """Count and log what has ended."""
        noted, self._noted = self._noted, []
        services = self._services
        number = 0
        for answered, ended in noted:
            for (kind, sent), requests in ended.items():
                number += len(requests)
                times = kind.times(sent, answered)
                services.metrics.finish_in(kind.block, times, len(requests), kind.is_plain)
                if services.log.enabled:
                    began_ms = int((sent.started_s + services.wall_offset_s) * 1e3)
                    services.log.note(began_ms, times, requests)
        self.turn_ended(number)
