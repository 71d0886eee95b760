"""Faults around a reload: several in a row, a broken file, withdrawn keys, ten thousand of them."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from tests.conversation import Answer, Peer
from tests.faults.counting import all_is_well
from tests.faults.outcome import Outcome
from tests.faults.servers import Aigw, Server, Site
from tests.faults.traffic import (
    CLIENTS,
    STREAMS,
    WARM,
    Ledger,
    Size,
    Streams,
    Traffic,
    busy,
    outcome_of,
    waiting,
)
from tests.gateway_process import request

REVOKED = (("user1", "revoked = true"), ("user2", ""))
BOTH = (("user1", ""), ("user2", ""))
MANY_KEYS = 10_000
# What a request may wait beyond a calm moment while a worker loads them: 20 ms of work, several
# times that on a busy machine; a worker that read the file for itself would take 0.6 s of work.
PAUSE_S = 0.3


async def reload(server_of: type[Server], size: Size) -> Outcome:
    """Four reloads in a row, each to the other upstream, under requests and streams."""
    ledger = Ledger()
    async with (
        await ledger.upstream() as first,
        await ledger.upstream() as second,
        server_of(Site((first.port,))) as server,
    ):
        traffic, streams = await busy(server, ledger, size.streams_s)
        began_s, took_s, stale = time.monotonic(), [], 0
        for round_ in range(4):
            mock = first if round_ % 2 else second
            asked_s = time.monotonic()
            await server.put_in_force(Site((mock.port,)))
            took_s.append(time.monotonic() - asked_s)
            before = mock.provider.answered
            await traffic.more(100)
            # Answers to requests that were under way count here, too.
            stale += mock.provider.answered - before < 100 - CLIENTS
            next_s = began_s + (round_ + 1) * size.reloads_s / 4
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        reloaded_s = time.monotonic() - began_s
        outcome = await outcome_of(ledger, traffic, streams=streams)
        outcome.recovered_s = max(took_s)
        outcome.note = f"4 reloads in {reloaded_s:.1f} s"
        if isinstance(server, Aigw):
            outcome.expect(stale == 0, f"the old upstream was still asked after {stale} reloads")
            await all_is_well(server, outcome, traffic, streams)
        return outcome


async def broken_file(server_of: type[Server], size: Size) -> Outcome:
    """A reload with a file that cannot be read changes nothing."""
    ledger = Ledger()
    async with await ledger.upstream() as mock, server_of(Site((mock.port,))) as server:
        traffic, streams = await busy(server, ledger, 2.0)
        refused = await server.refuses_to_reload()
        await traffic.more(WARM)
        outcome = await outcome_of(ledger, traffic, streams=streams)
        outcome.expect(refused, "the reload was not refused with a reason")
        if isinstance(server, Aigw):
            outcome.expect(await server.metric("policy_version") == 1, "another policy in force")
        return outcome


async def revoked_key(server_of: type[Server], size: Size) -> Outcome:
    """Recovered is who is refused: from the signal until the last request of a revoked key."""
    ledger = Ledger()
    async with (
        await ledger.upstream() as mock,
        server_of(Site((mock.port,), keys=BOTH)) as server,
    ):
        other = Traffic(server, ledger, key="user2")
        await other.run(CLIENTS, least=WARM)
        traffic, streams = await busy(server, ledger, 2.0)
        asked_s = time.monotonic()
        # nginx knows no revoked keys, but forgets those that its map no longer has.
        keys = REVOKED if server.name == "aigw" else REVOKED[1:]
        await server.put_in_force(Site((mock.port,), keys=keys))
        in_force_s = time.monotonic()
        await traffic.more(WARM)
        outcome = await outcome_of(ledger, traffic, other, streams=streams)
        outcome.recovered_s = traffic.last_s[200] - asked_s
        outcome.expect(traffic.statuses[401] >= WARM / 2, "hardly anybody was refused")
        outcome.expect(set(other.statuses) == {200}, "the other key suffered")
        # An answer that had begun before may end after.
        late_s = traffic.last_s[200] - in_force_s
        outcome.expect(late_s < 0.5, f"admitted {late_s:.2f} s after the reload was in force")
        return outcome


async def revoked_key_at_a_hanging_worker(server_of: type[Server], size: Size) -> Outcome:
    """A worker that hangs through a reload admits nobody under the old policy, even when it wakes
    up again; its streams go on then, its queue is its successor's."""
    ledger = Ledger()
    async with await ledger.upstream() as mock, Aigw(Site((mock.port,), keys=BOTH)) as server:
        late_pid = server.workers()[0]
        clients = await server.one_for_each_worker(2)
        streams = Streams(server, ledger, STREAMS, 4.0, key="user2")
        await streams.begin()
        os.kill(late_pid, signal.SIGSTOP)
        stopped_s = time.monotonic()
        queued = [await waiting(server, ledger, "user2") for _ in range(20)]
        asking = {client: asyncio.create_task(ask(client, ledger)) for client in clients}
        awake, _ = await asyncio.wait(asking.values(), return_when=asyncio.FIRST_COMPLETED)
        mine = next(client for client, task in asking.items() if task in awake)
        server.write(server.text(Site((mock.port,), keys=REVOKED)))
        asked_s = time.monotonic()
        last_s = asked_s
        reloading = asyncio.create_task(server.admin("/reload", "POST"))
        while not reloading.done():
            if (await ask(mine, ledger)).status == 200:
                last_s = time.monotonic()
            await asyncio.sleep(0.01)
        answers = [await answer for answer in queued]
        await asyncio.sleep(max(0.0, stopped_s + 3 - time.monotonic()))
        os.kill(late_pid, signal.SIGCONT)
        waited = await asyncio.gather(*asking.values())
        await server.expect(rf"worker 0 \(pid {late_pid}\) has left: exit status 0")
        outcome = await outcome_of(ledger, streams=streams)
        outcome.lost += sum(not answer.whole for answer in (*answers, *waited))
        outcome.recovered_s = last_s - asked_s
        told = reloading.result().body.replace(b" ", b"").replace(b"\n", b"")
        outcome.expect(b'"late":[0]' in told, f"the reload told {told!r}")
        outcome.expect({a.status for a in answers} == {200}, "its queue was not answered")
        admitted = [answer.status for answer in waited].count(200)
        outcome.expect(admitted <= 1, "admitted under a policy that is not in force")
        for reason, times in (("retired", 1), ("stuck", 0)):
            counted = await server.metric("worker_restarts_total", reason=reason)
            outcome.expect(counted == times, f"{counted:g} restarts counted as {reason}")
        return outcome


