"""Templates against h11 (`tests/twins.py` has the claim), and what the table of them keeps."""

from __future__ import annotations

import re
from random import Random
from types import FunctionType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aigw.wire.gate import HeadError
from aigw.wire.head import AnswerReader, read_request
from aigw.wire.template import (
    BUILD_PAUSE_S,
    FLOOD_LOOKS,
    LOOKS_IN_A_FLOOD,
    MAX_COUNTED,
    MAX_HEAD_BYTES,
    MAX_PER_LINE,
    SEEN_BEFORE,
    Recognised,
    Shape,
    Templates,
    answer_shape,
    request_shape,
)
from tests.conversation import Gateway, Upstream, answering, converse, ok, toml
from tests.fuzz import heads
from tests.fuzz.bulk import Bounds, run
from tests.twins import AnswerTwins, RequestTwins, policies

PLAIN = (
    b"POST /v1/chat HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer user1\r\nX-User-Id: u\r\n"
    b"X-Forwarded-For: 10.0.0.1\r\nX-Plain: a\r\nContent-Length: 5\r\n\r\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 10:00:00 GMT\r\nContent-Length: 5\r\n"
    b"X-RateLimit-Reset: 6m0s\r\nX-Plain: a\r\n\r\n"
)


# ---- the claim -----------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_a_request_pattern_matches_h11_reads_alike(random: Random) -> None:
    claim_holds(random, heads.make_request)


