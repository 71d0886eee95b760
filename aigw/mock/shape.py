"""What a request wants of the mock provider: decides, and builds nothing.

A request's path, its JSON and its `x-mock-…` headers are boiled down to a `Shape`, a small
hashable value. Equal shapes get equal bytes, so the answers can be built once and kept.
Every setting can be overruled for one request, by a header or, since many gateways drop unknown
headers, by a word in the body's `user`: "x-mock-chunks=7". The table OVERRIDES says how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import orjson

from aigw.mock.heads import STYLES
from aigw.mock.request import Request, RequestError

# One answer of the mock, and one vector of it; beyond that a bench would measure memory.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_CHUNKS = 100_000
MAX_DIMENSIONS = 4096
MAX_INPUTS = 2048  # OpenAI's own limit of inputs in one embeddings request
SPEECH_BYTES = 96 * 1024  # some seconds of MP3


class MockSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the mock answers; each field but the ledger can be overruled by a request."""

    latency_s: float = 0.0  # to the first byte of what a model says; lists and 404 come at once
    chunks: int = 20  # pieces of content in a streamed answer
    spacing_s: float = 0.0  # between two of them
    answer_bytes: int = 0  # of content; 0: what suits the endpoint
    stamp: bool = False  # each chunk carries its sending time, see streams.py
    gzip: bool = False
    status: int = 200  # anything else: an error in the dialect of the path
    retry_after: str = ""
    heads: str = "plain"  # the style of answer heads, see heads.py
    ledger: int = 0  # how many of the last requests are kept; 0: none (benches)


class Shape(NamedTuple):
    """Everything that decides the bytes of an answer."""

    kind: str
    settings: MockSettings
    model: str = "mock"
    stream: bool = False
    usage: bool = False
    tool: str = ""  # the name of the tool that is to be called
    inputs: int = 1
    dimensions: int = 8
    base64: bool = False
    detail: str = ""  # file name, path or fault
    body_bytes: int = 0  # only where the answer tells it


def _milliseconds(value: bytes) -> float:
    return int(value) / 1000


def _text(value: bytes) -> str:
    return value.decode("ascii")


def _flag(value: bytes) -> bool:
    return value == b"1"


def _style(value: bytes) -> str:
    style = value.decode("ascii")
    if style not in STYLES:
        raise ValueError(style)
    return style


def _between(least: int, most: int) -> Callable[[bytes], int]:
    def read(value: bytes) -> int:
        if not value.isdigit() or not least <= int(value) <= most:
            raise ValueError(value)
        return int(value)

    return read


OVERRIDES: tuple[tuple[bytes, str, Callable[[bytes], object]], ...] = (
    (b"x-mock-latency-ms", "latency_s", _milliseconds),
    (b"x-mock-chunks", "chunks", _between(0, MAX_CHUNKS)),
    (b"x-mock-spacing-ms", "spacing_s", _milliseconds),
    (b"x-mock-size", "answer_bytes", _between(0, MAX_ANSWER_BYTES)),
    (b"x-mock-stamp", "stamp", _flag),
    (b"x-mock-gzip", "gzip", _flag),
    (b"x-mock-status", "status", _between(200, 599)),
    (b"x-mock-retry-after", "retry_after", _text),
    (b"x-mock-heads", "heads", _style),
)
PREFIX = b"x-mock-"


def overrule(settings: MockSettings, request: Request) -> MockSettings:
    """The settings by this request's headers. Raises RequestError for what can't be read."""
    if b"\r\n" + PREFIX not in request.lowered:
        return settings
    given = {name: request.header(name) for name, _, _ in OVERRIDES}
    return _changed(settings, given)


def overrule_by_user(settings: MockSettings, user: object) -> MockSettings:
    """The settings by the words of a body's `user`. Raises RequestError for what can't be read."""
    if not isinstance(user, str) or PREFIX.decode() not in user:
        return settings
    words = (word.partition("=") for word in user.split())
    return _changed(settings, {name.encode(): value.encode() for name, _, value in words})


def _changed(settings: MockSettings, given: Mapping[bytes, bytes | None]) -> MockSettings:
    changes: dict[str, Any] = {}
    for name, field, read in OVERRIDES:
        value = given.get(name)
        if value is not None:
            try:
                changes[field] = read(value)
            except ValueError:
                raise RequestError(name.decode()) from None
    return msgspec.structs.replace(settings, **changes)


