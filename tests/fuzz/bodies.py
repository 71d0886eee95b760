"""Bodies, made up and mutated: the readers against h11, against the letter, and at every cut.

    python -m tests.fuzz.bodies --seconds 60 --seed 1

However a body is cut into reads and however it is passed on, the verdict is the same: ended, more
to come, or refused.  What is accepted h11 accepts too, and the letter (`meaning.py`); all three
take the same payload from it; and what is framed anew says the same once more.
"""

from __future__ import annotations

import sys
from random import Random
from typing import NamedTuple

import h11

from aigw.wire.framing import (
    RAW,
    REFRAMED,
    UNCHUNKED,
    BodyReader,
    ChunkReader,
    CloseReader,
    FramingError,
    LengthReader,
)
from tests.fuzz.bulk import Counts, cuts_of, main
from tests.fuzz.meaning import Ambiguous, read_chunks

SIZES = [b"%x", b"%X", b"0%x", b"000000%x"]
ODD_SIZES = [
    *(
        b"0x%x",
        b"+%x",
        b"-%x",
        b" %x",
        b"%x_0",
        b"\xef\xbc\x95",
        b"%x0000000000000000",
        b"",
        b"%x.0",
    ),
    *(b"\t%x", b"\n%x", b"f%x", b"0000000000000000%x"),
]
EXTENSIONS = [b"", b"", b"", b";a=b", b'; q="x y"', b" ", b"\t ", b";", b";\xe9"]
ODD_EXTENSIONS = [
    *(
        b";a\rb",
        b";a\nb",
        b";\0",
        b' "',
        b"=a",
        b";a=\x7f",
        b";" + b"x" * 5000,
        b"\x0b",
        b" ;a\r\nb",
    ),
]
ENDS = [b"\r\n"] * 20 + [b"\n", b"\r", b"", b"\r\n\r\n", b"\r\r\n", b" \r\n"]
TRAILERS = [
    *(b"", b"", b"X-Sum: 1\r\n", b"a:\r\nB: c d\r\n", b"Content-Type: 5\r\n", b"Host: other\r\n"),
]
ODD_TRAILERS = [
    *(
        b" folded: x\r\n",
        b"a : b\r\n",
        b"a\r\n",
        b"a: \0\r\n",
        b"a: b\n",
        b": b\r\n",
        b"a: b\rc: d\r\n",
    ),
    *(b"a: b\r\n" * 4000, b"a: b\r\n c\r\n", b"GET / HTTP/1.1\r\n"),
]
OCTETS = [b"", b"\r", b"\n", b"\0", b" ", b"+", b"x", b"0", b";", b"\r\n", b"0\r\n\r\n", b"\x80"]
AFTER = [b"", b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"\0", b"\r\n"]


class Verdict(NamedTuple):
    """What became of a body; of one that is refused, nothing else counts."""

    how: str
    out: bytes
    payload_bytes: int
    surplus: bytes


def make_chunks(random: Random) -> bytes:
    """A chunked body that may or may not be one."""
    oddity = random.choice((0.0, 0.0, 0.03, 0.2))

    def pick(plain: list[bytes], odd: list[bytes]) -> bytes:
        return random.choice(odd if random.random() < oddity else plain)

    wire = b""
    for _ in range(random.randrange(6)):
        payload = random.randbytes(random.choice((1, 2, 15, 16, 17, 40)))
        size = pick(SIZES, ODD_SIZES)
        wire += size.replace(b"%x", b"%x" % len(payload)).replace(b"%X", b"%X" % len(payload))
        wire += pick(EXTENSIONS, ODD_EXTENSIONS) + pick([b"\r\n"], ENDS)
        wire += payload + pick([b"\r\n"], ENDS)
    wire += pick([b"0", b"00"], ODD_SIZES) + pick(EXTENSIONS, ODD_EXTENSIONS) + b"\r\n"
    wire += pick(TRAILERS, ODD_TRAILERS) + pick([b"\r\n"], ENDS)
    for _ in range(random.choice((0, 0, 0, 1, 2)) if oddity else 0):
        at = random.randrange(len(wire) + 1)
        wire = wire[:at] + random.choice(OCTETS) + wire[at + random.randrange(3) :]
    if random.random() < 0.15:
        wire = wire[: random.randrange(len(wire) + 1)]
    return wire + random.choice(AFTER)


