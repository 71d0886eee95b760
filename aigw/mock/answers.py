"""Shapes into bytes: every answer of the mock provider, head and body, built once and kept.

What changes in a head from one answer to the next are a few values, so an `Answer` has its head as
a format of them (`heads.py`). A streamed answer has its body in parts, already framed as HTTP
chunks.
"""

from __future__ import annotations

import base64
import http
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from aigw.mock import streams
from aigw.mock.heads import VALUES, Values, head_format
from aigw.mock.shape import SPEECH_BYTES, Shape
from aigw.mock.streams import CREATED_AT, INPUT_TOKENS

# A bench needs a handful of shapes, a test run some hundreds. Larger answers are built each time.
KEPT_ANSWERS = 512
KEPT_ANSWER_BYTES = 64 * 1024

MODELS = ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small")
ANTHROPIC_MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5")

# status -> `type` and `code` of OpenAI's error object, `type` of Anthropic's (their API references)
ERRORS: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "invalid_request_error"),
    401: ("invalid_request_error", "invalid_api_key", "authentication_error"),
    403: ("invalid_request_error", "unsupported_country_region_territory", "permission_error"),
    404: ("invalid_request_error", None, "not_found_error"),
    413: ("invalid_request_error", None, "request_too_large"),
    429: ("requests", "rate_limit_exceeded", "rate_limit_error"),
    500: ("server_error", None, "api_error"),
    503: ("server_error", None, "api_error"),
    529: ("server_error", None, "overloaded_error"),
}
BODYLESS = frozenset({204, 304})
OTHER_ERROR = ("server_error", None, "api_error")


class Answer(NamedTuple):
    """Sent as: `head_format % values(date, number)`, then the parts."""

    head_format: bytes
    values: Callable[[bytes, int], Values]
    parts: tuple[bytes, ...]
    whole: bytes  # all parts in one
    timed: bool  # its parts go out one by one, or late


def answer_for(shape: Shape) -> Answer:
    """The answer to that shape, from the store if it is small enough to be kept."""
    settings = shape.settings
    chunks_bytes = settings.chunks * 250 if shape.stream else 0
    vectors_bytes = shape.inputs * shape.dimensions * 6
    if max(settings.answer_bytes, chunks_bytes, vectors_bytes) > KEPT_ANSWER_BYTES:
        return build(shape)
    return _kept(shape)


@lru_cache(maxsize=KEPT_ANSWERS)
def _kept(shape: Shape) -> Answer:
    return build(shape)


def build(shape: Shape) -> Answer:
    headers: list[tuple[str, str]]
    if shape.settings.status in BODYLESS:
        return answer(shape, [], (b"",))
    if shape.stream:
        parts = _stream_parts(shape)
        headers = [("content-type", "text/event-stream; charset=utf-8")]
        headers += [("cache-control", "no-cache"), ("transfer-encoding", "chunked")]
    else:
        body, kind = plain_body(shape)
        parts = (_gzip(body),) if shape.settings.gzip else (body,)
        headers = [("content-type", kind), ("content-length", str(len(parts[0])))]
    if shape.settings.gzip:
        headers.append(("content-encoding", "gzip"))
    return answer(shape, headers, parts)


def answer(shape: Shape, headers: list[tuple[str, str]], parts: tuple[bytes, ...]) -> Answer:
    settings = shape.settings
    anthropic = shape.kind.startswith(("message", "count_tokens", "anthropic"))
    lines = [f"{name}: {value}" for name, value in headers]
    if settings.retry_after:
        lines.append(f"retry-after: {settings.retry_after}")
    start = f"HTTP/1.1 {settings.status} {_reason(settings.status)}"
    paced = len(parts) > 1 and (settings.spacing_s > 0 or settings.stamp)
    return Answer(
        head_format=head_format(settings.heads, start, lines, anthropic),
        values=VALUES[settings.heads],
        parts=parts,
        whole=b"".join(parts),
        timed=paced or settings.latency_s > 0,
    )


def _reason(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Overloaded" if status == 529 else "Unknown"


def _stream_parts(shape: Shape) -> tuple[bytes, ...]:
    """The writes of a stream, each event as one HTTP chunk, the last one with the end mark."""
    writes = streams.STREAMS[shape.kind](shape)
    if shape.settings.gzip:
        writes = _gzip_writes(writes)
    framed = [b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in write) for write in writes]
    framed[-1] += b"0\r\n\r\n"
    return tuple(framed)


def _gzip(body: bytes) -> bytes:
    press = zlib.compressobj(wbits=31)
    return press.compress(body) + press.flush()


