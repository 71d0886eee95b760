"""The SDKs of OpenAI and Anthropic through the gateway and directly: equal in all that matters.

Each conversation of the tables runs twice, at the mock provider itself and through `aigw run` with
two workers. The objects, the raw bytes of the answers and their headers must be equal, and so must
be what the provider has seen (its ledger): method, target, body, and the end-to-end headers in
their order and spelling, but for those that DESIGN.md withholds or replaces.
"""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
import pytest

from tests.running import RunningGateway, RunningMock, running_gateway, running_mock

CONFIG = """
[listen]
address = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin_port}"
workers = 2
[log]
access = "off"
[[keys]]
name = "user1"
key = "aigw-user1"
[[upstreams]]
name = "openai"
urls = ["MOCK"]
credentials = ["sk-provider"]
[[upstreams]]
name = "anthropic"
urls = ["MOCK"]
dialect = "anthropic"
credentials = ["sk-ant-provider"]
[[upstreams]]
name = "bring your own"
urls = ["MOCK"]
credentials = "client"
[[routes]]
path = "/v1/messages"
targets = [{ upstream = "anthropic" }]
[[routes]]
path = "/v1"
targets = [{ upstream = "openai" }]
[[routes]]
path = "/own"
strip_prefix = "/own"
targets = [{ upstream = "bring your own" }]
"""
GATEWAY_KEY = "aigw-user1"
PROVIDER_KEY = {"openai": "sk-provider", "anthropic": "sk-ant-provider"}
LEDGER = 16


@pytest.fixture(scope="module")
def mock() -> Iterator[RunningMock]:
    with running_mock(ledger=LEDGER) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(mock: RunningMock) -> Iterator[RunningGateway]:
    with running_gateway(CONFIG.replace("MOCK", mock.url)) as running:
        yield running


# --- what a client has seen ---------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes  # as it came over the wire, its content coding untouched


class Recorder(httpx2.HTTPTransport):
    """The SDKs' own transport; keeps every answer as it came."""

    def __init__(self) -> None:
        super().__init__(verify=False)  # no TLS here, so no trust store that takes 30 ms to read
        self.answers: list[Answer] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        body = b"".join(response.stream)  # type: ignore[arg-type]
        response.stream.close()  # type: ignore[union-attr]
        self.answers.append(Answer(response.status_code, response.headers.raw, body))
        return httpx2.Response(
            status_code=response.status_code,
            headers=response.headers,
            stream=httpx2.ByteStream(body),
            extensions=response.extensions,
        )


class Seen(NamedTuple):
    """One conversation, from both ends."""

    result: Any
    answers: list[Answer]
    requests: list[dict[str, Any]]


Talk = Callable[[Any], Any]


def with_openai(talk: Talk, url: str, mock: RunningMock, key: str, **options: Any) -> Seen:
    recorder = Recorder()
    with (
        httpx2.Client(transport=recorder, timeout=30) as http,
        openai.OpenAI(
            api_key=key, base_url=url, http_client=http, **({"max_retries": 0} | options)
        ) as client,
    ):
        result = talk(client)
    return Seen(result, recorder.answers, mock.ledger()[-len(recorder.answers) :])


def with_anthropic(talk: Talk, url: str, mock: RunningMock, key: str, **options: Any) -> Seen:
    recorder = Recorder()
    with (
        httpx2.Client(transport=recorder, timeout=30) as http,
        anthropic.Anthropic(
            api_key=key, base_url=url, http_client=http, **({"max_retries": 0} | options)
        ) as client,
    ):
        result = talk(client)
    return Seen(result, recorder.answers, mock.ledger()[-len(recorder.answers) :])


# --- how two of them are compared ---------------------------------------------------------------

# Of a request: the gateway names the upstream's host, its own connection and its credential.
REPLACED = {"host", "connection", "authorization", "x-api-key"}
# Of an answer: these two change from answer to answer at the mock itself.
VARYING = {b"date", b"x-request-id", b"request-id"}


def end_to_end(entry: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in entry["headers"] if name.lower() not in REPLACED]


def values(entry: dict[str, Any], name: str) -> list[str]:
    return [value for field, value in entry["headers"] if field.lower() == name]


def passed(answer: Answer) -> list[tuple[bytes, bytes]]:
    """The fields of an answer that came from the provider."""
    return [
        (name, value)
        for name, value in answer.fields
        if name.lower() not in VARYING and not name.lower().startswith(b"x-aigw-")
    ]


