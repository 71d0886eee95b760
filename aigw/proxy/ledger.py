"""What is counted and logged of requests on the express lane: `accounting`, many at a time.

A request that ends leaves an entry, and all entries of one turn of the loop are settled together at
its end, after the bytes of that turn were handed to the kernel.  So observing one request does not
delay the others, and a counter in shared memory is written once for many.  A worker that is killed
loses no more than one turn, which is to say requests that were in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aigw.errors import Code
from aigw.observe.access_line import Entry, Subject, subject_text
from aigw.observe.metrics import Finished
from aigw.proxy.accounting import NONE_US, OTHER, app_name, user_name

if TYPE_CHECKING:
    from aigw.proxy.express import Lane
    from aigw.proxy.known import Terms
    from aigw.proxy.services import Services
    from aigw.upstreams.known import KnownAnswer
    from aigw.upstreams.member import Member

AT_ONCE = 64
"""So many entries are settled even if the turn has not ended: a bound on the pause."""


class Outcome:
    """What the records of many requests have in common, and the block that they count in.

    `plain` is 1 where the request was answered by an upstream, 0 where it was refused.
    """

    __slots__ = (
        "app",
        "block",
        "ending",
        "is_stream",
        "known",
        "member",
        "plain",
        "subject",
        "terms",
        "user",
    )

    def __init__(
        self,
        lane: Lane,
        terms: Terms | None,
        member: Member | None,
        ending: KnownAnswer | Code,
        user: bytes | None,
        app: bytes | None,
    ):
        self.terms, self.member, self.ending = terms, member, ending
        self.user, self.app = user, app
        error: str | None
        if isinstance(ending, Code):
            status, error, self.is_stream, self.plain = ending.status, ending.word, False, 0
        else:
            head = ending.head
            status, error, self.is_stream, self.plain = head.status, None, head.is_stream, 1
        known, client_ip = lane.known, lane.client_ip
        self.known = known
        key = None if terms is None else terms.key
        # Without a good key nobody has asked for an upstream yet.
        upstream = None if terms is None else known.group.settings.name
        self.block = lane.services.metrics.block(known.route.name, upstream or OTHER, status)
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
                self.plain,
            )
        )


# Its outcome and id, when it began, when the first byte came from upstream (of no meaning for a
# refusal) and when all was written (monotonic seconds), the seconds in the gateway until then,
# bytes in and out.
Ended = tuple[Outcome, bytes, float, float, float, float, int, int]


class Ledger:
    """One worker's entries of this turn."""

    __slots__ = ("_ended", "_services")

    def __init__(self, services: Services):
        self._services = services
        self._ended: list[Ended] = []

    def note(self, entry: Ended) -> None:
        """A request has ended: its answer is written."""
        ended = self._ended
        if not ended:
            self._services.loop.call_soon(self.settle)
        ended.append(entry)
        if len(ended) >= AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Count and log what has ended."""
        ended, self._ended = self._ended, []
        services = self._services
        wall_offset_ms = services.wall_offset_s * 1e3
        entries: list[Entry] = []
        finished: list[Finished] = []
        for (
            outcome,
            request_id,
            started_s,
            first_byte_s,
            ended_s,
            own_s,
            bytes_in,
            bytes_out,
        ) in ended:
            ttfb_us = int((first_byte_s - started_s) * 1e6) if outcome.plain else NONE_US
            duration_us = int((ended_s - started_s) * 1e6)
            own_us = int(own_s * 1e6)
            finished.append((outcome.block, duration_us, ttfb_us, own_us, outcome.plain))
            entries.append(
                (
                    int(started_s * 1e3 + wall_offset_ms),
                    request_id,
                    outcome.subject,
                    bytes_in,
                    bytes_out,
                    ttfb_us,
                    duration_us,
                    own_us,
                    outcome.is_stream,
                )
            )
        services.metrics.finish_all(finished)
        if services.log.enabled:
            services.log.note(entries)