def fed(reader: BodyReader, pieces: list[bytes]) -> Verdict:
    """Feed a reader as the proxy does."""
    out = b""
    left = list(pieces)
    try:
        while left and not reader.done:
            out += reader.feed(left.pop(0))
            while reader.more:
                out += reader.feed(b"")
    except FramingError:
        return Verdict("refused", b"", 0, b"")
    how = "ended" if reader.done else "more"
    return Verdict(how, out, reader.payload_bytes, reader.surplus + b"".join(left))


def h11_reads(wire: bytes) -> tuple[str, bytes]:
    """What h11 makes of a chunked body: how it went, and the payload."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.next_event()
    if wire:  # to h11, nothing is the end
        connection.receive_data(wire)
    payload = b""
    try:
        while isinstance(event := connection.next_event(), h11.Data):
            payload += event.data
    except h11.RemoteProtocolError:
        return "refused", payload
    return "ended" if isinstance(event, h11.EndOfMessage) else "more", payload


def attempt(random: Random, counts: Counts) -> None:
    kind = random.randrange(8)
    if kind == 0:
        _try_length(random, counts)
    elif kind == 1:
        _try_close(random, counts)
    else:
        _try_chunks(random, counts)


def _try_chunks(random: Random, counts: Counts) -> None:
    wire = make_chunks(random)
    whole = fed(ChunkReader(UNCHUNKED), [wire])
    counts[f"chunked, {whole.how}"] += 1
    for mode in (RAW, UNCHUNKED, REFRAMED):
        pieces = cuts_of(random, wire)
        cut = fed(ChunkReader(mode), pieces)
        assert cut.how == whole.how, (mode, cut.how, whole.how, pieces)
        if whole.how != "refused":
            check_accepted(mode, cut, whole, wire)
    if len(wire) < 200 and random.randrange(4) == 0:
        counts["at every cut"] += 1
        for at in range(1, len(wire)):
            assert fed(ChunkReader(UNCHUNKED), [wire[:at], wire[at:]]) == whole, (at, wire)
    if whole.how == "ended":
        taken = wire[: len(wire) - len(whole.surplus)]
        assert h11_reads(taken) == ("ended", whole.out), wire
        try:
            assert read_chunks(wire, 0) == (whole.out, len(taken)), wire
        except (Ambiguous, EOFError) as why:
            raise AssertionError(f"accepted, but {why!r}: {wire!r}") from None
    elif whole.how == "more":
        how, payload = h11_reads(wire)
        assert (how, payload) == ("more", whole.out), (how, payload, wire)


def check_accepted(mode: str, cut: Verdict, whole: Verdict, wire: bytes) -> None:
    """The same payload and surplus, whatever the cuts; and passed on so that it says the same."""
    assert cut.payload_bytes == whole.payload_bytes == len(whole.out), (mode, wire)
    assert cut.surplus == whole.surplus, (mode, wire)
    if mode == UNCHUNKED:
        assert cut.out == whole.out, wire
    else:
        if mode == RAW:
            assert fed(ChunkReader(RAW), [wire]).out == cut.out, wire
        assert h11_reads(cut.out) == (cut.how, whole.out), (cut.out, wire)
        if cut.how == "ended":
            assert read_chunks(cut.out, 0) == (whole.out, len(cut.out)), wire


def _try_length(random: Random, counts: Counts) -> None:
    data, length = random.randbytes(random.randrange(60)), random.randrange(60)
    reader = LengthReader(length)
    got = fed(reader, cuts_of(random, data))
    counts[f"counted, {got.how}"] += 1
    assert got.out == data[:length]
    assert got.how == ("ended" if len(data) >= length else "more")
    assert got.surplus == data[length:]
    assert got.payload_bytes == len(got.out)


def _try_close(random: Random, counts: Counts) -> None:
    data = random.randbytes(random.randrange(60))
    counts["until the end"] += 1
    plain, framed = CloseReader(chunked=False), CloseReader(chunked=True)
    assert fed(plain, cuts_of(random, data)).out + plain.finish() == data
    wire = fed(framed, cuts_of(random, data)).out + framed.finish()
    assert read_chunks(wire, 0) == (data, len(wire)), (data, wire)


if __name__ == "__main__":
    sys.exit(main(attempt, "Bodies against h11 and at every cut.", "tests.fuzz.bodies"))
