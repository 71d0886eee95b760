"""Heads recognised instead of parsed again.

**Theory.**  A client sends the same head again and again, but for some values: a length, an id, a
trace.  Once h11 and the gate have accepted such a head several times, a pattern is made *from that
very head*: every octet of it is literal, except that the values of a short list of volatile fields
are groups.  A head that the pattern matches differs from the accepted one only inside these
groups, and a group admits only octets that cannot end a line or change what the value means
(digits for a length, visible ASCII for the rest).  So h11 would give the same verdict, with the
group's octets as the field's value: that is the claim, and `tests/test_wire_template.py` holds it
against h11 with a property test and a fuzzer.  A bare LF, a NUL, `+23`, `name :`, a second length
or a new field cannot match, since nothing but the groups is open.  What does not match is parsed.

Beside the pattern stands a `%`-format of the head for the other side, made by `rewrite.py` from the
same accepted head, with `%b` where a group's octets go on and `%.0b` where they do not.

Recognising costs about 1 µs and writing anew 1 µs, where h11 and the tables cost 120 µs.
Making a template costs 1 ms for a head of 1 KiB and 5 ms for the longest, so it is made only for a
shape that was seen `SEEN_BEFORE` times, at most one in `BUILD_PAUSE_S`, and `Templates` keeps a
bounded number: a client that varies its heads on purpose pays h11 and makes nobody else pay more.
While all shapes are new, only one unknown head in sixteen is looked at, which spares such heads a
tenth of their price.
No template holds a secret: the values of credential fields are groups.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property, lru_cache
from itertools import accumulate
from operator import itemgetter
from random import random
from typing import Generic, TypeVar

from aigw.wire.gate import CREDENTIAL_FIELDS
from aigw.wire.head import AnswerHead, Field, RequestHead

SEEN_BEFORE = 4
BUILD_PAUSE_S = 0.1
# Shapes counted but not yet learned; a flood of new ones only makes it forget the oldest.
MAX_COUNTED = 512
# So many looks in a row at shapes never seen before are a flood: then only some heads are looked
# at, chosen by chance, so that no order of requests can hide a shape that does come again.
FLOOD_LOOKS = 64
LOOKS_IN_A_FLOOD = 1 / 16
# Templates tried for one start line: two SDKs, three versions, with and without a trace.
MAX_PER_LINE = 6
# Shorter runs of literal octets are not worth a group: it costs as much as about 40 octets.
MIN_RUN_BYTES = 40
# Longer heads are rare, and their patterns slow to make.
MAX_HEAD_BYTES = 4096

# What groups admit.  All are possessive: what follows them in a head, a CR, is in none of them, so
# there is nothing to try again with less.
DIGITS = rb"([0-9]{1,18}+)"
VISIBLE = rb"([\x21-\x7e]++)"
ATTRIBUTION = rb"([\x21-\x7e]{1,128}+)"
TEXT = rb"((?! )[\x20-\x7e]++(?<! ))"
ADMITS = {group: re.compile(group).fullmatch for group in (DIGITS, VISIBLE, ATTRIBUTION, TEXT)}

# The volatile fields of requests, and what their groups admit.  Credentials are volatile too, but
# with the scheme of `Authorization` literal.
REQUEST_VOLATILE: dict[bytes, bytes] = {
    b"content-length": DIGITS,
    b"x-request-id": VISIBLE,
    b"x-client-request-id": VISIBLE,
    b"x-correlation-id": VISIBLE,
    b"traceparent": VISIBLE,
    b"tracestate": VISIBLE,
    b"baggage": VISIBLE,
    b"idempotency-key": VISIBLE,
    b"x-stainless-retry-count": VISIBLE,
    b"x-stainless-read-timeout": VISIBLE,
    b"x-session-id": VISIBLE,
    b"session_id": VISIBLE,
    b"x-user-id": ATTRIBUTION,
    b"x-app-id": ATTRIBUTION,
    b"cookie": TEXT,
    b"x-forwarded-for": TEXT,
    b"x-real-ip": VISIBLE,
    b"x-amzn-trace-id": VISIBLE,
    b"x-cloud-trace-context": VISIBLE,
}
REQUEST_GROUPS = REQUEST_VOLATILE | dict.fromkeys(CREDENTIAL_FIELDS, VISIBLE)
ANSWER_VOLATILE: dict[bytes, bytes] = {
    b"content-length": DIGITS,
    b"date": TEXT,
    b"set-cookie": TEXT,
    b"etag": TEXT,
    b"age": VISIBLE,
    b"cf-ray": VISIBLE,
    b"x-request-id": VISIBLE,
    b"request-id": VISIBLE,
    b"apim-request-id": VISIBLE,
    b"openai-processing-ms": VISIBLE,
    b"openai-organization": VISIBLE,
    b"x-envoy-upstream-service-time": VISIBLE,
    b"server-timing": TEXT,
    b"x-amzn-trace-id": VISIBLE,
}
# The volatile fields that may stand several times: nobody here asks for their value.
REPEATED = frozenset({b"set-cookie"})
# In answers every rate-limit field is volatile as well, whoever sends it.
RATE_LIMIT = re.compile(rb"ratelimit|retry-after")
# Names of answers' fields for which this is remembered: several providers' together have 200.
MAX_NAMES = 512
# A field that says how a message is framed or handed on keeps a head from being plain.
REQUEST_NOT_PLAIN = frozenset(
    {
        b"expect",
        b"keep-alive",
        b"origin",
        b"proxy-authorization",  # a secret, and nobody's business here
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
ANSWER_NOT_PLAIN = frozenset({b"upgrade", b"te"})
NO_GROUP = -1  # where the number of a group stands that a shape does not have
# With the blank that `policy.keys` asks for: behind a tab it finds no credential.
BEARER = re.compile(rb"bearer [ \t]*(?=[\x21-\x7e]+$)", re.IGNORECASE)

# The groups of a head, and where it ends.
Reading = tuple[tuple[bytes, ...], int]
Read = Callable[[bytes], Reading | None]
Head = TypeVar("Head", RequestHead, AnswerHead)


class Shape:
    """A head with its volatile values cut out.

    `lines` holds, for each field in order, the literal octets of its line and the group behind
    them (empty if there is none); `names` the fields with groups.  Heads with equal `key` are
    recognised by the same pattern.

    `runs` are the literal octets before, between and behind the groups.  Of those that are long
    the pattern makes groups as well (`is_taken`), so `numbers` says which groups are the values of
    `names`, and `groups` the same by name.  All this is found out when it is asked for: most shapes
    are counted once and never learned.
    """

    def __init__(
        self, start_line: bytes, literals: list[bytes], groups: list[bytes], names: list[bytes]
    ):
        self.start_line = start_line
        self.lines = list(zip(literals, groups, strict=True))
        self.names = names
        self.key = b"\n".join([start_line, *literals])

    @cached_property
    def runs(self) -> list[bytes]:
        runs = [self.start_line]
        for literal, group in self.lines:
            runs[-1] += b"\r\n" + literal
            if group:
                runs.append(b"")
        runs[-1] += b"\r\n\r\n"
        return runs

    @cached_property
    def is_taken(self) -> list[bool]:
        # The first in any case: then there is one.
        return [not at or len(run) >= MIN_RUN_BYTES for at, run in enumerate(self.runs)]

    @cached_property
    def numbers(self) -> list[int]:
        runs_before = accumulate(self.is_taken)
        return [at + next(runs_before) for at in range(len(self.names))]

    @cached_property
    def groups(self) -> dict[bytes, int]:
        return dict(zip(self.names, self.numbers, strict=True))


def pattern_of(shape: Shape) -> Read:
    """What recognises the heads of one shape.

    It reads the groups of the head at the start of what it is given, and where the head ends; None:
    not of this shape.

    sre compares a literal octet by octet, at 13 instructions each; a whole run at once it can only
    skip.  So it skips the long ones, as groups of a known length, and then they are compared in one
    go: 12,400 instructions for an SDK's head with seven values instead of 13,600 (`python -m
    bench.micro match`).
    """
    pattern = b""
    taken: list[tuple[int, bytes]] = []
    values = iter(group for _, group in shape.lines if group)
    for number, (run, is_taken) in enumerate(zip(shape.runs, shape.is_taken, strict=True)):
        if is_taken:
            taken.append((number + len(taken), run))
            pattern += b"(.{%d}+)" % len(run)
        else:
            pattern += re.escape(run)
        pattern += next(values, b"")
    match = re.compile(pattern, re.DOTALL).match
    runs = itemgetter(*(at for at, _ in taken))
    literals = tuple(run for _, run in taken) if len(taken) > 1 else taken[0][1]

    def read(data: bytes) -> Reading | None:
        found = match(data)
        if found is None:
            return None
        groups = found.groups()
        if runs(groups) != literals:
            return None
        return groups, found.end()

    return read


def request_shape(head: RequestHead, raw: bytes) -> Shape | None:
    """The shape of an accepted request head, or None where it is not plain."""
    if head.is_http_1_0 or not head.keep_alive or len(raw) > MAX_HEAD_BYTES:
        return None
    if not REQUEST_NOT_PLAIN.isdisjoint(head.known) or head.connection_options - {b"keep-alive"}:
        return None
    groups = [REQUEST_GROUPS.get(name, b"") for name, _, _ in head.fields]
    return _shape(raw, head.fields, groups)


def answer_shape(head: AnswerHead, raw: bytes) -> Shape | None:
    """The shape of an accepted answer head, or None where it is not plain."""
    if not head.keep_alive or head.body_length is None or len(raw) > MAX_HEAD_BYTES:
        return None
    if head.status < 200 or head.status in (204, 304):
        return None
    if not ANSWER_NOT_PLAIN.isdisjoint(head.known) or head.connection_options - {b"keep-alive"}:
        return None
    return _shape(raw, head.fields, [_answer_group(name) for name, _, _ in head.fields])


def _shape(raw: bytes, fields: Sequence[Field], groups: list[bytes]) -> Shape | None:
    """Cut the raw head into literals and groups; None if it is not what its fields say.

    `groups` is what each field's group admits, empty where the whole line is literal.

    Each line must be `name: value` exactly, so that what stands in front of a group is what h11
    would accept in front of any value.  A bare LF, which h11 tolerates in answers, could hide a
    line in the first or in the last one.
    """
    start_line, _, rest = raw.partition(b"\r\n")
    literals = [spelt + b": " + value for _, spelt, value in fields]
    if b"\n" in start_line or rest != b"\r\n".join([*literals, b"\r\n"]):
        return None
    names: list[bytes] = []
    for at, group in enumerate(groups):
        if not group:
            continue
        name, spelt, value = fields[at]
        kept = _literal_bytes(name, value)
        if kept is None or not ADMITS[group](value[kept:]):
            return None
        if name in names and name not in REPEATED:
            return None
        names.append(name)
        literals[at] = b"%b: %b" % (spelt, value[:kept])
    return Shape(start_line, literals, groups, names)


def without_values(head: Head, shape: Shape) -> Head:
    """A copy of a head to keep: the values of its groups are nobody else's, and may be secret."""
    kept = copy(head)
    kept.fields = [
        (name, spelt, b"" if name in shape.names else value) for name, spelt, value in head.fields
    ]
    kept.known = {name: value for name, _, value in kept.fields}
    return kept


@lru_cache(MAX_NAMES)
def _answer_group(name: bytes) -> bytes:
    return TEXT if RATE_LIMIT.search(name) else ANSWER_VOLATILE.get(name, b"")


def _literal_bytes(name: bytes, value: bytes) -> int | None:
    """How much of the value is literal in front of the group.

    None for a value that may hold a secret and is not a group: there is no template then.
    """
    if name != b"authorization":
        return 0
    scheme = BEARER.match(value)
    return scheme.end() if scheme else None


class Recognised:
    """The base of what is learned with a template; `hits` says how useful it has been of late.

    `read` is its pattern's.
    """

    __slots__ = ("hits", "read")

    read: Read

    def __init__(self) -> None:
        self.hits = 0


Learned = TypeVar("Learned", bound=Recognised)
Found = tuple[Learned, Reading]


class Templates(Generic[Learned]):
    """What was learned, found by start line; bounded in all that it keeps.

    `find` tries what is known for a start line; `is_looking` says whether to look at the shape of a
    head that nothing recognised; `is_due` whether that shape is worth learning.
    """

    __slots__ = ("_built_s", "_by_line", "_counts", "_max_shapes", "_new_in_a_row", "_shapes")

    def __init__(self, max_shapes: int):
        self._max_shapes = max_shapes
        self._shapes = 0
        self._by_line: dict[bytes, list[Learned]] = {}
        self._counts: dict[bytes, int] = {}
        self._built_s = float("-inf")
        self._new_in_a_row = 0

    def find(self, data: bytes) -> Found[Learned] | None:
        """What recognises the head at the start of `data`, the latest first."""
        known = self._by_line.get(data[: data.find(b"\r\n")])
        if known is None:
            return None
        for at, learned in enumerate(known):
            found = learned.read(data)
            if found is not None:
                if at:
                    known.insert(0, known.pop(at))
                return learned, found
        return None

    def is_looking(self) -> bool:
        """A look costs a tenth of what h11 does, which is for nothing while all shapes are new."""
        return self._new_in_a_row < FLOOD_LOOKS or random() < LOOKS_IN_A_FLOOD

    def is_due(self, shape: Shape, now_s: float) -> bool:
        """Count one more sight of a shape; True when it should be learned now."""
        seen = self._counts.pop(shape.key, 0) + 1
        self._new_in_a_row = self._new_in_a_row + 1 if seen == 1 else 0
        if seen >= SEEN_BEFORE and now_s - self._built_s >= BUILD_PAUSE_S:
            self._built_s = now_s
            self._new_in_a_row = 0
            return True
        if len(self._counts) >= MAX_COUNTED:
            del self._counts[next(iter(self._counts))]
        self._counts[shape.key] = seen
        return False

    def learn(self, shape: Shape, learned: Learned) -> None:
        """Keep it; of many for one line the oldest goes, of many in all the least useful line."""
        learned.read = pattern_of(shape)
        if self._shapes >= self._max_shapes:
            self._evict()
        known = self._by_line.setdefault(shape.start_line, [])
        known.insert(0, learned)
        self._shapes += 1
        while len(known) > MAX_PER_LINE:
            known.pop()
            self._shapes -= 1

    def _evict(self) -> None:
        """The line with the fewest hits goes; half of everybody's hits are forgotten, so that
        what was popular once does not stay for ever."""
        hits = {line: sum(one.hits for one in known) for line, known in self._by_line.items()}
        self._shapes -= len(self._by_line.pop(min(hits, key=hits.__getitem__)))
        for known in self._by_line.values():
            for one in known:
                one.hits //= 2
