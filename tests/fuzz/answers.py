"""An upstream's answers, made up and mutated, read in pieces and written for a client.

    python -m tests.fuzz.answers --seconds 60 --seed 1

However an answer is cut into reads, it comes to the same.  Where the client is given a whole
answer, h11 had found the upstream's whole too, and both say the same: status and body.  Where h11
finds the upstream's cut or malformed, the client's is not whole either.  What is written has one
framing and lines that cannot be split.
"""

from __future__ import annotations

import re
import sys
from random import Random
from typing import NamedTuple

import h11

from aigw.wire.framing import BodyReader, FramingError, plan_answer
from aigw.wire.head import AnswerHead, AnswerReader, HeadError
from aigw.wire.rewrite import ANSWER_WITHHELD, answer_head
from tests.fuzz.bodies import make_chunks
from tests.fuzz.bulk import Counts, cuts_of, main
from tests.fuzz.heads import ANSWER_NAMES, CHANGES, STATUS_LINES, make_head
from tests.fuzz.meaning import TOKEN

# What is written for a client.  Of control characters only those that could split or cut a line are
# refused in an upstream's answer; the others change nothing in fields that frame nothing.
FIRST_LINE = re.compile(rb"HTTP/1\.1 [1-5][0-9][0-9] [^\r\n\0]*\r\n")
LINE = re.compile(rb"(%b): [^\r\n\0]*\r\n" % TOKEN)
MAX_HEAD_BYTES = 4096
OWN_LINES = b"x-own: 1\r\n"
METHODS = [b"GET"] * 6 + [b"HEAD"]
PLAIN_STATUS_LINES = [b"HTTP/1.1 200 OK"] * 4 + [
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 404 No",
    b"HTTP/1.1 204 No",
]
INTERIM = [
    *(b"HTTP/1.1 103 Early\r\nLink: <a>\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    *(b"HTTP/1.1 101 Up\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"HTTP/1.1 199 \r\n\r\n"),
    b"HTTP/1.1 100\r\nContent-Length: 5\r\n\r\n",
]
FRAMINGS = [
    *(b"Content-Length: %d", b"Content-Length: %d", b"Transfer-Encoding: chunked"),
    *(b"Transfer-Encoding: chunked", b"X-No: framing"),
]
ODD_FRAMINGS = [
    *(
        b"Content-Length: +%d",
        b"Content-Length: %d, %d",
        b"Content-Length: %d\r\nContent-Length: 3",
    ),
    *(b"Content-Length: %d\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked, gzip"),
    *(b"Transfer-Encoding: chunked\r\nContent-Length: %d", b"Transfer-Encoding : chunked"),
    *(b"Transfer-Encoding: xchunked", b"Content-Length: %d\nX: y", b"Content-Length: 1_0"),
    *(b"Content-Length:\t%d\t", b"Content-Length: %d;", b"Transfer-Encoding: identity"),
    *(b"Transfer-Encoding:\r\n chunked", b"Content-Length: 9999999999999999999"),
]


class Outcome(NamedTuple):
    """What a client was given: `how` is refused, waiting (for a head), cut, or whole."""

    how: str
    status: int = 0
    out: bytes = b""
    ends_by_close: bool = False
    interim: int = 0


def make(random: Random) -> bytes:
    """All that an upstream sends for one request, and perhaps more."""
    oddity = random.choice((0.0, 0.0, 0.1, 0.5))
    if random.random() < 0.3:
        head = make_head(random, STATUS_LINES, ANSWER_NAMES)
    else:
        framing = random.choice(ODD_FRAMINGS if random.random() < oddity else FRAMINGS)
        head = random.choice(PLAIN_STATUS_LINES) + b"\r\nDate: x\r\n" + framing + b"\r\n\r\n"
    if b"chunked" in head.lower():
        body = make_chunks(random)
    else:
        body = random.randbytes(random.randrange(30))
    said = len(body) if random.random() >= oddity else random.randrange(40)
    head = head.replace(b"%d", b"%d" % said)
    while oddity and random.random() < 0.4:
        head = random.choice(CHANGES)(random, head, [])
    interim = b"".join(random.choice(INTERIM) for _ in range(random.choice((0, 0, 0, 1, 2, 20))))
    data = interim + head + body
    return data[: random.randrange(len(data) + 1)] if random.random() < 0.1 else data


