"""Which route a path takes: the first whose prefix it has, on a segment boundary.

The path is matched as it was sent.  Since an upstream may decode and resolve it, the decoded and
resolved path must take the same route; a request whose dot segments, encoded slashes, empty
segments or segments' parameters would lead it elsewhere is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from aigw.policy.compiled import Route

# Without one of these a path cannot resolve to another one.
MAY_RESOLVE = re.compile(rb"/\.|//|[%\\;]")
CLIMBS = re.compile(rb"[/\\]\.\.(?:[/\\;]|$)")
# A segment's end to some servers and not to others, so that they climb differently far.
UNEVEN = re.compile(rb"//|\\|%2f|%5c", re.IGNORECASE)
# What ends a path for servers in C, and a dot, slash or backslash in more octets than UTF-8 allows.
SPOILT = re.compile(rb"\0|\xc0[\xae\xaf]|\xc1\x9c")
# Where the path ends for servers that decode it before they look for the query.
LATE_END = re.compile(rb"[?#]")


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query (with its `?`, or empty) of a request target in any form but `*`."""
    if target == b"*":
        return target, b""
    if not target.startswith(b"/"):
        after_scheme = target.find(b"://") + 3
        cuts = (target.find(b"/", after_scheme), target.find(b"?", after_scheme))
        at = min((cut for cut in cuts if cut >= 0), default=len(target))
        target = target[at:]
        if not target.startswith(b"/"):
            target = b"/" + target
    path, mark, query = target.partition(b"?")
    return path, mark + query


def match_route(routes: Sequence[Route], path: bytes) -> Route | None:
    """The first route whose path is `path` or a prefix of it that ends at a slash."""
    for route in routes:
        if has_prefix(path, route.path):
            return route
    return None


def has_prefix(path: bytes, prefix: bytes) -> bool:
    """True on a segment boundary only: /v1 and /v1/x begin with /v1, /v10 does not."""
    if not path.startswith(prefix):
        return False
    return len(path) == len(prefix) or prefix.endswith(b"/") or path[len(prefix)] == 0x2F


def leaves_route(routes: Sequence[Route], path: bytes, route: Route | None) -> bool:
    """Would an upstream that decodes and resolves the path find itself on another route?

    Climbing out of the route's own path and back into it counts as well: with the prefix taken
    off, or a base path put on, the same segments lead elsewhere.
    """
    if MAY_RESOLVE.search(path) is None:
        return False
    decoded = unquote_to_bytes(path)
    if SPOILT.search(decoded) or (CLIMBS.search(decoded) and UNEVEN.search(path)):
        return True
    for reading in (path, decoded, LATE_END.split(decoded, 1)[0]):
        resolved = resolve(reading)
        if resolved is None or match_route(routes, resolved) is not route:
            return True
        if route is not None and _climbs_out(reading, route):
            return True
    return False


def _climbs_out(path: bytes, route: Route) -> bool:
    """True where what follows the route's own path climbs over it, or does not follow it."""
    own = route.path.rstrip(b"/")
    return not path.startswith(own) or resolve(path[len(own) :]) is None


def resolve(path: bytes) -> bytes | None:
    """The path without empty and dot segments, and without the parameters behind a `;`, which some
    servers take off before they look for dots; None if it climbs over the root."""
    segments: list[bytes] = []
    for part in path.replace(b"\\", b"/").split(b"/"):
        segment = part.partition(b";")[0]
        if segment == b"..":
            if not segments:
                return None
            segments.pop()
        elif segment not in (b"", b"."):
            segments.append(segment)
    return b"/" + b"/".join(segments)


def upstream_target(route: Route, base_path: bytes, path: bytes, query: bytes) -> bytes:
    """The target on the upstream: the route's prefix taken off, the member's base path put on."""
    if route.strip_prefix:
        path = path[len(route.strip_prefix) :]
    target = base_path + path + query
    return target if target.startswith(b"/") else b"/" + target
