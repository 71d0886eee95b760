"""Paths (RFC 3986, 3.3, 5.2.4 and 6.2.2): dot segments and encodings against the routes' prefixes.

An upstream that decodes and resolves a path must not find itself on another route than the one
whose rules the gateway has applied.
"""

from __future__ import annotations

from tests.wire.requests_case import KEPT, Case, get, passes, refused, seen


def path(target: bytes) -> bytes:
    """A request for this target."""
    return get(line=b"GET %b HTTP/1.1" % target)


def same(name: str, section: str, target: bytes) -> Case:
    """A path that passes as it was sent."""
    return passes(name, section, path(target), seen(b"GET " + target))


def strays(name: str, section: str, target: bytes) -> Case:
    """A path that may lead elsewhere."""
    return refused(name, section, path(target), ends=KEPT)


def unknown(name: str, section: str, target: bytes) -> Case:
    """A path on no route."""
    return refused(name, section, path(target), "unknown_url", KEPT)


def closed(name: str, section: str, target: bytes) -> Case:
    """A path on a route that the key may not use."""
    return refused(name, section, path(target), "route_not_allowed", KEPT)


PREFIXES = [
    same("a slash at the end", "3986 3.3", b"/v1/"),
    same("a dot in a name", "3986 3.3", b"/v1/files/a.b..c/...d"),
    same("three dots", "3986 5.2.4", b"/v1/.../m"),
    unknown("no segment boundary", "own", b"/v10/m"),
    unknown("a prefix of the route", "own", b"/v"),
    unknown("the root", "own", b"/"),
    unknown("capitals", "3986 6.2.2.1", b"/V1/m"),
    unknown("another path", "own", b"/other"),
    closed("a closed route", "own", b"/v1/closed"),
    closed("below a closed route", "own", b"/v1/closed/m"),
    same("beside a closed route", "own", b"/v1/closedm"),
    passes("a prefix that is taken off", "own", path(b"/cut/v1/m"), seen(b"GET /v1/m")),
]

DOTS = [
    same("a dot segment that stays inside", "3986 5.2.4", b"/v1/a/../b"),
    same("a segment of one dot", "3986 5.2.4", b"/v1/./m"),
    strays("out of the route", "3986 5.2.4", b"/v1/../other"),
    strays("out of the route and in again", "3986 5.2.4", b"/v1/../v1/m"),
    strays("over the root", "3986 5.2.4", b"/v1/../../m"),
    strays("from the root", "3986 5.2.4", b"/../v1/m"),
    strays("into a closed route", "3986 5.2.4", b"/v1/a/../closed/m"),
    strays("into a closed route by one dot", "3986 5.2.4", b"/v1/./closed/m"),
    strays("an empty segment before a closed route", "3986 3.3", b"/v1//closed/m"),
    strays("two slashes first", "3986 3.3", b"//v1/m"),
    unknown("a host in front", "3986 4.2", b"//other/v1/m"),
    strays("out of a route that is taken off", "3986 5.2.4", b"/cut/v1/../m"),
    strays("out of a route at the end", "3986 5.2.4", b"/v1/.."),
    strays("backslashes", "own", b"/v1/a\\..\\closed/m"),
    strays("backslashes out of the route", "own", b"/v1\\..\\other"),
    strays("a parameter behind the dots", "3986 3.3", b"/v1/..;/other"),
    strays("a parameter with a value behind the dots", "3986 3.3", b"/v1/..;a=b/other"),
    strays("a parameter behind one dot", "3986 3.3", b"/v1/.;/closed/m"),
    strays("a parameter behind a closed route", "3986 3.3", b"/v1/closed;a=b/m"),
    same("a parameter elsewhere", "3986 3.3", b"/v1/models/a;b=c/d"),
]

ENCODED = [
    same("an encoded letter", "3986 6.2.2.2", b"/v1/%6d"),
    same("an encoded slash in a name", "3986 2.2", b"/v1/models/org%2Fmodel"),
    same("an encoded per cent sign", "3986 2.4", b"/v1/100%25"),
    same("UTF-8", "3986 2.5", b"/v1/%C3%A9"),
    same("no digits behind a per cent sign", "3986 2.1", b"/v1/%zz%"),
    strays("encoded dots", "3986 6.2.2.2", b"/v1/%2e%2e/other"),
    strays("encoded dots in capitals", "3986 6.2.2.2", b"/v1/%2E%2E/other"),
    strays("one encoded dot", "3986 6.2.2.2", b"/v1/.%2e/other"),
    strays("an encoded slash behind dots", "3986 2.2", b"/v1/..%2fother"),
    strays("encoded slashes around dots", "3986 2.2", b"/v1%2f..%2fother"),
    strays("encoded backslashes", "own", b"/v1/a%5c..%5cclosed/m"),
    strays("everything encoded", "3986 2.2", b"/v1/%2e%2e%2fother"),
    strays("an encoded closed route", "3986 6.2.2.2", b"/v1/%63losed/m"),
    strays("an encoded slash before a closed route", "3986 2.2", b"/v1/%2fclosed/m"),
    strays("an encoded route", "3986 6.2.2.2", b"/%76%31/m"),
    strays("a slash that is too long in UTF-8", "3629 3", b"/v1/..%c0%afother"),
    strays("dots that are too long in UTF-8", "3629 3", b"/v1/%c0%ae%c0%ae/other"),
    strays("NUL behind dots", "own", b"/v1/..%00/other"),
    strays("an encoded question mark behind a closed route", "3986 2.2", b"/v1/closed%3f/m"),
    strays("an encoded fragment behind dots", "3986 2.2", b"/v1/..%23/m"),
    strays("encoded parameters behind dots", "3986 3.3", b"/v1/..%3ba/other"),
    same("an encoded question mark in a name", "3986 2.2", b"/v1/files/what%3f"),
    same("a per cent sign encoded twice", "3986 2.4", b"/v1/a%252Fb"),
    refused("dots in absolute-form", "9112 3.2.2", path(b"http://gw/v1/../other"), ends=KEPT),
    refused(
        "a closed route in absolute-form",
        "9112 3.2.2",
        path(b"http://gw/v1/%63losed/m"),
        ends=KEPT,
    ),
    same("dots in a query", "3986 3.4", b"/v1/m?a=/../../closed"),
    same("encoded dots in a query", "3986 3.4", b"/v1/m?a=%2e%2e%2f"),
    same("an encoded line end", "3986 2.1", b"/v1/a%0d%0aX-A:%20b"),
]

GROUPS = {"prefix": PREFIXES, "dots": DOTS, "encoded": ENCODED}
