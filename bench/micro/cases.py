"""The table of what is measured.  Each case prepares a gateway and gives the call to measure.

A case that no longer fits the code fails when it is prepared, and is reported; the others run.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from bench.micro.gateway import KEY, LIMITED_KEY, MicroGateway, Void
from bench.micro.messages import (
    ANSWER,
    CHUNK,
    CHUNKED_ANSWER,
    provider_answers,
    request,
    varying_requests,
)

Call = Callable[[], None]
TOGETHER = 32  # of `counted.CALLS` a part without rest

# ---- whole exchanges -----------------------------------------------------------------------------


def exchange_of(
    gateway: MicroGateway, requests: Iterable[bytes], answers: Iterable[bytes]
) -> Awaitable[Call]:
    """An exchange with the next of each, in turn."""
    next_request = itertools.cycle(requests).__next__
    next_answer = itertools.cycle(answers).__next__

    def exchange() -> None:
        gateway.client(next_request())
        gateway.end_turn()
        gateway.upstream(next_answer())
        gateway.end_turn()

    return gateway.warm(exchange)


async def together(
    gateway: MicroGateway, requests: Iterable[bytes], answers: Iterable[bytes]
) -> Call:
    """An exchange as one of many: each call brings a request, and each `TOGETHER`th ends the turn,
    brings all answers, and ends that turn."""
    others = [gateway.connect(Void()) for _ in range(TOGETHER - 1)]
    clients, upstreams = zip((gateway.client, gateway.upstream), *others, strict=True)
    next_request = itertools.cycle(requests).__next__
    next_answer = itertools.cycle(answers).__next__
    next_client = itertools.cycle(clients).__next__
    number = itertools.count(1).__next__

    def exchange() -> None:
        next_client()(next_request())
        if number() % TOGETHER == 0:
            gateway.end_turn()
            for upstream in upstreams:
                upstream(next_answer())
            gateway.end_turn()

    def turn() -> None:
        for _ in range(TOGETHER):
            exchange()

    await gateway.warm(turn)
    return exchange


async def plain(gateway: MicroGateway) -> Call:
    return await exchange_of(gateway, [request(KEY)], [ANSWER])


async def plain_together(gateway: MicroGateway) -> Call:
    return await together(gateway, [request(KEY)], [ANSWER])


async def ids_together(gateway: MicroGateway) -> Call:
    return await together(gateway, varying_requests(KEY), provider_answers())


async def large(gateway: MicroGateway) -> Call:
    return await exchange_of(gateway, [request(KEY, 20480)], [ANSWER])


async def ids(gateway: MicroGateway) -> Call:
    return await exchange_of(gateway, varying_requests(KEY), provider_answers())


async def split(gateway: MicroGateway) -> Call:
    head, _, body = request(KEY).partition(b"\r\n\r\n")
    head += b"\r\n\r\n"

    def exchange() -> None:
        gateway.client(head)
        gateway.client(body)
        gateway.end_turn()
        gateway.upstream(ANSWER)
        gateway.end_turn()

    return await gateway.warm(exchange)


async def unknown(gateway: MicroGateway) -> Call:
    """Heads that no template can know, since no two are alike where templates are literal."""
    start, host, rest = request(KEY).partition(b"Host: ")
    count = itertools.count().__next__

    def exchange() -> None:
        gateway.client(b"%b%b%d." % (start, host, count()) + rest)
        gateway.upstream(ANSWER)

    return await gateway.warm(exchange)


def refused(gateway: MicroGateway, asked: bytes) -> Call:
    def refusal() -> None:
        gateway.client(asked)
        gateway.end_turn()

    return refusal


async def wrong_key(gateway: MicroGateway) -> Call:
    asked = request("sk-nobodys")
    return await gateway.warm(refused(gateway, asked))


async def over_limit(gateway: MicroGateway) -> Call:
    asked = request(LIMITED_KEY)
    gateway.client(asked)  # takes the one token there is
    gateway.upstream(ANSWER)
    return await gateway.warm(refused(gateway, asked))


# ---- bytes of an answer on their way -------------------------------------------------------------


async def chunk_of(gateway: MicroGateway, content_type: bytes) -> Call:
    """One more chunk of an answer that has begun and does not end."""
    asked, head = request(KEY), CHUNKED_ANSWER % content_type

    def whole() -> None:
        gateway.client(asked)
        gateway.upstream(head + CHUNK)
        gateway.upstream(b"0\r\n\r\n")

    await gateway.warm(whole)
    gateway.client(asked)
    gateway.upstream(head)
    return await gateway.warm(lambda: gateway.upstream(CHUNK))


async def stream_chunk(gateway: MicroGateway) -> Call:
    return await chunk_of(gateway, b"text/event-stream; charset=utf-8")


async def chunked_chunk(gateway: MicroGateway) -> Call:
    return await chunk_of(gateway, b"application/json")


# ---- single functions ----------------------------------------------------------------------------


async def parse_request(gateway: MicroGateway) -> Call:
    from aigw.wire.head import read_request

    head = request(KEY).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    return lambda: void(read_request(head))


async def parse_answer(gateway: MicroGateway) -> Call:
    from aigw.wire.head import AnswerReader

    head = provider_answers()[0]
    return lambda: void(AnswerReader(len(head)).feed(head))


async def match(gateway: MicroGateway) -> Call:
    from aigw.wire.head import read_request
    from aigw.wire.template import pattern_of, request_shape

    head = varying_requests(KEY)[0].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    shape = request_shape(read_request(head), head)
    assert shape is not None
    read = pattern_of(shape)
    assert read(head)
    return lambda: void(read(head))


async def bucket(gateway: MicroGateway) -> Call:
    from aigw.memory import BucketTable, allot_bucket

    table = BucketTable(gateway.memory, 0)
    take = table.taker(allot_bucket(gateway.memory, "micro", 1e9, 1e9, 0.0))
    assert take(9.0) >= 0.0
    return lambda: void(take(9.0))


async def access_line(gateway: MicroGateway) -> Call:
    from aigw.observe.access_line import Clock, Subject, lines_of, subject_text

    subject = subject_text(
        Subject(
            key="bench",
            user="bench:127.0.0.1",
            app="default",
            client_ip="127.0.0.1",
            method="POST",
            path="/v1/chat/completions",
            status=200,
            route="/v1",
            upstream="nobody",
            member="http://127.0.0.1:9",
            attempts=1,
        )
    )
    clock = Clock()
    told, times = (b"req_0123456789ab00000001", subject, 600, 1200), (234, 123, 45, False)
    assert b"chat" in lines_of(clock.stamp(1_000), times, [told])[0]
    return lambda: void(lines_of(clock.stamp(1_000), times, [told]))


async def metrics(gateway: MicroGateway) -> Call:
    return lambda: gateway.metrics.finish("/v1", "nobody", 200, 234, 123, 45)


def void(value: object) -> None:
    """What a call gives is not looked at."""


class Case(NamedTuple):
    name: str
    prepare: Callable[[MicroGateway], Awaitable[Call]]
    meaning: str
    answer: bytes = b""  # how that begins which the client is sent


OK = b"HTTP/1.1 200 "
CASES = (
    Case("plain", plain, "exchange: 600 B request, heads repeat", OK),
    Case("together", plain_together, "the same, one of 32 in a turn", OK),
    Case("large", large, "exchange: 20 KiB request", OK),
    Case("ids", ids, "exchange: ids and length vary, a provider's 25 fields", OK),
    Case("ids-together", ids_together, "the same, one of 32 in a turn", OK),
    Case("split", split, "exchange: head known, body in a second read", OK),
    Case("unknown", unknown, "exchange: request heads never alike (h11)", OK),
    Case("401", wrong_key, "request with an unknown key", b"HTTP/1.1 401 "),
    Case("429", over_limit, "request over its key's rate", b"HTTP/1.1 429 "),
    Case("stream-chunk", stream_chunk, "200 B event of a stream", CHUNK),
    Case("chunked-chunk", chunked_chunk, "200 B chunk of a chunked answer", CHUNK),
    Case("parse-request", parse_request, "request head, by h11 and the gate"),
    Case("parse-answer", parse_answer, "answer head of 25 fields, by h11"),
    Case("match", match, "request head against a template"),
    Case("bucket", bucket, "one bucket, admitted"),
    Case("access-line", access_line, "one access line"),
    Case("metrics", metrics, "counters of a finished request"),
)
