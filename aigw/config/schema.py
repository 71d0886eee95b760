"""Every option of gateway.toml: one field = type, default, reader and doc line.

The structs are what the rest of aigw sees; their names carry the units.  `Option` holds the name
in TOML, how it is read, and what it means; gateway.toml is checked against it by a test.
A default of None means that the option is off unless it is given.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from aigw.config import grammar
from aigw.config.readers import (
    Option,
    boolean,
    choice,
    duration,
    integer,
    list_of,
    log_destination,
    moment,
    number,
    one,
    one_or_more,
    optional_secret,
    path_of_file,
    secret,
    size,
    table,
    tables,
    text,
    word_or,
    workers,
)
from aigw.config.values import Secret, gateway_key, own_token, status_range

KIB = 1024
MIB = 1024 * 1024

MOST_WORKERS = 256  # each maps megabytes of shared memory; no machine needs more
MOST_CONNECTIONS = 1_000_000
MOST_BACKLOG = 65_535  # an older kernel keeps it in 16 bits
MOST_BUFFER_BYTES = 256 * MIB  # the kernel's own limit comes long before
LEAST_HEAD_BYTES = KIB  # an SDK's own head has 700
MOST_HEAD_BYTES = 16 * MIB  # held in memory per connection
MOST_HEADERS = 10_000
MOST_INSPECT_BYTES = 256 * MIB  # held in memory per request
MOST_IN_ROW = 1000  # checks before a member changes state
MOST_PARALLEL = 1_000_000_000


def _address_or_off(value: str) -> str:
    return grammar.address(value) if value else value


def _expect(value: str) -> str:
    status_range(value)
    return value


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where aigw listens, and with how many processes."""

    address: Annotated[
        tuple[str, ...],
        Option(
            "address",
            one_or_more(text(grammar.address)),
            'where clients connect: "host:port", "[v6]:port", "unix:/path", or a list of them',
        ),
    ] = ("127.0.0.1:8080",)
    admin: Annotated[
        str,
        Option(
            "admin",
            text(_address_or_off),
            'metrics, health, upstreams, reload and stop; "" switches it off',
        ),
    ] = "127.0.0.1:8081"
    admin_token: Annotated[
        Secret,
        Option(
            "admin_token",
            optional_secret(own_token),
            "needed where `admin` is reachable from outside",
        ),
    ] = Secret("")
    workers: Annotated[
        int | Literal["auto"],
        Option("workers", workers(MOST_WORKERS), "processes that serve clients"),
    ] = "auto"
    trusted_proxies: Annotated[
        tuple[str, ...],
        Option(
            "trusted_proxies",
            list_of(text(grammar.network)),
            "networks whose X-Forwarded-For names the client",
        ),
    ] = ()
    proxy_protocol: Annotated[
        bool,
        Option(
            "proxy_protocol",
            boolean,
            "each connection must begin with a PROXY v1 or v2 header from a trusted proxy",
        ),
    ] = False
    backlog: Annotated[
        int,
        Option(
            "backlog",
            integer(1, MOST_BACKLOG),
            "connections per worker that may wait in the kernel to be accepted",
        ),
    ] = 4096
    send_buffer_bytes: Annotated[
        int,
        Option(
            "send_buffer",
            size(0, MOST_BUFFER_BYTES),
            "kernel memory per client for what it has not taken yet (TCP); 0 = autotuning",
        ),
    ] = 0
    receive_buffer_bytes: Annotated[
        int,
        Option(
            "receive_buffer",
            size(0, MOST_BUFFER_BYTES),
            "kernel memory per client for what was not read yet (TCP); 0 = autotuning",
        ),
    ] = 0


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long each phase may take."""

    head_s: Annotated[
        float, Option("head", duration(), "a complete request head, from its first byte")
    ] = 10.0
    body_s: Annotated[
        float, Option("body", duration(), "longest silence while a request body arrives")
    ] = 60.0
    body_min_rate: Annotated[
        int,
        Option(
            "body_min_rate",
            size(0),
            "bytes per second, on average once `body` has passed; 0 = any",
        ),
    ] = 1 * KIB
    connect_s: Annotated[float, Option("connect", duration(), "TCP and TLS to an upstream")] = 5.0
    first_byte_s: Annotated[
        float,
        Option("first_byte", duration(), "from the request sent to the first response byte"),
    ] = 600.0
    idle_s: Annotated[
        float, Option("idle", duration(), "longest silence between response bytes")
    ] = 300.0
    keep_alive_s: Annotated[
        float, Option("keep_alive", duration(), "an idle client connection, then closed")
    ] = 75.0
    drain_delay_s: Annotated[
        float,
        Option("drain_delay", duration(zero=True), "after SIGTERM: not ready, still accepting"),
    ] = 0.0
    drain_s: Annotated[
        float,
        Option("drain", duration(zero=True), "then: what is running may end"),
    ] = 25.0


class RouteTimeouts(msgspec.Struct, frozen=True, kw_only=True):
    """What a route sets otherwise; None = as in `[timeouts]`."""

    body_s: Annotated[float | None, Option("body", duration(), "as in [timeouts]")] = None
    body_min_rate: Annotated[int | None, Option("body_min_rate", size(0), "as in [timeouts]")] = (
        None
    )
    connect_s: Annotated[float | None, Option("connect", duration(), "as in [timeouts]")] = None
    first_byte_s: Annotated[float | None, Option("first_byte", duration(), "as in [timeouts]")] = (
        None
    )
    idle_s: Annotated[float | None, Option("idle", duration(), "as in [timeouts]")] = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one client may ask this process to hold or carry."""

    head_bytes: Annotated[
        int,
        Option(
            "head_bytes",
            size(LEAST_HEAD_BYTES, MOST_HEAD_BYTES),
            "a request head, 431 beyond",
        ),
    ] = 32 * KIB
    upstream_head_bytes: Annotated[
        int,
        Option(
            "upstream_head_bytes",
            size(LEAST_HEAD_BYTES, MOST_HEAD_BYTES),
            "a response head, 502 beyond",
        ),
    ] = 64 * KIB
    headers: Annotated[
        int, Option("headers", integer(1, MOST_HEADERS), "fields in a head, 431 beyond")
    ] = 100
    body_bytes: Annotated[
        int, Option("body_bytes", size(1), "a request body, 413 beyond; streamed, never held")
    ] = 100 * MIB
    inspect_bytes: Annotated[
        int,
        Option(
            "inspect_bytes",
            size(0, MOST_INSPECT_BYTES),
            "most of a body that is held, to be able to send it again",
        ),
    ] = 1 * MIB
    connections: Annotated[
        int,
        Option(
            "connections",
            integer(1, MOST_CONNECTIONS),
            "client connections per worker, or what the file-descriptor limit allows",
        ),
    ] = 20_000


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down."""

    access: Annotated[
        str,
        Option("access", log_destination, '"stdout", "off", or a path: one JSON line per request'),
    ] = "stdout"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Option(
            "level",
            choice("debug", "info", "warning", "error"),
            "least level of the operational log (stderr): debug, info, warning, error",
        ),
    ] = "info"


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A token bucket, or none."""

    rps: Annotated[
        float | None,
        Option("rps", number(above=True), "requests per second (token bucket)"),
    ] = None
    rpm: Annotated[
        float | None,
        Option("rpm", number(above=True), "requests per minute, instead of rps"),
    ] = None
    burst: Annotated[
        float | None,
        Option("burst", number(1.0), "most at once after a pause, at least 1"),
    ] = None

    def bucket(self) -> tuple[float, float] | None:
        """(tokens per second, capacity), None without a limit; the capacity is rps or rpm."""
        per_period = self.rps if self.rps is not None else self.rpm
        if per_period is None:
            return None
        per_second = per_period if self.rps is not None else per_period / 60.0
        # A bucket that can't hold one token would refuse for ever.
        return per_second, self.burst if self.burst is not None else max(1.0, per_period)


