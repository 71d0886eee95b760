"""Request heads, made up and mutated: what the gateway accepts has one meaning, and keeps it.

    python -m tests.fuzz.requests --seconds 60 --seed 1

An accepted head must be one by the letter (`meaning.py`), with h11 and the letter agreeing on every
field; and the head that is then written for an upstream must say the same by the letter, with one
Host, the gateway's credential and none that was withheld.
"""

from __future__ import annotations

import sys
from random import Random

import h11

from aigw.policy import Policy
from aigw.policy.keys import credentials_in, gateway_fields, identify
from aigw.wire.gate import CREDENTIAL_FIELDS, METHODS_REFUSED
from aigw.wire.head import HeadError, RequestHead, read_request
from aigw.wire.rewrite import REQUEST_WITHHELD, request_head, start_of_request
from tests.fuzz.bulk import Counts, main
from tests.fuzz.heads import CHANGES, REQUEST_LINES, REQUEST_NAMES, make_head
from tests.fuzz.meaning import REQUEST_LINE, Ambiguous, Head, body_length, read_head
from tests.twins import policies

ODD_LINES = [
    *(b"GET  /v1 HTTP/1.1", b"GET /v1  HTTP/1.1", b" GET /v1 HTTP/1.1", b"GET /v1 HTTP/1.1 "),
    *(
        b"GET\t/v1\tHTTP/1.1",
        b"GET /v1",
        b"GET /v1 HTTP/2.0",
        b"GET /v1 HTTP/1.2",
        b"GET /a b HTTP/1.1",
    ),
    *(b"GET /v1 http/1.1", b"GET /v1 HTTP/01.1", b"CONNECT gw:443 HTTP/1.1", b"TRACE / HTTP/1.1"),
    *(
        b"GET //v1 HTTP/1.1",
        b"GET v1 HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET /v1#a HTTP/1.1",
        b"PRI * HTTP/2.0",
    ),
    *(b"GET http://a@gw/v1 HTTP/1.1", b"GET ftp://gw/v1 HTTP/1.1", b"GET /\xc3\xa9 HTTP/1.1"),
]
ODD_NAMES = [
    *(b"content_length", b"Transfer_Encoding", b"x_api_key", b"Content-Length", b"Content-length"),
    *(b"TRANSFER-ENCODING", b"Host", b"hOST", b"Connection", b"cookie", b"x-user-id", b"X-App-Id"),
    *(
        b"proxy-connection",
        b"x-aigw-error",
        b"Content\xadLength",
        b"a b",
        b"(a)",
        b"",
        b"content-lengt\xe8",
    ),
]
ODD_CONNECTIONS = [
    *(b"content-length", b"transfer-encoding, close", b"x-api-key", b"Authorization", b"host"),
    *(b"content-type", b"close, content-encoding", b"api-key,x-goog-api-key"),
]


def make(random: Random) -> bytes:
    """A head that may or may not be acceptable."""
    lines = ODD_LINES if random.random() < 0.1 else REQUEST_LINES
    names = REQUEST_NAMES + ODD_NAMES if random.random() < 0.3 else REQUEST_NAMES
    head = make_head(random, lines, names)
    if lines is ODD_LINES or (lines is REQUEST_LINES and b"host:" not in head.lower()):
        head = head.replace(b"\r\n", b"\r\nHost: gw\r\n", 1)
    if random.random() < 0.1:
        field = b"\r\nConnection: " + random.choice(ODD_CONNECTIONS) + b"\r\n"
        head = head.replace(b"\r\n", field, 1)
    for _ in range(random.choice((0, 0, 0, 1, 1, 2, 3))):
        head = random.choice(CHANGES)(random, head, [])
    return head


def attempt(random: Random, counts: Counts) -> None:
    """One head, as the gateway cuts it off what arrives."""
    data = make(random)
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        counts["without an end"] += 1
        return
    policy = random.choice(policies())
    counts["accepted" if check(data[:end], policy) else "refused"] += 1


