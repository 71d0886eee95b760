"""The bytes that the cases feed in: made here and nowhere else, for counts must not move because a
load generator's requests did.
"""

from __future__ import annotations

VARIANTS = 64  # of a head whose values vary; they come round again, which no template notices

# What openai-python sends, in its spelling and order.
REQUEST_HEAD = """POST /v1/chat/completions HTTP/1.1
Host: 127.0.0.1:8080
Accept-Encoding: gzip, deflate
Connection: keep-alive
authorization: Bearer {key}
accept: application/json
content-type: application/json
user-agent: AsyncOpenAI/Python 3.54.0
x-stainless-lang: python
x-stainless-package-version: 3.54.0
x-stainless-os: Linux
x-stainless-arch: x64
x-stainless-runtime: CPython
x-stainless-runtime-version: 3.11.7
x-stainless-async: async:asyncio
x-stainless-retry-count: 0
x-stainless-read-timeout: 600
{ids}Content-Length: {length}

"""
IDS = """x-request-id: req-{0:032x}
traceparent: 00-{0:032x}-00f067aa0ba902b7-01
x-client-request-id: {0:032x}
"""
REQUEST_BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"%b"}]}'

ANSWER_BODY = b"y" * 1200
ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-type: application/json\r\n"
    b"content-length: 1200\r\nx-request-id: req_1\r\n\r\n" + ANSWER_BODY
)
CHUNKED_ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-type: %b\r\n"
    b"transfer-encoding: chunked\r\nx-request-id: req_1\r\n\r\n"
)
CHUNK = b"%x\r\n%b\r\n" % (200, b"data: " + b"z" * 192 + b"\n\n")
# 25 fields, as a provider behind a CDN sends them; eight differ each time.
PROVIDER_HEAD = """HTTP/1.1 200 OK
date: Thu, 01 Jan 2026 00:00:{0:02d} GMT
content-type: application/json
content-length: 1200
connection: keep-alive
access-control-expose-headers: X-Request-ID
openai-organization: example
openai-processing-ms: 4{0:02d}
openai-project: proj_example
openai-version: 2020-10-01
x-envoy-upstream-service-time: 4{0:02d}
x-ratelimit-limit-requests: 10000
x-ratelimit-limit-tokens: 200000
x-ratelimit-remaining-requests: 99{0:02d}
x-ratelimit-remaining-tokens: 1999{0:02d}
x-ratelimit-reset-requests: 1{0:02d}ms
x-ratelimit-reset-tokens: 0s
x-request-id: req_{0:032x}
x-openai-proxy-wasm: v0.1
cf-cache-status: DYNAMIC
strict-transport-security: max-age=31536000; includeSubDomains; preload
x-content-type-options: nosniff
server: cloudflare
cf-ray: {0:016x}-FRA
alt-svc: h3=":443"; ma=86400
vary: Accept-Encoding

"""


def request(key: str, body_bytes: int = 600, number: int | None = None) -> bytes:
    """A chat request with a body of that size; with ids where it has a number."""
    body = REQUEST_BODY % (b"x" * (body_bytes - len(REQUEST_BODY) + len("%b")))
    ids = "" if number is None else IDS.format(number)
    return on_the_wire(REQUEST_HEAD.format(key=key, ids=ids, length=len(body))) + body


def varying_requests(key: str) -> list[bytes]:
    """Three ids and the length differ."""
    return [request(key, 600 + number, number) for number in range(VARIANTS)]


def provider_answers() -> list[bytes]:
    return [on_the_wire(PROVIDER_HEAD.format(i)) + ANSWER_BODY for i in range(VARIANTS)]


def on_the_wire(head: str) -> bytes:
    return head.replace("\n", "\r\n").encode("ascii")