class KeySettings(Rate, frozen=True, kw_only=True):
    """A client's key and what it may do."""

    name: Annotated[
        str,
        Option("name", text(grammar.name), "what logs and metrics show", required=True),
    ] = ""
    keys: Annotated[
        tuple[Secret, ...],
        Option(
            "key",
            one(secret(gateway_key)),
            'plain, "${ENV}", "file:…" or "sha256:<64 hex digits>"',
            required=True,
        ),
        Option(
            "keys",
            list_of(secret(gateway_key), least=1, unique=False),
            "several, while one is rotated, instead of `key`",
        ),
    ] = ()
    max_parallel_requests: Annotated[
        int | None,
        Option("max_parallel_requests", integer(1, MOST_PARALLEL), "running at the same time"),
    ] = None
    routes: Annotated[
        tuple[str, ...] | None,
        Option("routes", list_of(text(), least=1), "paths of the routes that it may use"),
    ] = None
    expires_at: Annotated[
        float | None,
        Option("expires", moment, "date (its 00:00 UTC) or date and time"),
    ] = None
    revoked: Annotated[
        bool,
        Option("revoked", boolean, "known, so that it is refused by name and never leaks upstream"),
    ] = False


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Active checks of each member."""

    path: Annotated[
        str, Option("path", text(grammar.target), 'GET this; "" = TCP or TLS connect only')
    ] = ""
    expect: Annotated[
        str, Option("expect", text(_expect), 'statuses that pass: "<500", "200", "200-399"')
    ] = "<500"
    interval_s: Annotated[float, Option("interval", duration(), "from one check to the next")] = 5.0
    timeout_s: Annotated[float, Option("timeout", duration(), "a check's longest")] = 2.0
    rise: Annotated[
        int, Option("rise", integer(1, MOST_IN_ROW), "passes in a row before a member is in")
    ] = 2
    fall: Annotated[
        int, Option("fall", integer(1, MOST_IN_ROW), "failures in a row before a member is out")
    ] = 3


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Kept connections to each member."""

    keep_alive_s: Annotated[
        float | None,
        Option(
            "keep_alive", duration(), "how long one may idle; default 55s for https, 4s for http"
        ),
    ] = None
    idle_connections: Annotated[
        int,
        Option("idle_connections", integer(0, MOST_CONNECTIONS), "kept per worker and member"),
    ] = 1024
    max_connections: Annotated[
        int,
        Option(
            "max_connections",
            integer(0, MOST_CONNECTIONS),
            "in use over all workers, 503 beyond; 0 = unlimited",
        ),
    ] = 0
    max_age_s: Annotated[
        float, Option("max_age", duration(), "then closed and the name resolved anew")
    ] = 300.0


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A provider: where it is and how it is spoken to."""

    name: Annotated[
        str,
        Option("name", text(grammar.name), "what routes and metrics call it", required=True),
    ] = ""
    urls: Annotated[
        tuple[str, ...],
        Option(
            "urls",
            list_of(text(grammar.url), least=1),
            "one or several, which are balanced",
            required=True,
        ),
    ] = ()
    dialect: Annotated[
        Literal["openai", "anthropic", "gemini", "none"],
        Option(
            "dialect",
            choice("openai", "anthropic", "gemini", "none"),
            "openai | anthropic | gemini | none: which header carries credentials, how errors look",
        ),
    ] = "openai"
    credentials: Annotated[
        tuple[Secret, ...] | Literal["client"],
        Option(
            "credentials",
            word_or("client", list_of(secret())),
            'a list, which rotates; [] = send none; "client" = the client\'s own pass through',
        ),
    ] = ()
    credential_header: Annotated[
        str,
        Option(
            "credential_header",
            text(grammar.field_name),
            'default: the dialect\'s; "api-key" for Azure',
        ),
    ] = ""
    balance: Annotated[
        Literal["least_inflight", "round_robin"],
        Option(
            "balance",
            choice("least_inflight", "round_robin"),
            "least_inflight | round_robin, among several urls",
        ),
    ] = "least_inflight"
    ca: Annotated[
        str, Option("ca", path_of_file, "PEM of a private CA, instead of the system's trust store")
    ] = ""
    cert: Annotated[str, Option("cert", path_of_file, "PEM of a client certificate")] = ""
    cert_key: Annotated[str, Option("cert_key", path_of_file, "PEM of its private key")] = ""
    health: Annotated[
        HealthSettings | None,
        Option("health", table(HealthSettings), "active checks; default: passive only"),
    ] = None
    pool: Annotated[
        PoolSettings, Option("pool", table(PoolSettings), "kept connections to each url")
    ] = PoolSettings()


class TargetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a route leads to."""

    upstream: Annotated[str, Option("upstream", text(), "name of an upstream", required=True)] = ""


