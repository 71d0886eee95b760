"""What an exchange knows, in the order of its story, and what follows from that alone; what it does
stands in `exchange.py`.

All fields are set when it begins, so that whoever looks at an exchange (the sweeper, the record,
the express lane) finds each of them, however early it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigw.policy import cors
from aigw.policy.keys import gateway_fields
from aigw.policy.limits import standing_lines
from aigw.proxy.phase import Phase
from aigw.wire.framing import BodyReader, LengthReader
from aigw.wire.gate import CREDENTIAL_FIELDS

if TYPE_CHECKING:
    from aigw.errors import Code
    from aigw.policy import Key, Route
    from aigw.policy.keys import Credential
    from aigw.policy.limits import Claim, Standing
    from aigw.proxy.client import ClientConnection
    from aigw.proxy.known import KnownRequest
    from aigw.proxy.request import Request
    from aigw.proxy.services import Services
    from aigw.upstreams.connection import UpstreamConnection
    from aigw.upstreams.group import Group
    from aigw.upstreams.member import Member
    from aigw.wire.head import AnswerHead

NO_FIELDS: frozenset[bytes] = frozenset()
PIECE_BYTES = 64  # what a piece of a body that is kept takes beside its octets
NO_BODY = LengthReader(0)  # stands where no body was announced, and is never fed


class ExchangeState:
    """One request: who asks for what, what was taken for it, how far it has come."""

    __slots__ = (  # noqa: RUF023 - in the order of the story
        # for its whole life
        "client",
        "services",
        "phase",
        "request_id",
        "started_s",
        "touched_s",
        "error",
        "status",
        # who asks for what
        "request",
        "known",
        "groups",
        "credentials",
        "withheld",
        "client_ip",
        "key",
        "user",
        "app",
        "origin",
        # what was taken and is given back in finish
        "claim",
        "standing",
        "member",
        # the request's body
        "body",
        "body_length",
        "held_up_s",
        "replay",
        "replay_bytes",
        # the attempt
        "group",
        "tried",
        "attempts",
        "fresh_only",
        "connecting",
        "connection",
        # the answer
        "answer",
        "splice",
        "keep_client",
        "ends_by_close",
        "first_byte_s",
        "bytes_out",
        "is_stream",
        "last_piece",
        "piece_before",
        "client_is_full",
        "unsent_bytes",
        "in_first_turn",
        "overhead_s",
    )

    def __init__(self, services: Services, client: ClientConnection, started_s: float):
        self.client = client
        self.services = services
        self.phase = Phase.UPLOADING
        self.request_id = services.new_request_id()
        self.started_s = started_s
        self.touched_s = started_s
        self.error: Code | None = None
        self.status = 0
        self.request: Request | None = None
        self.known: KnownRequest | None = None
        self.groups: Sequence[bytes] = ()  # the values that `known` leaves open
        self.credentials: Sequence[Credential] = ()
        self.withheld = NO_FIELDS
        self.client_ip = client.peer_ip or "unix"
        self.key: Key | None = None
        self.user: bytes | None = None
        self.app: bytes | None = None
        self.origin: bytes | None = None
        self.claim: Claim | None = None
        self.standing: Standing | None = None
        self.member: Member | None = None
        self.body: BodyReader = NO_BODY
        self.body_length = 0
        self.held_up_s = 0.0
        self.replay: list[bytes] | None = []
        self.replay_bytes = 0
        self.group: Group | None = None
        self.tried: Sequence[Member] = ()
        self.attempts = 0
        self.fresh_only = False
        self.connecting: asyncio.Task[None] | None = None
        self.connection: UpstreamConnection | None = None
        self.answer: AnswerHead | None = None
        self.splice: BodyReader | None = None
        self.keep_client = False
        self.ends_by_close = False
        self.first_byte_s = -1.0
        self.bytes_out = 0
        self.is_stream = False
        self.last_piece = b""
        self.piece_before = b""
        self.client_is_full = False
        self.unsent_bytes = 0
        self.in_first_turn = False
        self.overhead_s = 0.0

    @property
    def facts(self) -> Request:
        """The request, where there surely is one."""
        assert self.request is not None
        return self.request

    @property
    def route_in_use(self) -> Route:
        """The route, where it is known to be settled."""
        route = self.facts.route
        assert route is not None
        return route

    @property
    def patience_s(self) -> float:
        """How long the client may take nothing of a complete answer."""
        route = self.request.route if self.request is not None else None
        return route.idle_s if route is not None else self.services.policy.keep_alive_s

    def gateway_credentials(self) -> frozenset[bytes]:
        """The client's credential fields that hold something of the gateway's."""
        return gateway_fields(self.services.policy.keys, self.facts.head.known)

    def withheld_credentials(self) -> frozenset[bytes]:
        """The client's credential fields that do not go upstream."""
        settings = self.services.group_of(self.route_in_use).settings
        if settings.credential_lines is None:
            return self.gateway_credentials()
        return CREDENTIAL_FIELDS | {settings.credential_field}

    @property
    def takes_known_answers(self) -> bool:
        """HTTP/1.1, no browser's permissions to put in: what the upstream's head says, goes."""
        facts = self.facts
        return not (facts.is_head or facts.head.is_http_1_0 or self.route_in_use.cors_origins)

    def answer_lines(self) -> bytes:
        """The lines that the gateway adds to a forwarded answer."""
        if self.standing is None:
            return self.common_lines()
        return self.common_lines() + standing_lines(b"x-aigw-", self.standing)

    def common_lines(self) -> bytes:
        """What every answer carries, forwarded or our own: id, connection, permission."""
        lines = b"x-aigw-request-id: %b\r\n" % self.request_id
        if not self.keep_client:
            lines += b"Connection: close\r\n"
        elif self.facts.head.is_http_1_0:
            lines += b"Connection: keep-alive\r\n"
        if self.origin is not None:
            lines += cors.answer_lines(self.origin)
        return lines
