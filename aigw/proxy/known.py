"""Requests of a shape that has passed before: what need not be found out again.

A `KnownRequest` hangs on a template (`wire/template.py` has the theory).  It says what h11, the
gate and the questions about the shape alone have settled: route, path, framing, the head that goes
upstream.  Who asks, how much and whether it may pass now is asked each time.  Its table lives and
dies with the policy that settled these things.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigw.policy.limits import claim_of
from aigw.policy.routes import upstream_target
from aigw.wire.gate import CREDENTIAL_FIELDS
from aigw.wire.rewrite import ready_format, request_format, start_of_request
from aigw.wire.template import NO_GROUP, Found, Recognised, Shape, Templates, request_shape

if TYPE_CHECKING:
    from aigw.policy import Key, Policy, Route
    from aigw.policy.keys import Credential
    from aigw.policy.limits import Claim, Hand, Limits
    from aigw.proxy.exchange import Exchange
    from aigw.proxy.request import Request
    from aigw.upstreams.group import Group
    from aigw.upstreams.member import Member

# Shapes known for clients with a good key, and for those without: the second table is small and
# apart, so that nobody without a key can push out what the others need.
MAX_SHAPES = 256
MAX_SHAPES_WITHOUT_KEY = 16
# Keys whose terms one shape remembers: about 200 KiB for a shape that very many keys use.
MAX_TERMS = 1024
# A start line is literal, so a query that may hold a secret or differ each time is not learned.
PLAIN_QUERY = re.compile(rb"(?:\?(?:(?:api-version|alt|beta)=[\w.-]*&?)*)?")


class Terms:
    """What is settled for one key on one shape: that it may use the route, what a request takes.

    `hand` takes it, where it is simple (`Limits.hand`).
    """

    __slots__ = ("claim", "expires_at", "hand", "key")

    def __init__(self, key: Key, claim: Claim, hand: Hand | None):
        self.key = key
        self.expires_at = key.expires_at
        self.claim = claim
        self.hand = hand


class KnownRequest(Recognised):
    """What one template knows.  Numbers are those of the groups that `read` gives."""

    __slots__ = (
        "_policy",
        "_starts",
        "app",
        "credential",
        "credentials",
        "facts",
        "first_byte_s",
        "format",
        "forwarded",
        "gateway_fields",
        "group",
        "idle_s",
        "is_attributed",
        "is_plain",
        "length",
        "max_body_bytes",
        "max_head_bytes",
        "max_repeated_bytes",
        "ready",
        "route",
        "terms",
        "user",
    )

    def __init__(
        self,
        facts: Request,
        route: Route,
        group: Group,
        shape: Shape,
        withheld: tuple[frozenset[bytes], frozenset[bytes]],
        policy: Policy,
    ):
        super().__init__()
        self._policy = policy
        self.max_head_bytes = policy.head_bytes
        self.max_body_bytes = policy.body_bytes
        # The longest body that may have to be sent once more.
        self.max_repeated_bytes = policy.inspect_bytes if facts.is_replayable else -1
        self.facts = facts.without_values(shape)
        self.route = route
        self.first_byte_s, self.idle_s = route.first_byte_s, route.idle_s
        self.group = group
        self.format = request_format(facts.head, shape, withheld[0])
        self.gateway_fields = withheld[1]
        groups = shape.groups
        self.length = groups.get(b"content-length", NO_GROUP)
        self.user = groups.get(b"x-user-id", NO_GROUP)
        self.app = groups.get(b"x-app-id", NO_GROUP)
        self.is_attributed = self.user != NO_GROUP or self.app != NO_GROUP
        self.forwarded = groups.get(b"x-forwarded-for", NO_GROUP)
        self.credentials = tuple((n, g) for n, g in groups.items() if n in CREDENTIAL_FIELDS)
        # For the express lane: one key, nobody else's credential, an answer with a body.
        self.credential = self.credentials[0][1] if self.credentials else NO_GROUP
        passes_own = group.settings.credential_lines is None
        self.is_plain = len(self.credentials) == 1 and not passes_own and not facts.is_head
        self._starts: dict[Member, bytes] = {}
        self.ready: dict[Member, bytes] = {}  # the format with all but the groups filled in
        self.terms: dict[bytes, Terms] = {}  # of the keys that have come, by digest

    def credentials_in(self, groups: Sequence[bytes]) -> list[Credential]:
        return [(name, groups[group]) for name, group in self.credentials]

    def terms_of(self, digest: bytes, limits: Limits) -> Terms | None:
        """Terms for the key with this digest, to be kept; None where it may not pass."""
        key, route = self._policy.keys.get(digest), self.route
        if key is None or key.revoked or not (key.routes is None or route.index in key.routes):
            return None
        if len(self.terms) >= MAX_TERMS:
            del self.terms[next(iter(self.terms))]
        claim = claim_of(key, route, self.group.settings)
        terms = self.terms[digest] = Terms(key, claim, limits.hand(claim))
        return terms

    def knows_key(self, digest: bytes) -> bool:
        """Is it the key of somebody, may it be used or not?"""
        return digest in self._policy.keys

    def head_for(self, member: Member, groups: Sequence[bytes], own: bytes) -> bytes:
        """The head that goes to `member`, with the gateway's own credential lines."""
        start = self._starts.get(member)
        if start is None:
            facts, settings = self.facts, member.settings
            target = upstream_target(self.route, settings.base_path, facts.path, facts.query)
            start = start_of_request(facts.method, target, settings.host_field)
            self._starts[member] = start
            if own == self.group.only_credential:
                self.ready[member] = ready_format(self.format, start, own)
        return self.format % (start, *groups, own)


class KnownRequests:
    """One worker's templates of requests, for one policy."""

    __slots__ = ("_with_key", "_without_key")

    def __init__(self) -> None:
        self._with_key: Templates[KnownRequest] = Templates(MAX_SHAPES)
        self._without_key: Templates[KnownRequest] = Templates(MAX_SHAPES_WITHOUT_KEY)

    def find(self, data: bytes) -> Found[KnownRequest] | None:
        return self._with_key.find(data) or self._without_key.find(data)

    def consider(self, exchange: Exchange, raw: bytes, is_authenticated: bool) -> None:
        """Learn the shape of a request that has passed the questions about it, if it is due."""
        facts = exchange.facts
        table = self._with_key if is_authenticated else self._without_key
        if (
            facts.route is None
            or not table.is_looking()
            or facts.route.cors_origins
            or not PLAIN_QUERY.fullmatch(facts.query)
        ):
            return
        group = exchange.services.group_of(facts.route)
        own_field = group.settings.credential_field
        if own_field in facts.head.known and own_field not in CREDENTIAL_FIELDS:
            return  # somebody's secret, and not in a group
        shape = request_shape(facts.head, raw)
        if shape is None or not table.is_due(shape, exchange.started_s):
            return
        withheld = exchange.withheld_credentials(), exchange.gateway_credentials()
        policy = exchange.services.policy
        table.learn(shape, KnownRequest(facts, facts.route, group, shape, withheld, policy))
