"""Configuration made into one immutable object for the hot path.

The controller (at first the master) turns `Settings` into a `Policy` and encodes it; a worker
decodes it and swaps one reference.  Everything slow is done on the encoding side: files are read,
keys digested, rows of shared memory allotted.  Decoding 10,000 keys takes about 10 ms.

What a request needs lies in three tables: `keys` by the SHA-256 of the key (looking a digest up
is the constant-time comparison), `routes` in the order of the file, `upstreams` by index.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from aigw.config import Settings, key_digest
from aigw.dialects import DIALECTS, credential_line
from aigw.memory import Bucket, allot_bucket

if TYPE_CHECKING:
    from aigw.config import KeySettings, RouteSettings, UpstreamSettings
    from aigw.memory import Memory

NEVER = float("inf")
NO_ROW = -1


class Key(Struct, frozen=True, gc=False, array_like=True):
    """A gateway key.  `routes` holds indexes, None = all; `route_buckets` stands by route index."""

    name: str
    bucket: Bucket | None
    route_buckets: tuple[Bucket | None, ...]
    held_row: int
    max_parallel: int
    routes: tuple[int, ...] | None
    expires_at: float
    revoked: bool


class Member(Struct, frozen=True):
    """One URL of an upstream.  `base_path` is without its final slash; `label` is `host:port`."""

    label: str
    scheme: Literal["http", "https"]
    host: str
    port: int
    host_field: bytes
    base_path: bytes
    health_row: int


class Health(Struct, frozen=True):
    """Active checks: see `upstreams.health` in the configuration."""

    path: str
    expect: str
    interval_s: float
    timeout_s: float
    rise: int
    fall: int


class Pool(Struct, frozen=True):
    """How connections to one member are kept."""

    keep_alive_s: float
    idle_connections: int
    max_connections: int
    max_age_s: float


class UpstreamPolicy(Struct, frozen=True):
    """One upstream.  `credential_lines` rotate; None = the client's own credential passes."""

    name: str
    members: tuple[Member, ...]
    credential_lines: tuple[bytes, ...] | None
    credential_field: bytes
    balance: str
    health: Health | None
    pool: Pool
    in_use_row: int
    ca_pem: str
    cert_pem: str
    key_pem: str

    def __repr__(self) -> str:  # without credentials and private key
        return f"UpstreamPolicy(name={self.name!r})"


class Route(Struct, frozen=True):
    """One route; times in seconds, `upstream` an index."""

    index: int
    name: str
    path: bytes
    upstream: int
    strip_prefix: bytes
    cors_origins: frozenset[bytes]
    has_bucket: bool
    body_s: float
    body_min_rate: int
    connect_s: float
    first_byte_s: float
    idle_s: float


class Policy(Struct, frozen=True):
    """Everything a worker needs to know; times in seconds, sizes in bytes."""

    keys: dict[bytes, Key]
    routes: tuple[Route, ...]
    upstreams: tuple[UpstreamPolicy, ...]
    trusted_proxies: tuple[str, ...]
    proxy_protocol: bool
    admin: str
    admin_token_digest: bytes
    access_log: str
    log_level: str
    head_s: float
    keep_alive_s: float
    drain_delay_s: float
    drain_s: float
    head_bytes: int
    upstream_head_bytes: int
    headers: int
    body_bytes: int
    inspect_bytes: int
    connections: int

    def __repr__(self) -> str:  # without digests: those of short keys can be guessed
        return f"Policy({len(self.keys)} keys, {self.routes!r}, {self.upstreams!r})"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Policy)


def load_policy(blob: bytes) -> Policy:
    """The policy that `compile_policy` made."""
    return _decoder.decode(blob)


def compile_policy(settings: Settings, memory: Memory, now_s: float) -> bytes:
    """Settings made into a policy for workers; allots the rows of shared memory that it names.

    `now_s` is monotonic time: a limit that has changed gets a new bucket that starts at the level
    of the old one, capped at its new burst.  Raises `RowsExhausted`, `OSError`.
    """
    return _encoder.encode(Compiler(settings, memory, now_s).policy())


def retain_rows(memory: Memory, policy: Policy) -> None:
    """Give back every row that `policy` does not name; it must be the one published last."""
    rows: set[int] = set()
    for key in policy.keys.values():
        rows.add(key.held_row)
        buckets = (key.bucket, *key.route_buckets)
        rows.update(bucket.row for bucket in buckets if bucket is not None)
    for upstream in policy.upstreams:
        rows.add(upstream.in_use_row)
        rows.update(member.health_row for member in upstream.members)
    rows.discard(NO_ROW)
    memory.rows.retain(rows)


