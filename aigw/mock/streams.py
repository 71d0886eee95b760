"""Streamed answers as server-sent events, in OpenAI's two forms and in Anthropic's.

A stream is a list of writes, a write is a tuple of events. The first write opens the answer, each
further one carries one piece of content, the last one closes it. With `stamp`, each piece of text
begins with "mock_sent_ns=" and digits that the provider overwrites with the clock
(CLOCK_MONOTONIC, nanoseconds) as it sends, so that a load generator on the same machine can tell
how long a chunk was under way. It stands in the text because gateways that write events anew keep
that, and drop members which they don't know.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import orjson

from aigw.mock.shape import Shape

CREATED_AT = 1_735_689_600  # 2025-01-01: constant, so that equal requests get equal bytes
INPUT_TOKENS = 9
TOOL_ARGUMENTS = '{"location":"Paris"}'
STAMP = b"0" * 19  # as many digits as a 64-bit count of nanoseconds can have
STAMPED = f"mock_sent_ns={STAMP.decode()} "
TEXT = (
    "Hello! This answer was made on your own machine: no provider was asked, no money was spent. "
    "It came from a mock, went through the gateway chunk by chunk as it was written, and reached "
    "you with not one byte changed. Point an upstream at a real provider and this text is the "
    "only thing that will be different. "
)
DEFAULT_CONTENT_BYTES = 800  # makes a plain answer of about 1.2 KiB

Event = tuple[str, dict[str, Any]]  # its name ("" = OpenAI's nameless ones) and its data
Write = tuple[bytes, ...]


def content(shape: Shape) -> str:
    """The text of the answer, exactly as long as asked for."""
    size = shape.settings.answer_bytes or DEFAULT_CONTENT_BYTES
    return (TEXT * (size // len(TEXT) + 1))[:size]


def pieces(shape: Shape, text: str) -> list[str]:
    """The text in pieces of nearly equal length; short texts give empty ones."""
    count = shape.settings.chunks
    cuts = [len(text) * i // count for i in range(count + 1)] if count else [0]
    stamped = shape.settings.stamp and not shape.settings.gzip and not shape.tool
    before = STAMPED if stamped else ""
    return [before + text[a:b] for a, b in itertools.pairwise(cuts)]


def output_tokens(shape: Shape) -> int:
    return len(TOOL_ARGUMENTS if shape.tool else content(shape)) // 4


def _written(*events: Event) -> Write:
    """Those events as bytes."""
    write = []
    for name, data in events:
        prefix = b"event: %s\n" % name.encode() if name else b""
        write.append(prefix + b"data: " + orjson.dumps(data) + b"\n\n")
    return tuple(write)


# --- OpenAI: chat completions and completions


def chat_stream(shape: Shape) -> list[Write]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return "", _chat_chunk(shape, [choice])

    if shape.tool:
        function = {"name": shape.tool, "arguments": ""}
        call = {"index": 0, "id": "call_mock", "type": "function", "function": function}
        opening = chunk({"role": "assistant", "content": None, "tool_calls": [call]})
        deltas: list[dict[str, Any]] = [
            {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
            for piece in pieces(shape, TOOL_ARGUMENTS)
        ]
    else:
        opening = chunk({"role": "assistant", "content": "", "refusal": None})
        deltas = [{"content": piece} for piece in pieces(shape, content(shape))]
    closing = [chunk({}, "tool_calls" if shape.tool else "stop")]
    if shape.usage:
        closing.append(("", {**_chat_chunk(shape, []), "usage": chat_usage(shape)}))
    return [
        _written(opening),
        *(_written(chunk(delta)) for delta in deltas),
        (*_written(*closing), b"data: [DONE]\n\n"),
    ]


def _chat_chunk(shape: Shape, choices: list[dict[str, Any]]) -> dict[str, Any]:
    chunk = {
        "id": "chatcmpl-mock",
        "object": "chat.completion.chunk",
        "created": CREATED_AT,
        "model": shape.model,
        "system_fingerprint": "fp_mock",
        "choices": choices,
    }
    return {**chunk, "usage": None} if shape.usage else chunk


def chat_usage(shape: Shape) -> dict[str, Any]:
    output = output_tokens(shape)
    return {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": output,
        "total_tokens": INPUT_TOKENS + output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def completion_stream(shape: Shape) -> list[Write]:
    def chunk(text: str, finish: str | None = None) -> Event:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return "", _completion_chunk(shape, [choice])

    closing = [chunk("", "stop")]
    if shape.usage:
        closing.append(("", {**_completion_chunk(shape, []), "usage": chat_usage(shape)}))
    return [
        *(_written(chunk(p)) for p in pieces(shape, content(shape))),
        (*_written(*closing), b"data: [DONE]\n\n"),
    ]


def _completion_chunk(shape: Shape, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "cmpl-mock",
        "object": "text_completion",
        "created": CREATED_AT,
        "model": shape.model,
        "choices": choices,
    }


# --- OpenAI: responses


def response_object(shape: Shape, output: list[dict[str, Any]], done: bool) -> dict[str, Any]:
    """A response, in progress or completed."""
    return {
        "id": "resp_mock",
        "object": "response",
        "created_at": CREATED_AT,
        "status": "completed" if done else "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": shape.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": response_usage(shape) if done else None,
    }


def response_usage(shape: Shape) -> dict[str, Any]:
    output = output_tokens(shape)
    return {
        "input_tokens": INPUT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": INPUT_TOKENS + output,
    }


def response_item(shape: Shape, text: str, status: str = "completed") -> dict[str, Any]:
    """The one thing a response says: a message, or a call of the tool."""
    if shape.tool:
        return {
            "id": "fc_mock",
            "type": "function_call",
            "status": status,
            "call_id": "call_mock",
            "name": shape.tool,
            "arguments": text,
        }
    said = [{"type": "output_text", "text": text, "annotations": []}] if text else []
    return {
        "id": "msg_mock",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": said,
    }


def response_stream(shape: Shape) -> list[Write]:
    text = TOOL_ARGUMENTS if shape.tool else content(shape)
    item = response_item(shape, text)
    empty = response_item(shape, "", "in_progress")
    place = {"item_id": item["id"], "output_index": 0}
    writes: list[list[tuple[str, dict[str, Any]]]] = [
        [
            ("response.created", {"response": response_object(shape, [], False)}),
            ("response.in_progress", {"response": response_object(shape, [], False)}),
            ("response.output_item.added", {"output_index": 0, "item": empty}),
        ]
    ]
    if shape.tool:
        delta, spot = "response.function_call_arguments.delta", place
        closing = [("response.function_call_arguments.done", {**place, "arguments": text})]
    else:
        delta, spot = "response.output_text.delta", {**place, "content_index": 0, "logprobs": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        at = {**place, "content_index": 0}
        writes[0].append(("response.content_part.added", {**at, "part": part}))
        closing = [
            ("response.output_text.done", {**spot, "text": text}),
            ("response.content_part.done", {**at, "part": {**part, "text": text}}),
        ]
    writes += [[(delta, {**spot, "delta": p})] for p in pieces(shape, text)]
    closing.append(("response.output_item.done", {"output_index": 0, "item": item}))
    closing.append(("response.completed", {"response": response_object(shape, [item], True)}))
    return _typed([*writes, closing], numbered=True)


# --- Anthropic: messages


def message_object(shape: Shape, blocks: list[dict[str, Any]], done: bool) -> dict[str, Any]:
    return {
        "id": "msg_mock",
        "type": "message",
        "role": "assistant",
        "model": shape.model,
        "content": blocks,
        "stop_reason": message_stop(shape) if done else None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": INPUT_TOKENS,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens(shape) if done else 1,
        },
    }


def message_stop(shape: Shape) -> str:
    return "tool_use" if shape.tool else "end_turn"


def message_block(shape: Shape, empty: bool) -> dict[str, Any]:
    if shape.tool:
        call = {} if empty else orjson.loads(TOOL_ARGUMENTS)
        return {"type": "tool_use", "id": "toolu_mock", "name": shape.tool, "input": call}
    return {"type": "text", "text": "" if empty else content(shape)}


def message_stream(shape: Shape) -> list[Write]:
    block = message_block(shape, empty=True)
    text = TOOL_ARGUMENTS if shape.tool else content(shape)
    kind, field = ("input_json_delta", "partial_json") if shape.tool else ("text_delta", "text")
    opening: list[Event] = [
        ("message_start", {"message": message_object(shape, [], False)}),
        ("content_block_start", {"index": 0, "content_block": block}),
        ("ping", {}),
    ]
    deltas: list[list[Event]] = [
        [("content_block_delta", {"index": 0, "delta": {"type": kind, field: piece}})]
        for piece in pieces(shape, text)
    ]
    stop = {"stop_reason": message_stop(shape), "stop_sequence": None}
    closing: list[Event] = [
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": stop, "usage": {"output_tokens": output_tokens(shape)}}),
        ("message_stop", {}),
    ]
    return _typed([opening, *deltas, closing])


def _typed(writes: list[list[Event]], numbered: bool = False) -> list[Write]:
    """Events that repeat their name as `type`; OpenAI's are numbered through, too."""
    number = 0
    done = []
    for write in writes:
        events: list[Event] = []
        for name, fields in write:
            extra = {"sequence_number": number} if numbered else {}
            events.append((name, {"type": name, **extra, **fields}))
            number += 1
        done.append(_written(*events))
    return done


STREAMS: dict[str, Callable[[Shape], list[Write]]] = {
    "chat": chat_stream,
    "completion": completion_stream,
    "response": response_stream,
    "message": message_stream,
}
