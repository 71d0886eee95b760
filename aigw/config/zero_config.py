"""Settings from provider variables, for a first start without any file.

Each provider whose key is set becomes an upstream; the SDKs' own paths become the routes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal

import msgspec

from aigw.config import grammar
from aigw.config.load import override
from aigw.config.problems import OptionError
from aigw.config.schema import (
    KeySettings,
    RouteSettings,
    Settings,
    TargetSettings,
    UpstreamSettings,
)
from aigw.config.values import Secret, gateway_key, new_key, visible
from aigw.errors import StartError

OPENAI_URL = "https://api.openai.com"

Provider = Literal["openai", "anthropic", "gemini"]

# Name and dialect → variable of its key, URL.
PROVIDERS: dict[Provider, tuple[str, str]] = {
    "openai": ("OPENAI_API_KEY", OPENAI_URL),
    "anthropic": ("ANTHROPIC_API_KEY", "https://api.anthropic.com"),
    "gemini": ("GEMINI_API_KEY", "https://generativelanguage.googleapis.com"),
}

_NO_PROVIDER = (
    "no gateway.toml here and no provider variable: set OPENAI_API_KEY, ANTHROPIC_API_KEY or "
    "GEMINI_API_KEY, give a file with -c, or try `aigw demo`"
)


class ZeroConfig(msgspec.Struct, frozen=True):
    """The settings, and the client key if it had to be made up (to be printed, once)."""

    settings: Settings
    generated_key: Secret | None


def zero_config(environ: Mapping[str, str], address: str | None = None) -> ZeroConfig:
    """Settings from OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY and AIGW_KEY.

    Raises `StartError` when no provider is set or a variable can't be used.
    """
    upstreams = dict(_upstreams(environ))
    if not upstreams:
        raise StartError(_NO_PROVIDER)
    given = environ.get("AIGW_KEY", "")
    key = Secret(_checked("AIGW_KEY", given, gateway_key) if given else new_key())
    settings = Settings(
        keys=(KeySettings(name="default", keys=(key,)),),
        upstreams=tuple(upstreams.values()),
        routes=tuple(_routes(upstreams, environ)),
        source="environment",
    )
    return ZeroConfig(override(settings, address, None), None if given else key)


def _upstreams(environ: Mapping[str, str]) -> Iterator[tuple[str, UpstreamSettings]]:
    for name, (variable, url) in PROVIDERS.items():
        credential = environ.get(variable, "")
        if not credential:
            continue
        if name == "openai":
            url = _openai_base(environ)[0]
        yield (
            name,
            UpstreamSettings(
                name=name,
                urls=(url,),
                dialect=name,
                credentials=(Secret(_checked(variable, credential, visible)),),
            ),
        )


def _openai_base(environ: Mapping[str, str]) -> tuple[str, str]:
    """(url, what the route /v1 strips), so that /v1/… asks for what an SDK would ask for.

    The SDKs append `/chat/completions` to the base URL, which ends with /v1 as a rule: the route
    brings that along.  A base without it but with another path takes the place of /v1; a host
    alone is taken as the usual case, since servers answer at /v1 below it.
    """
    given = environ.get("OPENAI_BASE_URL", "")
    if not given:
        return OPENAI_URL, ""
    base = _checked("OPENAI_BASE_URL", given, grammar.url)
    if base.endswith("/v1"):
        return base.removesuffix("/v1"), ""
    return base, "/v1" if "/" in base.partition("://")[2] else ""


def _routes(names: Collection[str], environ: Mapping[str, str]) -> Iterator[RouteSettings]:
    if "anthropic" in names:
        yield _route("/v1/messages", "anthropic")
    if "gemini" in names:
        yield _route("/v1beta", "gemini")
    if "openai" in names:
        yield _route("/v1", "openai", _openai_base(environ)[1])
    elif len(names) == 1:
        yield _route("/v1", next(iter(names)))


def _route(path: str, upstream: str, strip_prefix: str = "") -> RouteSettings:
    targets = (TargetSettings(upstream=upstream),)
    return RouteSettings(path=path, targets=targets, strip_prefix=strip_prefix)


def _checked(name: str, value: str, check: Callable[[str], str]) -> str:
    try:
        return check(value)
    except OptionError as wrong:
        raise StartError(f"{name}: {wrong}") from None
