"""One URL of an upstream: its idle connections, its load, and what we have seen of its health.

Idle connections are kept last in, first out: the warmest is used, the others age and go.
"""

from __future__ import annotations

from aigw import policy
from aigw.upstreams.connection import UpstreamConnection
from aigw.upstreams.connector import Connector, Origin, tls_of
from aigw.upstreams.known import KnownAnswers

# Passive health: so many connect failures in a row keep a member out for so long.
CONNECT_FAILURES_OUT = 3
OUT_S = 5.0


class Member:
    """The state of one member in one worker."""

    __slots__ = (
        "answers",
        "connector",
        "failures_in_row",
        "health_row",
        "idle",
        "inflight",
        "is_tls",
        "label",
        "out_until_s",
        "pool_settings",
        "room",
        "settings",
    )

    def __init__(self, upstream: policy.UpstreamPolicy, settings: policy.Member):
        self.settings = settings
        self.label = settings.label
        self.health_row = settings.health_row
        self.pool_settings = upstream.pool
        self.is_tls = settings.scheme == "https"
        origin = Origin(settings.scheme, settings.host, settings.port)
        self.connector = Connector(origin, tls_of(upstream) if self.is_tls else None)
        self.answers = KnownAnswers()
        self.idle: list[UpstreamConnection] = []
        self.inflight = 0  # exchanges that it is serving for this worker
        self.failures_in_row = 0
        self.out_until_s = 0.0
        self.room = upstream.pool.idle_connections  # for idle connections

    # ---- connections ----

    def take_idle(self, now_s: float, read_s: float = 0.0) -> UpstreamConnection | None:
        """The warmest idle connection that is still good.

        Since `read_s` the loop has read what had come: who was idle before would have ended.
        """
        idle = self.idle
        while idle:
            connection = idle.pop()
            is_good = now_s < connection.good_until_s and not connection.transport.is_closing()
            if is_good and (connection.idle_since_s < read_s or not connection.has_news()):
                return connection
            connection.drop()
        return None

    def give_idle(self, connection: UpstreamConnection, now_s: float) -> None:
        """Take back a connection whose last exchange ended cleanly, and which serves nobody."""
        until_s = now_s + connection.keep_alive_s
        outlived_s = connection.outlived_s
        connection.good_until_s = until_s if until_s < outlived_s else outlived_s
        connection.idle_since_s = now_s
        if (
            len(self.idle) >= self.room
            # It answered before it had read the whole request, and may never read the rest.
            or connection.transport.get_write_buffer_size()
        ):
            connection.drop()
            return
        if self.is_tls:
            self.connector.remember_session(connection.transport)
        self.idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """An idle connection has ended by itself."""
        if connection in self.idle:
            self.idle.remove(connection)

    def sweep(self, now_s: float) -> None:
        """Drop the idle connections that have outlived their time."""
        stale = [c for c in self.idle if now_s >= c.good_until_s or c.transport.is_closing()]
        for connection in stale:
            self.idle.remove(connection)
            connection.drop()

    def retire(self) -> None:
        """The policy no longer knows this member: nothing goes back to the pool."""
        self.room = 0
        self.drop_idle()

    def drop_idle(self) -> None:
        while self.idle:
            self.idle.pop().drop()

    # ---- passive health ----

    def connected(self) -> None:
        self.failures_in_row = 0
        self.out_until_s = 0.0

    def connect_failed(self, now_s: float) -> None:
        self.failures_in_row += 1
        if self.failures_in_row >= CONNECT_FAILURES_OUT:
            self.out_until_s = now_s + OUT_S
