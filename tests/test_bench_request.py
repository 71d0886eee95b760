"""The requests of a load: exact sizes, the SDK's head, ids that vary on demand."""

from __future__ import annotations

import json

import openai
import pytest
import uvloop

from aigw.mock.provider import MockSettings, serve
from bench.request import RequestMaker, RequestPlan, sdk_headers


@pytest.mark.parametrize("size", [600, 20_480])
@pytest.mark.parametrize("stream", [False, True])
def test_the_body_has_the_wanted_size(size: int, stream: bool) -> None:
    raw = RequestMaker([RequestPlan(body_bytes=size, stream=stream)]).next()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert len(body) == size
    assert head.endswith(b"\r\nContent-Length: %d" % size)
    assert json.loads(body).get("stream", False) is stream


def heads(plan: RequestPlan, count: int) -> list[list[str]]:
    """The header lines of so many requests; each body is as long as announced."""
    maker = RequestMaker([plan])
    found = []
    for _ in range(count):
        head, _, body = maker.next().decode().partition("\r\n\r\n")
        found.append(head.split("\r\n")[1:])
        assert found[-1][-1] == f"Content-Length: {len(body)}"
    return found


def test_heads_vary_as_asked_for() -> None:
    same = heads(RequestPlan(), 10)
    assert same == [same[0]] * 10
    ids = heads(RequestPlan(vary="ids"), 10)
    columns = [set(column) for column in zip(*ids, strict=True)]
    varying = [min(column).partition(":")[0] for column in columns if len(column) == 10]
    assert varying == ["x-request-id", "traceparent", "x-client-request-id", "Content-Length"]
    assert sum(len(column) > 1 for column in columns) == 4
    hostile = heads(RequestPlan(vary="hostile"), 10)
    names = {line.partition(":")[0] for head in hostile for line in head}
    assert len(names) == len(hostile[0]) - 1 + 10


def test_requests_take_turns() -> None:
    paths = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
    maker = RequestMaker([RequestPlan(path=path, stream=True, spacing_ms=0) for path in paths])
    sent = [maker.next() for _ in range(6)]
    assert [raw.split(b" ")[1].decode() for raw in sent] == [*paths, *paths]
    assert all(json.loads(raw.partition(b"\r\n\r\n")[2])["stream"] for raw in sent)


def test_the_head_is_the_sdks() -> None:
    """Names and order as the installed SDK sends them; it may have grown since."""

    async def talk() -> list[str]:
        async with (
            await serve(MockSettings(ledger=1)) as server,
            openai.AsyncOpenAI(
                api_key="k", base_url=f"http://127.0.0.1:{server.port}/v1"
            ) as client,
        ):
            await client.chat.completions.create(model="m", messages=[])
            return [name for name, _ in server.provider.requests[0]["headers"]]

    sent = uvloop.run(talk())
    ours = [*(name for name, _ in sdk_headers(RequestPlan())), "Content-Length"]
    missing = [name for name in ours if name not in sent]
    assert not missing
    assert [name for name in sent if name in ours] == ours
