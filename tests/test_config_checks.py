"""Contradictions between options: each told at the place to change, and nothing told twice."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from config_files import KEY, ROUTE, UPSTREAM, WORKING, loaded, said


def test_nothing_at_all(tmp_path: Path) -> None:
    assert [line.split(":")[1].strip() for line in said(tmp_path, "")] == [
        "keys",
        "upstreams",
        "routes",
    ]


FINE = {
    "admin off": '[listen]\nadmin = ""\n' + WORKING,
    "admin with a token": '[listen]\nadmin = "0.0.0.0:1"\nadmin_token = "t"\n' + WORKING,
    "admin on a unix socket": '[listen]\nadmin = "unix:/tmp/admin"\n' + WORKING,
    "any ports": '[listen]\nadmin = "127.0.0.1:0"\naddress = "127.0.0.1:0"\n' + WORKING,
    "proxy protocol": (
        '[listen]\nproxy_protocol = true\ntrusted_proxies = ["10.0.0.0/8"]\n' + WORKING
    ),
    "longer path first": KEY + UPSTREAM + ROUTE.replace("/v1", "/v1/messages") + ROUTE,
    "no segment boundary": WORKING + ROUTE.replace("/v1", "/v10"),
    "root last": WORKING + ROUTE.replace("/v1", "/"),
    "stripped": WORKING + 'strip_prefix = "/v1"\n',
    "base path": KEY + UPSTREAM.replace(".com", ".com/v1") + ROUTE + 'strip_prefix = "/v1"\n',
    "a host like the path": KEY + UPSTREAM.replace("api.openai.com", "v1") + ROUTE,
    "burst of a minute": KEY + "rpm = 10\nburst = 3\n" + UPSTREAM + ROUTE,
}  # fmt: skip


@pytest.mark.parametrize("case", FINE)
def test_fine(case: str, tmp_path: Path) -> None:
    assert said(tmp_path, FINE[case]) == []


SECOND_KEY = '[[keys]]\nname = "b"\nkey = "{}"\n'
DIGEST = hashlib.sha256(b"user1").hexdigest()
WRONG = {
    "admin on a client address": (
        '[listen]\naddress = ["127.0.0.1:1", "127.0.0.1:2"]\nadmin = "127.0.0.1:2"\n' + WORKING,
        ["gateway.toml:3: listen.admin: must not be an address of `listen.address`"],
    ),
    "admin at a name": (
        '[listen]\nadmin = "gw.example.com:81"\n' + WORKING,
        [
            "gateway.toml:2: listen.admin: is reachable from outside: set `admin_token`, "
            "or listen on 127.0.0.1"
        ],
    ),
    "a socket in no folder": (
        '[listen]\naddress = ["127.0.0.1:1", "unix:/none/a"]\nadmin = "unix:/none/b"\n' + WORKING,
        [
            "gateway.toml:2: listen.address[1]: the folder /none does not exist",
            "gateway.toml:3: listen.admin: the folder /none does not exist",
        ],
    ),
    "an access log in no folder": (
        '[log]\naccess = "/none/access.log"\n' + WORKING,
        ["gateway.toml:2: log.access: the folder /none does not exist"],
    ),
    "proxy protocol from nobody": (
        "[listen]\nproxy_protocol = true\n" + WORKING,
        ["gateway.toml:2: listen.proxy_protocol: needs `trusted_proxies`: who may send the header"],
    ),
    "key and its digest": (
        KEY + SECOND_KEY.format("sha256:" + DIGEST.upper()) + UPSTREAM + ROUTE,
        ["gateway.toml:4: keys[1]: has the same key as keys[0] (line 1)"],
    ),
    "twice in one key": (
        '[[keys]]\nname = "a"\nkeys = [\n"x",\n"x",\n]\n' + UPSTREAM + ROUTE,
        ["gateway.toml:5: keys[0].keys[1]: has the same key as keys[0] (line 1)"],
    ),
    "same upstream name": (
        KEY + UPSTREAM + UPSTREAM + ROUTE,
        ['gateway.toml:8: upstreams[1].name: "openai" is taken by upstreams[0].name (line 5)'],
    ),
    "same route twice": (
        WORKING + ROUTE,
        [
            'gateway.toml:11: routes[1].path: is never reached, routes[0] (line 7) takes "/v1" '
            "first: remove one of them"
        ],
    ),
    "behind the root": (
        KEY + UPSTREAM + ROUTE.replace("/v1", "/") + ROUTE,
        [
            'gateway.toml:11: routes[1].path: is never reached, routes[0] (line 7) takes "/" '
            "first: put the longer path first"
        ],
    ),
    "a route's burst": (
        WORKING + "burst = 3\n",
        ["gateway.toml:10: routes[0].burst: needs `rps` or `rpm`"],
    ),
    "strip prefix within a segment": (
        WORKING + 'strip_prefix = "/v"\n',
        [
            "gateway.toml:10: routes[0].strip_prefix: must be the beginning of the path "
            '"/v1", up to a "/"'
        ],
    ),
    "all origins and one more": (
        WORKING + 'cors_origins = ["*", "https://a.example"]\n',
        [
            'gateway.toml:10: routes[0].cors_origins: "*" already allows every origin, '
            "so it stands alone"
        ],
    ),
    "no target": (
        KEY + UPSTREAM + '[[routes]]\npath = "/v1"\ntargets = []\n',
        [
            "gateway.toml:9: routes[0].targets: must be exactly one, such as "
            '[ { upstream = "openai" } ]'
        ],
    ),
    # What follows from a fault is not told beside it.
    "missing upstreams": (
        KEY + ROUTE,
        [
            "gateway.toml: upstreams: there must be at least one upstream: "
            "add [[upstreams]] with name and urls"
        ],
    ),
    "wrong path, used by a key": (
        KEY
        + 'routes = ["/v2"]\n'
        + UPSTREAM
        + ROUTE.replace("/v1", "v1")
        + 'strip_prefix = "/x"\n',
        ['gateway.toml:9: routes[0].path: must begin with "/"'],
    ),
    "missing target name": (
        KEY + UPSTREAM + '[[routes]]\npath = "/v1"\ntargets = [{}]\n',
        ["gateway.toml:9: routes[0].targets[0].upstream: is missing: name of an upstream"],
    ),
    "targets of the wrong type": (
        KEY + UPSTREAM + '[[routes]]\npath = "/v1"\ntargets = ["openai"]\n',
        ["gateway.toml:9: routes[0].targets[0]: must be a table, not a string"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str, tmp_path: Path) -> None:
    text, expected = WRONG[case]
    assert said(tmp_path, text) == expected


def test_a_thousand_routes_in_time(tmp_path: Path) -> None:
    routes = "".join(ROUTE.replace("/v1", f"/r{index}/v1") for index in range(2000))
    assert len(loaded(tmp_path, KEY + UPSTREAM + routes).routes) == 2000