# method and path -> kind; what is not here is looked at by `_other_kind`
KINDS: dict[bytes, str] = {
    b"POST /v1/chat/completions": "chat",
    b"POST /v1/completions": "completion",
    b"POST /v1/responses": "response",
    b"POST /v1/embeddings": "embeddings",
    b"POST /v1/messages": "message",
    b"POST /v1/messages/count_tokens": "count_tokens",
    b"POST /v1/audio/speech": "speech",
    b"POST /v1/files": "file",
    b"GET /v1/models": "models",
    b"GET /health": "health",  # some gateways send nothing before they have seen this
}
JSON_KINDS = frozenset(
    {"chat", "completion", "response", "embeddings", "message", "count_tokens", "speech"}
)
STREAMED_KINDS = frozenset({"chat", "completion", "response", "message"})
ANTHROPIC_PATH = b"/v1/messages"
_FILE_NAME = re.compile(rb'filename="([^"\r\n]{1,200})"')


def shape_of(request: Request, settings: MockSettings) -> Shape:
    """What that request wants. Raises RequestError for an override that can't be read."""
    settings = overrule(settings, request)
    method = b"GET" if request.method == b"HEAD" else request.method
    path = request.path
    if settings.status != 200:
        kind = "anthropic_error" if path.startswith(ANTHROPIC_PATH) else "error"
        return Shape(kind, settings)
    kind = KINDS.get(method + b" " + path) or ""
    if kind in JSON_KINDS:
        return _json_shape(kind, request, settings)
    if kind == "file":
        return _file_shape(request, settings)
    if request.header(b"x-mock-latency-ms") is None:
        settings = msgspec.structs.replace(settings, latency_s=0.0)
    return _other_shape(kind, method, path, request, settings)


def _json_shape(kind: str, request: Request, settings: MockSettings) -> Shape:
    try:
        body = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        error = "anthropic_error" if request.path.startswith(ANTHROPIC_PATH) else "error"
        bad = msgspec.structs.replace(settings, status=400)
        return Shape(error, bad, detail="We could not parse the JSON body of your request.")
    settings = overrule_by_user(settings, body.get("user"))
    if kind == "embeddings":
        return _embeddings_shape(body, settings)
    if kind == "count_tokens":
        return Shape(kind, settings, body_bytes=len(request.body))
    options = body.get("stream_options")
    return Shape(
        kind,
        settings,
        model=_model(body),
        stream=body.get("stream") is True and kind in STREAMED_KINDS,
        usage=isinstance(options, dict) and options.get("include_usage") is True,
        tool=_tool(body) if "tools" in body else "",
    )


def _model(body: dict[str, Any]) -> str:
    model = body.get("model")
    return model if isinstance(model, str) else "mock"


def _tool(body: dict[str, Any]) -> str:
    """The tool to call: the first one, unless its result is already in the conversation."""
    tools = body["tools"]
    if not isinstance(tools, list) or not tools or body.get("tool_choice") == "none":
        return ""
    turns = body.get("messages", body.get("input"))
    if isinstance(turns, list) and turns and _is_tool_result(turns[-1]):
        return ""
    first = tools[0]
    if not isinstance(first, dict):
        return ""
    function = first.get("function", first)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _is_tool_result(turn: object) -> bool:
    if not isinstance(turn, dict):
        return False
    if turn.get("role") == "tool" or turn.get("type") == "function_call_output":
        return True
    content = turn.get("content")
    return isinstance(content, list) and any(
        isinstance(block, dict) and block.get("type") == "tool_result" for block in content
    )


def _embeddings_shape(body: dict[str, Any], settings: MockSettings) -> Shape:
    given = body.get("input")
    # A list of numbers is one tokenised input, a list of anything else is several.
    several = isinstance(given, list) and given and not isinstance(given[0], int)
    wanted = body.get("dimensions")
    dimensions = wanted if isinstance(wanted, int) and 0 < wanted <= MAX_DIMENSIONS else 8
    return Shape(
        "embeddings",
        settings,
        model=_model(body),
        inputs=min(len(given), MAX_INPUTS) if several and isinstance(given, list) else 1,
        dimensions=dimensions,
        base64=body.get("encoding_format") == "base64",
    )


def _file_shape(request: Request, settings: MockSettings) -> Shape:
    name = _FILE_NAME.search(request.body)
    detail = name[1].decode("utf-8", "replace") if name else "upload.bin"
    return Shape("file", settings, detail=detail, body_bytes=len(request.body))


def _other_shape(
    kind: str, method: bytes, path: bytes, request: Request, settings: MockSettings
) -> Shape:
    anthropic = b"\r\nanthropic-version:" in request.lowered
    if kind == "health":
        return Shape(kind, settings)
    if kind == "models":
        return Shape("anthropic_models" if anthropic else kind, settings)
    if method == b"GET" and path.startswith(b"/v1/models/"):
        model = path.removeprefix(b"/v1/models/").decode("latin-1")
        return Shape("anthropic_model" if anthropic else "model", settings, model=model)
    missing = msgspec.structs.replace(settings, status=404)
    url = f"Invalid URL ({method.decode('latin-1')} {path.decode('latin-1')})"
    return Shape("error", missing, detail=url)
