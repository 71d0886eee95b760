"""Faults of the server's own processes and of its file: reloads, ends, deaths, one that hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from tests.conversation import Answer, Peer
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
)
from tests.gateway_process import request, worker_of

# How long somebody waits for a worker that hangs before it counts as lost.
HANG_S = 10.0
REVOKED = (("user1", "revoked = true"), ("user2", ""))
BOTH = (("user1", ""), ("user2", ""))


# ---------------------------------------------------------------- reloads


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


async def waiting(server: Server, ledger: Ledger, key: str) -> asyncio.Task[Answer]:
    """A request on a connection of its own, and its answer to come."""
    client = await server.client()
    await client.send(request(key=key, X_Number=ledger.number()))
    return asyncio.create_task(client.answer())


async def ask(client: Peer, ledger: Ledger) -> Answer:
    await client.send(request(X_Number=ledger.number()))
    return await client.answer()


# ---------------------------------------------------------------- the end


async def drain(server_of: type[Server], size: Size) -> Outcome:
    """SIGTERM (nginx: SIGQUIT) under clients who keep their connections, clients who don't, and
    streams: whoever was let in has a whole answer."""
    ledger = Ledger()
    async with await ledger.upstream() as mock, server_of(Site((mock.port,))) as server:
        fresh = Traffic(server, ledger, Connection="close")
        await fresh.run(CLIENTS, least=WARM)
        kept, streams = await busy(server, ledger, 2.0)
        asked_s = time.monotonic()
        server.signal(server.drain_signal)
        await kept.gone()
        await fresh.gone()
        outcome = await outcome_of(ledger, kept, fresh, streams=streams)
        status = await server.ends()
        outcome.note = f"ended after {time.monotonic() - asked_s:.1f} s"
        outcome.expect(status == 0, f"exit status {status}")
        refused = kept.refused + fresh.refused
        outcome.expect(refused == 2 * CLIENTS, f"{refused} clients saw the port closed")
        if isinstance(server, Aigw):
            logged, answered = len(server.access()), kept.answered + fresh.answered + streams.whole
            outcome.expect(logged == answered, f"{logged} lines for {answered} answers")
        return outcome


# ---------------------------------------------------------------- deaths


async def kill_worker(server_of: type[Server], size: Size) -> Outcome:
    """kill -9: what it was answering falls, and nothing else; buckets and counters stay."""
    ledger = Ledger()
    keys = (("user1", ""), ("limited", "rpm = 1\nburst = 3"))
    async with (
        await ledger.upstream() as mock,
        server_of(Site((mock.port,), keys=keys)) as server,
    ):
        limited = [await server.ask(request(key="limited")) for _ in range(4)]
        traffic, streams = await busy(server, ledger, 2.0)
        lives, held = set(traffic.workers), list(traffic.at.values())
        killed_s = time.monotonic()
        os.kill(server.workers()[0], signal.SIGKILL)
        await traffic.until(lambda: traffic.workers - lives)
        recovered_s = min(traffic.first_s[new] for new in traffic.workers - lives) - killed_s
        await traffic.more(WARM)
        outcome = await outcome_of(ledger, traffic, streams=streams)
        outcome.recovered_s = recovered_s
        victims = set(traffic.fell_at) | set(streams.fell_at)
        outcome.expect(len(victims) <= 1, f"connections of {len(victims)} lives fell")
        outcome.may_fall = sum(
            held.count(victim) + streams.running_at(victim) for victim in victims
        )
        outcome.note = f"{outcome.may_fall} connections at that worker"
        if isinstance(server, Aigw):
            await counted_once(server, outcome, traffic, streams)
            statuses = [answer.status for answer in limited]
            outcome.expect(statuses == [200, 200, 200, 429], f"a bucket of 3 gave {statuses}")
            await still_limited(server, outcome)
            running = await server.metric("requests_in_flight")
            outcome.expect(running == 0, f"{running:g} still count as running")
        return outcome


async def still_limited(server: Aigw, outcome: Outcome) -> None:
    """An empty bucket is empty at each worker."""
    for client in await server.one_for_each_worker(2):
        await client.send(request(key="limited"))
        status = (await client.answer()).status
        outcome.expect(status == 429, f"an empty bucket gave {status}")


async def kill_controller(server_of: type[Server], size: Size) -> Outcome:
    """kill -9, twice, once just after a reload: clients notice nothing."""
    ledger = Ledger()
    async with await ledger.upstream() as mock, Aigw(Site((mock.port,))) as server:
        traffic, streams = await busy(server, ledger, 3.0)
        took_s, forgotten = [], 0
        for lives in (2, 3):
            before = await server.metric("requests_total")
            killed_s = time.monotonic()
            os.kill(server.controller(), signal.SIGKILL)
            forgotten += await server.metric("requests_total") < before
            took_s.append(time.monotonic() - killed_s)
            await server.expect("controller started", lives)
            await server.reload()
            await traffic.more(100)
        outcome = await outcome_of(ledger, traffic, streams=streams)
        outcome.recovered_s = max(took_s)
        outcome.expect(forgotten == 0, "a successor has forgotten requests")
        version = await server.metric("policy_version")
        outcome.expect(version == 3, f"policy {version:g} after two reloads")
        reloads = await server.metric("reloads_total", result="ok")
        outcome.expect(reloads == 2, f"{reloads:g} reloads counted")
        await all_is_well(server, outcome, traffic, streams)
        return outcome


async def kill_master(server_of: type[Server], size: Size) -> Outcome:
    """kill -9: the workers finish what they have, let nobody new in, and end."""
    ledger = Ledger()
    async with await ledger.upstream() as mock, Aigw(Site((mock.port,))) as server:
        fresh = Traffic(server, ledger, Connection="close")
        await fresh.run(CLIENTS, least=WARM)
        traffic, streams = await busy(server, ledger, 2.0)
        killed_s = time.monotonic()
        server.signal(signal.SIGKILL)
        await traffic.gone()
        await fresh.gone()
        outcome = await outcome_of(ledger, traffic, fresh, streams=streams)
        status = await server.ends()
        outcome.note = f"all processes ended after {time.monotonic() - killed_s:.1f} s"
        outcome.expect(status == -signal.SIGKILL, f"exit status {status}")
        logged, answered = len(server.access()), traffic.answered + fresh.answered + streams.whole
        outcome.expect(logged == answered, f"{logged} lines for {answered} answers")
        return outcome


async def stop_worker(server_of: type[Server], size: Size) -> Outcome:
    """SIGSTOP: a worker that hangs. Recovered is when all who wait in its queue are answered."""
    ledger = Ledger()
    async with await ledger.upstream() as mock, server_of(Site((mock.port,))) as server:
        traffic = Traffic(server, ledger)
        await traffic.run(CLIENTS, least=WARM)
        lives, held = set(traffic.workers), list(traffic.at.values())
        victim = server.workers()[0]
        stopped_s = time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        queued = [await waiting(server, ledger, "user1") for _ in range(40)]
        done, hanging = await asyncio.wait(queued, timeout=HANG_S)
        recovered_s = None if hanging else time.monotonic() - stopped_s
        if hanging:  # nobody has ended it, so somebody has to
            os.kill(victim, signal.SIGCONT)
            await asyncio.wait(hanging)
        await traffic.more(WARM)
        outcome = await outcome_of(ledger, traffic)
        outcome.lost += len(hanging) + sum(not task.result().whole for task in done)
        outcome.may_fall = sum(held.count(fallen) for fallen in set(traffic.fell_at))
        outcome.recovered_s = recovered_s
        outcome.expect(len(traffic.fell_at) <= 1, f"connections of {len(traffic.fell_at)} fell")
        if isinstance(server, Aigw):
            await server.expect(rf"\(pid {victim}\) hangs for [\d.]+ s: killed")
            await server.expect("worker 0 started", 2)
            heirs = {worker_of(task.result()) for task in done} - lives
            outcome.expect(len(heirs) == 1, "the queue was not answered by a successor")
            stuck = await server.metric("worker_restarts_total", reason="stuck")
            outcome.expect(stuck == 1, f"{stuck:g} restarts counted")
        return outcome
