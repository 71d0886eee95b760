"""The requests of a load: a chat completion under the head that the OpenAI SDK sends.

The names, their spelling and their order are those of openai-python 3.54 (captured from it with
the mock's ledger), since a proxy's cost depends on the head and not only on its size.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple


class RequestPlan(NamedTuple):
    """What is asked for; of streams also how the mock shall answer."""

    host: str = "127.0.0.1:8080"
    path: str = "/v1/chat/completions"
    key: str = "sk-gw"
    body_bytes: int = 600
    stream: bool = False
    chunks: int = 100
    spacing_ms: int = 10
    vary: bool = False  # each request has ids of its own, as under tracing


class RequestMaker:
    """Makes the bytes of one request after the other: equal ones, or ones with ids of their own."""

    def __init__(self, plan: RequestPlan) -> None:
        body = chat_body(plan)
        lines = [f"POST {plan.path} HTTP/1.1", *(f"{n}: {v}" for n, v in sdk_headers(plan))]
        if plan.vary:
            lines += ["x-request-id: {id:032x}", "traceparent: 00-{id:032x}-00f067aa0ba902b7-01"]
        lines.append(f"Content-Length: {len(body)}")
        self._head = "\r\n".join(lines) + "\r\n\r\n"
        self._body = body
        self._fixed = b"" if plan.vary else self._head.encode("ascii") + body
        self._id = int.from_bytes(os.urandom(12), "big") << 32

    def next(self) -> bytes:
        if self._fixed:
            return self._fixed
        self._id += 1
        return self._head.format(id=self._id).encode("ascii") + self._body


def chat_body(plan: RequestPlan) -> bytes:
    """A chat request of exactly that many bytes, or of the fewest there can be."""
    request: dict[str, object] = {"messages": [{"role": "user", "content": ""}], "model": "gpt-4o"}
    if plan.stream:
        request |= {"stream": True}
    bare = len(json.dumps(request))
    words = "Tell me in a few sentences what an AI gateway is good for. "
    filling = (words * (plan.body_bytes // len(words) + 1))[: max(0, plan.body_bytes - bare)]
    request["messages"] = [{"role": "user", "content": filling}]
    return json.dumps(request).encode("ascii")


def sdk_headers(plan: RequestPlan) -> list[tuple[str, str]]:
    headers = [
        ("Host", plan.host),
        ("Accept-Encoding", "gzip, deflate"),
        ("Connection", "keep-alive"),
        ("authorization", f"Bearer {plan.key}"),
        ("accept", "application/json"),
        ("content-type", "application/json"),
        ("user-agent", "AsyncOpenAI/Python 3.54.0"),
        ("x-stainless-lang", "python"),
        ("x-stainless-package-version", "3.54.0"),
        ("x-stainless-os", "Linux"),
        ("x-stainless-arch", "x64"),
        ("x-stainless-runtime", "CPython"),
        ("x-stainless-runtime-version", "3.11.7"),
        ("x-stainless-async", "async:asyncio"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-read-timeout", "600"),
    ]
    if plan.stream:
        headers += [
            ("x-mock-chunks", str(plan.chunks)),
            ("x-mock-spacing-ms", str(plan.spacing_ms)),
            ("x-mock-stamp", "1"),
        ]
    return headers