def framing_last(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Hop-by-hop, so each hop writes its own: with other spelling, at the end of the head."""
    kept = [field for field in fields if field[0].lower() != b"transfer-encoding"]
    return [*kept, *((b"te", v) for name, v in fields if name.lower() == b"transfer-encoding")]


def assert_equal(direct: Seen, through: Seen, mock: RunningMock) -> None:
    assert through.result == direct.result
    assert len(through.answers) == len(direct.answers) == len(through.requests)
    for far, near in zip(direct.answers, through.answers, strict=True):
        assert (near.status, near.body) == (far.status, far.body)
        assert framing_last(passed(near)) == framing_last(passed(far))
        names = [name.lower() for name, _ in near.fields]
        assert names.count(b"x-aigw-request-id") == 1
        assert b"x-aigw-error" not in names
        assert b"x-request-id" in names or b"request-id" in names
    for far_request, near_request in zip(direct.requests, through.requests, strict=True):
        for member in ("method", "target", "body_sha256", "body_bytes"):
            assert near_request[member] == far_request[member]
        assert end_to_end(near_request) == end_to_end(far_request)
        assert values(near_request, "host") == [f"127.0.0.1:{mock.port}"]
        assert values(near_request, "connection") == []
        assert GATEWAY_KEY not in str(near_request)


# --- OpenAI -------------------------------------------------------------------------------------

HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"name": "weather", "description": "w", "parameters": {"type": "object"}}
TOOLS: Any = [{"type": "function", "function": TOOL}]
RESPONSE_TOOLS: Any = [{"type": "function", "strict": False, **TOOL}]
CHUNKS = {"x-mock-chunks": "7", "x-mock-spacing-ms": "2"}
RANDOM = random.Random(20)
IMAGE = "data:image/png;base64," + base64.b64encode(RANDOM.randbytes(5_000_000)).decode()
FILE = RANDOM.randbytes(10_000_000)


def chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="gpt-x", messages=HELLO, **options)


def chat_streamed(client: openai.OpenAI, **options: Any) -> list[Any]:
    chunks = list(chat(client, stream=True, **{"extra_headers": CHUNKS} | options))
    assert chunks
    return chunks


def chat_with_a_tool(client: openai.OpenAI) -> list[Any]:
    asked = chat(client, tools=TOOLS)
    call = asked.choices[0].message.tool_calls[0]
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    said = client.chat.completions.create(
        model="gpt-x", messages=[*HELLO, asked.choices[0].message, result], tools=TOOLS
    )
    return [asked, said]


def chat_streams_a_tool(client: openai.OpenAI) -> Any:
    with client.chat.completions.stream(model="gpt-x", messages=HELLO, tools=TOOLS) as stream:
        events = [event.type for event in stream]
        return [events, stream.get_final_completion()]


def chat_with_an_image(client: openai.OpenAI) -> Any:
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": IMAGE}},
    ]
    return client.chat.completions.create(
        model="gpt-x", messages=[{"role": "user", "content": content}]
    )


def response_streamed(client: openai.OpenAI) -> list[Any]:
    with client.responses.stream(model="gpt-x", input="Hi", extra_headers=CHUNKS) as stream:
        return [*stream, stream.get_final_response()]


def upload(client: openai.OpenAI) -> Any:
    """With a boundary of its own, since the SDK would take a new one each time."""
    kind = {"Content-Type": "multipart/form-data; boundary=0123456789abcdef"}
    return client.files.create(file=("f.bin", FILE), purpose="user_data", extra_headers=kind)


def speech(client: openai.OpenAI) -> bytes:
    audio = client.audio.speech.create(
        model="tts", voice="alloy", input="Hi", extra_headers={"x-mock-size": "3000000"}
    )
    assert len(audio.content) == 3_000_000
    return audio.content


def idempotent(client: openai.OpenAI) -> Any:
    named = {"Idempotency-Key": "k-1", "traceparent": "00-1-2-01", "X-Request-ID": "mine"}
    return chat(client, extra_headers=named, user="ü ☃", extra_query={"a": "ü b", "c": ["1", "2"]})


OPENAI: dict[str, Talk] = {
    "chat": chat,
    "chat streamed": chat_streamed,
    "chat streamed with usage": lambda c: chat_streamed(c, stream_options={"include_usage": True}),
    "chat with a tool": chat_with_a_tool,
    "chat streams a tool": chat_streams_a_tool,
    "chat with an image": chat_with_an_image,
    "chat with odd headers": idempotent,
    "response": lambda c: c.responses.create(model="gpt-x", input="Hi"),
    "response with a tool": lambda c: c.responses.create(
        model="gpt-x", input="Hi", tools=RESPONSE_TOOLS
    ),
    "response streamed": response_streamed,
    "embeddings": lambda c: c.embeddings.create(model="e", input=["a", "b"], dimensions=64),
    "models": lambda c: list(c.models.list()),
    "model": lambda c: c.models.retrieve("gpt-x"),
    "upload": upload,
    "speech": speech,
    "gzip": lambda c: chat(c, extra_headers={"x-mock-gzip": "1"}),
    "gzip streamed": lambda c: chat_streamed(c, extra_headers=CHUNKS | {"x-mock-gzip": "1"}),
}


@pytest.mark.parametrize("name", OPENAI)
def test_openai(name: str, mock: RunningMock, gateway: RunningGateway) -> None:
    direct = with_openai(OPENAI[name], f"{mock.url}/v1", mock, PROVIDER_KEY["openai"])
    through = with_openai(OPENAI[name], f"{gateway.url}/v1", mock, GATEWAY_KEY)
    assert_equal(direct, through, mock)
    for request in through.requests:
        assert values(request, "authorization") == [f"Bearer {PROVIDER_KEY['openai']}"]
        assert values(request, "x-api-key") == []


@pytest.mark.parametrize("name", ["chat", "chat streamed", "upload"])
def test_openai_with_the_clients_own_key(
    name: str, mock: RunningMock, gateway: RunningGateway
) -> None:
    """Then the credential is end to end, too: at its place, spelt as it was."""
    direct = with_openai(OPENAI[name], f"{mock.url}/v1", mock, "sk-mine")
    through = with_openai(
        OPENAI[name],
        f"{gateway.url}/own/v1",
        mock,
        "sk-mine",
        default_headers={"X-API-Key": GATEWAY_KEY},
    )
    assert_equal(direct, through, mock)
    kept = {"host", "connection"}
    for far, near in zip(direct.requests, through.requests, strict=True):
        mine = [field for field in far["headers"] if field[0].lower() not in kept]
        assert [field for field in near["headers"] if field[0].lower() not in kept] == mine
        assert values(near, "authorization") == ["Bearer sk-mine"]


def test_gzip_stays_as_it_was(mock: RunningMock, gateway: RunningGateway) -> None:
    seen = with_openai(OPENAI["gzip"], f"{gateway.url}/v1", mock, GATEWAY_KEY)
    (answer,) = seen.answers
    assert answer.body.startswith(b"\x1f\x8b")
    assert (b"content-encoding", b"gzip") in answer.fields
    assert dict(answer.fields)[b"content-length"] == b"%d" % len(answer.body)


def test_large_bodies_arrive_whole(mock: RunningMock, gateway: RunningGateway) -> None:
    seen = with_openai(OPENAI["upload"], f"{gateway.url}/v1", mock, GATEWAY_KEY)
    (request,) = seen.requests
    assert request["body_bytes"] > len(FILE)
    assert seen.result.filename == "f.bin"


# --- errors of the provider ---------------------------------------------------------------------


def refused(kind: type[Exception], status: int, ask: Talk) -> Talk:
    """The SDK raises; what it raises is the result."""

    def talk(client: Any) -> Any:
        with pytest.raises(kind) as caught:
            ask(client)
        fault: Any = caught.value
        assert fault.status_code == status
        return [type(fault), fault.message, fault.body, fault.response.content]

    return talk


def with_status(status: int, retry_after: str = "") -> Talk:
    headers = {"x-mock-status": str(status)}
    if retry_after:
        headers["x-mock-retry-after"] = retry_after

    def ask(client: Any) -> Any:
        if isinstance(client, openai.OpenAI):
            return chat(client, extra_headers=headers)
        return message(client, extra_headers=headers)

    return ask


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503, 529])
def test_an_error_of_openai_passes_verbatim(
    status: int, mock: RunningMock, gateway: RunningGateway
) -> None:
    talk = refused(openai.APIStatusError, status, with_status(status, "7"))
    direct = with_openai(talk, f"{mock.url}/v1", mock, "sk-mine")
    through = with_openai(talk, f"{gateway.url}/v1", mock, GATEWAY_KEY)
    assert_equal(direct, through, mock)
    assert (b"retry-after", b"7") in through.answers[0].fields


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_the_clients_where_it_brought_it(
    status: int, mock: RunningMock, gateway: RunningGateway
) -> None:
    talk = refused(openai.APIStatusError, status, with_status(status))
    direct = with_openai(talk, f"{mock.url}/v1", mock, "sk-mine")
    named = {"X-API-Key": GATEWAY_KEY}
    through = with_openai(talk, f"{gateway.url}/own/v1", mock, "sk-mine", default_headers=named)
    assert_equal(direct, through, mock)


def test_a_refused_key_of_the_gateway_is_not_the_clients(
    mock: RunningMock, gateway: RunningGateway
) -> None:
    talk = refused(openai.InternalServerError, 502, with_status(401))
    seen = with_openai(talk, f"{gateway.url}/v1", mock, GATEWAY_KEY, max_retries=3)
    (answer,) = seen.answers  # not one retry: nothing that the client does could help
    assert (b"x-aigw-error", b"upstream_auth_error") in answer.fields
    assert b"sk-provider" not in answer.body


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_retries_of_an_sdk_honour_retry_after(
    dialect: str, mock: RunningMock, gateway: RunningGateway
) -> None:
    """One second: more than either SDK waits before its first retry by itself."""
    started_s = time.monotonic()
    ask = with_status(429, "1")
    if dialect == "openai":
        talk = refused(openai.RateLimitError, 429, ask)
        seen = with_openai(talk, f"{gateway.url}/v1", mock, GATEWAY_KEY, max_retries=1)
    else:
        talk = refused(anthropic.RateLimitError, 429, ask)
        seen = with_anthropic(talk, gateway.url, mock, GATEWAY_KEY, max_retries=1)
    assert time.monotonic() - started_s >= 1
    first, second = seen.requests
    assert values(first, "x-stainless-retry-count") == ["0"]
    assert values(second, "x-stainless-retry-count") == ["1"]
    assert first["body_sha256"] == second["body_sha256"]


# --- Anthropic ----------------------------------------------------------------------------------

ANTHROPIC_TOOLS: Any = [{"name": "weather", "input_schema": {"type": "object"}}]


def message(client: anthropic.Anthropic, **options: Any) -> Any:
    return client.messages.create(model="claude-x", max_tokens=99, messages=HELLO, **options)


def message_streamed(client: anthropic.Anthropic, **options: Any) -> list[Any]:
    with client.messages.stream(
        model="claude-x", max_tokens=99, messages=HELLO, extra_headers=CHUNKS, **options
    ) as stream:
        return [*stream, stream.get_final_message()]


ANTHROPIC: dict[str, Talk] = {
    "message": message,
    "message with a beta": lambda c: message(
        c, extra_headers={"anthropic-beta": "a-2025-01-01,b-2025-02-02"}
    ),
    "message with a tool": lambda c: message(c, tools=ANTHROPIC_TOOLS),
    "message streamed raw": lambda c: list(message(c, stream=True)),
    "message streamed": message_streamed,
    "message streams a tool": lambda c: message_streamed(c, tools=ANTHROPIC_TOOLS),
    "count_tokens": lambda c: c.messages.count_tokens(model="claude-x", messages=HELLO),
    "gzip": lambda c: message(c, extra_headers={"x-mock-gzip": "1"}),
}


@pytest.mark.parametrize("name", ANTHROPIC)
def test_anthropic(name: str, mock: RunningMock, gateway: RunningGateway) -> None:
    direct = with_anthropic(ANTHROPIC[name], mock.url, mock, PROVIDER_KEY["anthropic"])
    through = with_anthropic(ANTHROPIC[name], gateway.url, mock, GATEWAY_KEY)
    assert_equal(direct, through, mock)
    for request in through.requests:
        assert values(request, "x-api-key") == [PROVIDER_KEY["anthropic"]]
        assert values(request, "authorization") == []


@pytest.mark.parametrize("status", [400, 429, 500, 529])
def test_an_error_of_anthropic_passes_verbatim(
    status: int, mock: RunningMock, gateway: RunningGateway
) -> None:
    talk = refused(anthropic.APIStatusError, status, with_status(status, "7"))
    direct = with_anthropic(talk, mock.url, mock, "sk-ant-mine")
    through = with_anthropic(talk, gateway.url, mock, GATEWAY_KEY)
    assert_equal(direct, through, mock)


def test_anthropic_with_the_clients_own_key(mock: RunningMock, gateway: RunningGateway) -> None:
    """The other way round: the gateway's key as Bearer, the provider's as x-api-key."""
    direct = with_anthropic(message, mock.url, mock, "sk-ant-mine")
    named = {"Authorization": f"Bearer {GATEWAY_KEY}", "X-Api-Key": "sk-ant-mine"}
    through = with_anthropic(
        message, f"{gateway.url}/own", mock, "sk-ant-mine", default_headers=named
    )
    assert_equal(direct, through, mock)
    assert values(through.requests[0], "x-api-key") == ["sk-ant-mine"]
    assert values(through.requests[0], "authorization") == []


def test_the_ledger_tells_bodies_apart(mock: RunningMock) -> None:
    """What the comparisons above rest on."""
    first = with_openai(OPENAI["chat with an image"], f"{mock.url}/v1", mock, "k").requests
    second = with_openai(OPENAI["upload"], f"{mock.url}/v1", mock, "k").requests
    hashes = {request["body_sha256"] for request in (*first, *second)}
    assert len(hashes) == 2
    assert hashlib.sha256(b"").hexdigest() not in hashes