def _gzip_writes(writes: list[streams.Write]) -> list[streams.Write]:
    """One gzip stream, flushed after each write so that each can be read at once."""
    press = zlib.compressobj(wbits=31)
    packed: list[streams.Write] = [
        (press.compress(b"".join(write)) + press.flush(zlib.Z_SYNC_FLUSH),) for write in writes
    ]
    return [*packed[:-1], (packed[-1][0] + press.flush(),)]


def json_answer(shape: Shape, value: object) -> Answer:
    """An answer that is not kept, with that JSON as its body."""
    body = orjson.dumps(value)
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    return answer(shape, headers, (body,))


# --- plain bodies


def plain_body(shape: Shape) -> tuple[bytes, str]:
    """Body and content type of an answer in one piece."""
    if shape.kind == "speech":
        size = shape.settings.answer_bytes or SPEECH_BYTES
        return (bytes(range(256)) * (size // 256 + 1))[:size], "audio/mpeg"
    return orjson.dumps(PLAIN[shape.kind](shape)), "application/json"


def _chat(shape: Shape) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    if shape.tool:
        function = {"name": shape.tool, "arguments": streams.TOOL_ARGUMENTS}
        message["tool_calls"] = [{"id": "call_mock", "type": "function", "function": function}]
    else:
        message |= {"content": streams.content(shape), "annotations": []}
    finish = "tool_calls" if shape.tool else "stop"
    return {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": CREATED_AT,
        "model": shape.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": streams.chat_usage(shape),
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
    }


def _completion(shape: Shape) -> dict[str, Any]:
    text = streams.content(shape)
    return {
        "id": "cmpl-mock",
        "object": "text_completion",
        "created": CREATED_AT,
        "model": shape.model,
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}],
        "usage": streams.chat_usage(shape),
    }


def _response(shape: Shape) -> dict[str, Any]:
    text = streams.TOOL_ARGUMENTS if shape.tool else streams.content(shape)
    return streams.response_object(shape, [streams.response_item(shape, text)], done=True)


def _embeddings(shape: Shape) -> dict[str, Any]:
    vector = [(i % 7 - 3) / 8 for i in range(shape.dimensions)]  # exact in 32-bit floats
    given: list[float] | str = vector
    if shape.base64:
        given = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": given} for i in range(shape.inputs)
        ],
        "model": shape.model,
        "usage": {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS},
    }


def _message(shape: Shape) -> dict[str, Any]:
    return streams.message_object(shape, [streams.message_block(shape, empty=False)], done=True)


def _model(shape: Shape) -> dict[str, Any]:
    return {"id": shape.model, "object": "model", "created": CREATED_AT, "owned_by": "mock"}


def _models(shape: Shape) -> dict[str, Any]:
    return {"object": "list", "data": [_model(shape._replace(model=name)) for name in MODELS]}


def _anthropic_model(shape: Shape) -> dict[str, Any]:
    created = "2025-01-01T00:00:00Z"
    return {
        "type": "model",
        "id": shape.model,
        "display_name": shape.model,
        "created_at": created,
    }


def _anthropic_models(shape: Shape) -> dict[str, Any]:
    found = [_anthropic_model(shape._replace(model=name)) for name in ANTHROPIC_MODELS]
    return {
        "data": found,
        "has_more": False,
        "first_id": ANTHROPIC_MODELS[0],
        "last_id": ANTHROPIC_MODELS[-1],
    }


def _file(shape: Shape) -> dict[str, Any]:
    return {
        "id": "file-mock",
        "object": "file",
        "bytes": shape.body_bytes,
        "created_at": CREATED_AT,
        "filename": shape.detail,
        "purpose": "user_data",
        "status": "processed",
    }


def _health(shape: Shape) -> dict[str, Any]:
    return {"status": "ok"}


def _count_tokens(shape: Shape) -> dict[str, Any]:
    return {"input_tokens": shape.body_bytes // 4}


def _error(shape: Shape) -> dict[str, Any]:
    kind, code, _ = ERRORS.get(shape.settings.status, OTHER_ERROR)
    message = shape.detail or f"The mock provider was asked for {shape.settings.status}."
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _anthropic_error(shape: Shape) -> dict[str, Any]:
    kind = ERRORS.get(shape.settings.status, OTHER_ERROR)[2]
    message = shape.detail or f"The mock provider was asked for {shape.settings.status}."
    error = {"type": kind, "message": message}
    return {"type": "error", "error": error, "request_id": "req_mock"}


PLAIN: dict[str, Callable[[Shape], dict[str, Any]]] = {
    "chat": _chat,
    "completion": _completion,
    "response": _response,
    "embeddings": _embeddings,
    "message": _message,
    "count_tokens": _count_tokens,
    "file": _file,
    "health": _health,
    "model": _model,
    "models": _models,
    "anthropic_model": _anthropic_model,
    "anthropic_models": _anthropic_models,
    "error": _error,
    "anthropic_error": _anthropic_error,
}
