"""What the mock says, as the real SDKs of OpenAI and Anthropic understand it."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest
import uvloop

from aigw.mock.answers import ANTHROPIC_MODELS, ERRORS, MODELS, build
from aigw.mock.provider import MockSettings, serve
from aigw.mock.shape import Shape
from aigw.mock.streams import DEFAULT_CONTENT_BYTES, TEXT

HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"name": "weather", "description": "w", "parameters": {"type": "object"}}
TOOLS: Any = [{"type": "function", "function": TOOL}]
ANTHROPIC_TOOLS: Any = [{"name": "weather", "input_schema": {"type": "object"}}]
SAID = (TEXT * 3)[:DEFAULT_CONTENT_BYTES]


def with_openai(talk: Callable[[openai.AsyncOpenAI], Awaitable[None]]) -> None:
    async def main() -> None:
        async with (
            await serve(MockSettings()) as server,
            openai.AsyncOpenAI(
                api_key="k",
                base_url=f"http://127.0.0.1:{server.port}/v1",
                max_retries=0,
                http_client=openai.DefaultAsyncHttpxClient(verify=False),  # no trust store to read
            ) as client,
        ):
            await talk(client)

    uvloop.run(main())


def with_anthropic(talk: Callable[[anthropic.AsyncAnthropic], Awaitable[None]]) -> None:
    async def main() -> None:
        async with (
            await serve(MockSettings()) as server,
            anthropic.AsyncAnthropic(
                api_key="k",
                base_url=f"http://127.0.0.1:{server.port}",
                max_retries=0,
                http_client=anthropic.DefaultAsyncHttpxClient(verify=False),
            ) as client,
        ):
            await talk(client)

    uvloop.run(main())


def test_chat() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(model="gpt-x", messages=HELLO)
        assert answer.model == "gpt-x"
        assert answer.choices[0].message.content == SAID
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None and answer.usage.total_tokens == 209

    with_openai(talk)


@pytest.mark.parametrize("usage", [False, True])
def test_chat_streamed(usage: bool) -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model="gpt-x",
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": usage},
            extra_headers={"x-mock-chunks": "7"},
        )
        chunks = [chunk async for chunk in stream]
        texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(texts) == SAID
        assert len(chunks) == 1 + 7 + 1 + usage
        used = chunks[-1].usage
        assert (used is not None and used.completion_tokens == 200) is usage

    with_openai(talk)


def test_chat_calls_a_tool_until_it_has_the_result() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(model="m", messages=HELLO, tools=TOOLS)
        calls: Any = answer.choices[0].message.tool_calls
        assert (calls[0].function.name, answer.choices[0].finish_reason) == (
            "weather",
            "tool_calls",
        )
        result: Any = [*HELLO, {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"}]
        answer = await client.chat.completions.create(model="m", messages=result, tools=TOOLS)
        assert answer.choices[0].message.content == SAID

    with_openai(talk)


def test_chat_streams_a_tool_call() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        async with client.chat.completions.stream(model="m", messages=HELLO, tools=TOOLS) as stream:
            answer = await stream.get_final_completion()
        calls: Any = answer.choices[0].message.tool_calls
        assert calls[0].function.name == "weather"
        assert calls[0].function.arguments == '{"location":"Paris"}'

    with_openai(talk)


def test_completions() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        answer = await client.completions.create(model="m", prompt="x")
        assert answer.choices[0].text == SAID
        stream = await client.completions.create(model="m", prompt="x", stream=True)
        assert "".join([c.choices[0].text async for c in stream]) == SAID

    with_openai(talk)


@pytest.mark.parametrize("tools", [False, True])
def test_responses(tools: bool) -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        more: Any = {"tools": [{"type": "function", **TOOL}]} if tools else {}
        plain = await client.responses.create(model="m", input="Hello", **more)
        assert plain.output_text == ("" if tools else SAID)
        assert plain.output[0].type == ("function_call" if tools else "message")
        async with client.responses.stream(model="m", input="Hello", **more) as stream:
            numbers = [event.sequence_number async for event in stream]
            streamed = await stream.get_final_response()
        assert numbers == list(range(len(numbers)))
        assert streamed.output_text == plain.output_text
        assert streamed.usage == plain.usage

    with_openai(talk)


def test_embeddings() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        # The SDK asks for base64 by itself and decodes it; floats must come out equal.
        packed = await client.embeddings.create(model="m", input=["a", "b"], dimensions=5)
        plain = await client.embeddings.create(
            model="m", input=["a", "b"], dimensions=5, encoding_format="float"
        )
        assert [e.embedding for e in packed.data] == [e.embedding for e in plain.data]
        assert [len(e.embedding) for e in packed.data] == [5, 5]

    with_openai(talk)


def test_models() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        assert tuple([m.id async for m in client.models.list()]) == MODELS
        assert (await client.models.retrieve("gpt-9")).id == "gpt-9"

    with_openai(talk)


def test_upload_and_download() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        content = bytes(range(256)) * 4096
        file = await client.files.create(file=("a.bin", content), purpose="user_data")
        assert file.filename == "a.bin"
        assert file.bytes > len(content)
        speech = await client.audio.speech.create(
            model="m", voice="alloy", input="x", extra_headers={"x-mock-size": "100000"}
        )
        assert speech.content == (bytes(range(256)) * 400)[:100_000]

    with_openai(talk)


@pytest.mark.parametrize("status", sorted(ERRORS))
def test_openai_errors(status: int) -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(
                model="m",
                messages=HELLO,
                extra_headers={"x-mock-status": str(status), "x-mock-retry-after": "7"},
            )
        assert caught.value.status_code == status
        assert caught.value.type == ERRORS[status][0]
        assert caught.value.response.headers["retry-after"] == "7"

    with_openai(talk)


@pytest.mark.parametrize("stream", [False, True])
def test_gzip(stream: bool) -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        answer: Any = await client.chat.completions.with_raw_response.create(
            model="m", messages=HELLO, stream=stream, extra_headers={"x-mock-gzip": "1"}
        )
        assert answer.headers["content-encoding"] == "gzip"
        parsed: Any = answer.parse()
        if stream:
            said = "".join([c.choices[0].delta.content or "" async for c in parsed])
        else:
            said = parsed.choices[0].message.content
        assert said == SAID

    with_openai(talk)


def test_messages() -> None:
    async def talk(client: anthropic.AsyncAnthropic) -> None:
        plain = await client.messages.create(model="claude", max_tokens=9, messages=HELLO)
        block: Any = plain.content[0]
        assert (block.text, plain.stop_reason) == (SAID, "end_turn")
        async with client.messages.stream(
            model="claude", max_tokens=9, messages=HELLO, extra_headers={"x-mock-chunks": "3"}
        ) as stream:
            texts = [text async for text in stream.text_stream]
            streamed = await stream.get_final_message()
        assert len(texts) == 3 and "".join(texts) == SAID
        assert streamed.to_dict() == {**plain.to_dict(), "stop_details": None}

    with_anthropic(talk)


def test_messages_call_a_tool_until_they_have_the_result() -> None:
    async def talk(client: anthropic.AsyncAnthropic) -> None:
        more: Any = {"model": "claude", "max_tokens": 9, "tools": ANTHROPIC_TOOLS}
        plain = await client.messages.create(messages=HELLO, **more)
        async with client.messages.stream(messages=HELLO, **more) as stream:
            streamed = await stream.get_final_message()
        for message in (plain, streamed):
            block: Any = message.content[0]
            assert (block.name, block.input) == ("weather", {"location": "Paris"})
            assert message.stop_reason == "tool_use"
        result: Any = {"type": "tool_result", "tool_use_id": "toolu_mock", "content": "sunny"}
        turns: Any = [*HELLO, {"role": "user", "content": [result]}]
        assert (await client.messages.create(messages=turns, **more)).stop_reason == "end_turn"

    with_anthropic(talk)


def test_anthropic_counts_models_and_errors() -> None:
    async def talk(client: anthropic.AsyncAnthropic) -> None:
        count = await client.messages.count_tokens(model="claude", messages=HELLO)
        assert count.input_tokens > 0
        assert tuple([m.id async for m in client.models.list()]) == ANTHROPIC_MODELS
        assert (await client.models.retrieve("claude-9")).id == "claude-9"
        with pytest.raises(anthropic.RateLimitError) as caught:
            await client.messages.create(
                model="c", max_tokens=9, messages=HELLO, extra_headers={"x-mock-status": "429"}
            )
        body: Any = caught.value.body
        assert body["error"]["type"] == "rate_limit_error"
        assert caught.value.request_id is not None

    with_anthropic(talk)


def test_gzip_is_the_same_text() -> None:
    plain = build(Shape("chat", MockSettings()))
    packed = build(Shape("chat", MockSettings(gzip=True)))
    assert gzip.decompress(packed.parts[0]) == plain.parts[0]


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(status: int) -> None:
    answer = build(Shape("error", MockSettings(status=status)))
    assert answer.whole == b""
    assert b"content-length" not in answer.head_format
