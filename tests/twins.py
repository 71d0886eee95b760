"""What a template says of a head, held against what h11 and the gate say of the same octets.

The claim (`aigw/wire/template.py`): whatever octets a template's pattern matches, h11 and the gate
accept as the same head, with the groups' octets as the values of the volatile fields; and the
template's format writes for the other side what `rewrite.py` writes of what h11 has read.  `Twins`
are one accepted head, learned as the gateway learns it; `check` tries the claim on any octets.  A
head that no pattern matches is read by h11 in any case, so nothing is claimed of it.
"""

from __future__ import annotations

import re
from functools import cache

from aigw.memory import Memory
from aigw.policy import Policy, Route, compile_policy, load_policy
from aigw.policy.keys import credentials_in, gateway_fields, identify
from aigw.policy.routes import upstream_target
from aigw.proxy.known import KnownRequest
from aigw.proxy.request import Request
from aigw.upstreams.group import Group
from aigw.upstreams.known import KnownAnswer
from aigw.wire.gate import CREDENTIAL_FIELDS
from aigw.wire.head import AnswerHead, AnswerReader, Field, HeadError, RequestHead, read_request
from aigw.wire.rewrite import answer_head, request_head, start_of_request
from aigw.wire.template import (
    NO_GROUP,
    Reading,
    Shape,
    answer_shape,
    pattern_of,
    request_shape,
)
from tests.conversation import settings_of, toml

MAX_HEAD_BYTES = 1 << 20
OWN_LINES = b"x-own: 100%\r\n"


@cache
def policies() -> tuple[Policy, Policy]:
    """An upstream that gets the gateway's own credential; one that gets the client's."""
    second = '[[keys]]\nname = "second"\nkey = "k2"'
    texts = (
        toml("http://127.0.0.1:1", top=second),
        toml("http://127.0.0.1:1", top=second, upstream='credentials = "client"'),
    )
    memory = Memory.create(1)
    own, clients = (load_policy(compile_policy(settings_of(t), memory, 0.0)) for t in texts)
    return own, clients


Groups = tuple[bytes, ...]


class RequestTwins:
    """An accepted request head, learned for one upstream; `pattern` is None if it is not plain."""

    def __init__(self, raw: bytes, policy: Policy):
        self.raw = raw
        self.policy = policy
        self.group = Group(policy.upstreams[0], 0)
        head = read_request(raw)
        self.shape = request_shape(head, raw)
        self.pattern = pattern_of(self.shape) if self.shape is not None else None
        if self.shape is not None:
            self.plain = plain_pattern(self.shape)
            self.known = self._learned(head, self.shape, policy.routes[0])

    def _learned(self, head: RequestHead, shape: Shape, route: Route) -> KnownRequest:
        withheld = self._withheld(head), gateway_fields(self.policy.keys, head.known)
        return KnownRequest(Request(head), route, self.group, shape, withheld, self.policy)

    def _withheld(self, head: RequestHead) -> frozenset[bytes]:
        settings = self.group.settings
        if settings.credential_lines is None:
            return gateway_fields(self.policy.keys, head.known)
        return CREDENTIAL_FIELDS | {settings.credential_field}

    def check(self, data: bytes) -> bool:
        """False where nothing is claimed of the octets; AssertionError where the claim is wrong."""
        reading = self.pattern(data) if self.pattern is not None else None
        check_plainly(self, data, reading)
        if reading is None:
            return False
        groups, end = reading
        assert end == data.index(b"\r\n\r\n") + 4, data
        try:
            head = read_request(data[:end])
        except HeadError as error:
            raise AssertionError(f"refused ({error}): {data!r}") from None
        self._check_framing(head, groups)
        self._check_person(head, groups)
        self._check_output(head, groups)
        return True

    def _check_framing(self, head: RequestHead, groups: Groups) -> None:
        known, learned = self.known, self.known.facts.head
        assert self.shape is not None
        assert (head.method, head.target) == (known.facts.method, learned.target)
        assert head.is_http_1_0 is learned.is_http_1_0 is False
        assert head.keep_alive is learned.keep_alive is True
        assert head.expects_continue is learned.expects_continue is False
        assert head.body_length == (int(value_of(groups, known.length) or 0))
        assert head.connection_options == learned.connection_options
        check_fields(head.fields, learned.fields, self.shape, groups)

    def _check_person(self, head: RequestHead, groups: Groups) -> None:
        """Whose request it is, and from where: by the groups and by the fields."""
        known, keys = self.known, self.policy.keys
        credentials = known.credentials_in(groups)
        assert sorted(credentials) == sorted(credentials_in(head.known))
        assert identify(keys, credentials, 0.0) == identify(keys, credentials_in(head.known), 0.0)
        assert gateway_fields(keys, dict(credentials)) == gateway_fields(keys, head.known)
        assert value_of(groups, known.user) == head.known.get(b"x-user-id")
        assert value_of(groups, known.app) == head.known.get(b"x-app-id")
        forwarded = [groups[known.forwarded]] if known.forwarded != NO_GROUP else []
        assert forwarded == head.values(b"x-forwarded-for")

    def _check_output(self, head: RequestHead, groups: Groups) -> None:
        known = self.known
        passes = self.group.settings.credential_lines is None
        if passes and gateway_fields(self.policy.keys, head.known) != known.gateway_fields:
            return  # `Exchange.begin_known` leaves it to h11
        facts, member = Request(head), self.group.members[0]
        target = upstream_target(known.route, b"", facts.path, facts.query)
        start = start_of_request(head.method, target, member.settings.host_field)
        own = self.group.credential_lines()
        assert known.head_for(member, groups, own) == (
            request_head(head, start, own, self._withheld(head))
        )


