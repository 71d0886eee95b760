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
    raw = RequestMaker(RequestPlan(body_bytes=size, stream=stream)).next()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert len(body) == size
    assert head.endswith(b"\r\nContent-Length: %d" % size)
    assert json.loads(body).get("stream", False) is stream


def test_ids_vary_only_on_demand() -> None:
    fixed, varied = RequestMaker(RequestPlan()), RequestMaker(RequestPlan(vary=True))
    assert fixed.next() == fixed.next()
    several = [varied.next() for _ in range(10)]
    assert len(set(several)) == 10
    assert len({len(raw) for raw in several}) == 1


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