@given(st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_an_answer_pattern_matches_h11_reads_alike(random: Random) -> None:
    claim_holds(random, heads.make_answer)


def claim_holds(random: Random, make: heads.Maker) -> None:
    try:
        twins = make(random)
    except HeadError:
        return
    if twins.pattern is None:
        return
    assert twins.check(twins.raw)
    spans = heads.spans_of(twins, twins.raw)
    for _ in range(4):
        twins.check(heads.mutate(random, twins.raw, spans))


def test_a_short_run_of_the_fuzzer() -> None:
    counts = run(heads.attempt, Bounds(seed=1, count=700))
    assert counts["learned"] > 50
    assert counts["recognised"] > counts["read"] / 4


# What stands in a group's place: the field, the octets, is it recognised?
FILLED = [
    (b"Content-Length: 5", b"Content-Length: 23", True),
    (b"Content-Length: 5", b"Content-Length: 007", True),
    (b"Content-Length: 5", b"Content-Length: 123456789012345678", True),
    (b"Content-Length: 5", b"Content-Length: 1234567890123456789", False),
    (b"Content-Length: 5", b"Content-Length: +5", False),
    (b"Content-Length: 5", b"Content-Length: 5_0", False),
    (b"Content-Length: 5", b"Content-Length: ", False),
    (b"Content-Length: 5", b"Content-Length: 5 ", False),
    (b"Content-Length: 5", b"Content-Length: \xd9\xa1", False),
    (b"Content-Length: 5", b"Content-Length : 5", False),
    (b"Content-Length: 5", b"content-length: 5", False),
    (b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6", False),
    (b"Content-Length: 5", b"Content-Length: 5\nX: y", False),
    (b"X-Plain: a", b"X-Plain: b", False),
    (b"X-Plain: a", b"X-Plain: a\r\n b", False),
    (b"X-Plain: a\r\n", b"", False),
]
FILLED_IN_REQUESTS = [
    *FILLED,
    (b"Bearer user1", b"Bearer sk-another", True),
    (b"Bearer user1", b"Bearer \xe9", False),
    (b"Bearer user1", b"Bearer a\0b", False),
    (b"Bearer user1", b"Bearer a b", False),
    (b"Bearer user1", b"Basic dTpw", False),
    (b"X-User-Id: u", b"X-User-Id: " + b"u" * 128, True),
    (b"X-User-Id: u", b"X-User-Id: " + b"u" * 129, False),
    (b"10.0.0.1", b"10.0.0.1, 10.0.0.2", True),
    (b"10.0.0.1", b"10.0.0.1 ", False),
    (b"POST", b"PUT", False),
    (b"/v1/chat", b"/v1/char", False),
]
FILLED_IN_ANSWERS = [
    *FILLED,
    (b"6m0s", b"1s", True),
    (b"6m0s", b"1s\r\nSet-Cookie: a=b", False),
    (b"200 OK", b"200 Ok", False),
    (b"HTTP/1.1", b"HTTP/1.0", False),
]


@pytest.mark.parametrize(("old", "new", "recognised"), FILLED_IN_REQUESTS)
def test_what_a_requests_groups_admit(old: bytes, new: bytes, recognised: bool) -> None:
    assert PLAIN.count(old) == 1
    for policy in policies():
        assert RequestTwins(PLAIN, policy).check(PLAIN.replace(old, new)) is recognised


@pytest.mark.parametrize(("old", "new", "recognised"), FILLED_IN_ANSWERS)
def test_what_an_answers_groups_admit(old: bytes, new: bytes, recognised: bool) -> None:
    assert ANSWER.count(old) == 1
    assert AnswerTwins(ANSWER).check(ANSWER.replace(old, new)) is recognised


# ---- which heads are plain -----------------------------------------------------------------------

NOT_PLAIN_REQUESTS = {
    "HTTP/1.0": PLAIN.replace(b"/1.1\r", b"/1.0\r"),
    "closing": PLAIN.replace(b"X-Plain: a", b"Connection: close"),
    "naming a field in Connection": PLAIN.replace(b"X-Plain: a", b"Connection: x-plain"),
    "chunked": PLAIN.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "awaiting 100": PLAIN.replace(b"X-Plain: a", b"Expect: 100-continue"),
    "upgrading": PLAIN.replace(b"X-Plain: a", b"Upgrade: h2c"),
    "from a browser": PLAIN.replace(b"X-Plain: a", b"Origin: https://app.example"),
    "a tab behind the scheme": PLAIN.replace(b"Bearer ", b"Bearer\t"),
    "another scheme": PLAIN.replace(b"Bearer", b"Basic"),
    "a repeated group": PLAIN.replace(b"X-Plain: a", b"x-forwarded-for: ::1"),
    "no blank behind a colon": PLAIN.replace(b"X-Plain: a", b"X-Plain:a"),
    "two blanks behind a colon": PLAIN.replace(b"X-Plain: a", b"X-Plain:  a"),
    "a blank at the end": PLAIN.replace(b"X-Plain: a", b"X-Plain: a "),
    "an empty group": PLAIN.replace(b"Bearer user1", b""),
    "8-bit in a group": PLAIN.replace(b"user1", b"\xe9"),
    "a blank in a credential": PLAIN.replace(b"user1", b"user1 x"),
    "an unfit user": PLAIN.replace(b"Id: u", b"Id: u v"),
    "long": PLAIN.replace(b"X-Plain: a", b"X-Plain: " + b"a" * MAX_HEAD_BYTES),
}


@pytest.mark.parametrize("name", NOT_PLAIN_REQUESTS)
def test_requests_that_are_not_plain(name: str) -> None:
    raw = NOT_PLAIN_REQUESTS[name]
    assert raw != PLAIN
    assert request_shape(read_request(raw), raw) is None


NOT_PLAIN_ANSWERS = {
    "closing": ANSWER.replace(b"X-Plain: a", b"Connection: close"),
    "HTTP/1.0": ANSWER.replace(b"/1.1", b"/1.0"),
    "naming a field in Connection": ANSWER.replace(b"X-Plain: a", b"Connection: x-plain"),
    "ended by the connection": ANSWER.replace(b"Content-Length: 5\r\n", b""),
    "equal lengths": ANSWER.replace(b"X-Plain: a", b"Content-Length: 5"),
    "204": ANSWER.replace(b"200", b"204"),
    "304": ANSWER.replace(b"200", b"304"),
    "a line hidden in the first": (
        b"HTTP/1.1 200 OK\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"
    ),
    "blanks hidden in the last": ANSWER.replace(b"a\r\n\r\n", b"a  \n\n"),
    "folded": ANSWER.replace(b"X-Plain: a", b"X-Plain: a\r\n b"),
    "bare LF": ANSWER.replace(b"X-Plain: a\r\n", b"X-Plain: a\n"),
    "upgrading": ANSWER.replace(b"X-Plain: a", b"Upgrade: h2c"),
}


@pytest.mark.parametrize("name", NOT_PLAIN_ANSWERS)
def test_answers_that_are_not_plain(name: str) -> None:
    raw = NOT_PLAIN_ANSWERS[name]
    assert raw != ANSWER
    head = AnswerReader(65536).feed(raw)
    assert head is not None
    assert answer_shape(head, raw) is None


def test_the_plain_ones_are_plain() -> None:
    head = AnswerReader(65536).feed(ANSWER)
    assert head is not None
    assert answer_shape(head, ANSWER) is not None
    assert request_shape(read_request(PLAIN), PLAIN) is not None


# ---- the table -----------------------------------------------------------------------------------


def shape(path: bytes = b"/", field: bytes = b"x-plain: a") -> Shape:
    raw = b"GET %b HTTP/1.1\r\nHost: gw\r\n%b\r\nX-API-Key: k\r\n\r\n" % (path, field)
    found = request_shape(read_request(raw), raw)
    assert found is not None
    return found


def octets(of: Shape) -> bytes:
    """A head of that shape, and what comes after it."""
    lines = [literal + (b"1" if group else b"") for literal, group in of.lines]
    return b"\r\n".join([of.start_line, *lines]) + b"\r\n\r\nbody"


def learned(table: Templates[Recognised], of: Shape, hits: int = 0) -> Recognised:
    one = Recognised()
    one.hits = hits
    table.learn(of, one)
    return one


def sizes(table: Templates[Recognised]) -> tuple[int, int, int]:
    """Templates kept, the most of them for one start line, shapes counted."""
    per_line = [len(known) for known in table._by_line.values()]
    return sum(per_line), max(per_line, default=0), len(table._counts)


def test_a_shape_is_due_when_it_has_been_seen_often_enough() -> None:
    table: Templates[Recognised] = Templates(4)
    dues = [table.is_due(shape(), float(at)) for at in range(SEEN_BEFORE)]
    assert dues == [False] * (SEEN_BEFORE - 1) + [True]
    assert sizes(table) == (0, 0, 0)  # and is counted anew from here


def test_values_in_groups_make_no_other_shape_and_all_else_does() -> None:
    one = shape()
    for raw, same in (
        (octets(one)[:-4].replace(b"X-API-Key: 1", b"X-API-Key: another"), True),
        (octets(one)[:-4].replace(b"x-plain: a", b"x-plain: b"), False),
        (octets(one)[:-4].replace(b"x-plain", b"X-Plain"), False),
        (octets(one)[:-4].replace(b"X-API-Key", b"api-key"), False),
    ):
        other = request_shape(read_request(raw), raw)
        assert other is not None
        assert (other.key == one.key) is same


def test_no_more_than_one_template_is_made_in_a_pause() -> None:
    table: Templates[Recognised] = Templates(4)
    shapes = [shape(b"/%d" % number) for number in range(3)]
    for one in shapes:
        for _ in range(SEEN_BEFORE - 1):
            assert not table.is_due(one, 100.0)
    assert [table.is_due(one, 100.0) for one in shapes] == [True, False, False]
    early = 100.0 + BUILD_PAUSE_S * 0.9
    assert [table.is_due(one, early) for one in shapes] == [False, False, False]
    late = 100.0 + BUILD_PAUSE_S * 1.1
    assert [table.is_due(one, late) for one in shapes[1:]] == [True, False]


def test_in_a_flood_of_new_shapes_few_heads_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    table: Templates[Recognised] = Templates(4)
    for number in range(FLOOD_LOOKS):
        assert table.is_looking()
        table.is_due(shape(b"/%d" % number), 0.0)
    chances = [LOOKS_IN_A_FLOOD, 0.0, 0.99]
    monkeypatch.setattr("aigw.wire.template.random", iter(chances).__next__)
    assert [table.is_looking() for _ in chances] == [False, True, False]
    table.is_due(shape(b"/0"), 0.0)  # one that comes again: it is no flood
    assert table.is_looking()


def test_what_is_learned_at_first_sight_is_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigw.wire.template.SEEN_BEFORE", 1)
    table: Templates[Recognised] = Templates(4)
    for number in range(FLOOD_LOOKS * 2):
        assert table.is_due(shape(b"/%d" % number), float(number))
        assert table.is_looking()


def test_a_flood_of_shapes_is_counted_within_bounds() -> None:
    table: Templates[Recognised] = Templates(4)
    for number in range(MAX_COUNTED * 3):
        assert not table.is_due(shape(b"/%d" % number), 0.0)
    assert sizes(table) == (0, 0, MAX_COUNTED)
    # A shape that is asked for all along is not forgotten in the flood.
    popular = shape(b"/popular")
    seen = 0
    while not table.is_due(popular, 0.0):
        seen += 1
        for number in range(MAX_COUNTED // 2):
            table.is_due(shape(b"/%d-%d" % (seen, number)), 0.0)
    assert seen == SEEN_BEFORE - 1


def test_the_oldest_of_one_line_goes_and_the_latest_used_stays() -> None:
    table: Templates[Recognised] = Templates(100)
    shapes = [shape(field=b"x-plain: %d" % number) for number in range(MAX_PER_LINE + 1)]
    kept = [learned(table, one) for one in shapes[:MAX_PER_LINE]]
    found = table.find(octets(shapes[0]))
    assert found is not None
    assert found[0] is kept[0]
    learned(table, shapes[MAX_PER_LINE])
    assert sizes(table)[:2] == (MAX_PER_LINE, MAX_PER_LINE)
    assert [table.find(octets(one)) is not None for one in shapes] == [
        *(True, False),
        *[True] * (MAX_PER_LINE - 1),
    ]


def test_the_least_useful_line_goes() -> None:
    table: Templates[Recognised] = Templates(3)
    popular = learned(table, shape(b"/popular"), hits=1000)
    for number in range(20):
        learned(table, shape(b"/%d" % number), hits=number % 3)
        assert table.find(octets(shape(b"/%d" % number))) is not None
        assert sizes(table)[0] <= 3
        if popular.hits > 2:
            assert table.find(octets(shape(b"/popular"))) is not None
    # What was popular once does not stay for ever.
    assert popular.hits < 1000 / 2**10


def test_the_whole_table_is_bounded() -> None:
    table: Templates[Recognised] = Templates(10)
    random = Random(1)
    for _ in range(300):
        path, field = b"/%d" % random.randrange(4), b"x-plain: %d" % random.randrange(50)
        one = shape(path, field)
        learned(table, one, hits=random.randrange(5))
        assert table.find(octets(one)) is not None
        assert sizes(table)[0] == table._shapes <= 10
    assert sizes(table)[0] > MAX_PER_LINE


def test_a_match_ends_with_the_head() -> None:
    table: Templates[Recognised] = Templates(3)
    one = learned(table, shape())
    found = table.find(octets(shape()))
    assert found is not None
    assert found[0] is one
    assert octets(shape())[found[1][1] :] == b"body"
    assert table.find(b"") is table.find(b"GET / HTTP/1.1\r\n") is None


# ---- no secrets ----------------------------------------------------------------------------------

SECRET = re.compile(rb"S3CRET|S3KRIT")
# Fields that hold what is somebody's own, each with a value of its own.
REQUEST = (
    b"GET /v1/models HTTP/1.1\r\nHost: gw\r\nX-API-Key: user1\r\n"
    b"Authorization: Bearer S3CRET-a\r\napi-key: S3CRET-b\r\nx-goog-api-key: aigw-S3CRET-c\r\n"
    b"Cookie: session=S3CRET-d\r\nX-User-Id: S3CRET-e\r\nX-App-Id: S3CRET-f\r\n"
    b"Idempotency-Key: S3CRET-g\r\n\r\n"
)


def held_octets(root: object, seen: set[int]) -> list[bytes]:
    """All octets that an object graph holds, patterns and the methods of patterns included."""
    if id(root) in seen or isinstance(root, type):
        return []
    seen.add(id(root))
    if isinstance(root, bytes):
        return [root]
    if isinstance(root, str):
        return [root.encode()]
    parts: list[object] = []
    if isinstance(root, re.Pattern):
        parts.append(root.pattern)
    elif isinstance(root, dict):
        parts += [*root.keys(), *root.values()]
    elif isinstance(root, list | tuple | set | frozenset):
        parts += root
    elif type(root).__name__ == "builtin_function_or_method":
        parts.append(root.__self__)  # type: ignore[attr-defined]
    elif isinstance(root, FunctionType):
        parts += [cell.cell_contents for cell in root.__closure__ or ()]
    elif type(root).__module__.startswith("aigw."):
        for kind in type(root).__mro__:
            parts += [getattr(root, name, None) for name in getattr(kind, "__slots__", ())]
        parts += vars(root).values() if hasattr(root, "__dict__") else []
    return [found for part in parts for found in held_octets(part, seen)]


@pytest.mark.parametrize("credentials", ["", 'credentials = "client"'])
def test_no_template_holds_a_secret(credentials: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of counts, start lines, patterns, formats and all that was learned with them."""
    monkeypatch.setattr("aigw.wire.template.BUILD_PAUSE_S", 0.0)

    async def conversation() -> None:
        answer = ok(b"", b"Set-Cookie: S3KRIT-a\r\nX-Request-Id: S3KRIT-b\r\n")
        async with (
            Upstream(answering(*[answer] * 20)) as upstream,
            Gateway(toml(upstream, upstream=credentials)) as gateway,
        ):
            client = await gateway.client()
            for _ in range(SEEN_BEFORE + 2):
                for request in (REQUEST, REQUEST.replace(b"user1", b"wrong-S3CRET")):
                    await client.send(request)
                    assert (await client.answer()).status in (200, 401)
            known, (group,) = gateway.services.known, gateway.services.groups()
            assert known.find(REQUEST) is not None
            answers = group.members[0].answers
            assert answers.find(answer) is not None
            for kept in (known._with_key, known._without_key, answers):
                held = held_octets(kept, set())
                assert any(b"HTTP/1.1" in found for found in held)
                assert [found for found in held if SECRET.search(found)] == []

    converse(conversation())


def test_an_answer_may_set_several_cookies() -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nset-cookie: a=1; path=/\r\nContent-Length: 2\r\n"
        b"set-cookie: b=%d; path=/\r\n\r\n"
    )
    twins = AnswerTwins(raw % 1)
    assert twins.check(raw % 2)
    assert twins.known.length == twins.shape.groups[b"content-length"] if twins.shape else False
