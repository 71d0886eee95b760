"""What aigw's own counters must say after a fault, beside what the clients have seen."""

from __future__ import annotations

from tests.faults.outcome import Outcome
from tests.faults.servers import Aigw
from tests.faults.traffic import Streams, Traffic


async def all_is_well(server: Aigw, outcome: Outcome, traffic: Traffic, streams: Streams) -> None:
    """No worker has ended, and each request is counted once."""
    restarts = await server.metric("worker_restarts_total")
    outcome.expect(restarts == 0, f"{restarts:g} workers restarted")
    await counted_once(server, outcome, traffic, streams)


async def counted_once(server: Aigw, outcome: Outcome, traffic: Traffic, streams: Streams) -> None:
    """Shared counters hold what clients have seen, but for what may have fallen."""
    answered = traffic.statuses[200] + streams.whole
    counted = await server.metric("requests_total", code="200")
    outcome.expect(
        abs(counted - answered) <= outcome.may_fall, f"{counted:g} counted, {answered} answered"
    )