def check(raw: bytes, policy: Policy) -> bool:
    """Is the head accepted?  AssertionError where it should not be, or is passed on wrong."""
    try:
        head = read_request(raw)
    except HeadError as refusal:
        assert "\n" not in str(refusal)
        return False
    try:
        letter = read_head(raw, REQUEST_LINE)
        length = body_length(letter, letter.start[2])
    except Ambiguous as why:
        raise AssertionError(f"accepted, but {why}: {raw!r}") from None
    assert letter.size == len(raw), raw
    assert letter.start == (head.method, head.target, b"1.0" if head.is_http_1_0 else b"1.1"), raw
    assert [by_letter(*field) for field in letter.fields] == [f[1:] for f in head.fields], raw
    assert (length or 0) == head.body_length, raw
    assert head.method not in METHODS_REFUSED, raw
    assert h11_fields(raw) == [(name.lower(), value) for _, name, value in head.fields], raw
    check_written(raw, head, policy)
    return True


def by_letter(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """As h11 keeps it: a coding's name in lower case."""
    return name, value.lower() if name.lower() == b"transfer-encoding" else value


def h11_fields(raw: bytes) -> list[tuple[bytes, bytes]]:
    """What h11 by itself reads."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=len(raw))
    server.receive_data(raw)
    event = server.next_event()
    assert isinstance(event, h11.Request), raw
    return [(bytes(name), bytes(value)) for name, value in event.headers]


def check_written(raw: bytes, head: RequestHead, policy: Policy) -> None:
    """The head for an upstream says the same, but for what is withheld and put in."""
    upstream = policy.upstreams[0]
    ours = gateway_fields(policy.keys, head.known)
    withheld, own = ours, b""
    if upstream.credential_lines is not None:
        withheld = CREDENTIAL_FIELDS | {upstream.credential_field}
        own = upstream.credential_lines[0]
    start = start_of_request(head.method, b"/v1", upstream.members[0].host_field)
    written = request_head(head, start, own, withheld)
    try:
        letter = read_head(written, REQUEST_LINE)
        length = body_length(letter, b"1.1") or 0
    except Ambiguous as why:
        raise AssertionError(f"written as {written!r} ({why}) from {raw!r}") from None
    assert letter.size == len(written), written
    assert letter.start == (head.method, b"/v1", b"1.1"), written
    assert length == head.body_length, (raw, written)
    assert letter.values(b"host") == [upstream.members[0].host_field], written
    check_fields(letter, head, own, withheld)
    # Whoever may use the gateway by these credentials, the upstream can't.
    left = credentials_in({name.lower(): value for name, value in letter.fields})
    strangers = [credential for credential in left if credential[1] != b"sk-upstream"]
    key, _ = identify(policy.keys, strangers, 0.0)
    assert key is None, (raw, written)
    words = {word for name in CREDENTIAL_FIELDS for v in letter.values(name) for word in v.split()}
    assert not {b"user1", b"k2"} & words, (raw, written)


def check_fields(letter: Head, head: RequestHead, own: bytes, withheld: frozenset[bytes]) -> None:
    """Each field that passes was sent so, in this order; none of those withheld has passed."""
    names = [name.lower() for name, _ in letter.fields[1:]]
    framed = [(b"Transfer-Encoding", b"chunked")] if head.is_chunked else []
    put_in = [
        (line.partition(b": ")[0], line.partition(b": ")[2]) for line in own.split(b"\r\n")[:-1]
    ]
    passed = letter.fields[1 : len(letter.fields) - len(framed) - len(put_in)]
    assert letter.fields[1 + len(passed) :] == framed + put_in, letter
    sent = iter([(name, value) for _, name, value in head.fields])
    assert all(field in sent for field in passed), (letter, head.fields)
    forbidden = (REQUEST_WITHHELD | withheld) - {b"host"}
    assert not forbidden & set(names[: len(passed)]), (letter, head.fields)


if __name__ == "__main__":
    sys.exit(main(attempt, "Request heads against the letter.", "tests.fuzz.requests"))
