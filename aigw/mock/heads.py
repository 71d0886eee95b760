"""Answer heads that a gateway could and could not learn: the same, a provider's, and hostile ones.

A proxy's cost depends on how much of a head repeats. So the mock answers in one of three styles:

    plain      five headers; date and request id change
    provider   what api.openai.com sends through its CDN: 25 headers, of which eight change with
               each answer, date with each second, Content-Length with the body
    hostile    plain, and one header more whose name was never sent before

A style is a table of lines with `%` slots; finishing a head is one `%` with values of a counter.
No identifier here is anybody's: they are made from that counter.
"""

from __future__ import annotations

from collections.abc import Callable

STYLES = ("plain", "provider", "hostile")

# Lines around the ones that the body decides (`between`); %(…) become slots in their order.
PROVIDER_BEFORE = (
    "date: %b",
    "connection: keep-alive",
    "access-control-expose-headers: X-Request-ID, CF-Ray, CF-Ray",
    "openai-organization: user-example",
    "openai-processing-ms: %d",
    "openai-project: proj_example",
    "openai-version: 2020-10-01",
    "x-envoy-upstream-service-time: %d",
    "x-ratelimit-limit-requests: 10000",
    "x-ratelimit-limit-tokens: 10000000",
    "x-ratelimit-remaining-requests: %d",
    "x-ratelimit-remaining-tokens: %d",
    "x-ratelimit-reset-requests: 6ms",
    "x-ratelimit-reset-tokens: %dms",
    "x-request-id: req_%032x",
)
PROVIDER_AFTER = (
    "cf-cache-status: DYNAMIC",
    "set-cookie: __cf_bm=%032x-1; path=/; HttpOnly; Secure; SameSite=None",
    "set-cookie: _cfuvid=example; path=/; HttpOnly; Secure; SameSite=None",
    "strict-transport-security: max-age=31536000; includeSubDomains; preload",
    "x-content-type-options: nosniff",
    "server: cloudflare",
    "cf-ray: %016x-FRA",
    'alt-svc: h3=":443"; ma=86400',
)
Values = tuple[bytes | int, ...]


def head_format(style: str, start: str, between: list[str], anthropic: bool) -> bytes:
    """The head with slots for what `VALUES[style]` gives. `start` is the status line."""
    fixed = [line.replace("%", "%%") for line in between]
    if style == "provider":
        lines = [*PROVIDER_BEFORE, *fixed, *PROVIDER_AFTER]
    else:
        fixed += ["server: aigw-mock"] if anthropic else ["openai-version: 2020-10-01"]
        name = "request-id" if anthropic else "x-request-id"
        lines = ["date: %b", *fixed, f"{name}: req_mock_%016x"]
        if style == "hostile":
            lines.append("x-never-%016x: 1")
    return "\r\n".join([start.replace("%", "%%"), *lines, "\r\n"]).encode("latin-1")


def _plain(date: bytes, number: int) -> Values:
    return date, number


def _hostile(date: bytes, number: int) -> Values:
    return date, number, number


def _provider(date: bytes, number: int) -> Values:
    mixed = number * 0x9E3779B97F4A7C15  # a golden-ratio step: neighbours look unlike
    few = mixed >> 7
    return (
        date,
        200 + few % 1800,
        210 + few % 1900,
        9999 - few % 97,
        9_999_000 - few % 89_000,
        few % 59,
        mixed % 2**128,
        mixed * 3 % 2**128,
        mixed % 2**64,
    )


VALUES: dict[str, Callable[[bytes, int], Values]] = {
    "plain": _plain,
    "provider": _provider,
    "hostile": _hostile,
}
