"""Bodies at every cut: the readers against plain arithmetic and against h11."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aigw.wire.framing import (
    CHUNKED_LINE,
    MAX_CHUNKS_A_TURN,
    RAW,
    REFRAMED,
    UNCHUNKED,
    BodyReader,
    ChunkReader,
    CloseReader,
    FramingError,
    LengthReader,
    plan_answer,
)


def feed_all(reader: BodyReader, data: bytes, cuts: list[int]) -> bytes:
    """Feed `data` cut at the given places, as the proxy would; returns what went on."""
    edges = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    out = b""
    for start, end in pairwise(edges):
        if reader.done:
            reader.surplus += data[start:]
            break
        out += reader.feed(data[start:end])
        while reader.more:
            out += reader.feed(b"")
    return out


def h11_payload(data: bytes) -> tuple[bytes, bool] | None:
    """What h11 makes of a chunked body: payload and whether it ended; None where it refuses."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.next_event()
    connection.receive_data(data)
    payload = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                payload += event.data
            elif isinstance(event, h11.EndOfMessage):
                return payload, True
            else:
                return payload, False
    except h11.RemoteProtocolError:
        return None


CUTS = st.lists(st.integers(0, 4000), max_size=12)
EXTENSIONS = st.sampled_from([b"", b";a=b", b'; q="x y"', b" ", b";\t"])


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A legal chunked body, its payload, and the same body without extensions."""
    payload, wire, bare = b"", b"", b""
    for chunk in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=8)):
        payload += chunk
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x"])) % len(chunk)
        wire += size + draw(EXTENSIONS) + b"\r\n" + chunk + b"\r\n"
        bare += size + b"\r\n" + chunk + b"\r\n"
    wire += b"0" + draw(EXTENSIONS) + b"\r\n"
    trailers = draw(st.sampled_from([b"", b"X-Sum: 1\r\n", b"a:\r\nB: c d\r\n"]))
    return wire + trailers + b"\r\n", payload, bare + b"0\r\n" + trailers + b"\r\n"


@given(chunked_bodies(), CUTS, st.binary(max_size=20))
def test_chunks_at_every_cut(
    body: tuple[bytes, bytes, bytes], cuts: list[int], after: bytes
) -> None:
    wire, payload, bare = body
    raw = ChunkReader(RAW)
    assert feed_all(raw, wire + after, cuts) == bare
    assert raw.done
    assert raw.surplus == after
    plain = ChunkReader(UNCHUNKED)
    assert feed_all(plain, wire + after, cuts) == payload
    assert plain.payload_bytes == len(payload)
    assert h11_payload(wire) == (payload, True)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
def test_a_chunk_a_read(chunks: list[bytes]) -> None:
    raw = ChunkReader(RAW)
    for chunk in chunks:
        wire = b"%x\r\n%b\r\n" % (len(chunk), chunk)
        assert raw.feed(wire) == wire
    assert raw.payload_bytes == sum(map(len, chunks))
    assert not raw.done
    assert raw.feed(b"0\r\n\r\n") == b"0\r\n\r\n"
    assert raw.done
    with pytest.raises(FramingError):
        ChunkReader(RAW).feed(b"3\r\nabcxx")


@given(chunked_bodies(), CUTS)
def test_framed_anew_it_is_the_same_body(body: tuple[bytes, bytes, bytes], cuts: list[int]) -> None:
    wire, payload, _ = body
    framed = feed_all(ChunkReader(REFRAMED), wire, cuts)
    assert h11_payload(framed) == (payload, True)


MUTATIONS = st.tuples(
    st.integers(0, 400), st.sampled_from([b"", b"\r", b"\n", b"\0", b" ", b"+", b"x", b"0", b";"])
)


@given(chunked_bodies(), st.lists(MUTATIONS, max_size=3), CUTS)
@example((b"5\nhello\r\n0\r\n\r\n", b"", b""), [], [])
@example((b"5;a\rb\r\nhello\r\n0\r\n\r\n", b"", b""), [], [])
@example((b"5\r\nhelloX\r\n0\r\n\r\n", b"", b""), [], [])
@example((b"+5\r\nhello\r\n0\r\n\r\n", b"", b""), [], [])
@example((b"0x5\r\nhello\r\n0\r\n\r\n", b"", b""), [], [])
@example((b"5_0\r\n\r\n", b"", b""), [], [])
def test_accepts_nothing_that_h11_refuses(
    body: tuple[bytes, bytes, bytes], mutations: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    wire = body[0]
    for at, octets in mutations:
        at %= len(wire) + 1
        wire = wire[:at] + octets + wire[at + 1 :]
    reader = ChunkReader(UNCHUNKED)
    whole = ChunkReader(UNCHUNKED)
    try:
        payload = feed_all(reader, wire, cuts)
    except FramingError:
        with pytest.raises(FramingError):
            feed_all(whole, wire, [])
        return
    assert feed_all(whole, wire, []) == payload
    verdict = h11_payload(wire[: len(wire) - len(reader.surplus)])
    if reader.done:
        assert verdict == (payload, True)
    else:
        # h11 may be ahead in refusing nothing; what both have read is the same.
        assert verdict is not None
        assert verdict[0] == payload


@given(chunked_bodies(), st.integers(0, 4000), CUTS)
def test_the_last_chunk_waits_for_the_end_of_its_trailers(
    body: tuple[bytes, bytes, bytes], at: int, cuts: list[int]
) -> None:
    """Who reads only sizes and payload sees that an answer was cut, wherever it was."""
    wire, _, bare = body
    reader = ChunkReader(RAW)
    passed = feed_all(reader, wire[: at % len(wire)], cuts)
    assert not reader.done
    assert bare.startswith(passed)
    assert len(passed) <= len(bare) - len(b"0\r\n" + trailers_of(bare))


def trailers_of(wire: bytes) -> bytes:
    """What stands behind the last chunk's size line."""
    at = 0
    while size := int(wire[at : wire.index(b"\r\n", at)], 16):
        at = wire.index(b"\r\n", at) + 2 + size + 2
    return wire[wire.index(b"\r\n", at) + 2 :]


