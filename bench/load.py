"""The load generator: a fixed rate (open loop) or a fixed number of connections (closed loop).

`python -m bench.load --url http://127.0.0.1:8080/v1/chat/completions --rate 1000`

Open loop: request i is due at start + i × interval, whatever the server does; its latency counts
from then, also while it waits for a free connection, and a request that is never answered counts
with its age at the end. So a server that stalls for a second shows that second in the percentiles
(nothing is omitted in coordination with the server: Gil Tene, "How NOT to Measure Latency").
Closed loop: each connection sends its next request when its last one is answered. That measures
throughput and CPU per request; its latencies are those of a saturated server, no more.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvloop

from aigw.mock.heads import STYLES
from bench.client import LoadConnection, Recorder
from bench.report import LoadResult, load_table, percentiles
from bench.request import VARIATIONS, RequestMaker, RequestPlan
from bench.ticker import Ticker

GRACE_S = 5.0  # how long the last answers are awaited
RECONNECT_S = 0.05
FINEST_TICK_NS = 200_000  # waking more often would cost the machine more than it tells


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One run. The closed loop ends after `seconds` or `requests`, whichever comes first."""

    host: str
    port: int
    request: RequestPlan = RequestPlan()
    mix: tuple[RequestPlan, ...] = ()  # requests in turn, instead of `request`; whole streams only
    rate: float = 0.0  # per second; 0: closed loop
    connections: int = 64
    seconds: float = 10.0
    requests: int = 0  # closed loop only; 0: no limit
    expect: tuple[int, ...] = (200,)
    spread_s: float = 0.0  # closed loop: the connections begin one after the other in this time
    grace_s: float = GRACE_S


class LoadError(Exception):
    """The load could not even begin."""


