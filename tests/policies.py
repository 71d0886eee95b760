"""Keys and routes for tests, with what a test does not ask for left out."""

from __future__ import annotations

from aigw.memory import Bucket
from aigw.policy import Key, Route
from aigw.policy.compiled import NEVER, NO_ROW


def new_key(
    name: str = "user1",
    *,
    bucket: Bucket | None = None,
    route_buckets: tuple[Bucket | None, ...] = (None,),
    held_row: int = NO_ROW,
    max_parallel: int = 0,
    expires_at: float = NEVER,
    revoked: bool = False,
) -> Key:
    return Key(
        name=name,
        bucket=bucket,
        route_buckets=route_buckets,
        held_row=held_row,
        max_parallel=max_parallel,
        routes=None,
        expires_at=expires_at,
        revoked=revoked,
    )


def new_route(
    path: bytes = b"/v1",
    *,
    index: int = 0,
    strip_prefix: bytes = b"",
    cors_origins: frozenset[bytes] = frozenset(),
    has_bucket: bool = False,
) -> Route:
    return Route(
        index=index,
        name=path.decode(),
        path=path,
        upstream=0,
        strip_prefix=strip_prefix,
        cors_origins=cors_origins,
        has_bucket=has_bucket,
        body_s=1.0,
        body_min_rate=0,
        connect_s=1.0,
        first_byte_s=1.0,
        idle_s=1.0,
    )
