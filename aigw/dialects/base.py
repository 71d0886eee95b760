"""The table of dialects: one entry a provider's language, nothing about any one deployment.

A gateway-made error is wrapped in the envelope that the provider's SDK expects
(https://platform.openai.com/docs/guides/error-codes), so that a client shows our message and
takes our code for what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from aigw.errors import Code


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one provider's language fixes: the header field in which it expects its credential."""

    credential_header: str


DIALECTS: dict[str, Dialect] = {
    "openai": Dialect("Authorization"),
    "anthropic": Dialect("x-api-key"),
    "gemini": Dialect("x-goog-api-key"),
    "none": Dialect("Authorization"),
}

# OpenAI's `type` by HTTP status; what is not listed is a `server_error`.
OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    414: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    501: "invalid_request_error",
}


def credential_line(header: bytes, secret: bytes) -> bytes:
    """The field line that carries `secret`: `Authorization` alone takes the scheme `Bearer`."""
    prefix = b"Bearer " if header.lower() == b"authorization" else b""
    return b"%b: %b%b\r\n" % (header, prefix, secret)


def error_body(code: Code, message: str) -> bytes:
    """The body of a gateway-made error in OpenAI's envelope."""
    error = {
        "message": message,
        "type": OPENAI_TYPES.get(code.status, "server_error"),
        "param": None,
        "code": code.word,
    }
    return orjson.dumps({"error": error})
