"""One client's plain requests, one after the other: what is noted of them, and no more.

Most requests are plain: the head recognised and the body there with it, one key and it is good,
room in its limits, a warm connection to a member that is in; then the answer's head recognised and
its body there with it.  For these the story of `exchange.py` spends most of its time on asking what
is settled.  Here nothing is made for a request but the bytes that are sent: each client has one
`Lane`, used again and again, on which only that is noted which differs; what is the same each time
hangs on the template (`Terms`), on the member's template of answers, or stands ready from the last
request (`Outcome`).

What happens with a lane's requests stands in `express.py`.  Whatever is not plain is left to the
story: `whole` turns the request under way into an exchange that takes over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aigw.policy.client_address import client_ip
from aigw.policy.limits import standing_lines, standing_of
from aigw.proxy.exchange import Exchange
from aigw.proxy.ledger import Outcome
from aigw.proxy.phase import Phase
from aigw.wire.framing import LengthReader
from aigw.wire.template import NO_GROUP

if TYPE_CHECKING:
    from collections.abc import Callable

    from aigw.errors import Code
    from aigw.memory import Bucket
    from aigw.proxy.client import ClientConnection
    from aigw.proxy.express import Express
    from aigw.proxy.known import KnownRequest, Terms
    from aigw.proxy.ledger import Turn
    from aigw.upstreams.connection import UpstreamConnection
    from aigw.upstreams.known import KnownAnswer
    from aigw.upstreams.member import Member
    from aigw.wire.template import Reading

# A request that was sent: over which connection, on what terms, the values of its head; the whole
# of it where it may have to be sent once more; the length of its body; the tightest bucket and the
# level that was left in it; the turn in which it was sent.
Sent = tuple[
    "UpstreamConnection",
    "Terms",
    tuple[bytes, ...],
    bytes,
    int,
    "Bucket | None",
    float,
    "Turn",
]


class Lane:
    """See the head of the file.  `sent` is set while a request is under way."""

    __slots__ = (
        "client",
        "client_ip",
        "express",
        "held",
        "held_since_s",
        "known",
        "may_hold",
        "outcome",
        "read",
        "sent",
        "told",
        "told_level",
        "told_lines",
    )

    known: KnownRequest
    read: Callable[[bytes], Reading | None]
    client_ip: str

    def __init__(self, client: ClientConnection, express: Express):
        self.client = client
        self.express = express
        self.sent: Sent | None = None
        self.held = b""  # what has come of a request that is not dealt with yet
        self.held_since_s = 0.0  # since when its rest is waited for; 0.0: it is not
        self.may_hold = True  # its rest may be waited for
        self.outcome: Outcome | None = None  # of the last request
        self.told: Bucket | None = None  # where the key stood when it was told last
        self.told_level = 0.0
        self.told_lines = b""

    def follow(self, known: KnownRequest) -> None:
        """Expect requests of this shape from now on."""
        self.known = known
        self.read = known.read
        self.outcome = None
        self.client_ip = self.client.peer_ip or "unix"  # but see `find_client`

    def forget(self) -> None:
        """Expect nothing: the policy has changed, and what is known is of the old one."""
        self.read = nothing_is_known

    def find_client(self, groups: tuple[bytes, ...]) -> None:
        """Behind a trusted proxy each request says whose it is."""
        known, trusted = self.known, self.express.services.trusted
        forwarded = [groups[known.forwarded]] if known.forwarded != NO_GROUP else []
        found = client_ip(self.client.peer_ip, forwarded, trusted) or "unix"
        if found != self.client_ip:
            self.client_ip, self.outcome = found, None

    def hold(self, now_s: float) -> None:
        """Wait for the rest of a short body, until the next sweep at the latest."""
        self.held_since_s = self.held_since_s or now_s
        self.client.deadline_s = self.express.services.clock_s

    def take_up_answer(self) -> None:
        """What has come of the answer, if it is not dealt with yet."""
        assert self.sent is not None
        connection = self.sent[0]
        if connection.waiting is not None:
            self.express.answer((connection,))

    def take_held(self) -> bytes:
        """What is held, for the story."""
        held, self.held = self.held, b""
        return held

    def end_hold(self) -> float:
        """When the request began whose rest was waited for; 0.0 if it was not."""
        since_s, self.held_since_s = self.held_since_s, 0.0
        return since_s

    def tell(self, bucket: Bucket | None, level: float) -> None:
        """Note where the key stands, and the lines that say so: kept while it stands there."""
        self.told, self.told_level = bucket, level
        if bucket is None:
            self.told_lines = b""
        else:
            self.told_lines = standing_lines(b"x-aigw-", standing_of(bucket, level))

    def outcome_of(
        self,
        terms: Terms | None,
        member: Member | None,
        ending: KnownAnswer | Code,
        groups: tuple[bytes, ...],
    ) -> Outcome:
        """That of the last request, if this one is told from it by its numbers alone."""
        known, outcome = self.known, self.outcome
        user = app = None
        if known.is_attributed and terms is not None:
            user = groups[known.user] if known.user != NO_GROUP else None
            app = groups[known.app] if known.app != NO_GROUP else None
        if (
            outcome is None
            or outcome.ending is not ending
            or outcome.terms is not terms
            or outcome.user != user
            or outcome.app != app
        ):
            outcome = self.outcome = Outcome(self, terms, member, ending, user, app)
        return outcome

    def whole(self) -> Exchange:
        """The request under way as an exchange, which takes over from here."""
        assert self.sent is not None
        connection, terms, groups, data, body_bytes, bucket, level, turn = self.sent
        self.sent = None
        known, services = self.known, self.express.services
        exchange = Exchange(services, self.client, turn.started_s)
        exchange.request, exchange.known, exchange.groups = known.facts, known, groups
        exchange.key, exchange.claim, exchange.group = terms.key, terms.claim, known.group
        if bucket is not None:
            exchange.standing = standing_of(bucket, level)
        exchange.user = groups[known.user] if known.user != NO_GROUP else None
        exchange.app = groups[known.app] if known.app != NO_GROUP else None
        exchange.body = LengthReader(0)
        exchange.body.payload_bytes = body_bytes
        exchange.replay = [data[len(data) - body_bytes :]] if data else None
        exchange.phase = Phase.AWAITING
        exchange.attempts = 1
        exchange.connection, exchange.member = connection, connection.member
        exchange.overhead_s = turn.ended_s - turn.began_s
        exchange.client_ip = self.client_ip
        connection.begin(exchange, services.policy.upstream_head_bytes, True)
        self.client.exchange = exchange
        return exchange


def nothing_is_known(data: bytes) -> None:
    return None