class AnswerTwins:
    """An accepted answer head, learned; `pattern` is None if it is not plain."""

    def __init__(self, raw: bytes):
        self.raw = raw
        reader = AnswerReader(MAX_HEAD_BYTES)
        head = reader.feed(raw)
        if head is None or reader.interim or reader.rest:
            raise HeadError("not one whole head")
        self.shape = answer_shape(head, raw)
        self.pattern = pattern_of(self.shape) if self.shape is not None else None
        if self.shape is not None:
            self.plain = plain_pattern(self.shape)
            self.known = KnownAnswer(head, self.shape)

    def check(self, data: bytes) -> bool:
        """False where nothing is claimed of the octets; AssertionError where the claim is wrong."""
        reading = self.pattern(data) if self.pattern is not None else None
        check_plainly(self, data, reading)
        if reading is None:
            return False
        groups, end = reading
        assert self.shape is not None
        reader = AnswerReader(MAX_HEAD_BYTES)
        try:
            head = reader.feed(data)
        except HeadError as error:
            raise AssertionError(f"refused ({error}): {data!r}") from None
        assert head is not None
        assert not reader.interim
        assert data[end:] == reader.rest
        self._check_facts(head, groups)
        check_fields(head.fields, self.known.head.fields, self.shape, groups)
        written = self.known.format % (*groups, OWN_LINES)
        assert written == answer_head(head, OWN_LINES, frozenset())
        return True

    def _check_facts(self, head: AnswerHead, groups: Groups) -> None:
        known = self.known
        for name in ("status", "reason", "keep_alive", "leaves_connection_clean", "is_stream"):
            assert getattr(head, name) == getattr(known.head, name), name
        assert head.connection_options == known.head.connection_options
        assert head.known.get(b"keep-alive") == known.head.known.get(b"keep-alive")
        assert head.body_length == int(value_of(groups, known.length) or -1)


def plain_pattern(shape: Shape) -> re.Pattern[bytes]:
    """The theory's own pattern: every literal octet by itself, and groups for the values alone."""
    lines = [b"\r\n" + re.escape(literal) + group for literal, group in shape.lines]
    return re.compile(re.escape(shape.start_line) + b"".join(lines) + b"\r\n\r\n")


def check_plainly(twins: RequestTwins | AnswerTwins, data: bytes, reading: Reading | None) -> None:
    """The pattern in use reads what the plain one reads."""
    if twins.shape is None:
        return
    found = twins.plain.match(data)
    assert (found is None) == (reading is None), data
    if found is not None and reading is not None:
        groups, end = reading
        assert found.end() == end
        assert found.groups() == tuple(groups[number] for number in twins.shape.numbers)


def value_of(groups: Groups, number: int) -> bytes | None:
    return None if number == NO_GROUP else groups[number]


def check_fields(fields: list[Field], learned: list[Field], shape: Shape, groups: Groups) -> None:
    """The same names, spelt alike, and values that differ in the groups alone."""
    assert [field[:2] for field in fields] == [field[:2] for field in learned]
    numbers = iter(shape.numbers)
    for (_, raw, value), (literal, group) in zip(fields, shape.lines, strict=True):
        opened = groups[next(numbers)] if group else b""
        assert literal + opened == b"%b: %b" % (raw, value)