class Load:
    """What both loops share: connections that are opened, replaced and closed."""

    mode = ""

    def __init__(self, plan: LoadPlan) -> None:
        self.plan = plan
        self.recorder = Recorder()
        self.maker = RequestMaker(plan.mix or (plan.request,))
        self.connections: set[LoadConnection] = set()
        self.finished = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = False

    async def run(self) -> LoadResult:
        plan = self.plan
        await self._connect_all()
        started_ns = time.monotonic_ns()
        self.start(started_ns)
        try:
            async with asyncio.timeout(plan.seconds + plan.grace_s):
                await self.finished.wait()
        except TimeoutError:
            self._count_unanswered()
        seconds = (time.monotonic_ns() - started_ns) / 1e9
        await self._close()
        return self._result(seconds)

    def start(self, started_ns: int) -> None:
        raise NotImplementedError

    def free(self, connection: LoadConnection) -> None:
        """A connection may take a request."""
        raise NotImplementedError

    def settled(self) -> None:
        """A request has come to its end, good or bad."""
        raise NotImplementedError

    def waiting(self) -> list[int]:
        """When the requests were due that have no connection yet."""
        return []

    def answered(self, connection: LoadConnection) -> None:
        self.settled()
        if connection.usable:
            self.free(connection)
        else:
            connection.close()

    def lost(self, connection: LoadConnection) -> None:
        if self._over:
            return
        self.connections.discard(connection)
        if connection.failed:
            self.settled()
        task = self._loop.create_task(self._reconnect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_all(self) -> None:
        plan = self.plan
        attempts = (self._connect() for _ in range(plan.connections))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        if not self.connections:
            raise LoadError(f"no connection to {plan.host}:{plan.port}: {outcomes[0]}")
        missing = plan.connections - len(self.connections)
        if missing:
            self.recorder.errors["connect"] += missing

    async def _connect(self) -> LoadConnection:
        plan = self.plan
        stream = plan.request.stream and not plan.mix
        _, connection = await self._loop.create_connection(
            lambda: LoadConnection(self, self.recorder, plan.expect, stream), plan.host, plan.port
        )
        self.connections.add(connection)
        return connection

    async def _reconnect(self) -> None:
        while not self._over:
            try:
                connection = await self._connect()
            except OSError:
                self.recorder.errors["connect"] += 1
                await asyncio.sleep(RECONNECT_S)
            else:
                self.free(connection)
                return

    def _count_unanswered(self) -> None:
        now_ns = time.monotonic_ns()
        under_way = [c.scheduled_ns for c in self.connections if c.scheduled_ns]
        for due_ns in [*under_way, *self.waiting()]:
            self.recorder.errors["unanswered"] += 1
            self.recorder.latency_ns.append(now_ns - due_ns)

    async def _close(self) -> None:
        self._over = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            connection.scheduled_ns = 0  # what is broken off now was counted as unanswered
            connection.close()
        await asyncio.sleep(0)  # lets the transports go, or they warn of it

    def _result(self, seconds: float) -> LoadResult:
        recorder = self.recorder
        return LoadResult(
            mode=self.mode,
            rate_wanted=self.plan.rate,
            connections=self.plan.connections,
            seconds=round(seconds, 4),
            answers=recorder.answers,
            answers_per_second=round(recorder.answers / seconds, 1),
            latency=percentiles(recorder.latency_ns),
            first_byte=percentiles(recorder.first_byte_ns),
            chunk_delay=percentiles(recorder.chunk_delay_ns),
            late=percentiles(recorder.late_ns),
            body_bytes=recorder.body_bytes,
            errors=dict(recorder.errors),
        )


class ClosedLoop(Load):
    mode = "closed"

    def start(self, started_ns: int) -> None:
        self._end_ns = started_ns + round(self.plan.seconds * 1e9)
        self._left = self.plan.requests or sys.maxsize
        self._under_way = 0
        step_s = self.plan.spread_s / self.plan.connections
        for number, connection in enumerate(list(self.connections)):
            if step_s:
                self._loop.call_later(number * step_s, self.free, connection)
            else:
                self.free(connection)

    def free(self, connection: LoadConnection) -> None:
        now_ns = time.monotonic_ns()
        if self._left and now_ns < self._end_ns:
            self._left -= 1
            self._under_way += 1
            connection.send(self.maker.next(), now_ns)
        elif not self._under_way:
            self.finished.set()

    def settled(self) -> None:
        self._under_way -= 1


class OpenLoop(Load):
    mode = "open"

    def start(self, started_ns: int) -> None:
        self._started_ns = started_ns
        self._total = self._left = max(1, round(self.plan.rate * self.plan.seconds))
        self._due = 0
        self._queue: deque[int] = deque()
        self._free = list(self.connections)
        self._interval_ns = round(1e9 / self.plan.rate)
        self._ticker = Ticker(started_ns, max(self._interval_ns, FINEST_TICK_NS), self._tick)

    def _due_ns(self, number: int) -> int:
        return self._started_ns + number * self._interval_ns

    def _tick(self) -> None:
        """Sends, or queues, all that is due."""
        now_ns = time.monotonic_ns()
        while self._due < self._total and (due_ns := self._due_ns(self._due)) <= now_ns:
            self._due += 1
            if connection := self._take():
                self.recorder.late_ns.append(now_ns - due_ns)
                connection.send(self.maker.next(), due_ns)
            else:
                self._queue.append(due_ns)
        if self._due == self._total:
            self._ticker.close()

    def _take(self) -> LoadConnection | None:
        """The connection that was used last, as a client's pool would."""
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                return connection
        return None

    def free(self, connection: LoadConnection) -> None:
        if self._queue:
            connection.send(self.maker.next(), self._queue.popleft())
        else:
            self._free.append(connection)

    def settled(self) -> None:
        self._left -= 1
        if not self._left:
            self.finished.set()

    def waiting(self) -> list[int]:
        not_yet = [self._due_ns(i) for i in range(self._due, self._total)]
        return [*self._queue, *not_yet]

    async def _close(self) -> None:
        self._ticker.close()
        await super()._close()


async def run_load(plan: LoadPlan) -> LoadResult:
    """One run on the running loop. Raises LoadError if nobody listens."""
    load = OpenLoop(plan) if plan.rate else ClosedLoop(plan)
    collecting = gc.isenabled()
    gc.disable()  # a collection would be measured as the server's
    try:
        return await load.run()
    finally:
        if collecting:
            gc.enable()


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1/chat/completions")
    parser.add_argument("--key", default="sk-gw")
    parser.add_argument("--rate", type=float, default=0, help="requests/s; without: closed loop")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--requests", type=int, default=0, help="closed loop: at most so many")
    parser.add_argument("--warmup", type=float, default=1, help="seconds that don't count")
    parser.add_argument("--body-bytes", type=int, default=600)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--chunks", type=int, default=100, help="of a stream, from the mock")
    parser.add_argument("--spacing-ms", type=int, default=10, help="between them")
    parser.add_argument("--vary", choices=VARIATIONS, default="same", help="heads differ")
    parser.add_argument("--answer-heads", choices=STYLES, default="plain", help="of the mock")
    parser.add_argument("--expect", type=int, default=200, help="the status that is right")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    return parser.parse_args(argv)


def plan_from(options: argparse.Namespace) -> LoadPlan:
    url = urlsplit(options.url)
    return LoadPlan(
        host=url.hostname or "127.0.0.1",
        port=url.port or 80,
        request=RequestPlan(
            host=url.netloc,
            path=url.path or "/",
            key=options.key,
            body_bytes=options.body_bytes,
            stream=options.stream,
            chunks=options.chunks,
            spacing_ms=options.spacing_ms,
            vary=options.vary,
            answer_heads=options.answer_heads,
        ),
        rate=options.rate,
        connections=options.connections,
        seconds=options.seconds,
        requests=options.requests,
        expect=(options.expect,),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """0 if each request was answered, 1 if there were errors, 2 if nobody listened."""
    options = arguments(argv)
    plan = plan_from(options)
    try:
        if options.warmup:
            uvloop.run(run_load(msgspec.structs.replace(plan, seconds=options.warmup)))
        result = uvloop.run(run_load(plan))
    except LoadError as error:
        print(error, file=sys.stderr)
        return 2
    print(load_table(result))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return 1 if result.errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