REFUSED = [
    b"g\r\n",
    b"-1\r\n",
    b"+1\r\na\r\n",
    b" 1\r\na\r\n",
    b"\r\n",
    b"1\na\n",
    b"1\r\nab\r\n",
    b"1\r\na\n",
    b"1;\0\r\na\r\n",
    b"1;a\rb\r\na\r\n",
    b"1;a\nb\r\na\r\n",
    b"1;" + b"x" * 5000,
    b"1" * 16 + b"\r\n",
    b"0\r\nbad trailer\r\n\r\n",
    b"0\r\n folded: x\r\n\r\n",
    b"0\r\na: \0\r\n\r\n",
    b"0\r\nContent-Length: 5\r\n\r\n",
    b"0\r\nCONNECTION: close\r\n\r\n",
    b"0\r\na: b\r\ntransfer-encoding:\r\n\r\n",
    b"0\r\n" + b"a: b\r\n" * 5000,
    b"0\r\n\n",
]


@pytest.mark.parametrize("wire", REFUSED)
def test_refused_whole_and_byte_by_byte(wire: bytes) -> None:
    for cuts in ([], list(range(len(wire)))):
        with pytest.raises(FramingError):
            feed_all(ChunkReader(RAW), wire, cuts)


@pytest.mark.parametrize("mode", [RAW, UNCHUNKED, REFRAMED])
def test_extensions_are_bounded_by_the_payload(mode: str) -> None:
    """A body must not be thousands of times as long on the wire as its limit says."""
    extension = b";" + b"x" * 1000
    reader = ChunkReader(mode)
    for _ in range(100):
        reader.feed(b"400%b\r\n%b\r\n" % (extension, bytes(1024)))
    assert reader.payload_bytes == 100 * 1024
    reader = ChunkReader(mode)
    with pytest.raises(FramingError):
        for _ in range(100):
            reader.feed(b"1%b\r\nx\r\n" % extension)
    assert 0 < reader.payload_bytes < 20


def test_tiny_chunks_take_turns() -> None:
    wire = b"1\r\na\r\n" * (3 * MAX_CHUNKS_A_TURN) + b"0\r\n\r\n"
    reader = ChunkReader(UNCHUNKED)
    assert len(reader.feed(wire)) <= MAX_CHUNKS_A_TURN
    assert reader.more
    turns = 1
    while reader.more:
        reader.feed(b"")
        turns += 1
    assert reader.done
    assert reader.payload_bytes == 3 * MAX_CHUNKS_A_TURN
    assert turns >= 3


@given(st.binary(max_size=200), st.integers(0, 200), CUTS)
def test_lengths_are_counted(data: bytes, length: int, cuts: list[int]) -> None:
    reader = LengthReader(length)
    out = feed_all(reader, data, cuts)
    assert out == data[:length]
    assert reader.done == (len(data) >= length)
    assert reader.surplus == data[length:]
    assert reader.payload_bytes == min(length, len(data))
    if not reader.done:
        with pytest.raises(FramingError):
            reader.finish()


@given(st.binary(max_size=200), CUTS)
def test_an_end_by_close_gets_an_end_of_its_own(data: bytes, cuts: list[int]) -> None:
    raw = CloseReader(chunked=False)
    assert feed_all(raw, data, cuts) + raw.finish() == data
    framed = CloseReader(chunked=True)
    wire = feed_all(framed, data, cuts) + framed.finish()
    assert h11_payload(wire) == (data, True)


def test_a_cut_chunked_body_is_no_end() -> None:
    reader = ChunkReader(RAW)
    reader.feed(b"5\r\nhel")
    with pytest.raises(FramingError):
        reader.finish()


# method, status, body length, HTTP/1.0 -> reader, framing line, drops length, ends by close
PLANS = [
    (b"GET", 200, 5, False, LengthReader, b"", False, False),
    (b"GET", 200, -1, False, ChunkReader, CHUNKED_LINE, False, False),
    (b"GET", 200, None, False, CloseReader, CHUNKED_LINE, False, False),
    (b"GET", 200, -1, True, ChunkReader, b"", False, True),
    (b"GET", 200, None, True, CloseReader, b"", False, True),
    (b"GET", 204, 0, False, LengthReader, b"", True, False),
    (b"GET", 204, -1, False, LengthReader, b"", True, False),
    (b"GET", 204, None, False, LengthReader, b"", True, False),
    (b"GET", 304, 5, False, LengthReader, b"", False, False),
    (b"GET", 304, None, False, LengthReader, b"", False, False),
    (b"HEAD", 200, 5, False, LengthReader, b"", False, False),
    (b"HEAD", 200, -1, False, LengthReader, CHUNKED_LINE, False, False),
    (b"HEAD", 200, -1, True, LengthReader, b"", False, False),
    (b"HEAD", 200, None, False, LengthReader, b"", False, False),
]


@pytest.mark.parametrize("case", PLANS)
def test_plans(case: tuple[bytes, int, int | None, bool, type, bytes, bool, bool]) -> None:
    method, status, length, is_1_0, reader, line, drops, by_close = case
    plan = plan_answer(method, status, length, is_1_0)
    assert type(plan.reader) is reader
    assert plan[1:] == (line, drops, by_close)
    if reader is LengthReader:
        has_body = method != b"HEAD" and status == 200
        assert plan.reader.done != has_body
