"""The requests of a load: what the OpenAI SDK sends, alike each time or varied on purpose.

The names, their spelling and their order are those of openai-python 3.54 (captured from it with
the mock's ledger), since a proxy's cost depends on the head and not only on its size. What the
mock shall do differently is said in the body's `user`, which also gateways pass on that write
requests anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from itertools import cycle
from typing import NamedTuple

# How requests differ from one to the next:
#   same      not at all
#   ids       three id headers, as under tracing, and Content-Length
#   hostile   a header more, under a name that was never sent before
VARIATIONS = ("same", "ids", "hostile")
# Under `ids` the body has one of so many lengths; the mock remembers the answer to each.
LENGTHS = 64
ID_LINES = (
    "x-request-id: req-%(id)032x",
    "traceparent: 00-%(id)032x-00f067aa0ba902b7-01",
    "x-client-request-id: %(id)032x",
)
NEW_NAME_LINE = "x-never-%(id)016x: 1"


class RequestPlan(NamedTuple):
    """What is asked for, and how the mock shall answer."""

    host: str = "127.0.0.1:8080"
    path: str = "/v1/chat/completions"
    key: str = "sk-gw"
    body_bytes: int = 600
    stream: bool = False
    chunks: int = 100
    spacing_ms: int = 10
    vary: str = "same"  # one of VARIATIONS
    answer_heads: str = "plain"  # a style of aigw/mock/heads.py
    headers: tuple[tuple[str, str], ...] = ()  # what this peer needs to be told


class RequestMaker:
    """Makes the bytes of one request after the other, in turn of the given plans."""

    def __init__(self, plans: Iterable[RequestPlan]) -> None:
        self._makers = cycle([maker(plan) for plan in plans])

    def next(self) -> bytes:
        return next(self._makers)()


def maker(plan: RequestPlan) -> Callable[[], bytes]:
    """A function that gives the bytes of the next request."""
    lines = [f"POST {plan.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in sdk_headers(plan)]
    lines = [line.replace("%", "%%") for line in lines]
    if plan.vary == "ids":
        lines += ID_LINES
    elif plan.vary == "hostile":
        lines.append(NEW_NAME_LINE)
    head = "\r\n".join([*lines, "Content-Length: %(length)d", "\r\n"])
    steps = range(LENGTHS) if plan.vary == "ids" else (0,)
    bodies = [chat_body(plan._replace(body_bytes=plan.body_bytes + step)) for step in steps]
    first = int.from_bytes(os.urandom(12), "big") << 32
    if plan.vary == "same":
        fixed = (head % {"length": len(bodies[0])}).encode("ascii") + bodies[0]
        return lambda: fixed
    number = 0

    def make() -> bytes:
        nonlocal number
        number += 1
        body = bodies[number % len(bodies)]
        # The low bits of `first` are free: counted ids never meet another run's.
        return (head % {"id": first + number, "length": len(body)}).encode("ascii") + body

    return make


def chat_body(plan: RequestPlan) -> bytes:
    """A request of exactly that many bytes, or of the fewest there can be."""
    request = empty_request(plan)
    bare = len(json.dumps(request))
    words = "Tell me in a few sentences what an AI gateway is good for. "
    filling = (words * (plan.body_bytes // len(words) + 1))[: max(0, plan.body_bytes - bare)]
    turn = {"role": "user", "content": filling}
    if "input" in request:
        request["input"] = filling
    else:
        request["messages"] = [turn]
    return json.dumps(request).encode("ascii")


def empty_request(plan: RequestPlan) -> dict[str, object]:
    """The request without its text, as the path wants it."""
    request: dict[str, object] = {"model": "gpt-4o-mini"}
    if plan.path.endswith("/responses"):
        request["input"] = ""
    else:
        request["messages"] = [{"role": "user", "content": ""}]
    if plan.path.endswith("/messages"):
        request["max_tokens"] = 256
    if plan.stream:
        request["stream"] = True
    words = []
    if plan.stream and plan.spacing_ms:
        words += [f"x-mock-chunks={plan.chunks}", f"x-mock-spacing-ms={plan.spacing_ms}"]
        words.append("x-mock-stamp=1")
    if plan.answer_heads != "plain":
        words.append(f"x-mock-heads={plan.answer_heads}")
    if words:
        request["user"] = " ".join(words)
    return request


def sdk_headers(plan: RequestPlan) -> list[tuple[str, str]]:
    return [
        ("Host", plan.host),
        # The SDK would take gzip there, too; then no stamp could be read while a stream runs.
        ("Accept-Encoding", "identity" if plan.stream else "gzip, deflate"),
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
        *plan.headers,
    ]