class RouteSettings(Rate, frozen=True, kw_only=True):
    """What is asked for, and who answers."""

    path: Annotated[
        str,
        Option("path", text(grammar.route), "this path and everything below it", required=True),
    ] = ""
    targets: Annotated[
        tuple[TargetSettings, ...],
        Option("targets", tables(TargetSettings), "the upstream that answers", required=True),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        Option(
            "cors_origins",
            list_of(text(grammar.origin)),
            'origins of browser applications that may ask; "*" = all',
        ),
    ] = ()
    strip_prefix: Annotated[
        str,
        Option("strip_prefix", text(grammar.prefix), "taken off the path before it goes upstream"),
    ] = ""
    timeouts: Annotated[
        RouteTimeouts | None,
        Option("timeouts", table(RouteTimeouts), "other timeouts for this route"),
    ] = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration, read and checked, with all secrets resolved."""

    keys_file: Annotated[
        str, Option("keys_file", path_of_file, "more [[keys]], for those who have thousands")
    ] = ""
    listen: Annotated[Listen, Option("listen", table(Listen), "where aigw listens")] = Listen()
    timeouts: Annotated[Timeouts, Option("timeouts", table(Timeouts), "how long")] = Timeouts()
    limits: Annotated[Limits, Option("limits", table(Limits), "how much")] = Limits()
    log: Annotated[Log, Option("log", table(Log), "what is written down")] = Log()
    keys: Annotated[
        tuple[KeySettings, ...], Option("keys", tables(KeySettings), "who may use aigw")
    ] = ()
    upstreams: Annotated[
        tuple[UpstreamSettings, ...],
        Option("upstreams", tables(UpstreamSettings), "who answers"),
    ] = ()
    routes: Annotated[
        tuple[RouteSettings, ...],
        Option("routes", tables(RouteSettings), "what is asked for; the first match wins"),
    ] = ()
    source: str = ""  # the file's name, or "environment"


class KeysFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `keys_file` names."""

    keys: Annotated[
        tuple[KeySettings, ...], Option("keys", tables(KeySettings), "who may use aigw")
    ] = ()
