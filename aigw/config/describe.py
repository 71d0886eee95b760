"""Settings in words, for `aigw check`: who listens, which route leads where, what is limited.

No secret is ever part of it.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator

from aigw.config.schema import (
    KeySettings,
    Rate,
    RouteSettings,
    Settings,
    UpstreamSettings,
)

KEYS_SHOWN = 20  # a screen; those who have thousands want the count


def describe(settings: Settings) -> str:
    """The effective configuration, several lines."""
    return "\n".join(_lines(settings))


def _lines(settings: Settings) -> Iterator[str]:
    listen = settings.listen
    counts = (
        _count(len(settings.keys), "key"),
        _count(len(settings.upstreams), "upstream"),
        _count(len(settings.routes), "route"),
    )
    yield f"{settings.source}: {', '.join(counts)}"
    yield f"listen   {', '.join(listen.address)}"
    yield f"admin    {listen.admin or 'off'}{' (token)' if listen.admin_token else ''}"
    yield f"workers  {listen.workers}"
    yield ""
    yield "routes (the first match wins)"
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    for route in settings.routes:
        yield from _route(route, upstreams)
    used = {target.upstream for route in settings.routes for target in route.targets}
    for name in upstreams:
        if name not in used:
            yield f"  {name} is not used by any route"
    yield ""
    yield "keys"
    for key in settings.keys[:KEYS_SHOWN]:
        yield f"  {key.name}: {_key(key)}"
    if len(settings.keys) > KEYS_SHOWN:
        yield f"  … and {len(settings.keys) - KEYS_SHOWN:,} more"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _route(route: RouteSettings, upstreams: dict[str, UpstreamSettings]) -> Iterator[str]:
    for target in route.targets:
        upstream = upstreams[target.upstream]
        parts = [upstream.dialect, _credentials(upstream)]
        if len(upstream.urls) > 1:
            parts.append(upstream.balance)
        if upstream.health is not None:
            parts.append(f"checked every {upstream.health.interval_s:g}s")
        yield f"  {route.path} → {upstream.name} ({', '.join(parts)})"
        for url in upstream.urls:
            yield f"      {url}{_upstream_path(route)}"
    if limit := _rate(route):
        yield f"      per key: {limit}"


def _upstream_path(route: RouteSettings) -> str:
    rest = route.path.removeprefix(route.strip_prefix) if route.strip_prefix else route.path
    return f"{rest.rstrip('/')}/…"


def _credentials(upstream: UpstreamSettings) -> str:
    if upstream.credentials == "client":
        return "the client's credentials"
    number = len(upstream.credentials)
    return _count(number, "credential") if number else "no credentials"


def _rate(rate: Rate) -> str:
    bucket = rate.bucket()
    if bucket is None:
        return ""
    given = f"{rate.rps:g} requests/s" if rate.rps is not None else f"{rate.rpm:g} requests/min"
    return f"{given}, burst {bucket[1]:g}"


def _key(key: KeySettings) -> str:
    parts = [_rate(key) or "no rate limit"]
    if key.max_parallel_requests is not None:
        parts.append(f"{key.max_parallel_requests} in parallel")
    if key.routes is not None:
        parts.append(f"routes {' '.join(key.routes)}")
    if key.expires_at is not None:
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        expires = epoch + datetime.timedelta(seconds=key.expires_at)
        word = "expired" if key.expires_at <= time.time() else "expires"
        parts.append(f"{word} {expires:%Y-%m-%d %H:%M} UTC")
    if key.revoked:
        parts.append("revoked")
    return ", ".join(parts)
