"""What is late, and the sweeper that finds it out: one timer a worker instead of one a request.

A deadline is a number on the client's connection: when to look next.  What a look means depends on
the phase of the exchange; the data path only notes when bytes last moved (`touched_s`).  Four times
a second the sweeper compares all deadlines with the clock: 10,000 comparisons take about half a
millisecond, where a timer set and cancelled for each request costs 3-5 µs of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from aigw.errors import Code
from aigw.proxy import accounting
from aigw.proxy.hang_up import hung_up
from aigw.proxy.lag import Lag
from aigw.proxy.phase import Phase
from aigw.proxy.refusal import Refusal

if TYPE_CHECKING:
    from aigw.proxy.client import ClientConnection
    from aigw.proxy.exchange import Exchange
    from aigw.proxy.services import Services

SWEEP_S = 0.25
# While something is under way whose lateness depends on more than one clock: look once a second.
LOOK_S = 1.0


def look(exchange: Exchange, now_s: float) -> None:
    """The exchange's deadline has passed: end it if it is really late, else set the next look."""
    if exchange.phase is Phase.ANSWERING:
        _look_at_answer(exchange, now_s)
    elif exchange.phase is Phase.AWAITING:
        _look_for_first_byte(exchange, now_s)
    elif exchange.client.body_is_paused:
        exchange.held_up_s += LOOK_S  # the client cannot send: its time stands still
        _look_for_first_byte(exchange, now_s)
    else:
        _look_at_upload(exchange, now_s)


def _look_at_answer(exchange: Exchange, now_s: float) -> None:
    """Either the upstream is silent, or the client takes nothing."""
    limit_s = exchange.route_in_use.idle_s
    late = now_s - exchange.touched_s >= limit_s
    if exchange.client_is_full:
        unsent_bytes = exchange.client.unsent_bytes()
        if late and unsent_bytes >= exchange.unsent_bytes:
            exchange.client_lost()
            exchange.client.abort()
            return
        exchange.unsent_bytes = unsent_bytes
        exchange.client.deadline_s = now_s + limit_s
    elif late:
        accounting.attempt_failed(exchange, "idle_timeout")
        exchange.break_off(Code.UPSTREAM_TIMEOUT)
    else:
        exchange.client.deadline_s = exchange.touched_s + limit_s


def _look_for_first_byte(exchange: Exchange, now_s: float) -> None:
    """The upstream takes or gives nothing; a connection under way has a limit of its own."""
    limit_s = exchange.route_in_use.first_byte_s
    if exchange.connecting is None and now_s - exchange.touched_s >= limit_s:
        accounting.attempt_failed(exchange, "first_byte_timeout")
        message = f"The upstream did not answer within {limit_s:g} s."
        exchange.fail(Refusal(Code.UPSTREAM_TIMEOUT, message))
    else:
        exchange.client.deadline_s = min(now_s + LOOK_S, exchange.touched_s + limit_s)


def _look_at_upload(exchange: Exchange, now_s: float) -> None:
    """The client sends too slowly: nothing for a while, or too little on average."""
    route = exchange.route_in_use
    elapsed_s = now_s - exchange.started_s - exchange.held_up_s
    expected_bytes = elapsed_s * route.body_min_rate if elapsed_s > route.body_s else 0
    silence_s = now_s - exchange.touched_s
    if silence_s >= route.body_s or exchange.body.payload_bytes < expected_bytes:
        message = "The request body did not arrive in time."
        exchange.refuse_upload(Refusal(Code.REQUEST_TIMEOUT, message))
    else:
        exchange.client.deadline_s = min(exchange.touched_s + route.body_s, now_s + LOOK_S)


class Sweeper:
    """Ticks the clock, looks at what may be late (the loop itself, too), and runs `chores`, all at
    every sweep."""

    def __init__(self, services: Services, chores: Callable[[float], None]):
        self._services = services
        self._chores = chores
        self._lag = Lag(SWEEP_S)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self._services.loop.call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        self.start()
        services = self._services
        now_s = time.monotonic()
        services.tick(now_s)
        if self._lag.swept(now_s):
            services.set_overloaded(self._lag.is_overloaded)
        _tell(hung_up(services.paused), lambda client: client.hung_up())
        late = [client for client in services.connections if client.deadline_s <= now_s]
        _tell(late, lambda client: client.expire(now_s))
        for group in services.groups():
            group.sweep(now_s)
        self._chores(now_s)


def _tell(clients: list[ClientConnection], what: Callable[[ClientConnection], None]) -> None:
    for client in clients:
        try:
            what(client)
        except Exception as error:  # noqa: BLE001 - one client's fault must not stop the sweep
            client.broke(error)