def relayed(pieces: list[bytes], method: bytes, client_is_1_0: bool) -> Outcome:
    """What the gateway makes of an answer that comes in these pieces and ends then."""
    left = list(pieces)
    reader = AnswerReader(MAX_HEAD_BYTES)
    head: AnswerHead | None = None
    try:
        while head is None and left:
            head = reader.feed(left.pop(0))
    except HeadError as why:
        assert "\n" not in str(why)
        return Outcome("refused")
    interim = len(reader.interim)
    if head is None:
        return Outcome("waiting", interim=interim)
    plan = plan_answer(method, head.status, head.body_length, client_is_1_0)
    dropped = frozenset({b"content-length"} if plan.drops_length else ())
    out = answer_head(head, plan.framing_line + OWN_LINES, dropped)
    how, body = _passed(plan.reader, [piece for piece in (reader.rest, *left) if piece])
    return Outcome(how, head.status, out + body, plan.ends_by_close, interim)


def _passed(body: BodyReader, pieces: list[bytes]) -> tuple[str, bytes]:
    out = b""
    try:
        for piece in pieces:
            if body.done:
                break
            out += body.feed(piece)
            while body.more:
                out += body.feed(b"")
        if not body.done:
            out += body.finish()
    except FramingError:
        return "cut", b""
    return "whole", out


def h11_reads(data: bytes, method: bytes, at_end: bool = True) -> tuple[str, int, bytes]:
    """What h11 as a client makes of it: how it went, status, body.

    `at_end`: the connection ends after it; otherwise what has no end yet counts as cut.
    """
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    client.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    client.send(h11.EndOfMessage())
    if data:  # to h11, nothing is the end
        client.receive_data(data)
    status, body, ended = 0, b"", False
    try:
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return "whole", status, body
            elif event is h11.NEED_DATA and at_end and not ended:
                ended = True
                client.receive_data(b"")
            elif not isinstance(event, h11.InformationalResponse):
                return "cut", status, body
    except h11.RemoteProtocolError:
        return "cut", status, body


def attempt(random: Random, counts: Counts) -> None:
    data, method, is_1_0 = make(random), random.choice(METHODS), random.random() < 0.2
    whole = relayed([data] if data else [], method, is_1_0)
    counts[whole.how] += 1
    cuts = [cuts_of(random, data) for _ in range(2)]
    if len(data) < 300 and random.randrange(32) == 0:
        counts["at every cut"] += 1
        cuts += [[data[:at], data[at:]] for at in range(1, len(data))]
    for pieces in cuts:
        cut = relayed(pieces, method, is_1_0)
        # A chunk is passed on as it came, an end by FIN is framed as it was cut.
        assert cut._replace(out=b"") == whole._replace(out=b""), (cut, whole, pieces)
        if cut.how == "whole":
            check_whole(cut, data, method)


def check_whole(cut: Outcome, data: bytes, method: bytes) -> None:
    """What the client is given as whole is what the upstream gave as whole, by the letter."""
    meant = h11_reads(data, method)
    assert meant[:2] == ("whole", cut.status), (meant, data)
    assert h11_reads(cut.out, method) == meant, (cut.out, data)
    head, _, _ = cut.out.partition(b"\r\n\r\n")
    first, *lines = (head + b"\r\n").splitlines(keepends=True)
    assert FIRST_LINE.fullmatch(first), (head, data)
    names = []
    for line in lines:
        field = LINE.fullmatch(line)
        assert field is not None, (line, data)
        names.append(field[1].lower())
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1, (head, data)
    assert not (ANSWER_WITHHELD - {b"transfer-encoding"}) & set(names), (head, data)


if __name__ == "__main__":
    sys.exit(main(attempt, "Answers, relayed, against h11.", "tests.fuzz.answers"))
