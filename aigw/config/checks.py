"""What one option alone can't tell: references, doubles and contradictions between options.

Each check takes the settings as far as they could be read and reports at the place to change.
A fault that was already reported at that place silences what follows from it (see `problems`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from aigw.config import certificates, grammar
from aigw.config.problems import At, nearest, reason
from aigw.config.schema import (
    KeySettings,
    Listen,
    Rate,
    RouteSettings,
    Settings,
    UpstreamSettings,
)
from aigw.config.values import key_digest


def check(settings: Settings, at: At, keys_at: Sequence[At]) -> None:
    """Report every contradiction; `keys_at` has the place of each key, whichever file it is in."""
    upstreams_at = [at.child("upstreams", index) for index in range(len(settings.upstreams))]
    routes_at = [at.child("routes", index) for index in range(len(settings.routes))]
    _not_empty(settings, at)
    _listen(settings.listen, at.child("listen"))
    if settings.log.access not in ("stdout", "off"):
        _folder_exists(settings.log.access, at.child("log", "access"))
    _unique_names((key.name for key in settings.keys), keys_at)
    _unique_names((upstream.name for upstream in settings.upstreams), upstreams_at)
    _unique_keys(settings.keys, keys_at)
    known_routes = {route.path for route in settings.routes}
    for key, key_at in zip(settings.keys, keys_at, strict=True):
        _rate(key, key_at)
        _key_routes(key, known_routes, key_at)
    for upstream, upstream_at in zip(settings.upstreams, upstreams_at, strict=True):
        _certificates(upstream, upstream_at)
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    for route, route_at in zip(settings.routes, routes_at, strict=True):
        _rate(route, route_at)
        _route(route, upstreams, route_at)
    _shadowed(settings.routes, routes_at)


def _not_empty(settings: Settings, at: At) -> None:
    if not settings.keys:
        at.child("keys").report("there must be at least one key: add [[keys]] with name and key")
    if not settings.upstreams:
        at.child("upstreams").report(
            "there must be at least one upstream: add [[upstreams]] with name and urls"
        )
    if not settings.routes:
        at.child("routes").report(
            "there must be at least one route: add [[routes]] with path and targets"
        )


def _listen(listen: Listen, at: At) -> None:
    if listen.admin in listen.address and not listen.admin.endswith(":0"):
        at.child("admin").report("must not be an address of `listen.address`")
    for index, address in enumerate(listen.address):
        steps = ("address", index) if len(listen.address) > 1 else ("address",)
        _folder_of_socket(address, at.child(*steps))
    _folder_of_socket(listen.admin, at.child("admin"))
    if listen.admin and not listen.admin_token and not grammar.is_local(listen.admin):
        at.child("admin").report(
            "is reachable from outside: set `admin_token`, or listen on 127.0.0.1"
        )
    if listen.proxy_protocol and not listen.trusted_proxies:
        at.child("proxy_protocol").report("needs `trusted_proxies`: who may send the header")


def _folder_of_socket(address: str, at: At) -> None:
    if address.startswith("unix:"):
        _folder_exists(address.removeprefix("unix:"), at)


def _folder_exists(file: str, at: At) -> None:
    folder = Path(file).parent
    try:
        there = folder.is_dir()
    except OSError as error:
        at.report(f"the folder {folder} can't be used: {reason(error)}")
    else:
        if not there:
            at.report(f"the folder {folder} does not exist")


def _unique_names(names: Iterable[str], places: Sequence[At]) -> None:
    first: dict[str, At] = {}
    for name, place in zip(names, places, strict=True):
        if name in first:
            other = first[name].child("name").seen_from(place)
            place.child("name").report(f'"{name}" is taken by {other}')
        elif name:
            first[name] = place


def _unique_keys(keys: Sequence[KeySettings], places: Sequence[At]) -> None:
    first: dict[bytes, At] = {}
    for key, place in zip(keys, places, strict=True):
        for index, secret in enumerate(key.keys):
            digest = key_digest(secret)
            if digest in first:
                option = place.child("keys", index) if len(key.keys) > 1 else place
                option.report(f"has the same key as {first[digest].seen_from(place)}")
            else:
                first[digest] = place


def _rate(rate: Rate, at: At) -> None:
    if rate.rps is not None and rate.rpm is not None:
        at.child("rpm").report("give either `rps` or `rpm`, not both")
    if rate.burst is not None and rate.rps is None and rate.rpm is None:
        at.child("burst").report("needs `rps` or `rpm`")


def _key_routes(key: KeySettings, known: set[str], at: At) -> None:
    for index, path in enumerate(key.routes or ()):
        if path not in known and _complete(known):
            at.child("routes", index).report(
                f'no route has the path "{path}"{nearest(path, known)}'
            )


def _complete(names: Collection[str]) -> bool:
    """Whether all names could be read: else a missing one may be a consequence only."""
    return bool(names) and "" not in names


def _certificates(upstream: UpstreamSettings, at: At) -> None:
    files = {option: getattr(upstream, option) for option in ("ca", "cert", "cert_key")}
    if not any(files.values()):
        return
    if not any(url.startswith("https:") for url in upstream.urls):
        for option, file in files.items():
            if file:
                at.child(option).report("has no use without an https url")
        return
    for option, fault in certificates.faults(**files):
        at.child(option).report(fault)


def _route(route: RouteSettings, upstreams: dict[str, UpstreamSettings], at: At) -> None:
    if len(route.targets) != 1:
        at.child("targets").report('must be exactly one, such as [ { upstream = "openai" } ]')
    for index, target in enumerate(route.targets):
        target_at = at.child("targets", index, "upstream")
        upstream = upstreams.get(target.upstream)
        if upstream is None and _complete(upstreams):
            near = nearest(target.upstream, upstreams)
            target_at.report(f'no upstream has the name "{target.upstream}"{near}')
        elif upstream and not route.strip_prefix:
            _doubled(route.path, upstream, target_at)
    if route.path and route.strip_prefix and not grammar.within(route.path, route.strip_prefix):
        at.child("strip_prefix").report(
            f'must be the beginning of the path "{route.path}", up to a "/"'
        )
    if "*" in route.cors_origins and len(route.cors_origins) > 1:
        at.child("cors_origins").report('"*" already allows every origin, so it stands alone')


def _doubled(path: str, upstream: UpstreamSettings, at: At) -> None:
    """The commonest mistake: the /v1 of an SDK's base URL given in the route and in the url."""
    for url in upstream.urls:
        base = "/" + url.partition("://")[2].partition("/")[2]
        if path not in ("", "/") and base.endswith(path):
            at.report(
                f'would ask "{upstream.name}" for {base}{path}/…: take "{path}" off its url, '
                f'or set strip_prefix = "{path}"'
            )


def _shadowed(routes: Sequence[RouteSettings], places: Sequence[At]) -> None:
    first: dict[str, At] = {}
    for route, place in zip(routes, places, strict=True):
        taken = next((path for path in grammar.prefixes(route.path) if path in first), None)
        if taken is None:
            first[route.path] = place
            continue
        cure = "remove one of them" if taken == route.path else "put the longer path first"
        place.child("path").report(
            f'is never reached, {first[taken].seen_from(place)} takes "{taken}" first: {cure}'
        )
