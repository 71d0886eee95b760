"""Settings made into a policy, and the policy as a worker loads it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from config_files import loaded

from aigw.config import key_digest
from aigw.memory import Memory
from aigw.policy import Policy, compile_policy, load_policy, retain_rows
from aigw.policy.compiled import NEVER, NO_ROW, split_url

NOW_S = 1000.0
TEXT = """
[timeouts]
first_byte = "7s"
[[keys]]
name = "plain"
keys = ["plain-new", "plain-old"]
[[keys]]
name = "limited"
key = "limited"
rps = 5
burst = 9
max_parallel_requests = 3
routes = ["/v1"]
expires = 2030-01-01
revoked = true
[[upstreams]]
name = "up"
urls = ["http://one:8000/base/", "https://two", "http://[::1]"]
credentials = ["sk-1", "sk-2"]
health = { path = "/health" }
pool = { max_connections = 7 }
[[upstreams]]
name = "own"
urls = ["https://three"]
dialect = "anthropic"
credentials = "client"
[[upstreams]]
name = "azure"
urls = ["https://four"]
credentials = ["secret"]
credential_header = "Api-Key"
[[routes]]
path = "/v1"
targets = [{ upstream = "own" }]
rpm = 60
strip_prefix = "/v1"
timeouts = { idle = "3s" }
[[routes]]
path = "/v2"
targets = [{ upstream = "up" }]
cors_origins = ["https://app.example"]
"""


def compiled(folder: Path, text: str, memory: Memory | None = None) -> Policy:
    settings = loaded(folder, text)
    return load_policy(compile_policy(settings, memory or Memory.create(1), NOW_S))


def test_keys(tmp_path: Path) -> None:
    policy = compiled(tmp_path, TEXT)
    assert len(policy.keys) == 3
    plain, limited = (policy.keys[key_digest(key)] for key in ("plain-new", "limited"))
    assert policy.keys[key_digest("plain-old")] == plain
    assert (plain.name, plain.bucket, plain.routes) == ("plain", None, None)
    assert (plain.expires_at, plain.revoked, plain.held_row) == (NEVER, False, NO_ROW)
    assert limited.bucket is not None
    assert (limited.bucket.rate_per_s, limited.bucket.burst) == (5.0, 9.0)
    assert (limited.routes, limited.max_parallel) == ((0,), 3)
    assert limited.held_row >= 0
    assert (limited.expires_at, limited.revoked) == (1893456000.0, True)
    for key in (plain, limited):
        on_route, none = key.route_buckets
        assert on_route is not None
        assert none is None
        assert (on_route.rate_per_s, on_route.burst) == (1.0, 60.0)
    assert plain.route_buckets != limited.route_buckets


def test_routes(tmp_path: Path) -> None:
    policy = compiled(tmp_path, TEXT)
    first, second = policy.routes
    assert (first.index, first.name, first.path, first.strip_prefix) == (0, "/v1", b"/v1", b"/v1")
    assert [policy.upstreams[route.upstream].name for route in policy.routes] == ["own", "up"]
    assert (first.has_bucket, second.has_bucket) == (True, False)
    assert (first.idle_s, second.idle_s) == (3.0, 300.0)
    assert first.first_byte_s == second.first_byte_s == 7.0
    assert second.cors_origins == {b"https://app.example"}


def test_upstreams(tmp_path: Path) -> None:
    up, own, azure = compiled(tmp_path, TEXT).upstreams
    assert up.credential_lines == (
        b"Authorization: Bearer sk-1\r\n",
        b"Authorization: Bearer sk-2\r\n",
    )
    assert (up.credential_field, own.credential_field) == (b"authorization", b"x-api-key")
    assert own.credential_lines is None
    assert azure.credential_lines == (b"Api-Key: secret\r\n",)
    assert azure.credential_field == b"api-key"
    assert [(m.label, m.host_field, m.base_path) for m in up.members] == [
        ("one:8000", b"one:8000", b"/base"),
        ("two:443", b"two", b""),
        ("[::1]:80", b"[::1]", b""),
    ]
    assert len({member.health_row for member in up.members}) == 3
    assert own.members[0].health_row == NO_ROW
    assert (up.in_use_row >= 0, own.in_use_row) == (True, NO_ROW)
    # One member without TLS: the shorter time, for all.
    assert (up.pool.keep_alive_s, own.pool.keep_alive_s) == (4.0, 55.0)


def test_no_gateway_key_stands_in_a_policy(tmp_path: Path) -> None:
    settings = loaded(tmp_path, TEXT)
    blob = compile_policy(settings, Memory.create(1), NOW_S)
    assert b"sk-1" in blob
    for secret in (b"plain-new", b"plain-old"):
        assert secret not in blob


def test_what_a_reload_leaves_as_it_was_keeps_its_rows(tmp_path: Path) -> None:
    memory = Memory.create(1)
    before = compiled(tmp_path, TEXT, memory)
    assert compiled(tmp_path, TEXT, memory) == before
    after = compiled(tmp_path, TEXT.replace("rps = 5", "rps = 6"), memory)
    old, new = (policy.keys[key_digest("limited")] for policy in (before, after))
    assert old.bucket is not None
    assert new.bucket is not None
    assert new.bucket.row != old.bucket.row
    assert (new.held_row, new.route_buckets) == (old.held_row, old.route_buckets)


def rows_in_use(memory: Memory) -> int:
    """How many rows the limits of `TEXT` have at present."""
    kinds = ("bucket", "held", "member")
    return sum(len(list(memory.rows.find(kind, name))) for kind in kinds for name in NAMES)


NAMES = ["limited\0", "limited\0/v1", "plain\0/v1", "key\0limited", "upstream\0up"]


def test_rows_that_nobody_names_any_more_are_given_back(tmp_path: Path) -> None:
    memory = Memory.create(1)
    compiled(tmp_path, TEXT, memory)
    assert rows_in_use(memory) == 5
    smaller = TEXT.replace("rpm = 60\n", "").replace("max_parallel_requests = 3\n", "")
    policy = compiled(tmp_path, smaller, memory)
    assert rows_in_use(memory) == 5  # workers may still use them
    retain_rows(memory, policy)
    assert rows_in_use(memory) == 2


MANY = 10_000


def test_ten_thousand_keys_are_loaded_at_once(tmp_path: Path) -> None:
    """DESIGN.md promises 20 ms; the bound leaves room for a busy machine, and `-rP` shows the
    figure."""
    keys = "".join(
        f'[[keys]]\nname = "key{number}"\nkey = "secret-{number}"\nrps = {1 + number % 50}\n'
        for number in range(MANY)
    )
    policy_text = keys + TEXT[TEXT.index("[[upstreams]]") :]
    settings = loaded(tmp_path, policy_text)
    blob = compile_policy(settings, Memory.create(1), NOW_S)
    took_s = []
    for _ in range(5):
        started_s = time.thread_time()
        policy = load_policy(blob)
        took_s.append(time.thread_time() - started_s)
    print(f"{MANY} keys loaded in {min(took_s) * 1000:.1f} ms")
    assert len(policy.keys) == MANY
    last = policy.keys[key_digest(f"secret-{MANY - 1}")]
    assert last.name == f"key{MANY - 1}"
    assert last.bucket is not None
    assert last.bucket.rate_per_s == 1 + (MANY - 1) % 50
    assert min(took_s) < 0.2


URLS = [
    ("http://host", ("http", "host", 80, "")),
    ("https://host", ("https", "host", 443, "")),
    ("http://host:8000/a/b", ("http", "host", 8000, "/a/b")),
    ("https://[::1]:8443/", ("https", "::1", 8443, "/")),
]


@pytest.mark.parametrize(("url", "parts"), URLS)
def test_split_url(url: str, parts: tuple[str, str, int, str]) -> None:
    assert split_url(url) == parts
