"""Templates against h11 in bulk: heads made up at random, learned, mutated, and read both ways.

    python -m tests.fuzz.heads --seconds 60 --seed 1

A difference between the twins (`tests/twins.py`) is told with the head that was learned and the
octets that were read.
`tests/test_wire_template.py` draws from the same sources by hypothesis, which makes small examples
where this makes many.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random

from aigw.wire.gate import HeadError
from aigw.wire.template import ANSWER_VOLATILE, REQUEST_VOLATILE
from tests.fuzz.bulk import Counts, main
from tests.twins import AnswerTwins, RequestTwins, policies

Twins = RequestTwins | AnswerTwins
Maker = Callable[[Random], Twins]

MUTATIONS_A_HEAD = 60
MAX_FIELDS = 12

# ---- what heads are made of ----------------------------------------------------------------------

REQUEST_LINES = [
    *(b"GET /v1/models HTTP/1.1", b"POST /v1/chat/completions HTTP/1.1", b"HEAD / HTTP/1.1"),
    *(b"POST /v1/x?a=%b&c=%%d HTTP/1.1", b"PUT /v1/(.*)+[a]{2} HTTP/1.1", b"GET /v1 HTTP/1.0"),
    *(b"GET http://gw/v1/x HTTP/1.1", b"OPTIONS * HTTP/1.1", b"A!#$%&'*+-.^_`|~ /v1 HTTP/1.1"),
]
STATUS_LINES = [
    *(b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 OK"),
    *(b"HTTP/1.1 429 Too Many Requests", b"HTTP/1.1 500 100% our %b fault", b"HTTP/1.1 204 None"),
    *(b"HTTP/1.1 304 Same", b"HTTP/1.1 103 Early", b"HTTP/1.1 299 a.*[b]\xe9", b"HTTP/1.1  200 OK"),
]
REQUEST_NAMES = [
    *sorted(REQUEST_VOLATILE),
    *(b"host", b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key", b"connection"),
    *(b"content-type", b"user-agent", b"accept", b"anthropic-beta", b"x-aigw-cache", b"via"),
    *(b"transfer-encoding", b"expect", b"te", b"keep-alive", b"upgrade", b"proxy-authorization"),
    *(b"x_api_key", b"a%b", b"a.*|b", b"x-forwarded-proto", b"trailer", b"origin", b"x-plain"),
]
ANSWER_NAMES = [
    *sorted(ANSWER_VOLATILE),
    *(b"content-type", b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer"),
    *(b"x-ratelimit-remaining-requests", b"anthropic-ratelimit-tokens-reset", b"retry-after"),
    *(b"x-aigw-error", b"a%b", b"x-plain", b"vary", b"content-encoding", b"proxy-authenticate"),
]
# Values that the field of that name may well have; others are drawn from VALUES.
FITTING: dict[bytes, list[bytes]] = {
    b"host": [b"gw", b"gw:8080", b"[::1]:80", b"", b"a.*b", b"a/b"],
    b"authorization": [
        *(b"Bearer user1", b"bearer k2", b"BEARER  aigw-x", b"Bearer sk-own", b"Bearer\tuser1"),
        *(b"Bearer \tuser1", b"Basic dTpw", b"Bearer", b"user1", b"Bearer a b", b"Bearer  "),
    ],
    b"content-length": [b"0", b"5", b"007", b"123456789012345678", b"+5", b"5_0", b"5, 5", b"-1"],
    b"transfer-encoding": [b"chunked", b"Chunked", b"gzip"],
    b"connection": [b"keep-alive", b"Keep-Alive", b"close", b"x-plain", b", keep-alive,", b""],
    b"content-type": [b"application/json", b"text/event-stream", b"Text/Event-Stream; a=b"],
    b"keep-alive": [b"timeout=5", b"timeout=5, max=9"],
    b"expect": [b"100-continue"],
    b"x-forwarded-for": [b"10.0.0.1", b"10.0.0.1, 10.0.0.2", b"::1,", b","],
}
VALUES = [
    *(
        b"1",
        b"a",
        b"a b",
        b"a, b;c=d",
        b"100%",
        b"%s %b %.0b",
        b"(.*)",
        b"\\r\\n",
        b"",
        b"[",
        b"\xe9",
    ),
    *(b"user1", b"k2", b"aigw-x", b"sk-own", b"Bearer user1", b"a\tb", b"00-4bf92f-01", b"x" * 130),
]
# Most heads are written as everybody writes them; of the others every line may be odd.
PLAIN_PART = 0.7
ODD_COLONS = [b": "] * 8 + [b":", b":  ", b":\t", b": \t", b" : "]
ODD_LINE_ENDS = [b"\r\n"] * 8 + [b"\n", b" \r\n", b"\t\r\n", b"\r\n ", b"\r\r\n"]

# ---- what heads are changed by -------------------------------------------------------------------

FITTING_GROUPS = [b"1", b"23", b"007", b"a", b"user1", b"k2", b"aigw-z", b"sk-other", b"a,b", b"%b"]
HOSTILE = [
    *(
        b"\n",
        b"\r",
        b"\r\n",
        b"\0",
        b"\r\n ",
        b"\r\n\t",
        b"\r\n\r\n",
        b"\n\n",
        b"\r\nX: y",
        b" ",
        b"\t",
    ),
    *(
        b"+5",
        b"-5",
        b"5_0",
        b"0x5",
        b"5 ",
        b" 5",
        b"5,5",
        b"9" * 18,
        b"9" * 19,
        b"\xd9\xa1",
        b"5.0",
    ),
    *(b"\r\nContent-Length: 7", b"\nContent-Length: 7", b"\r\nTransfer-Encoding: chunked"),
    *(
        b"\r\nX-API-Key: user1",
        b"\r\nContent-Length : 7",
        b"\x0b",
        b"\x0c",
        b"\x7f",
        b"\x80",
        b"\xff",
    ),
    *(b"\xc2\xa0", b"\x85", b"", b"a b", b"a\tb", b" a", b"a ", b":", b";", b"x" * 200, b"\x1f"),
]


def make_head(random: Random, first_lines: list[bytes], names: list[bytes]) -> bytes:
    """A head that may or may not be acceptable."""
    lines = [random.choice(first_lines)]
    chosen = [random.choice(names) for _ in range(random.randrange(MAX_FIELDS))]
    if first_lines is REQUEST_LINES and random.random() < 0.95:
        chosen.insert(random.randrange(len(chosen) + 1), b"host")
    if first_lines is STATUS_LINES and random.random() < 0.8:
        framing = random.choice([b"content-length", b"transfer-encoding"])
        chosen.insert(random.randrange(len(chosen) + 1), framing)
    fields = [(respelt(random, name), make_value(random, name)) for name in chosen]
    if fields and random.random() < 0.1:
        fields.insert(random.randrange(len(fields) + 1), random.choice(fields))
    if random.random() < PLAIN_PART:
        lines += [b"%b: %b" % field for field in fields]
        return b"\r\n".join(lines) + b"\r\n\r\n"
    lines += [name + random.choice(ODD_COLONS) + value for name, value in fields]
    return b"".join(line + random.choice(ODD_LINE_ENDS) for line in [*lines, b""])


def make_value(random: Random, name: bytes) -> bytes:
    fitting = FITTING.get(name)
    if fitting is None:
        return random.choice(VALUES)
    # The first is plain: a head must have a chance to be learned.
    return fitting[0] if random.random() < 0.6 else random.choice(fitting)


def respelt(random: Random, name: bytes) -> bytes:
    kind = random.randrange(4)
    if kind == 0:
        return name.title()
    if kind == 1:
        return name.swapcase()
    return name


def make_request(random: Random) -> RequestTwins:
    """Raises `HeadError` where the head is not acceptable."""
    raw = make_head(random, REQUEST_LINES, REQUEST_NAMES)
    end = raw.find(b"\r\n\r\n") + 4  # the gateway finds the end so, before h11 sees anything
    if end < 4:
        raise HeadError("no end")
    return RequestTwins(raw[:end], random.choice(policies()))


def make_answer(random: Random) -> AnswerTwins:
    """Raises `HeadError` where the head is not acceptable."""
    return AnswerTwins(make_head(random, STATUS_LINES, ANSWER_NAMES))


# ---- how heads are changed -----------------------------------------------------------------------


def mutate(random: Random, raw: bytes, spans: list[tuple[int, int]]) -> bytes:
    """Change a head in one to three places; `spans` are those of its groups, in order.

    The groups are filled first and from the back, so that the spans stay true.
    """
    data = raw
    for start, end in reversed(spans):
        if random.random() < 0.4:
            filling = FITTING_GROUPS if random.random() < 0.85 else HOSTILE
            data = data[:start] + random.choice(filling) + data[end:]
    for _ in range(random.choice([0, 0, 1, 1, 2])):
        data = random.choice(CHANGES)(random, data, spans)
    return data


def insert(random: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(HOSTILE) + data[at:]


def insert_at_group(random: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    """At the edge of where a group stands in the head that was learned, or near it."""
    if not spans:
        return data
    at = random.choice(random.choice(spans))
    return data[:at] + random.choice(HOSTILE) + data[at:]


def delete(random: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at + random.randrange(1, 5) :]


def replace(random: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]


def respell(random: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at : at + 1].swapcase() + data[at + 1 :]


def repeat_line(random: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    lines = data.split(b"\r\n")
    at = random.randrange(len(lines))
    lines.insert(random.randrange(len(lines)), lines[at])
    return b"\r\n".join(lines)


def swap_lines(random: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    lines = data.split(b"\r\n")
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\r\n".join(lines)


def append(random: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    """A body, or what is pipelined."""
    return data + random.choice([b"{}", data, b"\r\n", b"\0", b"GET / HTTP/1.1\r\n", b" folded"])


CHANGES: list[Callable[[Random, bytes, list[tuple[int, int]]], bytes]] = [
    *(insert, insert_at_group, delete, replace, respell, repeat_line, swap_lines, append)
]


def spans_of(twins: Twins, raw: bytes) -> list[tuple[int, int]]:
    """Where the groups of the learned head are."""
    found = twins.plain.match(raw) if twins.pattern is not None else None
    assert found is not None, raw
    return [found.span(number) for number in range(1, len(found.groups()) + 1)]


# ---- the bulk ------------------------------------------------------------------------------------


def attempt(random: Random, counts: Counts) -> None:
    """Make one head and, if it can be learned, read many others by its template."""
    make: Maker = random.choice((make_request, make_answer))
    try:
        twins = make(random)
    except HeadError:
        counts["refused"] += 1
        return
    if twins.pattern is None:
        counts["not plain"] += 1
        return
    counts["learned"] += 1
    spans = spans_of(twins, twins.raw)
    assert twins.check(twins.raw)
    for _ in range(MUTATIONS_A_HEAD):
        data = mutate(random, twins.raw, spans)
        counts["read"] += 1
        try:
            counts["recognised"] += twins.check(data)
        except AssertionError as difference:
            raise AssertionError(f"{twins.raw!r}\n  reads {data!r}\n  {difference}") from None


if __name__ == "__main__":
    sys.exit(main(attempt, "Templates against h11.", "tests.fuzz.heads"))