class Compiler:
    """One compilation: settings in, policy out."""

    def __init__(self, settings: Settings, memory: Memory, now_s: float):
        self.settings = settings
        self.memory = memory
        self.now_s = now_s
        self.route_index = {route.path: at for at, route in enumerate(settings.routes)}
        self.upstream_index = {up.name: at for at, up in enumerate(settings.upstreams)}

    def policy(self) -> Policy:
        s = self.settings
        token = s.listen.admin_token
        return Policy(
            keys=self._keys(),
            routes=tuple(self._route(at, route) for at, route in enumerate(s.routes)),
            upstreams=tuple(self._upstream(upstream) for upstream in s.upstreams),
            trusted_proxies=s.listen.trusted_proxies,
            proxy_protocol=s.listen.proxy_protocol,
            admin=s.listen.admin,
            admin_token_digest=sha256(token.encode()).digest() if token else b"",
            access_log=s.log.access,
            log_level=s.log.level,
            head_s=s.timeouts.head_s,
            keep_alive_s=s.timeouts.keep_alive_s,
            drain_delay_s=s.timeouts.drain_delay_s,
            drain_s=s.timeouts.drain_s,
            head_bytes=s.limits.head_bytes,
            upstream_head_bytes=s.limits.upstream_head_bytes,
            headers=s.limits.headers,
            body_bytes=s.limits.body_bytes,
            inspect_bytes=s.limits.inspect_bytes,
            connections=s.limits.connections,
        )

    # ---- keys ----

    def _keys(self) -> dict[bytes, Key]:
        keys: dict[bytes, Key] = {}
        for settings in self.settings.keys:
            key = self._key(settings)
            for secret in settings.keys:
                keys[key_digest(secret)] = key
        return keys

    def _key(self, k: KeySettings) -> Key:
        held_row = NO_ROW
        if k.max_parallel_requests is not None:
            held_row = self.memory.rows.allot("held", f"key\0{k.name}")
        allowed = None if k.routes is None else tuple(self.route_index[path] for path in k.routes)
        return Key(
            name=k.name,
            bucket=self._bucket(k.name, "", k),
            route_buckets=tuple(
                self._bucket(k.name, route.path, route) for route in self.settings.routes
            ),
            held_row=held_row,
            max_parallel=k.max_parallel_requests or 0,
            routes=allowed,
            expires_at=NEVER if k.expires_at is None else k.expires_at,
            revoked=k.revoked,
        )

    def _bucket(self, key: str, route: str, limit: KeySettings | RouteSettings) -> Bucket | None:
        """The bucket of a key (`route` empty) or of a key on a route."""
        bucket = limit.bucket()
        if bucket is None:
            return None
        rate_per_s, burst = bucket
        return allot_bucket(self.memory, f"{key}\0{route}", rate_per_s, burst, self.now_s)

    # ---- routes and upstreams ----

    def _route(self, index: int, r: RouteSettings) -> Route:
        general, own = self.settings.timeouts, r.timeouts

        def time(name: str) -> float:
            value = getattr(own, name, None)
            return float(getattr(general, name) if value is None else value)

        return Route(
            index=index,
            name=r.path,
            path=r.path.encode(),
            upstream=self.upstream_index[r.targets[0].upstream],
            strip_prefix=r.strip_prefix.encode(),
            cors_origins=frozenset(origin.encode() for origin in r.cors_origins),
            has_bucket=r.rps is not None or r.rpm is not None,
            body_s=time("body_s"),
            body_min_rate=int(time("body_min_rate")),
            connect_s=time("connect_s"),
            first_byte_s=time("first_byte_s"),
            idle_s=time("idle_s"),
        )

    def _upstream(self, u: UpstreamSettings) -> UpstreamPolicy:
        header = u.credential_header or DIALECTS[u.dialect].credential_header
        lines = None
        if u.credentials != "client":
            lines = tuple(credential_line(header.encode(), c.encode()) for c in u.credentials)
        in_use_row = NO_ROW
        if u.pool.max_connections:
            in_use_row = self.memory.rows.allot("held", f"upstream\0{u.name}")
        return UpstreamPolicy(
            name=u.name,
            members=tuple(self._member(u, url) for url in u.urls),
            credential_lines=lines,
            credential_field=header.lower().encode(),
            balance=u.balance,
            health=msgspec.convert(u.health, Health, from_attributes=True) if u.health else None,
            pool=_pool(u),
            in_use_row=in_use_row,
            ca_pem=self._file(u.ca),
            cert_pem=self._file(u.cert),
            key_pem=self._file(u.cert_key),
        )

    def _member(self, upstream: UpstreamSettings, url: str) -> Member:
        scheme, host, port, path = split_url(url)
        bracketed = f"[{host}]" if ":" in host else host
        default_port = 443 if scheme == "https" else 80
        label = f"{bracketed}:{port}"
        health_row = NO_ROW
        if upstream.health is not None:
            health_row = self.memory.rows.allot("member", f"{upstream.name} {url}")
        return Member(
            label=label,
            scheme="https" if scheme == "https" else "http",
            host=host,
            port=port,
            host_field=(bracketed if port == default_port else label).encode(),
            base_path=path.rstrip("/").encode(),
            health_row=health_row,
        )

    @staticmethod
    def _file(path: str) -> str:
        return Path(path).read_text() if path else ""


# vLLM and uvicorn close idle connections after 5 s, providers behind TLS after a minute or more.
KEEP_ALIVE_HTTP_S = 4.0
KEEP_ALIVE_HTTPS_S = 55.0


def _pool(u: UpstreamSettings) -> Pool:
    keep_alive_s = u.pool.keep_alive_s
    if keep_alive_s is None:
        secure = all(url.startswith("https:") for url in u.urls)
        keep_alive_s = KEEP_ALIVE_HTTPS_S if secure else KEEP_ALIVE_HTTP_S
    return Pool(
        keep_alive_s=keep_alive_s,
        idle_connections=u.pool.idle_connections,
        max_connections=u.pool.max_connections,
        max_age_s=u.pool.max_age_s,
    )


def split_url(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of a URL that the configuration has checked."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, parts.hostname or "", port, parts.path
