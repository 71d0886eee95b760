"""What every connection of one worker shares, and may change only between two requests."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from aigw.errors import Code
from aigw.memory.policy_area import ACKNOWLEDGE_S
from aigw.policy import load_policy
from aigw.policy.client_address import TrustedProxies
from aigw.proxy.express import Express
from aigw.proxy.known import KnownRequests
from aigw.proxy.ledger import Ledger
from aigw.proxy.refusal import Refusal
from aigw.sockets import OPEN_FILES_MOST, places
from aigw.upstreams.group import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aigw.memory import Memory
    from aigw.observe.access_log import AccessLog
    from aigw.observe.metrics import WorkerMetrics
    from aigw.policy import Policy, Route
    from aigw.policy.limits import Limits
    from aigw.proxy.client import ClientConnection


logger = logging.getLogger("aigw")

RETIRED = Refusal(Code.SHUTTING_DOWN, "This process is shutting down; try again.", 1.0)
OVERLOADED = Refusal(Code.OVERLOADED, "The gateway is overloaded; try again.", 1.0)
HEXADECIMAL = [b"%02x" % number for number in range(256)]


class Services:
    """One worker's tables, tools and clock.

    `clock_s` is the monotonic time of the last sweep: good enough for deadlines, and free.
    `wall_offset_s` makes Unix time of monotonic time, and follows the wall clock at each sweep.
    """

    # With more than 30 attributes an instance without slots is looked up the slow way: a plain
    # request costs 0.7 % more instructions (CPython 3.11, 2026-11-24).
    __slots__ = (
        "_groups",
        "accepted",
        "auth_success",
        "clock_s",
        "connection_limit",
        "connections",
        "date_line",
        "draining",
        "express",
        "express_sent",
        "in_flight",
        "index",
        "known",
        "ledger",
        "limits",
        "log",
        "loop",
        "memory",
        "metrics",
        "new_request_id",
        "newest_version",
        "paused",
        "places",
        "policy",
        "policy_version",
        "refusing",
        "retired",
        "tell_siblings",
        "trusted",
        "wall_offset_s",
    )

    def __init__(
        self, memory: Memory, index: int, limits: Limits, metrics: WorkerMetrics, log: AccessLog
    ):
        self.memory = memory
        self.index = index
        self.limits = limits
        self.metrics = metrics
        self.log = log
        self.loop = asyncio.get_running_loop()
        self.connections: set[ClientConnection] = set()
        self.paused: set[ClientConnection] = set()  # not read from, though a body is to come
        self.tell_siblings: Callable[[], object] = lambda: None  # a connection is gone
        self.places = places(OPEN_FILES_MOST, 0)  # a worker says what its files allow
        self.newest_version = memory.policy.version_word
        self.draining = False  # answer what comes, and close
        self.retired = False  # admit nothing new, ever
        # What new requests get while none is admitted: the one thing to ask before each.
        self.refusing: Refusal | None = None
        self.policy_version = 0
        self.in_flight = metrics.gauge("requests_in_flight")
        self.accepted = metrics.counter("accepted_total")
        self.auth_success = metrics.counter("auth_success_total")
        self.express_sent = metrics.express()
        self.new_request_id = request_ids().__next__
        self._groups: dict[str, Group] = {}
        self.ledger = Ledger(self)
        self.express = Express(self)
        self.tick(time.monotonic())

    # ---- the policy ----

    policy: Policy
    connection_limit: int
    trusted: TrustedProxies
    known: KnownRequests

    def use_policy(self, version: int, policy: Policy) -> None:
        """Swap the policy; upstreams that it leaves as they were keep their connections."""
        self.policy = policy
        self.policy_version = version
        self.connection_limit = min(policy.connections, self.places.connections)
        logger.setLevel(policy.log_level.upper())
        self.known = KnownRequests()  # what was settled under the old policy is forgotten
        for client in self.connections:
            client.forget_shape()
        self.trusted = TrustedProxies(policy.trusted_proxies)
        old = self._groups
        self._groups = {}
        for settings in policy.upstreams:
            group = old.get(settings.name)
            if group is None or group.settings != settings:
                group = Group(settings, first_turn=self.index)
            self._groups[settings.name] = group
        for name, group in old.items():
            if self._groups.get(name) is not group:
                self._retire(group)

    def _retire(self, group: Group) -> None:
        """No policy names it any more: its gauges must not stand still for ever."""
        group.retire()
        for member in group.members:
            for state in ("idle", "in_use"):
                labels = (group.settings.name, member.label, state)
                self.metrics.words[self.metrics.gauge("upstream_connections", *labels)] = 0

    def follow_policy(self) -> None:
        """Take the newest policy; called at each request and each sweep, so one load if it is old.

        Who missed one for `ACKNOWLEDGE_S` has a successor by now and admits nothing any more.
        """
        area = self.memory.policy
        if self.newest_version[0] == self.policy_version:
            return
        if time.monotonic_ns() - area.published_at_ns > ACKNOWLEDGE_S * 1e9:
            self.retire()
            return
        version, blob = area.read()
        self.use_policy(version, load_policy(blob))

    def retire(self) -> None:
        """Admit nothing any more."""
        self.retired = True
        self.refusing = RETIRED

    def set_overloaded(self, is_overloaded: bool) -> None:
        """Admit nothing while it lasts, so that what has been admitted is served in time."""
        if is_overloaded:
            logger.warning("overloaded: the event loop is late; new requests are answered 503")
        else:
            logger.warning("no longer overloaded")
        if not self.retired:
            self.refusing = OVERLOADED if is_overloaded else None

    def groups(self) -> list[Group]:
        return list(self._groups.values())

    def drop_idle(self) -> None:
        """Give up all idle connections to upstreams."""
        for group in self.groups():
            for member in group.members:
                member.drop_idle()

    def group_of(self, route: Route) -> Group:
        return self._groups[self.policy.upstreams[route.upstream].name]

    def is_member_out(self, health_row: int) -> bool:
        """The verdict of the active checks; without any a member is in."""
        return health_row >= 0 and self.memory.health.is_out(health_row, time.monotonic_ns())

    def tick(self, now_s: float) -> None:
        """Move the coarse clock and the Date field (RFC 9110, 6.6.1)."""
        self.clock_s = now_s
        self.wall_offset_s = time.time() - now_s
        self.date_line = b"Date: %b\r\n" % formatdate(usegmt=True).encode()


def request_ids() -> Iterator[bytes]:
    """This process's own prefix and a count.  Its last two digits are looked up: 0.1 µs less."""
    prefix = b"req_" + os.urandom(6).hex().encode()
    for high in itertools.count():
        start = b"%b%06x" % (prefix, high)
        for low in HEXADECIMAL:
            yield start + low
