"""What `aigw check` prints: everything effective, nothing secret."""

from __future__ import annotations

from pathlib import Path

from config_files import KEY, ROUTE, UPSTREAM, loaded

from aigw.config import describe

TEXT = """
[listen]
address = ["0.0.0.0:80", "unix:/tmp/aigw"]
admin_token = "S3CRET"
workers = 2
[[keys]]
name = "app"
keys = ["S3CRET", "S3CRET-2"]
rps = 10
burst = 20
max_parallel_requests = 5
routes = ["/v1"]
expires = 2030-01-01T12:30:00
revoked = true
[[keys]]
name = "free"
key = "S3CRET-3"
rpm = 90
[[keys]]
name = "open"
key = "S3CRET-4"
[[keys]]
name = "old"
key = "S3CRET-5"
expires = 2020-01-01
[[upstreams]]
name = "openai"
urls = ["https://a.example", "https://b.example/base"]
credentials = ["S3CRET"]
balance = "round_robin"
health = { interval = "500ms" }
[[upstreams]]
name = "own"
urls = ["http://127.0.0.1:8000"]
dialect = "none"
[[upstreams]]
name = "idle"
urls = ["http://127.0.0.1:9000"]
[[upstreams]]
name = "byo"
urls = ["https://c.example"]
dialect = "anthropic"
credentials = "client"
[[routes]]
path = "/openai/v1"
targets = [{ upstream = "openai" }]
strip_prefix = "/openai"
rps = 50
[[routes]]
path = "/v1"
targets = [{ upstream = "own" }]
[[routes]]
path = "/"
targets = [{ upstream = "byo" }]
"""
EXPECTED = """\
FILE: 4 keys, 4 upstreams, 3 routes
listen   0.0.0.0:80, unix:/tmp/aigw
admin    127.0.0.1:8081 (token)
workers  2

routes (the first match wins)
  /openai/v1 → openai (openai, 1 credential, round_robin, checked every 0.5s)
      https://a.example/v1/…
      https://b.example/base/v1/…
      per key: 50 requests/s, burst 50
  /v1 → own (none, no credentials)
      http://127.0.0.1:8000/v1/…
  / → byo (anthropic, the client's credentials)
      https://c.example/…
  idle is not used by any route

keys
  app: 10 requests/s, burst 20, 5 in parallel, routes /v1, expires 2030-01-01 12:30 UTC, revoked
  free: 90 requests/min, burst 90
  open: no rate limit
  old: no rate limit, expired 2020-01-01 00:00 UTC"""


def test_everything_effective_and_nothing_secret(tmp_path: Path) -> None:
    told = describe(loaded(tmp_path, TEXT))
    assert told.replace(str(tmp_path / "gateway.toml"), "FILE") == EXPECTED
    assert "S3CRET" not in told


def test_thousands_of_keys_are_counted(tmp_path: Path) -> None:
    keys = "".join(KEY.replace("user1", f"user{index}") for index in range(1234))
    lines = describe(loaded(tmp_path, keys + UPSTREAM + ROUTE)).splitlines()
    assert lines[0].endswith(": 1,234 keys, 1 upstream, 1 route")
    assert lines[-1] == "  … and 1,214 more"
    assert len(lines) < 40


def test_the_farthest_date_can_be_shown(tmp_path: Path) -> None:
    text = KEY + "expires = 9998-12-31T23:59:59-23:59\n" + UPSTREAM + ROUTE
    assert "expires 9999-01-01 23:58 UTC" in describe(loaded(tmp_path, text))
