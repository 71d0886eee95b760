"""Active health checks: the controller asks each member how it is, all workers read the answer.

A check is `GET path` (behind the member's own path, as requests are), whose status must be as
expected, or with an empty path a mere connect (TCP, and TLS where the member speaks it).  It sends
no credential: a provider that answers 401 is up, which is what the default expectation `<500` says.

`rise` and `fall` keep one lost packet from taking a member out.  A member begins healthy, or as its
bit in shared memory says, so that a restarted controller forgets nothing that matters.  The bit is
written at every check, also when nothing changed, since workers ignore one older than three
intervals: a dead controller takes no member out.  Passive health is the business of `member`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import h11

from aigw.config import status_range
from aigw.errors import in_one_line
from aigw.memory.health import HealthTable
from aigw.policy.compiled import Health, Member, Policy
from aigw.upstreams.connector import ConnectFailure, Connector, Origin, TLSSettings, tls_of

JITTER = 0.1  # of the interval, either way: checks of many gateways must not march in step
HEAD_BYTES = 64 * 1024  # of an answer's head, as `limits.upstream_head_bytes`
HEALTHY, HALF_OPEN, OUT = 0, 1, 2  # as the metric upstream_state shows them

log = logging.getLogger("aigw")


class Standing(NamedTuple):
    """What is believed of a member; `streak` checks in a row have spoken against it."""

    up: bool = True
    streak: int = 0

    @property
    def state(self) -> int:
        """HEALTHY, HALF_OPEN (out, but the last check went well) or OUT."""
        if self.up:
            return HEALTHY
        return HALF_OPEN if self.streak else OUT


def judged(standing: Standing, ok: bool, rise: int, fall: int) -> Standing:
    """The standing after one more check: `rise` good ones bring it up, `fall` bad ones down."""
    if ok == standing.up:
        return Standing(standing.up)
    streak = standing.streak + 1
    if streak >= (rise if ok else fall):
        return Standing(ok)
    return Standing(standing.up, streak)


class Check(NamedTuple):
    """What is to be checked, and how; two that are equal are the same check."""

    upstream: str
    member: Member
    health: Health
    tls: TLSSettings

    @property
    def row(self) -> int:
        """The member's row in shared memory."""
        return self.member.health_row


def checks_of(policy: Policy) -> Iterator[Check]:
    """The checks that a policy asks for."""
    for upstream in policy.upstreams:
        if upstream.health is not None:
            for member in upstream.members:
                yield Check(upstream.name, member, upstream.health, tls_of(upstream))


@dataclass(slots=True)
class _Watch:
    """One check that is being made, time and again, by its task."""

    check: Check
    standing: Standing
    task: asyncio.Task[None] | None = None


class HealthChecks:
    """The checks of all members; `chance` gives a number in [0, 1)."""

    def __init__(self, bits: HealthTable, chance: Callable[[], float]) -> None:
        self._bits = bits
        self._chance = chance
        self._watches: dict[int, _Watch] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def update(self, checks: Iterable[Check]) -> None:
        """Make these checks from now on; a member that was checked before keeps its standing.

        Must be called before the rows of members that are gone are freed.
        """
        wanted = {check.row: check for check in checks}
        for row, watch in list(self._watches.items()):
            if wanted.get(row) != watch.check:
                self._end(watch)
                if row not in wanted:
                    del self._watches[row]
                    self._write(watch.check, Standing())
        for row, check in wanted.items():
            known = self._watches.get(row)
            if known is None or known.check != check:
                self._begin(check, known)

    def state(self, row: int) -> int | None:
        """HEALTHY, HALF_OPEN or OUT; None for a member without an active check."""
        watch = self._watches.get(row)
        return None if watch is None else watch.standing.state

    async def close(self) -> None:
        """End all checks."""
        for watch in self._watches.values():
            self._end(watch)
        self._watches.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _begin(self, check: Check, known: _Watch | None) -> None:
        if known is not None and _member(known.check) == _member(check):
            standing = Standing(known.standing.up)
        else:
            standing = Standing(not self._bits.is_out(check.row, time.monotonic_ns()))
        watch = _Watch(check, standing)
        watch.task = asyncio.create_task(self._run(watch))
        self._watches[check.row] = watch

    def _end(self, watch: _Watch) -> None:
        assert watch.task is not None
        watch.task.cancel()
        self._ending.add(watch.task)
        watch.task.add_done_callback(self._ending.discard)

    async def _run(self, watch: _Watch) -> None:
        check = watch.check
        member = check.member
        scheme: Literal["http", "https"] = "https" if member.scheme == "https" else "http"
        connector = Connector(Origin(scheme, member.host, member.port), check.tls)
        while True:
            started_s = time.monotonic()
            fault = await _fault(check, connector)
            self._judge(watch, fault)
            interval_s = check.health.interval_s * (1 - JITTER + 2 * JITTER * self._chance())
            await asyncio.sleep(max(0.0, started_s + interval_s - time.monotonic()))

    def _judge(self, watch: _Watch, fault: str | None) -> None:
        check, before = watch.check, watch.standing
        watch.standing = judged(before, fault is None, check.health.rise, check.health.fall)
        self._write(check, watch.standing)
        if before.up and not watch.standing.up:
            log.warning("upstream %s: %s is out: %s", check.upstream, check.member.label, fault)
        elif watch.standing.up and not before.up:
            log.info("upstream %s: %s is healthy again", check.upstream, check.member.label)

    def _write(self, check: Check, standing: Standing) -> None:
        # A check may last `timeout`: the bit must not grow old meanwhile.
        interval_ns = int(max(check.health.interval_s, check.health.timeout_s) * 1e9)
        self._bits.set(check.row, standing.up, time.monotonic_ns(), interval_ns)


