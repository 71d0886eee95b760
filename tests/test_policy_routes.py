"""Which route a path takes, and that no upstream can read it as a path of another one."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aigw.policy import Route
from aigw.policy.routes import leaves_route, match_route, resolve, split_target, upstream_target
from tests.policies import new_route

ROUTES = [
    new_route(path, index=index)
    for index, path in enumerate((b"/v1/files", b"/v1", b"/v1beta", b"/a/b/"))
]


def matched(path: bytes, routes: list[Route] = ROUTES) -> bytes | None:
    route = match_route(routes, path)
    return None if route is None else route.path


MATCHED: list[tuple[bytes, bytes | None]] = [
    (b"/v1", b"/v1"),
    (b"/v1/", b"/v1"),
    (b"/v1/x", b"/v1"),
    (b"/v10", None),
    (b"/v1.0", None),
    (b"/V1", None),
    (b"/v1/files", b"/v1/files"),
    (b"/v1/files/7", b"/v1/files"),
    (b"/v1/filesystem", b"/v1"),
    (b"/v1beta/models/x:generate", b"/v1beta"),
    (b"/a/b/c", b"/a/b/"),
    (b"/a/b", None),
    (b"/", None),
    (b"*", None),
]


@pytest.mark.parametrize(("path", "route"), MATCHED)
def test_the_first_route_on_a_segment_boundary(path: bytes, route: bytes | None) -> None:
    assert matched(path) == route


def test_the_root_serves_every_path() -> None:
    assert matched(b"/anything", [new_route(b"/")]) == b"/"
    assert matched(b"/", [new_route(b"/")]) == b"/"


SPLIT = [
    (b"*", b"*", b""),
    (b"/v1", b"/v1", b""),
    (b"/v1?a=b?c", b"/v1", b"?a=b?c"),
    (b"/v1?", b"/v1", b"?"),
    (b"http://host", b"/", b""),
    (b"http://host?a", b"/", b"?a"),
    (b"https://host:1/v1?a=/b", b"/v1", b"?a=/b"),
    (b"http://host?a=/b", b"/", b"?a=/b"),
    (b"/http://x/y", b"/http://x/y", b""),
]


@pytest.mark.parametrize(("target", "path", "query"), SPLIT)
def test_split_target(target: bytes, path: bytes, query: bytes) -> None:
    assert split_target(target) == (path, query)


RESOLVED = [
    (b"/", b"/"),
    (b"/a//b/./c/", b"/a/b/c"),
    (b"/a/../b", b"/b"),
    (b"/..", None),
    (b"/a/%2e%2E/b", b"/b"),
    (b"/a%2Fb", b"/a/b"),
    (b"/a\\..\\b", b"/b"),
    (b"/a%5c..%5cb", b"/b"),
    (b"/%252e%252e", b"/%2e%2e"),
]


@pytest.mark.parametrize(("path", "resolved"), RESOLVED)
def test_resolve(path: bytes, resolved: bytes | None) -> None:
    assert resolve(unquote_to_bytes(path)) == resolved


TARGETS = [
    (b"", b"", b"/v1/x", b"/v1/x"),
    (b"", b"/base", b"/v1/x", b"/base/v1/x"),
    (b"/v1", b"/base", b"/v1/x", b"/base/x"),
    (b"/v1", b"", b"/v1", b"/"),
    (b"/v1", b"/base", b"/v1", b"/base"),
    (b"/v1/", b"", b"/v1/x", b"/x"),
]


@pytest.mark.parametrize(("strip", "base", "path", "target"), TARGETS)
def test_upstream_target(strip: bytes, base: bytes, path: bytes, target: bytes) -> None:
    route = new_route(strip_prefix=strip)
    assert upstream_target(route, base, path, b"?q") == target + b"?q"
    assert upstream_target(route, base, path, b"") == target


# ---- paths that an upstream may read otherwise ---------------------------------------------------


def without_dots(path: bytes) -> bytes:
    """RFC 3986, 5.2.4: dot segments resolved; what climbs over the root stays there."""
    segments = path[1:].split(b"/")
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def without_parameters(path: bytes) -> bytes:
    """RFC 3986, 3.3: what follows a semicolon is not the segment's name."""
    return re.sub(rb";[^/]*", b"", path)


def merged(path: bytes) -> bytes:
    return re.sub(rb"//+", b"/", path)