async def ask(client: Peer, ledger: Ledger) -> Answer:
    await client.send(request(X_Number=ledger.number()))
    return await client.answer()


async def many_keys(server_of: type[Server], size: Size) -> Outcome:
    """Three reloads of ten thousand keys, each time revoking or admitting the last of them.

    A busy machine makes pauses of its own, now here, now there; one that a reload makes is there
    each time: so the best of the three is what counts.
    """
    ledger = Ledger()
    async with await ledger.upstream() as mock:
        began_s = time.monotonic()
        async with Aigw(Site((mock.port,), keys=keys_with(""))) as server:
            start_s = time.monotonic() - began_s
            traffic = Traffic(server, ledger)
            await traffic.run(CLIENTS, least=WARM)
            clients = await server.one_for_each_worker(2)
            calm_s = await longest_wait(clients, asyncio.create_task(asyncio.sleep(1.0)))
            pauses_s, took_s, statuses = [], [], []
            for last in ("revoked = true", "", "revoked = true"):
                asked_s = time.monotonic()
                site = Site((mock.port,), keys=keys_with(last))
                reloading = asyncio.create_task(server.put_in_force(site))
                pauses_s.append(await longest_wait(clients, reloading))
                took_s.append(time.monotonic() - asked_s)
                statuses.append((await server.ask(request(key=LAST_KEY))).status)
            outcome = await outcome_of(ledger, traffic)
            outcome.recovered_s = max(took_s)
            outcome.note = (
                f"started in {start_s:.2f} s, longest wait {min(pauses_s) * 1e3:.0f} ms in the "
                f"best reload, {calm_s * 1e3:.0f} ms without one"
            )
            outcome.expect(statuses == [401, 200, 401], f"the last key was answered {statuses}")
            outcome.expect(min(pauses_s) < calm_s + PAUSE_S, outcome.note)
            return outcome


LAST_KEY = f"key-{MANY_KEYS - 1}"


def keys_with(last: str) -> tuple[tuple[str, str], ...]:
    """Ten thousand keys, some limited; the last with these lines."""
    lines = ("", "rps = 10", "max_parallel_requests = 8", "rps = 10\nmax_parallel_requests = 8")
    many = [(f"key-{number}", lines[number % 4]) for number in range(MANY_KEYS - 1)]
    return (("user1", ""), *many, (LAST_KEY, last))


async def longest_wait(clients: list[Peer], until: asyncio.Task[None]) -> float:
    """Ask every millisecond on each connection; the longest that an answer took."""

    async def pace(client: Peer) -> float:
        worst_s = 0.0
        while not until.done():
            asked_s = time.monotonic()
            await client.send(request("/health"))
            await client.until(b'"ok"}')
            worst_s = max(worst_s, time.monotonic() - asked_s)
            await asyncio.sleep(0.001)
        return worst_s

    waits = await asyncio.gather(*map(pace, clients))
    await until
    return max(waits)