def _member(check: Check) -> tuple[str, str]:
    return check.upstream, check.member.label


async def _fault(check: Check, connector: Connector) -> str | None:
    """Make one check; None if the member is well, else what was wrong."""
    try:
        async with asyncio.timeout(check.health.timeout_s):
            if check.health.path:
                return await _ask(check, connector)
            await _touch(connector)
            return None
    except TimeoutError:
        return f"no answer within {check.health.timeout_s:g} s"
    except ConnectFailure as failure:
        return f"{failure.reason}: {failure.detail}"
    except OSError as error:
        return str(error)
    except Exception as fault:  # noqa: BLE001 - the edge of a task
        log.error("upstream %s: the health check failed: %s", check.upstream, in_one_line(fault))
        return "internal error"


async def _touch(connector: Connector) -> None:
    """Connect and leave."""
    probe = _Probe(b"")
    try:
        await connector.connect(lambda: probe)
    finally:
        probe.leave()


async def _ask(check: Check, connector: Connector) -> str | None:
    """GET the path; None if the status is as expected."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
    probe = _Probe(_request(check, connection), connection)
    try:
        await connector.connect(lambda: probe)
        status = await probe.status()
    finally:
        probe.leave()
    expect = check.health.expect
    return None if status in status_range(expect) else f"status {status}, not {expect}"


def _request(check: Check, connection: h11.Connection) -> bytes:
    request = h11.Request(
        method="GET",
        target=check.member.base_path + check.health.path.encode(),
        headers=[
            (b"Host", check.member.host_field),
            (b"User-Agent", b"aigw-health"),
            (b"Accept", b"*/*"),
            (b"Connection", b"close"),
        ],
    )
    return connection.send(request) or b""


class _Probe(asyncio.Protocol):
    """One connection: it sends a request and waits for a final status."""

    def __init__(self, request: bytes, connection: h11.Connection | None = None) -> None:
        self._request = request
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._status: asyncio.Future[int | str] = asyncio.get_running_loop().create_future()

    async def status(self) -> int:
        """The status of the final answer; raises OSError where none came."""
        answer = await self._status
        if isinstance(answer, str):
            raise OSError(answer)
        return answer

    def leave(self) -> None:
        """Close; what is still to be read is not wanted.

        Nobody waits until it is closed: uvloop tells the end of a connection only if its beginning
        has not been cancelled, so a check that is late just then would never be made again.
        """
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        if self._request:
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._connection is None or self._status.done():
            return
        try:
            self._connection.receive_data(data)
            event = self._connection.next_event()
            while isinstance(event, h11.InformationalResponse):
                event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            # Without the bytes that h11 quotes: they may echo the credential.
            self._status.set_result(f"not HTTP: {str(error).partition(': b')[0]}")
            return
        if isinstance(event, h11.Response):
            self._status.set_result(event.status_code)

    def eof_received(self) -> None:
        self._end("closed without an answer")

    def connection_lost(self, error: Exception | None) -> None:
        self._end(str(error) if error else "closed without an answer")

    def _end(self, why: str) -> None:
        if not self._status.done():
            self._status.set_result(why)