# How servers read a path: decoded before or after dot segments are resolved, or never; slashes
# merged (nginx) or not (RFC 3986), backslashes taken for slashes (Windows) or not.
READINGS: dict[str, Callable[[bytes], bytes]] = {
    "resolved": without_dots,
    "merged, resolved": lambda path: without_dots(merged(path)),
    "decoded, resolved": lambda path: without_dots(unquote_to_bytes(path)),
    "decoded, merged, resolved": lambda path: without_dots(merged(unquote_to_bytes(path))),
    "decoded, resolved, merged": lambda path: merged(without_dots(unquote_to_bytes(path))),
    "resolved, decoded": lambda path: unquote_to_bytes(without_dots(path)),
    "Windows": lambda path: without_dots(merged(unquote_to_bytes(path).replace(b"\\", b"/"))),
    "Java": lambda path: without_dots(unquote_to_bytes(without_parameters(path))),
    "Java, merged": lambda path: without_dots(merged(unquote_to_bytes(without_parameters(path)))),
    "decoded, cut": lambda path: without_dots(re.split(rb"[?#]", unquote_to_bytes(path))[0]),
    "C": lambda path: without_dots(unquote_to_bytes(path).partition(b"\0")[0]),
    "long UTF-8": lambda path: without_dots(
        unquote_to_bytes(path).replace(b"\xc0\xae", b".").replace(b"\xc0\xaf", b"/")
    ),
}
SEGMENTS = st.sampled_from(
    [
        *(b"v1", b"v1", b"files", b"a", b"b", b"x", b"", b".", b"..", b"%2e%2e", b"%2e.", b"%2E"),
        *(
            b"..%2f..",
            b"x%2fy",
            b"%2f",
            b"..\\..",
            b"x%5c..%5c..",
            b"v%31",
            b"%76%31",
            b"...",
            b"%",
            b"..;",
            b"..;a=b",
            b";a",
            b"x;a",
            b"%3b",
            b"..%3f",
            b"%23",
            b"..%00",
            b"%c0%ae%c0%ae",
            b"..%c0%af..",
        ),
    ]
)
PATHS = st.lists(SEGMENTS, max_size=8).map(lambda segments: b"/" + b"/".join(segments))
UNDER_ROUTE = st.builds(
    lambda route, path: route.path.rstrip(b"/") + path, st.sampled_from(ROUTES), PATHS
)


@given(UNDER_ROUTE | PATHS)
@settings(max_examples=300, deadline=None)
@example(b"/v1/files/x%2fy/../../other")
@example(b"/v1/files/x\\y/../../other")
@example(b"/v1//files//../x")
@example(b"/v1//files/%2e%2e")
@example(b"/v1/../v1/x")
@example(b"/v1//../x")
@example(b"/v1/;a/../files/x")
@example(b"/v1/files%3f/x")
@example(b"/v1/..;/x")
@example(b"/v1/files;a/x")
def test_no_path_passes_that_any_server_reads_as_another_routes(path: bytes) -> None:
    route = match_route(ROUTES, path)
    if route is None or leaves_route(ROUTES, path, route):
        return
    for name, reading in READINGS.items():
        assert match_route(ROUTES, reading(path)) is route, name


@given(UNDER_ROUTE)
@settings(max_examples=300, deadline=None)
def test_no_path_passes_that_leaves_a_base_path(path: bytes) -> None:
    """With a base path put on, and the route's own taken off as well."""
    route = match_route(ROUTES, path)
    if route is None or leaves_route(ROUTES, path, route):
        return
    for strip in (b"", route.path.rstrip(b"/")):
        stripping = new_route(route.path, strip_prefix=strip)
        target = upstream_target(stripping, b"/base", path, b"")
        for name, reading in READINGS.items():
            assert matched(reading(target), [new_route(b"/base")]) == b"/base", name


@given(st.lists(st.sampled_from([b"v1", b"a", b"x.y", b"..."]), min_size=1, max_size=5))
def test_a_plain_path_never_leaves_its_route(segments: list[bytes]) -> None:
    path = b"/" + b"/".join(segments)
    assert not leaves_route(ROUTES, path, match_route(ROUTES, path))


# Real paths with dots and escapes in them
HARMLESS = [
    b"/v1/files/report.v1..pdf",
    b"/v1/models/accounts%2Ffireworks%2Fmodels%2Fllama",
    b"/v1/models/gpt-4o%3Aft",
    b"/v1/.well-known",
    b"/v1/x/../y",
    b"/v1/models/a;b=c",
    b"/v1/files/what%3f.txt",
]


@pytest.mark.parametrize("path", HARMLESS)
def test_what_stays_on_its_route_passes(path: bytes) -> None:
    assert not leaves_route(ROUTES, path, match_route(ROUTES, path))
